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
    assert_eq!(settings.repository.directory(), Path::new("/var/backups"));
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
    let several = said("", &[REPOSITORY, ("REPLICATION_HOST", "a,b"), USER]);
    assert!(several.contains("several servers (a,b): expected one"), "{several}");
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
fn an_empty_variable_is_not_set() {
    let found =
        settings("", &[REPOSITORY, HOST, USER, ("REPLICATION_PORT", ""), ("DRYDOCK_CLUSTER", "")]).unwrap();
    assert_eq!(found.cluster, "pg_cluster");
}

#[test]
fn role_files_may_be_given_as_paths() {
    let found =
        settings("", &[REPOSITORY, ("MASTER_ROLE_LOCK_FILE_NAME", "/var/lib/postgresql/data/m.lock")])
            .unwrap();
    assert_eq!(found.role_files, ["m.lock", "standby.lock"]);
}
