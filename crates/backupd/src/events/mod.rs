//! Events: what somebody who does not look should be told.
//!
//! Whoever has something to tell hands it over and goes on; it is delivered by a task of its own, within limits. What
//! cannot be delivered is logged and forgotten: an archive must not wait for a chat room.

mod deliver;
mod news;

use chrono::{DateTime, Utc};
use engine::verify::{Report, Severity};
use repository::Record;
use repository::wal::Hole;
use serde::Serialize;
use serde_json::{Map, Value, json};
use tokio::sync::mpsc;

pub use self::deliver::Outlets;
pub(crate) use self::deliver::deliver;
pub(crate) use self::news::watch;

/// Events that wait to be delivered; further ones are dropped.
const WAITING_MAX: usize = 64;

/// What has happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Kind {
    /// A base backup is published.
    BackupFinished,
    /// One has failed; it is tried again.
    BackupFailed,
    /// WAL comes from another timeline, after a failover or a switchover.
    FailoverFollowed,
    /// WAL is missing for good.
    HoleFound,
    /// A verification has found something.
    VerificationFinding,
    /// The archive has been behind for longer than the limit.
    LagOverLimit,
    /// It no longer is.
    LagUnderLimit,
    /// Nothing has been archived for a while: a server or a repository is away, or something is wrong.
    NotArchiving,
    /// That is over.
    ArchivingAgain,
}

/// Something that has happened.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Event {
    /// What.
    pub event: Kind,
    /// Of which cluster.
    pub cluster: String,
    /// When.
    pub at: DateTime<Utc>,
    /// In a sentence.
    pub text: String,
    /// What belongs to it.
    #[serde(flatten)]
    pub details: Map<String, Value>,
}

/// Where events are handed over.
#[derive(Debug, Clone)]
pub(crate) struct Events {
    cluster: String,
    sender: mpsc::Sender<Event>,
}

impl Events {
    /// A place to hand events over, and where they come out.
    pub fn new(cluster: String) -> (Events, mpsc::Receiver<Event>) {
        let (sender, receiver) = mpsc::channel(WAITING_MAX);
        (Events { cluster, sender }, receiver)
    }

    /// Hands an event over. Nobody waits.
    pub fn tell(&self, event: Kind, text: String, details: Value) {
        let Value::Object(details) = details else { return };
        let event = Event { event, cluster: self.cluster.clone(), at: crate::now(), text, details };
        match self.sender.try_send(event) {
            Ok(()) => {}
            Err(mpsc::error::TrySendError::Full(event)) => {
                tracing::warn!("too many events wait to be delivered; this one is not: {}", event.text);
            }
            // The service ends.
            Err(mpsc::error::TrySendError::Closed(_)) => {}
        }
    }

    /// A base backup is published.
    pub fn backup_finished(&self, record: &Record) {
        let seconds = record.finished_at.signed_duration_since(record.started_at).num_seconds();
        let text =
            format!("backup {} is published, {} bytes of files in {seconds} s", record.id, record.size_bytes);
        let details = json!({
            "backup": record.id, "seconds": seconds, "size_bytes": record.size_bytes,
            "stored_bytes": record.stored_bytes, "corrupt_pages_total": record.corrupt_pages_total,
        });
        self.tell(Kind::BackupFinished, text, details);
    }

    /// WAL is missing for good.
    pub fn hole_found(&self, hole: &Hole) {
        let text = format!(
            "WAL of timeline {} from {} to {} is missing for good: {}",
            hole.timeline, hole.from, hole.to, hole.cause
        );
        let details =
            json!({ "timeline": hole.timeline, "from": hole.from, "to": hole.to, "since": hole.since });
        self.tell(Kind::HoleFound, text, details);
    }

    /// A verification is over; it is an event where it has found something.
    pub fn verified(&self, report: &Report) {
        let Some(worst) = report.findings.first() else { return };
        let count = report.findings.len();
        let text = format!("the verification has {count} findings, the worst: {}: {}", worst.key, worst.what);
        let of =
            |severity: Severity| report.findings.iter().filter(|found| found.severity == severity).count();
        let details = json!({
            "findings": count, "critical": of(Severity::Critical), "serious": of(Severity::Serious),
            "worst": { "key": worst.key, "severity": worst.severity, "what": worst.what, "backups": worst.backups },
        });
        self.tell(Kind::VerificationFinding, text, details);
    }

    /// A base backup has failed.
    pub fn backup_failed(&self, problem: &str) {
        self.tell(
            Kind::BackupFailed,
            format!("a base backup has failed: {problem}"),
            json!({ "problem": problem }),
        );
    }
}
