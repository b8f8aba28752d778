//! Status: how things stand, from the repository and, where it can be reached, the server.

mod cluster;
mod written;

use std::collections::BTreeSet;
use std::time::Duration;

use chrono::{DateTime, Utc};
use pgformat::{Lsn, TimelineId};
use replication::{ConnectConfig, SlotState};
use repository::wal::Hole;
use repository::{BackupId, Cluster, Record};
use serde::Serialize;

use crate::catalog::{Catalog, Reach, is_on};
use crate::follow::{FollowConfig, Look, choose};
use crate::server::Server;
use crate::wal::WalPath;
use crate::{Error, expire};

pub use cluster::{Fork, NodeStatus, forks};
pub use written::{Written, written};

/// Segments without a transaction in them that are looked at, from the newest back, for the time of the last one.
const QUIET_SEGMENTS_MAX: u64 = 64;

/// How things stand.
#[derive(Debug, Serialize)]
pub struct Status {
    /// The cluster's name in the repository.
    pub cluster: String,
    /// Where the repository is.
    pub repository: String,
    /// PostgreSQL's identifier of the cluster, as decimal text.
    pub system_identifier: String,
    /// PostgreSQL's major version.
    pub postgresql_major: u16,
    /// How far each timeline is durable.
    pub timelines: Vec<TimelineStatus>,
    /// Where timelines were left for others, on the way to the newest; the oldest first.
    pub forks: Vec<Fork>,
    /// The nodes of the cluster; empty when one server is configured.
    pub nodes: Vec<NodeStatus>,
    /// The server; null when none is configured.
    pub server: Option<ServerStatus>,
    /// Bytes that the server has flushed and that are not durable in the repository; null when the server cannot be
    /// asked or is on another timeline.
    pub lag_bytes: Option<u64>,
    /// How many backups there are.
    pub backups: usize,
    /// The newest.
    pub last_backup: Option<LastBackup>,
    /// Backups whose records cannot be read.
    pub unreadable_backups: Vec<BackupId>,
    /// Backups that say that they run.
    pub running_backups: Vec<RunningBackup>,
    /// What dead backups left; it is removed by itself.
    pub leftovers: LeftoverStatus,
    /// WAL that is known to be missing.
    pub holes: Vec<HoleStatus>,
    /// WAL that is missing without a known cause.
    pub unexplained_gaps: Vec<Gap>,
    /// From when to when one can restore along the newest timeline.
    pub windows: Vec<Window>,
    /// What is wrong and needs somebody.
    pub findings: Vec<String>,
}

/// How far a timeline is durable.
#[derive(Debug, Serialize)]
pub struct TimelineStatus {
    /// The timeline.
    pub timeline: TimelineId,
    /// First byte there is.
    pub oldest_lsn: Option<Lsn>,
    /// First byte that is not durable.
    pub durable_lsn: Option<Lsn>,
}

/// The server, as it answered.
#[derive(Debug, Serialize)]
pub struct ServerStatus {
    /// `host:port`.
    pub target: String,
    /// Whether it could be asked.
    pub reachable: bool,
    /// Why not.
    pub problem: Option<String>,
    /// `server_version_num`.
    pub version: Option<u32>,
    /// The timeline it is on.
    pub timeline: Option<TimelineId>,
    /// How far its WAL is flushed.
    pub flushed_lsn: Option<Lsn>,
    /// Whether `synchronous_standby_names` names us.
    pub synchronous: Option<bool>,
    /// The slot.
    pub slot: Option<SlotStatus>,
    /// PostgreSQL's identifier of its cluster.
    #[serde(skip)]
    pub system_identifier: Option<u64>,
    /// What the problem is, for the exit code.
    #[serde(skip)]
    pub error: Option<Error>,
}

/// The slot, as the server has it.
#[derive(Debug, Serialize)]
pub struct SlotStatus {
    /// Its name.
    pub name: String,
    /// Whether it is there; null when the server cannot say (PostgreSQL 14).
    pub exists: Option<bool>,
    /// WAL is kept from here on.
    pub restart_lsn: Option<Lsn>,
    /// Bytes of WAL it keeps.
    pub retained_bytes: Option<u64>,
}

/// The newest backup.
#[derive(Debug, Serialize)]
pub struct LastBackup {
    /// Its name.
    pub id: BackupId,
    /// When it was finished.
    pub finished_at: DateTime<Utc>,
    /// Seconds since then.
    pub age_seconds: i64,
}

/// A backup that says that it runs.
#[derive(Debug, Clone, Serialize)]
pub struct RunningBackup {
    /// Its name.
    pub id: BackupId,
    /// `host/process id`.
    pub runner: String,
    /// When it began.
    pub started_at: DateTime<Utc>,
    /// When it last said so.
    pub updated_at: DateTime<Utc>,
}

/// What dead backups left.
#[derive(Debug, Default, Serialize)]
pub struct LeftoverStatus {
    /// The backups.
    pub backups: Vec<BackupId>,
    /// Bytes that nothing needs.
    pub bytes: u64,
}

/// A hole, and what it means.
#[derive(Debug, Clone, Serialize)]
pub struct HoleStatus {
    /// The hole.
    #[serde(flatten)]
    pub hole: Hole,
    /// The first backup behind it; null when it needs one.
    pub covered_by: Option<BackupId>,
    /// Whether backups lie before it, so that what can be restored has an interruption.
    pub interrupts: bool,
}

/// WAL that is missing without a known cause.
#[derive(Debug, Serialize)]
pub struct Gap {
    /// The timeline.
    pub timeline: TimelineId,
    /// First missing byte.
    pub from: Lsn,
    /// First byte that is there again.
    pub to: Lsn,
}

/// A stretch of time that can be restored without interruption.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Window {
    /// The end of its oldest backup.
    pub from: DateTime<Utc>,
    /// The same as a position.
    pub from_lsn: Lsn,
    /// Its oldest backup.
    pub oldest_backup: BackupId,
    /// The last transaction whose end is durable; null where the WAL is encrypted and no identity opens it.
    pub to: Option<DateTime<Utc>>,
    /// The end of its WAL.
    pub to_lsn: Lsn,
    /// The timeline that is on.
    pub timeline: TimelineId,
}

/// What to look at.
#[derive(Debug, Clone)]
pub struct Request<'a> {
    /// The server, if one is configured.
    pub connect: Option<&'a ConnectConfig>,
    /// The nodes, where there may be several.
    pub follow: Option<&'a FollowConfig>,
    /// The slot.
    pub slot: &'a str,
    /// After how long a silent backup is dead.
    pub dead_after: Duration,
    /// An older newest backup is a finding.
    pub maximum_age: Option<Duration>,
    /// What time it is.
    pub now: DateTime<Utc>,
}

/// Looks at the repository and the server. That the server cannot be asked is part of the answer.
pub async fn status(cluster: &Cluster, request: &Request<'_>) -> Result<Status, Error> {
    of(cluster, &Catalog::load(cluster).await?, request).await
}

/// The same where the repository has been read already.
pub async fn of(cluster: &Cluster, catalog: &Catalog, request: &Request<'_>) -> Result<Status, Error> {
    let (look, connect) = look(cluster, request).await?;
    let server = match connect {
        Some(connect) => Some(ask(&connect, request.slot, catalog).await),
        None => None,
    };
    let slot = request.follow.and_then(|follow| follow.slot.as_deref());
    let (nodes, of_nodes) = look.as_ref().map(|look| cluster::nodes(look, slot)).unwrap_or_default();
    let leftovers = expire::leftovers(cluster, request.now, request.dead_after).await?;
    let dead: BTreeSet<&BackupId> = leftovers.heartbeats.iter().collect();
    let running = cluster.heartbeats().await?.into_iter().filter(|heartbeat| !dead.contains(&heartbeat.id));
    let running_backups = running
        .map(|heartbeat| RunningBackup {
            id: heartbeat.id,
            runner: heartbeat.runner,
            started_at: heartbeat.started_at,
            updated_at: heartbeat.updated_at,
        })
        .collect();
    let records = &catalog.backups.records;
    let mut status = Status {
        cluster: cluster.name().to_owned(),
        repository: cluster.address(),
        system_identifier: catalog.identity.system_identifier.to_string(),
        postgresql_major: catalog.identity.postgresql_major,
        timelines: timelines(catalog),
        forks: cluster::forks(catalog),
        nodes,
        lag_bytes: server.as_ref().and_then(|server| lag(server, catalog)),
        server,
        backups: records.len(),
        last_backup: records.last().map(|record| LastBackup {
            id: record.id.clone(),
            finished_at: record.finished_at,
            age_seconds: request.now.signed_duration_since(record.finished_at).num_seconds().max(0),
        }),
        unreadable_backups: catalog.backups.unreadable.iter().map(|(id, _)| id.clone()).collect(),
        running_backups,
        leftovers: leftover_status(&leftovers),
        holes: holes(catalog),
        unexplained_gaps: gaps(catalog),
        windows: windows(cluster, catalog).await?,
        findings: Vec::new(),
    };
    status.findings = findings(&status, slot.is_some() || request.follow.is_none());
    status.findings.extend(of_nodes);
    status.findings.extend(too_old(&status, request.maximum_age));
    Ok(status)
}

/// The nodes, where there may be several, and the server to ask the rest of: the one that is followed.
async fn look(
    cluster: &Cluster,
    request: &Request<'_>,
) -> Result<(Option<Look>, Option<ConnectConfig>), Error> {
    let Some(follow) = request.follow else { return Ok((None, request.connect.cloned())) };
    let look = Look::at(follow, cluster).await?;
    let choice = choose(&look.view());
    let followed =
        cluster::followed(&choice).and_then(|name| look.node(name)).map(|node| node.connect.clone());
    Ok((Some(look), followed.or_else(|| request.connect.cloned())))
}

fn timelines(catalog: &Catalog) -> Vec<TimelineStatus> {
    let covered = catalog.coverage.timelines.values();
    covered
        .map(|covered| TimelineStatus {
            timeline: covered.timeline,
            oldest_lsn: covered.bounds().map(|bounds| bounds.from),
            durable_lsn: covered.resume_at(),
        })
        .collect()
}

async fn ask(connect: &ConnectConfig, slot: &str, catalog: &Catalog) -> ServerStatus {
    let mut status = server(connect, slot).await;
    let identity = catalog.identity.system_identifier;
    if let Some(found) = status.system_identifier.filter(|found| *found != identity) {
        status.problem = Some(format!(
            "it is another cluster: its system identifier is {found}, and the repository's {identity}"
        ));
        let hint = "point at a server of this cluster, or choose another cluster name".to_owned();
        let reason = format!("{} belongs to another cluster than the repository", status.target);
        status.error = Some(Error::Unsuitable { reason, hint });
    }
    status
}

/// What the server alone says, for when the repository cannot be asked.
pub async fn server(connect: &ConnectConfig, slot: &str) -> ServerStatus {
    let mut status = ServerStatus {
        target: connect.target(),
        reachable: false,
        problem: None,
        version: None,
        timeline: None,
        flushed_lsn: None,
        synchronous: None,
        slot: None,
        system_identifier: None,
        error: None,
    };
    match ask_server(connect, slot, &mut status).await {
        Ok(server) => status.system_identifier = Some(server.system_identifier),
        Err(error) => {
            status.problem = Some(crate::chain(&error));
            status.error = Some(error);
        }
    }
    status
}

async fn ask_server(connect: &ConnectConfig, slot: &str, status: &mut ServerStatus) -> Result<Server, Error> {
    let (mut connection, server) = Server::connect(connect).await?;
    status.reachable = true;
    status.version = Some(server.version);
    status.timeline = Some(server.timeline);
    status.flushed_lsn = Some(server.flushed);
    status.synchronous = Some(server.synchronous);
    let (exists, restart_lsn) = match connection.read_slot(slot).await? {
        SlotState::Unsupported => (None, None),
        SlotState::Missing => (Some(false), None),
        SlotState::Physical { restart_lsn, .. } => (Some(true), restart_lsn),
    };
    let retained_bytes = restart_lsn.map(|restart| server.flushed.since(restart));
    status.slot = Some(SlotStatus { name: slot.to_owned(), exists, restart_lsn, retained_bytes });
    connection.close().await;
    Ok(server)
}

fn lag(server: &ServerStatus, catalog: &Catalog) -> Option<u64> {
    let covered = catalog.coverage.timelines.get(&server.timeline?)?;
    Some(server.flushed_lsn?.since(covered.resume_at()?))
}

fn leftover_status(leftovers: &expire::Leftovers) -> LeftoverStatus {
    if leftovers.is_empty() {
        return LeftoverStatus::default();
    }
    let bytes = |remains: &repository::backup::Remains| -> u64 {
        remains.removable(&leftovers.named).iter().map(|(_, size)| size).sum()
    };
    LeftoverStatus {
        backups: leftovers.remains.iter().map(|remains| remains.id.clone()).collect(),
        bytes: leftovers.remains.iter().map(bytes).sum(),
    }
}

fn holes(catalog: &Catalog) -> Vec<HoleStatus> {
    let records = &catalog.backups.records;
    let holes = catalog.coverage.timelines.values().flat_map(|covered| &covered.holes);
    holes
        .map(|hole| HoleStatus {
            covered_by: records.iter().find(|record| is_behind(record, hole)).map(|record| record.id.clone()),
            interrupts: records.iter().any(|record| record.start_lsn < hole.to),
            hole: hole.clone(),
        })
        .collect()
}

fn gaps(catalog: &Catalog) -> Vec<Gap> {
    let covered = catalog.coverage.timelines.values();
    covered
        .flat_map(|covered| {
            let gaps = covered.unexplained_gaps().into_iter();
            gaps.map(|gap| Gap { timeline: covered.timeline, from: gap.from, to: gap.to })
        })
        .collect()
}

/// What needs somebody. A hole that every backup lies behind is history; one that interrupts what can be restored is
/// said as long as it does.
fn findings(status: &Status, uses_slot: bool) -> Vec<String> {
    let mut findings = Vec::new();
    for HoleStatus { hole, covered_by, interrupts } in &status.holes {
        let range = format!("WAL of timeline {} from {} to {} is missing", hole.timeline, hole.from, hole.to);
        match covered_by {
            None => {
                findings.push(format!("hole: {range}, and no backup lies behind it; run `backupctl backup`"))
            }
            Some(id) if *interrupts => {
                findings.push(format!("hole: {range}; nothing between there and backup {id} can be restored"))
            }
            Some(_) => {}
        }
    }
    for gap in &status.unexplained_gaps {
        findings.push(format!(
            "gap: WAL of timeline {} from {} to {} is not there, and no hole explains it; run `backupctl verify`",
            gap.timeline, gap.from, gap.to
        ));
    }
    for id in &status.unreadable_backups {
        findings.push(format!("the record of backup {id} cannot be read; run `backupctl verify`"));
    }
    let archived = status.timelines.iter().map(|covered| covered.timeline).max();
    if let Some(timeline) = status.server.as_ref().and_then(|server| server.timeline)
        && archived.is_some_and(|archived| archived != timeline)
    {
        findings.push(format!(
            "the server is on timeline {timeline}, which is not archived; see what `backupd run` logs"
        ));
    }
    if let Some(SlotStatus { name, exists: Some(false), .. }) = status
        .server
        .as_ref()
        .and_then(|server| server.slot.as_ref())
        .filter(|_| uses_slot && status.nodes.is_empty())
    {
        findings.push(format!("the server has no slot \"{name}\"; see that `backupd run` runs"));
    }
    findings
}

/// What is wrong with the newest backup's age, if anything.
fn too_old(status: &Status, maximum_age: Option<Duration>) -> Option<String> {
    let most = maximum_age?;
    let hours = most.as_secs_f64() / 3600.0;
    let Some(last) = &status.last_backup else {
        return Some(format!(
            "there is no backup, and the newest should never be older than {hours:.1} hours"
        ));
    };
    let is_old = u64::try_from(last.age_seconds).is_ok_and(|age| age > most.as_secs());
    is_old.then(|| {
        format!(
            "the newest backup, {}, is {:.1} hours old, and backup.maximum_age is {hours:.1} hours; see why none was taken since",
            last.id,
            last.age_seconds as f64 / 3600.0
        )
    })
}

/// From when to when one can restore along the newest timeline, oldest first. There is more than one window where a hole
/// interrupts them.
pub async fn windows(cluster: &Cluster, catalog: &Catalog) -> Result<Vec<Window>, Error> {
    let with_wal = catalog.coverage.timelines.iter().rev().find(|(_, covered)| !covered.ranges.is_empty());
    let Some(path) = with_wal.and_then(|(timeline, _)| catalog.path(*timeline)) else {
        return Ok(Vec::new());
    };
    let wal = WalPath::new(cluster, catalog, &path)?;
    let mut windows: Vec<(Reach, Window)> = Vec::new();
    for record in catalog.backups.records.iter().filter(|record| is_on(record, &path)) {
        let reach = catalog.reach(&path, record.timeline, record.start_lsn);
        if reach.lsn < record.stop_lsn || windows.iter().any(|(known, _)| *known == reach) {
            continue;
        }
        let to = last_transaction(&wal, catalog, record.stop_lsn, reach.lsn).await?;
        let window = Window {
            from: record.finished_at,
            from_lsn: record.stop_lsn,
            oldest_backup: record.id.clone(),
            to: match to {
                Last::At(time) => Some(time.max(record.finished_at)),
                Last::Quiet => Some(record.finished_at),
                Last::Unreadable => None,
            },
            to_lsn: reach.lsn,
            timeline: reach.timeline,
        };
        windows.push((reach, window));
    }
    Ok(windows.into_iter().map(|(_, window)| window).collect())
}

/// The last transaction between two positions.
enum Last {
    At(DateTime<Utc>),
    /// There was none, or none for long.
    Quiet,
    /// The WAL is encrypted, and we have nothing to read it with.
    Unreadable,
}

/// The time of the last transaction that ended between two positions, unless they have been quiet for long.
async fn last_transaction(wal: &WalPath<'_>, catalog: &Catalog, from: Lsn, to: Lsn) -> Result<Last, Error> {
    let size = catalog.segment_size();
    let (first, last) = (size.number(from), size.number(to));
    for number in (first..=last).rev().take(usize::try_from(QUIET_SEGMENTS_MAX).unwrap_or(1)) {
        let facts = match wal.facts(number).await {
            // It is for `verify` to find; how things stand must be told in spite of it.
            Err(Error::Repository(error)) if error.is_damage() => None,
            Err(Error::Repository(
                repository::Error::NoIdentity { .. } | repository::Error::WrongIdentity { .. },
            )) => return Ok(Last::Unreadable),
            facts => facts?,
        };
        if let Some(transactions) = facts.and_then(|facts| facts.transactions) {
            return Ok(Last::At(transactions.latest));
        }
    }
    Ok(Last::Quiet)
}

/// The first hole that no backup lies behind. Whoever wants to go on restoring past it needs a new base backup.
///
/// A backup lies behind a hole when it starts at its end or later, on the same timeline or a newer one.
pub fn hole_needs_backup<'a>(holes: &'a [Hole], records: &[Record]) -> Option<&'a Hole> {
    holes.iter().find(|hole| !records.iter().any(|record| is_behind(record, hole)))
}

fn is_behind(record: &Record, hole: &Hole) -> bool {
    record.timeline >= hole.timeline && record.start_lsn >= hole.to
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hole(timeline: u32, from: u64, to: u64) -> Hole {
        Hole {
            timeline: TimelineId::new(timeline).unwrap(),
            from: Lsn(from),
            to: Lsn(to),
            cause: "a test".into(),
            since: DateTime::UNIX_EPOCH,
        }
    }

    fn record(timeline: u32, start: u64) -> Record {
        let timeline = TimelineId::new(timeline).unwrap();
        let at = DateTime::from_timestamp(1_700_000_000 + i64::try_from(start).unwrap(), 0).unwrap();
        crate::testing::record(at, timeline, Lsn(start), Lsn(start + 1))
    }

    #[test]
    fn a_hole_needs_a_backup_behind_it() {
        let needs = |holes: &[Hole], records: &[Record]| hole_needs_backup(holes, records).cloned();
        let (early, late) = (hole(1, 100, 200), hole(1, 500, 600));
        assert_eq!(needs(&[], &[]), None);
        assert_eq!(needs(std::slice::from_ref(&early), &[]), Some(early.clone()));
        assert_eq!(needs(std::slice::from_ref(&early), &[record(1, 50)]), Some(early.clone()), "before it");
        assert_eq!(needs(std::slice::from_ref(&early), &[record(1, 150)]), Some(early.clone()), "within it");
        assert_eq!(needs(std::slice::from_ref(&early), &[record(1, 200)]), None, "at its end");
        assert_eq!(needs(&[early.clone(), late.clone()], &[record(1, 300)]), Some(late.clone()));
        assert_eq!(needs(&[early, late.clone()], &[record(2, 700)]), None, "on a later timeline");
        assert_eq!(
            needs(&[hole(2, 100, 200)], &[record(1, 300)]),
            Some(hole(2, 100, 200)),
            "an older timeline"
        );
    }
}
