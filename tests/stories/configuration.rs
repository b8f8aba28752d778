//! What is wrong with a configuration is said in a sentence, before anything begins.

use e2e::World;

const WRONG: i32 = 3;

/// A world whose configuration is in order.
fn in_order() -> World {
    let world = World::new();
    for (variable, value) in [
        ("REPLICATION_HOST", "db"),
        ("REPLICATION_USER", "drydock"),
        ("REPLICATION_PASSWORD", "a secret that nobody may see"),
    ] {
        world.set(variable, value);
    }
    world
}

#[test]
fn a_configuration_in_order() {
    let world = in_order();
    world.set("REPLICATION_HOST", "db1,db2:5433");
    world.set("BACKUP_SCHEDULE", "0 2 * * *");
    world.set("BACKUP_RETENTION_DAYS", "30");
    world.set("DRYDOCK_MONITOR_LISTEN", "127.0.0.1:8080");
    let said = world.backupd(&["check-config"]).success().stdout;
    for words in ["db1:5432, db2:5433", "0 2 * * * in UTC, next at", "retention settings", "127.0.0.1:8080"] {
        assert!(said.contains(words), "{words}:\n{said}");
    }
    assert!(!said.contains("nobody may see"), "{said}");
    assert!(world.objects().keys().is_empty(), "nothing is made");
}

/// One variable is wrong at a time.
#[test]
fn wrong_variables() {
    let world = in_order();
    for (variable, value, words) in [
        ("DRYDOCK_REPOSITORY", "", &["no repository", "DRYDOCK_REPOSITORY"][..]),
        ("DRYDOCK_REPOSITORY", "ftp://backup/x", &["DRYDOCK_REPOSITORY", "file:///"]),
        ("DRYDOCK_REPOSITORY", "backups", &["DRYDOCK_REPOSITORY"]),
        ("DRYDOCK_CLUSTER", ".hidden", &["DRYDOCK_CLUSTER"]),
        ("REPLICATION_HOST", "", &["no server", "REPLICATION_HOST"]),
        ("REPLICATION_HOST", "db:0", &["REPLICATION_HOST"]),
        ("REPLICATION_USER", "", &["no role", "REPLICATION_USER"]),
        ("REPLICATION_PORT", "70000", &["REPLICATION_PORT", "1 to 65535"]),
        ("POSTGRES_PASSWORD_FILE", "/nowhere/password", &["POSTGRES_PASSWORD_FILE", "/nowhere/password"]),
        ("REPLICATION_SLOT_NAME", "My-Slot", &["REPLICATION_SLOT_NAME", "lower-case"]),
        ("USE_REPLICATION_SLOTS", "perhaps", &["USE_REPLICATION_SLOTS", "true or false"]),
        ("PGSSLMODE", "maybe", &["PGSSLMODE", "verify-full"]),
        ("POSTGRES_CONNECTION_TIMEOUT", "soon", &["POSTGRES_CONNECTION_TIMEOUT", "10s"]),
        ("DRYDOCK_WORKERS", "0", &["DRYDOCK_WORKERS"]),
        ("DRYDOCK_WAL_FLUSH_INTERVAL", "0s", &["DRYDOCK_WAL_FLUSH_INTERVAL"]),
        ("DRYDOCK_BACKUP_LEVEL", "20", &["DRYDOCK_BACKUP_LEVEL", "1 to 19"]),
        ("DRYDOCK_BACKUP_MAX_RATE", "fast", &["DRYDOCK_BACKUP_MAX_RATE", "50MB"]),
        ("DRYDOCK_BACKUP_SOURCE", "anybody", &["DRYDOCK_BACKUP_SOURCE", "prefer-standby"]),
        ("BACKUP_SCHEDULE", "at night", &["BACKUP_SCHEDULE", "cron line"]),
        ("BACKUP_SCHEDULE", "0 0 31 2 *", &["BACKUP_SCHEDULE", "no day is ever like that"]),
        ("DRYDOCK_VERIFY_SCHEDULE", "often", &["DRYDOCK_VERIFY_SCHEDULE", "cron line"]),
        ("DRYDOCK_VERIFY_SHARE", "101", &["DRYDOCK_VERIFY_SHARE", "0 to 100"]),
        ("DRYDOCK_RETENTION_SCHEDULE", "61 * * * *", &["DRYDOCK_RETENTION_SCHEDULE", "cron line"]),
        ("DRYDOCK_API_TOKEN_FILE", "/nowhere/token", &["DRYDOCK_API_TOKEN_FILE", "/nowhere/token"]),
        ("DRYDOCK_SCHEDULE_TIMEZONE", "Mars/Olympus", &["DRYDOCK_SCHEDULE_TIMEZONE", "Europe/Berlin"]),
        ("DRYDOCK_SCHEDULE_WINDOW", "night", &["DRYDOCK_SCHEDULE_WINDOW", "22:00-06:00"]),
        ("BACKUP_RETENTION_DAYS", "-1", &["BACKUP_RETENTION_DAYS"]),
        ("DRYDOCK_RETENTION_MONTHLY", "12", &["retention.days"]),
        ("DRYDOCK_SERVE_LISTEN", "127.0.0.1:8443", &["token", "DRYDOCK_SERVE_TOKEN_FILE"]),
        ("DRYDOCK_SERVE_LISTEN", "0.0.0.0:8443", &["serve.listen", "TLS"]),
        ("DRYDOCK_MONITOR_LISTEN", "8080", &["DRYDOCK_MONITOR_LISTEN", "0.0.0.0:8080"]),
        ("DRYDOCK_LOG_FORMAT", "xml", &["DRYDOCK_LOG_FORMAT", "text or json"]),
    ] {
        let before = world.unset(variable);
        world.set(variable, value);
        let said = world.backupd(&["check-config"]).fails(WRONG, words);
        assert!(!said.stderr.contains("nobody may see"), "{said:?}");
        // The service itself says the same, and does not begin.
        world.backupd(&["run"]).fails(WRONG, words);
        world.unset(variable);
        if let Some(before) = before {
            world.set(variable, &before);
        }
    }
    assert!(world.objects().keys().is_empty(), "nothing was made");
}

/// The same for files.
#[test]
fn wrong_files() {
    let world = in_order();
    for (text, words) in [
        ("[server]\nhosst = \"db\"\n", &["hosst", "did you mean \"server.host\"?"][..]),
        ("[retention]\ndayz = 30\n", &["dayz", "retention.days"]),
        ("repository = \n", &["line 1"]),
        ("[server]\nport = \"many\"\n", &["server.port", "1 to 65535"]),
        ("[backup]\nschedule = [\"0 2 * * *\"]\n", &["backup.schedule"]),
        ("[server]\npassword = \"x\"\npassword_file = \"/nowhere\"\n", &["server.password"]),
    ] {
        world.unset("REPLICATION_PASSWORD");
        let file = world.write_private("drydock.toml", text);
        world.set("DRYDOCK_CONFIG", file.to_str().expect("a plain path"));
        world.backupd(&["check-config"]).fails(WRONG, words);
    }
    world.set("DRYDOCK_CONFIG", "/nowhere/drydock.toml");
    world.backupd(&["check-config"]).fails(WRONG, &["/nowhere/drydock.toml"]);
}
