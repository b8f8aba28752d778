//! A store that is written to only while somebody holds a right to, and that ends by itself.
//!
//! Whoever was stopped for a while, process or machine, finds the right over when it goes on, before it has heard from
//! anybody. What was on its way at that moment still arrives; objects being immutable, it can only add.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use rustix::time::{ClockId, clock_gettime};

use crate::{Body, Directory, Entry, Error, Key, Store, Version};

/// Until when one may write. It counts on while this process, or this machine, stands still.
#[derive(Debug, Default)]
pub struct Fence {
    /// Milliseconds since the machine started.
    until: AtomicI64,
}

/// A moment on this machine's clock that never stands still.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Moment(i64);

impl Moment {
    /// This one.
    pub fn now() -> Moment {
        let now = clock_gettime(ClockId::Boottime);
        Moment(now.tv_sec * 1000 + now.tv_nsec / 1_000_000)
    }

    /// How long ago it was.
    pub fn elapsed(self) -> Duration {
        Duration::from_millis(u64::try_from(Moment::now().0 - self.0).unwrap_or(0))
    }
}

impl Fence {
    /// One may write until so long after `from`, which is when whatever gives the right was asked for.
    pub fn open_until(&self, from: Moment, time: Duration) {
        let millis = i64::try_from(time.as_millis()).unwrap_or(i64::MAX);
        self.until.store(from.0.saturating_add(millis), Ordering::Release);
    }

    /// One may not write any more.
    pub fn close(&self) {
        self.until.store(0, Ordering::Release);
    }

    /// Whether one may write now.
    pub fn is_open(&self) -> bool {
        Moment::now().0 < self.until.load(Ordering::Acquire)
    }

    fn check(&self, key: &Key) -> Result<(), Error> {
        if self.is_open() { Ok(()) } else { Err(Error::Fenced { key: key.to_string() }) }
    }
}

/// A store that a [`Fence`] stands around. Reading needs no right.
#[derive(Debug)]
pub struct FencedStore {
    inner: Arc<dyn Store>,
    fence: Arc<Fence>,
}

impl FencedStore {
    /// Puts a fence around a store.
    pub fn new(inner: Arc<dyn Store>, fence: Arc<Fence>) -> FencedStore {
        FencedStore { inner, fence }
    }
}

#[async_trait]
impl Store for FencedStore {
    async fn create(&self, key: &Key, body: Body) -> Result<(), Error> {
        self.fence.check(key)?;
        self.inner.create(key, body).await
    }

    async fn read(&self, key: &Key, range: Option<Range<u64>>) -> Result<Bytes, Error> {
        self.inner.read(key, range).await
    }

    async fn size(&self, key: &Key) -> Result<u64, Error> {
        self.inner.size(key).await
    }

    async fn list(&self, directory: &Directory) -> Result<Vec<Entry>, Error> {
        self.inner.list(directory).await
    }

    async fn list_any(&self, directory: &Directory) -> Result<Vec<Entry>, Error> {
        self.inner.list_any(directory).await
    }

    async fn delete(&self, key: &Key) -> Result<(), Error> {
        self.fence.check(key)?;
        self.inner.delete(key).await
    }

    async fn read_version(&self, key: &Key) -> Result<Option<(Bytes, Version)>, Error> {
        self.inner.read_version(key).await
    }

    async fn replace(&self, key: &Key, expected: Option<&Version>, body: Bytes) -> Result<Version, Error> {
        self.fence.check(key)?;
        self.inner.replace(key, expected, body).await
    }

    fn address(&self) -> String {
        self.inner.address()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::MemoryStore;

    #[tokio::test]
    async fn nothing_is_written_without_the_right() {
        let (fence, inner) = (Arc::new(Fence::default()), Arc::new(MemoryStore::default()));
        let store = FencedStore::new(inner.clone(), fence.clone());
        let key = Key::new("a").unwrap();
        let create = async || store.create(&key, Bytes::from_static(b"x").into()).await;
        assert!(matches!(create().await, Err(Error::Fenced { .. })));
        fence.open_until(Moment::now(), Duration::from_secs(60));
        create().await.unwrap();
        let (_, version) = store.read_version(&key).await.unwrap().unwrap();
        fence.open_until(Moment(Moment::now().0 - 10), Duration::from_millis(9));
        assert!(matches!(store.replace(&key, Some(&version), Bytes::new()).await, Err(Error::Fenced { .. })));
        assert!(matches!(store.delete(&key).await, Err(Error::Fenced { .. })));
        assert_eq!(store.read(&key, None).await.unwrap(), "x");
        fence.open_until(Moment::now(), Duration::from_secs(60));
        fence.close();
        assert!(!fence.is_open());
    }
}
