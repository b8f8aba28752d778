//! The repository served to a node that has nothing but an address, a token and an authority to trust.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use e2e::{Postgres, Service, World, wait_until};
use tempfile::TempDir;

const TOKEN: &str = "a-token-of-the-tests-that-nobody-guesses";

/// A certificate authority, and a certificate of it for 127.0.0.1.
struct Authority(TempDir);

impl Authority {
    fn new() -> Authority {
        let authority = Authority(tempfile::tempdir().unwrap());
        authority.openssl("req -x509 -subj /CN=authority -days 2 -nodes -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -keyout ca.key -out ca.crt");
        fs::write(authority.0.path().join("names"), "subjectAltName = DNS:localhost, IP:127.0.0.1\n")
            .unwrap();
        authority.openssl("req -subj /CN=backup -nodes -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -keyout server.key -out server.csr");
        authority.openssl("x509 -req -in server.csr -CA ca.crt -CAkey ca.key -CAcreateserial -days 2 -extfile names -out server.crt");
        authority
    }

    fn openssl(&self, arguments: &str) {
        let output = Command::new("openssl").args(arguments.split(' ')).current_dir(self.0.path()).output();
        let output = output.expect("run openssl, of Debian's package openssl");
        assert!(output.status.success(), "{arguments}: {}", String::from_utf8_lossy(&output.stderr));
    }

    fn text(&self, name: &str) -> String {
        fs::read_to_string(self.0.path().join(name)).unwrap()
    }
}

/// A world whose service serves its repository over TLS.
struct Served {
    world: World,
    address: String,
    token: PathBuf,
    authority: PathBuf,
}

impl Served {
    fn new() -> Served {
        let world = World::new();
        let authority = Authority::new();
        let port = world.adopt(&world.fresh("port")).port();
        let token = world.write_private("token", &format!("{TOKEN}\n"));
        let private = |name: &str| world.write_private(name, &authority.text(name));
        world.set("DRYDOCK_SERVE_LISTEN", &format!("127.0.0.1:{port}"));
        world.set("DRYDOCK_SERVE_TOKEN_FILE", path(&token));
        world.set("DRYDOCK_SERVE_TLS_CERTIFICATE", path(&private("server.crt")));
        world.set("DRYDOCK_SERVE_TLS_KEY", path(&private("server.key")));
        let authority = private("ca.crt");
        Served { address: format!("https://127.0.0.1:{port}"), token, authority, world }
    }

    /// From here on, what is run has the environment of a fresh node. Returns how to start the service again, whose
    /// environment was another.
    fn become_a_fresh_node(&self) -> Vec<(&'static str, String)> {
        let taken = [
            "DRYDOCK_REPOSITORY",
            "DRYDOCK_SERVE_LISTEN",
            "DRYDOCK_SERVE_TOKEN_FILE",
            "DRYDOCK_SERVE_TLS_CERTIFICATE",
            "DRYDOCK_SERVE_TLS_KEY",
            "REPLICATION_HOST",
            "REPLICATION_PORT",
            "REPLICATION_USER",
            "REPLICATION_PASSWORD",
            "POSTGRES_DB",
        ];
        let before = taken.map(|name| (name, self.world.unset(name).unwrap_or_default()));
        self.world.set("DRYDOCK_REPOSITORY", &self.address);
        self.world.set("DRYDOCK_REPOSITORY_TOKEN_FILE", path(&self.token));
        self.world.set("DRYDOCK_REPOSITORY_CA_FILE", path(&self.authority));
        before.to_vec()
    }

    /// Starts the service again with the environment it had, and waits until it serves.
    fn start_service_again(&self, environment: &[(&'static str, String)]) -> Service {
        environment.iter().for_each(|(name, value)| self.world.set(name, value));
        let service = self.world.launch_backupd().expect_anything();
        service.wait_until_it_says(&["the repository is served"]);
        self.become_a_fresh_node();
        service
    }
}

fn path(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn rows(server: &Postgres) -> String {
    server.value("select count(*) || ' ' || md5(string_agg(t::text, ',' order by n)) from t")
}

#[test]
fn a_fresh_node_needs_only_address_and_token() {
    let served = Served::new();
    let world = &served.world;
    let mut primary = world.postgres();
    let service = world.start_backupd(&primary).expect_anything();
    primary.sql("create table t as select n, md5(n::text) from generate_series(1, 20000) n");
    let backup = world.backup();
    primary.sql("insert into t select n, md5(n::text) from generate_series(20001, 40000) n");
    std::thread::sleep(Duration::from_millis(20));
    let (moment, then) = (primary.now(), rows(&primary));
    let segment = primary.value("select pg_walfile_name(pg_current_wal_lsn())");
    std::thread::sleep(Duration::from_millis(20));
    primary.switch_segment();
    primary.sql("insert into t select n, md5(n::text) from generate_series(40001, 50000) n");
    let newest = rows(&primary);
    service.wait_until_durable(&primary);
    primary.destroy();
    let repository = world.objects().path("").display().to_string();
    served.become_a_fresh_node();

    assert_eq!(world.backups(), [backup]);
    for verb in [&["show", "latest"][..], &["status"], &["wal", "list"], &["verify", "--read"]] {
        world.backupctl(verb).success();
    }
    let fetched = world.directory("fetched").join(&segment);
    world.backupctl(&["wal", "fetch", &segment, path(&fetched)]).success();
    assert_eq!(fs::metadata(fetched).unwrap().len(), 16 << 20);

    let restored = world.restore(&["--target-action", "promote"]).verify();
    for file in ["postgresql.auto.conf", "pg_wal/drydock/plan.json"] {
        let text = fs::read_to_string(restored.data().join(file)).unwrap();
        assert!(!text.contains(TOKEN) && !text.contains(&repository), "{file}: {text}");
    }
    assert_eq!(rows(&restored.start_promoted()), newest);
    let earlier = world.restore(&["--target-time", &moment, "--target-action", "promote"]);
    assert_eq!(rows(&earlier.start_promoted()), then);
    assert!(!service.log_text().contains(TOKEN));
    service.stop();
}

#[test]
fn what_is_wrong_with_the_way_there_is_one_sentence() {
    let served = Served::new();
    let world = &served.world;
    let primary = world.postgres();
    let service = world.start_backupd(&primary).expect(&["without our token"]);
    world.backup();
    served.become_a_fresh_node();
    let wrong = world.write_private("token", "another-token-that-is-long-enough");
    let data = world.fresh("refused");
    let restore = ["restore", "--data-dir", path(&data)];
    let fails = |code, named: &[&str]| {
        for verb in [&["list"][..], &restore] {
            let stderr = world.backupctl(verb).fails(code, named).stderr;
            assert!(stderr.lines().count() <= 2, "an error and a hint: {stderr}");
            assert!(!stderr.contains("another-token"), "{stderr}");
        }
        assert!(!data.exists(), "nothing was begun");
    };

    world.set("DRYDOCK_REPOSITORY_TOKEN_FILE", path(&wrong));
    fails(6, &["does not accept the token", "DRYDOCK_REPOSITORY_TOKEN_FILE"]);
    let segment = "000000010000000000000001";
    world
        .backupctl(&["wal", "fetch", segment, path(&world.fresh("wal"))])
        .fails(200, &["does not accept the token"]);
    world.unset("DRYDOCK_REPOSITORY_TOKEN_FILE");
    fails(3, &["asks for a token", "DRYDOCK_REPOSITORY_TOKEN_FILE"]);
    world.set("DRYDOCK_REPOSITORY_TOKEN", TOKEN);
    world.backupctl(&["list"]).success();
    // Recovery goes on when this command's environment is no more.
    world.backupctl(&restore).fails(9, &["from a file", "DRYDOCK_REPOSITORY_TOKEN_FILE"]);

    let stranger = world.write_private("ca.crt", &Authority::new().text("ca.crt"));
    world.set("DRYDOCK_REPOSITORY_CA_FILE", path(&stranger));
    fails(6, &["trusted connection", &served.address, "certificate", "DRYDOCK_REPOSITORY_CA_FILE"]);
    world.set("DRYDOCK_REPOSITORY_CA_FILE", "/nowhere");
    fails(3, &["DRYDOCK_REPOSITORY_CA_FILE names /nowhere"]);
    world.set("DRYDOCK_REPOSITORY_CA_FILE", path(&served.authority));

    world.set("DRYDOCK_REPOSITORY", "http://backup.example.org:8443");
    fails(3, &["use https", "DRYDOCK_REPOSITORY_INSECURE"]);
    world.set("DRYDOCK_REPOSITORY", &served.address);
    world.point_at(&primary);
    world.backupctl(&["backup"]).fails(6, &["can only be read"]);
    assert_eq!(world.launch_backupd().wait_for_end(), 6);
    service.stop();
}

#[test]
fn a_service_that_goes_away_during_a_restore() {
    let served = Served::new();
    let world = &served.world;
    let primary = world.postgres();
    let service = world.start_backupd(&primary).expect_anything();
    let digits = "md5(n::text) || md5((n + 1)::text) || md5((n + 2)::text) || md5((n + 3)::text)";
    primary.sql(&format!("create table t as select n, {digits} as digits from generate_series(1, 700000) n"));
    world.backup();
    primary.sql("insert into t values (0, 'the last')");
    let newest = rows(&primary);
    service.wait_until_durable(&primary);
    let environment = served.become_a_fresh_node();
    let data = world.fresh("restored");
    let begin = || {
        let mut restore =
            world.spawn_backupctl(&["restore", "--data-dir", path(&data), "--target-action", "promote"]);
        wait_until("the restore to write", Duration::from_secs(60), || {
            assert_eq!(restore.exited(), None, "the restore has ended too early");
            data.join("base/1").exists()
        });
        restore
    };

    // For good: it fails, and what it left cannot be started.
    let mut restore = begin();
    service.kill9();
    assert_eq!(restore.exited(), None, "the service was killed in the middle");
    assert_eq!(restore.wait(Duration::from_secs(120)), 6);
    assert!(!data.join("global/pg_control").exists());

    // For a moment: the restore waits for it.
    let service = served.start_service_again(&environment);
    let mut restore = begin();
    service.kill9();
    assert_eq!(restore.exited(), None, "the service was killed in the middle");
    std::thread::sleep(Duration::from_secs(2));
    let service = served.start_service_again(&environment);
    assert_eq!(restore.wait(Duration::from_secs(120)), 0);
    let mut node = world.adopt(&data).start();
    node.wait_promoted();
    assert_eq!(rows(&node), newest);
    node.stop(e2e::Shutdown::Fast);
    service.stop();
}

#[test]
fn what_cannot_be_served_safely_is_refused() {
    let served = Served::new();
    let world = &served.world;
    let primary = world.postgres();
    world.point_at(&primary);
    let refused = |named: &[&str]| {
        let mut service = world.launch_backupd();
        wait_until("backupd to refuse", Duration::from_secs(20), || service.exited().is_some());
        let log = service.log_text();
        assert!(named.iter().all(|word| log.contains(word)), "{log}");
        assert_eq!(service.wait_for_end(), 3, "{log}");
    };
    let token = world.unset("DRYDOCK_SERVE_TOKEN_FILE").unwrap();
    refused(&["no token is set", "DRYDOCK_SERVE_TOKEN_FILE"]);
    world.set("DRYDOCK_SERVE_TOKEN", "short");
    refused(&["DRYDOCK_SERVE_TOKEN", "16 or more"]);
    world.unset("DRYDOCK_SERVE_TOKEN");
    world.set("DRYDOCK_SERVE_TOKEN_FILE", &token);
    let key = world.unset("DRYDOCK_SERVE_TLS_KEY").unwrap();
    refused(&["serve.tls_key is not"]);
    let certificate = world.unset("DRYDOCK_SERVE_TLS_CERTIFICATE").unwrap();
    let listen = world.unset("DRYDOCK_SERVE_LISTEN").unwrap();
    world.set("DRYDOCK_SERVE_LISTEN", &listen.replace("127.0.0.1", "0.0.0.0"));
    refused(&["there is no TLS", "serve.insecure"]);
    world.set("DRYDOCK_SERVE_LISTEN", "backup");
    refused(&["DRYDOCK_SERVE_LISTEN", "0.0.0.0:8443"]);
    // What only reads the repository is not kept from it by how somebody else serves it.
    assert!(!world.backupctl(&["list"]).stderr.contains("DRYDOCK_SERVE"));
    world.set("DRYDOCK_SERVE_LISTEN", &listen);
    world.set("DRYDOCK_SERVE_TLS_CERTIFICATE", &certificate);
    world.set("DRYDOCK_SERVE_TLS_KEY", path(&open_to_others(world, &key)));
    refused(&["others can read the key"]);
}

fn open_to_others(world: &World, key: &str) -> PathBuf {
    use std::os::unix::fs::PermissionsExt;
    let open = world.write_private("open.key", &fs::read_to_string(key).unwrap());
    fs::set_permissions(&open, fs::Permissions::from_mode(0o644)).unwrap();
    open
}
