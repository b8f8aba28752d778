//! What the previous backup has already, looked up file by file in bounded memory.
//!
//! Files come in much the same order in every backup, and maps were written in the order files came. So a few maps are
//! kept, and of the list of files only which map each is in.

use std::collections::{HashMap, HashSet, VecDeque};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use repository::files::FileKind;
use repository::map::{Map, Place};
use repository::pack::PackName;
use repository::{Cluster, Error, Record};

/// Maps kept at once. Two would do in the best order; files that moved between directories want more.
const MAPS_MAX: usize = 4;

/// The previous backup.
pub(super) struct Parent {
    cluster: Cluster,
    record: Record,
    /// By hash of the path, the map the file is in. A collision costs a reference, not correctness: maps hold whole paths.
    maps: HashMap<u64, u32>,
    loaded: VecDeque<(u32, Arc<LoadedMap>)>,
    /// Packs of which less than half is in use, or that are not for the same recipients; their frames are stored anew.
    sparse: Arc<HashSet<PackName>>,
}

struct LoadedMap {
    map: Map,
    files: HashMap<String, usize>,
}

/// One file of the previous backup.
#[derive(Clone)]
pub(super) struct ParentFile {
    map: Arc<LoadedMap>,
    file: usize,
    sparse: Arc<HashSet<PackName>>,
}

fn hash(path: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    path.hash(&mut hasher);
    hasher.finish()
}

impl Parent {
    pub(super) async fn open(cluster: &Cluster, record: Record) -> Result<Parent, Error> {
        let mut maps = HashMap::new();
        let mut files = cluster.files(&record).await?;
        while let Some(entry) = files.next()? {
            if let FileKind::File { map: Some(map), .. } = entry.kind {
                maps.insert(hash(&entry.path), map);
            }
        }
        // What is encrypted to others than are recipients now, or not at all, is stored anew: so each backup is for those who are
        // recipients when it is taken, all of it, and what is plain ages out of a repository that became encrypted.
        let encrypted_to = cluster.encrypted_to();
        let unfit =
            record.packs.iter().filter(|pack| !pack.is_worth_keeping() || pack.encrypted_to != encrypted_to);
        let sparse = Arc::new(unfit.map(|pack| pack.pack.clone()).collect());
        Ok(Parent { cluster: cluster.clone(), maps, loaded: VecDeque::new(), sparse, record })
    }

    pub(super) fn record(&self) -> &Record {
        &self.record
    }

    /// The file of this path, if the previous backup has it. A map that is damaged or gone has nothing to refer to.
    pub(super) async fn file(&mut self, path: &str) -> Option<ParentFile> {
        let number = *self.maps.get(&hash(path))?;
        let map = match self.loaded.iter().find(|(loaded, _)| *loaded == number) {
            Some((_, map)) => map.clone(),
            None => self.load(number).await?,
        };
        let file = *map.files.get(path)?;
        Some(ParentFile { map, file, sparse: self.sparse.clone() })
    }

    async fn load(&mut self, number: u32) -> Option<Arc<LoadedMap>> {
        let map = match self.cluster.map(&self.record, number).await {
            Ok(map) => map,
            Err(error) => {
                tracing::warn!(backup = %self.record.id, "nothing is shared with a part of the previous backup: {error}");
                self.maps.retain(|_, in_map| *in_map != number);
                return None;
            }
        };
        let files = map.files.iter().enumerate().map(|(index, file)| (file.path.clone(), index)).collect();
        let loaded = Arc::new(LoadedMap { map, files });
        self.loaded.push_back((number, loaded.clone()));
        if self.loaded.len() > MAPS_MAX {
            self.loaded.pop_front();
        }
        Some(loaded)
    }
}

impl ParentFile {
    /// Where the previous backup has the bytes `[offset, offset + len)` of the file, if they are one extent there, and in a
    /// pack worth referring to.
    pub(super) fn place(&self, offset: u64, len: u32) -> Option<Place> {
        let extents = &self.map.map.files[self.file].extents;
        let index = extents.binary_search_by_key(&offset, |extent| extent.offset).ok()?;
        let extent = extents.get(index).filter(|extent| extent.len == len)?;
        let (pack, frame) = self.map.map.frame(extent)?;
        let is_whole = extent.at == 0 && frame.plain == len;
        let known = is_whole || extent.fingerprint.is_some();
        let fingerprint = if is_whole { None } else { extent.fingerprint };
        (known && !self.sparse.contains(pack)).then(|| Place {
            pack: pack.clone(),
            frame: *frame,
            at: extent.at,
            fingerprint,
        })
    }
}
