//! Nodes that leave, nodes without room for our slot, and nodes that do not let anybody stream.

use std::time::Duration;

use e2e::ledger::{self, Clients};
use e2e::{Cluster, Load, Shape, World, wait_until};

use super::{list, status};

const SLOT_WITHIN: Duration = Duration::from_secs(60);
/// A node has to be away for a while before it has left.
const LEAVES_WITHIN: Duration = Duration::from_secs(150);
/// More than a server keeps that is told to keep none.
const GONE_SEGMENTS: usize = 12;
const READ_FILE: &str = "pg_read_binary_file(text, bigint, bigint, boolean)";

/// Whether our slot is on a node.
#[track_caller]
fn has_slot(cluster: &Cluster, node: usize) -> bool {
    let sql = "select count(*) from pg_replication_slots where slot_name = 'drydock'";
    cluster.server(node).value(sql) == "1"
}

#[track_caller]
fn wait_for_slots(cluster: &Cluster) {
    for node in cluster.nodes() {
        wait_until(&format!("our slot on node {node}"), SLOT_WITHIN, || has_slot(cluster, node));
    }
}

/// Fills a server's `max_replication_slots`.
#[track_caller]
fn fill_slots(cluster: &Cluster, node: usize) {
    cluster.server(node).sql(
        "select pg_create_physical_replication_slot('somebody_' || n) from generate_series( \
           (select count(*) from pg_replication_slots) + 1, \
           current_setting('max_replication_slots')::int) n",
    );
}

/// A node is taken out of the configuration while the service does not run; what it replicates from cannot tell that it is
/// still there, as it reaches all of them at one address.
#[test]
fn a_node_that_has_left_loses_our_slot() {
    let world = World::new();
    let cluster = world.cluster(&Shape { standbys: 2, ..Shape::default() });
    let service = world.start_backupd_for(&cluster);
    wait_for_slots(&cluster);
    let remembered = |count: usize| {
        let objects = world.objects();
        let key = objects.keys().into_iter().find(|key| key.ends_with("/state/slots.json"));
        key.is_some_and(|key| {
            String::from_utf8_lossy(&objects.read(&key)).matches("drydock").count() == count
        })
    };
    wait_until("three slots to be remembered", LEAVES_WITHIN, || remembered(3));
    service.stop();

    let stays = format!("127.0.0.1:{},127.0.0.1:{}", cluster.port(0), cluster.port(1));
    world.point_at_addresses(&stays);
    let service = world.launch_backupd();
    wait_until("the slot to be removed", LEAVES_WITHIN, || !has_slot(&cluster, 2));
    wait_until("two slots to be remembered", LEAVES_WITHIN, || remembered(2));
    service.wait_until_it_says(&["has left the cluster", &cluster.port(2).to_string()]);
    assert!(has_slot(&cluster, 0) && has_slot(&cluster, 1), "the others keep theirs");
    service.stop();
}

/// `max_replication_slots` is full, on a standby and on the primary: it is said, and mended once there is room.
#[test]
fn no_room_for_our_slot() {
    let world = World::new();
    let mut shape = Shape { standbys: 1, ..Shape::default() };
    shape.options.settings = vec!["max_replication_slots = 4".to_owned()];
    let cluster = world.cluster(&shape);
    fill_slots(&cluster, 1);
    let service = world.start_backupd_for(&cluster).expect(&["no room"]);
    service.wait_until_it_says(&["no room for our slot", &cluster.port(1).to_string()]);
    let found = status(&world);
    let finding = |words: &str| list(&found, "findings").iter().any(|one| one.to_string().contains(words));
    assert!(finding("raise max_replication_slots"), "{found:#}");
    cluster.server(1).sql("select pg_drop_replication_slot('somebody_4')");
    wait_for_slots(&cluster);
    service.stop();

    cluster.primary().sql("select pg_drop_replication_slot('drydock')");
    fill_slots(&cluster, 0);
    let service = world.launch_backupd().expect_anything();
    service.wait_until_it_says(&["max_replication_slots"]);
    cluster.primary().sql("select pg_drop_replication_slot('somebody_4')");
    wait_for_slots(&cluster);
    cluster.wait_until_durable();
    service.stop();
}

/// The primary has removed WAL that is not archived. A standby still has it, and lets nobody replicate; it is read over SQL.
#[test]
fn wal_that_nobody_streams_is_read_over_sql() {
    let world = World::new();
    world.set("USE_REPLICATION_SLOTS", "0");
    let mut shape = Shape { standbys: 1, ..Shape::default() };
    shape.options.segment_mib = 1;
    let cluster = world.cluster(&shape);
    let primary = cluster.primary();
    Load::create_table(primary);
    primary.sql(&format!("grant execute on function {READ_FILE} to drydock"));
    let service = world.start_backupd_for(&cluster).expect_anything();
    world.backup();
    let mut clients = Clients::new(1);
    clients.start(primary);
    std::thread::sleep(Duration::from_secs(1));
    service.kill9();

    for setting in ["wal_keep_size = 0", "min_wal_size = '2MB'", "max_wal_size = '4MB'"] {
        primary.sql(&format!("alter system set {setting}"));
    }
    primary.reload();
    cluster.server(1).hba(&[
        "local all all trust",
        "host replication all all reject",
        "host all all all scram-sha-256",
    ]);
    cluster.server(1).reload();
    for _ in 0..GONE_SEGMENTS {
        primary.switch_segment();
        std::thread::sleep(Duration::from_millis(100));
    }
    clients.stop();
    cluster.wait_until_has(1, primary.current_lsn());
    primary.sql("checkpoint");
    primary.switch_segment();
    primary.sql("checkpoint");

    let service = world.launch_backupd().expect_anything();
    service.wait_until_it_says(&["read from a node's pg_wal over sql"]);
    cluster.wait_until_durable();
    let found = status(&world);
    assert_eq!(list(&found, "holes").len(), 0, "{found:#}");
    assert_eq!(list(&found, "unexplained_gaps").len(), 0, "{found:#}");
    service.stop();
    ledger::expect_same(&world.restore_newest(), primary);
}
