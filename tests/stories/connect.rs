//! The ways to a server: sockets, TLS, passwords.

use std::fs;
use std::path::PathBuf;

use e2e::{Options, Postgres, ROLE, World};

/// Streams and backs up in the environment as it is.
#[track_caller]
fn works(world: &World, server: &Postgres) {
    let service = world.launch_backupd();
    server.wait_streaming("drydock");
    world.backup();
    service.stop();
}

#[test]
fn unix_socket() {
    let world = World::new();
    let server = world.postgres();
    world.point_at(&server);
    world.set("REPLICATION_HOST", server.sockets().to_str().unwrap());
    world.unset("REPLICATION_PASSWORD");
    works(&world, &server);
}

#[test]
fn password_methods() {
    for method in ["trust", "password", "md5", "scram-sha-256"] {
        let world = World::new();
        let server = world.postgres();
        server.allow_connections(method);
        let encryption = if method == "md5" { "md5" } else { "scram-sha-256" };
        server.sql(&format!(
            "set password_encryption = '{encryption}'; alter role {} password '{}'",
            ROLE.0, ROLE.1
        ));
        server.reload();
        world.point_at(&server);
        works(&world, &server);
    }
}

#[test]
fn password_from_a_file() {
    let world = World::new();
    let server = world.postgres();
    world.point_at(&server);
    world.unset("REPLICATION_PASSWORD");
    let secret = world.write_private("secret", &format!("{}\n", ROLE.1));
    world.set("REPLICATION_PASSWORD_FILE", secret.to_str().unwrap());
    works(&world, &server);
}

#[test]
fn password_from_pgpass() {
    let world = World::new();
    let server = world.postgres();
    world.point_at(&server);
    world.unset("REPLICATION_PASSWORD");
    let entry = format!("nowhere:*:*:*:wrong\n127.0.0.1:{}:*:{}:{}\n", server.port(), ROLE.0, ROLE.1);
    let pgpass = world.write_private("pgpass", &entry);
    world.set("PGPASSFILE", pgpass.to_str().unwrap());
    works(&world, &server);
}

#[test]
fn libpq_variables() {
    let world = World::new();
    let server = world.postgres();
    world.set("PGHOST", "127.0.0.1");
    world.set("PGPORT", &server.port().to_string());
    world.set("PGUSER", ROLE.0);
    world.set("PGPASSWORD", ROLE.1);
    world.set("PGDATABASE", "postgres");
    works(&world, &server);
}

#[test]
fn configuration_file() {
    let world = World::new();
    let server = world.postgres();
    world.point_at(&server);
    let repository = world.objects().path("");
    let file = world.write_private("drydock", &format!("repository = \"file://{}\"\n", repository.display()));
    world.unset("DRYDOCK_REPOSITORY");
    world.set("DRYDOCK_CONFIG", file.to_str().unwrap());
    works(&world, &server);
}

/// A server that speaks TLS with a certificate for `localhost`, signed by an authority of its own.
fn with_tls(world: &World) -> (Postgres, PathBuf) {
    let directory = world.directory("tls");
    let file = |name: &str| directory.join(name).to_str().unwrap().to_owned();
    let openssl =
        |arguments: &[&str]| world.run(world.program("openssl", "openssl").args(arguments)).success();
    let key = ["-newkey", "rsa:2048", "-nodes", "-days", "2", "-sha256"];
    let (ca, ca_key) = (file("ca.crt"), file("ca.key"));
    let (crt, csr, private) = (file("server.crt"), file("server.csr"), file("server.key"));
    openssl(
        &[&["req", "-x509", "-subj", "/CN=e2e authority", "-keyout", &ca_key, "-out", &ca], &key[..]]
            .concat(),
    );
    openssl(&[
        "req",
        "-subj",
        "/CN=localhost",
        "-newkey",
        "rsa:2048",
        "-nodes",
        "-keyout",
        &private,
        "-out",
        &csr,
    ]);
    let extensions = world.write_private("extensions", "subjectAltName = DNS:localhost\n");
    let extensions = extensions.to_str().unwrap();
    let sign = ["x509", "-req", "-in", &csr, "-CA", &ca, "-CAkey", &ca_key, "-CAcreateserial", "-days", "2"];
    openssl(&[&sign[..], &["-extfile", extensions, "-out", &crt]].concat());

    let settings =
        ["ssl = on".into(), format!("ssl_cert_file = '{crt}'"), format!("ssl_key_file = '{private}'")];
    let server = world.postgres_with(&Options { settings: settings.to_vec(), ..Options::default() });
    server.hba(&[
        "local all all trust",
        "hostssl all all 127.0.0.1/32 scram-sha-256",
        "hostssl replication all 127.0.0.1/32 scram-sha-256",
    ]);
    server.reload();
    world.point_at(&server);
    (server, ca.into())
}

#[test]
fn tls_with_every_mode() {
    let world = World::new();
    let (server, authority) = with_tls(&world);
    // TLS is what a server gets that offers it, also when nobody asked.
    works(&world, &server);
    world.set("PGSSLMODE", "require");
    works(&world, &server);
    world.set("PGSSLROOTCERT", authority.to_str().unwrap());
    world.set("PGSSLMODE", "verify-ca");
    works(&world, &server);
    world.set("REPLICATION_HOST", "localhost");
    world.set("PGSSLMODE", "verify-full");
    works(&world, &server);
    let ssl = "select bool_and(s.ssl) from pg_stat_ssl s join pg_stat_replication r using (pid)";
    let service = world.launch_backupd();
    server.wait_streaming("drydock");
    assert_eq!(server.value(ssl), "t");
    service.stop();
}

#[test]
fn tls_that_proves_nothing_is_refused() {
    let world = World::new();
    let (_server, authority) = with_tls(&world);
    // The certificate is for `localhost`, and this is an address.
    world.set("PGSSLROOTCERT", authority.to_str().unwrap());
    world.set("PGSSLMODE", "verify-full");
    world.backupctl(&["backup"]).fails(4, &["certificate", "127.0.0.1"]);
    // An authority nobody here knows.
    let stranger = world.directory("stranger");
    let (key, certificate) = (stranger.join("key"), stranger.join("crt"));
    let mut openssl = world.program("openssl", "openssl");
    openssl.args(["req", "-x509", "-subj", "/CN=a stranger", "-newkey", "rsa:2048", "-nodes", "-days", "2"]);
    world.run(openssl.arg("-keyout").arg(&key).arg("-out").arg(&certificate)).success();
    world.set("PGSSLROOTCERT", certificate.to_str().unwrap());
    world.set("PGSSLMODE", "verify-ca");
    world.backupctl(&["backup"]).fails(4, &["certificate"]);
    // Without TLS this server does not talk at all.
    world.set("PGSSLMODE", "disable");
    world.backupctl(&["backup"]).fails(5, &["pg_hba.conf"]);
    assert!(fs::exists(&authority).unwrap());
}
