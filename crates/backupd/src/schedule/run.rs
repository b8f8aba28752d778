//! The part that runs.

use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use engine::archive::ArchiveStatus;
use engine::backup::{BackupRequest, Progress};
use repository::{Cluster, Record};
use tokio::sync::{Mutex, watch};
use tokio_util::sync::CancellationToken;

use super::calendar::Calendar;
use super::decide::{Decision, Failed, Situation, decide};
use crate::config::Settings;
use crate::events::Events;
use crate::{Failure, source};

/// Longest time without a look at the clock, which may have been set.
const NAP_MAX: Duration = Duration::from_secs(60);
/// A backup that has not said for so long that it runs is not waited for. It says so every half a minute.
const SILENT_MAX: chrono::Duration = chrono::Duration::minutes(2);
/// Time to the next look while nothing is streamed, or the repository cannot be asked.
const LOOK_AGAIN: Duration = Duration::from_secs(5);

/// Takes backups by the clock until `shutdown`. `gate` is held while one is taken.
pub(crate) async fn run(
    settings: Settings,
    cluster: Cluster,
    archive: watch::Receiver<ArchiveStatus>,
    gate: Arc<Mutex<()>>,
    events: Events,
    shutdown: CancellationToken,
) {
    let Some(calendar) = settings.schedule.backups.clone() else { return };
    let next = calendar.next(crate::now()).map(|next| next.to_rfc3339());
    tracing::info!(schedule = calendar.as_str(), next, "backups are taken by the clock");
    let mut clockwork =
        Clockwork { settings, cluster, archive, calendar, events, newest: None, failed: None };
    loop {
        let nap = tokio::select! {
            () = shutdown.cancelled() => return,
            nap = clockwork.step(&gate, &shutdown) => nap,
        };
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = tokio::time::sleep(nap.min(NAP_MAX)) => {}
        }
    }
}

struct Clockwork {
    settings: Settings,
    cluster: Cluster,
    archive: watch::Receiver<ArchiveStatus>,
    calendar: Calendar,
    events: Events,
    /// When the newest backup began that we know of.
    newest: Option<DateTime<Utc>>,
    failed: Option<Failed>,
}

impl Clockwork {
    /// Takes a backup if it is time; how long nothing is to be done then.
    async fn step(&mut self, gate: &Mutex<()>, shutdown: &CancellationToken) -> Duration {
        if let Decision::Wait { until } = self.decide(false) {
            return until_then(until);
        }
        // Whoever is asked every few seconds should be asked little: only now is the repository looked at.
        let running = match self.learn().await {
            Ok(running) => running,
            Err(error) => {
                tracing::debug!("the repository cannot be asked for its backups: {error}");
                return LOOK_AGAIN;
            }
        };
        let due = match self.decide(running) {
            Decision::Wait { until } => return until_then(until),
            Decision::Begin { due } => due,
        };
        if self.archive.borrow().server.is_none() {
            return LOOK_AGAIN;
        }
        // Another part of the service may be at it, and then this one need not.
        let Ok(_held) = gate.try_lock() else { return LOOK_AGAIN };
        self.back_up(due, shutdown).await;
        Duration::ZERO
    }

    fn decide(&self, running: bool) -> Decision {
        let schedule = &self.settings.schedule;
        decide(&Situation {
            calendar: &self.calendar,
            jitter: schedule.jitter,
            window: schedule.window.map(|window| (window, schedule.zone)),
            newest: self.newest,
            running,
            failed: self.failed,
            now: crate::now(),
        })
    }

    /// Looks for backups of others; whether one of them runs.
    async fn learn(&mut self) -> Result<bool, repository::Error> {
        let names = self.cluster.backup_names().await?;
        let now = crate::now();
        self.newest = names.iter().map(repository::BackupId::time).filter(|began| *began <= now).max();
        // One that was killed is not waited for as long as what it left is kept.
        let running = self.cluster.heartbeats().await?;
        Ok(running.iter().any(|running| now.signed_duration_since(running.updated_at) < SILENT_MAX))
    }

    async fn back_up(&mut self, due: DateTime<Utc>, shutdown: &CancellationToken) {
        tracing::info!(due = due.to_rfc3339(), "taking a base backup, which is due");
        match take(&self.settings, &self.cluster, shutdown).await {
            Ok(record) => {
                self.events.backup_finished(&record);
                self.failed = None;
                self.newest = Some(record.started_at);
                let seconds = record.finished_at.signed_duration_since(record.started_at).num_seconds();
                let next = self.calendar.next(crate::now()).map(|next| next.to_rfc3339());
                tracing::info!(
                    backup = %record.id, seconds, bytes = record.size_bytes, stored_bytes = record.stored_bytes,
                    next, "the base backup is published"
                );
            }
            Err(_) if shutdown.is_cancelled() => {}
            Err(error) => {
                let times = self.failed.map_or(0, |failed| failed.times) + 1;
                self.failed = Some(Failed { at: crate::now(), times });
                self.events.backup_failed(&engine::chain(&error));
                let hint = error.hint(Some(&self.settings)).unwrap_or_default();
                tracing::error!(
                    hint,
                    times,
                    "the base backup has failed and is tried again: {}",
                    engine::chain(&error)
                );
            }
        }
    }
}

async fn take(
    settings: &Settings,
    cluster: &Cluster,
    shutdown: &CancellationToken,
) -> Result<Record, Failure> {
    let (progress, _) = watch::channel(Progress::default());
    source::back_up(settings, cluster, &BackupRequest { note: None }, &progress, shutdown).await
}

fn until_then(then: DateTime<Utc>) -> Duration {
    then.signed_duration_since(crate::now()).to_std().unwrap_or(Duration::ZERO)
}
