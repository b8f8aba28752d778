//! The repository's disk runs full: nothing acknowledged is lost, the log says why, and with space it goes on.

use std::time::{Duration, Instant};

use e2e::{Load, Postgres, Service, World};

const FILLS_WITHIN: Duration = Duration::from_secs(120);

#[test]
fn it_says_so_loses_nothing_and_goes_on() {
    let world = World::new();
    let disk = world.small_file_system(40);
    world.put_repository_at(&disk.path().join("repository"));
    let mut primary = world.postgres();
    Load::create_table(&primary);
    primary.sql("create table filler (body text)");
    let mut service = world.start_backupd(&primary).expect_anything();
    world.backup();

    let load = Load::start(&primary, 1, 2);
    fill(&primary, &service);
    let acknowledged = world.acknowledged(&primary);
    std::thread::sleep(Duration::from_secs(3));
    service.still_runs();
    service.wait_until_it_says(&["no space left"]);
    primary.wait_streaming("drydock");
    let commits = load.stop();
    let durable = commits.iter().filter(|commit| commit.lsn.is_some_and(|lsn| lsn <= acknowledged)).count();
    assert!(durable > 0, "the story proves little without a durable commit");

    // With the disk still full, all that was acknowledged comes back.
    let node = world.restore_newest();
    let restored: usize = node.value("select count(*) from ledger").parse().unwrap();
    assert!(restored >= durable, "{restored} rows of {durable}");
    drop(node);
    let status = world.backupctl(&["status"]);
    assert!(matches!(status.code, 0 | 10), "{status:?}");

    // A backup that does not fit says so and leaves nothing.
    let backups = world.backups();
    world.backupctl(&["backup"]).fails(6, &["no space left"]);
    assert_eq!(world.backups(), backups);

    // Space returns, and nobody has to do anything.
    disk.grow(400);
    service.wait_until_durable(&primary);
    world.backup();
    service.stop();
    let expected = primary.value("select count(*) from ledger");
    primary.destroy();
    assert_eq!(world.restore_newest().value("select count(*) from ledger"), expected);
    assert_eq!(world.holes(), Vec::<serde_json::Value>::new());
}

/// Writes what does not compress until the service has no room for it.
fn fill(primary: &Postgres, service: &Service) {
    let start = Instant::now();
    while !service.log_text().to_lowercase().contains("no space left") {
        assert!(start.elapsed() < FILLS_WITHIN, "the disk does not run full");
        primary.sql(
            "insert into filler select string_agg(md5(random()::text), '') from generate_series(1, 20000) k group by k % 500",
        );
    }
}
