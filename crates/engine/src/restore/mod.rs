//! Restore: plan first, then write, and make the result startable last.
//!
//! A plan says which backup, which WAL along which timelines, and where recovery will stop, before anything is written. What is
//! written cannot be started until `pg_control` is put in place, which is the last thing that happens.

mod destination;
mod locate;
mod plan;
mod protect;
mod settings;
mod write;
mod writeback;

use std::path::PathBuf;

use chrono::{DateTime, Utc};
use pgformat::{Lsn, TimelineId};
use repository::{BackupId, Cluster, Record};
use serde::Serialize;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

pub use plan::plan;
pub use protect::protect;
pub use settings::forget;

use crate::Error;
use crate::fetch::{Access, IdentitySource};

/// What is asked for.
#[derive(Debug, Clone)]
pub struct Request {
    /// Which backup; `None` chooses the newest that fits.
    pub backup: Option<BackupId>,
    /// Where recovery is to stop.
    pub target: Target,
    /// Stop just before the target instead of just after it.
    pub exclusive: bool,
    /// Along which timeline.
    pub timeline: TimelineChoice,
    /// What the server does when it has reached the target; PostgreSQL's default is to pause.
    pub action: Option<Action>,
    /// Go on as a standby instead of recovering to a target.
    pub standby: bool,
}

/// Where recovery is to stop.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Target {
    /// At the end of all durable WAL.
    Newest,
    /// Before the first transaction that ended later.
    Time(DateTime<Utc>),
    /// At a position.
    Lsn(Lsn),
    /// With the end of a transaction.
    Xid(u32),
    /// At a restore point.
    Name(String),
    /// As soon as the backup is consistent.
    Immediate,
}

/// Along which timeline.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TimelineChoice {
    /// The newest there is WAL of.
    Latest,
    /// The one the backup was taken on.
    Current,
    /// This one.
    Number(TimelineId),
}

/// What the server does when it has reached the target.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// Wait, readable, for somebody to look and decide.
    Pause,
    /// Become a primary on a new timeline.
    Promote,
    /// Stop.
    Shutdown,
}

impl Action {
    /// PostgreSQL's word.
    pub fn as_str(self) -> &'static str {
        match self {
            Action::Pause => "pause",
            Action::Promote => "promote",
            Action::Shutdown => "shutdown",
        }
    }
}

/// What will happen.
#[derive(Debug, Clone, Serialize)]
pub struct Plan {
    /// The backup to start from.
    pub backup: BackupId,
    /// When it was finished.
    pub backup_finished_at: DateTime<Utc>,
    /// Where recovery is to stop.
    pub target: Target,
    /// Just before the target, not just after it.
    pub exclusive: bool,
    /// The timelines recovery goes along, oldest first.
    pub timelines: Vec<PlanStep>,
    /// The last of them.
    pub target_timeline: TimelineId,
    /// Replay begins here.
    pub start_lsn: Lsn,
    /// From here on the data is consistent.
    pub consistent_lsn: Lsn,
    /// What is durable on this path ends here.
    pub end_lsn: Lsn,
    /// Where recovery will stop, when that could be found in the WAL.
    pub stops_at: Option<Stop>,
    /// What the server does then.
    pub action: Option<Action>,
    /// It goes on as a standby.
    pub standby: bool,
    /// Files and directories.
    pub file_count: u64,
    /// Bytes of files.
    pub size_bytes: u64,
    /// Bytes of WAL to replay, at most.
    pub wal_bytes: u64,
    /// Tablespaces, with the directories they had.
    pub tablespaces: Vec<repository::record::Tablespace>,
    #[serde(skip)]
    pub(crate) segment_size: pgformat::SegmentSize,
    #[serde(skip)]
    pub(crate) record: Box<Record>,
}

/// A timeline on the way.
#[derive(Debug, Clone, Serialize)]
pub struct PlanStep {
    /// The timeline.
    pub timeline: TimelineId,
    /// Where the next one forks off.
    pub end: Option<Lsn>,
    /// How far its WAL is durable.
    pub durable: Lsn,
}

/// Where recovery will stop.
#[derive(Debug, Clone, Serialize)]
pub struct Stop {
    /// The record it stops at, or just before.
    pub lsn: Lsn,
    /// The time in that record.
    pub time: Option<DateTime<Utc>>,
}

/// Where to.
#[derive(Debug, Clone)]
pub struct Destination {
    /// The data directory; not there yet, or empty.
    pub data_dir: PathBuf,
    /// Tablespaces that go elsewhere than they were: directory then, directory now.
    pub tablespaces: Vec<(PathBuf, PathBuf)>,
    /// The command line of `backupctl`, quoted for a shell; `wal fetch` and `wal end` with their arguments are put behind it.
    pub program: String,
    /// What `wal fetch` needs beside the repository's address.
    pub access: Access,
    /// Where recovery finds the identity that opens the WAL.
    pub identity: Option<IdentitySource>,
    /// Frames that are read, decompressed and written at once.
    pub workers: usize,
}

/// How far a restore is.
#[derive(Debug, Clone, Copy, Default)]
pub struct Progress {
    /// Bytes of files written.
    pub bytes: u64,
    /// Bytes of files in all.
    pub bytes_total: u64,
    /// Files written.
    pub files: u64,
    /// All is written and being made durable.
    pub syncing: bool,
}

/// Looks whether a plan could be carried out there, without changing anything.
pub fn check(plan: &Plan, destination: &Destination) -> Result<(), Error> {
    destination::look(plan, destination).map(drop)
}

/// Carries out a plan. A restore that was stopped or killed leaves a directory that cannot be started, and that the next
/// restore into it recognises and begins anew.
pub async fn apply(
    cluster: &Cluster,
    plan: &Plan,
    destination: &Destination,
    progress: &watch::Sender<Progress>,
    shutdown: &CancellationToken,
) -> Result<(), Error> {
    progress.send_modify(|progress| progress.bytes_total = plan.size_bytes);
    let keys = cluster.frame_keys(&plan.record).await?;
    let prepared = destination::prepare(plan, destination)?;
    tokio::select! {
        written = write::files(cluster, plan, keys, &prepared, destination.workers, progress) => written?,
        () = shutdown.cancelled() => return Err(Error::Stopped),
    }
    settings::write(cluster, plan, destination).await?;
    progress.send_modify(|progress| progress.syncing = true);
    tokio::task::spawn_blocking(move || prepared.finish())
        .await
        .unwrap_or_else(|cause| Err(Error::Destination { reason: cause.to_string(), hint: String::new() }))
}
