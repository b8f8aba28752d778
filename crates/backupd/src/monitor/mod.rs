//! What a monitoring system asks: is the process alive, does it do its work, and how goes it in numbers. The same address has the
//! interface for programs and the status page.
//!
//! Whoever reaches the address may ask, as monitoring systems do: nothing here tells what is in the database, and nothing
//! can be changed.

mod behind;
mod figures;
mod health;
mod metrics;
mod overview;
mod snapshot;

use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use tokio_util::sync::CancellationToken;

pub(crate) use self::figures::keep_figures;
pub(crate) use self::overview::of as overview;
pub(crate) use self::snapshot::{Observed, Phase, View};
use crate::api::{self, Api};
use crate::config;
use crate::serve::{Limits, accept_plain};
use crate::{Failure, page};

/// A scrape is answered at once, and nobody needs many of them.
const LIMITS: Limits = Limits {
    connections: 32,
    requests: 32,
    turn_wait: Duration::from_secs(5),
    read_bytes: 1 << 16,
    handshake: Duration::from_secs(5),
    request_head: Duration::from_secs(15),
    silence: Duration::from_secs(15),
};

const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// A socket that is bound.
#[derive(Debug)]
pub(crate) struct Monitor {
    listener: TcpListener,
    address: SocketAddr,
}

impl Monitor {
    /// Binds the address, so that whatever is wrong with it is told at the start.
    pub fn bind(listen: SocketAddr) -> Result<Monitor, Failure> {
        let bound = TcpListener::bind(listen).and_then(|listener| {
            listener.set_nonblocking(true)?;
            Ok((listener.local_addr()?, listener))
        });
        let (address, listener) = bound.map_err(|error| {
            config::Error::new(format!("monitor.listen, {listen}, cannot be listened on: {error}"))
        })?;
        Ok(Monitor { listener, address })
    }

    /// Answers until `shutdown`.
    pub async fn run(self, observed: Arc<Observed>, api: Arc<Api>, shutdown: CancellationToken) {
        tracing::info!(listen = %self.address, "health and metrics are told");
        match tokio::net::TcpListener::from_std(self.listener) {
            Ok(listener) => accept_plain(listener, router(observed, api), LIMITS, shutdown).await,
            Err(error) => tracing::error!("health and metrics cannot be told: {error}"),
        }
    }
}

fn router(observed: Arc<Observed>, api: Arc<Api>) -> Router {
    Router::new()
        .route("/healthz", get(alive))
        .route("/readyz", get(ready))
        .route("/metrics", get(scrape))
        .with_state(observed)
        .merge(api::router(api))
        .merge(page::router())
}

async fn alive(State(observed): State<Arc<Observed>>) -> Response {
    json(StatusCode::OK, &health::of(&observed.snapshot(crate::now())))
}

async fn ready(State(observed): State<Arc<Observed>>) -> Response {
    let health = health::of(&observed.snapshot(crate::now()));
    json(if health.ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }, &health)
}

async fn scrape(State(observed): State<Arc<Observed>>) -> Response {
    match metrics::text(&observed.snapshot(crate::now())) {
        Ok(text) => ([(CONTENT_TYPE, OPENMETRICS), (CACHE_CONTROL, "no-store")], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

fn json(status: StatusCode, health: &health::Health) -> Response {
    let text = serde_json::to_string(health).unwrap_or_default() + "\n";
    (status, [(CONTENT_TYPE, "application/json"), (CACHE_CONTROL, "no-store")], text).into_response()
}
