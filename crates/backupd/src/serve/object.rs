//! Objects, whole or in part, in bounded memory.

use std::io;
use std::ops::Range;
use std::sync::Arc;

use axum::Extension;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::header::{ACCEPT_RANGES, CONTENT_RANGE, RANGE};
use axum::http::{HeaderValue, StatusCode};
use axum::response::Response;
use bytes::Bytes;
use futures::stream;
use store::{Error, Key};

use super::range::{self, Asked};
use super::routes::{Served, Turn, answer, decode, failed, only_head, refuse};

const OBJECTS: &str = "/v1/objects/";
const KIND: &str = "application/octet-stream";

pub(super) async fn read(
    State(served): State<Arc<Served>>,
    Extension(turn): Extension<Turn>,
    request: Request,
) -> Response {
    let name = request.uri().path().strip_prefix(OBJECTS).and_then(decode);
    let Some(key) = name.and_then(|name| Key::new(name).ok()) else {
        return refuse(StatusCode::BAD_REQUEST, "no object can have this name");
    };
    let asked = request.headers().get(RANGE).and_then(|value| range::parse(value.to_str().ok()?));
    let head = only_head(request.method());
    let answered = match asked {
        _ if head => {
            served.store.size(&key).await.map(|size| answer(StatusCode::OK, KIND, size, Body::empty()))
        }
        None => whole(&served, key, turn).await,
        Some(asked) => part(&served, key, asked, turn).await,
    };
    let mut response = answered.unwrap_or_else(|error| failed(&error));
    response.headers_mut().insert(ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    response
}

/// A small object is read at once, so that one that is replaced meanwhile is not given half old and half new. Large
/// ones never change.
async fn whole(served: &Arc<Served>, key: Key, turn: Turn) -> Result<Response, Error> {
    let begin = served.store.read(&key, Some(0..served.limits.read_bytes)).await?;
    let length = match begin.len() as u64 {
        length if length < served.limits.read_bytes => length,
        _ => served.store.size(&key).await?,
    };
    let body = Parts::new(served, key, turn, 0..length, begin).into_body();
    Ok(answer(StatusCode::OK, KIND, length, body))
}

async fn part(served: &Arc<Served>, key: Key, asked: Asked, turn: Turn) -> Result<Response, Error> {
    let size = served.store.size(&key).await?;
    let Some(range) = asked.of(size) else {
        let mut response = refuse(StatusCode::RANGE_NOT_SATISFIABLE, "the object ends before that");
        insert_range(&mut response, format!("bytes */{size}"));
        return Ok(response);
    };
    let described = format!("bytes {}-{}/{size}", range.start, range.end - 1);
    let length = range.end - range.start;
    let begin = range.start..range.end.min(range.start.saturating_add(served.limits.read_bytes));
    let begin = served.store.read(&key, Some(begin)).await?;
    let body = Parts::new(served, key, turn, range, begin).into_body();
    let mut response = answer(StatusCode::PARTIAL_CONTENT, KIND, length, body);
    insert_range(&mut response, described);
    Ok(response)
}

fn insert_range(response: &mut Response, text: String) {
    // Digits and a few signs: there is nothing in it that a header could not have.
    if let Ok(value) = HeaderValue::try_from(text) {
        response.headers_mut().insert(CONTENT_RANGE, value);
    }
}

/// A part of an object, read piece by piece as the client takes it.
struct Parts {
    served: Arc<Served>,
    key: Key,
    /// What was read and not yet given.
    ready: Option<Bytes>,
    /// What is left to be given.
    left: Range<u64>,
    /// Held until the last byte is given, or the client is gone.
    _turn: Turn,
}

impl Parts {
    fn new(served: &Arc<Served>, key: Key, turn: Turn, range: Range<u64>, begin: Bytes) -> Parts {
        Parts { served: served.clone(), key, ready: Some(begin), left: range, _turn: turn }
    }

    fn into_body(self) -> Body {
        Body::from_stream(stream::try_unfold(self, |mut parts| async {
            Ok::<_, io::Error>(parts.next().await?.map(|bytes| (bytes, parts)))
        }))
    }

    /// The next bytes. An error cuts the connection, by which the client knows that the object is not whole.
    async fn next(&mut self) -> io::Result<Option<Bytes>> {
        let wanted = (self.left.end - self.left.start).min(self.served.limits.read_bytes);
        if wanted == 0 {
            return Ok(None);
        }
        let bytes = match self.ready.take() {
            Some(bytes) => bytes,
            None => self.read(self.left.start..self.left.start + wanted).await?,
        };
        if bytes.len() as u64 != wanted {
            tracing::warn!("{} became shorter while it was being read", self.key);
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.left.start += wanted;
        Ok(Some(bytes))
    }

    async fn read(&self, range: Range<u64>) -> io::Result<Bytes> {
        self.served.store.read(&self.key, Some(range)).await.map_err(|error| {
            tracing::warn!("the repository cannot be served: {}", engine::chain(&error));
            io::Error::other(error)
        })
    }
}
