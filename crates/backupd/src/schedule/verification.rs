//! Verification by the clock.

use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use engine::verify::{self, Progress, Reading, Report, Request};
use repository::Cluster;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::clockwork::{self, Clockwork};
use super::{Calendar, Decision, Failed, LOOK_AGAIN, NAP_MAX, Situation, decide, until_then};
use crate::Failure;
use crate::api::Lead;
use crate::config::{Live, Settings};
use crate::events::Events;
use crate::monitor::Observed;

/// One worker reads: what archives must not wait for what checks.
const WORKERS: usize = 1;

/// Verifies the repository, and tells what was found.
pub(crate) async fn verify(
    settings: &Settings,
    cluster: &Cluster,
    reading: Reading,
    events: &Events,
    progress: &watch::Sender<Progress>,
    over: &CancellationToken,
) -> Result<Report, Failure> {
    let request =
        Request { reading, workers: WORKERS.min(settings.workers), max_rate: None, clock: crate::now };
    let report = tokio::select! {
        report = verify::verify(cluster, &request, progress) => report?,
        () = over.cancelled() => return Err(engine::Error::Stopped.into()),
    };
    events.verified(&report);
    Ok(report)
}

/// Verifies by the clock until our turn is over.
pub(crate) async fn verify_by_the_clock(live: Live, lead: Lead, observed: Arc<Observed>) {
    let over = lead.over.clone();
    clockwork::run(Verifications { lead, observed, failed: None }, live, over).await;
}

struct Verifications {
    lead: Lead,
    observed: Arc<Observed>,
    failed: Option<Failed>,
}

impl Clockwork for Verifications {
    const WHAT: &str = "the repository is verified";

    fn calendar(settings: &Settings) -> Option<&Calendar> {
        settings.schedule.verification.as_ref()
    }

    async fn step(&mut self, settings: Arc<Settings>) -> Duration {
        let schedule = &settings.schedule;
        let Some(calendar) = Self::calendar(&settings) else { return NAP_MAX };
        let last = match self.last().await {
            Ok(last) => last,
            Err(error) => {
                tracing::debug!("the repository cannot be asked for its verification: {error}");
                return LOOK_AGAIN;
            }
        };
        let Some(last) = last else {
            // Before the first connection ever there is nothing to verify.
            return LOOK_AGAIN;
        };
        let decision = decide(&Situation {
            calendar,
            jitter: schedule.jitter,
            window: schedule.window.map(|window| (window, schedule.zone)),
            newest: Some(last),
            running: false,
            failed: self.failed,
            now: crate::now(),
        });
        match decision {
            Decision::Wait { until } => until_then(until),
            Decision::Begin { due } => {
                self.verify(&settings, due).await;
                Duration::ZERO
            }
        }
    }
}

impl Verifications {
    /// When the last verification began that read something, or else when the cluster came to be known: a new repository need not be
    /// verified for what was due before. `None` where there is no cluster.
    async fn last(&self) -> Result<Option<DateTime<Utc>>, repository::Error> {
        let Some(identity) = self.lead.cluster.identity().await? else { return Ok(None) };
        let verified = self.lead.cluster.verification().await?.filter(|verified| verified.read);
        Ok(Some(verified.map_or(identity.created_at, |verified| verified.started_at)))
    }

    async fn verify(&mut self, settings: &Settings, due: DateTime<Utc>) {
        tracing::info!(due = due.to_rfc3339(), "verifying the repository, which is due");
        let reading = Reading::Share(settings.schedule.verification_share);
        let (progress, _) = watch::channel(Progress::default());
        let Lead { cluster, events, over, .. } = &self.lead;
        match verify(settings, cluster, reading, events, &progress, over).await {
            Ok(report) => {
                self.failed = None;
                tracing::info!(
                    findings = report.findings.len(),
                    objects = report.objects,
                    read_bytes = report.read.bytes,
                    "the repository is verified"
                );
            }
            Err(_) if over.is_cancelled() => {}
            Err(error) => {
                let times = self.failed.map_or(0, |failed| failed.times) + 1;
                self.failed = Some(Failed { at: crate::now(), times });
                tracing::warn!(times, "the repository cannot be verified yet: {}", engine::chain(&error));
            }
        }
        self.observed.hint();
    }
}
