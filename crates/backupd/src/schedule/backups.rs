//! Base backups by the clock.

use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use engine::archive::ArchiveStatus;
use engine::backup::{BackupRequest, Progress};
use repository::Record;
use tokio::sync::watch;

use super::clockwork::{self, Clockwork};
use super::{Calendar, Decision, Failed, LOOK_AGAIN, NAP_MAX, Situation, decide, running, until_then};
use crate::api::Lead;
use crate::config::{Live, Settings};
use crate::monitor::Observed;
use crate::{Failure, source};

/// Takes backups by the clock until our turn is over. The gate is held while one is taken.
pub(crate) async fn take_backups(
    live: Live,
    lead: Lead,
    archive: watch::Receiver<ArchiveStatus>,
    observed: Arc<Observed>,
) {
    let over = lead.over.clone();
    clockwork::run(Backups { lead, archive, observed, newest: None, failed: None }, live, over).await;
}

struct Backups {
    lead: Lead,
    archive: watch::Receiver<ArchiveStatus>,
    observed: Arc<Observed>,
    /// When the newest backup began that we know of.
    newest: Option<DateTime<Utc>>,
    failed: Option<Failed>,
}

impl Clockwork for Backups {
    const WHAT: &str = "backups are taken";

    fn calendar(settings: &Settings) -> Option<&Calendar> {
        settings.schedule.backups.as_ref()
    }

    async fn step(&mut self, settings: Arc<Settings>) -> Duration {
        let Some(calendar) = Self::calendar(&settings) else { return NAP_MAX };
        if let Decision::Wait { until } = self.decide(&settings, calendar, false) {
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
        let due = match self.decide(&settings, calendar, running) {
            Decision::Wait { until } => return until_then(until),
            Decision::Begin { due } => due,
        };
        if self.archive.borrow().server.is_none() {
            return LOOK_AGAIN;
        }
        // Another part of the service may be at it, and then this one need not.
        let Ok(_held) = self.lead.gate.clone().try_lock_owned() else { return LOOK_AGAIN };
        self.back_up(&settings, calendar, due).await;
        Duration::ZERO
    }
}

impl Backups {
    fn decide(&self, settings: &Settings, calendar: &Calendar, running: bool) -> Decision {
        let schedule = &settings.schedule;
        decide(&Situation {
            calendar,
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
        let names = self.lead.cluster.backup_names().await?;
        let now = crate::now();
        self.newest = names.iter().map(repository::BackupId::time).filter(|began| *began <= now).max();
        Ok(running(&self.lead.cluster).await?.is_some())
    }

    async fn back_up(&mut self, settings: &Settings, calendar: &Calendar, due: DateTime<Utc>) {
        tracing::info!(due = due.to_rfc3339(), "taking a base backup, which is due");
        match take(settings, &self.lead).await {
            Ok(record) => {
                self.lead.events.backup_finished(&record);
                self.observed.hint();
                self.failed = None;
                self.newest = Some(record.started_at);
                let seconds = record.finished_at.signed_duration_since(record.started_at).num_seconds();
                let next = calendar.next(crate::now()).map(|next| next.to_rfc3339());
                tracing::info!(
                    backup = %record.id, seconds, bytes = record.size_bytes, stored_bytes = record.stored_bytes,
                    next, "the base backup is published"
                );
            }
            Err(_) if self.lead.over.is_cancelled() => {}
            Err(error) => {
                let times = self.failed.map_or(0, |failed| failed.times) + 1;
                self.failed = Some(Failed { at: crate::now(), times });
                self.lead.events.backup_failed(&engine::chain(&error));
                let hint = error.hint(Some(settings)).unwrap_or_default();
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

async fn take(settings: &Settings, lead: &Lead) -> Result<Record, Failure> {
    let (progress, _) = watch::channel(Progress::default());
    source::back_up(settings, &lead.cluster, &BackupRequest { note: None }, &progress, &lead.over).await
}
