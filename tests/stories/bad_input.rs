//! Whatever is wrong, one clear sentence names it, and the exit code tells its class.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use e2e::{Kind, Options, Postgres, ROLE, Service, World, wait_until};

const ANSWERS_WITHIN: Duration = Duration::from_secs(60);

const USAGE: i32 = 2;
const CONFIGURATION: i32 = 3;
const UNREACHABLE: i32 = 4;
const UNSUITABLE: i32 = 5;
const REPOSITORY: i32 = 6;
const DAMAGED: i32 = 7;
const NO_SUCH_TARGET: i32 = 8;
const DESTINATION: i32 = 9;

fn with_server() -> (World, Postgres) {
    let world = World::new();
    let server = world.postgres();
    world.point_at(&server);
    (world, server)
}

/// A world whose repository holds a backup; the service has stopped.
fn with_backup() -> (World, Postgres, String) {
    let (world, server) = with_server();
    let service = world.start_backupd(&server);
    let backup = world.backup();
    service.wait_until_durable(&server);
    service.stop();
    (world, server, backup)
}

/// The service says it too. It may end with the class's code, or keep trying where time can mend it.
#[track_caller]
fn service_says(service: Service, code: i32, named: &[&str]) {
    let mut service = service.expect_anything();
    let says_all = |log: String| named.iter().all(|word| log.to_lowercase().contains(&word.to_lowercase()));
    wait_until(&format!("backupd to say {named:?}"), ANSWERS_WITHIN, || {
        says_all(service.log_text()) || service.exited().is_some()
    });
    assert!(says_all(service.log_text()), "should name {named:?}:\n{}", service.log_text());
    assert!(!service.log_text().contains("panicked"), "{}", service.log_text());
    std::thread::sleep(Duration::from_millis(500));
    assert!(
        service.exited().is_none_or(|ended| ended == code),
        "should end with {code}: {:?}",
        service.exited()
    );
}

// ---- the way to the server

#[test]
fn wrong_host() {
    let (world, _server) = with_server();
    world.set("REPLICATION_HOST", "no-such-host.invalid");
    world.backupctl(&["backup"]).fails(UNREACHABLE, &["no-such-host.invalid"]);
    service_says(world.launch_backupd(), UNREACHABLE, &["no-such-host.invalid"]);
}

#[test]
fn wrong_port() {
    let (world, _server) = with_server();
    world.set("REPLICATION_PORT", "9");
    world.backupctl(&["backup"]).fails(UNREACHABLE, &["127.0.0.1", "9", "refused"]);
    service_says(world.launch_backupd(), UNREACHABLE, &["127.0.0.1", "refused"]);
}

#[test]
fn wrong_password() {
    let (world, _server) = with_server();
    world.set("REPLICATION_PASSWORD", "wrong");
    world.backupctl(&["backup"]).fails(UNREACHABLE, &["password", ROLE.0]);
    service_says(world.launch_backupd(), UNREACHABLE, &["password", ROLE.0]);
}

#[test]
fn no_password() {
    let (world, _server) = with_server();
    world.unset("REPLICATION_PASSWORD");
    world.backupctl(&["backup"]).fails(UNREACHABLE, &["password"]);
}

#[test]
fn unknown_role() {
    let (world, _server) = with_server();
    world.set("REPLICATION_USER", "nobody_here");
    world.backupctl(&["backup"]).fails(UNREACHABLE, &["nobody_here"]);
}

#[test]
fn no_pg_hba_line_for_replication() {
    let (world, server) = with_server();
    server.hba(&["local all all trust", "host all all 127.0.0.1/32 scram-sha-256"]);
    server.reload();
    world.backupctl(&["backup"]).fails(UNSUITABLE, &["pg_hba.conf", "replication"]);
    service_says(world.launch_backupd(), UNSUITABLE, &["pg_hba.conf", "replication"]);
}

#[test]
fn tls_refused() {
    let (world, _server) = with_server();
    world.set("PGSSLMODE", "require");
    world.backupctl(&["backup"]).fails(UNREACHABLE, &["TLS"]);
    service_says(world.launch_backupd(), UNREACHABLE, &["TLS"]);
}

// ---- the server

#[test]
fn role_without_replication() {
    let (world, server) = with_server();
    server.sql(&format!("alter role {} noreplication", ROLE.0));
    world.backupctl(&["backup"]).fails(UNSUITABLE, &[ROLE.0, "REPLICATION"]);
    service_says(world.launch_backupd(), UNSUITABLE, &[ROLE.0, "REPLICATION"]);
}

#[test]
fn wal_level_minimal() {
    let world = World::new();
    let settings = vec!["wal_level = minimal".into(), "max_wal_senders = 0".into()];
    let server = world.postgres_with(&Options { settings, ..Options::default() });
    world.point_at(&server);
    world.backupctl(&["backup"]).fails(UNSUITABLE, &["wal_level"]);
    service_says(world.launch_backupd(), UNSUITABLE, &["wal_level"]);
}

#[test]
fn no_walsender_left() {
    let world = World::new();
    let settings = vec!["max_wal_senders = 1".into()];
    let server = world.postgres_with(&Options { settings, ..Options::default() });
    let _other =
        server.spawn("pg_receivewal", &["-D", world.directory("other").to_str().unwrap(), "--no-sync"]);
    server.wait_streaming("pg_receivewal");
    world.point_at(&server);
    service_says(world.launch_backupd(), UNSUITABLE, &["max_wal_senders"]);
}

#[test]
fn no_free_slot() {
    let world = World::new();
    let settings = vec!["max_replication_slots = 1".into()];
    let server = world.postgres_with(&Options { settings, ..Options::default() });
    server.sql("select pg_create_physical_replication_slot('taken')");
    world.point_at(&server);
    service_says(world.launch_backupd(), UNSUITABLE, &["drydock", "max_replication_slots"]);
}

#[test]
fn slot_active_elsewhere() {
    let (world, server) = with_server();
    server.sql("select pg_create_physical_replication_slot('drydock', true)");
    let directory = world.directory("other");
    let _other =
        server.spawn("pg_receivewal", &["-D", directory.to_str().unwrap(), "-S", "drydock", "--no-sync"]);
    server.wait_streaming("pg_receivewal");
    service_says(world.launch_backupd(), UNSUITABLE, &["slot", "drydock", "active"]);
}

#[test]
fn a_logical_slot_in_the_way() {
    let world = World::new();
    let server =
        world.postgres_with(&Options { settings: vec!["wal_level = logical".into()], ..Options::default() });
    server.sql("select pg_create_logical_replication_slot('drydock', 'pgoutput')");
    world.point_at(&server);
    service_says(world.launch_backupd(), UNSUITABLE, &["slot", "drydock", "logical"]);
}

#[test]
fn another_clusters_system_identifier() {
    let (world, server, _) = with_backup();
    let stranger = world.postgres();
    let identifier = |node: &Postgres| node.value("select system_identifier from pg_control_system()");
    let named = [identifier(&server), identifier(&stranger)];
    let named: Vec<&str> = named.iter().map(String::as_str).collect();
    let before = world.objects().keys();
    world.point_at(&stranger);
    world.backupctl(&["backup"]).fails(UNSUITABLE, &named);
    service_says(world.launch_backupd(), UNSUITABLE, &named);
    let data_objects =
        |keys: Vec<String>| keys.into_iter().filter(|key| !key.contains("/state/")).collect::<Vec<_>>();
    assert_eq!(data_objects(world.objects().keys()), data_objects(before), "nothing of a stranger's is kept");
}

#[test]
fn backup_without_the_service() {
    let (world, _server) = with_server();
    let output = world.backupctl(&["backup"]);
    assert_ne!(output.code, 0, "{output:?}");
    output.names(&["backupd"]);
}

// ---- the repository

#[test]
fn unwritable_directory() {
    let (world, _server) = with_server();
    let directory = world.directory("closed");
    fs::set_permissions(&directory, fs::Permissions::from_mode(0o555)).unwrap();
    world.put_repository_at(&directory.join("repository"));
    let name = directory.to_str().unwrap();
    world.backupctl(&["backup"]).fails(REPOSITORY, &[name, "permission denied"]);
    service_says(world.launch_backupd(), REPOSITORY, &[name, "permission denied"]);
}

#[test]
fn repository_that_is_a_file() {
    let (world, _server) = with_server();
    let file = world.write_private("file", "not a directory");
    world.put_repository_at(&file);
    service_says(world.launch_backupd(), REPOSITORY, &[file.to_str().unwrap()]);
}

#[test]
fn nothing_there_yet() {
    let (world, _server) = with_server();
    let named = world.objects().path("");
    let named = named.to_str().unwrap().trim_end_matches('/');
    world.backupctl(&["list"]).fails(REPOSITORY, &[named]);
    assert!(!world.objects().path("").exists(), "looking makes nothing");
}

#[test]
fn repository_of_a_newer_format() {
    let (world, _server, _) = with_backup();
    let path = world.objects().path("repository.json");
    let mut document: serde_json::Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    document["format"] = 999.into();
    fs::remove_file(&path).unwrap();
    fs::write(&path, document.to_string()).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
    for verb in [&["list"][..], &["backup"], &["verify"]] {
        world.backupctl(verb).fails(REPOSITORY, &["repository.json", "format", "999"]);
    }
    service_says(world.launch_backupd(), REPOSITORY, &["repository.json", "format", "999"]);
}

#[test]
fn missing_documents_at_the_top() {
    let (world, _server, _) = with_backup();
    let objects = world.objects();
    for key in ["repository.json".to_owned(), format!("{}/cluster.json", World::CLUSTER)] {
        let _damage = objects.hide(&key);
        let output = world.backupctl(&["list"]);
        assert!(matches!(output.code, REPOSITORY | DAMAGED), "{key}: {output:?}");
        output.names(&[&key]);
    }
}

#[test]
fn unknown_cluster() {
    let (world, _server, _) = with_backup();
    world.set("DRYDOCK_CLUSTER", "somewhere_else");
    let output = world.backupctl(&["list"]);
    assert!(matches!(output.code, REPOSITORY | DAMAGED | NO_SUCH_TARGET), "{output:?}");
    output.names(&["somewhere_else"]);
}

// ---- restore

#[test]
fn unknown_backup() {
    let (world, _server, _) = with_backup();
    world.backupctl(&["show", "19990101T000000Z"]).fails(NO_SUCH_TARGET, &["19990101T000000Z"]);
    let data = world.fresh("restored");
    world.try_restore(&data, &["--backup", "19990101T000000Z"]).fails(NO_SUCH_TARGET, &["19990101T000000Z"]);
    assert!(!data.exists());
}

#[test]
fn no_backup_at_all() {
    let (world, server) = with_server();
    world.start_backupd(&server).stop();
    world.try_restore(&world.fresh("restored"), &[]).fails(NO_SUCH_TARGET, &["backup"]);
}

#[test]
fn unknown_timeline() {
    let (world, _server, _) = with_backup();
    world
        .try_restore(&world.fresh("restored"), &["--target-timeline", "7"])
        .fails(NO_SUCH_TARGET, &["timeline", "7"]);
}

#[test]
fn a_directory_with_something_in_it() {
    let (world, server, _) = with_backup();
    let data = world.directory("taken");
    fs::write(data.join("precious"), "data").unwrap();
    world.try_restore(&data, &[]).fails(DESTINATION, &[data.to_str().unwrap(), "empty"]);
    assert_eq!(fs::read_dir(&data).unwrap().count(), 1);
    assert_eq!(fs::read_to_string(data.join("precious")).unwrap(), "data");
    // Least of all a running cluster's.
    world.try_restore(server.data(), &[]).fails(DESTINATION, &[server.data().to_str().unwrap(), "empty"]);
    server.sql("select 1");
}

#[test]
fn a_directory_that_cannot_be_made() {
    let (world, _server, _) = with_backup();
    let closed = world.directory("closed");
    fs::set_permissions(&closed, fs::Permissions::from_mode(0o555)).unwrap();
    let data = closed.join("data");
    world.try_restore(&data, &[]).fails(DESTINATION, &[data.to_str().unwrap(), "permission denied"]);
}

#[test]
fn an_empty_directory_is_fine() {
    let (world, _server, _) = with_backup();
    let data = world.directory("empty");
    world.try_restore(&data, &["--target-action", "promote"]).success();
    world.adopt(&data).start().wait_promoted();
}

// ---- wal fetch, which PostgreSQL reads by its exit code

#[test]
fn wal_that_is_not_there() {
    let (world, _server, _) = with_backup();
    let target = world.directory("wal").join("out");
    let fetch = |segment: &str| world.backupctl(&["wal", "fetch", segment, target.to_str().unwrap()]);
    assert_eq!(fetch("0000000100000FFF000000FF").code, 1, "not in the archive");
    assert_eq!(fetch("00000002.history").code, 1, "no such timeline");
    assert!(!target.exists());
}

#[test]
fn wal_nobody_can_find_out_about() {
    let (world, _server, _) = with_backup();
    let target = world.directory("wal").join("out");
    let segment = world.objects().last(Kind::Segment);
    let segment = segment.rsplit('/').next().unwrap().trim_end_matches(".zst");
    world.put_repository_at(&world.fresh("gone"));
    let fetched = world.backupctl(&["wal", "fetch", segment, target.to_str().unwrap()]);
    assert_eq!(fetched.code, 200, "an archive that is gone is not an empty archive: {fetched:?}");
    assert!(!target.exists());
}

// ---- command line and configuration

#[test]
fn nonsense_on_the_command_line() {
    let world = World::new();
    for arguments in [
        &["frobnicate"][..],
        &["restore"],
        &["restore", "--data-dir", "/x", "--target-lsn", "0/1", "--target-xid", "5"],
        &["restore", "--data-dir", "/x", "--target-lsn", "nonsense"],
        &["restore", "--data-dir", "/x", "--target-time", "yesterday-ish"],
        &["restore", "--data-dir", "/x", "--target-timeline", "0"],
        &["--output", "xml", "list"],
        &["wal", "fetch"],
    ] {
        let output = world.backupctl(arguments);
        // A restore_command with a mistake in it must stop recovery, like all that keeps wal fetch from knowing.
        let code = if arguments[0] == "wal" { 200 } else { USAGE };
        assert_eq!(output.code, code, "{output:?}");
        assert!(!output.stderr.is_empty(), "{output:?}");
    }
}

#[test]
fn nonsense_in_the_configuration() {
    let world = World::new();
    world.set("DRYDOCK_REPOSITORY", "ftp://somewhere/else");
    world.backupctl(&["list"]).fails(CONFIGURATION, &["DRYDOCK_REPOSITORY", "ftp"]);
    world.unset("DRYDOCK_REPOSITORY");
    world.backupctl(&["list"]).fails(CONFIGURATION, &["DRYDOCK_REPOSITORY"]);
    world.put_repository_at(&world.fresh("repository"));
    world.set("REPLICATION_PORT", "many");
    world.backupctl(&["backup"]).fails(CONFIGURATION, &["REPLICATION_PORT", "many"]);
    world.unset("REPLICATION_PORT");
    world.set("DRYDOCK_CLUSTER", "../elsewhere");
    world.backupctl(&["list"]).fails(CONFIGURATION, &["../elsewhere"]);
}

#[test]
fn a_configuration_file_that_is_wrong() {
    let world = World::new();
    world.backupctl(&["--config", "/no/such/file", "list"]).fails(CONFIGURATION, &["/no/such/file"]);
    // For PostgreSQL it is not "the segment is not there", or recovery would end here and promote.
    let fetch = ["--config", "/no/such/file", "wal", "fetch", "000000010000000000000001", "out"];
    assert_eq!(world.backupctl(&fetch).code, 200);
    let file = world.write_private("drydock.toml", "no_such_setting = true\n");
    let name = file.to_str().unwrap();
    world.backupctl(&["--config", name, "list"]).fails(CONFIGURATION, &[name, "no_such_setting"]);
}
