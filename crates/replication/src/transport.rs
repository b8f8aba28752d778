//! From a configuration to a socket that reaches PostgreSQL: addresses, timeouts, and when to try again with or
//! without TLS.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;

use socket2::{SockRef, TcpKeepalive};
use tokio::net::{TcpStream, UnixStream, lookup_host};
use tokio::time::timeout;

pub(crate) use crate::config::Stream;
use crate::config::{ConnectConfig, Dialer, Host, SslMode};
use crate::error::Error;
use crate::tls::{self, Wish};

/// A stream on which nothing has been said yet, except what TLS needs.
pub(crate) struct Socket {
    pub stream: Box<dyn Stream>,
    /// TLS protects the stream.
    pub encrypted: bool,
    /// What SCRAM binds the login to: the hash of the server's certificate.
    pub end_point: Option<Vec<u8>>,
}

impl Socket {
    pub fn plain(stream: impl Stream + 'static) -> Socket {
        Socket { stream: Box::new(stream), encrypted: false, end_point: None }
    }
}

enum Address {
    Tcp(SocketAddr),
    Unix(PathBuf),
    Dialed(Dialer),
}

/// The protocol's first words on a fresh socket. A trait rather than an async closure, of which the compiler cannot
/// tell yet that its future may be sent between threads.
pub(crate) trait Login: Sync {
    type Client: Send;

    fn log_in(&self, socket: Socket) -> impl Future<Output = Result<Self::Client, Error>> + Send;
}

/// Reaches the server and logs in, trying address after address.
///
/// Logging in happens in here because libpq's `allow` and `prefer` try again, with or without TLS, when the login is
/// refused.
pub(crate) async fn establish<L: Login>(config: &ConnectConfig, login: &L) -> Result<L::Client, Error> {
    let encryption = tls::Encryption::new(config)?;
    let mut last = None;
    for address in addresses(config).await? {
        match reach(config, &encryption, &address, login).await {
            Err(error @ (Error::Unreachable { .. } | Error::Lost { .. } | Error::Timeout { .. })) => {
                last = Some(error);
            }
            outcome => return outcome,
        }
    }
    Err(last.unwrap_or_else(|| unreachable_error(config, io::Error::other("the host name has no address"))))
}

async fn addresses(config: &ConnectConfig) -> Result<Vec<Address>, Error> {
    let host = match &config.host {
        Host::Unix(directory) => return Ok(vec![Address::Unix(config.socket_path(directory))]),
        Host::Dialed(dialer) => return Ok(vec![Address::Dialed(dialer.clone())]),
        Host::Tcp(host) => host,
    };
    let found = within(config, async {
        let found = lookup_host((host.as_str(), config.port)).await;
        found.map_err(|error| unreachable_error(config, error))
    });
    Ok(found.await?.map(Address::Tcp).collect())
}

/// One address: the attempt that the mode asks for first, then the one it falls back to.
async fn reach<L: Login>(
    config: &ConnectConfig,
    encryption: &tls::Encryption,
    address: &Address,
    login: &L,
) -> Result<L::Client, Error> {
    let mode = match address {
        Address::Tcp(_) => config.tls.mode,
        Address::Unix(_) | Address::Dialed(_) => SslMode::Disable,
    };
    let mut encrypted = false;
    let first =
        within(config, attempt(config, encryption, address, Wish::first(mode), &mut encrypted, login)).await;
    let error = match first {
        Ok(connected) => return Ok(connected),
        Err(error) => error,
    };
    let Some(wish) = Wish::after(mode, encrypted, &error) else {
        return Err(error);
    };
    let second = within(config, attempt(config, encryption, address, wish, &mut encrypted, login)).await;
    second.map_err(|second| more_telling(error, second))
}

async fn attempt<L: Login>(
    config: &ConnectConfig,
    encryption: &tls::Encryption,
    address: &Address,
    wish: Wish,
    encrypted: &mut bool,
    login: &L,
) -> Result<L::Client, Error> {
    let unreachable = |error| unreachable_error(config, error);
    let socket = match address {
        Address::Unix(path) => Socket::plain(UnixStream::connect(path).await.map_err(unreachable)?),
        Address::Dialed(dialer) => {
            let stream = dialer.dial().map_err(unreachable)?;
            Socket { stream, encrypted: false, end_point: None }
        }
        Address::Tcp(address) => {
            let stream = TcpStream::connect(address).await.map_err(unreachable)?;
            tune(&stream, config).map_err(unreachable)?;
            *encrypted = wish != Wish::Plain;
            encryption.negotiate(stream, wish).await?
        }
    };
    *encrypted = socket.encrypted;
    login.log_in(socket).await
}

/// Options of a TCP connection. The receive buffer is left to the kernel on purpose: a size of our own would switch
/// off its autotuning, and `net.core.rmem_max` caps it far below what autotuning reaches.
fn tune(stream: &TcpStream, config: &ConnectConfig) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let socket = SockRef::from(stream);
    let keepalive = TcpKeepalive::new()
        .with_time(config.keepalive_idle)
        .with_interval(config.keepalive_interval)
        .with_retries(config.keepalive_count);
    socket.set_tcp_keepalive(&keepalive)?;
    socket.set_tcp_user_timeout(Some(config.tcp_user_timeout))
}

async fn within<T>(config: &ConnectConfig, work: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
    match timeout(config.connect_timeout, work).await {
        Ok(outcome) => outcome,
        Err(_) => Err(Error::Timeout { target: config.target(), after: config.connect_timeout }),
    }
}

fn unreachable_error(config: &ConnectConfig, source: io::Error) -> Error {
    Error::Unreachable { target: config.target(), source }
}

/// An error of a socket that was connected. In TLS 1.3 the server judges our certificate after the handshake, so its
/// verdict may arrive with the first read.
pub(crate) fn lost(target: String, source: io::Error) -> Error {
    match source.get_ref().is_some_and(|inner| inner.is::<rustls::Error>()) {
        true => Error::Tls { target, source },
        false => Error::Lost { target, source },
    }
}

/// Which of two refusals to report: a wrong password says more than a missing `hostnossl` line.
fn more_telling(first: Error, second: Error) -> Error {
    match (&first, &second) {
        (Error::Authentication { .. }, _) => first,
        (_, Error::Authentication { .. }) => second,
        (Error::NotAuthorized { .. }, _) => first,
        _ => second,
    }
}
