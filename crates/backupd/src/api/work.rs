//! What is done for whoever asks: it is begun, and how it goes is asked for afterwards.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::extract::rejection::JsonRejection;
use axum::http::StatusCode;
use axum::response::Response;
use engine::backup::{self, BackupRequest};
use engine::verify::{self, Reading};
use repository::pin::Pin;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::watch;

use super::answer::{json as answer, refuse};
use super::operations::{Kind, Progress, Watch};
use super::{Api, Lead};
use crate::view::BackupView;
use crate::{Failure, schedule, source, tidy};

/// What was sent; nothing at all is an empty document.
type Body<T> = Result<Option<Json<T>>, JsonRejection>;

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct BackUp {
    /// Words to keep with the backup.
    note: Option<String>,
    /// Keep it whatever the retention settings say.
    #[serde(default)]
    pin: bool,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Expire {}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Verify {
    /// Read packs and WAL, too.
    #[serde(default)]
    read: bool,
    /// How much of what was read before is read again.
    share: Option<u8>,
}

pub(super) async fn back_up(State(api): State<Arc<Api>>, body: Body<BackUp>) -> Response {
    let (BackUp { note, pin }, lead) = match begin(&api, body) {
        Ok(begun) => begun,
        Err(refusal) => return *refusal,
    };
    let busy = |who: &str| {
        refuse(
            StatusCode::CONFLICT,
            &format!("a base backup is being taken{who}"),
            "ask again when it is over",
        )
    };
    let Ok(held) = lead.gate.clone().try_lock_owned() else { return busy("") };
    match schedule::running(&lead.cluster).await {
        Ok(None) => {}
        Ok(Some(running)) => return busy(&format!(" by {}", running.runner)),
        Err(error) => return super::answer::failed(&engine::Error::from(error).into(), &api.settings.now()),
    }
    let (progress, watched) = watch::channel(backup::Progress::default());
    let watch = Box::new(move || {
        let now = watched.borrow();
        Progress { bytes: now.bytes, bytes_total: now.bytes_total }
    });
    let (settings, work) = (api.settings.now(), lead.clone());
    start(&api, &lead, Kind::Backup, watch, async move {
        let _held = held;
        let request = BackupRequest { note };
        let taken = source::back_up(&settings, &work.cluster, &request, &progress, &work.over).await;
        let record = taken.inspect_err(|error| work.events.backup_failed(&engine::chain(error)))?;
        if pin {
            let pin =
                Pin { backup: record.id.clone(), reason: record.note.clone(), until: None, at: crate::now() };
            work.kept.pin(&pin).await?;
        }
        work.events.backup_finished(&record);
        Ok(value(&BackupView::from(&record)))
    })
}

pub(super) async fn expire(State(api): State<Arc<Api>>, body: Body<Expire>) -> Response {
    let (Expire {}, lead) = match begin(&api, body) {
        Ok(begun) => begun,
        Err(refusal) => return *refusal,
    };
    if api.operations.runs(Kind::Expire) {
        return refuse(
            StatusCode::CONFLICT,
            "what has expired is being removed",
            "ask again when it is over",
        );
    }
    let (settings, work) = (api.settings.now(), lead.clone());
    start(&api, &lead, Kind::Expire, Box::new(Progress::default), async move {
        tokio::select! {
            removed = tidy::expire(&settings, &work.kept) => {
                tidy::lagging(&settings, &work.may_lag, &work.over).await;
                Ok(value(&removed?))
            }
            () = work.over.cancelled() => Err(engine::Error::Stopped.into()),
        }
    })
}

pub(super) async fn verify(State(api): State<Arc<Api>>, body: Body<Verify>) -> Response {
    let (Verify { read, share }, lead) = match begin(&api, body) {
        Ok(begun) => begun,
        Err(refusal) => return *refusal,
    };
    if share.is_some_and(|share| share > 100) {
        return refuse(StatusCode::BAD_REQUEST, "share is a number of percent", "send 0 to 100");
    }
    if api.operations.runs(Kind::Verify) {
        return refuse(StatusCode::CONFLICT, "the repository is being verified", "ask again when it is over");
    }
    let reading = match read {
        false => Reading::Nothing,
        true => Reading::Share(share.unwrap_or(api.settings.now().schedule.verification_share)),
    };
    let (progress, watched) = watch::channel(verify::Progress::default());
    let watch = Box::new(move || {
        let now = watched.borrow();
        Progress { bytes: now.bytes, bytes_total: now.bytes_total }
    });
    let (settings, work) = (api.settings.now(), lead.clone());
    start(&api, &lead, Kind::Verify, watch, async move {
        let report =
            schedule::verify(&settings, &work.cluster, reading, &work.events, &progress, &work.over).await?;
        Ok(value(&report))
    })
}

/// What was asked for, and what it takes to do it.
fn begin<T: Default>(api: &Api, body: Body<T>) -> Result<(T, Lead), Box<Response>> {
    let wanted = body.map_err(|error| {
        let hint = "see /api/v1/openapi.json for what can be sent";
        Box::new(refuse(StatusCode::BAD_REQUEST, &error.body_text(), hint))
    })?;
    let lead = api.inner().lead.clone().ok_or_else(|| {
        Box::new(refuse(
            StatusCode::SERVICE_UNAVAILABLE,
            "this service does nothing now: it is starting, or another one archives",
            "ask again later, or ask the other one",
        ))
    })?;
    Ok((wanted.map(|Json(wanted)| wanted).unwrap_or_default(), lead))
}

/// Has `work` done beside everything else. It is waited for when our turn is over, and so must see that itself.
fn start(
    api: &Arc<Api>,
    lead: &Lead,
    kind: Kind,
    watch: Watch,
    work: impl Future<Output = Result<Value, Failure>> + Send + 'static,
) -> Response {
    let operation = api.operations.begin(kind, watch, crate::now());
    let (id, api) = (operation.id(), api.clone());
    lead.tasks.spawn(async move {
        let came_to = work.await.map_err(|failure| {
            tracing::warn!(?kind, "what was asked for over HTTP has failed: {}", engine::chain(&failure));
            engine::chain(&failure)
        });
        api.operations.end(id, came_to, crate::now());
        api.observed.hint();
    });
    answer(StatusCode::ACCEPTED, &operation)
}

fn value(document: &impl serde::Serialize) -> Value {
    serde_json::to_value(document).unwrap_or_else(|error| json!({ "unprintable": error.to_string() }))
}
