//! The service takes backups by the clock, removes what has expired, and does so with the environment that PostDock's users have.

use std::time::{Duration, Instant};

use e2e::{Postgres, World, wait_until};

/// A line that comes every minute comes within so long, the backup included.
const NEXT_WITHIN: Duration = Duration::from_secs(100);
const FIRST_WITHIN: Duration = Duration::from_secs(30);

fn wait_for_backups(world: &World, count: usize, within: Duration) -> Vec<String> {
    wait_until(&format!("{count} backups"), within, || {
        // Before the service has come to it, there is no repository.
        let list = world.backupctl(&["list"]);
        list.code == 0 && world.backups().len() >= count
    });
    world.backups()
}

#[test]
fn backups_by_the_clock() {
    let world = World::new();
    let primary = world.postgres();
    world.set("BACKUP_SCHEDULE", "* * * * *");
    world.set("DRYDOCK_BACKUP_MAXIMUM_AGE", "1h");
    let service = world.start_backupd(&primary);
    // What was due before anybody was there is made up for.
    let first = wait_for_backups(&world, 1, FIRST_WITHIN);
    world.backupctl(&["status"]).success();
    // One that a person takes counts as well.
    let by_hand = world.backup();
    let began = Instant::now();
    let all = wait_for_backups(&world, 3, NEXT_WITHIN);
    assert!(began.elapsed() < NEXT_WITHIN);
    assert_eq!((&all[0], &all[1]), (&first[0], &by_hand));
    service.stop();
    world.set("DRYDOCK_BACKUP_MAXIMUM_AGE", "1s");
    std::thread::sleep(Duration::from_secs(2));
    let status = world.backupctl(&["status"]);
    assert!(status.code == 10 && status.stdout.contains("backup.maximum_age"), "{status:?}");
}

/// Another role, another slot, and names that PostDock's compose file has for its backup container.
#[test]
fn with_the_environment_of_postdock() {
    let world = World::new();
    let primary = world.postgres();
    primary.sql("create role monkey_user superuser login password 'monkey_pass'");
    primary.sql("create role replication_user login replication password 'replication_pass'; grant pg_monitor to replication_user");
    primary.sql("create database monkey_db owner monkey_user");
    for variable in ["DRYDOCK_CLUSTER", "DRYDOCK_REPOSITORY"] {
        world.unset(variable);
    }
    let directory = world.directory("backups");
    for (variable, value) in [
        ("REPLICATION_HOST", "127.0.0.1"),
        ("REPLICATION_PORT", &primary.port().to_string()),
        ("REPLICATION_USER", "replication_user"),
        ("REPLICATION_PASSWORD", "replication_pass"),
        ("REPLICATION_SLOT_NAME", "barman_the_backupper"),
        ("POSTGRES_USER", "monkey_user"),
        ("POSTGRES_PASSWORD", "monkey_pass"),
        ("POSTGRES_DB", "monkey_db"),
        ("POSTGRES_CONNECTION_TIMEOUT", "20"),
        ("UPSTREAM_NAME", "pg_cluster"),
        ("UPSTREAM_CONFIG_FILE", "/etc/barman.d/upstream.conf"),
        ("BACKUP_DIR", directory.to_str().expect("a plain path")),
        ("BACKUP_SCHEDULE", "*/30 */5 * * *"),
        ("BACKUP_RETENTION_DAYS", "30"),
        ("WAIT_UPSTREAM_TIMEOUT", "60"),
        ("SSH_ENABLE", "1"),
    ] {
        world.set(variable, value);
    }
    let service = world.launch_backupd();
    let backups = wait_for_backups(&world, 1, FIRST_WITHIN);
    assert!(directory.join("pg_cluster/backups").join(&backups[0]).join("record.json").exists());
    expect_slot(&primary, "barman_the_backupper");
    let plan = world.json(&["expire", "--dry-run"]);
    assert!(plan["nothing_because"].is_null() && plan["window_since"].is_string(), "{plan:#}");
    world.backupctl(&["check"]).success();
    service.stop();
}

#[track_caller]
fn expect_slot(server: &Postgres, name: &str) {
    let active = format!("select active from pg_replication_slots where slot_name = '{name}'");
    assert_eq!(server.value(&active), "t");
}

#[test]
fn schedules_that_make_no_sense() {
    let world = World::new();
    let refused = |variable: &str, value: &str, words: &[&str]| {
        world.set(variable, value);
        world.backupctl(&["list"]).fails(3, words);
        world.unset(variable);
    };
    refused("BACKUP_SCHEDULE", "every night", &["BACKUP_SCHEDULE", "cron line"]);
    refused("BACKUP_SCHEDULE", "0 25 * * *", &["BACKUP_SCHEDULE"]);
    refused("BACKUP_SCHEDULE", "0 0 30 2 *", &["BACKUP_SCHEDULE", "no day is ever like that"]);
    refused("DRYDOCK_SCHEDULE_TIMEZONE", "Berlin", &["DRYDOCK_SCHEDULE_TIMEZONE", "Europe/Berlin"]);
    refused("DRYDOCK_SCHEDULE_WINDOW", "22-6", &["DRYDOCK_SCHEDULE_WINDOW", "22:00-06:00"]);
    refused("DRYDOCK_BACKUP_MAXIMUM_AGE", "old", &["DRYDOCK_BACKUP_MAXIMUM_AGE"]);
}
