//! Must show 7: what our slots keep on each node stays small while everything is healthy.

use std::time::{Duration, Instant};

use e2e::{Shape, World, wait_until};

const WATCHED_FOR: Duration = Duration::from_secs(30);
const SLOTS_WITHIN: Duration = Duration::from_secs(30);
/// A slot keeps the segment that is being streamed and those under way to the repository, four of 16 MiB; what a
/// standby's slot lags behind, as it is advanced now and then, is the rest.
const RETAINED_BYTES_MAX: u64 = 96 << 20;

const RETAINED: &str = "select pg_wal_lsn_diff(case when pg_is_in_recovery() \
    then greatest(pg_last_wal_receive_lsn(), pg_last_wal_replay_lsn()) else pg_current_wal_lsn() end, \
    restart_lsn) from pg_replication_slots where slot_name = 'drydock'";

#[test]
fn slots_keep_little_wal() {
    let world = World::new();
    let cluster = world.cluster(&Shape { standbys: 3, cascade: true, ..Shape::default() });
    cluster.primary().pgbench_tables(1);
    let service = world.start_backupd_for(&cluster);
    world.backup();
    for node in cluster.nodes() {
        wait_until(&format!("a slot that keeps WAL on node {node}"), SLOTS_WITHIN, || {
            !cluster.server(node).value(RETAINED).is_empty()
        });
    }
    let start = cluster.primary().current_lsn();
    let load = cluster.primary().pgbench(2);
    let mut worst = vec![0; cluster.nodes().len()];
    let began = Instant::now();
    while began.elapsed() < WATCHED_FOR {
        for node in cluster.nodes() {
            let retained = cluster.server(node).value(RETAINED);
            // A standby can be a little behind its slot, which is to say that it keeps nothing.
            let retained: i64 = retained.parse().unwrap_or_else(|_| panic!("node {node} has lost its slot"));
            worst[node] = worst[node].max(u64::try_from(retained).unwrap_or(0));
        }
        std::thread::sleep(Duration::from_millis(200));
    }
    drop(load);
    let written = cluster.primary().current_lsn().since(start);
    eprintln!("of {} MiB written, the slots kept at most:", written >> 20);
    for (node, &bytes) in worst.iter().enumerate() {
        let role = if node == cluster.primary_node() { "primary" } else { "standby" };
        eprintln!("  node {node} ({role}): {:.1} MiB", bytes as f64 / f64::from(1 << 20));
        assert!(bytes <= RETAINED_BYTES_MAX, "node {node} kept {bytes} bytes");
    }
    service.stop();
}
