//! Objects in memory, for tests and examples: durable as long as the process.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::{Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;

use crate::{Body, Directory, Entry, Error, Key, Store, Version};

/// Objects in memory.
#[derive(Debug, Default)]
pub struct MemoryStore {
    objects: Mutex<BTreeMap<String, Bytes>>,
}

impl MemoryStore {
    fn objects(&self) -> MutexGuard<'_, BTreeMap<String, Bytes>> {
        // A panic elsewhere cannot leave the map half changed.
        self.objects.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The part of `bytes` that `range` names, by the rule of [`Store::read`].
pub(crate) fn slice(bytes: &Bytes, range: Option<Range<u64>>) -> Bytes {
    let Some(range) = range else { return bytes.clone() };
    let clamp = |at: u64| usize::try_from(at).unwrap_or(usize::MAX).min(bytes.len());
    let (start, end) = (clamp(range.start), clamp(range.end));
    bytes.slice(start..end.max(start))
}

#[async_trait]
impl Store for MemoryStore {
    async fn create(&self, key: &Key, body: Body) -> Result<(), Error> {
        let mut objects = self.objects();
        if objects.contains_key(key.as_str()) {
            return Err(Error::Exists { key: key.to_string() });
        }
        objects.insert(key.to_string(), body.concat());
        Ok(())
    }

    async fn read(&self, key: &Key, range: Option<Range<u64>>) -> Result<Bytes, Error> {
        let objects = self.objects();
        let bytes = objects.get(key.as_str()).ok_or_else(|| Error::NotFound { key: key.to_string() })?;
        Ok(slice(bytes, range))
    }

    async fn list(&self, directory: &Directory) -> Result<Vec<Entry>, Error> {
        let prefix = match directory.as_str() {
            "" => String::new(),
            name => format!("{name}/"),
        };
        let mut entries: Vec<Entry> = Vec::new();
        for (key, bytes) in
            self.objects().range(prefix.clone()..).take_while(|(key, _)| key.starts_with(&prefix))
        {
            match key[prefix.len()..].split_once('/') {
                None => entries
                    .push(Entry::Object { name: key[prefix.len()..].to_owned(), size: bytes.len() as u64 }),
                Some((name, _)) => entries.push(Entry::Directory { name: name.to_owned() }),
            }
        }
        entries.sort_by(|a, b| a.name().cmp(b.name()));
        entries.dedup();
        Ok(entries)
    }

    async fn delete(&self, key: &Key) -> Result<(), Error> {
        self.objects().remove(key.as_str());
        Ok(())
    }

    async fn read_version(&self, key: &Key) -> Result<Option<(Bytes, Version)>, Error> {
        let found = self.objects().get(key.as_str()).cloned();
        Ok(found.map(|bytes| (bytes.clone(), version(&bytes))))
    }

    async fn replace(&self, key: &Key, expected: Option<&Version>, body: Bytes) -> Result<Version, Error> {
        let mut objects = self.objects();
        if objects.get(key.as_str()).map(|bytes| version(bytes)).as_ref() != expected {
            return Err(Error::Changed { key: key.to_string() });
        }
        let now = version(&body);
        objects.insert(key.to_string(), body);
        Ok(now)
    }

    fn address(&self) -> String {
        "memory:".to_owned()
    }
}

/// A version that is the content's hash: two contents that differ have different versions.
pub(crate) fn version(bytes: &[u8]) -> Version {
    use sha2::{Digest, Sha256};
    Version(hex::encode(Sha256::digest(bytes)))
}
