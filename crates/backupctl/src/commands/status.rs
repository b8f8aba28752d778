//! `backupctl status`

use std::time::Duration;

use backupd::{Exit, Failure, open};
use engine::status::{self, LastBackup, Request, ServerStatus, Status};

use crate::Context;
use crate::output::{age, duration, facts, size, time};

pub(crate) async fn run(context: &Context) -> Result<Exit, Failure> {
    let settings = &context.settings;
    let cluster = open::existing(settings).await?;
    let server = settings.server();
    let request = Request {
        connect: server.as_ref().ok().map(|server| &server.replication),
        slot: &settings.slot,
        dead_after: settings.dead_after,
        now: backupd::now(),
    };
    let mut status = status::status(&cluster, &request).await?;
    context.output.print(&status, || text(&status, &request))?;
    if let Some(error) = status.server.as_mut().and_then(|server| server.error.take()) {
        return Err(error.into());
    }
    Ok(if status.findings.is_empty() { Exit::Done } else { Exit::Findings })
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
                time(window.to),
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
    facts(&rows)
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
