//! Key names: the only place that knows them. `docs/format.md` lists them for people.

use pgformat::{Lsn, SegmentName, SegmentSize, TimelineId};
use store::{Directory, Key};

use crate::crypt::Purpose;
use crate::pack::PackName;
use crate::{BackupId, Error};

/// Where a timeline says which of its WAL was removed on purpose.
pub(crate) const EXPIRED: &str = "expired";

/// The names below one cluster.
#[derive(Debug, Clone)]
pub(crate) struct Layout {
    cluster: String,
}

/// What we build from checked parts is a valid key; a cluster name too long to make one is the only way to fail.
fn key(text: String) -> Result<Key, Error> {
    Key::new(text).map_err(|invalid| Error::ClusterName(invalid.0))
}

fn directory(text: String) -> Result<Directory, Error> {
    Directory::new(text).map_err(|invalid| Error::ClusterName(invalid.0))
}

pub(crate) fn repository() -> Result<Key, Error> {
    key("repository.json".to_owned())
}

impl Layout {
    pub(crate) fn new(cluster: &str) -> Result<Layout, Error> {
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
        let valid = !cluster.is_empty()
            && cluster.len() <= 100
            && cluster.chars().all(plain)
            && !cluster.starts_with('.');
        if valid {
            Ok(Layout { cluster: cluster.to_owned() })
        } else {
            Err(Error::ClusterName(cluster.to_owned()))
        }
    }

    pub(crate) fn name(&self) -> &str {
        &self.cluster
    }

    pub(crate) fn identity(&self) -> Result<Key, Error> {
        key(format!("{}/cluster.json", self.cluster))
    }

    pub(crate) fn wal(&self) -> Result<Directory, Error> {
        directory(format!("{}/wal", self.cluster))
    }

    pub(crate) fn history(&self, timeline: TimelineId) -> Result<Key, Error> {
        key(format!("{}/wal/{}", self.cluster, timeline.history_name()))
    }

    pub(crate) fn timeline(&self, timeline: TimelineId) -> Result<Directory, Error> {
        directory(format!("{}/wal/{:08X}", self.cluster, timeline.get()))
    }

    pub(crate) fn holes(&self, timeline: TimelineId) -> Result<Directory, Error> {
        directory(format!("{}/wal/{:08X}/holes", self.cluster, timeline.get()))
    }

    pub(crate) fn hole(&self, timeline: TimelineId, from: Lsn, to: Lsn) -> Result<Key, Error> {
        key(format!("{}/wal/{:08X}/holes/{}.json", self.cluster, timeline.get(), range_name(from, to)))
    }

    pub(crate) fn all_expired(&self, timeline: TimelineId) -> Result<Directory, Error> {
        directory(format!("{}/wal/{:08X}/{EXPIRED}", self.cluster, timeline.get()))
    }

    pub(crate) fn expired(&self, timeline: TimelineId, from: Lsn, to: Lsn) -> Result<Key, Error> {
        key(format!("{}/wal/{:08X}/{EXPIRED}/{}.json", self.cluster, timeline.get(), range_name(from, to)))
    }

    fn log(&self, name: SegmentName, size: SegmentSize) -> String {
        format!("{}/wal/{:08X}/{:08X}", self.cluster, name.timeline.get(), name.number / size.per_log())
    }

    pub(crate) fn segment(&self, name: SegmentName, size: SegmentSize) -> Result<Key, Error> {
        key(format!("{}/{}.zst", self.log(name, size), name.file_name(size)))
    }

    pub(crate) fn pieces(&self, name: SegmentName, size: SegmentSize) -> Result<Directory, Error> {
        directory(format!("{}/{}", self.log(name, size), name.file_name(size)))
    }

    pub(crate) fn piece(
        &self,
        name: SegmentName,
        size: SegmentSize,
        from: Lsn,
        to: Lsn,
    ) -> Result<Key, Error> {
        key(format!("{}/{}/{}.zst", self.log(name, size), name.file_name(size), range_name(from, to)))
    }

    pub(crate) fn backups(&self) -> Result<Directory, Error> {
        directory(format!("{}/backups", self.cluster))
    }

    pub(crate) fn backup(&self, id: &BackupId) -> Result<Directory, Error> {
        directory(format!("{}/backups/{id}", self.cluster))
    }

    pub(crate) fn record(&self, id: &BackupId) -> Result<Key, Error> {
        key(format!("{}/backups/{id}/record.json", self.cluster))
    }

    pub(crate) fn files(&self, id: &BackupId) -> Result<Key, Error> {
        key(format!("{}/backups/{id}/files.zst", self.cluster))
    }

    pub(crate) fn map(&self, id: &BackupId, number: u32) -> Result<Key, Error> {
        key(format!("{}/backups/{id}/maps/{number}", self.cluster))
    }

    pub(crate) fn pack(&self, name: &PackName) -> Result<Key, Error> {
        key(format!("{}/backups/{}/packs/{}", self.cluster, name.backup, name.number))
    }

    pub(crate) fn keys(&self, id: &BackupId) -> Result<Directory, Error> {
        directory(format!("{}/backups/{id}/keys", self.cluster))
    }

    /// A key file. The first has no number; those written for later recipients count from 2.
    pub(crate) fn key(&self, id: &BackupId, purpose: Purpose, number: u32) -> Result<Key, Error> {
        let number = if number <= 1 { String::new() } else { format!(".{number}") };
        key(format!("{}/backups/{id}/keys/{purpose}{number}.age", self.cluster))
    }

    /// What an object's encryption is bound to, besides its key: its name below the cluster.
    pub(crate) fn context(&self, key: &Key) -> String {
        let name = key.as_str();
        name.strip_prefix(&format!("{}/", self.cluster)).unwrap_or(name).to_owned()
    }

    pub(crate) fn ledgers(&self, name: &str) -> Result<Directory, Error> {
        directory(format!("{}/state/verify/{name}", self.cluster))
    }

    /// `path` is a [`crate::ledger::LedgerName`]'s.
    pub(crate) fn ledger(&self, path: &str) -> Result<Key, Error> {
        key(format!("{}/state/verify/{path}", self.cluster))
    }

    pub(crate) fn lease(&self) -> Result<Key, Error> {
        key(format!("{}/state/lease.json", self.cluster))
    }

    pub(crate) fn waiting(&self) -> Result<Key, Error> {
        key(format!("{}/state/waiting.json", self.cluster))
    }

    pub(crate) fn slots(&self) -> Result<Key, Error> {
        key(format!("{}/state/slots.json", self.cluster))
    }

    pub(crate) fn verification(&self) -> Result<Key, Error> {
        key(format!("{}/state/verification.json", self.cluster))
    }

    pub(crate) fn pin(&self, id: &BackupId) -> Result<Key, Error> {
        key(format!("{}/backups/{id}/pin.json", self.cluster))
    }

    pub(crate) fn restores(&self) -> Result<Directory, Error> {
        directory(format!("{}/state/restores", self.cluster))
    }

    /// `name` is one that [`crate::state::RestoreHeartbeat`] was given.
    pub(crate) fn restore(&self, name: &str) -> Result<Key, Error> {
        key(format!("{}/state/restores/{name}.json", self.cluster))
    }

    pub(crate) fn heartbeats(&self) -> Result<Directory, Error> {
        directory(format!("{}/state/backups", self.cluster))
    }

    pub(crate) fn heartbeat(&self, id: &BackupId) -> Result<Key, Error> {
        key(format!("{}/state/backups/{id}.json", self.cluster))
    }
}

/// The number of a key file for this purpose, as [`Layout::key`] has it.
pub(crate) fn key_number(name: &str, purpose: Purpose) -> Option<u32> {
    match name.strip_prefix(purpose.as_str())?.strip_suffix(".age")? {
        "" => Some(1),
        number => number.strip_prefix('.')?.parse().ok().filter(|number| *number > 1),
    }
}

/// `<from>-<to>`, sixteen hexadecimal digits each, so that names sort as positions do.
pub(crate) fn range_name(from: Lsn, to: Lsn) -> String {
    format!("{:016X}-{:016X}", from.0, to.0)
}

/// The range in a name made by [`range_name`], with `suffix` behind it.
pub(crate) fn parse_range(name: &str, suffix: &str) -> Option<(Lsn, Lsn)> {
    let (from, to) = name.strip_suffix(suffix)?.split_once('-')?;
    let position =
        |digits: &str| (digits.len() == 16).then(|| u64::from_str_radix(digits, 16).ok()).flatten();
    let (from, to) = (Lsn(position(from)?), Lsn(position(to)?));
    (from < to).then_some((from, to))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_the_format() {
        let layout = Layout::new("pg_cluster").unwrap();
        let size = SegmentSize::DEFAULT;
        let name = SegmentName::containing(TimelineId::FIRST, Lsn(0x1_0200_0000), size);
        assert_eq!(
            layout.segment(name, size).unwrap().as_str(),
            "pg_cluster/wal/00000001/00000001/000000010000000100000002.zst"
        );
        assert_eq!(
            layout.piece(name, size, Lsn(0x1_0200_0000), Lsn(0x1_0200_0100)).unwrap().as_str(),
            "pg_cluster/wal/00000001/00000001/000000010000000100000002/0000000102000000-0000000102000100.zst"
        );
        assert_eq!(
            parse_range("0000000102000000-0000000102000100.zst", ".zst"),
            Some((Lsn(0x1_0200_0000), Lsn(0x1_0200_0100)))
        );
        assert_eq!(parse_range("0000000102000000-0000000102000000.zst", ".zst"), None);
    }

    #[test]
    fn cluster_names_stay_inside() {
        for name in ["", "..", "a/b", ".hidden", "a b", "ü"] {
            assert!(Layout::new(name).is_err(), "{name:?}");
        }
    }
}
