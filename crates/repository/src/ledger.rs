//! The verify ledger: which objects were read and found whole, so that the next verification need not read them all again.
//!
//! It lies under `state/` in small documents, one for each backup's packs, for each 4 GiB of a timeline's WAL, and for
//! history files. Losing it loses no data, only time: what it does not know is read.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use pgformat::{SegmentSize, TimelineId};
use serde::{Deserialize, Serialize};
use store::{Entry, Version};

use crate::codec::Checksum;
use crate::wal::WalObject;
use crate::{BackupId, Cluster, Error, document, layout};

/// A document longer than this is not one of ours: the packs of 20 TB take 64 MiB.
const LEDGER_BYTES_MAX: usize = 64 << 20;
/// How often two verifications may get in each other's way before one gives up remembering.
const REPLACE_ATTEMPTS_MAX: u32 = 5;

/// What one document of the ledger is about.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum LedgerName {
    /// History files.
    Histories,
    /// The packs that lie in a backup's directory, by number.
    Packs(BackupId),
    /// Segments and pieces of one 4 GiB of a timeline's WAL, by their names below it.
    Wal {
        /// The timeline.
        timeline: TimelineId,
        /// The segments' address divided by 4 GiB.
        log: u64,
    },
}

/// An object that was read and found whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Verified {
    /// Bytes stored.
    pub size: u64,
    /// Of the stored bytes.
    pub sha256: Checksum,
    /// When, in seconds since 1970; 0 when it has to be read again whatever else is read.
    pub at: u64,
}

/// One document of the ledger.
#[derive(Debug, Clone, Default)]
pub struct Ledger {
    /// By the object's name below what the document is about.
    pub objects: BTreeMap<String, Verified>,
    /// Why what was stored is ignored.
    pub ignored: Option<String>,
    version: Option<Version>,
}

#[derive(Serialize, Deserialize)]
struct LedgerDocument {
    /// A line for each object: name, size, SHA-256, time.
    objects: Vec<String>,
}

impl fmt::Display for Verified {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {}", self.size, self.sha256, self.at)
    }
}

impl FromStr for Verified {
    type Err = ();

    fn from_str(text: &str) -> Result<Verified, ()> {
        let parts: Vec<&str> = text.split(' ').collect();
        let [size, sha256, at] = parts[..] else { return Err(()) };
        let number = |text: &str| text.parse().map_err(|_not_a_number| ());
        let sha256 = sha256.parse().map_err(|_not_a_checksum| ())?;
        Ok(Verified { size: number(size)?, sha256, at: number(at)? })
    }
}

impl LedgerName {
    /// The document that knows this WAL object.
    pub fn of_wal(object: &WalObject, size: SegmentSize) -> LedgerName {
        LedgerName::Wal { timeline: object.name.timeline, log: object.name.number / size.per_log() }
    }

    /// `wal/<tli>-<log>.json` and so on, below the ledger's directory.
    fn path(&self) -> String {
        match self {
            LedgerName::Histories => "histories.json".to_owned(),
            LedgerName::Packs(id) => format!("backups/{id}.json"),
            LedgerName::Wal { timeline, log } => format!("wal/{:08X}-{log:08X}.json", timeline.get()),
        }
    }

    fn parse(directory: &str, name: &str) -> Option<LedgerName> {
        let name = name.strip_suffix(".json")?;
        match directory {
            "backups" => Some(LedgerName::Packs(name.parse().ok()?)),
            "wal" => {
                let (timeline, log) = name.split_once('-').filter(|_| name.len() == 17)?;
                let timeline = TimelineId::new(u32::from_str_radix(timeline, 16).ok()?)?;
                Some(LedgerName::Wal { timeline, log: u64::from_str_radix(log, 16).ok()? })
            }
            _ => None,
        }
    }
}

impl WalObject {
    /// Its name in the ledger: the segment's, and behind a slash the range of a piece.
    pub fn ledger_name(&self, size: SegmentSize) -> String {
        let segment = self.name.file_name(size);
        if self.whole {
            return segment;
        }
        format!("{segment}/{}", layout::range_name(self.range.from, self.range.to))
    }
}

impl Ledger {
    fn decode(key: &store::Key, bytes: &[u8]) -> Result<BTreeMap<String, Verified>, Error> {
        if bytes.len() > LEDGER_BYTES_MAX {
            return Err(Error::damaged(key, "it is longer than a ledger can be"));
        }
        let document: LedgerDocument = document::open("ledger", key, bytes)?;
        let entry = |line: &String| {
            let (name, verified) = line.split_once(' ')?;
            Some((name.to_owned(), verified.parse().ok()?))
        };
        let entries: Option<BTreeMap<_, _>> = document.objects.iter().map(entry).collect();
        entries.ok_or_else(|| Error::damaged(key, "one of its lines cannot be read"))
    }

    /// Takes in what another verification wrote meanwhile: the later look counts, but what we found damaged stays so.
    fn merge(&mut self, other: Ledger) {
        self.version = other.version;
        for (name, theirs) in other.objects {
            let ours = self.objects.entry(name).or_insert(theirs);
            if ours.at != 0 && theirs.at > ours.at {
                *ours = theirs;
            }
        }
    }
}

impl Cluster {
    /// One document of the ledger; an empty one where there is none, or none that can be read.
    pub async fn ledger(&self, name: &LedgerName) -> Result<Ledger, Error> {
        let key = self.layout.ledger(&name.path())?;
        let Some((bytes, version)) = self.store.read_version(&key).await? else {
            return Ok(Ledger::default());
        };
        let (objects, ignored) = match Ledger::decode(&key, &bytes) {
            Ok(objects) => (objects, None),
            Err(error) => (BTreeMap::new(), Some(error.to_string())),
        };
        Ok(Ledger { objects, ignored, version: Some(version) })
    }

    /// Stores one document of the ledger. Where somebody else wrote it meanwhile, both are joined.
    pub async fn put_ledger(&self, name: &LedgerName, ledger: &mut Ledger) -> Result<(), Error> {
        let key = self.layout.ledger(&name.path())?;
        for attempt in 1.. {
            let objects = ledger.objects.iter().map(|(name, verified)| format!("{name} {verified}"));
            let body = document::seal("ledger", &LedgerDocument { objects: objects.collect() })?;
            match self.store.replace(&key, ledger.version.as_ref(), body.into()).await {
                Err(store::Error::Changed { .. }) if attempt < REPLACE_ATTEMPTS_MAX => {
                    ledger.merge(self.ledger(name).await?);
                }
                result => {
                    ledger.version = Some(result?);
                    break;
                }
            }
        }
        Ok(())
    }

    /// The documents there are of the ledger, but for that of history files, which is never superfluous.
    pub async fn ledgers(&self) -> Result<Vec<LedgerName>, Error> {
        let mut names = Vec::new();
        for directory in ["backups", "wal"] {
            for entry in self.store.list(&self.layout.ledgers(directory)?).await? {
                if let Entry::Object { name, .. } = entry {
                    names.extend(LedgerName::parse(directory, &name));
                }
            }
        }
        Ok(names)
    }

    /// Forgets what one document says.
    pub async fn delete_ledger(&self, name: &LedgerName) -> Result<(), Error> {
        Ok(self.store.delete(&self.layout.ledger(&name.path())?).await?)
    }

    /// What names a document of the ledger in messages.
    pub fn ledger_key(&self, name: &LedgerName) -> Result<String, Error> {
        Ok(self.layout.ledger(&name.path())?.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Repository;
    use std::sync::Arc;
    use store::memory::MemoryStore;

    fn verified(at: u64) -> Verified {
        Verified { size: 7, sha256: Checksum::of(b"x"), at }
    }

    async fn cluster() -> Cluster {
        let store = Arc::new(MemoryStore::default());
        Repository::open_or_create(store, chrono::Utc::now()).await.unwrap().cluster("c").unwrap()
    }

    fn names() -> [LedgerName; 3] {
        let packs = LedgerName::Packs("20260102T030405Z".parse().unwrap());
        let wal = LedgerName::Wal { timeline: TimelineId::new(31).unwrap(), log: 0xAB };
        [LedgerName::Histories, packs, wal]
    }

    #[tokio::test]
    async fn what_was_remembered_comes_back_until_it_is_forgotten() {
        let cluster = cluster().await;
        for name in names() {
            let mut ledger = cluster.ledger(&name).await.unwrap();
            assert!(ledger.objects.is_empty() && ledger.ignored.is_none());
            ledger.objects.insert("a".into(), verified(5));
            cluster.put_ledger(&name, &mut ledger).await.unwrap();
            ledger.objects.insert("b/c".into(), verified(0));
            cluster.put_ledger(&name, &mut ledger).await.unwrap();
            assert_eq!(cluster.ledger(&name).await.unwrap().objects, ledger.objects);
        }
        assert_eq!(cluster.ledgers().await.unwrap(), names()[1..]);
        for name in names() {
            cluster.delete_ledger(&name).await.unwrap();
            assert!(cluster.ledger(&name).await.unwrap().objects.is_empty());
        }
    }

    #[tokio::test]
    async fn two_that_verify_at_once_join_what_they_know() {
        let cluster = cluster().await;
        let name = &names()[1];
        let (mut one, mut two) = (cluster.ledger(name).await.unwrap(), cluster.ledger(name).await.unwrap());
        for (object, at) in [("mine", 3), ("both", 9), ("damaged", 9)] {
            one.objects.insert(object.into(), verified(at));
        }
        for (object, at) in [("yours", 4), ("both", 5), ("damaged", 0)] {
            two.objects.insert(object.into(), verified(at));
        }
        cluster.put_ledger(name, &mut one).await.unwrap();
        cluster.put_ledger(name, &mut two).await.unwrap();
        let joined = cluster.ledger(name).await.unwrap().objects;
        let at: Vec<(&str, u64)> = joined.iter().map(|(name, known)| (name.as_str(), known.at)).collect();
        assert_eq!(at, [("both", 9), ("damaged", 0), ("mine", 3), ("yours", 4)]);
    }

    #[tokio::test]
    async fn a_damaged_or_unknown_one_is_ignored_and_written_anew() {
        let cluster = cluster().await;
        let name = &names()[2];
        let key = cluster.layout.ledger(&name.path()).unwrap();
        for nonsense in [&b"\xFF"[..], b"{}", br#"{"format": 9}"#] {
            let version = cluster.store.read_version(&key).await.unwrap().map(|(_, version)| version);
            cluster.store.replace(&key, version.as_ref(), nonsense.to_vec().into()).await.unwrap();
            let mut ledger = cluster.ledger(name).await.unwrap();
            assert!(ledger.objects.is_empty() && ledger.ignored.is_some());
            ledger.objects.insert("a".into(), verified(5));
            cluster.put_ledger(name, &mut ledger).await.unwrap();
            assert_eq!(cluster.ledger(name).await.unwrap().ignored, None);
        }
    }
}
