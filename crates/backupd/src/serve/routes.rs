//! What can be asked: `/v1/repository`, `/v1/list/<directory>`, `/v1/objects/<key>`.

use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, Request, State};
use axum::http::header::{
    AUTHORIZATION, CACHE_CONTROL, CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, RETRY_AFTER, TRANSFER_ENCODING,
    WWW_AUTHENTICATE,
};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode};
use axum::middleware::{self, Next};
use axum::response::Response;
use axum::routing::get;
use percent_encoding::percent_decode_str;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use store::http::{INTERFACE, Token};
use store::{Directory, Entry, Store};
use subtle::ConstantTimeEq;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::connection::Peer;
use super::strangers::Strangers;
use super::{Limits, object};

/// Names in a page of a listing.
const PAGE_ENTRIES_MAX: usize = 1_000;
const LIST: &str = "/v1/list/";
/// What a client that has to come back is told to wait, in seconds.
const COME_BACK_SECONDS: u32 = 1;

/// What answers are made of.
pub(super) struct Served {
    pub store: Arc<dyn Store>,
    pub limits: Limits,
    /// The hash, so that comparing takes as long whatever the length of what is compared with it.
    token_hash: [u8; 32],
    turns: Arc<Semaphore>,
    strangers: Strangers,
}

/// The right to be answered; held until the answer is sent.
pub(super) type Turn = Arc<OwnedSemaphorePermit>;

/// The interface to `store`, for whoever has the token.
pub fn router(store: Arc<dyn Store>, token: &Token, limits: Limits) -> Router {
    let token_hash = Sha256::digest(token.expose()).into();
    let turns = Arc::new(Semaphore::new(limits.requests));
    let served = Arc::new(Served { store, limits, token_hash, turns, strangers: Strangers::default() });
    let routes = Router::new()
        .route("/v1/repository", get(greet))
        .route(LIST, get(list))
        .route("/v1/list/{*directory}", get(list))
        .route("/v1/objects/{*key}", get(object::read))
        .fallback(|| async { refuse(StatusCode::NOT_FOUND, "there is nothing here") })
        .method_not_allowed_fallback(|| async { refuse(StatusCode::METHOD_NOT_ALLOWED, "only GET and HEAD") })
        .with_state(served.clone());
    // Around all routes, not around each: the refusal of a route would tell by its headers that there is one.
    Router::new().fallback_service(routes).layer(middleware::from_fn_with_state(served, admit))
}

/// Lets in who has the token, one turn each, and says in the log who asked for what.
async fn admit(State(served): State<Arc<Served>>, mut request: Request, next: Next) -> Response {
    let peer = request.extensions().get::<Peer>().map(|Peer(peer)| *peer);
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    let response = if !served.knows(request.headers()) {
        closing(refuse(StatusCode::UNAUTHORIZED, "a token is asked for"))
    } else if has_body(request.headers()) {
        closing(refuse(StatusCode::BAD_REQUEST, "a request has no body"))
    } else {
        let turn = served.turns.clone().acquire_owned();
        match tokio::time::timeout(served.limits.turn_wait, turn).await {
            Ok(Ok(turn)) => {
                request.extensions_mut().insert::<Turn>(Arc::new(turn));
                next.run(request).await
            }
            Ok(Err(_)) | Err(_) => come_back(),
        }
    };
    let status = response.status();
    if status == StatusCode::UNAUTHORIZED {
        served.strangers.saw(peer);
    }
    tracing::debug!(?peer, %method, ?path, status = status.as_u16(), "answered");
    response
}

impl Served {
    fn knows(&self, headers: &HeaderMap) -> bool {
        let said = headers.get(AUTHORIZATION).map(HeaderValue::as_bytes).unwrap_or_default();
        let Some((scheme, token)) = said.split_at_checked(b"Bearer ".len()) else { return false };
        let hash: [u8; 32] = Sha256::digest(token).into();
        scheme.eq_ignore_ascii_case(b"Bearer ") && bool::from(hash.ct_eq(&self.token_hash))
    }
}

fn has_body(headers: &HeaderMap) -> bool {
    headers.contains_key(TRANSFER_ENCODING)
        || headers.get(CONTENT_LENGTH).is_some_and(|length| length.as_bytes() != b"0")
}

/// What a request names: decoded once, whatever comes out.
pub(super) fn decode(path: &str) -> Option<String> {
    Some(percent_decode_str(path).decode_utf8().ok()?.into_owned())
}

#[derive(Serialize)]
struct Greeting<'a> {
    interface: &'a str,
    version: &'a str,
}

async fn greet() -> Response {
    json(&Greeting { interface: INTERFACE, version: env!("CARGO_PKG_VERSION") })
}

#[derive(Serialize)]
struct Page {
    entries: Vec<PageEntry>,
    /// Whether there is more after the last of these.
    more: bool,
}

#[derive(Serialize)]
struct PageEntry {
    name: String,
    /// In bytes; absent for a directory.
    #[serde(skip_serializing_if = "Option::is_none")]
    size: Option<u64>,
}

#[derive(Deserialize)]
struct Begin {
    /// The last name of the page before.
    after: Option<String>,
}

async fn list(
    State(served): State<Arc<Served>>,
    begin: Result<Query<Begin>, QueryRejection>,
    request: Request,
) -> Response {
    let name = request.uri().path().strip_prefix(LIST).and_then(decode);
    let Some(directory) = name.and_then(|name| Directory::new(name).ok()) else {
        return refuse(StatusCode::BAD_REQUEST, "no directory can have this name");
    };
    let Ok(Query(Begin { after })) = begin else {
        return refuse(StatusCode::BAD_REQUEST, "what comes after \"?\" is not understood");
    };
    match served.store.list(&directory).await {
        Ok(entries) => json(&page(entries, after.as_deref())),
        Err(error) => failed(&error),
    }
}

fn page(entries: Vec<Entry>, after: Option<&str>) -> Page {
    let begin = after.map_or(0, |after| entries.partition_point(|entry| entry.name() <= after));
    let more = entries.len() - begin > PAGE_ENTRIES_MAX;
    let entry = |entry| match entry {
        Entry::Object { name, size } => PageEntry { name, size: Some(size) },
        Entry::Directory { name } => PageEntry { name, size: None },
    };
    Page { entries: entries.into_iter().skip(begin).take(PAGE_ENTRIES_MAX).map(entry).collect(), more }
}

fn json(document: &impl Serialize) -> Response {
    match serde_json::to_vec(document) {
        Ok(bytes) => answer(StatusCode::OK, "application/json", bytes.len() as u64, Body::from(bytes)),
        Err(error) => {
            tracing::error!("an answer cannot be written: {error}");
            refuse(StatusCode::INTERNAL_SERVER_ERROR, "this cannot be answered")
        }
    }
}

/// An answer; its length is always said, so that one that was cut is known by it.
pub(super) fn answer(status: StatusCode, kind: &'static str, length: u64, body: Body) -> Response {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    headers.insert(CONTENT_LENGTH, HeaderValue::from(length));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

pub(super) fn refuse(status: StatusCode, why: &'static str) -> Response {
    let text = format!("{why}\n");
    answer(status, "text/plain", text.len() as u64, Body::from(text))
}

/// Ends the connection with the answer, so that who may not ask holds none.
fn closing(mut response: Response) -> Response {
    let headers = response.headers_mut();
    headers.insert(CONNECTION, HeaderValue::from_static("close"));
    if response.status() == StatusCode::UNAUTHORIZED {
        response.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    }
    response
}

fn come_back() -> Response {
    let mut response = refuse(StatusCode::SERVICE_UNAVAILABLE, "not now");
    response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(COME_BACK_SECONDS));
    response
}

/// What the store has against it. What is wrong is for our log, not for the client.
pub(super) fn failed(error: &store::Error) -> Response {
    if error.is_not_found() {
        return refuse(StatusCode::NOT_FOUND, "it is not in the repository");
    }
    tracing::warn!("the repository cannot be served: {}", engine::chain(error));
    if error.is_transient() {
        return come_back();
    }
    refuse(StatusCode::INTERNAL_SERVER_ERROR, "the repository cannot be read")
}

/// Whether only the head of the answer is wanted.
pub(super) fn only_head(method: &Method) -> bool {
    *method == Method::HEAD
}
