//! What a monitoring system is told.

use std::net::TcpListener;
use std::time::Duration;

use e2e::{Answer, Shape, World, http, wait_until};

const TOLD_WITHIN: Duration = Duration::from_secs(90);
/// The exporter of PostDock has these.
const POSTDOCK: [&str; 10] = [
    "barman_check_is_ok",
    "barman_backups_amount",
    "barman_last_backup_start_time_seconds",
    "barman_last_backup_end_time_seconds",
    "barman_last_backup_size_bytes",
    "barman_last_backup_duration_total_seconds",
    "barman_last_backup_duration_copy_seconds",
    "barman_oldest_backup_end_time_seconds",
    "barman_disk_free_bytes",
    "barman_disk_used_bytes",
];

/// The value of a metric, whatever its labels.
fn value(metrics: &str, name: &str) -> Option<f64> {
    let line = metrics.lines().find(|line| {
        line.strip_prefix(name).is_some_and(|rest| rest.starts_with('{') || rest.starts_with(' '))
    })?;
    line.rsplit(' ').next()?.parse().ok()
}

#[test]
fn health_and_metrics() {
    let world = World::new();
    let cluster = world.cluster(&Shape { standbys: 1, ..Shape::default() });
    world.set("DRYDOCK_MONITOR_LISTEN", "127.0.0.1:0");
    let service = world.start_backupd_for(&cluster).expect_anything();
    let port = service.monitor_port();
    let get = |path: &str| http::get(port, path).map(|Answer { status, body }| (status, body));
    assert_eq!(get("/healthz").expect("an answer").0, 200);
    wait_until("the service to be ready", TOLD_WITHIN, || {
        get("/readyz").is_some_and(|(code, _)| code == 200)
    });
    world.backup();
    let told = |name: &str| get("/metrics").and_then(|(_, metrics)| value(&metrics, name));
    wait_until("the backup to be told", TOLD_WITHIN, || told("drydock_backups") == Some(1.0));
    let (status, metrics) = get("/metrics").expect("an answer");
    assert_eq!(status, 200);
    for name in POSTDOCK {
        assert!(value(&metrics, name).is_some(), "{name}:\n{metrics}");
    }
    for (name, expected) in [
        ("drydock_ready", 1.0),
        ("drydock_streaming", 1.0),
        ("drydock_holes", 0.0),
        ("drydock_gaps", 0.0),
        ("barman_check_is_ok", 1.0),
        ("barman_backups_amount", 1.0),
    ] {
        assert_eq!(value(&metrics, name), Some(expected), "{name}:\n{metrics}");
    }
    // Each name of ours is in the documents.
    let documents =
        std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/operations.md")).expect("read");
    for name in
        metrics.lines().filter(|line| !line.starts_with('#')).filter_map(|line| line.split(['{', ' ']).next())
    {
        assert!(documents.contains(&format!("`{name}`")), "docs/operations.md does not name {name}");
    }

    // Without the server it lives on, and is not ready.
    let mut cluster = cluster;
    for node in cluster.nodes() {
        cluster.kill9(node);
    }
    wait_until("the service not to be ready", TOLD_WITHIN, || {
        get("/readyz").is_some_and(|(code, _)| code == 503)
    });
    assert_eq!(get("/healthz").expect("an answer").0, 200);
    assert_eq!(told("drydock_streaming"), Some(0.0));
    assert_eq!(get("/nothing").expect("an answer").0, 404);
    service.stop();
}

#[test]
fn a_port_that_is_taken() {
    let world = World::new();
    let primary = world.postgres();
    world.point_at(&primary);
    let held = TcpListener::bind("127.0.0.1:0").expect("bind a port");
    let taken = held.local_addr().expect("an address");
    world.set("DRYDOCK_MONITOR_LISTEN", &taken.to_string());
    let service = world.launch_backupd().expect_anything();
    service.wait_until_it_says(&["monitor.listen", "cannot be listened on"]);
    assert_eq!(service.wait_for_end(), 3);
}
