//! TLS with certificates of all the kinds that people give to PostgreSQL.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use e2e::{Options, Postgres, World};
use replication::{ConnectConfig, Error, SslMode, sql};
use tempfile::TempDir;

use super::{config, greet, run};

/// A certificate authority in a directory of the test's own.
struct Authority(TempDir);

/// What kind of certificate to make.
struct Request<'a> {
    name: &'a str,
    subject: &'a str,
    key: [&'a str; 2],
    digest: &'a str,
    /// `None` makes what `openssl x509 -req` makes unless told otherwise: version 1, with OpenSSL before 3.2.
    extensions: Option<&'a str>,
}

const SERVER: Request<'static> = Request {
    name: "server",
    subject: "/CN=some server",
    key: ["rsa:2048", "-sha256"],
    digest: "-sha256",
    extensions: Some("subjectAltName = DNS:localhost, IP:127.0.0.1\n"),
};

impl Authority {
    fn new() -> Authority {
        let authority = Authority(tempfile::tempdir().unwrap());
        let (key, crt) = (authority.file("ca.key"), authority.file("ca.crt"));
        let subject =
            ["req", "-x509", "-subj", "/CN=an authority", "-newkey", "rsa:2048", "-nodes", "-days", "2"];
        openssl(&[&subject[..], &["-keyout", path(&key), "-out", path(&crt)]].concat());
        authority
    }

    fn file(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn root(&self) -> PathBuf {
        self.file("ca.crt")
    }

    /// Makes a key and a certificate signed by us.
    fn issue(&self, request: &Request) -> (PathBuf, PathBuf) {
        let file = |extension: &str| self.file(&format!("{}.{extension}", request.name));
        let (key, csr, crt, extensions) = (file("key"), file("csr"), file("crt"), file("ext"));
        let new = ["req", "-subj", request.subject, "-nodes", "-newkey", request.key[0]];
        let curve: &[&str] = if request.key[0] == "ec" { &["-pkeyopt", request.key[1]] } else { &[] };
        openssl(&[&new[..], curve, &["-keyout", path(&key), "-out", path(&csr)]].concat());
        let (ca, ca_key) = (self.root(), self.file("ca.key"));
        let mut sign = vec!["x509", "-req", "-in", path(&csr), "-CA", path(&ca), "-CAkey", path(&ca_key)];
        sign.extend(["-CAcreateserial", "-days", "2", request.digest, "-out", path(&crt)]);
        if let Some(text) = request.extensions {
            fs::write(&extensions, text).unwrap();
            sign.extend(["-extfile", path(&extensions)]);
        }
        openssl(&sign);
        (crt, key)
    }
}

fn path(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn openssl(arguments: &[&str]) {
    let output =
        Command::new("openssl").args(arguments).output().expect("run openssl, of Debian's package openssl");
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// Puts a certificate where the server reads it, and has it read.
fn present(server: &Postgres, (crt, key): &(PathBuf, PathBuf)) {
    let text = |path: &Path| fs::read_to_string(path).unwrap();
    for (name, text) in [("server.crt", text(crt)), ("server.key", text(key))] {
        // The files exist and belong to the server; writing to them keeps it so.
        fs::write(server.data().join(name), text).unwrap();
    }
    server.reload();
}

/// A server that accepts nothing but TLS over TCP.
fn tls_server(world: &World, authority: &Authority, crt: &(PathBuf, PathBuf)) -> Postgres {
    let server = world.postgres_with(&Options::default());
    for name in ["server.crt", "server.key", "root.crt"] {
        server.sql(&format!("copy (select '') to '{}'", path(&server.data().join(name))));
        fs::set_permissions(server.data().join(name), fs::Permissions::from_mode(0o600)).unwrap();
    }
    fs::write(server.data().join("root.crt"), fs::read(authority.root()).unwrap()).unwrap();
    hba(&server, "scram-sha-256");
    present(&server, crt);
    server.configure(&["ssl = on", "ssl_ca_file = 'root.crt'"]);
    server.reload();
    server
}

fn hba(server: &Postgres, method: &str) {
    server.hba(&[
        "local all all trust",
        &format!("hostssl all all 127.0.0.1/32 {method}"),
        &format!("hostssl replication all 127.0.0.1/32 {method}"),
    ]);
}

fn with(server: &Postgres, mode: SslMode, root: Option<&Path>) -> ConnectConfig {
    let mut config = config(server);
    config.tls.mode = mode;
    config.tls.root_cert = root.map(Path::to_owned);
    config
}

/// Replication and SQL both get in, over TLS.
#[track_caller]
fn works(config: &ConnectConfig) {
    run(async {
        greet(config).await.unwrap_or_else(|error| panic!("{config:?}: {error:?}"));
        let client = sql::connect(config).await.unwrap_or_else(|error| panic!("{config:?}: {error:?}"));
        let ssl = "select ssl from pg_stat_ssl where pid = pg_backend_pid()";
        assert!(client.query_one(ssl, &[]).await.unwrap().get::<_, bool>(0));
    });
}

#[track_caller]
fn fails(config: &ConnectConfig, word: &str) -> Error {
    let (error, sql) = run(async {
        (greet(config).await.expect_err("a refusal"), sql::connect(config).await.expect_err("a refusal"))
    });
    assert_eq!(std::mem::discriminant(&error), std::mem::discriminant(&sql), "{error:?} {sql:?}");
    assert!(format!("{error:?}").contains(word), "{error:?}");
    error
}

#[test]
fn every_mode() {
    let world = World::new();
    let authority = Authority::new();
    let stranger = Authority::new();
    let server = tls_server(&world, &authority, &authority.issue(&SERVER));
    let (ours, theirs) = (authority.root(), stranger.root());
    for mode in [SslMode::Allow, SslMode::Prefer, SslMode::Require] {
        works(&with(&server, mode, None));
        works(&with(&server, mode, Some(Path::new("/nowhere/root.crt"))));
        works(&with(&server, mode, Some(&ours)));
    }
    // With a root certificate `require` verifies, and `prefer` does but falls back to plain, which is refused here.
    let refused = fails(&with(&server, SslMode::Require, Some(&theirs)), "InvalidCertificate");
    assert!(matches!(refused, Error::Tls { .. }));
    fails(&with(&server, SslMode::Prefer, Some(&theirs)), "no encryption");
    fails(&with(&server, SslMode::Disable, None), "no encryption");
    for mode in [SslMode::VerifyCa, SslMode::VerifyFull] {
        works(&with(&server, mode, Some(&ours)));
        fails(&with(&server, mode, Some(&theirs)), "InvalidCertificate");
        fails(&with(&server, mode, None), "needs a root certificate");
        fails(&with(&server, mode, Some(Path::new("/nowhere/root.crt"))), "/nowhere/root.crt");
    }
    // The system's store exists and does not know our authority.
    fails(&with(&server, SslMode::VerifyFull, Some(Path::new("system"))), "InvalidCertificate");
    fails(&with(&server, SslMode::VerifyCa, Some(Path::new("system"))), "too weak");
}

#[test]
fn a_password_that_is_wrong_is_not_blamed_on_encryption() {
    let world = World::new();
    let authority = Authority::new();
    let server = tls_server(&world, &authority, &authority.issue(&SERVER));
    for mode in [SslMode::Allow, SslMode::Prefer, SslMode::Require] {
        let mut config = with(&server, mode, None);
        config.password = Some(replication::Secret::new("wrong"));
        assert!(matches!(fails(&config, "password authentication failed"), Error::Authentication { .. }));
    }
}

#[test]
fn verify_full_compares_names_as_libpq_does() {
    let world = World::new();
    let authority = Authority::new();
    let root = authority.root();
    let plain_extension = Some("basicConstraints = CA:FALSE\n");
    let server = tls_server(&world, &authority, &authority.issue(&SERVER));
    let named = |host: &str, mode| {
        let mut config = with(&server, mode, Some(&root));
        config.host = host.into();
        config
    };
    works(&named("localhost", SslMode::VerifyFull));
    works(&named("127.0.0.1", SslMode::VerifyFull));

    present(
        &server,
        &authority.issue(&Request { extensions: Some("subjectAltName = DNS:other\n"), ..SERVER }),
    );
    fails(&named("localhost", SslMode::VerifyFull), "NotValidForName");
    works(&named("localhost", SslMode::VerifyCa));

    // Only a common name, as PostgreSQL's manual makes them.
    let manual = Request { subject: "/CN=localhost", extensions: plain_extension, ..SERVER };
    present(&server, &authority.issue(&manual));
    works(&named("localhost", SslMode::VerifyFull));
    fails(&named("127.0.0.1", SslMode::VerifyFull), "NotValidForName");

    // Alternative names silence the common name.
    let both = Request { extensions: Some("subjectAltName = DNS:other\n"), ..manual };
    present(&server, &authority.issue(&both));
    fails(&named("localhost", SslMode::VerifyFull), "NotValidForName");
}

/// Each signature has its own hash for the channel binding; the server refuses logins that are bound to another.
#[test]
fn scram_is_bound_to_certificates_of_all_kinds() {
    let world = World::new();
    let authority = Authority::new();
    let server = tls_server(&world, &authority, &authority.issue(&SERVER));
    let p256 = ["ec", "ec_paramgen_curve:P-256"];
    for request in [
        Request { digest: "-sha384", ..SERVER },
        Request { digest: "-sha512", ..SERVER },
        Request { digest: "-sha1", ..SERVER },
        Request { key: p256, ..SERVER },
        Request { key: ["ec", "ec_paramgen_curve:P-384"], ..SERVER },
        // Version 1, which the TLS library itself cannot read.
        Request { extensions: None, ..SERVER },
    ] {
        present(&server, &authority.issue(&request));
        works(&with(&server, SslMode::Require, None));
    }
}

#[test]
fn a_certificate_may_be_its_own_root() {
    let world = World::new();
    let authority = Authority::new();
    let (key, crt) = (authority.file("self.key"), authority.file("self.crt"));
    let new = ["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"];
    openssl(&[&new[..], &["-keyout", path(&key), "-out", path(&crt)]].concat());
    let server = tls_server(&world, &authority, &(crt.clone(), key));
    let mut config = with(&server, SslMode::VerifyFull, Some(&crt));
    config.host = "localhost".into();
    works(&config);
    fails(&with(&server, SslMode::VerifyCa, Some(&authority.root())), "InvalidCertificate");
}

#[test]
fn client_certificates() {
    let world = World::new();
    let authority = Authority::new();
    let stranger = Authority::new();
    let server = tls_server(&world, &authority, &authority.issue(&SERVER));
    hba(&server, "cert");
    server.reload();
    let subject = format!("/CN={}", e2e::ROLE.0);
    let client = Request {
        name: "client",
        subject: &subject,
        extensions: Some("basicConstraints = CA:FALSE\n"),
        ..SERVER
    };
    let (crt, key) = authority.issue(&client);
    let mut config = with(&server, SslMode::VerifyCa, Some(&authority.root()));
    config.password = None;
    let missing = fails(&config, "client certificate");
    assert!(matches!(missing, Error::Authentication { .. } | Error::NotAuthorized { .. }), "{missing:?}");

    (config.tls.cert, config.tls.key) = (Some(crt), Some(key.clone()));
    fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).unwrap();
    works(&config);
    fs::set_permissions(&key, fs::Permissions::from_mode(0o640)).unwrap();
    fails(&config, "others can read the key");
    fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).unwrap();
    config.tls.key = Some("/nowhere/client.key".into());
    fails(&config, "/nowhere/client.key");

    // In TLS 1.3 the server's verdict comes after the handshake.
    let (crt, key) = stranger.issue(&client);
    fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).unwrap();
    (config.tls.cert, config.tls.key) = (Some(crt), Some(key));
    assert!(matches!(fails(&config, "UnknownCA"), Error::Tls { .. }));
}
