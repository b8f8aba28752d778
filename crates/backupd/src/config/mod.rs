//! The one configuration of both binaries.
//!
//! Values come from a TOML file, the environment and flags, and are resolved once into [`Settings`]. [`resolve`] is
//! pure; [`load`] looks at the machine and calls it.

mod address;
mod encryption;
mod events;
mod live;
mod parse;
mod retention;
mod s3;
mod schedule;
mod serve;
pub mod setting;
mod several;
mod sources;

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use engine::expire::Policy;
use engine::follow::{BackupSource, FollowConfig, Node};
use replication::{ConnectConfig, Host, Secret, SslMode, Tls};
use store::http::{HttpOptions, Token};
use tracing_subscriber::EnvFilter;

pub use self::address::Address;
pub use self::encryption::Encryption;
pub use self::events::EventSettings;
pub use self::live::{Changes, Live, Reloaded};
pub use self::schedule::ScheduleSettings;
pub use self::serve::{ServeSettings, TlsFiles};
use self::setting::Setting;
pub use self::several::Further;
use self::sources::{Sources, Value};

/// Where the file is looked for when nothing says otherwise; it need not be there.
pub const DEFAULT_FILE: &str = "/etc/drydock/drydock.toml";

/// The configuration cannot be used: which value, what is wrong with it, what is expected.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Error(String);

impl Error {
    /// For settings that turn out to be wrong only when they are used.
    pub fn new(text: String) -> Error {
        Error(text)
    }
}

/// How files that settings name are read.
pub type ReadFile = fn(&Path) -> io::Result<String>;

/// The flags of both binaries.
#[derive(Debug, Clone, Default, clap::Args)]
#[command(next_help_heading = "Where")]
pub struct Flags {
    /// Configuration file; default $DRYDOCK_CONFIG, else /etc/drydock/drydock.toml
    #[arg(long, global = true, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Where backups and WAL are kept, such as file:///var/backups
    #[arg(long, global = true, value_name = "URL")]
    pub repository: Option<String>,
    /// The cluster's name in the repository
    #[arg(long, global = true, value_name = "NAME")]
    pub cluster: Option<String>,
}

/// What is known of the machine.
#[derive(Debug, Clone, Copy)]
pub struct Machine {
    /// Cores we may use.
    pub cores: usize,
    /// How files are read.
    pub read: ReadFile,
}

/// What the program needs.
#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    /// Where the repository is.
    pub repository: Address,
    /// Others that have the same.
    pub further: Further,
    /// What it needs beside its address.
    pub store: store::Options,
    /// The file that the token for it came from.
    pub token_file: Option<PathBuf>,
    /// How the repository is served, where it is. What does not serve it need not be able to read its secrets.
    serve: Result<Option<ServeSettings>, Error>,
    /// Where health and metrics are told.
    pub monitor: Option<SocketAddr>,
    /// What is asked for before anything is done over HTTP there.
    pub api_token: Option<Token>,
    /// By variable, what recovery needs again to reach a bucket.
    pub s3_for_recovery: BTreeMap<String, String>,
    /// Variables for AWS that a bucket is reached with. Their values may be secrets, so recovery is not handed them.
    pub s3_variables: Vec<&'static str>,
    /// The cluster's name in it.
    pub cluster: String,
    /// The server, where one is configured. What only reads the repository needs none.
    server: Result<ServerSettings, Error>,
    /// The replication slot; its name counts also where none is used.
    pub slot: String,
    /// Whether a slot is used.
    pub use_slot: bool,
    /// The database with repmgr's metadata.
    pub repmgr_database: Option<String>,
    /// Which node a backup copies.
    pub backup_source: BackupSource,
    /// How long WAL of an unfinished segment may wait.
    pub flush_interval: Duration,
    /// Segments compressed and written at once.
    pub in_flight: usize,
    /// Threads that compress, hash and verify.
    pub workers: usize,
    /// zstd's level for files.
    pub level: i32,
    /// Files in the data directory that say what role a node plays.
    pub role_files: Vec<String>,
    /// How long a backup waits for its WAL.
    pub wal_wait: Duration,
    /// After how long an unfinished backup is dead.
    pub dead_after: Duration,
    /// When things are done.
    pub schedule: ScheduleSettings,
    /// What is kept.
    pub retention: Policy,
    /// Limit on what the server sends, in kB/s.
    pub max_rate_kb: Option<u32>,
    /// Whom to tell what has happened.
    pub events: EventSettings,
    /// To whom things are encrypted, and what reads them.
    pub encryption: Encryption,
    /// How to log.
    pub log: Log,
    /// The file that was read, if one was.
    pub file: Option<PathBuf>,
    /// By key, a hash of each value that is set: enough to see what has changed, and no place for secrets.
    fingerprints: BTreeMap<&'static str, [u8; 32]>,
}

/// The server, or the nodes of a cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerSettings {
    /// For replication; the first of several nodes.
    pub replication: ConnectConfig,
    /// For SQL; the first of several nodes.
    pub sql: ConnectConfig,
    /// All nodes that are configured.
    pub nodes: Vec<Node>,
}

impl ServerSettings {
    /// The first node, for archiving, which asks the odd question in SQL, too, with the role it has.
    pub fn for_archive(&self) -> ConnectConfig {
        ConnectConfig { database: self.sql.database.clone(), ..self.replication.clone() }
    }
}

/// How to log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Log {
    /// What, in the words of [`EnvFilter`].
    pub filter: String,
    /// How it looks.
    pub format: LogFormat,
}

/// How a log looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LogFormat {
    /// Lines for people.
    #[default]
    Text,
    /// A JSON object a line.
    Json,
}

impl Settings {
    /// How to serve the repository, if it is to be served, or the sentence that says what is wrong with it.
    pub fn serve(&self) -> Result<Option<&ServeSettings>, Error> {
        self.serve.as_ref().map(Option::as_ref).map_err(Clone::clone)
    }

    /// How to follow the primary, where there may be several nodes.
    pub fn follow(&self, clock: engine::Clock) -> Result<Option<FollowConfig>, Error> {
        let nodes = self.server()?.nodes.clone();
        if nodes.len() < 2 && self.repmgr_database.is_none() {
            return Ok(None);
        }
        let repmgr_database = self.repmgr_database.clone();
        Ok(Some(FollowConfig { nodes, repmgr_database, slot: self.slot_in_use(), clock }))
    }

    /// The slot, where one is used.
    pub fn slot_in_use(&self) -> Option<String> {
        self.use_slot.then(|| self.slot.clone())
    }

    /// The server, or the sentence that says which setting is missing.
    pub fn server(&self) -> Result<&ServerSettings, Error> {
        self.server.as_ref().map_err(Clone::clone)
    }
}

/// Reads the configuration of this process.
pub fn load(flags: &Flags) -> Result<Settings, Error> {
    // Variables that are not text cannot be ours.
    let environment = std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
    let environment: BTreeMap<String, String> = environment.collect();
    let file = read_file(flags, &environment)?;
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let machine = Machine { cores, read: |path| std::fs::read_to_string(path) };
    resolve(file.as_ref().map(|(path, text)| (path.as_path(), text.as_str())), &environment, flags, machine)
}

/// The file and its text. Only the default one may be missing.
fn read_file(
    flags: &Flags,
    environment: &BTreeMap<String, String>,
) -> Result<Option<(PathBuf, String)>, Error> {
    let variable = environment.get("DRYDOCK_CONFIG").filter(|text| !text.is_empty()).map(PathBuf::from);
    let chosen = flags.config.clone().or(variable);
    let path = chosen.clone().unwrap_or_else(|| PathBuf::from(DEFAULT_FILE));
    match std::fs::read_to_string(&path) {
        Ok(text) => Ok(Some((path, text))),
        Err(error) if error.kind() == io::ErrorKind::NotFound && chosen.is_none() => Ok(None),
        Err(error) => Err(Error(format!("cannot read the configuration file {}: {error}", path.display()))),
    }
}

/// Resolves what was found into what the program needs.
pub fn resolve(
    file: Option<(&Path, &str)>,
    environment: &BTreeMap<String, String>,
    flags: &Flags,
    machine: Machine,
) -> Result<Settings, Error> {
    let sources = Sources::new(file, environment, machine.read)?;
    let resolver = Resolver { sources, environment };
    let repository = match &flags.repository {
        Some(text) => Some(Value::flag("--repository", text)),
        None => resolver.sources.get(&setting::REPOSITORY)?,
    };
    let repository = repository.ok_or_else(|| {
        Error("no repository is configured: set DRYDOCK_REPOSITORY, as in file:///var/backups".to_owned())
    })?;
    let cluster = match &flags.cluster {
        Some(text) => Some(Value::flag("--cluster", text)),
        None => resolver.sources.get(&setting::CLUSTER)?,
    };
    let token = resolver.sources.get(&setting::HTTP_TOKEN)?;
    let http = HttpOptions {
        token: token.as_ref().map(|token| Token::new(&token.text)),
        ca_file: resolver.path(&setting::HTTP_CA_FILE)?,
        insecure: resolver.truth(&setting::HTTP_INSECURE)?,
    };
    let repository = repository_address(&repository)?;
    Ok(Settings {
        further: resolver.further(&repository, flags.repository.is_some())?,
        repository,
        store: store::Options { http, s3: resolver.s3()? },
        s3_for_recovery: resolver.s3_for_recovery()?,
        s3_variables: resolver.s3_variables()?,
        token_file: token.and_then(|token| token.file),
        serve: resolver.serve(),
        monitor: resolver.parse(
            &setting::MONITOR_LISTEN,
            "an address and a port, such as 0.0.0.0:8080",
            |text| text.parse().ok(),
        )?,
        api_token: resolver.api_token()?,
        cluster: cluster.as_ref().map_or_else(|| Ok("pg_cluster".to_owned()), cluster_name)?,
        server: resolver.server()?,
        use_slot: resolver.parse(&setting::USE_SLOT, "true or false", truth)?.unwrap_or(true),
        repmgr_database: resolver.text(&setting::REPMGR_DATABASE)?,
        backup_source: resolver
            .parse(&setting::BACKUP_SOURCE, "primary, prefer-standby or standby", |text| text.parse().ok())?
            .unwrap_or_default(),
        slot: resolver.parse(&setting::SLOT, SLOT_EXPECTED, slot)?.unwrap_or_else(|| "drydock".to_owned()),
        flush_interval: resolver.duration(&setting::FLUSH_INTERVAL)?.unwrap_or(Duration::from_secs(1)),
        in_flight: resolver.count(&setting::IN_FLIGHT, 64)?.unwrap_or(2),
        workers: resolver.count(&setting::WORKERS, 1024)?.unwrap_or(machine.cores),
        level: resolver.parse(&setting::LEVEL, "a zstd level from 1 to 19", level)?.unwrap_or(1),
        role_files: resolver.role_files()?,
        wal_wait: resolver.duration(&setting::WAL_WAIT)?.unwrap_or(Duration::from_secs(600)),
        dead_after: resolver.duration(&setting::DEAD_AFTER)?.unwrap_or(Duration::from_secs(3600)),
        schedule: resolver.schedule()?,
        retention: resolver.retention()?,
        max_rate_kb: resolver.parse(
            &setting::MAX_RATE,
            "a size from 32kB to 1024MB a second, such as 50MB",
            rate,
        )?,
        events: resolver.events()?,
        encryption: resolver.encryption()?,
        log: resolver.log()?,
        fingerprints: resolver.sources.fingerprints()?,
        file: file.map(|(path, _)| path.to_owned()),
    })
}

struct Resolver<'a> {
    sources: Sources<'a>,
    environment: &'a BTreeMap<String, String>,
}

impl Resolver<'_> {
    fn parse<T>(
        &self,
        setting: &Setting,
        expected: &str,
        parse: impl FnOnce(&str) -> Option<T>,
    ) -> Result<Option<T>, Error> {
        let Some(value) = self.sources.get(setting)? else { return Ok(None) };
        parse(value.text.trim()).map(Some).ok_or_else(|| value.unexpected(expected))
    }

    fn text(&self, setting: &Setting) -> Result<Option<String>, Error> {
        Ok(self.sources.get(setting)?.map(|value| value.text))
    }

    fn path(&self, setting: &Setting) -> Result<Option<PathBuf>, Error> {
        Ok(self.text(setting)?.map(PathBuf::from))
    }

    fn truth(&self, setting: &Setting) -> Result<bool, Error> {
        Ok(self.parse(setting, "true or false", |text| text.parse().ok())?.unwrap_or(false))
    }

    fn duration(&self, setting: &Setting) -> Result<Option<Duration>, Error> {
        let positive = |text: &str| parse::duration(text).filter(|duration| !duration.is_zero());
        self.parse(setting, "a time such as 10s, 250ms, 5min or 1h", positive)
    }

    fn count(&self, setting: &Setting, max: usize) -> Result<Option<usize>, Error> {
        let count = |text: &str| text.parse().ok().filter(|count| (1..=max).contains(count));
        self.parse(setting, &format!("a number from 1 to {max}"), count)
    }

    /// The server. A missing setting is an error only for who needs the server, a wrong one for everybody.
    fn server(&self) -> Result<Result<ServerSettings, Error>, Error> {
        let replication = match self.replication()? {
            Ok(replication) => replication,
            Err(missing) => return Ok(Err(missing)),
        };
        let mut sql = replication.clone();
        if let Some(user) = self.text(&setting::SQL_USER)? {
            // Another role has another password; ours must not be sent in its name.
            if user != sql.user {
                sql.password = None;
            }
            sql.user = user;
        }
        if let Some(password) = self.text(&setting::SQL_PASSWORD)? {
            sql.password = Some(Secret::new(password));
        }
        sql.database = Some(self.text(&setting::SQL_DATABASE)?.unwrap_or_else(|| "postgres".to_owned()));
        if let Some(timeout) = self.duration(&setting::SQL_CONNECT_TIMEOUT)? {
            sql.connect_timeout = timeout;
        }
        let nodes = self.nodes(&replication, &sql)?;
        Ok(Ok(ServerSettings { replication, sql, nodes }))
    }

    /// Every node that is named, once.
    fn nodes(&self, replication: &ConnectConfig, sql: &ConnectConfig) -> Result<Vec<Node>, Error> {
        let port = self.parse(&setting::PORT, PORT_EXPECTED, port)?;
        let mut nodes: Vec<Node> = Vec::new();
        for value in
            [self.sources.get(&setting::HOST)?, self.sources.get(&setting::PARTNERS)?].into_iter().flatten()
        {
            for (name, own_port) in hosts(&value)? {
                let at = |config: &ConnectConfig| {
                    let mut config = config.clone();
                    config.host = Host::parse(&name);
                    config.port = own_port.or(port).unwrap_or(DEFAULT_PORT);
                    config
                };
                let for_archive = ConnectConfig { database: sql.database.clone(), ..at(replication) };
                let node = Node::configured(for_archive, at(sql));
                if !nodes.iter().any(|known| known.name == node.name) {
                    nodes.push(node);
                }
            }
        }
        Ok(nodes)
    }

    fn replication(&self) -> Result<Result<ConnectConfig, Error>, Error> {
        let port = self.parse(&setting::PORT, PORT_EXPECTED, port)?;
        let user = self.text(&setting::USER)?;
        let Some(host) = self.sources.get(&setting::HOST)? else {
            return Ok(Err(Error("no server is configured: set REPLICATION_HOST".to_owned())));
        };
        let Some((name, own_port)) = hosts(&host)?.into_iter().next() else {
            return Ok(Err(Error("no server is configured: set REPLICATION_HOST".to_owned())));
        };
        let Some(user) = user else {
            return Ok(Err(Error("no role is configured: set REPLICATION_USER".to_owned())));
        };
        let mut config = ConnectConfig::new(Host::parse(&name), user);
        config.port = own_port.or(port).unwrap_or(config.port);
        config.password = self.text(&setting::PASSWORD)?.map(Secret::new);
        config.passfile =
            self.path(&setting::PASSFILE)?.or_else(|| self.home().map(|home| home.join(".pgpass")));
        if let Some(name) = self.text(&setting::APPLICATION_NAME)? {
            config.application_name = name;
        }
        if let Some(timeout) = self.duration(&setting::CONNECT_TIMEOUT)? {
            config.connect_timeout = timeout;
        }
        config.tls = Tls {
            mode: self
                .parse(&setting::SSLMODE, SSLMODE_EXPECTED, |text| text.parse().ok())?
                .unwrap_or_default(),
            root_cert: self.path(&setting::SSLROOTCERT)?.or_else(|| self.libpq_file("root.crt")),
            cert: self.path(&setting::SSLCERT)?,
            key: self.path(&setting::SSLKEY)?,
        };
        if config.tls.mode == SslMode::Disable {
            config.tls = Tls { mode: SslMode::Disable, ..Tls::default() };
        }
        Ok(Ok(config))
    }

    fn home(&self) -> Option<PathBuf> {
        self.environment.get("HOME").filter(|home| !home.is_empty()).map(PathBuf::from)
    }

    /// A file where libpq has it by default. That it is missing is dealt with where it is needed.
    fn libpq_file(&self, name: &str) -> Option<PathBuf> {
        Some(self.home()?.join(".postgresql").join(name))
    }

    /// A variable may hold a path, as PostDock's do; what counts is the file's name.
    fn role_files(&self) -> Result<Vec<String>, Error> {
        let name = |text: &str| Some(Path::new(text).file_name()?.to_str()?.to_owned());
        let expected = "the name of a file in the data directory";
        let master = self.parse(&setting::MASTER_ROLE_FILE, expected, name)?;
        let standby = self.parse(&setting::STANDBY_ROLE_FILE, expected, name)?;
        Ok(vec![
            master.unwrap_or_else(|| "master.lock".to_owned()),
            standby.unwrap_or_else(|| "standby.lock".to_owned()),
        ])
    }

    fn log(&self) -> Result<Log, Error> {
        let filter = |text: &str| EnvFilter::try_new(text).ok().map(|_| text.to_owned());
        let format = |text: &str| match text {
            "text" => Some(LogFormat::Text),
            "json" => Some(LogFormat::Json),
            _ => None,
        };
        Ok(Log {
            filter: self
                .parse(&setting::LOG_FILTER, "a level: error, warn, info, debug or trace", filter)?
                .unwrap_or_else(|| LOG_FILTER.to_owned()),
            format: self.parse(&setting::LOG_FORMAT, "text or json", format)?.unwrap_or_default(),
        })
    }
}

/// What the server sends with its own end is reported by us anyway, and better.
const LOG_FILTER: &str = "info,tokio_postgres=warn";
const SLOT_EXPECTED: &str = "up to 63 lower-case letters, digits and underscores";
/// PostgreSQL's.
const DEFAULT_PORT: u16 = 5432;
const PORT_EXPECTED: &str = "a port from 1 to 65535";
const SSLMODE_EXPECTED: &str = "disable, allow, prefer, require, verify-ca or verify-full";

fn port(text: &str) -> Option<u16> {
    text.parse().ok().filter(|port| *port != 0)
}

fn slot(text: &str) -> Option<String> {
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
    ((1..=63).contains(&text.len()) && text.chars().all(plain)).then(|| text.to_owned())
}

fn level(text: &str) -> Option<i32> {
    text.parse().ok().filter(|level| (1..=19).contains(level))
}

/// PostgreSQL's own limits of MAX_RATE, in kB/s.
fn rate(text: &str) -> Option<u32> {
    let kb = u32::try_from(parse::bytes(text)? >> 10).ok()?;
    (32..=1_048_576).contains(&kb).then_some(kb)
}

/// PostDock has 0 and 1.
fn truth(text: &str) -> Option<bool> {
    match text {
        "1" | "true" => Some(true),
        "0" | "false" => Some(false),
        _ => None,
    }
}

fn hosts(value: &Value) -> Result<Vec<(String, Option<u16>)>, Error> {
    let malformed = || {
        value.unexpected(
            "host, host:port, or the directory of a socket, or several of these with commas between",
        )
    };
    let one = |text: &str| {
        let (host, own_port) = parse::host_and_port(text).ok_or_else(malformed)?;
        Ok((host, own_port.map(|text| port(text).ok_or_else(malformed)).transpose()?))
    };
    let names = value.text.split(',').map(str::trim).filter(|name| !name.is_empty());
    names.map(one).collect()
}

fn repository_address(value: &Value) -> Result<Address, Error> {
    Address::parse(&value.text).map_err(|expected| value.unexpected(expected))
}

fn cluster_name(value: &Value) -> Result<String, Error> {
    let expected = "letters, digits, \"_\", \"-\" and \".\", at most 100, not starting with \".\"";
    match repository::Cluster::check_name(&value.text) {
        Ok(()) => Ok(value.text.clone()),
        Err(_unusable) => Err(value.unexpected(expected)),
    }
}

#[cfg(test)]
mod tests;
