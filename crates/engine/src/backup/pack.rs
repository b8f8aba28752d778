//! Finishing in order: frames into packs, places into maps, files into the list.

use std::collections::BTreeMap;
use std::sync::Arc;

use repository::crypt::BackupKeys;
use repository::files::{FileEntry, FileKind, FileListWriter};
use repository::map::{MapBuilder, Place};
use repository::pack::{Frame, PackBuilder, PackName};
use repository::record::{CorruptPage, ObjectSummary, PackUse};
use repository::{BackupId, Cluster, Record};
use tokio::task::JoinSet;

use super::work::{Compressed, Done, FileFacts, Outcome, Stored};
use crate::Error;

/// Packs that are being written at once, at most. Each is in memory as a whole.
const PACKS_IN_FLIGHT_MAX: usize = 3;
/// Pages with a wrong checksum that are listed, and read again, one by one.
const SUSPECTS_LISTED_MAX: usize = 1000;

/// Everything but the record.
pub(super) struct Packed {
    pub(super) files: ObjectSummary,
    pub(super) file_count: u64,
    pub(super) size_bytes: u64,
    pub(super) maps: Vec<ObjectSummary>,
    pub(super) packs: Vec<PackUse>,
    pub(super) stored_bytes: u64,
    pub(super) shared_bytes: u64,
    /// Pages whose checksum does not hold although their LSN does not excuse it.
    pub(super) suspects: Vec<CorruptPage>,
    /// There may be more than are listed.
    pub(super) suspects_total: u64,
}

/// Puts what was worked on into the repository.
pub(super) struct Packer {
    cluster: Cluster,
    id: BackupId,
    keys: Option<Arc<BackupKeys>>,
    list: FileListWriter,
    map: MapBuilder,
    pack: PackBuilder,
    /// Places of the large file whose chunks are coming.
    places: Vec<(u32, Place)>,
    packs_in_flight: JoinSet<Result<PackUse, repository::Error>>,
    own_packs: Vec<PackUse>,
    /// Plain bytes of this backup in each pack, its own and earlier ones.
    used: BTreeMap<PackName, u64>,
    packed: Packed,
}

impl Packer {
    pub(super) fn new(
        cluster: &Cluster,
        id: &BackupId,
        keys: Option<Arc<BackupKeys>>,
    ) -> Result<Packer, Error> {
        let packed = Packed {
            files: ObjectSummary { size: 0, sha256: repository::codec::Checksum([0; 32]) },
            file_count: 0,
            size_bytes: 0,
            maps: Vec::new(),
            packs: Vec::new(),
            stored_bytes: 0,
            shared_bytes: 0,
            suspects: Vec::new(),
            suspects_total: 0,
        };
        Ok(Packer {
            cluster: cluster.clone(),
            keys,
            list: FileListWriter::new().map_err(encoding)?,
            map: MapBuilder::default(),
            pack: PackBuilder::new(PackName { backup: id.clone(), number: 0 })?,
            places: Vec::new(),
            packs_in_flight: JoinSet::new(),
            own_packs: Vec::new(),
            used: BTreeMap::new(),
            packed,
            id: id.clone(),
        })
    }

    /// Takes the next thing that was done, in order.
    pub(super) async fn push(&mut self, done: Done) -> Result<(), Error> {
        self.note_bad_pages(done.bad_pages);
        match done.outcome {
            Outcome::Listed(entry) => self.list_entry(&entry),
            Outcome::Empty(facts) => self.finish_file(facts, &[]).await,
            Outcome::Known { facts, place } => {
                let len = u32::try_from(facts.size).unwrap_or(u32::MAX);
                self.packed.shared_bytes += facts.size;
                self.finish_file(facts, &[(len, place)]).await
            }
            Outcome::Chunk(Stored::Shared(place)) => {
                self.packed.shared_bytes += u64::from(place.frame.plain);
                self.places.push((place.frame.plain, place));
                Ok(())
            }
            Outcome::Chunk(Stored::New(compressed)) => {
                let (pack, frame) = self.put_frame(compressed).await?;
                self.places.push((frame.plain, Place { pack, frame, at: 0, fingerprint: None }));
                Ok(())
            }
            Outcome::Bundle(compressed, parts) => {
                let (pack, frame) = self.put_frame(compressed).await?;
                for part in parts {
                    let len = u32::try_from(part.facts.size).unwrap_or(u32::MAX);
                    let place =
                        Place { pack: pack.clone(), frame, at: part.at, fingerprint: Some(part.fingerprint) };
                    self.finish_file(part.facts, &[(len, place)]).await?;
                }
                Ok(())
            }
            Outcome::EndOfFile(facts) => {
                let places = std::mem::take(&mut self.places);
                self.finish_file(facts, &places).await
            }
        }
    }

    fn note_bad_pages(&mut self, pages: Vec<super::work::BadPage>) {
        for page in pages {
            self.packed.suspects_total += 1;
            if self.packed.suspects.len() < SUSPECTS_LISTED_MAX {
                self.packed.suspects.push(CorruptPage { path: page.path, block: page.block });
            }
        }
    }

    fn list_entry(&mut self, entry: &FileEntry) -> Result<(), Error> {
        self.packed.file_count += 1;
        self.list.push(entry).map_err(encoding)
    }

    async fn finish_file(&mut self, facts: FileFacts, places: &[(u32, Place)]) -> Result<(), Error> {
        for (len, place) in places {
            *self.used.entry(place.pack.clone()).or_default() += u64::from(*len);
        }
        let map = match places {
            [] => None,
            _ => Some(
                u32::try_from(self.packed.maps.len())
                    .map_err(|_too_many| Error::BadBackup("it needs too many maps".into()))?,
            ),
        };
        if map.is_some() {
            self.map.push(facts.path.clone(), places);
        }
        self.packed.size_bytes += facts.size;
        let kind = FileKind::File { size: facts.size, mtime: facts.mtime, crc32c: facts.crc32c, map };
        self.list_entry(&FileEntry { path: facts.path, kind, mode: facts.mode })?;
        if self.map.is_full() { self.put_map().await } else { Ok(()) }
    }

    async fn put_map(&mut self) -> Result<(), Error> {
        let map = std::mem::take(&mut self.map).finish();
        let number = u32::try_from(self.packed.maps.len())
            .map_err(|_too_many| Error::BadBackup("it needs too many maps".into()))?;
        let summary = self.cluster.put_map(&self.id, number, &map, self.keys.as_deref()).await?;
        self.packed.stored_bytes += summary.size;
        self.packed.maps.push(summary);
        Ok(())
    }

    async fn put_frame(&mut self, compressed: Compressed) -> Result<(PackName, Frame), Error> {
        if self.pack.is_full() {
            let number = self.pack.name().number + 1;
            self.put_pack(PackBuilder::new(PackName { backup: self.id.clone(), number })?).await?;
        }
        let frame =
            self.pack.push(&compressed.stored, compressed.plain, compressed.checksum, compressed.fingerprint);
        Ok((self.pack.name().clone(), frame))
    }

    async fn put_pack(&mut self, next: PackBuilder) -> Result<(), Error> {
        while self.packs_in_flight.len() >= PACKS_IN_FLIGHT_MAX {
            self.join_pack().await?;
        }
        let full = std::mem::replace(&mut self.pack, next).finish();
        let (cluster, keys) = (self.cluster.clone(), self.keys.clone());
        self.packs_in_flight.spawn(async move { cluster.put_pack(full, keys.as_deref()).await });
        Ok(())
    }

    async fn join_pack(&mut self) -> Result<(), Error> {
        if let Some(done) = self.packs_in_flight.join_next().await {
            let pack = done.map_err(|cause| encoding(std::io::Error::other(cause)))??;
            self.packed.stored_bytes += pack.size;
            self.own_packs.push(pack);
        }
        Ok(())
    }

    /// Everything came. When this returns, all of it is durable.
    pub(super) async fn finish(mut self, parent: Option<&Record>) -> Result<Packed, Error> {
        if !self.pack.is_empty() {
            let unused = PackBuilder::new(self.pack.name().clone())?;
            self.put_pack(unused).await?;
        }
        while !self.packs_in_flight.is_empty() {
            self.join_pack().await?;
        }
        if !self.map.is_empty() {
            self.put_map().await?;
        }
        let list = self.list.finish().map_err(encoding)?;
        self.packed.files = self.cluster.put_files(&self.id, list, self.keys.as_deref()).await?;
        self.packed.stored_bytes += self.packed.files.size;
        self.packed.packs = pack_uses(&self.used, &self.own_packs, parent)?;
        Ok(self.packed)
    }

    /// Bytes that this backup has added to the repository so far.
    pub(super) fn stored_bytes(&self) -> u64 {
        self.packed.stored_bytes
    }

    /// Plain bytes that were there already.
    pub(super) fn shared_bytes(&self) -> u64 {
        self.packed.shared_bytes
    }
}

/// Every pack that is used, with what is known of it from here or from the parent's record.
fn pack_uses(
    used: &BTreeMap<PackName, u64>,
    own: &[PackUse],
    parent: Option<&Record>,
) -> Result<Vec<PackUse>, Error> {
    let inherited = parent.map(|record| record.packs.as_slice()).unwrap_or_default();
    let known: BTreeMap<&PackName, &PackUse> =
        inherited.iter().chain(own).map(|pack| (&pack.pack, pack)).collect();
    let with_use = |(name, used_bytes): (&PackName, &u64)| {
        let pack =
            known.get(name).ok_or_else(|| Error::BadBackup(format!("pack {name} is used but not known")))?;
        Ok(PackUse { used_bytes: *used_bytes, ..(*pack).clone() })
    };
    used.iter().map(with_use).collect()
}

fn encoding(source: std::io::Error) -> Error {
    repository::Error::from(store::Error::Unavailable {
        action: "encode",
        key: "the backup".to_owned(),
        source,
    })
    .into()
}
