//! An encrypted repository: the storage's owner reads nothing, the service reads nothing, and who has the identity gets
//! everything back.

use std::fs;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use e2e::{Kind, Options, Output, Postgres, World, wait_until};

use crate::kill_service::Killed;

const ROWS: usize = 5000;
const KILLS: usize = 10;
/// How every zstd frame begins.
const ZSTD_MAGIC: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];

/// Makes an identity; gives its file and its recipient.
fn new_key(world: &World) -> (PathBuf, String) {
    let file = world.directory("keys").join("identity");
    let made = world.backupctl(&["key", "new", "--out", text(&file)]).success();
    (file, made.stdout.trim().to_owned())
}

fn text(path: &Path) -> &str {
    path.to_str().expect("a plain path")
}

/// A server that keeps its WAL files, so that they can be compared.
fn server(world: &World) -> Postgres {
    world.postgres_with(&Options { settings: vec!["wal_keep_size = 1GB".into()], ..Options::default() })
}

fn marker(world: &World) -> String {
    (0..24).map(|_| char::from(b'a' + u8::try_from(world.random(0..26)).unwrap())).collect()
}

/// Writes the marker into a table, and so into the WAL, many times over.
fn mark(server: &Postgres, table: &str, marker: &str) {
    server.sql(&format!(
        "create table {table} as select n, '{marker}' || n as secret from generate_series(1, {ROWS}) n; checkpoint"
    ));
}

/// The objects in which the marker is found, as they lie there or in anything in them that zstd decompresses.
fn objects_with(world: &World, marker: &str) -> Vec<String> {
    let holds = |bytes: &[u8]| bytes.windows(marker.len()).any(|window| window == marker.as_bytes());
    let unpacked_holds = |bytes: &[u8]| {
        let starts = (0..bytes.len()).filter(|at| bytes[*at..].starts_with(&ZSTD_MAGIC));
        let mut unpacked = starts.map(|at| {
            let (mut plain, decoder) = (Vec::new(), zstd::Decoder::new(&bytes[at..]));
            // What is not zstd after all ends in an error, and what came before it counts.
            decoder.map(|decoder| drop(decoder.single_frame().read_to_end(&mut plain))).ok();
            plain
        });
        unpacked.any(|plain| holds(&plain))
    };
    let found = |key: &String| {
        let bytes = world.objects().read(key);
        holds(&bytes) || unpacked_holds(&bytes)
    };
    world.objects().keys().into_iter().filter(found).collect()
}

#[test]
fn the_scan_finds_what_is_plain() {
    let world = World::new();
    let server = world.postgres();
    let marker = marker(&world);
    let service = world.start_backupd(&server);
    mark(&server, "marked", &marker);
    world.backup();
    server.switch_segment();
    service.wait_until_durable(&server);
    service.stop();
    let found = objects_with(&world, &marker);
    assert!(found.iter().any(|key| key.contains("/packs/")), "{found:?}");
    assert!(found.iter().any(|key| key.contains("/wal/")), "{found:?}");
}

#[test]
fn nothing_that_is_stored_is_plain_and_the_identity_brings_it_back() {
    let world = World::new();
    let (identity, recipient) = new_key(&world);
    let (service_identity, _) = new_key(&world);
    let mut server = server(&world);
    let marker = marker(&world);
    world.set("DRYDOCK_RECIPIENTS", &recipient);
    let service = world.start_backupd(&server);
    assert_eq!(world.json(&["key", "list"])["recipients"], serde_json::json!([recipient]));

    mark(&server, "one", &marker);
    let shared = |output: Output| output.success().json()["shared_bytes"].as_u64().unwrap();
    let backup = || world.backupctl(&["--output", "json", "backup"]);
    assert_eq!(shared(backup()), 0);
    mark(&server, "two", &marker);
    // Nobody here can read the maps of the first backup.
    let second = backup();
    assert!(second.stderr.contains("everything is stored anew"), "{second:?}");
    assert_eq!(shared(second), 0);
    // Two backups with a service identity: the second of them reads the maps of the first.
    world.set("DRYDOCK_SERVICE_IDENTITY_FILE", text(&service_identity));
    assert_eq!(shared(backup()), 0);
    mark(&server, "three", &marker);
    let fourth = backup();
    assert!(!fourth.stderr.contains("stored anew"), "{fourth:?}");
    assert!(shared(fourth) > 10 << 20);
    server.switch_segment();
    mark(&server, "four", &marker);
    service.wait_until_durable(&server);
    service.stop();

    assert_eq!(objects_with(&world, &marker), Vec::<String>::new());
    assert!(world.objects().keys().iter().any(|key| key.ends_with("keys/frames.age")));

    // Without the identity one sees that all is there, and reads nothing.
    assert_eq!(world.backups().len(), 4);
    assert!(world.json(&["list"])["windows"][0]["to"].is_null());
    world.backupctl(&["status"]).success();
    world.backupctl(&["verify"]).success();
    world.backupctl(&["verify", "--read"]).fails(3, &["encrypted", "no identity", "DRYDOCK_IDENTITY_FILE"]);
    let nowhere = world.fresh("nowhere");
    world.try_restore(&nowhere, &[]).fails(3, &["encrypted", "no identity", "DRYDOCK_IDENTITY_FILE"]);
    world.set("DRYDOCK_IDENTITY_FILE", text(&service_identity));
    world.try_restore(&nowhere, &[]).fails(3, &["none of the identities given opens it"]);
    assert!(!nowhere.exists());

    world.set("DRYDOCK_IDENTITY_FILE", text(&identity));
    assert!(!world.json(&["list"])["windows"][0]["to"].is_null());
    world.backupctl(&["verify", "--read"]).success();
    segments_open_with_age_and_zstd(&world, &server, &identity);
    server.destroy();
    let restored = world.restore(&["--target-action", "promote"]).verify();
    no_secret_in(restored.data());
    expect_rows(&restored.start_promoted(), &marker);

    // The same from a command, which recovery runs again for the WAL.
    world.unset("DRYDOCK_IDENTITY_FILE");
    world.set("DRYDOCK_IDENTITY_COMMAND", &format!("cat '{}'", text(&identity)));
    expect_rows(&world.restore_newest(), &marker);
}

#[track_caller]
fn expect_rows(node: &Postgres, marker: &str) {
    for table in ["one", "two", "three", "four"] {
        let count = node.value(&format!("select count(*) from {table} where secret = '{marker}' || n"));
        assert_eq!(count, ROWS.to_string(), "{table}");
    }
}

/// As docs/format.md says: what `age` and `zstd` make of a segment is the server's WAL file.
fn segments_open_with_age_and_zstd(world: &World, server: &Postgres, identity: &Path) {
    let keys = world.objects().of(Kind::Segment);
    assert!(keys.len() >= 2, "{keys:?}");
    let age = world.program("age", "age").get_program().to_owned();
    for key in keys {
        let segment = key.rsplit('/').next().unwrap().trim_end_matches(".zst");
        let plain = world.fresh("plain");
        let mut shell = world.program("sh", "dash");
        let pipe = "\"$1\" -d -i \"$2\" \"$3\" | zstd -d -q -o \"$4\"";
        shell.args(["-c", pipe, "sh"]).arg(&age).arg(identity).arg(world.objects().path(&key)).arg(&plain);
        world.run(&mut shell).success();
        let original = fs::read(server.data().join("pg_wal").join(segment)).unwrap();
        assert!(fs::read(&plain).unwrap() == original, "{key}");
    }
}

/// The reference is left beside the data, and the secret is not.
fn no_secret_in(data: &Path) {
    for file in ["pg_wal/drydock/plan.json", "postgresql.auto.conf"] {
        let text = fs::read_to_string(data.join(file)).unwrap();
        assert!(!text.contains("AGE-SECRET-KEY"), "{file}");
    }
}

#[test]
fn a_service_that_reads_nothing_goes_on_where_it_was_killed() {
    let world = World::new();
    let (identity, recipient) = new_key(&world);
    world.set("DRYDOCK_RECIPIENTS", &recipient);
    let killed = Killed::again_and_again(&world, KILLS, || {});
    world.set("DRYDOCK_IDENTITY_FILE", text(&identity));
    killed.expect_restored(&world);
}

#[test]
fn a_service_that_reads_nothing_still_knows_another_servers_wal() {
    let world = World::new();
    let (_, recipient) = new_key(&world);
    world.set("DRYDOCK_RECIPIENTS", &recipient);
    let server = world.postgres();
    server.sql("create table t (n int)");
    let twin = copy_of(&world, &server);
    let service = world.start_backupd(&server);
    server.sql("insert into t select generate_series(1, 100)");
    service.wait_until_durable(&server);
    service.stop();

    // The same cluster, as far as it tells: a copy from before, which went its own way.
    let twin = twin.start();
    twin.sql("insert into t select generate_series(1001, 3000)");
    world.point_at(&twin);
    world.launch_backupd().expect_anything().wait_until_it_says(&["sends other WAL"]);
}

/// Another node with a copy of the server's data.
fn copy_of(world: &World, server: &Postgres) -> Postgres {
    let copy = world.fresh("twin");
    server.sql("checkpoint");
    let mut backup = server.tool("pg_basebackup");
    backup.arg("-D").arg(&copy).args(["-X", "stream", "-c", "fast"]);
    backup.arg("-h").arg(server.sockets()).args(["-p", &server.port().to_string(), "-U", "postgres"]);
    world.run(&mut backup).success();
    world.adopt(&copy)
}

#[test]
fn keys_come_and_go() {
    let world = World::new();
    let (first_file, first) = new_key(&world);
    assert_eq!(fs::metadata(&first_file).unwrap().permissions().mode() & 0o777, 0o600);
    world.backupctl(&["key", "new", "--out", text(&first_file)]).fails(9, &["identity", "File exists"]);
    let printed = world.backupctl(&["key", "new"]).success();
    assert!(printed.stdout.contains("AGE-SECRET-KEY-1") && printed.stderr.contains("age1"), "{printed:?}");

    // A repository that exists becomes encrypted.
    let mut server = world.postgres();
    let marker = marker(&world);
    let service = world.start_backupd(&server);
    mark(&server, "one", &marker);
    world.backup();
    service.stop();
    world.backupctl(&["key", "add", "age1nonsense"]).fails(2, &["not an age recipient"]);
    world.backupctl(&["key", "add", &first]).success().names(&["start `backupd run`", "anew"]);
    let service = world.start_backupd(&server);
    mark(&server, "two", &marker);
    let encrypted = world.json(&["backup"]);
    assert_eq!(encrypted["shared_bytes"], 0, "what is plain is stored anew");
    let record = world.json(&["show", "latest"]);
    let packs = record["packs"].as_array().unwrap();
    assert!(record["encrypted_to"].is_string());
    assert!(packs.iter().all(|pack| pack["encrypted_to"] == record["encrypted_to"]), "{packs:#?}");

    // A second recipient reads what there was only where it is told to.
    let (second_file, second) = new_key(&world);
    world.backupctl(&["key", "add", &second]).success();
    world.set("DRYDOCK_IDENTITY_FILE", text(&second_file));
    let plan = ["restore", "--data-dir", "/nowhere/to/be/found", "--target-immediate", "--dry-run"];
    world.backupctl(&plan).fails(3, &["none of the identities"]);
    world.backupctl(&["key", "add", "--rewrap", &second]).fails(3, &["none of the identities"]);
    service.stop();
    world.set("DRYDOCK_IDENTITY_FILE", text(&first_file));
    world.backupctl(&["key", "add", "--rewrap", &second]).success();

    // From a new backup on, it reads everything.
    let service = world.start_backupd(&server);
    server.switch_segment();
    mark(&server, "three", &marker);
    world.backup();
    mark(&server, "four", &marker);
    service.wait_until_durable(&server);
    world.backupctl(&["key", "remove", &first]).success().names(&["stays readable"]);
    world.backupctl(&["key", "remove", &first]).fails(1, &["is not a recipient"]);
    world.backupctl(&["key", "remove", &second]).fails(1, &["last recipient", "--plain"]);
    service.stop();
    server.destroy();
    world.set("DRYDOCK_IDENTITY_FILE", text(&second_file));
    expect_rows(&world.restore_newest(), &marker);

    // Somebody changed the recipients, and it was not who configured them.
    world.set("DRYDOCK_RECIPIENTS", &first);
    world.backupctl(&["list"]).success();
    world.backupctl(&["backup"]).fails(6, &["encrypted to", &second, &first, "nothing is written"]);
    assert_eq!(world.launch_backupd().wait_for_end(), 6);
    world.backupctl(&["key", "remove", "--plain", &second]).success().names(&["nothing is encrypted"]);
    assert_eq!(world.json(&["key", "list"])["recipients"], serde_json::json!([]));
}

#[test]
fn a_backup_outlives_the_one_whose_packs_it_refers_to() {
    let world = World::new();
    let (identity, recipient) = new_key(&world);
    let (service_identity, _) = new_key(&world);
    world.set("DRYDOCK_RECIPIENTS", &recipient);
    world.set("DRYDOCK_SERVICE_IDENTITY_FILE", text(&service_identity));
    let mut server = world.postgres();
    let marker = marker(&world);
    let service = world.start_backupd(&server);
    mark(&server, "one", &marker);
    let first = world.backup();
    for table in ["two", "three", "four"] {
        mark(&server, table, &marker);
    }
    assert!(world.json(&["backup"])["shared_bytes"].as_u64().unwrap() > 0);
    service.stop();

    // As docs/operations.md says that a backup is removed by hand; the service tidies up when it starts.
    let directory = format!("{}/backups/{first}", World::CLUSTER);
    let left =
        || world.objects().keys().into_iter().filter(|key| key.starts_with(&directory)).collect::<Vec<_>>();
    fs::remove_file(world.objects().path(&format!("{directory}/record.json"))).unwrap();
    let service = world.start_backupd(&server);
    wait_until("the removed backup's maps to go", Duration::from_secs(30), || {
        !left().iter().any(|key| key.contains("/maps/") || key.ends_with("documents.age"))
    });
    service.wait_until_durable(&server);
    service.stop();
    assert!(left().iter().any(|key| key.contains("/packs/")), "{:?}", left());
    assert!(left().iter().any(|key| key.ends_with("keys/frames.age")), "{:?}", left());
    server.destroy();
    world.set("DRYDOCK_IDENTITY_FILE", text(&identity));
    world.backupctl(&["verify", "--read"]).success();
    expect_rows(&world.restore_newest(), &marker);
}

#[test]
fn a_flipped_bit_in_anything_encrypted_is_found() {
    let world = World::new();
    let (identity, recipient) = new_key(&world);
    world.set("DRYDOCK_RECIPIENTS", &recipient);
    let server = world.postgres();
    let service = world.start_backupd(&server);
    world.backup();
    server.sql("create table t as select generate_series(1, 1000) n");
    service.wait_until_durable(&server);
    service.stop();
    world.set("DRYDOCK_IDENTITY_FILE", text(&identity));
    world.backupctl(&["verify", "--read"]).success();
    let objects = world.objects();
    let kinds =
        [Kind::Files, Kind::Map, Kind::Pack, Kind::Segment, Kind::Piece].map(|kind| objects.last(kind));
    let keys = objects.keys().into_iter().filter(|key| key.contains("/keys/"));
    for key in kinds.into_iter().chain(keys) {
        let _damage = objects.flip(&key, world.random(0..objects.read(&key).len()));
        let found = world.backupctl(&["verify", "--read", "--all"]);
        assert!(found.code == 10 && found.stdout.contains(&key), "{key}: {found:?}");
    }
    let pack = objects.last(Kind::Pack);
    let size = objects.read(&pack).len();
    let _damage = objects.flip(&pack, world.random(size / 4..size));
    world.try_restore(&world.fresh("broken"), &[]).fails(7, &[&pack]);
}

#[test]
fn an_identity_that_others_can_read_is_refused() {
    let world = World::new();
    let (identity, recipient) = new_key(&world);
    world.set("DRYDOCK_RECIPIENTS", &recipient);
    let server = world.postgres();
    let service = world.start_backupd(&server);
    service.stop();
    fs::set_permissions(&identity, fs::Permissions::from_mode(0o644)).unwrap();
    world.set("DRYDOCK_IDENTITY_FILE", text(&identity));
    world.backupctl(&["list"]).fails(3, &[text(&identity), "others can read it", "0600"]);
    world.unset("DRYDOCK_IDENTITY_FILE");
    world.set("DRYDOCK_IDENTITY_COMMAND", "exit 7");
    world.backupctl(&["list"]).fails(3, &["identity command", "exit status: 7"]);
}
