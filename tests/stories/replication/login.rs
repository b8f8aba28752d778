//! Who is let in, who is not, and what the refusal says.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use e2e::{Options, ROLE, World};
use replication::{ConnectConfig, Error, Secret, sql};

use super::{config, greet, run};

#[test]
fn every_method_lets_us_in() {
    let world = World::new();
    let server = world.postgres();
    for method in ["trust", "password", "md5", "scram-sha-256"] {
        let encryption = if method == "md5" { "md5" } else { "scram-sha-256" };
        server.sql(&format!(
            "set password_encryption = '{encryption}'; alter role {} password '{}'",
            ROLE.0, ROLE.1
        ));
        server.allow_connections(method);
        server.reload();
        let config = config(&server);
        run(async {
            let mut connection = greet(&config).await.unwrap_or_else(|error| panic!("{method}: {error}"));
            let system = connection.identify_system().await.unwrap();
            let client = sql::connect(&config).await.unwrap();
            let row = client.query_one("select system_identifier::text from pg_control_system()", &[]).await;
            assert_eq!(row.unwrap().get::<_, String>(0), system.system_identifier.to_string());
            assert_eq!(connection.show("wal_segment_size").await.unwrap(), "16MB");
            assert!(connection.server_version() >= 140_000);
            connection.close().await;
        });
    }
}

#[test]
fn a_socket_needs_no_network() {
    let world = World::new();
    let server = world.postgres();
    let mut config = ConnectConfig::new(server.sockets().to_str().unwrap(), ROLE.0);
    config.port = server.port();
    run(async { greet(&config).await.unwrap() });
}

#[test]
fn the_password_file_answers_for_replication_and_for_databases() {
    let world = World::new();
    let server = world.postgres();
    let (user, password) = ROLE;
    let port = server.port();
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), format!("127.0.0.1:{port}:replication:{user}:{password}\n*:*:*:*:wrong\n"))
        .unwrap();
    let mut config = config(&server);
    config.password = None;
    config.passfile = Some(file.path().to_owned());
    run(async {
        greet(&config).await.unwrap();
        let denied = sql::connect(&config).await.err().unwrap();
        assert!(matches!(denied, Error::Authentication { .. }), "{denied}");
        fs::set_permissions(file.path(), fs::Permissions::from_mode(0o644)).unwrap();
        let ignored = greet(&config).await.err().unwrap();
        assert!(ignored.to_string().contains("asks for a password"), "{ignored}");
        let ignored = sql::connect(&config).await.err().unwrap();
        assert!(matches!(ignored, Error::Authentication { .. }), "{ignored}");
    });
}

#[test]
fn refusals_say_what_to_do() {
    let world = World::new();
    let server = world.postgres();
    server.sql("create role plain login password 'x'");
    let changed = |change: &dyn Fn(&mut ConnectConfig)| {
        let mut config = config(&server);
        change(&mut config);
        run(async { greet(&config).await.expect_err("a refusal") })
    };
    let wrong = changed(&|config| config.password = Some(Secret::new("wrong")));
    assert!(matches!(wrong, Error::Authentication { .. }), "{wrong:?}");
    assert!(!format!("{wrong:?}").contains("\"wrong\""));
    let nobody = changed(&|config| config.user = "nobody".to_owned());
    assert!(matches!(nobody, Error::Authentication { .. }), "{nobody:?}");
    let plain = changed(&|config| {
        config.user = "plain".to_owned();
        config.password = Some(Secret::new("x"));
    });
    assert!(matches!(plain, Error::NotReplicationRole { .. }), "{plain:?}");

    server.hba(&["local all all trust", "host all all 127.0.0.1/32 trust"]);
    server.reload();
    let unknown = changed(&|_| ());
    assert!(matches!(unknown, Error::NotAuthorized { .. }), "{unknown:?}");
    let line = format!("host replication {} 127.0.0.1/32", ROLE.0);
    assert!(unknown.hint().unwrap().contains(&line), "{:?}", unknown.hint());
    // `reject` is a line too, with the same meaning.
    server.allow_connections("reject");
    server.reload();
    let rejected = changed(&|_| ());
    assert!(matches!(rejected, Error::NotAuthorized { .. }), "{rejected:?}");
    let rejected = run(async { sql::connect(&config(&server)).await.err().unwrap() });
    assert!(matches!(rejected, Error::NotAuthorized { .. }), "{rejected:?}");
}

#[test]
fn a_full_server_says_so() {
    let world = World::new();
    let settings = vec!["max_wal_senders = 1".to_owned()];
    let server = world.postgres_with(&Options { settings, ..Options::default() });
    let config = config(&server);
    run(async {
        let _only = greet(&config).await.unwrap();
        let full = greet(&config).await.err().unwrap();
        assert!(matches!(full, Error::NoFreeWalSender { .. }) && full.is_transient(), "{full:?}");
        assert!(full.to_string().contains("max_wal_senders"), "{full}");
    });
}

#[test]
fn a_server_that_is_not_there() {
    let world = World::new();
    let mut server = world.postgres();
    let config = config(&server);
    let client = run(async {
        let client = sql::connect(&config).await.unwrap();
        let error = client.query("select * from nothing", &[]).await.unwrap_err();
        assert!(matches!(error, Error::Server { ref code, .. } if code == "42P01"), "{error:?}");
        drop(client);
        config.clone()
    });
    server.kill9();
    let gone = run(async { greet(&client).await.err().unwrap() });
    assert!(matches!(gone, Error::Unreachable { .. }) && gone.is_transient(), "{gone:?}");
    let gone = run(async { sql::connect(&client).await.err().unwrap() });
    assert!(matches!(gone, Error::Unreachable { .. }), "{gone:?}");
}
