//! Verify: look at everything, and say what does not hold and what that costs. What is found is data, not an error.
//!
//! Names, records, lists, maps and the WAL's continuity are looked at every time. Packs and WAL are many and large, so what
//! was read and found whole is remembered in a ledger in the repository, and a verification reads what is new and a share
//! of what is old.

mod continuity;
mod cost;
mod documents;
mod notes;
mod pace;
mod read;
mod times;
mod units;

use std::collections::BTreeSet;

use chrono::{DateTime, Utc};
use pgformat::{Lsn, TimelineId};
use repository::state::Verification;
use repository::{BackupId, Cluster, Error as RepositoryError};
use serde::Serialize;
use tokio::sync::watch;

use self::notes::{About, Note, Notes};
use self::pace::Pace;
use crate::catalog::Catalog;
use crate::{Clock, Error};

/// Which packs and WAL objects are read and hashed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reading {
    /// None: that they are there and have the right size must do.
    Nothing,
    /// What no verification has read yet, and of the rest this many percent of the bytes, the longest unread first.
    Share(u8),
    /// All.
    All,
}

/// What is asked for.
#[derive(Debug, Clone, Copy)]
pub struct Request {
    /// What is read.
    pub reading: Reading,
    /// Objects read and hashed at once, as far as memory has room for them.
    pub workers: usize,
    /// Bytes read in a second at most.
    pub max_rate: Option<u64>,
    /// What time it is, for the ledger.
    pub clock: Clock,
}

/// How bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// Backups cannot be restored.
    Critical,
    /// Every backup can be restored, but there are points in time or in the WAL that cannot be reached.
    Serious,
    /// It costs nothing yet.
    Warning,
}

/// Points of recovery that cannot be reached.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LostTargets {
    /// On this timeline.
    pub timeline: TimelineId,
    /// Recovery ends here.
    pub from_lsn: Lsn,
    /// From here on a later backup leads again; where there is none, the end of the WAL.
    pub to_lsn: Lsn,
    /// When the last transaction before `from_lsn` ended, as far as the WAL beside it tells.
    pub from_time: Option<DateTime<Utc>>,
    /// When that later backup was finished, else when the last transaction ended.
    pub to_time: Option<DateTime<Utc>>,
}

/// Something that does not hold.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// The object, or what it is about.
    pub key: String,
    /// How bad it is.
    pub severity: Severity,
    /// What does not hold, in a sentence.
    pub what: String,
    /// The backups that cannot be restored because of it: their files are not whole, or the WAL that would make them consistent
    /// is not.
    pub backups: Vec<BackupId>,
    /// What recovery cannot reach because of it.
    pub lost: Vec<LostTargets>,
}

/// An object that could not be read. Whether it is whole is not known.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Unread {
    /// The object.
    pub key: String,
    /// What the storage said.
    pub why: String,
}

/// Packs and WAL objects.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Count {
    /// How many.
    pub objects: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// What was looked at, and what was found.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Report {
    /// The worst first.
    pub findings: Vec<Finding>,
    /// What could not be read.
    pub unread: Vec<Unread>,
    /// Objects looked at.
    pub objects: u64,
    /// Bytes of them, read or seen to be there.
    pub bytes: u64,
    /// Packs and WAL that were read and hashed.
    pub read: Count,
    /// Packs and WAL that an earlier verification has read, and this one has not.
    pub remembered: Count,
    /// The longest time ago that one of those was read.
    pub remembered_since: Option<DateTime<Utc>>,
}

/// How far verification is.
#[derive(Debug, Clone, Copy, Default)]
pub struct Progress {
    /// Objects looked at.
    pub objects: u64,
    /// Bytes of those that are read.
    pub bytes: u64,
    /// Bytes there are to read.
    pub bytes_total: u64,
}

/// Verifies a cluster, and remembers in it what that came to.
pub async fn verify(
    cluster: &Cluster,
    request: &Request,
    progress: &watch::Sender<Progress>,
) -> Result<Report, Error> {
    let started_at = (request.clock)();
    let report = look(cluster, request, progress).await?;
    let verification = Verification {
        started_at,
        finished_at: (request.clock)(),
        read: request.reading != Reading::Nothing,
        findings: report.findings.len() as u64,
        worst: report.findings.first().map(|finding| format!("{}: {}", finding.key, finding.what)),
        unread: report.unread.len() as u64,
    };
    // Where nothing can be written, as over HTTP, whoever asked knows what was found.
    if let Err(error) = cluster.note_verification(&verification).await {
        tracing::debug!("what the verification came to is not remembered: {error}");
    }
    Ok(report)
}

async fn look(
    cluster: &Cluster,
    request: &Request,
    progress: &watch::Sender<Progress>,
) -> Result<Report, Error> {
    let catalog = match Catalog::load(cluster).await {
        Err(Error::Repository(RepositoryError::Damaged { key, reason })) => {
            let names = cluster.backup_names().await?;
            return Ok(nothing_opens(key, &reason, names));
        }
        catalog => catalog?,
    };
    let pace = Pace::new(request.max_rate);
    let mut notes = Notes::new(progress);
    documents::look(cluster, &catalog, request, &pace, &mut notes).await?;
    let mut units = units::list(cluster, &catalog, &mut notes).await?;
    units::choose(cluster, &mut units, request.reading, &mut notes).await?;
    read::read(cluster, &units, &catalog, request, &pace, &mut notes).await?;
    drop(units);
    settle(cluster, catalog, notes).await
}

/// What there is to report when a document without which nothing can be restored is damaged: nothing else can be looked at.
pub fn nothing_opens(key: String, reason: &str, backups: Vec<BackupId>) -> Report {
    let what = format!("{reason}; without it nothing can be restored, and nothing else was looked at");
    let finding = Finding { key, severity: Severity::Critical, what, backups, lost: Vec::new() };
    Report { findings: vec![finding], objects: 1, ..Report::default() }
}

/// Takes a second look before anything is called missing: expiry and archiving go on meanwhile. Then says what each finding costs.
async fn settle(cluster: &Cluster, catalog: Catalog, mut notes: Notes<'_>) -> Result<Report, Error> {
    let broken = continuity::look(cluster, &catalog)?;
    let mut report = std::mem::take(&mut notes.report);
    if broken.is_empty() && notes.found.is_empty() && notes.vanished.is_empty() {
        return Ok(report);
    }
    let catalog = Catalog::load(cluster).await?;
    notes.found.extend(continuity::look(cluster, &catalog)?);
    notes.found.extend(continuity::vanished(cluster, &catalog, &notes.vanished)?);
    let alive: BTreeSet<&BackupId> = catalog
        .backups
        .records
        .iter()
        .map(|record| &record.id)
        .chain(catalog.backups.unreadable.iter().map(|(id, _)| id))
        .collect();
    for Note { key, what, mut about } in notes.found {
        if let About::Backups(backups) = &mut about {
            backups.retain(|id| alive.contains(id));
            if backups.is_empty() {
                // Expired since its record was read; what it needed is going.
                continue;
            }
        }
        let cost = cost::of(&catalog, &about);
        let lost = times::of(cluster, &catalog, cost.lost).await?;
        let severity = match (cost.backups.is_empty(), lost.is_empty()) {
            (false, _) => Severity::Critical,
            (true, false) => Severity::Serious,
            (true, true) => Severity::Warning,
        };
        report.findings.push(Finding { key, severity, what, backups: cost.backups, lost });
    }
    let order =
        |finding: &Finding| (finding.severity, std::cmp::Reverse(finding.backups.len()), finding.key.clone());
    report.findings.sort_by_cached_key(order);
    Ok(report)
}
