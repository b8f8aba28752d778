//! Judging what was seen: pure, so that every rule can be tested without a server.

use std::time::Duration as StdDuration;

use chrono::{DateTime, Duration, Utc};
use pgformat::Lsn;
use replication::SlotState;

use super::repository::RepositorySeen;
use super::server::{ReplicationSeen, ServerSeen, SlotSeen, SqlSeen, Trouble};
use super::{Check, Further, Space, Verdict};
use crate::status;

/// WAL that a slot may still gather before the server gives it up; below this somebody should hurry.
const SAFE_WAL_BYTES_MIN: i64 = 1 << 30;
/// WAL that a slot keeps although somebody streams from it; above this the archive is behind.
const RETAINED_BYTES_MAX: i64 = 4 << 30;
/// We say how far we are every 10 s; a server that gives up on us sooner does so for nothing.
const SENDER_TIMEOUT_MS_MIN: i64 = 20_000;
/// A base backup older than this makes for a long replay.
const BACKUP_AGE_DAYS_MAX: i64 = 8;
/// Free bytes below which nothing can be counted on.
const FREE_BYTES_MIN: u64 = 256 << 20;
/// Free percentage below which somebody should know.
const FREE_PERCENT_MIN: u64 = 10;

/// All that was seen.
pub(super) struct Seen<'a> {
    pub role: &'a str,
    pub application_name: &'a str,
    pub slot: &'a str,
    /// There is no repository at the address.
    pub repository_is_missing: bool,
    pub space: Option<Space>,
    pub further: &'a [Further],
    pub now: DateTime<Utc>,
    /// The newest backup may be so old.
    pub maximum_age: Option<StdDuration>,
    pub server: &'a ServerSeen,
    pub repository: &'a Result<RepositorySeen, Trouble>,
}

/// The checks, in the order in which one would mend what they find.
pub(super) fn judge(seen: &Seen) -> Vec<Check> {
    let mut checks = vec![replication(seen), sql(seen)];
    if let Ok(facts) = &seen.server.sql {
        checks.extend([role(seen, facts), monitoring(seen, facts)]);
    }
    if let Ok(facts) = &seen.server.replication {
        checks.push(version(facts));
    }
    if let Ok(facts) = &seen.server.sql {
        checks.push(wal_level(facts));
        checks.push(headroom(
            "wal_senders",
            "max_wal_senders",
            facts,
            facts.walsenders,
            needed_senders(facts),
        ));
        let slots = i64::try_from(facts.slots.len()).unwrap_or(i64::MAX);
        let needed = i64::from(own_slot(seen, facts).is_none());
        checks.push(headroom("replication_slots", "max_replication_slots", facts, slots, needed));
        checks.push(slot(seen, own_slot(seen, facts)));
        checks.extend([slot_limit(facts), wal_keep_size(facts), full_page_writes(facts), fsync(facts)]);
        checks.extend([recovery(facts), synchronous(seen, facts), sender_timeout(facts)]);
    } else if let Ok(facts) = &seen.server.replication {
        checks.push(slot_without_sql(seen, facts));
    }
    if let Ok(facts) = &seen.server.replication {
        checks.push(data_checksums(facts));
    }
    match seen.repository {
        Ok(repository) => {
            checks.push(repository_use(repository));
            checks.extend(seen.space.map(space));
            if let Ok(facts) = &seen.server.replication {
                checks.push(identity(facts, repository));
            }
            checks.extend([last_backup(seen, repository), continuity(repository)]);
        }
        Err(trouble) if seen.repository_is_missing => checks.push(warning(
            "repository",
            trouble.0.clone(),
            "start `backupd run`, which makes it, or check DRYDOCK_REPOSITORY",
        )),
        Err(trouble) => checks.push(troubled("repository", trouble)),
    }
    checks.extend(seen.further.iter().map(further));
    checks
}

fn ok(name: &'static str, found: impl Into<String>) -> Check {
    Check { name, verdict: Verdict::Ok, found: found.into(), advice: None }
}

fn warning(name: &'static str, found: impl Into<String>, advice: impl Into<String>) -> Check {
    Check { name, verdict: Verdict::Warning, found: found.into(), advice: Some(advice.into()) }
}

fn failed(name: &'static str, found: impl Into<String>, advice: impl Into<String>) -> Check {
    Check { name, verdict: Verdict::Failed, found: found.into(), advice: Some(advice.into()) }
}

fn troubled(name: &'static str, (found, advice): &Trouble) -> Check {
    Check { name, verdict: Verdict::Failed, found: found.clone(), advice: advice.clone() }
}

fn replication(seen: &Seen) -> Check {
    match &seen.server.replication {
        Ok(facts) => ok("replication", format!("{} lets {} stream", facts.server.target, seen.role)),
        Err(trouble) => troubled("replication", trouble),
    }
}

/// Without SQL everything works that keeps data safe, but for noticing synchronous replication at once.
fn sql(seen: &Seen) -> Check {
    match &seen.server.sql {
        Ok(_) => ok("sql", "can ask the server in SQL"),
        Err((found, advice)) if seen.server.replication.is_ok() => Check {
            name: "sql",
            verdict: Verdict::Warning,
            found: format!("cannot ask the server in SQL, so much below could not be seen: {found}"),
            advice: advice.clone(),
        },
        Err(trouble) => troubled("sql", trouble),
    }
}

fn role(seen: &Seen, facts: &SqlSeen) -> Check {
    let role = seen.role;
    if facts.superuser {
        return warning(
            "role",
            format!("{role} is a superuser, which is more than is needed"),
            format!(
                "CREATE ROLE drydock LOGIN REPLICATION; GRANT pg_monitor TO drydock; and use that instead of {role}"
            ),
        );
    }
    if facts.replication_role {
        return ok("role", format!("{role} has REPLICATION and is no superuser"));
    }
    failed(
        "role",
        format!("{role} has no REPLICATION"),
        format!("as a superuser: ALTER ROLE \"{role}\" REPLICATION"),
    )
}

fn monitoring(seen: &Seen, facts: &SqlSeen) -> Check {
    if facts.pg_monitor || facts.superuser {
        return ok("monitoring", "sees the sessions of other roles (pg_monitor)");
    }
    warning(
        "monitoring",
        "cannot see the replication sessions of other roles: pg_monitor is not granted",
        format!("GRANT pg_monitor TO \"{}\"", seen.role),
    )
}

fn version(facts: &ReplicationSeen) -> Check {
    let version = facts.server.version;
    ok("server_version", format!("PostgreSQL {}.{}, which is supported", version / 10_000, version % 10_000))
}

fn setting<'a>(facts: &'a SqlSeen, name: &str) -> &'a str {
    facts.settings.get(name).map_or("", String::as_str)
}

fn number(facts: &SqlSeen, name: &str) -> i64 {
    setting(facts, name).parse().unwrap_or(0)
}

fn wal_level(facts: &SqlSeen) -> Check {
    match setting(facts, "wal_level") {
        level @ ("replica" | "logical") => ok("wal_level", level),
        level => failed("wal_level", level, "set wal_level = replica and restart the server"),
    }
}

/// One for streaming, unless it runs already, and one for a base backup.
fn needed_senders(facts: &SqlSeen) -> i64 {
    1 + i64::from(facts.sync_state.is_none())
}

fn headroom(name: &'static str, of: &str, facts: &SqlSeen, used: i64, needed: i64) -> Check {
    let max = number(facts, of);
    let found = format!("{used} of {max} in use");
    if used + needed > max {
        return failed(
            name,
            format!("{found}, and {needed} more are needed"),
            format!("raise {of} and restart the server"),
        );
    }
    ok(name, found)
}

fn own_slot<'a>(seen: &Seen, facts: &'a SqlSeen) -> Option<&'a SlotSeen> {
    facts.slots.iter().find(|slot| slot.name == seen.slot)
}

/// Whether WAL has been archived before, so that a missing slot is a loss and not a beginning.
fn has_archived(seen: &Seen) -> bool {
    seen.repository.as_ref().is_ok_and(|repository| repository.identity.is_some())
}

fn missing_slot(seen: &Seen) -> Check {
    let found = format!("the server has no slot \"{}\"", seen.slot);
    if has_archived(seen) {
        return failed(
            "slot",
            found,
            "start `backupd run`, which makes it; WAL written since it went may be lost",
        );
    }
    warning("slot", found, "start `backupd run`, which makes it")
}

fn slot(seen: &Seen, slot: Option<&SlotSeen>) -> Check {
    let Some(slot) = slot else { return missing_slot(seen) };
    let name = &slot.name;
    if !slot.physical {
        return failed(
            "slot",
            format!("slot \"{name}\" is logical"),
            "choose another name with REPLICATION_SLOT_NAME",
        );
    }
    match slot.wal_status.as_deref() {
        Some("lost") => {
            return failed(
                "slot",
                format!("the server has given up the WAL of slot \"{name}\""),
                "run `backupd run`, which records the hole and takes a base backup, and raise max_slot_wal_keep_size",
            );
        }
        Some("unreserved") => {
            return failed(
                "slot",
                format!(
                    "slot \"{name}\" is about to be given up by the server: it is behind by more than max_slot_wal_keep_size"
                ),
                "see why `backupd run` does not keep up, and raise max_slot_wal_keep_size meanwhile",
            );
        }
        _ => {}
    }
    let Some(restart) = slot.restart_lsn else {
        return failed(
            "slot",
            format!("slot \"{name}\" keeps no WAL"),
            format!(
                "drop it if nobody else uses it: SELECT pg_drop_replication_slot('{name}'); `backupd run` makes it again"
            ),
        );
    };
    kept(seen, slot, restart)
}

fn kept(seen: &Seen, slot: &SlotSeen, restart: Lsn) -> Check {
    let retained = slot.retained_bytes.unwrap_or(0).max(0);
    let found = format!("slot \"{}\" keeps {} of WAL, from {restart}", seen.slot, size(retained));
    if !slot.active {
        return failed(
            "slot",
            format!("{found}, but nobody streams from it, so no WAL is archived"),
            "start `backupd run`; meanwhile WAL gathers on the server's disk",
        );
    }
    if let Some(safe) = slot.safe_wal_size.filter(|safe| *safe < SAFE_WAL_BYTES_MIN) {
        return warning(
            "slot",
            format!("{found}; after {} more the server gives it up", size(safe.max(0))),
            "see why `backupd run` does not keep up, or raise max_slot_wal_keep_size",
        );
    }
    if retained > RETAINED_BYTES_MAX {
        return warning(
            "slot",
            format!("{found}, so the archive is far behind"),
            "see whether the repository is slow or full: `backupctl status` and the log of `backupd run`",
        );
    }
    ok("slot", format!("{found}, and is in use"))
}

fn slot_without_sql(seen: &Seen, facts: &ReplicationSeen) -> Check {
    match facts.slot {
        SlotState::Missing => missing_slot(seen),
        SlotState::Unsupported => {
            warning("slot", "cannot be seen without SQL before PostgreSQL 15", "let the role log in for SQL")
        }
        SlotState::Physical { restart_lsn: None, .. } => failed(
            "slot",
            format!("slot \"{}\" keeps no WAL", seen.slot),
            "drop it if nobody else uses it; `backupd run` makes it again",
        ),
        SlotState::Physical { restart_lsn: Some(restart), .. } => {
            ok("slot", format!("slot \"{}\" keeps WAL from {restart}", seen.slot))
        }
    }
}

fn slot_limit(facts: &SqlSeen) -> Check {
    match number(facts, "max_slot_wal_keep_size") {
        -1 => ok(
            "max_slot_wal_keep_size",
            "unlimited: while nobody archives, WAL gathers until the server's disk is full",
        ),
        megabytes if megabytes < 1024 => warning(
            "max_slot_wal_keep_size",
            format!("{megabytes} MB: a short pause of archiving already loses WAL"),
            "raise it to what the server's disk can spare",
        ),
        megabytes => {
            ok("max_slot_wal_keep_size", format!("{megabytes} MB: archiving may be behind by as much"))
        }
    }
}

fn wal_keep_size(facts: &SqlSeen) -> Check {
    ok("wal_keep_size", format!("{} MB; the slot keeps what is needed", number(facts, "wal_keep_size")))
}

fn full_page_writes(facts: &SqlSeen) -> Check {
    if setting(facts, "full_page_writes") == "off" {
        return warning(
            "full_page_writes",
            "off: a crash can leave torn pages on the server, and no backup can be taken from a standby",
            "set full_page_writes = on",
        );
    }
    ok("full_page_writes", "on")
}

fn fsync(facts: &SqlSeen) -> Check {
    if setting(facts, "fsync") == "off" {
        return warning("fsync", "off: a crash of the machine can destroy the cluster", "set fsync = on");
    }
    ok("fsync", "on")
}

fn recovery(facts: &SqlSeen) -> Check {
    if facts.in_recovery {
        return warning(
            "recovery_state",
            "the server is a standby, so WAL reaches us later than it reaches the primary",
            "point REPLICATION_HOST at the primary",
        );
    }
    ok("recovery_state", "the server is a primary")
}

fn synchronous(seen: &Seen, facts: &SqlSeen) -> Check {
    let names = setting(facts, "synchronous_standby_names");
    let us = seen.application_name;
    let commit = setting(facts, "synchronous_commit");
    match facts.sync_state.as_deref() {
        Some("sync" | "quorum") if commit == "off" || commit == "local" => warning(
            "synchronous",
            format!("commits could wait for {us}, but synchronous_commit is {commit}, so they do not"),
            "set synchronous_commit = on where nothing may be lost",
        ),
        Some("sync" | "quorum") => {
            ok("synchronous", format!("commits wait for {us}: nothing is lost with the server"))
        }
        Some("potential") => {
            ok("synchronous", format!("{us} takes over when another synchronous standby fails"))
        }
        _ if names.is_empty() => ok(
            "synchronous",
            format!("commits do not wait for {us}: the last moment is lost with the server"),
        ),
        Some(_) => ok("synchronous", format!("commits wait for \"{names}\", which does not name {us}")),
        None => ok("synchronous", format!("commits wait for \"{names}\", and {us} does not stream now")),
    }
}

fn sender_timeout(facts: &SqlSeen) -> Check {
    match number(facts, "wal_sender_timeout") {
        0 => warning(
            "wal_sender_timeout",
            "0: the server never notices that a receiver is gone, and the slot stays taken",
            "set wal_sender_timeout = 60s",
        ),
        ms if ms < SENDER_TIMEOUT_MS_MIN => warning(
            "wal_sender_timeout",
            format!("{ms} ms: the server gives up on a receiver that is only slow"),
            "set wal_sender_timeout = 60s",
        ),
        ms => ok("wal_sender_timeout", format!("{} s", ms / 1000)),
    }
}

fn data_checksums(facts: &ReplicationSeen) -> Check {
    if facts.server.data_checksums {
        return ok("data_checksums", "on: every backup checks every page");
    }
    warning(
        "data_checksums",
        "off: corruption on the server's disk is backed up unnoticed",
        "enable them with pg_checksums --enable while the server is stopped",
    )
}

fn repository_use(repository: &RepositorySeen) -> Check {
    match &repository.probe {
        None => ok("repository", format!("{} can be written and read", repository.address)),
        Some(trouble) => troubled("repository", trouble),
    }
}

/// Without a required one, nothing is acknowledged; one that may lag is only a copy less.
fn further(further: &Further) -> Check {
    let Further { address, required, used } = further;
    let Err(error) = used else {
        return ok("further_repository", format!("{address} can be written and read"));
    };
    let (verdict, means) = if *required {
        (Verdict::Failed, "nothing is acknowledged without it")
    } else {
        (Verdict::Warning, "it may lag, and does")
    };
    let found = format!("{address}: {}; {means}", crate::chain(error));
    let advice = error.hint().unwrap_or_else(|| "see that it can be reached and written to".to_owned());
    Check { name: "further_repository", verdict, found, advice: Some(advice) }
}

fn space(space: Space) -> Check {
    let Space { free_bytes, total_bytes } = space;
    let percent = free_bytes.saturating_mul(100).checked_div(total_bytes).unwrap_or(100);
    let bytes = |bytes: u64| size(i64::try_from(bytes).unwrap_or(i64::MAX));
    let found = format!("{} free of {} ({percent} %)", bytes(free_bytes), bytes(total_bytes));
    let advice = "make room in the repository, or give it more; WAL waits on the server meanwhile";
    if free_bytes < FREE_BYTES_MIN {
        return failed("repository_space", found, advice);
    }
    if percent < FREE_PERCENT_MIN {
        return warning("repository_space", found, advice);
    }
    ok("repository_space", found)
}

fn identity(facts: &ReplicationSeen, repository: &RepositorySeen) -> Check {
    let server = &facts.server;
    let Some(identity) = &repository.identity else {
        return ok(
            "identity",
            format!("nothing of this cluster is archived yet; it is {}", server.system_identifier),
        );
    };
    let pairs = [
        ("system identifier", server.system_identifier, identity.system_identifier),
        ("PostgreSQL major version", u64::from(server.major.number()), u64::from(identity.postgresql_major)),
        ("WAL segment size", server.segment_size.bytes(), identity.segment_size),
        ("block size", u64::from(server.block_size), u64::from(identity.block_size)),
    ];
    match pairs.into_iter().find(|(_, server, repository)| server != repository) {
        None => ok(
            "identity",
            format!("server and repository are the same cluster, {}", server.system_identifier),
        ),
        Some((what, server, repository)) => failed(
            "identity",
            format!("the server's {what} is {server}, and the repository's is {repository}"),
            "point at a server of this cluster, or choose another cluster name with DRYDOCK_CLUSTER",
        ),
    }
}

fn last_backup(seen: &Seen, repository: &RepositorySeen) -> Check {
    if let Some(unreadable) = repository.unreadable.first() {
        return failed(
            "last_backup",
            format!("{} records cannot be read: {unreadable}", repository.unreadable.len()),
            "run `backupctl verify`, and take a new backup",
        );
    }
    let Some(last) = repository.records.last() else {
        let (found, advice) = ("there is no backup", "take one with `backupctl backup`");
        return if has_archived(seen) {
            failed("last_backup", found, advice)
        } else {
            warning("last_backup", found, "start `backupd run`, then take one with `backupctl backup`")
        };
    };
    let age = seen.now.signed_duration_since(last.finished_at);
    let found = format!("{}, {} hours ago", last.id, age.num_hours().max(0));
    if last.corrupt_pages_total > 0 {
        return failed(
            "last_backup",
            format!("{found}, has {} pages that are corrupt on the server", last.corrupt_pages_total),
            format!("`backupctl show {}` lists them; mend the server's tables, or restore them", last.id),
        );
    }
    if let Some(most) = seen.maximum_age.filter(|most| age.to_std().is_ok_and(|age| age > *most)) {
        let found = format!("{found}: that is more than backup.maximum_age, {} hours", most.as_secs() / 3600);
        return failed("last_backup", found, "take one with `backupctl backup`, and see why none was taken");
    }
    if seen.maximum_age.is_none() && age > Duration::days(BACKUP_AGE_DAYS_MAX) {
        return warning("last_backup", found, "take one with `backupctl backup`, and regularly");
    }
    ok("last_backup", found)
}

fn continuity(repository: &RepositorySeen) -> Check {
    if let Some(gap) = repository.gaps.first() {
        return failed(
            "wal_continuity",
            format!("WAL of {gap} is not there, and no hole explains it"),
            "run `backupctl verify`; take a new backup if it stays",
        );
    }
    if let Some(hole) = status::hole_needs_backup(&repository.holes, &repository.records) {
        return failed(
            "wal_continuity",
            format!(
                "hole: WAL of timeline {} from {} to {} is missing, and no backup lies behind it",
                hole.timeline, hole.from, hole.to
            ),
            "take one with `backupctl backup`",
        );
    }
    match repository.holes.as_slice() {
        [] => ok("wal_continuity", "no WAL is missing"),
        [hole, ..] => warning(
            "wal_continuity",
            format!(
                "{} holes, each with a backup behind it; the first: timeline {} from {} to {}",
                repository.holes.len(),
                hole.timeline,
                hole.from,
                hole.to
            ),
            "nothing within a hole can be restored; nothing else needs to be done",
        ),
    }
}

fn size(bytes: i64) -> String {
    match bytes {
        0..1024 => format!("{bytes} B"),
        1024..1_048_576 => format!("{} kB", bytes >> 10),
        1_048_576..10_737_418_240 => format!("{} MB", bytes >> 20),
        _ => format!("{} GB", bytes >> 30),
    }
}

#[cfg(test)]
mod tests;
