use std::collections::BTreeMap;

use pgformat::{Major, SegmentSize, TimelineId};
use repository::Identity;

use super::*;
use crate::server::Server;

fn settings(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    let defaults = [
        ("wal_level", "replica"),
        ("max_wal_senders", "10"),
        ("max_replication_slots", "10"),
        ("max_slot_wal_keep_size", "-1"),
        ("wal_keep_size", "0"),
        ("full_page_writes", "on"),
        ("fsync", "on"),
        ("wal_sender_timeout", "60000"),
        ("synchronous_standby_names", ""),
        ("synchronous_commit", "on"),
    ];
    defaults.iter().chain(pairs).map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

fn slot_in_use() -> SlotSeen {
    SlotSeen {
        name: "drydock".into(),
        physical: true,
        active: true,
        restart_lsn: Some(Lsn(1)),
        wal_status: Some("reserved".into()),
        safe_wal_size: None,
        retained_bytes: Some(10),
    }
}

struct Case {
    maximum_age: Option<std::time::Duration>,
    sql: SqlSeen,
    server: Server,
    repository: RepositorySeen,
    space: Option<Space>,
    further: Vec<Further>,
    sql_refused: bool,
}

/// Everything in order.
fn fine() -> Case {
    let sql = SqlSeen {
        settings: settings(&[]),
        replication_role: true,
        pg_monitor: true,
        slots: vec![slot_in_use()],
        walsenders: 1,
        sync_state: Some("async".into()),
        ..SqlSeen::default()
    };
    let server = Server {
        target: "db:5432".into(),
        system_identifier: 7,
        timeline: TimelineId::FIRST,
        flushed: Lsn(1),
        version: 150_018,
        major: Major::new(15).unwrap(),
        segment_size: SegmentSize::DEFAULT,
        block_size: 8192,
        data_checksums: true,
        synchronous: false,
    };
    Case {
        maximum_age: None,
        repository: RepositorySeen::default(),
        sql,
        server,
        space: None,
        further: Vec::new(),
        sql_refused: false,
    }
}

fn identity(system_identifier: u64) -> Identity {
    Identity {
        system_identifier,
        postgresql_major: 15,
        segment_size: 16 << 20,
        block_size: 8192,
        created_at: DateTime::UNIX_EPOCH,
    }
}

fn checks(case: Case) -> Vec<Check> {
    let slot = SlotState::Missing;
    let sql =
        if case.sql_refused { Err(("no entry".to_owned(), Some("add it".to_owned()))) } else { Ok(case.sql) };
    let server = ServerSeen { replication: Ok(ReplicationSeen { server: case.server, slot }), sql };
    judge(&Seen {
        role: "drydock",
        application_name: "drydock",
        slot: "drydock",
        repository_is_missing: false,
        space: case.space,
        further: &case.further,
        now: DateTime::UNIX_EPOCH,
        maximum_age: case.maximum_age,
        server: &server,
        repository: &Ok(case.repository),
    })
}

#[track_caller]
fn expect(change: impl FnOnce(&mut Case), name: &str, verdict: Verdict) -> Check {
    let mut case = fine();
    change(&mut case);
    let checks = checks(case);
    let check =
        checks.iter().find(|check| check.name == name).unwrap_or_else(|| panic!("no {name} in {checks:#?}"));
    assert_eq!(check.verdict, verdict, "{check:?}");
    assert_eq!(check.advice.is_some(), verdict != Verdict::Ok, "{check:?}");
    check.clone()
}

#[test]
fn a_fresh_set_up_fails_nothing() {
    let mut case = fine();
    case.sql.slots.clear();
    case.sql.sync_state = None;
    assert!(checks(case).iter().all(|check| check.verdict != Verdict::Failed));
    assert!(checks(fine()).iter().all(|check| check.verdict == Verdict::Ok || check.name == "last_backup"));
}

#[test]
fn names_are_unique() {
    let mut names: Vec<&str> = checks(fine()).iter().map(|check| check.name).collect();
    names.sort_unstable();
    let count = names.len();
    names.dedup();
    assert_eq!(names.len(), count);
}

#[test]
fn rules_about_the_server() {
    use Verdict::{Failed, Ok, Warning};
    let with = |name: &'static str, value: &'static str| {
        move |case: &mut Case| case.sql.settings = settings(&[(name, value)])
    };
    expect(with("wal_level", "logical"), "wal_level", Ok);
    expect(with("wal_level", "minimal"), "wal_level", Failed);
    expect(with("full_page_writes", "off"), "full_page_writes", Warning);
    expect(with("wal_sender_timeout", "0"), "wal_sender_timeout", Warning);
    expect(with("wal_sender_timeout", "5000"), "wal_sender_timeout", Warning);
    expect(with("max_slot_wal_keep_size", "100"), "max_slot_wal_keep_size", Warning);
    expect(with("max_slot_wal_keep_size", "10240"), "max_slot_wal_keep_size", Ok);
    expect(with("max_wal_senders", "2"), "wal_senders", Ok);
    expect(with("max_wal_senders", "1"), "wal_senders", Failed);
    expect(|case| case.sql.replication_role = false, "role", Failed);
    expect(|case| case.sql.superuser = true, "role", Warning);
    let monitoring = expect(|case| case.sql.pg_monitor = false, "monitoring", Warning);
    assert_eq!(monitoring.advice.as_deref(), Some("GRANT pg_monitor TO \"drydock\""));
    expect(|case| case.sql.in_recovery = true, "recovery_state", Warning);
    expect(|case| case.server.data_checksums = false, "data_checksums", Warning);
    expect(|case| case.sql_refused = true, "sql", Warning);
    expect(|case| case.sql_refused = true, "slot", Warning);
}

#[test]
fn rules_about_the_slot() {
    use Verdict::{Failed, Ok, Warning};
    let with = |change: fn(&mut SlotSeen)| move |case: &mut Case| change(&mut case.sql.slots[0]);
    expect(with(|_| {}), "slot", Ok);
    expect(with(|slot| slot.active = false), "slot", Failed);
    expect(with(|slot| slot.physical = false), "slot", Failed);
    expect(with(|slot| slot.restart_lsn = None), "slot", Failed);
    expect(with(|slot| slot.wal_status = Some("unreserved".into())), "slot", Failed);
    expect(with(|slot| slot.wal_status = Some("lost".into())), "slot", Failed);
    expect(with(|slot| slot.safe_wal_size = Some(1 << 20)), "slot", Warning);
    expect(with(|slot| slot.retained_bytes = Some(1 << 40)), "slot", Warning);
    expect(|case| case.sql.slots.clear(), "slot", Warning);
    let lost = |case: &mut Case| {
        case.sql.slots.clear();
        case.repository.identity = Some(identity(7));
    };
    expect(lost, "slot", Failed);
    let full = |case: &mut Case| {
        case.sql.slots[0].name = "other".into();
        case.sql.settings = settings(&[("max_replication_slots", "1")]);
    };
    expect(full, "replication_slots", Failed);
}

#[test]
fn rules_about_commits_that_wait() {
    let with = |state: Option<&'static str>, names: &'static str, commit: &'static str| {
        move |case: &mut Case| {
            case.sql.sync_state = state.map(str::to_owned);
            case.sql.settings =
                settings(&[("synchronous_standby_names", names), ("synchronous_commit", commit)]);
        }
    };
    let found =
        |state, names, commit, verdict| expect(with(state, names, commit), "synchronous", verdict).found;
    assert!(found(Some("sync"), "drydock", "on", Verdict::Ok).contains("nothing is lost"));
    assert!(found(Some("sync"), "drydock", "local", Verdict::Warning).contains("they do not"));
    assert!(found(Some("async"), "", "on", Verdict::Ok).contains("do not wait"));
    assert!(found(Some("async"), "other", "on", Verdict::Ok).contains("does not name drydock"));
}

#[test]
fn rules_about_the_repository() {
    use Verdict::{Failed, Ok, Warning};
    let free =
        |free_bytes, total_bytes| move |case: &mut Case| case.space = Some(Space { free_bytes, total_bytes });
    expect(free(500 << 30, 1000 << 30), "repository_space", Ok);
    expect(free(50 << 30, 1000 << 30), "repository_space", Warning);
    expect(free(1 << 20, 1 << 21), "repository_space", Failed);
    let further = |required, is_there: bool| {
        let address = "s3://bucket".to_owned();
        let gone = repository::Error::NoRepository { address: address.clone() };
        let used = is_there.then_some(()).ok_or(gone.into());
        move |case: &mut Case| case.further.push(Further { address, required, used })
    };
    expect(further(true, true), "further_repository", Ok);
    expect(further(true, false), "further_repository", Failed);
    expect(further(false, false), "further_repository", Warning);
    expect(|case| case.repository.identity = Some(identity(7)), "identity", Ok);
    expect(|case| case.repository.identity = Some(identity(8)), "identity", Failed);
    expect(|case| case.repository.identity = Some(identity(7)), "last_backup", Failed);
    expect(|_| {}, "last_backup", Warning);
    expect(|case| case.repository.gaps.push("timeline 1 from 0/1 to 0/2".into()), "wal_continuity", Failed);
    expect(|case| case.repository.probe = Some(("no".into(), Some("yes".into()))), "repository", Failed);
}
