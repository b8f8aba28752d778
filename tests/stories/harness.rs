//! The harness itself, so that a failing story is the product's fault.

use std::time::Duration;

use e2e::{Load, Options, Shutdown, World, wait_until};

#[test]
fn clients_remember_what_they_were_told() {
    let world = World::new();
    let mut server = world.postgres();
    Load::create_table(&server);
    let before = server.current_lsn();
    let load = Load::start(&server, 1, 2);
    wait_until("both clients to write", Duration::from_secs(20), || {
        server.value("select count(*) from ledger group by client having count(*) > 20").lines().count() == 2
    });
    server.kill9();
    let commits = load.stop();
    server.start_again();

    let stored: usize = server.value("select count(*) from ledger").parse().unwrap();
    let unconfirmed = stored - commits.len();
    assert!(unconfirmed <= 2, "each client was told of all its commits but for the last: {unconfirmed}");
    assert!(
        commits.iter().filter_map(|commit| commit.lsn).all(|lsn| lsn > before && lsn <= server.current_lsn())
    );
}

#[test]
fn a_killed_server_leaves_no_process() {
    let world = World::new();
    let mut server = world.postgres();
    let data = server.data().to_owned();
    server.destroy();
    assert!(!data.exists());
    let command_lines = std::fs::read_dir("/proc").unwrap().flatten();
    let left: Vec<String> = command_lines
        .filter_map(|entry| std::fs::read_to_string(entry.path().join("cmdline")).ok())
        .filter(|line| line.contains(data.to_str().unwrap()))
        .collect();
    assert_eq!(left, Vec::<String>::new());
}

#[test]
fn servers_come_in_the_shapes_asked_for() {
    let world = World::new();
    let options =
        Options { segment_mib: 1, checksums: false, fsync: true, settings: vec!["work_mem = 5MB".into()] };
    let mut server = world.postgres_with(&options);
    let shown = |name| server.value(&format!("show {name}"));
    let values = ["wal_segment_size", "data_checksums", "fsync", "work_mem"].map(shown);
    assert_eq!(values, ["1MB", "off", "on", "5MB"]);
    server.stop(Shutdown::Fast);
    assert!(server.try_sql("select 1").is_err());
}

#[test]
fn commit_records_are_found_in_the_wal() {
    let world = World::new();
    let server = world.postgres();
    server.sql("create table t (n int)");
    let from = server.current_lsn();
    let xid = server.value("begin; insert into t values (1); select pg_current_xact_id(); commit");
    let to = server.current_lsn();
    let (lsn, time) = server.commit_of(&xid, from, to);
    assert!(from < lsn && lsn < to, "{from} {lsn} {to}");
    assert!(time <= server.now() && time.len() == server.now().len(), "{time} {}", server.now());
}
