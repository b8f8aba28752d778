//! WAL is gone from the server before it was archived: the hole has a name, and a new backup closes it.

use std::time::Duration;

use e2e::{Options, World, wait_until};

const MENDS_WITHIN: Duration = Duration::from_secs(120);

#[test]
fn a_dropped_slot_leaves_a_named_hole_and_a_new_backup() {
    let world = World::new();
    let settings =
        ["min_wal_size = 2MB", "max_wal_size = 4MB", "wal_keep_size = 0"].map(str::to_owned).to_vec();
    let options = Options { segment_mib: 1, settings, ..Options::default() };
    let mut primary = world.postgres_with(&options);
    let service = world.start_backupd(&primary);
    primary.sql("create table t (n int); insert into t values (1)");
    let backup = world.backup();
    let durable = service.wait_until_durable(&primary);
    service.stop();

    primary.sql("select pg_drop_replication_slot('drydock')");
    let segment = primary.value(&format!("select pg_walfile_name('{durable}')"));
    wait_until("the server to recycle the WAL", MENDS_WITHIN, || {
        primary.switch_segment();
        primary.sql("insert into t values (2); checkpoint");
        !primary.data().join("pg_wal").join(&segment).exists()
    });

    let service = world.start_backupd(&primary).expect(&["hole", "slot", "gone", "missing"]);
    wait_until("a new backup", MENDS_WITHIN, || world.backups().len() == 2);
    primary.sql("insert into t values (3)");
    service.wait_until_durable(&primary);
    service.wait_until_it_says(&["hole"]);

    let holes = world.holes();
    let [hole] = holes.as_slice() else { panic!("one hole, not {holes:#?}") };
    let lsn = |field: &str| hole[field].as_str().and_then(|lsn| lsn.parse::<e2e::Lsn>().ok()).expect(field);
    assert_eq!(hole["timeline"], 1);
    assert!(
        lsn("from") <= durable && durable < lsn("to") && lsn("to") <= primary.current_lsn(),
        "{hole:#} {durable}"
    );
    assert!(hole["cause"].as_str().is_some_and(|cause| cause.contains("slot")), "{hole:#}");
    assert!(hole["since"].is_string(), "{hole:#}");
    let status = world.backupctl(&["status"]);
    assert_eq!(status.code, 10, "{status:?}");
    assert!(status.stdout.contains("hole"), "{status:?}");

    // Across the hole nothing can be restored, and it is said which one is in the way.
    let rows = primary.value("select count(*) from t");
    service.stop();
    primary.destroy();
    let refused = world.try_restore(&world.fresh("restored"), &["--backup", &backup]);
    refused.fails(8, &["hole"]);
    assert_eq!(world.restore_newest().value("select count(*) from t"), rows);
    // The old backup still reaches all that was archived before the hole.
    let node = world.restore(&["--backup", &backup, "--target-immediate", "--target-action", "promote"]);
    assert_eq!(node.start_promoted().value("select count(*) from t"), "1");
}
