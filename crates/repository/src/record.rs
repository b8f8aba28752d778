//! Records: the document that makes a backup exist.

use std::fmt;
use std::str::FromStr;

use chrono::{DateTime, NaiveDateTime, Utc};
use pgformat::{Lsn, TimelineId};
use serde::{Deserialize, Serialize};

use crate::codec::Checksum;
use crate::pack::PackName;

/// Which backup: when it began, in UTC, as in `20260102T030405Z`. Later backups sort after earlier ones.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct BackupId(String);

const ID_FORMAT: &str = "%Y%m%dT%H%M%SZ";

impl BackupId {
    /// The name of a backup that begins now.
    pub fn at(now: DateTime<Utc>) -> BackupId {
        BackupId(now.format(ID_FORMAT).to_string())
    }

    /// As text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// When the backup began, to the second.
    pub fn time(&self) -> DateTime<Utc> {
        // It was made from a time, or read as one.
        NaiveDateTime::parse_from_str(&self.0, ID_FORMAT).unwrap_or_default().and_utc()
    }
}

impl FromStr for BackupId {
    type Err = String;

    fn from_str(text: &str) -> Result<BackupId, String> {
        match NaiveDateTime::parse_from_str(text, ID_FORMAT) {
            Ok(time) if time.format(ID_FORMAT).to_string() == text => Ok(BackupId(text.to_owned())),
            _ => Err(format!("\"{text}\" is not the name of a backup")),
        }
    }
}

impl TryFrom<String> for BackupId {
    type Error = String;

    fn try_from(text: String) -> Result<BackupId, String> {
        text.parse()
    }
}

impl From<BackupId> for String {
    fn from(id: BackupId) -> String {
        id.0
    }
}

impl fmt::Display for BackupId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// All about a backup but its files.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Record {
    /// Its name.
    pub id: BackupId,
    /// Of the server it was taken from.
    #[serde(with = "crate::decimal")]
    pub system_identifier: u64,
    /// `server_version_num` of that server.
    pub postgresql_version: u32,
    /// Whether the cluster's pages carry checksums.
    pub data_checksums: bool,
    /// When it was asked for.
    pub started_at: DateTime<Utc>,
    /// When the record was written.
    pub finished_at: DateTime<Utc>,
    /// The timeline it starts on.
    pub timeline: TimelineId,
    /// The redo position of its checkpoint: recovery starts here.
    pub start_lsn: Lsn,
    /// The timeline it stops on; the same, or the backup would have been given up.
    pub stop_timeline: TimelineId,
    /// The end of the WAL without which it is not consistent.
    pub stop_lsn: Lsn,
    /// Where it was taken from, `host:port`.
    pub source: String,
    /// What the person who asked for it wrote.
    #[serde(default)]
    pub note: Option<String>,
    /// The backup whose frames it was compared with.
    #[serde(default)]
    pub parent: Option<BackupId>,
    /// Tablespaces besides the two that lie in the data directory.
    pub tablespaces: Vec<Tablespace>,
    /// The list of files.
    pub files: ObjectSummary,
    /// How many files and directories there are.
    pub file_count: u64,
    /// Bytes of all files, as they lie in a data directory.
    pub size_bytes: u64,
    /// The maps, in the order of their numbers.
    pub maps: Vec<ObjectSummary>,
    /// Every pack that holds something of this backup, whoever wrote it.
    pub packs: Vec<PackUse>,
    /// Bytes of the packs, maps and lists that this backup added to the repository.
    pub stored_bytes: u64,
    /// Plain bytes that were there already, in frames of earlier backups.
    pub shared_bytes: u64,
    /// Pages whose checksum does not hold although no WAL mends them: they are corrupt on the server.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub corrupt_pages: Vec<CorruptPage>,
    /// There were more corrupt pages than are listed.
    #[serde(default)]
    pub corrupt_pages_total: u64,
    /// To whom its list, its maps and its own packs are encrypted: the fingerprint of the recipients. Absent where they are
    /// plain.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub encrypted_to: Option<String>,
}

/// An object that belongs to one backup only.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ObjectSummary {
    /// Bytes stored.
    pub size: u64,
    /// Of the stored bytes.
    pub sha256: Checksum,
}

/// A pack as one backup uses it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PackUse {
    /// Which.
    pub pack: PackName,
    /// Bytes stored.
    pub size: u64,
    /// Of the stored bytes.
    pub sha256: Checksum,
    /// Plain bytes of all its frames.
    pub plain_bytes: u64,
    /// Plain bytes of them that this backup uses.
    pub used_bytes: u64,
    /// To whom its frames are encrypted, as in [`Record::encrypted_to`]. Absent where they are plain.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub encrypted_to: Option<String>,
}

impl PackUse {
    /// Whether later backups should go on referring to it: less than half in use, its frames are better stored anew.
    pub fn is_worth_keeping(&self) -> bool {
        self.used_bytes.saturating_mul(2) >= self.plain_bytes
    }
}

/// A tablespace.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tablespace {
    /// Its OID, which is the name of its link in pg_tblspc.
    pub oid: u32,
    /// The directory it was in on the server.
    pub location: String,
}

/// A page that was corrupt on the server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CorruptPage {
    /// The file.
    pub path: String,
    /// The block in the file.
    pub block: u32,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_times() {
        let now = "2026-01-02T03:04:05.9Z".parse().unwrap();
        assert_eq!(BackupId::at(now).as_str(), "20260102T030405Z");
        assert_eq!("20260102T030405Z".parse(), Ok(BackupId::at(now)));
        assert_eq!(BackupId::at(now).time().to_rfc3339(), "2026-01-02T03:04:05+00:00");
        for text in ["", "latest", "../../etc", "20260102T030405", "20261302T030405Z", "20260102T030405Zx"] {
            assert!(text.parse::<BackupId>().is_err(), "{text}");
        }
    }
}
