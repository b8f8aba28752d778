//! Connections: how many, how long, and encrypted.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::{Extension, Router};
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use rustls::ServerConfig;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio_io_timeout::TimeoutStream;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use super::tls::Certificates;
use super::{HEAD_BYTES_MAX, HEADERS_MAX, Limits};

/// Wait after the system refused a connection, for want of descriptors most likely.
const ACCEPT_RETRY: Duration = Duration::from_secs(1);

/// Who asks.
#[derive(Debug, Clone, Copy)]
pub(super) struct Peer(pub SocketAddr);

/// Takes connections until `shutdown`, and then cuts them.
pub(super) async fn accept(
    listener: TcpListener,
    mut certificates: Option<Certificates>,
    router: Router,
    limits: Limits,
    shutdown: CancellationToken,
) {
    let turns = Arc::new(Semaphore::new(limits.connections));
    let mut connections = JoinSet::new();
    loop {
        let next = async {
            let turn = turns.clone().acquire_owned().await;
            (listener.accept().await, turn)
        };
        let (accepted, turn) = tokio::select! {
            () = shutdown.cancelled() => return,
            next = next => next,
        };
        while let Some(ended) = connections.try_join_next() {
            if let Err(error) = ended {
                tracing::error!("a connection ended by a mistake in this program: {error}");
            }
        }
        let (socket, peer) = match accepted {
            Ok(accepted) => accepted,
            // A client that went away again before its turn came.
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => continue,
            Err(error) => {
                tracing::warn!("connections are not accepted for a moment: {error}");
                tokio::time::sleep(ACCEPT_RETRY).await;
                continue;
            }
        };
        let tls = certificates.as_mut().map(Certificates::current);
        let router = router.clone().layer(Extension(Peer(peer)));
        connections.spawn(async move {
            let _turn = turn;
            // What a client does with its connection is its business; whoever is cut off will say so.
            if let Err(error) = serve(socket, tls, router, limits).await {
                tracing::debug!(%peer, "a connection ended: {error}");
            }
        });
    }
}

async fn serve(
    socket: TcpStream,
    tls: Option<Arc<ServerConfig>>,
    router: Router,
    limits: Limits,
) -> io::Result<()> {
    // Many answers are one small packet.
    socket.set_nodelay(true)?;
    let mut socket = TimeoutStream::new(socket);
    socket.set_write_timeout(Some(limits.silence));
    let socket = Box::pin(socket);
    match tls {
        None => speak(socket, router, limits).await,
        Some(config) => {
            let handshake = TlsAcceptor::from(config).accept(socket);
            let socket = tokio::time::timeout(limits.handshake, handshake).await??;
            speak(socket, router, limits).await
        }
    }
}

/// HTTP/1.1: one request at a time on a connection is all a store needs.
async fn speak(
    socket: impl AsyncRead + AsyncWrite + Unpin + 'static,
    router: Router,
    limits: Limits,
) -> io::Result<()> {
    http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.request_head)
        .max_headers(HEADERS_MAX)
        .max_buf_size(HEAD_BYTES_MAX)
        .serve_connection(TokioIo::new(socket), TowerToHyperService::new(router))
        .await
        .map_err(io::Error::other)
}
