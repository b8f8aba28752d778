use super::*;

const MACHINE: Machine = Machine { cores: 4, read: |path| Ok(format!("in {}\n", path.display())) };

fn settings(file: &str, environment: &[(&str, &str)]) -> Result<Settings, Error> {
    settings_with(file, environment, &Flags::default())
}

fn settings_with(file: &str, environment: &[(&str, &str)], flags: &Flags) -> Result<Settings, Error> {
    let environment =
        environment.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    resolve(Some((Path::new("/etc/d.toml"), file)), &environment, flags, MACHINE)
}

#[track_caller]
fn said(file: &str, environment: &[(&str, &str)]) -> String {
    settings(file, environment).unwrap_err().to_string()
}

const REPOSITORY: (&str, &str) = ("DRYDOCK_REPOSITORY", "file:///var/backups");
const HOST: (&str, &str) = ("REPLICATION_HOST", "db");
const USER: (&str, &str) = ("REPLICATION_USER", "rep");

#[test]
fn the_environment_alone_is_enough() {
    let settings =
        settings("", &[REPOSITORY, HOST, USER, ("REPLICATION_PASSWORD", "x"), ("HOME", "/home/d")]).unwrap();
    let server = settings.server().unwrap();
    assert_eq!(settings.repository.directory(), Some(Path::new("/var/backups")));
    assert_eq!(settings.cluster, "pg_cluster");
    assert_eq!((settings.slot.as_str(), settings.workers, settings.level), ("drydock", 4, 1));
    assert_eq!(server.replication.target(), "db:5432");
    assert_eq!(server.replication.application_name, "drydock");
    assert_eq!(server.replication.passfile.as_deref(), Some(Path::new("/home/d/.pgpass")));
    assert_eq!(server.replication.database, None);
    assert_eq!(server.sql.database.as_deref(), Some("postgres"));
    assert_eq!(server.sql.password, Some(Secret::new("x")));
    assert_eq!(settings.role_files, ["master.lock", "standby.lock"]);
}

#[test]
fn flags_win_over_the_environment_and_that_over_the_file() {
    let file = "repository = \"/file\"\ncluster = \"file\"\n[server]\nport = 1\n[wal]\nflush_interval = 2";
    let environment = [("DRYDOCK_REPOSITORY", "/environment"), ("UPSTREAM_NAME", "environment"), HOST, USER];
    let flags = Flags { repository: Some("/flag".into()), ..Flags::default() };
    let settings = settings_with(file, &environment, &flags).unwrap();
    assert_eq!(settings.repository.as_str(), "/flag");
    assert_eq!(settings.cluster, "environment");
    assert_eq!(settings.server().unwrap().replication.port, 1);
    assert_eq!(settings.flush_interval, Duration::from_secs(2));
}

#[test]
fn postdocks_and_libpqs_names_come_after_ours() {
    let libpq = [
        ("BACKUP_DIR", "/postdock"),
        ("PGHOST", "/run/postgresql"),
        ("PGPORT", "5433"),
        ("PGUSER", "u"),
        ("PGPASSWORD", "p"),
        ("PGDATABASE", "d"),
        ("PGAPPNAME", "a"),
        ("PGCONNECT_TIMEOUT", "3"),
        ("PGSSLMODE", "require"),
    ];
    let found = settings("", &libpq).unwrap();
    let server = found.server().unwrap();
    assert_eq!(found.repository.as_str(), "/postdock");
    assert_eq!(server.replication.target(), "/run/postgresql/.s.PGSQL.5433");
    assert_eq!((server.replication.user.as_str(), server.replication.application_name.as_str()), ("u", "a"));
    assert_eq!(server.replication.password, Some(Secret::new("p")));
    assert_eq!(server.replication.connect_timeout, Duration::from_secs(3));
    assert_eq!(server.replication.tls.mode, SslMode::Require);
    assert_eq!(server.sql.database.as_deref(), Some("d"));

    let both = [&libpq[..], &[REPOSITORY, HOST, USER, ("POSTGRES_DB", "ours")]].concat();
    let found = settings("", &both).unwrap();
    assert_eq!(found.repository.as_str(), "file:///var/backups");
    assert_eq!(found.server().unwrap().replication.target(), "db:5433");
    assert_eq!(found.server().unwrap().sql.database.as_deref(), Some("ours"));
}

#[test]
fn sql_may_use_another_role() {
    let environment = [REPOSITORY, HOST, USER, ("REPLICATION_PASSWORD", "r")];
    let other = [("POSTGRES_USER", "boss"), ("POSTGRES_CONNECTION_TIMEOUT", "20")];
    let sql = |more: &[(&str, &str)]| {
        settings("", &[&environment[..], &other, more].concat()).unwrap().server().unwrap().sql.clone()
    };
    assert_eq!(sql(&[]).user, "boss");
    assert_eq!(sql(&[]).password, None, "one role's password is not another's");
    assert_eq!(sql(&[]).connect_timeout, Duration::from_secs(20));
    assert_eq!(sql(&[("POSTGRES_PASSWORD", "b")]).password, Some(Secret::new("b")));
}

#[test]
fn secrets_may_come_from_files() {
    let found = settings("", &[REPOSITORY, HOST, USER, ("REPLICATION_PASSWORD_FILE", "/run/s")]).unwrap();
    assert_eq!(found.server().unwrap().replication.password, Some(Secret::new("in /run/s")));
    let found = settings("[server]\npassword_file = \"/f\"", &[REPOSITORY, HOST, USER]).unwrap();
    assert_eq!(found.server().unwrap().replication.password, Some(Secret::new("in /f")));
    let both = [REPOSITORY, HOST, USER, ("PGPASSWORD", "hunter2"), ("PGPASSWORD_FILE", "/f")];
    assert_eq!(said("", &both), "both PGPASSWORD and PGPASSWORD_FILE are set: expected one of them");
    let missing = Machine { cores: 1, read: |_| Err(io::ErrorKind::NotFound.into()) };
    let environment = [REPOSITORY, HOST, USER, ("REPLICATION_PASSWORD_FILE", "/gone")];
    let environment = environment.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
    let error = resolve(None, &environment, &Flags::default(), missing).unwrap_err().to_string();
    assert!(error.starts_with("REPLICATION_PASSWORD_FILE names /gone, which cannot be read"), "{error}");
}

#[test]
fn nothing_prints_a_secret() {
    let environment =
        [REPOSITORY, HOST, USER, ("REPLICATION_PASSWORD", "hunter2"), ("POSTGRES_PASSWORD", "hunter2")];
    assert!(!format!("{:?}", settings("", &environment).unwrap()).contains("hunter2"));
}

#[test]
fn the_server_is_asked_for_only_where_it_is_needed() {
    let found = settings("", &[REPOSITORY]).unwrap();
    assert!(found.server().unwrap_err().to_string().contains("REPLICATION_HOST"));
    let found = settings("", &[REPOSITORY, HOST]).unwrap();
    assert!(found.server().unwrap_err().to_string().contains("REPLICATION_USER"));
    assert!(said("", &[]).contains("DRYDOCK_REPOSITORY"));
}

#[test]
fn a_wrong_value_is_named_with_what_is_expected() {
    let with = |name, value| said("", &[REPOSITORY, HOST, USER, (name, value)]);
    for (name, value, expected) in [
        ("REPLICATION_PORT", "many", "REPLICATION_PORT is \"many\": expected a port from 1 to 65535"),
        ("DRYDOCK_CLUSTER", "../x", "DRYDOCK_CLUSTER is \"../x\": expected letters"),
        ("REPLICATION_SLOT_NAME", "My-Slot", "REPLICATION_SLOT_NAME is \"My-Slot\": expected up to 63"),
        ("PGSSLMODE", "yes", "PGSSLMODE is \"yes\": expected disable, allow"),
        ("DRYDOCK_WAL_FLUSH_INTERVAL", "0", "expected a time such as"),
        ("DRYDOCK_BACKUP_LEVEL", "99", "expected a zstd level"),
        ("DRYDOCK_BACKUP_MAX_RATE", "1kB", "expected a size from 32kB"),
        ("DRYDOCK_LOG_FORMAT", "xml", "expected text or json"),
        ("DRYDOCK_LOG", "a=b=c", "expected a level"),
        ("DRYDOCK_WORKERS", "0", "expected a number from 1"),
    ] {
        assert!(with(name, value).contains(expected), "{}", with(name, value));
    }
    let port = "[server]\nport = \"x\"";
    assert_eq!(
        said(port, &[REPOSITORY, HOST, USER]),
        "server.port in /etc/d.toml is \"x\": expected a port from 1 to 65535"
    );
    let ftp = said("", &[("DRYDOCK_REPOSITORY", "ftp://a/b")]);
    assert!(ftp.starts_with("DRYDOCK_REPOSITORY is \"ftp://a/b\": expected the address"), "{ftp}");
}

#[test]
fn a_wrong_file_is_told_by_line_or_key() {
    assert!(
        said("repository = \n", &[]).starts_with("/etc/d.toml, line 1: "),
        "{}",
        said("repository = \n", &[])
    );
    assert!(said("no_such_setting = true", &[REPOSITORY]).contains("unknown key \"no_such_setting\""));
    assert!(said("[sevrer]\nhost = \"x\"", &[REPOSITORY]).contains("unknown key \"sevrer\""));
    assert!(
        said("[server]\nhost = [\"x\"]", &[REPOSITORY]).contains("server.host in /etc/d.toml is a array")
    );
    assert!(said("server = 1", &[REPOSITORY]).contains("unknown key \"server\""));
}

#[test]
fn a_port_behind_the_host_counts_first() {
    let host =
        |value| settings("", &[REPOSITORY, ("REPLICATION_HOST", value), USER, ("REPLICATION_PORT", "1")]);
    let target = |value| host(value).unwrap().server().unwrap().replication.target();
    assert_eq!(target("db:5433"), "db:5433");
    assert_eq!(target("db"), "db:1");
    assert_eq!(target("[::1]:5433"), "[::1]:5433");
    assert!(host("db:x").is_err());
}

#[test]
fn several_nodes_are_followed() {
    let found = |more: &[(&str, &str)]| {
        let all: Vec<_> = [REPOSITORY, USER].iter().chain(more).copied().collect();
        settings("", &all).unwrap().follow(crate::now).unwrap()
    };
    let names = |follow: Option<FollowConfig>| -> Vec<String> {
        follow.map_or_else(Vec::new, |follow| follow.nodes.into_iter().map(|node| node.name).collect())
    };
    assert_eq!(names(found(&[HOST])), Vec::<String>::new(), "one server is no cluster");
    let several =
        [("REPLICATION_HOST", "a, b:5433"), ("PARTNER_NODES", "b:5433,c,"), ("REPLICATION_PORT", "1")];
    assert_eq!(names(found(&several)), ["a:1", "b:5433", "c:1"]);
    let repmgr =
        found(&[HOST, ("REPLICATION_DB", "replication_db"), ("USE_REPLICATION_SLOTS", "0")]).unwrap();
    assert_eq!(
        (repmgr.nodes.len(), repmgr.slot, repmgr.repmgr_database.as_deref()),
        (1, None, Some("replication_db"))
    );
}

#[test]
fn an_empty_variable_is_not_set() {
    let found =
        settings("", &[REPOSITORY, HOST, USER, ("REPLICATION_PORT", ""), ("DRYDOCK_CLUSTER", "")]).unwrap();
    assert_eq!(found.cluster, "pg_cluster");
}

#[test]
fn a_repository_is_reached_and_served_with_tokens() {
    let service =
        [("DRYDOCK_REPOSITORY", "https://backup:8443"), ("DRYDOCK_REPOSITORY_TOKEN_FILE", "/run/t")];
    let found = settings("http.insecure = true", &service).unwrap();
    assert!(found.repository.is_read_only() && found.repository.directory().is_none());
    assert_eq!(found.store.http.token, Some(Token::new("in /run/t")));
    assert_eq!((found.token_file.as_deref(), found.store.http.insecure), (Some(Path::new("/run/t")), true));
    assert!(said("http.insecure = 1", &service).contains("expected true or false"));
    assert!(said("", &[("DRYDOCK_REPOSITORY", "https://u:p@backup")]).contains("expected the address"));

    let serve = |file: &str, more: &[(&str, &str)]| {
        let listen = [REPOSITORY, ("DRYDOCK_SERVE_TOKEN", "0123456789abcdef")];
        settings(file, &[&listen[..], more].concat()).unwrap().serve().map(Option::<&_>::cloned)
    };
    assert_eq!(serve("", &[]), Ok(None));
    let listen = ("DRYDOCK_SERVE_LISTEN", "0.0.0.0:1");
    assert!(serve("", &[listen]).unwrap_err().to_string().contains("there is no TLS"));
    assert!(serve("serve.insecure = true", &[listen]).is_ok());
    assert!(serve("", &[("DRYDOCK_SERVE_LISTEN", "[::1]:1")]).is_ok());
    let short = serve("", &[("DRYDOCK_SERVE_LISTEN", "[::1]:1"), ("DRYDOCK_SERVE_TOKEN", "short")]);
    let short = short.unwrap_err().to_string();
    assert!(short.contains("16 or more") && !short.contains("short"), "{short}");
}

#[test]
fn further_repositories_are_named_once_and_can_be_written_to() {
    let also = |text| ("DRYDOCK_REPOSITORY_ALSO", text);
    let later = |text| ("DRYDOCK_REPOSITORY_LATER", text);
    let found = settings("later = \"s3://bucket/p\"", &[REPOSITORY, also("/b, file:///c,")]).unwrap();
    let texts = |addresses: &[Address]| addresses.iter().map(Address::to_string).collect::<Vec<_>>();
    assert_eq!(texts(&found.further.also), ["/b", "file:///c"]);
    assert_eq!(texts(&found.further.later), ["s3://bucket/p"]);
    assert!(settings("", &[REPOSITORY]).unwrap().further.is_empty());

    let twice = said("", &[REPOSITORY, also("/b"), later("file:///b/")]);
    assert!(twice.starts_with("file:///b/ is named twice"), "{twice}");
    let twice = said("", &[REPOSITORY, also("/var/backups/")]);
    assert!(twice.starts_with("/var/backups/ is named twice"), "{twice}");
    let served = said("", &[REPOSITORY, later("https://backup:8443")]);
    assert!(served.starts_with("DRYDOCK_REPOSITORY_LATER is") && served.contains("only be read"), "{served}");
    assert!(said("", &[REPOSITORY, also("ftp://x")]).contains("expected directories or buckets"));

    // Who reads from one of them says so with a flag.
    let flags = Flags { repository: Some("/b".into()), ..Flags::default() };
    let found = settings_with("", &[REPOSITORY, also("file:///b,/c")], &flags).unwrap();
    assert_eq!((found.repository.as_str(), texts(&found.further.also)), ("/b", vec!["/c".to_owned()]));
}

#[test]
fn role_files_may_be_given_as_paths() {
    let found =
        settings("", &[REPOSITORY, ("MASTER_ROLE_LOCK_FILE_NAME", "/var/lib/postgresql/data/m.lock")])
            .unwrap();
    assert_eq!(found.role_files, ["m.lock", "standby.lock"]);
}

#[test]
fn variables_for_aws_are_named_where_no_setting_of_ours_stands_for_them() {
    let variables = |settings_too: &[(&str, &str)]| {
        let aws = [
            REPOSITORY,
            ("AWS_ACCESS_KEY_ID", "x"),
            ("AWS_SESSION_TOKEN", ""),
            ("AWS_REGION", "r"),
            ("AWS_X", "x"),
        ];
        settings("", &[&aws, settings_too].concat()).unwrap().s3_variables
    };
    assert_eq!(variables(&[]), ["AWS_ACCESS_KEY_ID", "AWS_REGION"]);
    assert_eq!(variables(&[("DRYDOCK_S3_CREDENTIALS_FILE", "/c")]), ["AWS_REGION"]);
    assert_eq!(variables(&[("DRYDOCK_S3_REGION", "r")]), ["AWS_ACCESS_KEY_ID"]);
}
