//! Questions.

use std::sync::Arc;

use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::response::Response;
use chrono::SecondsFormat;
use engine::catalog::Catalog;
use engine::expire;
use engine::restore::{self, Plan, Request, Target, TimelineChoice};
use engine::status;
use pgformat::{Lsn, TimelineId};
use repository::Cluster;
use serde::{Deserialize, Serialize};
use tokio::sync::SemaphorePermit;

use super::Api;
use super::answer::{failed, json, refuse};
use crate::monitor;
use crate::target_time::{self, Written};
use crate::{Failure, view};

pub(super) async fn overview(State(api): State<Arc<Api>>) -> Response {
    json(StatusCode::OK, &monitor::overview(&api.settings.now(), &api.observed.snapshot(crate::now())))
}

pub(super) async fn operations(State(api): State<Arc<Api>>) -> Response {
    json(StatusCode::OK, &api.operations.all())
}

pub(super) async fn operation(State(api): State<Arc<Api>>, Path(id): Path<String>) -> Response {
    match id.parse().ok().and_then(|id| api.operations.one(id)) {
        Some(operation) => json(StatusCode::OK, &operation),
        None => refuse(
            StatusCode::NOT_FOUND,
            "there is no such operation",
            "operations are forgotten when the service is started again; see /api/v1/operations",
        ),
    }
}

pub(super) async fn status(State(api): State<Arc<Api>>) -> Response {
    answer(&api, async |cluster| {
        let settings = api.settings.now();
        let follow = settings.follow(crate::now)?;
        let request = status::Request {
            follow: follow.as_ref(),
            connect: Some(&settings.server()?.replication),
            slot: &settings.slot,
            dead_after: settings.dead_after,
            maximum_age: settings.schedule.maximum_age,
            now: crate::now(),
        };
        Ok(status::status(cluster, &request).await?)
    })
    .await
}

pub(super) async fn backups(State(api): State<Arc<Api>>) -> Response {
    answer(&api, async |cluster| view::list(cluster, &Catalog::load(cluster).await?).await).await
}

pub(super) async fn expire(State(api): State<Arc<Api>>) -> Response {
    answer(&api, async |cluster| {
        let settings = api.settings.now();
        let facts = expire::facts(cluster).await?;
        Ok(expire::plan(&facts, &settings.retention, crate::now(), settings.dead_after))
    })
    .await
}

/// A restore that is asked about; the names are those of `backupctl restore`.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Wanted {
    backup: Option<String>,
    target_time: Option<String>,
    target_lsn: Option<String>,
    target_xid: Option<u32>,
    target_name: Option<String>,
    #[serde(default)]
    target_immediate: bool,
    #[serde(default)]
    exclusive: bool,
    target_timeline: Option<String>,
}

/// A restore that could be made.
#[derive(Debug, Serialize)]
struct Planned {
    /// The command that makes it; the directory is to be filled in.
    command: String,
    /// What it would do.
    plan: Plan,
}

pub(super) async fn restore_plan(
    State(api): State<Arc<Api>>,
    wanted: Result<Query<Wanted>, QueryRejection>,
) -> Response {
    let request = match wanted.map_err(|error| error.body_text()).and_then(|Query(wanted)| wanted.request()) {
        Ok(request) => request,
        Err(problem) => {
            return refuse(
                StatusCode::BAD_REQUEST,
                &problem,
                "see /api/v1/openapi.json for what can be asked",
            );
        }
    };
    answer(&api, async |cluster| {
        let catalog = Catalog::load(cluster).await?;
        let plan = restore::plan(cluster, &catalog, &request).await?;
        Ok(Planned { command: command(&request), plan })
    })
    .await
}

impl Wanted {
    fn request(self) -> Result<Request, String> {
        let mut targets = Vec::new();
        if let Some(text) = &self.target_time {
            let Written { at, .. } = target_time::parse(text).map_err(|why| format!("target_time: {why}"))?;
            targets.push(Target::Time(at));
        }
        if let Some(text) = &self.target_lsn {
            let lsn: Option<Lsn> = text.parse().ok();
            let lsn = lsn.ok_or_else(|| format!("target_lsn: {text:?} is no position in the WAL"))?;
            targets.push(Target::Lsn(lsn));
        }
        targets.extend(self.target_xid.map(Target::Xid));
        targets.extend(self.target_name.map(Target::Name));
        targets.extend(self.target_immediate.then_some(Target::Immediate));
        if targets.len() > 1 {
            return Err("only one target can be asked for".to_owned());
        }
        let target = targets.pop().unwrap_or(Target::Newest);
        if self.exclusive && target == Target::Newest {
            return Err("exclusive goes with a target".to_owned());
        }
        let backup =
            self.backup.map(|id| id.parse().ok().ok_or(format!("backup: {id:?} is no backup's name")));
        Ok(Request {
            backup: backup.transpose()?,
            target,
            exclusive: self.exclusive,
            timeline: timeline(self.target_timeline.as_deref())?,
            action: None,
            standby: false,
        })
    }
}

fn timeline(text: Option<&str>) -> Result<TimelineChoice, String> {
    match text {
        None | Some("latest") => Ok(TimelineChoice::Latest),
        Some("current") => Ok(TimelineChoice::Current),
        Some(number) => {
            number.parse().ok().and_then(TimelineId::new).map(TimelineChoice::Number).ok_or_else(|| {
                "target_timeline: expected latest, current, or the number of a timeline".to_owned()
            })
        }
    }
}

/// The command line that asks for the same.
fn command(request: &Request) -> String {
    let mut command = "backupctl restore --data-dir DIR".to_owned();
    let mut add = |option: &str, value: &str| command.push_str(&format!(" --{option} {value}"));
    if let Some(id) = &request.backup {
        add("backup", &id.to_string());
    }
    match &request.target {
        Target::Newest => {}
        Target::Time(at) => {
            add("target-time", &format!("'{}'", at.to_rfc3339_opts(SecondsFormat::AutoSi, true)));
        }
        Target::Lsn(lsn) => add("target-lsn", &lsn.to_string()),
        Target::Xid(xid) => add("target-xid", &xid.to_string()),
        Target::Name(name) => add("target-name", &format!("'{}'", name.replace('\'', "'\\''"))),
        Target::Immediate => command.push_str(" --target-immediate"),
    }
    if request.exclusive {
        command.push_str(" --exclusive");
    }
    match request.timeline {
        TimelineChoice::Latest => {}
        TimelineChoice::Current => command.push_str(" --target-timeline current"),
        TimelineChoice::Number(timeline) => command.push_str(&format!(" --target-timeline {timeline}")),
    }
    command
}

/// Answers from the repository, when it is the question's turn.
async fn answer<T: Serialize>(api: &Api, ask: impl AsyncFnOnce(&Cluster) -> Result<T, Failure>) -> Response {
    let Some(cluster) = api.inner().cluster.clone() else {
        return refuse(StatusCode::SERVICE_UNAVAILABLE, "the repository is not open yet", "ask again later");
    };
    let _turn: SemaphorePermit<'_> = match api.heavy.try_acquire() {
        Ok(turn) => turn,
        Err(_busy) => {
            return refuse(StatusCode::TOO_MANY_REQUESTS, "others are being answered", "ask again later");
        }
    };
    match ask(&cluster).await {
        Ok(document) => json(StatusCode::OK, &document),
        Err(failure) => failed(&failure, &api.settings.now()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(wanted: Wanted) -> Result<String, String> {
        wanted.request().map(|request| command(&request))
    }

    #[test]
    fn the_command_asks_for_the_same() {
        let time = Wanted {
            target_time: Some("2026-01-02 03:04:05.5+02".to_owned()),
            target_timeline: Some("3".to_owned()),
            ..Wanted::default()
        };
        let expected =
            "backupctl restore --data-dir DIR --target-time '2026-01-02T01:04:05.500Z' --target-timeline 3";
        assert_eq!(of(time).as_deref(), Ok(expected));
        let name = Wanted { target_name: Some("it's".to_owned()), exclusive: true, ..Wanted::default() };
        let expected = "backupctl restore --data-dir DIR --target-name 'it'\\''s' --exclusive";
        assert_eq!(of(name).as_deref(), Ok(expected));
        assert_eq!(of(Wanted::default()).as_deref(), Ok("backupctl restore --data-dir DIR"));
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        let refused = |wanted: Wanted| of(wanted).unwrap_err();
        assert!(refused(Wanted { exclusive: true, ..Wanted::default() }).contains("exclusive"));
        assert!(
            refused(Wanted { target_lsn: Some("x".to_owned()), ..Wanted::default() }).contains("target_lsn")
        );
        let two = Wanted { target_xid: Some(1), target_immediate: true, ..Wanted::default() };
        assert!(refused(two).contains("only one"));
        let zero = Wanted { target_timeline: Some("0".to_owned()), ..Wanted::default() };
        assert!(refused(zero).contains("target_timeline"));
    }
}
