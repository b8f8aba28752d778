//! Clusters of every shape come back whole, by PostgreSQL's own tools' judgement.

use std::time::Duration;

use e2e::{Options, Postgres, Restored, Shutdown, World, wait_until};

const REPLAYS_WITHIN: Duration = Duration::from_secs(60);

/// Starts a restored node after pg_verifybackup passed it.
#[track_caller]
fn start_verified(restored: Restored<'_>) -> Postgres {
    restored.verify().start_promoted()
}

/// Has pg_amcheck look at every table and index, and pg_checksums at every page.
#[track_caller]
fn check_thoroughly(mut node: Postgres) {
    let checksums = node.value("show data_checksums") == "on";
    node.run("pg_amcheck", &["--all", "--install-missing", "--heapallindexed"]);
    node.stop(Shutdown::Fast);
    if checksums {
        node.run("pg_checksums", &["--check", "-D", node.data().to_str().unwrap()]);
    }
}

/// Backs up under load, writes on, loses the server, and restores a node that has everything.
fn survives_as(options: &Options) {
    let world = World::new();
    let mut primary = world.postgres_with(options);
    let service = world.start_backupd(&primary).expect_anything();
    primary.pgbench_tables(2);
    let load = primary.pgbench(2);
    world.backup();
    std::thread::sleep(Duration::from_millis(500));
    drop(load);
    wait_until("the load's sessions to end", REPLAYS_WITHIN, || {
        primary.value("select count(*) from pg_stat_activity where application_name = 'pgbench'") == "0"
    });
    let sums = "select sum(abalance), (select count(*) from pgbench_history) from pgbench_accounts";
    let expected = primary.rows(sums);
    service.wait_until_durable(&primary);
    primary.destroy();

    let node = start_verified(world.restore(&["--target-action", "promote"]));
    assert_eq!(node.rows(sums), expected);
    check_thoroughly(node);
}

#[test]
fn with_checksums() {
    survives_as(&Options { checksums: true, ..Options::default() });
}

#[test]
fn without_checksums() {
    survives_as(&Options { checksums: false, ..Options::default() });
}

#[test]
fn with_segments_of_1_mib() {
    survives_as(&Options { segment_mib: 1, ..Options::default() });
}

#[test]
fn with_segments_of_64_mib() {
    survives_as(&Options { segment_mib: 64, ..Options::default() });
}

#[test]
fn tablespaces_move_to_where_they_are_told() {
    let world = World::new();
    let mut primary = world.postgres();
    let (fast, slow) = (world.directory("fast"), world.directory("slow"));
    for (name, place) in [("fast", &fast), ("slow", &slow)] {
        primary.sql(&format!("create tablespace {name} location '{}'", place.display()));
        primary.sql(&format!("create table t_{name} tablespace {name} as select generate_series(1, 1000) n"));
    }
    let service = world.start_backupd(&primary).expect_anything();
    world.backup();
    primary.sql("insert into t_fast select generate_series(1, 10); insert into t_slow values (1)");
    service.wait_until_durable(&primary);
    primary.destroy();

    let (new_fast, new_slow) = (world.fresh("new_fast"), world.fresh("new_slow"));
    let fast_mapping = format!("{}={}", fast.display(), new_fast.display());
    let slow_mapping = format!("{}={}", slow.display(), new_slow.display());
    let mapping =
        ["--tablespace", &fast_mapping, "--tablespace", &slow_mapping, "--target-action", "promote"];
    let node = start_verified(world.restore(&mapping));
    assert_eq!(node.value("select count(*) from t_fast"), "1010");
    assert_eq!(node.value("select count(*) from t_slow"), "1001");
    let places = node.value("select pg_tablespace_location(oid) from pg_tablespace where spcname in ('fast', 'slow') order by spcname");
    assert_eq!(places, format!("{}\n{}", new_fast.display(), new_slow.display()));
    check_thoroughly(node);

    // Unmapped, a tablespace would go where the old one still is. That is somebody's data.
    let elsewhere = format!("{}={}", fast.display(), world.fresh("elsewhere").display());
    let refused = world.try_restore(&world.fresh("restored"), &["--tablespace", &elsewhere]);
    refused.fails(9, &[slow.to_str().unwrap()]);
}

#[test]
fn unlogged_tables_come_back_empty() {
    let world = World::new();
    let mut primary = world.postgres();
    let service = world.start_backupd(&primary).expect_anything();
    primary.sql(
        "create unlogged table cache (n int primary key); insert into cache select generate_series(1, 1000)",
    );
    primary.sql("create table kept (n int primary key); insert into kept select generate_series(1, 1000)");
    primary.sql("checkpoint");
    world.backup();
    service.wait_until_durable(&primary);
    primary.destroy();

    let node = start_verified(world.restore(&["--target-action", "promote"]));
    assert_eq!(node.value("select count(*) from cache"), "0");
    assert_eq!(node.value("select count(*) from kept"), "1000");
    node.sql("insert into cache values (1)");
    check_thoroughly(node);
}

#[test]
fn twenty_thousand_small_files() {
    let world = World::new();
    // The sum at the end locks every table at once.
    let options = Options { settings: vec!["max_locks_per_transaction = 512".into()], ..Options::default() };
    let mut primary = world.postgres_with(&options);
    // A table with a text column and a primary key is four files: heap, index, TOAST table and TOAST index.
    primary.sql(
        "do $$ begin for k in 1..5000 loop \
           execute format('create table small_%s (id int primary key, body text)', k); \
           execute format('insert into small_%s values (%s, ''row'')', k, k); \
           if k % 100 = 0 then commit; end if; \
         end loop; end $$",
    );
    let files = "select count(*) from pg_ls_dir((select setting || '/base/' || oid from pg_settings, pg_database \
                 where name = 'data_directory' and datname = 'postgres'))";
    assert!(primary.value(files).parse::<u32>().unwrap() > 20_000);
    let service = world.start_backupd(&primary).expect_anything();
    world.backup();
    service.wait_until_durable(&primary);
    primary.destroy();

    let node = start_verified(world.restore(&["--target-action", "promote"]));
    let sum = "select sum((xpath('/row/id/text()', query_to_xml(format('select id from %I', relname), false, true, '')))[1]::text::int) \
               from pg_class where relname ~ '^small_[0-9]+$' and relkind = 'r'";
    assert_eq!(node.value(sum), (1..=5000).sum::<u32>().to_string());
}

#[test]
fn a_standby_follows_the_repository_and_then_the_primary() {
    let world = World::new();
    let primary = world.postgres();
    let service = world.start_backupd(&primary);
    primary.sql("create table t (n int); insert into t values (1)");
    world.backup();
    let rows = |node: &Postgres, rows: &str| {
        wait_until("the standby to replay", REPLAYS_WITHIN, || {
            node.try_sql("select count(*) from t").is_ok_and(|count| count == rows)
        });
        assert_eq!(node.value("select pg_is_in_recovery()"), "t");
    };

    // With nothing but the repository to follow, it gets finished segments.
    let mut standby = world.restore(&["--standby"]).verify().start();
    primary.sql("insert into t values (2)");
    primary.switch_segment();
    rows(&standby, "2");

    // With a primary it streams.
    standby.stop(Shutdown::Fast);
    standby.configure_auto(&[&format!(
        "primary_conninfo = '{}'",
        primary.conninfo().replace('\\', "\\\\").replace('\'', "''")
    )]);
    standby.start_again();
    primary.sql("insert into t values (3)");
    rows(&standby, "3");
    primary.wait_streaming("walreceiver");

    // It can take over.
    service.stop();
    standby.promote();
    standby.sql("insert into t values (4)");
}

#[test]
fn node_roles_are_not_restored() {
    let world = World::new();
    let mut primary = world.postgres();
    for name in ["master.lock", "standby.lock"] {
        std::fs::write(primary.data().join(name), "node 1").unwrap();
        std::os::unix::fs::chown(primary.data().join(name), Some(owner(&primary).0), Some(owner(&primary).1))
            .unwrap();
    }
    let service = world.start_backupd(&primary).expect_anything();
    world.backup();
    service.wait_until_durable(&primary);
    primary.destroy();

    let restored = world.restore(&["--target-action", "promote"]).verify();
    for name in ["master.lock", "standby.lock", "postmaster.pid", "pg_replslot/drydock"] {
        assert!(!restored.data().join(name).exists(), "{name} belongs to the node, not to the data");
    }
    restored.start_promoted();
}

fn owner(node: &Postgres) -> (u32, u32) {
    use std::os::unix::fs::MetadataExt;
    let metadata = node.data().metadata().unwrap();
    (metadata.uid(), metadata.gid())
}

#[test]
fn a_second_backup_stores_only_what_changed() {
    let world = World::new();
    let mut primary = world.postgres();
    primary.pgbench_tables(3);
    let service = world.start_backupd(&primary).expect_anything();
    world.backup();
    primary.sql("update pgbench_branches set bbalance = 1");
    let second = world.json(&["backup"]);
    let (size, stored) = (second["size_bytes"].as_u64().unwrap(), second["stored_bytes"].as_u64().unwrap());
    assert!(stored * 20 < size, "{second:#}");
    service.wait_until_durable(&primary);
    primary.destroy();

    let node = start_verified(world.restore(&["--target-action", "promote"]));
    assert_eq!(node.value("select sum(bbalance) from pgbench_branches"), "3");
    check_thoroughly(node);
}
