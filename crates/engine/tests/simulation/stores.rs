//! What stands between an incarnation of the service and the storage below.

use std::fmt;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use store::memory::MemoryStore;
use store::{Body, Directory, Entry, Error, Key, Store, Version};
use tokio::sync::Notify;

use super::trace::Trace;

/// The storage itself, and whether it can be believed.
pub struct Ground {
    pub memory: Arc<MemoryStore>,
    pub trace: Trace,
    /// Objects that were created and not looked into yet.
    pub created: Mutex<Vec<String>>,
    /// Objects that were removed and not looked into yet.
    pub removed: Mutex<Vec<String>>,
    pub changed: Notify,
    /// It says that an object is there a while before it is, and loses it when the service is killed meanwhile.
    pub lies: bool,
    /// Kills so far.
    pub power: AtomicU64,
}

/// How long a lying store takes to do what it said it had done.
const LIE: Duration = Duration::from_millis(700);

impl fmt::Debug for Ground {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Ground")
    }
}

/// The storage, as everybody reaches it.
#[derive(Debug, Clone)]
pub struct GroundStore(pub Arc<Ground>);

#[async_trait]
impl Store for GroundStore {
    async fn create(&self, key: &Key, body: Body) -> Result<(), Error> {
        let ground = &self.0;
        if ground.lies && ground.memory.read(key, None).await.is_err() {
            let (ground, key) = (ground.clone(), key.clone());
            tokio::spawn(async move {
                let power = ground.power.load(Ordering::Relaxed);
                tokio::time::sleep(LIE).await;
                if ground.power.load(Ordering::Relaxed) == power {
                    drop(ground.memory.create(&key, body).await);
                }
            });
            return Ok(());
        }
        let created = ground.memory.create(key, body).await;
        ground.trace.note(|| format!("create {key}{}", if created.is_ok() { "" } else { ": exists" }));
        if created.is_ok() {
            ground.created.lock().unwrap().push(key.to_string());
            ground.changed.notify_one();
        }
        created
    }

    async fn read(&self, key: &Key, range: Option<Range<u64>>) -> Result<Bytes, Error> {
        self.0.memory.read(key, range).await
    }

    async fn list(&self, directory: &Directory) -> Result<Vec<Entry>, Error> {
        self.0.memory.list(directory).await
    }

    async fn delete(&self, key: &Key) -> Result<(), Error> {
        self.0.trace.note(|| format!("delete {key}"));
        self.0.memory.delete(key).await?;
        self.0.removed.lock().unwrap().push(key.to_string());
        self.0.changed.notify_one();
        Ok(())
    }

    async fn read_version(&self, key: &Key) -> Result<Option<(Bytes, Version)>, Error> {
        self.0.memory.read_version(key).await
    }

    async fn replace(&self, key: &Key, expected: Option<&Version>, body: Bytes) -> Result<Version, Error> {
        self.0.memory.replace(key, expected, body).await
    }

    fn address(&self) -> String {
        self.0.memory.address()
    }
}

/// When, around a call to its storage, a service dies.
#[derive(Debug, Clone, Copy)]
pub enum Death {
    /// The call was never made.
    Before,
    /// After so long, and the answer has not come: the call may have effect yet.
    During(Duration),
    /// The answer came, and nobody took it.
    After,
}

/// One life of the service, as the storage sees it.
#[derive(Debug)]
pub struct Life {
    /// The call at which it dies, if it dies at one.
    pub dies_at: Option<(u64, Death)>,
    pub calls: AtomicU64,
    pub dead: AtomicBool,
    pub died: Notify,
    /// Calls that were made after death.
    pub ghosts: AtomicU64,
}

/// The store as one incarnation has it.
#[derive(Debug, Clone)]
pub struct LivingStore {
    pub life: Arc<Life>,
    pub below: Arc<dyn Store>,
}

impl LivingStore {
    async fn call<T>(&self, work: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
        let life = &self.life;
        if life.dead.load(Ordering::Relaxed) {
            life.ghosts.fetch_add(1, Ordering::Relaxed);
        }
        let number = life.calls.fetch_add(1, Ordering::Relaxed);
        match life.dies_at.filter(|(at, _)| *at == number).map(|(_, death)| death) {
            None => return work.await,
            Some(Death::Before) => {}
            Some(Death::During(time)) => drop(tokio::time::timeout(time, work).await),
            Some(Death::After) => drop(work.await),
        }
        self.die().await
    }

    /// The process is gone before the next line is reached.
    async fn die<T>(&self) -> T {
        self.life.died.notify_one();
        std::future::pending().await
    }
}

#[async_trait]
impl Store for LivingStore {
    async fn create(&self, key: &Key, body: Body) -> Result<(), Error> {
        self.call(self.below.create(key, body)).await
    }

    async fn read(&self, key: &Key, range: Option<Range<u64>>) -> Result<Bytes, Error> {
        self.call(self.below.read(key, range)).await
    }

    async fn list(&self, directory: &Directory) -> Result<Vec<Entry>, Error> {
        self.call(self.below.list(directory)).await
    }

    async fn delete(&self, key: &Key) -> Result<(), Error> {
        self.call(self.below.delete(key)).await
    }

    async fn read_version(&self, key: &Key) -> Result<Option<(Bytes, Version)>, Error> {
        self.call(self.below.read_version(key)).await
    }

    async fn replace(&self, key: &Key, expected: Option<&Version>, body: Bytes) -> Result<Version, Error> {
        self.call(self.below.replace(key, expected, body)).await
    }

    fn address(&self) -> String {
        self.below.address()
    }
}
