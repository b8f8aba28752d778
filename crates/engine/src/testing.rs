//! What tests make up.

use chrono::{DateTime, Utc};
use pgformat::{Lsn, TimelineId};
use repository::codec::Checksum;
use repository::record::ObjectSummary;
use repository::{BackupId, Record};

/// A backup that was taken at once, with nothing in it.
pub(crate) fn record(at: DateTime<Utc>, timeline: TimelineId, start: Lsn, stop: Lsn) -> Record {
    Record {
        id: BackupId::at(at),
        system_identifier: 1,
        postgresql_version: 150_000,
        data_checksums: true,
        started_at: at,
        finished_at: at,
        timeline,
        start_lsn: start,
        stop_timeline: timeline,
        stop_lsn: stop,
        source: "db".into(),
        note: None,
        parent: None,
        tablespaces: vec![],
        files: ObjectSummary { size: 0, sha256: Checksum::of(b"") },
        file_count: 0,
        size_bytes: 0,
        maps: vec![],
        packs: vec![],
        stored_bytes: 0,
        shared_bytes: 0,
        corrupt_pages: vec![],
        corrupt_pages_total: 0,
        encrypted_to: None,
    }
}
