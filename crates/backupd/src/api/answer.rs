//! Answers: JSON, or a sentence and a hint in JSON.

use axum::http::StatusCode;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::response::{IntoResponse, Response};
use serde::Serialize;

use crate::config::Settings;
use crate::{Exit, Failure};

/// Why something was not answered or done.
#[derive(Debug, Serialize)]
struct Problem<'a> {
    /// In a sentence.
    error: &'a str,
    /// What to do about it.
    hint: &'a str,
}

/// An answer in JSON.
pub(super) fn json(status: StatusCode, document: &impl Serialize) -> Response {
    match serde_json::to_string(document) {
        Ok(text) => {
            let headers = [(CONTENT_TYPE, "application/json"), (CACHE_CONTROL, "no-store")];
            (status, headers, text + "\n").into_response()
        }
        Err(error) => {
            tracing::error!("an answer cannot be written: {error}");
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
    }
}

/// A refusal.
pub(super) fn refuse(status: StatusCode, error: &str, hint: &str) -> Response {
    json(status, &Problem { error, hint })
}

/// What went wrong, in the words that `backupctl` has for it.
pub(super) fn failed(failure: &Failure, settings: &Settings) -> Response {
    let status = match failure.exit() {
        Exit::NoTarget => StatusCode::UNPROCESSABLE_ENTITY,
        Exit::Repository | Exit::Server => StatusCode::SERVICE_UNAVAILABLE,
        _ => StatusCode::INTERNAL_SERVER_ERROR,
    };
    refuse(status, &engine::chain(failure), &failure.hint(Some(settings)).unwrap_or_default())
}
