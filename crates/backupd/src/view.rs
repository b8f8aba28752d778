//! Backups, WAL and holes as results show them. Field names are part of the interface.

use chrono::{DateTime, Utc};
use engine::catalog::Catalog;
use engine::status::{self, Fork, Window};
use pgformat::{Lsn, TimelineId};
use repository::pin::Pin;
use repository::record::Tablespace;
use repository::wal::{Coverage, Hole, TimelineCoverage};
use repository::{BackupId, Cluster, Record};
use serde::Serialize;

use crate::Failure;

/// What is in the repository.
#[derive(Debug, Clone, Serialize)]
pub struct List {
    /// The cluster's name.
    pub cluster: String,
    /// PostgreSQL's identifier of it, as decimal text.
    pub system_identifier: String,
    /// PostgreSQL's major version.
    pub postgresql_major: u16,
    /// Oldest first.
    pub backups: Vec<BackupView>,
    /// Backups whose records cannot be read; they cannot be restored.
    pub unreadable_backups: Vec<Unreadable>,
    /// By timeline.
    pub wal: Vec<WalView>,
    /// WAL that is known to be missing.
    pub holes: Vec<Hole>,
    /// From when to when one can restore along the newest timeline.
    pub windows: Vec<Window>,
}

/// A backup whose record cannot be read.
#[derive(Debug, Clone, Serialize)]
pub struct Unreadable {
    /// Its name.
    pub id: BackupId,
    /// What is wrong.
    pub reason: String,
}

/// What is in the repository.
pub async fn list(cluster: &Cluster, catalog: &Catalog) -> Result<List, Failure> {
    let mut wal = wal(&catalog.coverage);
    mark_tails(&mut wal, &status::forks(catalog));
    let mut backups = Vec::new();
    for record in &catalog.backups.records {
        backups.push(BackupView { pin: cluster.pin_of(&record.id).await?, ..BackupView::from(record) });
    }
    let unreadable = catalog.backups.unreadable.iter();
    Ok(List {
        cluster: cluster.name().to_owned(),
        system_identifier: catalog.identity.system_identifier.to_string(),
        postgresql_major: catalog.identity.postgresql_major,
        backups,
        unreadable_backups: unreadable
            .map(|(id, error)| Unreadable { id: id.clone(), reason: error.to_string() })
            .collect(),
        wal,
        holes: holes(&catalog.coverage),
        windows: status::windows(cluster, catalog).await?,
    })
}

/// A backup.
#[derive(Debug, Clone, Serialize)]
pub struct BackupView {
    /// Its name.
    pub id: BackupId,
    /// PostgreSQL's identifier of the cluster, as decimal text.
    pub system_identifier: String,
    /// `server_version_num` of the server.
    pub postgresql_version: u32,
    /// Whether the cluster's pages carry checksums.
    pub data_checksums: bool,
    /// When it was asked for.
    pub started_at: DateTime<Utc>,
    /// When it was published.
    pub finished_at: DateTime<Utc>,
    /// Its timeline.
    pub timeline: TimelineId,
    /// Recovery starts here.
    pub start_lsn: Lsn,
    /// It is consistent from here on.
    pub stop_lsn: Lsn,
    /// The server it was taken from.
    pub source: String,
    /// What the person who asked for it wrote.
    pub note: Option<String>,
    /// What keeps it whatever the retention settings say.
    pub pin: Option<Pin>,
    /// The backup it shares frames with.
    pub parent: Option<BackupId>,
    /// Files and directories.
    pub file_count: u64,
    /// Bytes of all files.
    pub size_bytes: u64,
    /// Bytes it added to the repository.
    pub stored_bytes: u64,
    /// Bytes of files that were in the repository already.
    pub shared_bytes: u64,
    /// Pages that are corrupt on the server.
    pub corrupt_pages_total: u64,
    /// Tablespaces outside the data directory.
    pub tablespaces: Vec<Tablespace>,
}

impl From<&Record> for BackupView {
    fn from(record: &Record) -> BackupView {
        let record = record.clone();
        BackupView {
            id: record.id,
            system_identifier: record.system_identifier.to_string(),
            postgresql_version: record.postgresql_version,
            data_checksums: record.data_checksums,
            started_at: record.started_at,
            finished_at: record.finished_at,
            timeline: record.timeline,
            start_lsn: record.start_lsn,
            stop_lsn: record.stop_lsn,
            source: record.source,
            note: record.note,
            pin: None,
            parent: record.parent,
            file_count: record.file_count,
            size_bytes: record.size_bytes,
            stored_bytes: record.stored_bytes,
            shared_bytes: record.shared_bytes,
            corrupt_pages_total: record.corrupt_pages_total,
            tablespaces: record.tablespaces,
        }
    }
}

/// The WAL of a timeline.
#[derive(Debug, Clone, Serialize)]
pub struct WalView {
    /// The timeline.
    pub timeline: TimelineId,
    /// What is there without a gap, in order.
    pub ranges: Vec<RangeView>,
    /// Whole segments.
    pub segments: u64,
    /// Pieces of segments that are not whole.
    pub pieces: u64,
    /// Bytes in the repository.
    pub stored_bytes: u64,
    /// What is missing without a known cause.
    pub unexplained_gaps: Vec<RangeView>,
    /// Where the cluster left the timeline for the next one on the way to the newest; null when it did not. What lies beyond is
    /// a tail, which no plan for a newer timeline leads through.
    pub left_at: Option<Lsn>,
    /// Bytes of the tail.
    pub tail_bytes: u64,
}

/// WAL bytes from `from` up to, not including, `to`.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct RangeView {
    /// First byte.
    pub from: Lsn,
    /// First byte after it.
    pub to: Lsn,
}

impl From<&repository::wal::Range> for RangeView {
    fn from(range: &repository::wal::Range) -> RangeView {
        RangeView { from: range.from, to: range.to }
    }
}

impl From<&TimelineCoverage> for WalView {
    fn from(covered: &TimelineCoverage) -> WalView {
        WalView {
            timeline: covered.timeline,
            ranges: covered.ranges.iter().map(RangeView::from).collect(),
            segments: covered.segments,
            pieces: covered.pieces,
            stored_bytes: covered.stored_bytes,
            unexplained_gaps: covered.unexplained_gaps().iter().map(RangeView::from).collect(),
            left_at: None,
            tail_bytes: 0,
        }
    }
}

/// All WAL, by timeline.
pub fn wal(coverage: &Coverage) -> Vec<WalView> {
    coverage.timelines.values().map(WalView::from).collect()
}

/// Marks where timelines were left.
pub fn mark_tails(timelines: &mut [WalView], forks: &[Fork]) {
    for timeline in timelines {
        let fork = forks.iter().find(|fork| fork.from_timeline == timeline.timeline);
        timeline.left_at = fork.map(|fork| fork.lsn);
        timeline.tail_bytes = fork.map_or(0, |fork| fork.tail_bytes);
    }
}

/// All holes.
pub fn holes(coverage: &Coverage) -> Vec<Hole> {
    coverage.timelines.values().flat_map(|covered| covered.holes.clone()).collect()
}
