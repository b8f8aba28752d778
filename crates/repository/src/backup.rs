//! Backups: packs, maps, the list of files, and the record over them.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use bytes::Bytes;
use store::{Body, Entry, Key};

use crate::codec::Checksum;
use crate::files::FileListReader;
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
}

impl Cluster {
    /// Stores a pack durably.
    pub async fn put_pack(&self, pack: FullPack) -> Result<PackUse, Error> {
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
            pack: pack.name,
        };
        self.store.create(&key, pack.bytes.into()).await?;
        Ok(summary)
    }

    /// Stores a map durably.
    pub async fn put_map(&self, id: &BackupId, number: u32, map: &Map) -> Result<ObjectSummary, Error> {
        let key = self.layout.map(id, number)?;
        self.put_object(&key, map.encode().map_err(|source| unavailable(&key, source))?).await
    }

    /// Stores the list of files durably.
    pub async fn put_files(&self, id: &BackupId, list: Vec<u8>) -> Result<ObjectSummary, Error> {
        self.put_object(&self.layout.files(id)?, list).await
    }

    async fn put_object(&self, key: &Key, bytes: Vec<u8>) -> Result<ObjectSummary, Error> {
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

    /// A backup that was taken for dead may have lost packs; then it is dead.
    async fn check_packs(&self, record: &Record) -> Result<(), Error> {
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

    async fn backup_ids(&self) -> Result<Vec<BackupId>, Error> {
        let entries = self.store.list(&self.layout.backups()?).await?;
        Ok(entries.iter().filter_map(|entry| entry.name().parse().ok()).collect())
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
        FileListReader::new(key, bytes)
    }

    /// One map of the backup.
    pub async fn map(&self, record: &Record, number: u32) -> Result<Map, Error> {
        let key = self.layout.map(&record.id, number)?;
        let summary = usize::try_from(number).ok().and_then(|number| record.maps.get(number));
        let summary = summary.ok_or_else(|| Error::damaged(&key, "the record does not name it"))?;
        let bytes = self.read_summed(&key, summary, &record.id).await?;
        Map::decode(bytes).map_err(|reason| Error::damaged(&key, reason))
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

    /// A whole pack, compared with what the record says of it.
    pub async fn check_pack(&self, pack: &PackUse, needed_by: &BackupId) -> Result<(), Error> {
        let bytes = self.read_pack(&pack.pack, 0..pack.size, needed_by).await?;
        let expected = pack.sha256;
        let found = tokio::task::spawn_blocking(move || Checksum::of(&bytes)).await;
        let key = self.layout.pack(&pack.pack)?;
        match found {
            Ok(found) if found == expected => Ok(()),
            Ok(found) => Err(Error::damaged(&key, format!("its checksum is {found}, not {expected}"))),
            Err(cause) => Err(unavailable(&key, std::io::Error::other(cause))),
        }
    }

    /// The packs that lie in a backup's directory: number and bytes.
    pub async fn pack_sizes(&self, id: &BackupId) -> Result<Vec<(u32, u64)>, Error> {
        let directory =
            self.layout.backup(id)?.directory("packs").map_err(|invalid| Error::ClusterName(invalid.0))?;
        let entries = self.store.list(&directory).await?;
        let size = |entry: &Entry| match entry {
            Entry::Object { name, size } => Some((name.parse().ok()?, *size)),
            Entry::Directory { .. } => None,
        };
        Ok(entries.iter().filter_map(size).collect())
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
        let mut others = Vec::new();
        for (prefix, level) in [("", directory.clone()), ("maps/", inside("maps")?)] {
            for entry in self.store.list(&level).await? {
                if let Entry::Object { name, size } = entry {
                    others.push((format!("{prefix}{name}"), size));
                }
            }
        }
        let packs = self.pack_sizes(&id).await?;
        let packs =
            packs.into_iter().map(|(number, size)| (PackName { backup: id.clone(), number }, size)).collect();
        Ok(Remains { id, packs, others })
    }

    /// Removes what a dead backup left, but not the packs that some record names.
    pub async fn remove_remains(&self, remains: &Remains, named: &BTreeSet<PackName>) -> Result<u64, Error> {
        let directory = self.layout.backup(&remains.id)?;
        let mut freed = 0;
        for (name, size) in &remains.others {
            let key = directory.key(name).map_err(|invalid| Error::ClusterName(invalid.0))?;
            self.store.delete(&key).await?;
            freed += size;
        }
        for (pack, size) in remains.packs.iter().filter(|(pack, _)| !named.contains(pack)) {
            self.store.delete(&self.layout.pack(pack)?).await?;
            freed += size;
        }
        Ok(freed)
    }
}

fn unavailable(key: &Key, source: std::io::Error) -> Error {
    store::Error::Unavailable { action: "encode", key: key.to_string(), source }.into()
}
