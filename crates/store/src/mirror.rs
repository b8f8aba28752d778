//! Several stores that hold the same objects.
//!
//! Some are **required**: what is said to be created is durable in every one of them, and what is listed is there in every
//! one of them. The others **may lag**: they are written to as well, nobody waits for them, and what they missed is
//! counted, so that somebody copies it there later.
//!
//! The first required store decides who wins when two create one object; the others get what it has. So stores differ
//! only in what they lack, whoever died when.

use std::collections::{BTreeMap, HashSet};
use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use bytes::Bytes;
use futures::future::{join_all, try_join_all};
use tokio::sync::{Notify, Semaphore};

use crate::{Body, Directory, Entry, Error, Key, Store, Version};

/// Writes under way to one store that may lag. Each holds its object, up to a pack, in memory.
const LAGGING_WRITES_MAX: usize = 2;

/// Several stores that hold the same objects.
#[derive(Debug)]
pub struct MirrorStore {
    first: Arc<dyn Store>,
    /// The other required ones.
    others: Vec<Arc<dyn Store>>,
    lagging: Vec<Arc<Lagging>>,
}

/// A store that may lag.
#[derive(Debug)]
pub struct Lagging {
    store: Arc<dyn Store>,
    writes: Arc<Semaphore>,
    missed: AtomicU64,
    news: Notify,
}

impl Lagging {
    /// The store itself.
    pub fn store(&self) -> &Arc<dyn Store> {
        &self.store
    }

    /// Objects that were not written there since the last [`Lagging::forgive`].
    pub fn missed(&self) -> u64 {
        self.missed.load(Ordering::Acquire)
    }

    /// Starts counting anew, before a copy begins: what is missed while it runs counts. What is still being written then
    /// may fail later, and count as well.
    pub fn forgive(&self) {
        self.missed.store(0, Ordering::Release);
    }

    /// Waits until something was missed.
    pub async fn behind(&self) {
        loop {
            let news = self.news.notified();
            if self.missed() > 0 {
                return;
            }
            news.await;
        }
    }

    /// Something has to be copied there.
    pub fn miss(&self) {
        self.missed.fetch_add(1, Ordering::AcqRel);
        self.news.notify_one();
    }

    fn write(self: &Arc<Lagging>, key: &Key, body: &Body) {
        let Ok(permit) = self.writes.clone().try_acquire_owned() else { return self.miss() };
        let (lagging, key, body) = (self.clone(), key.clone(), body.clone());
        tokio::spawn(async move {
            match lagging.store.create(&key, body).await {
                Ok(()) | Err(Error::Exists { .. }) => {}
                Err(error) => {
                    tracing::debug!(%key, address = lagging.store.address(), "missed: {error}");
                    lagging.miss();
                }
            }
            drop(permit);
        });
    }

    fn remove(self: &Arc<Lagging>, key: &Key) {
        let Ok(permit) = self.writes.clone().try_acquire_owned() else { return };
        let (lagging, key) = (self.clone(), key.clone());
        tokio::spawn(async move {
            if let Err(error) = lagging.store.delete(&key).await {
                // It stays there until that repository's own expiry; nothing refers to it.
                tracing::debug!(%key, address = lagging.store.address(), "left behind: {error}");
            }
            drop(permit);
        });
    }
}

impl MirrorStore {
    /// Keeps `first` and `others` alike, and `lagging` as far as they keep up.
    pub fn new(
        first: Arc<dyn Store>,
        others: Vec<Arc<dyn Store>>,
        lagging: Vec<Arc<dyn Store>>,
    ) -> MirrorStore {
        let lagging = lagging.into_iter().map(|store| {
            let writes = Arc::new(Semaphore::new(LAGGING_WRITES_MAX));
            Arc::new(Lagging { store, writes, missed: AtomicU64::new(0), news: Notify::new() })
        });
        MirrorStore { first, others, lagging: lagging.collect() }
    }

    /// The required stores, the first one first.
    pub fn required(&self) -> impl Iterator<Item = &Arc<dyn Store>> {
        std::iter::once(&self.first).chain(&self.others)
    }

    /// The stores that may lag.
    pub fn lagging(&self) -> &[Arc<Lagging>] {
        &self.lagging
    }

    /// Brings what the first store has under this key to the others.
    async fn spread(&self, key: &Key, body: &Body) -> Result<(), Error> {
        try_join_all(self.others.iter().map(|store| put_same(&**store, key, body))).await?;
        for lagging in &self.lagging {
            lagging.write(key, body);
        }
        Ok(())
    }
}

/// Creates an object that may be there already, but then with the same bytes.
async fn put_same(store: &dyn Store, key: &Key, body: &Body) -> Result<(), Error> {
    match store.create(key, body.clone()).await {
        Err(Error::Exists { .. }) if store.read(key, None).await? == body.concat() => Ok(()),
        Err(Error::Exists { .. }) => Err(differs(store, key)),
        result => result.map_err(|error| in_store(error, store)),
    }
}

/// The error, with the address of the store that it happened in: one key is in several.
fn in_store(error: Error, store: &dyn Store) -> Error {
    let named = |key: String| format!("{key} in {}", store.address());
    match error {
        Error::Denied { action, key, source } => Error::Denied { action, key: named(key), source },
        Error::Refused { action, key, source } => Error::Refused { action, key: named(key), source },
        Error::Full { action, key, source } => Error::Full { action, key: named(key), source },
        Error::Unavailable { action, key, source } => Error::Unavailable { action, key: named(key), source },
        error => error,
    }
}

fn differs(store: &dyn Store, key: &Key) -> Error {
    let what = format!("{} has other content under this name than the first repository", store.address());
    Error::Unavailable { action: "write", key: key.to_string(), source: io::Error::other(what) }
}

#[async_trait]
impl Store for MirrorStore {
    async fn create(&self, key: &Key, body: Body) -> Result<(), Error> {
        match self.first.create(key, body.clone()).await {
            Ok(()) => self.spread(key, &body).await,
            Err(Error::Exists { key: taken }) => {
                // Whoever wrote it may have died before it reached the others.
                let there = Body::from(self.first.read(key, None).await?);
                self.spread(key, &there).await?;
                Err(Error::Exists { key: taken })
            }
            Err(error) => Err(in_store(error, &*self.first)),
        }
    }

    /// From the first required store that has it. It is not there when none has it, and all could be asked. Those that may
    /// lag are not asked: they may never answer, and archiving asks for what may not be there.
    async fn read(&self, key: &Key, range: Option<Range<u64>>) -> Result<Bytes, Error> {
        let mut failed = None;
        for store in self.required() {
            match store.read(key, range.clone()).await {
                Ok(bytes) => return Ok(bytes),
                Err(Error::NotFound { .. }) => {}
                Err(error) => drop(failed.get_or_insert(in_store(error, &**store))),
            }
        }
        Err(failed.unwrap_or_else(|| Error::NotFound { key: key.to_string() }))
    }

    async fn size(&self, key: &Key) -> Result<u64, Error> {
        let mut failed = None;
        for store in self.required() {
            match store.size(key).await {
                Ok(size) => return Ok(size),
                Err(Error::NotFound { .. }) => {}
                Err(error) => drop(failed.get_or_insert(error)),
            }
        }
        Err(failed.unwrap_or_else(|| Error::NotFound { key: key.to_string() }))
    }

    /// What every required store has.
    async fn list(&self, directory: &Directory) -> Result<Vec<Entry>, Error> {
        let (first, others) = tokio::try_join!(
            list_in(&self.first, directory),
            try_join_all(self.others.iter().map(|store| list_in(store, directory)))
        )?;
        let names = |entries: &[Entry]| -> HashSet<(bool, String)> {
            entries.iter().map(|entry| (is_object(entry), entry.name().to_owned())).collect()
        };
        let others: Vec<HashSet<(bool, String)>> = others.iter().map(|entries| names(entries)).collect();
        let everywhere = |entry: &Entry| {
            let name = (is_object(entry), entry.name().to_owned());
            others.iter().all(|names| names.contains(&name))
        };
        Ok(first.into_iter().filter(everywhere).collect())
    }

    /// What any required store has.
    async fn list_any(&self, directory: &Directory) -> Result<Vec<Entry>, Error> {
        let lists = try_join_all(self.required().map(|store| list_in(store, directory))).await?;
        let entries = lists.into_iter().flatten();
        let mut found = BTreeMap::new();
        for entry in entries {
            found.entry((entry.name().to_owned(), is_object(&entry))).or_insert(entry);
        }
        Ok(found.into_values().collect())
    }

    async fn delete(&self, key: &Key) -> Result<(), Error> {
        for lagging in &self.lagging {
            lagging.remove(key);
        }
        // All of them, also when one fails: what is removed in one only would come back from the other.
        let delete = |store: &Arc<dyn Store>| {
            let store = store.clone();
            async move { store.delete(key).await.map_err(|error| in_store(error, &*store)) }
        };
        let results = join_all(self.required().map(delete)).await;
        results.into_iter().collect()
    }

    /// From the first store. What only another one has is neither there nor not there: that passes when it has been copied.
    async fn read_version(&self, key: &Key) -> Result<Option<(Bytes, Version)>, Error> {
        if let Some(found) = self.first.read_version(key).await? {
            return Ok(Some(found));
        }
        for store in &self.others {
            if store.read_version(key).await?.is_some() {
                let what = format!("{} lacks what {} has", self.first.address(), store.address());
                let source = io::Error::other(what);
                return Err(Error::Unavailable { action: "read", key: key.to_string(), source });
            }
        }
        Ok(None)
    }

    /// In the first store only: what changes is not worth keeping twice.
    async fn replace(&self, key: &Key, expected: Option<&Version>, body: Bytes) -> Result<Version, Error> {
        self.first.replace(key, expected, body).await
    }

    fn address(&self) -> String {
        let addresses: Vec<String> = self.required().map(|store| store.address()).collect();
        addresses.join(" and ")
    }
}

async fn list_in(store: &Arc<dyn Store>, directory: &Directory) -> Result<Vec<Entry>, Error> {
    store.list(directory).await.map_err(|error| in_store(error, &**store))
}

fn is_object(entry: &Entry) -> bool {
    matches!(entry, Entry::Object { .. })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::MemoryStore;

    fn key() -> Key {
        Key::new("c/wal/1").unwrap()
    }

    fn bytes(text: &'static str) -> Bytes {
        Bytes::from_static(text.as_bytes())
    }

    fn two() -> (Arc<MemoryStore>, Arc<MemoryStore>, MirrorStore) {
        let (a, b) = (Arc::new(MemoryStore::default()), Arc::new(MemoryStore::default()));
        let mirror = MirrorStore::new(a.clone(), vec![b.clone()], Vec::new());
        (a, b, mirror)
    }

    #[tokio::test]
    async fn what_reached_only_the_first_is_not_listed_and_reaches_the_other_when_it_is_created_again() {
        let (a, b, mirror) = two();
        a.create(&key(), bytes("first").into()).await.unwrap();
        let directory = Directory::new("c/wal").unwrap();
        assert_eq!(mirror.list(&directory).await.unwrap(), []);
        // Other bytes, as an encryption that is never the same twice makes: what the first has counts.
        let again = mirror.create(&key(), bytes("other").into()).await;
        assert!(matches!(again, Err(Error::Exists { .. })));
        assert_eq!(b.read(&key(), None).await.unwrap(), bytes("first"));
        assert_eq!(mirror.list(&directory).await.unwrap().len(), 1);
    }

    #[tokio::test]
    async fn other_content_in_another_store_is_never_taken_for_a_copy() {
        let (_, b, mirror) = two();
        b.create(&key(), bytes("foreign").into()).await.unwrap();
        let error = mirror.create(&key(), bytes("ours").into()).await.unwrap_err();
        assert!(matches!(error, Error::Unavailable { .. }), "{error}");
    }

    #[tokio::test]
    async fn what_the_first_store_lost_is_not_taken_for_absent() {
        let (a, b, mirror) = two();
        mirror.create(&key(), bytes("record").into()).await.unwrap();
        a.delete(&key()).await.unwrap();
        assert_eq!(mirror.read(&key(), None).await.unwrap(), bytes("record"));
        assert!(mirror.read_version(&key()).await.unwrap_err().is_transient());
        b.delete(&key()).await.unwrap();
        assert_eq!(mirror.read_version(&key()).await.unwrap(), None);
    }

    /// A store that never answers.
    #[derive(Debug)]
    struct Stuck;

    #[async_trait]
    impl Store for Stuck {
        async fn create(&self, _: &Key, _: Body) -> Result<(), Error> {
            std::future::pending().await
        }
        async fn read(&self, _: &Key, _: Option<Range<u64>>) -> Result<Bytes, Error> {
            std::future::pending().await
        }
        async fn list(&self, _: &Directory) -> Result<Vec<Entry>, Error> {
            std::future::pending().await
        }
        async fn delete(&self, _: &Key) -> Result<(), Error> {
            std::future::pending().await
        }
        async fn read_version(&self, _: &Key) -> Result<Option<(Bytes, Version)>, Error> {
            std::future::pending().await
        }
        async fn replace(&self, _: &Key, _: Option<&Version>, _: Bytes) -> Result<Version, Error> {
            std::future::pending().await
        }
        fn address(&self) -> String {
            "stuck:".to_owned()
        }
    }

    #[tokio::test]
    async fn whoever_removes_sees_what_only_one_store_has() {
        let (a, b, mirror) = two();
        let directory = Directory::new("c/wal").unwrap();
        mirror.create(&key(), bytes("both").into()).await.unwrap();
        a.create(&Key::new("c/wal/0").unwrap(), bytes("a").into()).await.unwrap();
        b.create(&Key::new("c/wal/2").unwrap(), bytes("b").into()).await.unwrap();
        let names = |entries: Vec<Entry>| -> Vec<String> {
            entries.iter().map(|entry| entry.name().to_owned()).collect()
        };
        assert_eq!(names(mirror.list(&directory).await.unwrap()), ["1"]);
        assert_eq!(names(mirror.list_any(&directory).await.unwrap()), ["0", "1", "2"]);
    }

    #[tokio::test]
    async fn nobody_waits_for_a_store_that_may_lag() {
        let a = Arc::new(MemoryStore::default());
        let mirror = MirrorStore::new(a, Vec::new(), vec![Arc::new(Stuck)]);
        assert!(mirror.read(&key(), None).await.unwrap_err().is_not_found());
        for number in 0..10 {
            let key = Key::new(format!("c/wal/{number}")).unwrap();
            mirror.create(&key, bytes("wal").into()).await.unwrap();
        }
        let lagging = &mirror.lagging()[0];
        lagging.behind().await;
        assert_eq!(lagging.missed(), 10 - LAGGING_WRITES_MAX as u64);
    }
}
