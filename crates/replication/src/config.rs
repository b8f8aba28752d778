//! Where a server is and how to reach it, as values. Nothing here reads the environment: whoever builds a
//! [`ConnectConfig`] decides what `PGSSLMODE` and its relatives mean.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};

/// A password. Its `Debug` prints nothing of it, and it has no `Display`.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Wraps a password.
    pub fn new(text: impl Into<String>) -> Secret {
        Secret(text.into())
    }

    /// The password itself, for the one place that sends it.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}

/// The machine a server runs on.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Host {
    /// A host name or an IP address.
    Tcp(String),
    /// The directory that holds the server's socket.
    Unix(PathBuf),
    /// A server that the dialer reaches, such as one within this process. Like a socket file it is never encrypted.
    Dialed(Dialer),
}

/// A byte stream to a server.
pub trait Stream: AsyncRead + AsyncWrite + Send + Sync + Unpin {}

impl<S: AsyncRead + AsyncWrite + Send + Sync + Unpin> Stream for S {}

type Dial = dyn Fn() -> io::Result<Box<dyn Stream>> + Send + Sync;

/// Reaches a server without the operating system: each call gives a new stream, or says why there is none.
#[derive(Clone)]
pub struct Dialer {
    name: String,
    dial: Arc<Dial>,
}

impl Dialer {
    /// `name` is what messages call the server.
    pub fn new(
        name: impl Into<String>,
        dial: impl Fn() -> io::Result<Box<dyn Stream>> + Send + Sync + 'static,
    ) -> Dialer {
        Dialer { name: name.into(), dial: Arc::new(dial) }
    }

    pub(crate) fn dial(&self) -> io::Result<Box<dyn Stream>> {
        (self.dial)()
    }
}

impl PartialEq for Dialer {
    fn eq(&self, other: &Dialer) -> bool {
        Arc::ptr_eq(&self.dial, &other.dial)
    }
}

impl Eq for Dialer {}

impl fmt::Debug for Dialer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Dialer({})", self.name)
    }
}

impl Host {
    /// Reads a host as libpq does: what starts with `/` is a socket directory.
    pub fn parse(text: &str) -> Host {
        match text.starts_with('/') {
            true => Host::Unix(PathBuf::from(text)),
            false => Host::Tcp(text.to_owned()),
        }
    }
}

impl From<&str> for Host {
    fn from(text: &str) -> Host {
        Host::parse(text)
    }
}

/// How much TLS a connection needs, with libpq's spellings and meanings.
///
/// Socket files are never encrypted, whatever the mode, as in libpq.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum SslMode {
    /// Never.
    Disable,
    /// Plain first; TLS if the server refuses that.
    Allow,
    /// TLS first; plain if the server has none or refuses us over TLS.
    #[default]
    Prefer,
    /// Only TLS. Verifies the chain when a root certificate file is present, and nothing otherwise.
    Require,
    /// TLS with a certificate that chains to a trusted root. Unlike libpq we cannot verify certificates of X.509
    /// version 1, which old versions of `openssl x509 -req` make unless given extensions.
    VerifyCa,
    /// As `VerifyCa`, and the certificate names the host.
    VerifyFull,
}

impl SslMode {
    /// libpq's spelling.
    pub fn as_str(self) -> &'static str {
        match self {
            SslMode::Disable => "disable",
            SslMode::Allow => "allow",
            SslMode::Prefer => "prefer",
            SslMode::Require => "require",
            SslMode::VerifyCa => "verify-ca",
            SslMode::VerifyFull => "verify-full",
        }
    }
}

impl fmt::Display for SslMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The text is not an `sslmode`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("\"{0}\" is not an sslmode; expected disable, allow, prefer, require, verify-ca or verify-full")]
pub struct ParseSslModeError(pub String);

impl FromStr for SslMode {
    type Err = ParseSslModeError;

    fn from_str(text: &str) -> Result<SslMode, ParseSslModeError> {
        use SslMode::{Allow, Disable, Prefer, Require, VerifyCa, VerifyFull};
        [Disable, Allow, Prefer, Require, VerifyCa, VerifyFull]
            .into_iter()
            .find(|mode| mode.as_str() == text)
            .ok_or_else(|| ParseSslModeError(text.to_owned()))
    }
}

/// The TLS part of a [`ConnectConfig`].
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Tls {
    /// How much TLS is needed.
    pub mode: SslMode,
    /// A PEM file of trusted roots, or the word `system` for the machine's own store. As in libpq, a file that is not
    /// there is an error only for the two `verify` modes, and `system` may only be used with [`SslMode::VerifyFull`].
    pub root_cert: Option<PathBuf>,
    /// A PEM file with the client certificate, leaf first.
    pub cert: Option<PathBuf>,
    /// A PEM file with the client's key; nobody but its owner may read it.
    pub key: Option<PathBuf>,
}

/// Everything needed to reach one server.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ConnectConfig {
    /// The machine.
    pub host: Host,
    /// The port, which also names the socket file. Default 5432.
    pub port: u16,
    /// The role.
    pub user: String,
    /// The password; without one the password file is asked.
    pub password: Option<Secret>,
    /// A file in the format of `~/.pgpass`. Default none: the caller knows whose home is meant.
    pub passfile: Option<PathBuf>,
    /// The database of an SQL connection. Default: the name of the role, as in libpq. Replication connections have
    /// no database, and look up `replication` in the password file.
    pub database: Option<String>,
    /// Shown in `pg_stat_activity` and `pg_stat_replication`, and what `synchronous_standby_names` names. Default
    /// `drydock`.
    pub application_name: String,
    /// Encryption. Default `prefer`, as in libpq.
    pub tls: Tls,
    /// The time one address has to be reached, encrypted and logged in to. Default 10 s.
    pub connect_timeout: Duration,
    /// Quiet time on the socket before the kernel probes the peer. Default 30 s.
    pub keepalive_idle: Duration,
    /// Time between such probes. Default 10 s.
    pub keepalive_interval: Duration,
    /// Unanswered probes after which the connection is dead. Default 3.
    pub keepalive_count: u32,
    /// How long sent bytes may stay unacknowledged before the connection is dead. Default 60 s.
    pub tcp_user_timeout: Duration,
}

impl ConnectConfig {
    /// The configuration of a role on a host, with the documented defaults.
    pub fn new(host: impl Into<Host>, user: impl Into<String>) -> ConnectConfig {
        ConnectConfig {
            host: host.into(),
            port: 5432,
            user: user.into(),
            password: None,
            passfile: None,
            database: None,
            application_name: "drydock".to_owned(),
            tls: Tls::default(),
            connect_timeout: Duration::from_secs(10),
            keepalive_idle: Duration::from_secs(30),
            keepalive_interval: Duration::from_secs(10),
            keepalive_count: 3,
            tcp_user_timeout: Duration::from_secs(60),
        }
    }

    /// The server as messages name it: `host:port`, or the path of the socket file.
    pub fn target(&self) -> String {
        match &self.host {
            Host::Tcp(host) if host.contains(':') => format!("[{host}]:{}", self.port),
            Host::Tcp(host) => format!("{host}:{}", self.port),
            Host::Unix(directory) => self.socket_path(directory).display().to_string(),
            Host::Dialed(dialer) => dialer.name.clone(),
        }
    }

    /// The socket file that PostgreSQL keeps in `directory`.
    pub(crate) fn socket_path(&self, directory: &Path) -> PathBuf {
        directory.join(format!(".s.PGSQL.{}", self.port))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_is_never_printed() {
        let mut config = ConnectConfig::new("db", "replicator");
        config.password = Some(Secret::new("hunter2"));
        assert!(!format!("{config:?} {config:#?}").contains("hunter2"));
    }

    #[test]
    fn ssl_modes_read_as_libpq_spells_them() {
        for text in ["disable", "allow", "prefer", "require", "verify-ca", "verify-full"] {
            assert_eq!(text.parse::<SslMode>().unwrap().to_string(), text);
        }
        assert!("Require".parse::<SslMode>().is_err());
    }

    #[test]
    fn targets_name_the_server() {
        assert_eq!(ConnectConfig::new("db", "u").target(), "db:5432");
        assert_eq!(ConnectConfig::new("::1", "u").target(), "[::1]:5432");
        assert_eq!(ConnectConfig::new("/run/pg", "u").target(), "/run/pg/.s.PGSQL.5432");
    }
}
