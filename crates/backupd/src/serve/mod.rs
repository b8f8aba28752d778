//! Serving the repository, read only, to nodes that have an address and a token and no other way to it.
//!
//! Whoever has the token reads the database. So nothing is said to anybody else, not even what exists; without TLS
//! only this machine is listened to; and whatever a connection may use, be it time, memory or turns, has a limit in
//! [`Limits`]. Keys are the only names there are: a request is percent-decoded once and what is not a
//! [`store::Key`] then is refused, so no request leads out of the repository.
//!
//! It runs on a thread and a runtime of its own ([`Serving::start`]): a restore that reads as fast as it can must not
//! take turns from the archive, which is what the service is for.

mod connection;
mod object;
mod range;
mod routes;
mod strangers;
mod tls;

use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

use store::Store;
use store::http::Token;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

pub use self::routes::router;
use self::tls::Certificates;
use crate::Failure;
use crate::config::{self, ServeSettings};

/// Answers connections without encryption until `shutdown`, within limits, for other parts of the service.
pub(crate) async fn accept_plain(
    listener: tokio::net::TcpListener,
    router: axum::Router,
    limits: Limits,
    shutdown: CancellationToken,
) {
    connection::accept(listener, None, router, limits, shutdown).await;
}

/// What connections may use.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Connections at once. Further ones wait in the kernel's queue.
    pub connections: usize,
    /// Answers at once, over all connections; each holds about [`Limits::read_bytes`] twice, here and in the socket's buffer.
    pub requests: usize,
    /// How long a request waits for its turn before it is told to come back.
    pub turn_wait: Duration,
    /// From the store at once.
    pub read_bytes: u64,
    /// Time to agree on keys.
    pub handshake: Duration,
    /// From the end of one answer (or the beginning of the connection) to the end of the next request.
    pub request_head: Duration,
    /// A client that takes nothing for so long is taken for gone.
    pub silence: Duration,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            connections: 128,
            requests: 16,
            turn_wait: Duration::from_secs(20),
            read_bytes: 1 << 20,
            handshake: Duration::from_secs(10),
            request_head: Duration::from_secs(30),
            silence: Duration::from_secs(30),
        }
    }
}

/// The head of a request; ours have some hundred bytes, and keys at most a thousand, three thousand when escaped.
const HEAD_BYTES_MAX: usize = 16 << 10;
const HEADERS_MAX: usize = 32;
/// Reads of the store at once; more would wait for the same disk.
const BLOCKING_THREADS_MAX: usize = 4;

/// A socket that is bound, and what is to be served on it.
#[derive(Debug)]
pub struct Serving {
    listener: TcpListener,
    address: SocketAddr,
    certificates: Option<Certificates>,
    token: Token,
    limits: Limits,
}

impl Serving {
    /// Binds the address and reads the certificate, so that whatever is wrong with them is told at the start.
    pub fn bind(settings: &ServeSettings, limits: Limits) -> Result<Serving, Failure> {
        let certificates = settings.tls.clone().map(Certificates::load).transpose()?;
        let bound = TcpListener::bind(settings.listen).and_then(|listener| {
            listener.set_nonblocking(true)?;
            Ok((listener.local_addr()?, listener))
        });
        let (address, listener) = bound.map_err(|error| {
            config::Error::new(format!("serve.listen, {}, cannot be listened on: {error}", settings.listen))
        })?;
        Ok(Serving { listener, address, certificates, token: settings.token.clone(), limits })
    }

    /// Where it listens; the port is the system's choice when none was asked for.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves on a thread of its own what `open` opens there, until `shutdown`; wait for the future's end.
    ///
    /// What is being answered then is cut off: whoever reads it will notice, and ask again when we are back.
    pub fn start<O, F>(
        self,
        open: O,
        shutdown: CancellationToken,
    ) -> Result<impl Future<Output = ()>, Failure>
    where
        O: FnOnce() -> F + Send + 'static,
        F: Future<Output = Option<Arc<dyn Store>>>,
    {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .max_blocking_threads(BLOCKING_THREADS_MAX)
            .enable_all()
            .build()
            .map_err(Failure::system("start"))?;
        let (ended, wait) = oneshot::channel::<()>();
        let work = move || {
            // Dropped when the thread ends, however it does.
            let _ended = ended;
            runtime.block_on(async {
                if let Some(store) = open().await
                    && let Err(error) = self.run(store, shutdown).await
                {
                    tracing::error!("the repository is not served any more: {error}");
                }
            });
        };
        std::thread::Builder::new().name("serve".to_owned()).spawn(work).map_err(Failure::system("start"))?;
        Ok(async { drop(wait.await) })
    }

    /// Serves `store` until `shutdown`.
    pub async fn run(self, store: Arc<dyn Store>, shutdown: CancellationToken) -> std::io::Result<()> {
        let encrypted = if self.certificates.is_some() { "over TLS" } else { "without TLS" };
        tracing::info!(listen = %self.address, "the repository is served, read only, {encrypted}");
        let listener = tokio::net::TcpListener::from_std(self.listener)?;
        let router = router(store, &self.token, self.limits);
        connection::accept(listener, self.certificates, router, self.limits, shutdown).await;
        Ok(())
    }
}
