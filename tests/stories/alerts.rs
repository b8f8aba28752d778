//! The alerts that ship with Drydock, each fired by what it is for: a real Prometheus asks a real service.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::Path;
use std::time::Duration;

use e2e::{
    Kind, Load, Loss, Objects, Options, Postgres, Prometheus, Shape, Shutdown, World, http, wait_until,
};
use serde_json::json;

const DONE_WITHIN: Duration = Duration::from_secs(120);
const TOKEN: &str = "0123456789abcdef0123";

/// What is to fire in which story.
const OF_BACKUPS: [&str; 7] = [
    "DrydockNoBackup",
    "DrydockBackupTooOld",
    "DrydockCorruptPages",
    "DrydockGap",
    "DrydockBackupUnreadable",
    "DrydockVerificationFindings",
    "DrydockVerificationTooOld",
];
const OF_STORAGE: [&str; 6] = [
    "DrydockRepositoryFull",
    "DrydockHole",
    "DrydockLag",
    "DrydockNotReady",
    "DrydockFiguresOld",
    "DrydockDown",
];
const OF_NODES: [&str; 3] = ["DrydockNodeUnreachable", "DrydockSlotRetains", "DrydockFormerPrimary"];

fn rules() -> String {
    fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../monitoring/drydock.rules.yml")).expect("read")
}

#[test]
fn every_alert_has_a_story_and_every_metric_in_one_is_told() {
    let rules = rules();
    let shipped: BTreeSet<&str> =
        rules.lines().filter_map(|line| line.trim().strip_prefix("- alert: ")).collect();
    let told: BTreeSet<&str> = [&OF_BACKUPS[..], &OF_STORAGE, &OF_NODES].concat().into_iter().collect();
    assert_eq!(shipped, told);
    let documents = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/operations.md");
    let documents = fs::read_to_string(documents).expect("read");
    let dashboard = concat!(env!("CARGO_MANIFEST_DIR"), "/../monitoring/grafana.json");
    let dashboard = fs::read_to_string(dashboard).expect("read");
    for text in [&rules, &dashboard] {
        let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
        for metric in words.filter(|word| word.starts_with("drydock_") || word.starts_with("barman_")) {
            assert!(documents.contains(&format!("`{metric}`")), "docs/operations.md does not name {metric}");
        }
    }
}

/// Has something done by the service, which looks at the repository then.
#[track_caller]
fn has_done(port: u16, path: &str, document: &serde_json::Value) {
    let post =
        http::request(port, "POST", path, Some(TOKEN), Some(&document.to_string())).expect("an answer");
    assert_eq!(post.status, 202, "{post:?}");
    let path = format!("/api/v1/operations/{}", post.json()["id"]);
    wait_until("it to be done", DONE_WITHIN, || {
        http::request(port, "GET", &path, Some(TOKEN), None)
            .is_some_and(|one| one.json()["state"] != "running")
    });
}

/// Changes a byte of a page behind the server's back.
fn corrupt_a_page(server: &mut Postgres) {
    server.sql("create table victim as select n from generate_series(1, 20000) n; checkpoint");
    let file = server.data().join(server.value("select pg_relation_filepath('victim')"));
    server.stop(Shutdown::Fast);
    let file = fs::OpenOptions::new().read(true).write(true).open(file).expect("open the table");
    let mut byte = [0];
    file.read_exact_at(&mut byte, 3 * 8192 + 4000).expect("read the page");
    file.write_all_at(&[byte[0] ^ 0x55], 3 * 8192 + 4000).expect("write the page");
    server.start_again();
}

#[test]
fn of_backups_and_what_is_stored() {
    let world = World::new();
    let mut primary = world.postgres_with(&Options { segment_mib: 1, ..Options::default() });
    world.set("DRYDOCK_MONITOR_LISTEN", "127.0.0.1:0");
    world.set("DRYDOCK_API_TOKEN", TOKEN);
    let service = world.start_backupd(&primary).expect_anything();
    let port = service.monitor_port();
    let limits = [("age_seconds > 93600", "age_seconds > 1"), ("age_seconds > 691200", "age_seconds > 1")];
    let prometheus = Prometheus::start(&world, port, &limits);
    prometheus.wait_until_fires(&["DrydockNoBackup"]);

    has_done(port, "/api/v1/backups", &json!({}));
    has_done(port, "/api/v1/verify", &json!({ "read": true }));
    prometheus.wait_until_fires(&["DrydockBackupTooOld", "DrydockVerificationTooOld"]);
    prometheus.wait_until_silent(&["DrydockNoBackup"]);
    let unexpected =
        ["DrydockCorruptPages", "DrydockGap", "DrydockBackupUnreadable", "DrydockVerificationFindings"];
    assert!(prometheus.firing().iter().all(|one| !unexpected.contains(&one.as_str())));

    corrupt_a_page(&mut primary);
    service.wait_until_durable(&primary);
    has_done(port, "/api/v1/backups", &json!({}));
    prometheus.wait_until_fires(&["DrydockCorruptPages"]);
    for _ in 0..6 {
        primary.switch_segment();
    }
    service.wait_until_durable(&primary);
    let objects: Objects = world.objects();
    let segments = objects.of(Kind::Segment);
    let _gap = objects.hide(&segments[segments.len() - 3]);
    let record = objects.of(Kind::Record).remove(0);
    let _unreadable = objects.flip(&record, 100);
    has_done(port, "/api/v1/verify", &json!({}));
    prometheus.wait_until_fires(&["DrydockGap", "DrydockBackupUnreadable", "DrydockVerificationFindings"]);
    service.stop();
}

fn close(directory: &Path, mode: u32) {
    fs::set_permissions(directory, fs::Permissions::from_mode(mode)).expect("close a directory");
}

#[test]
fn of_storage_and_the_service() {
    let world = World::new();
    let disk = world.small_file_system(100);
    let repository = disk.path().join("repository");
    world.put_repository_at(&repository);
    let settings =
        ["min_wal_size = 2MB", "max_wal_size = 4MB", "wal_keep_size = 0"].map(str::to_owned).to_vec();
    let primary = world.postgres_with(&Options { segment_mib: 1, settings, ..Options::default() });
    world.set("DRYDOCK_MONITOR_LISTEN", "127.0.0.1:0");
    let service = world.start_backupd(&primary);
    Load::create_table(&primary);
    world.backup();
    let durable = service.wait_until_durable(&primary);
    service.stop();

    // WAL goes, and the backup that the hole needs takes its time.
    primary.sql("select pg_drop_replication_slot('drydock')");
    let segment = primary.value(&format!("select pg_walfile_name('{durable}')"));
    wait_until("the server to recycle the WAL", DONE_WITHIN, || {
        primary.switch_segment();
        primary.sql("checkpoint");
        !primary.data().join("pg_wal").join(&segment).exists()
    });
    world.set("DRYDOCK_BACKUP_MAX_RATE", "32kB");
    let service = world.start_backupd(&primary).expect_anything();
    let limits =
        [("lag_seconds > 300", "lag_seconds > 2"), ("figures_age_seconds > 900", "figures_age_seconds > 75")];
    let prometheus = Prometheus::start(&world, service.monitor_port(), &limits);
    prometheus.wait_until_fires(&["DrydockHole"]);
    assert!(!prometheus.firing().contains(&"DrydockRepositoryFull".to_owned()));

    // Something else fills the disk.
    let filler = disk.path().join("filler");
    let free = || rustix::fs::statvfs(disk.path()).map(|found| found.f_bavail * found.f_frsize).expect("ask");
    let most = usize::try_from(free().saturating_sub(600 << 10)).expect("a size");
    fs::write(&filler, vec![7; most]).expect("fill the disk");
    prometheus.wait_until_fires(&["DrydockRepositoryFull"]);
    fs::remove_file(&filler).expect("make room");

    // Nothing can be read or written any more.
    let load = Load::start(&primary, 1, 1);
    close(&repository.join(World::CLUSTER), 0);
    prometheus.wait_until_fires(&["DrydockLag", "DrydockNotReady", "DrydockFiguresOld"]);
    close(&repository.join(World::CLUSTER), 0o700);
    prometheus.wait_until_silent(&["DrydockLag", "DrydockNotReady"]);
    drop(load);
    service.kill9();
    prometheus.wait_until_fires(&["DrydockDown"]);
}

#[test]
fn of_nodes() {
    let world = World::new();
    let mut cluster = world.cluster(&Shape { standbys: 2, ..Shape::default() });
    world.set("DRYDOCK_MONITOR_LISTEN", "127.0.0.1:0");
    let service = world.start_backupd_for(&cluster).expect_anything();
    Load::create_table(cluster.primary());
    world.backup();
    let limits = [("slot_retained_bytes > 16e9", "slot_retained_bytes > 1e6")];
    let prometheus = Prometheus::start(&world, service.monitor_port(), &limits);
    cluster.primary().pgbench_tables(1);
    prometheus.wait_until_fires(&["DrydockSlotRetains"]);
    let quiet = ["DrydockNodeUnreachable", "DrydockFormerPrimary"];
    assert!(prometheus.firing().iter().all(|one| !quiet.contains(&one.as_str())));

    let lost = cluster.standbys()[1];
    cluster.kill9(lost);
    prometheus.wait_until_fires(&["DrydockNodeUnreachable"]);

    // The primary goes, a standby is promoted, and the old primary comes back as what it was.
    let old = cluster.primary_node();
    let heir = cluster.standbys()[0];
    cluster.wait_until_has(heir, cluster.primary().current_lsn());
    cluster.lose_primary(Loss::Kill9);
    cluster.promote(heir);
    wait_until("the new primary to be streamed from", DONE_WITHIN, || cluster.engine_streams_from(heir));
    cluster.start_again(old);
    cluster.server(old).sql("insert into ledger values (1, 1, 'nobody will see this')");
    prometheus.wait_until_fires(&["DrydockFormerPrimary"]);
    service.stop();
}
