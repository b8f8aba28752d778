//! What programs ask and have done over HTTP, in JSON; described by `docs/openapi.json`.
//!
//! Where no token is configured, whoever reaches the address may read, as with health and metrics, and nobody may have
//! anything done. With one, both need it. What is answered tells of backups, servers and positions, never of what is in
//! the database.

mod answer;
mod ask;
mod operations;
mod work;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use axum::Router;
use axum::extract::{Request, State};
use axum::http::header::{AUTHORIZATION, CONTENT_TYPE, WWW_AUTHENTICATE};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use repository::Cluster;
use sha2::{Digest, Sha256};
use store::mirror::Lagging;
use subtle::ConstantTimeEq;
use tokio::sync::{Mutex as Gate, Semaphore};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use self::answer::refuse;
use self::operations::Operations;
use crate::config::Live;
use crate::events::Events;
use crate::monitor::Observed;

/// The description of the interface, in OpenAPI's words.
pub const OPENAPI: &str = include_str!("../../../../docs/openapi.json");
/// Questions at once that read much of the repository; more would take its turns from the archive.
const HEAVY_MAX: usize = 2;

/// What answers are made of.
#[derive(Debug)]
pub(crate) struct Api {
    settings: Live,
    observed: Arc<Observed>,
    operations: Arc<Operations>,
    inner: Mutex<Inner>,
    heavy: Semaphore,
}

#[derive(Debug, Default)]
struct Inner {
    /// The repository, once it is open.
    cluster: Option<Cluster>,
    /// What it takes to have something done, while we are who does things.
    lead: Option<Lead>,
}

/// What it takes to have something done.
#[derive(Debug, Clone)]
pub(crate) struct Lead {
    /// The repository, closed to us when our turn is over.
    pub cluster: Cluster,
    /// All repositories that must have the same.
    pub kept: Cluster,
    /// Those that may lag.
    pub may_lag: Vec<Arc<Lagging>>,
    /// Held while a backup is taken.
    pub gate: Arc<Gate<()>>,
    /// Where it is told.
    pub events: Events,
    /// What runs; it is waited for.
    pub tasks: TaskTracker,
    /// Our turn is over.
    pub over: CancellationToken,
}

impl Api {
    pub fn new(settings: Live, observed: Arc<Observed>) -> Api {
        Api {
            settings,
            observed,
            operations: Arc::default(),
            inner: Mutex::default(),
            heavy: Semaphore::new(HEAVY_MAX),
        }
    }

    /// The repository is open.
    pub fn opened(&self, cluster: Cluster) {
        self.inner().cluster = Some(cluster);
    }

    /// It is our turn, or no longer.
    pub fn lead(&self, lead: Option<Lead>) {
        self.inner().lead = lead;
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        // Nothing is left half done by whoever panicked.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Everything below `/api/v1`.
pub(crate) fn router(api: Arc<Api>) -> Router {
    let routes = Router::new()
        .route("/api/v1/overview", get(ask::overview))
        .route("/api/v1/status", get(ask::status))
        .route("/api/v1/backups", get(ask::backups).post(work::back_up))
        .route("/api/v1/restore-plan", get(ask::restore_plan))
        .route("/api/v1/expire", get(ask::expire).post(work::expire))
        .route("/api/v1/verify", post(work::verify))
        .route("/api/v1/operations", get(ask::operations))
        .route("/api/v1/operations/{id}", get(ask::operation))
        .route("/api/v1/openapi.json", get(openapi))
        .method_not_allowed_fallback(|| async {
            refuse(StatusCode::METHOD_NOT_ALLOWED, "this cannot be done here", "see /api/v1/openapi.json")
        })
        .with_state(api.clone());
    routes.layer(middleware::from_fn_with_state(api, admit))
}

async fn openapi() -> Response {
    ([(CONTENT_TYPE, "application/json")], OPENAPI).into_response()
}

/// Lets in who may ask.
async fn admit(State(api): State<Arc<Api>>, request: Request, next: Next) -> Response {
    let reads = matches!(*request.method(), Method::GET | Method::HEAD);
    match &api.settings.now().api_token {
        Some(token) if !knows(token.expose(), request.headers()) => {
            let mut response = refuse(
                StatusCode::UNAUTHORIZED,
                "a token is asked for",
                "send it as Authorization: Bearer …",
            );
            response.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
            response
        }
        None if !reads => refuse(
            StatusCode::FORBIDDEN,
            "nothing is done for whoever asks",
            "set api.token to have things done over HTTP, or use backupctl",
        ),
        _ => next.run(request).await,
    }
}

/// Whether the token was sent. Hashes are compared, so that it takes as long whatever was.
fn knows(token: &str, headers: &HeaderMap) -> bool {
    let said = headers.get(AUTHORIZATION).map(HeaderValue::as_bytes).unwrap_or_default();
    let Some((scheme, said)) = said.split_at_checked(b"Bearer ".len()) else { return false };
    let (said, token): ([u8; 32], [u8; 32]) = (Sha256::digest(said).into(), Sha256::digest(token).into());
    scheme.eq_ignore_ascii_case(b"Bearer ") && bool::from(said.ct_eq(&token))
}
