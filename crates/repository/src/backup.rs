//! Backups: packs, maps, the list of files, and the record over them.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use store::{Body, Entry, Key, Store};

use crate::codec::Checksum;
use crate::crypt::{BackupKeys, Purpose};
use crate::files::FileListReader;
use crate::layout::Layout;
use crate::map::Map;
use crate::pack::{FullPack, PackName};
use crate::record::{ObjectSummary, PackUse};
use crate::{BackupId, Cluster, Error, Record, document};

/// The backups there are, and the records that cannot be read.
#[derive(Debug, Default)]
pub struct Backups {
    /// Oldest first.
    pub records: Vec<Record>,
    /// Records that are there but damaged, each with what is wrong. Their backups can not be restored.
    pub unreadable: Vec<(BackupId, Error)>,
}

/// A backup's directory without a record: a backup that runs, or one that died.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Remains {
    /// The backup.
    pub id: BackupId,
    /// Its packs.
    pub packs: Vec<(PackName, u64)>,
    /// Its other objects.
    pub others: Vec<(String, u64)>,
    /// The key files that open its packs. As long as one of them is named they stay.
    pub frame_keys: Vec<(String, u64)>,
}

impl Remains {
    /// What of it can go, with the bytes of each, when these packs must stay: everything else, and what opens packs last.
    pub fn removable(&self, named: &BTreeSet<PackName>) -> Vec<(String, u64)> {
        let packs = self.packs.iter().filter(|(pack, _)| !named.contains(pack));
        let packs: Vec<(String, u64)> =
            packs.map(|(pack, size)| (format!("packs/{}", pack.number), *size)).collect();
        let keys = if packs.len() == self.packs.len() { self.frame_keys.as_slice() } else { &[] };
        self.others.iter().chain(&packs).chain(keys).cloned().collect()
    }
}

/// The names of a cluster's backups, where not even the repository's own documents can be read.
pub async fn names(store: &Arc<dyn Store>, cluster: &str) -> Result<Vec<BackupId>, Error> {
    let layout = Layout::new(cluster)?;
    let mut names = Vec::new();
    for entry in store.list(&layout.backups()?).await? {
        let Ok(id) = entry.name().parse() else { continue };
        if store.read_version(&layout.record(&id)?).await?.is_some() {
            names.push(id);
        }
    }
    Ok(names)
}

impl Cluster {
    /// The names of all backups, whether their records can be read or not.
    pub async fn backup_names(&self) -> Result<Vec<BackupId>, Error> {
        names(&self.store, self.name()).await
    }

    /// Stores a pack durably. `keys` are those its frames were encrypted with.
    pub async fn put_pack(&self, pack: FullPack, keys: Option<&BackupKeys>) -> Result<PackUse, Error> {
        let (pack, sha256) = tokio::task::spawn_blocking(move || {
            let checksum = pack.checksum();
            (pack, checksum)
        })
        .await
        .map_err(|cause| store::Error::Unavailable {
            action: "hash",
            key: "a pack".to_owned(),
            source: std::io::Error::other(cause),
        })?;
        let size = pack.size();
        let key = self.layout.pack(&pack.name)?;
        let summary = PackUse {
            size,
            sha256,
            plain_bytes: pack.plain_bytes,
            used_bytes: pack.plain_bytes,
            encrypted_to: keys.map(|keys| keys.encrypted_to.clone()),
            pack: pack.name,
        };
        self.store.create(&key, pack.bytes.into()).await?;
        Ok(summary)
    }

    /// Stores a map durably, encrypted where there are keys.
    pub async fn put_map(
        &self,
        id: &BackupId,
        number: u32,
        map: &Map,
        keys: Option<&BackupKeys>,
    ) -> Result<ObjectSummary, Error> {
        let key = self.layout.map(id, number)?;
        self.put_object(&key, map.encode().map_err(|source| unavailable(&key, source))?, keys).await
    }

    /// Stores the list of files durably, encrypted where there are keys.
    pub async fn put_files(
        &self,
        id: &BackupId,
        list: Vec<u8>,
        keys: Option<&BackupKeys>,
    ) -> Result<ObjectSummary, Error> {
        self.put_object(&self.layout.files(id)?, list, keys).await
    }

    async fn put_object(
        &self,
        key: &Key,
        plain: Vec<u8>,
        keys: Option<&BackupKeys>,
    ) -> Result<ObjectSummary, Error> {
        let bytes = match keys {
            Some(keys) => keys.documents.seal(&self.layout.context(key), &plain),
            None => Ok(plain),
        }
        .map_err(|source| unavailable(key, source))?;
        let summary = ObjectSummary { size: bytes.len() as u64, sha256: Checksum::of(&bytes) };
        self.store.create(key, Body::from(bytes)).await?;
        Ok(summary)
    }

    /// Makes the backup exist. Everything it refers to must be durable; the argument proves it of the WAL.
    pub async fn publish(&self, record: &Record, durable: &crate::wal::Durable) -> Result<(), Error> {
        let key = self.layout.record(&record.id)?;
        if durable.timeline() != record.stop_timeline || durable.lsn() < record.stop_lsn {
            return Err(Error::damaged(&key, "its WAL is not durable yet, so it cannot be published"));
        }
        self.check_packs(record).await?;
        self.create_same(&key, document::seal("backup", record)?.into()).await
    }

    /// Sees that the keys of a backup, and of every pack it uses, are there, and opens them where the process has an
    /// identity.
    pub async fn check_keys(&self, record: &Record) -> Result<(), Error> {
        if self.has_identity() {
            return self.frame_keys(record).await.map(drop);
        }
        self.check_key_files(record).await
    }

    async fn check_key_files(&self, record: &Record) -> Result<(), Error> {
        let encrypted = record.packs.iter().filter(|pack| pack.encrypted_to.is_some());
        let mut keys: BTreeSet<(&BackupId, &str)> =
            encrypted.map(|pack| (&pack.pack.backup, Purpose::Frames.as_str())).collect();
        keys.extend(record.encrypted_to.as_ref().map(|_| (&record.id, Purpose::Documents.as_str())));
        for (writer, purpose) in keys {
            if self.key_files(writer).await?.iter().all(|(name, _)| !name.starts_with(purpose)) {
                let key = format!("{}/{purpose}.age", self.layout.keys(writer)?.as_str());
                return Err(Error::Missing { key, needed_by: format!("backup {}", record.id) });
            }
        }
        Ok(())
    }

    /// A backup that was taken for dead may have lost packs, or what opens them; then it is dead.
    async fn check_packs(&self, record: &Record) -> Result<(), Error> {
        self.check_key_files(record).await?;
        let writers: BTreeSet<&BackupId> = record.packs.iter().map(|pack| &pack.pack.backup).collect();
        for writer in writers {
            let sizes: BTreeMap<u32, u64> = self.pack_sizes(writer).await?.into_iter().collect();
            for pack in record.packs.iter().filter(|pack| pack.pack.backup == *writer) {
                if sizes.get(&pack.pack.number) != Some(&pack.size) {
                    let key = self.layout.pack(&pack.pack)?.to_string();
                    return Err(Error::Missing { key, needed_by: format!("backup {}", record.id) });
                }
            }
        }
        Ok(())
    }

    /// All backups.
    pub async fn backups(&self) -> Result<Backups, Error> {
        let mut backups = Backups::default();
        for id in self.backup_ids().await? {
            match self.record(&id).await {
                Ok(record) => backups.records.push(record),
                Err(Error::NoBackup(_)) => {}
                Err(error @ (Error::Damaged { .. } | Error::UnknownFormat { .. })) => {
                    backups.unreadable.push((id, error))
                }
                Err(error) => return Err(error),
            }
        }
        Ok(backups)
    }

    /// Also those that only one of several repositories has: their records name packs that must not be removed.
    async fn backup_ids(&self) -> Result<Vec<BackupId>, Error> {
        let entries = self.store.list_any(&self.layout.backups()?).await?;
        Ok(entries.iter().filter_map(|entry| entry.name().parse().ok()).collect())
    }

    /// Whether every one of several repositories has the backup's record, and so the backup.
    pub async fn is_everywhere(&self, id: &BackupId) -> Result<bool, Error> {
        match self.store.size(&self.layout.record(id)?).await {
            Err(store::Error::NotFound { .. }) => Ok(false),
            size => Ok(size.map(|_bytes| true)?),
        }
    }

    /// The record of one backup.
    pub async fn record(&self, id: &BackupId) -> Result<Record, Error> {
        let key = self.layout.record(id)?;
        let bytes = match self.store.read(&key, None).await {
            Err(store::Error::NotFound { .. }) => return Err(Error::NoBackup(id.to_string())),
            bytes => bytes?,
        };
        let record: Record = document::open("backup", &key, &bytes)?;
        if record.id == *id {
            Ok(record)
        } else {
            Err(Error::damaged(&key, format!("it is the record of {}", record.id)))
        }
    }

    /// The backup's list of files.
    pub async fn files(&self, record: &Record) -> Result<FileListReader, Error> {
        let key = self.layout.files(&record.id)?;
        let bytes = self.read_summed(&key, &record.files, &record.id).await?;
        FileListReader::new(key.clone(), self.open_document(record, &key, bytes).await?)
    }

    /// One map of the backup.
    pub async fn map(&self, record: &Record, number: u32) -> Result<Map, Error> {
        let (key, bytes) = self.stored_map(record, number).await?;
        let plain = self.open_document(record, &key, bytes).await?;
        Map::decode(plain).map_err(|reason| Error::damaged(&key, reason))
    }

    async fn stored_map(&self, record: &Record, number: u32) -> Result<(Key, Bytes), Error> {
        let key = self.layout.map(&record.id, number)?;
        let summary = usize::try_from(number).ok().and_then(|number| record.maps.get(number));
        let summary = summary.ok_or_else(|| Error::damaged(&key, "the record does not name it"))?;
        let bytes = self.read_summed(&key, summary, &record.id).await?;
        Ok((key, bytes))
    }

    /// Compares the list and the maps of a backup with its record, without opening them.
    pub async fn check_documents(&self, record: &Record) -> Result<(), Error> {
        self.read_summed(&self.layout.files(&record.id)?, &record.files, &record.id).await?;
        for (number, _) in (0u32..).zip(&record.maps) {
            self.stored_map(record, number).await?;
        }
        Ok(())
    }

    async fn read_summed(&self, key: &Key, summary: &ObjectSummary, id: &BackupId) -> Result<Bytes, Error> {
        let bytes = self
            .store
            .read(key, None)
            .await
            .map_err(|error| Error::from(error).needed_by(format!("backup {id}")))?;
        let found = Checksum::of(&bytes);
        if found == summary.sha256 {
            Ok(bytes)
        } else {
            Err(Error::damaged(key, format!("its checksum is {found}, not {}", summary.sha256)))
        }
    }

    /// A range of a pack. Fewer bytes than asked for are damage: the pack is truncated.
    pub async fn read_pack(
        &self,
        name: &PackName,
        range: Range<u64>,
        needed_by: &BackupId,
    ) -> Result<Bytes, Error> {
        let key = self.layout.pack(name)?;
        let wanted = range.end.saturating_sub(range.start);
        let bytes = self.store.read(&key, Some(range)).await;
        let bytes = bytes.map_err(|error| Error::from(error).needed_by(format!("backup {needed_by}")))?;
        if bytes.len() as u64 == wanted {
            Ok(bytes)
        } else {
            Err(Error::damaged(&key, "it is shorter than its maps say"))
        }
    }

    /// The packs that lie in a backup's directory: number and bytes.
    pub async fn pack_sizes(&self, id: &BackupId) -> Result<Vec<(u32, u64)>, Error> {
        let directory =
            self.layout.backup(id)?.directory("packs").map_err(|invalid| Error::ClusterName(invalid.0))?;
        Ok(pack_numbers(&self.store.list(&directory).await?))
    }

    /// What names a list of files in messages.
    pub fn files_key(&self, id: &BackupId) -> Result<String, Error> {
        Ok(self.layout.files(id)?.to_string())
    }

    /// What names a map in messages.
    pub fn map_key(&self, id: &BackupId, number: u32) -> Result<String, Error> {
        Ok(self.layout.map(id, number)?.to_string())
    }

    /// What names a record in messages.
    pub fn record_key(&self, id: &BackupId) -> Result<String, Error> {
        Ok(self.layout.record(id)?.to_string())
    }

    /// What names a pack in messages.
    pub fn pack_key(&self, name: &PackName) -> Result<String, Error> {
        Ok(self.layout.pack(name)?.to_string())
    }

    /// Removes a backup's record: from then on the backup does not exist.
    pub async fn unpublish(&self, id: &BackupId) -> Result<(), Error> {
        Ok(self.store.delete(&self.layout.record(id)?).await?)
    }

    /// Backup directories without a record.
    pub async fn remains(&self) -> Result<Vec<Remains>, Error> {
        let mut remains = Vec::new();
        for id in self.backup_ids().await? {
            if self.store.read_version(&self.layout.record(&id)?).await?.is_none() {
                remains.push(self.remains_of(id).await?);
            }
        }
        Ok(remains)
    }

    async fn remains_of(&self, id: BackupId) -> Result<Remains, Error> {
        let directory = self.layout.backup(&id)?;
        let inside = |name: &str| directory.directory(name).map_err(|invalid| Error::ClusterName(invalid.0));
        let keys = files(self.store.list_any(&self.layout.keys(&id)?).await?);
        let keys = keys.into_iter().map(|(name, size)| (format!("keys/{name}"), size));
        let (frame_keys, mut others): (Vec<_>, Vec<_>) =
            keys.partition(|(name, _)| name.starts_with("keys/frames"));
        for (prefix, level) in [("", directory.clone()), ("maps/", inside("maps")?)] {
            for entry in self.store.list_any(&level).await? {
                if let Entry::Object { name, size } = entry {
                    others.push((format!("{prefix}{name}"), size));
                }
            }
        }
        let packs = pack_numbers(&self.store.list_any(&inside("packs")?).await?);
        let packs =
            packs.into_iter().map(|(number, size)| (PackName { backup: id.clone(), number }, size)).collect();
        Ok(Remains { id, packs, others, frame_keys })
    }

    /// Removes what a dead backup left, but not the packs that some record names.
    pub async fn remove_remains(&self, remains: &Remains, named: &BTreeSet<PackName>) -> Result<u64, Error> {
        let directory = self.layout.backup(&remains.id)?;
        let mut freed = 0;
        for (name, size) in remains.removable(named) {
            let key = directory.key(&name).map_err(|invalid| Error::ClusterName(invalid.0))?;
            self.store.delete(&key).await?;
            freed += size;
        }
        Ok(freed)
    }

    /// The key files in a backup's directory, with their sizes.
    async fn key_files(&self, id: &BackupId) -> Result<Vec<(String, u64)>, Error> {
        Ok(files(self.store.list(&self.layout.keys(id)?).await?))
    }

    /// Every backup's directory, whether it has a record or not.
    pub async fn backup_directories(&self) -> Result<Vec<BackupId>, Error> {
        self.backup_ids().await
    }
}

fn files(entries: Vec<Entry>) -> Vec<(String, u64)> {
    let file = |entry: Entry| match entry {
        Entry::Object { name, size } => Some((name, size)),
        Entry::Directory { .. } => None,
    };
    entries.into_iter().filter_map(file).collect()
}

fn pack_numbers(entries: &[Entry]) -> Vec<(u32, u64)> {
    let size = |entry: &Entry| match entry {
        Entry::Object { name, size } => Some((name.parse().ok()?, *size)),
        Entry::Directory { .. } => None,
    };
    entries.iter().filter_map(size).collect()
}

fn unavailable(key: &Key, source: std::io::Error) -> Error {
    store::Error::Unavailable { action: "encode", key: key.to_string(), source }.into()
}
