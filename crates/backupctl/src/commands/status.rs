//! `backupctl status`

use std::time::Duration;

use backupd::{Exit, Failure, open};
use engine::status::{self, LastBackup, Request, ServerStatus, Status};

use chrono::{DateTime, Utc};
use engine::follow::{Role, SlotState};
use serde::Serialize;

use super::compare::{self, RepositoryView};
use crate::Context;
use crate::output::{age, duration, facts, lines, size, table, time};

/// The newest forks; `--output json` has all.
const FORKS_SHOWN_MAX: usize = 5;

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Compare the repositories with each other, where there are several
    #[arg(long)]
    copies: bool,
}

/// How things stand, in the server, the repository, and its copies.
#[derive(Debug, Serialize)]
struct View<'a> {
    #[serde(flatten)]
    status: &'a Status,
    /// Every repository; `null` unless it was asked for.
    repositories: Option<&'a [RepositoryView]>,
}

pub(crate) async fn run(context: &Context, arguments: Arguments) -> Result<Exit, Failure> {
    let settings = &context.settings;
    let server = settings.server();
    let cluster = match open::existing(settings).await {
        Ok(cluster) => cluster,
        Err(failure) => {
            if let (Ok(server), Failure::Engine(error)) = (&server, &failure)
                && error.is_transient()
            {
                without_repository(
                    context,
                    &status::server(&server.replication, &settings.slot).await,
                    &failure,
                )?;
            }
            return Err(failure);
        }
    };
    let follow = if server.is_ok() { settings.follow(backupd::now)? } else { None };
    let request = Request {
        follow: follow.as_ref(),
        connect: server.as_ref().ok().map(|server| &server.replication),
        slot: &settings.slot,
        dead_after: settings.dead_after,
        maximum_age: settings.schedule.maximum_age,
        now: backupd::now(),
    };
    let mut status = status::status(&cluster, &request).await?;
    let mut repositories = None;
    if arguments.copies {
        let found = compare::all(settings, &cluster).await?;
        status.findings.extend(found.iter().filter_map(RepositoryView::finding));
        repositories = Some(found);
    }
    let view = View { status: &status, repositories: repositories.as_deref() };
    context.output.print(&view, || {
        text(&status, &request) + &repositories.as_deref().map_or_else(String::new, compare::text)
    })?;
    if let Some(error) = status.server.as_mut().and_then(|server| server.error.take()) {
        return Err(error.into());
    }
    Ok(if status.findings.is_empty() { Exit::Done } else { Exit::Findings })
}

/// The server, when the repository cannot be asked: what waits there is what a person wants to know then.
#[derive(Debug, Serialize)]
struct WithoutRepository<'a> {
    /// Where the repository is.
    repository: String,
    /// Why it cannot be asked.
    repository_problem: String,
    /// The server.
    server: &'a ServerStatus,
}

fn without_repository(context: &Context, server: &ServerStatus, failure: &Failure) -> Result<(), Failure> {
    let view = WithoutRepository {
        repository: context.settings.repository.to_string(),
        repository_problem: engine::chain(failure),
        server,
    };
    context.output.print(&view, || {
        let mut rows = vec![("Repository", format!("{} cannot be asked", view.repository))];
        self::server(Some(server), &mut rows);
        facts(&rows)
    })
}

fn text(status: &Status, request: &Request) -> String {
    let mut rows = vec![
        ("Cluster", format!("{}, PostgreSQL {}", status.cluster, status.postgresql_major)),
        ("System identifier", status.system_identifier.clone()),
        ("Repository", status.repository.clone()),
    ];
    for timeline in &status.timelines {
        let durable = timeline.durable_lsn.map_or_else(|| "nothing".to_owned(), |lsn| format!("up to {lsn}"));
        rows.push(("Durable", format!("timeline {}: {durable}", timeline.timeline)));
    }
    server(status.server.as_ref(), &mut rows);
    rows.push(("Lag", status.lag_bytes.map_or_else(|| "not known".to_owned(), size)));
    rows.push(("Last backup", last_backup(status.last_backup.as_ref())));
    for running in &status.running_backups {
        let began = age(request.now, running.started_at);
        rows.push(("Running backup", format!("{} by {}, began {began}", running.id, running.runner)));
    }
    for window in &status.windows {
        rows.push((
            "Restorable",
            format!(
                "from {} to {}, {} on timeline {}",
                time(window.from),
                window.to.map_or_else(|| super::list::UNREADABLE.to_owned(), time),
                window.to_lsn,
                window.timeline
            ),
        ));
    }
    if status.leftovers.bytes > 0 {
        let count = status.leftovers.backups.len();
        rows.push((
            "Leftovers",
            format!("{} of {count} dead backups, removed by itself", size(status.leftovers.bytes)),
        ));
    }
    for finding in &status.findings {
        rows.push(("PROBLEM", finding.clone()));
    }
    if status.findings.is_empty() {
        rows.push(("Problems", "none in the repository".to_owned()));
    }
    facts(&rows) + &nodes(status, request.now) + &forks(status)
}

fn nodes(status: &Status, now: DateTime<Utc>) -> String {
    if status.nodes.is_empty() {
        return String::new();
    }
    let mut rows = table(&["Node", "Role", ">Timeline", "Upstream", ">Lag", ">Slot keeps", ""]);
    for node in &status.nodes {
        let role = node.role.map_or("not reachable", |role| match role {
            Role::Primary => "primary",
            Role::Standby => "standby",
        });
        let kept = match (node.slot_state, &node.slot) {
            (Some(SlotState::Kept), Some(slot)) => size(slot.retained_bytes.unwrap_or(0)),
            (Some(SlotState::Missing), _) => "no slot".to_owned(),
            (Some(SlotState::NoRoom), _) => "no room".to_owned(),
            (Some(SlotState::CutOff), _) => "cut off".to_owned(),
            _ => String::new(),
        };
        let remark = match (node.followed, node.streaming_since) {
            (_, Some(since)) => format!("streaming from it, began {}", age(now, since)),
            (true, None) => "to be streamed from".to_owned(),
            (false, None) => node.why_not.clone().unwrap_or_default(),
        };
        rows.add_row([
            node.node.clone(),
            role.to_owned(),
            node.timeline.map(|timeline| timeline.to_string()).unwrap_or_default(),
            node.upstream.clone().unwrap_or_default(),
            node.lag_bytes.map(size).unwrap_or_default(),
            kept,
            remark,
        ]);
    }
    format!("\n{}", lines(&rows))
}

fn forks(status: &Status) -> String {
    if status.forks.is_empty() {
        return String::new();
    }
    let mut rows = table(&[">From timeline", ">To", "At", ">Tail kept", "Reason"]);
    for fork in status.forks.iter().rev().take(FORKS_SHOWN_MAX) {
        rows.add_row([
            fork.from_timeline.to_string(),
            fork.timeline.to_string(),
            fork.lsn.to_string(),
            size(fork.tail_bytes),
            fork.reason.clone(),
        ]);
    }
    format!("\n{}", lines(&rows))
}

fn server(server: Option<&ServerStatus>, rows: &mut Vec<(&str, String)>) {
    let Some(server) = server else {
        rows.push(("Server", "none is configured".to_owned()));
        return;
    };
    if let Some(problem) = &server.problem {
        rows.push(("Server", format!("{}: {problem}", server.target)));
    }
    if let (Some(timeline), Some(flushed)) = (server.timeline, server.flushed_lsn) {
        let waits = if server.synchronous == Some(true) { ", its commits wait for us" } else { "" };
        rows.push(("Server", format!("{}, timeline {timeline}, at {flushed}{waits}", server.target)));
    }
    if let Some(slot) = &server.slot {
        let state = match (slot.exists, slot.restart_lsn) {
            (Some(false), _) => "is not there".to_owned(),
            (None, _) => "cannot be seen before PostgreSQL 15".to_owned(),
            (Some(true), None) => "keeps no WAL".to_owned(),
            (Some(true), Some(restart)) => {
                format!("keeps WAL from {restart}, {}", size(slot.retained_bytes.unwrap_or(0)))
            }
        };
        rows.push(("Slot", format!("{} {state}", slot.name)));
    }
}

fn last_backup(last: Option<&LastBackup>) -> String {
    last.map_or_else(
        || "none; take one with `backupctl backup`".to_owned(),
        |last| {
            let age = Duration::from_secs(u64::try_from(last.age_seconds).unwrap_or(0));
            format!("{}, {} ago", last.id, duration(age))
        },
    )
}
