//! A store that is opened when it is first needed, and not before: one that may lag may also be away when we start.

use std::io;
use std::ops::Range;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use store::{Body, Directory, Entry, Error, Key, OpenError, Options, Store, Version};
use tokio::sync::OnceCell;

/// A store that is opened when it is first needed; until that works, every call tries again.
#[derive(Debug)]
pub(crate) struct LazyStore {
    address: String,
    options: Options,
    opened: OnceCell<Arc<dyn Store>>,
}

impl LazyStore {
    pub fn new(address: String, options: Options) -> LazyStore {
        LazyStore { address, options, opened: OnceCell::new() }
    }

    async fn get(&self) -> Result<&Arc<dyn Store>, Error> {
        let open = || async {
            store::open_with(&self.address, &self.options).await.map_err(|error| match error {
                OpenError::Store(error) => error,
                error => Error::Refused {
                    action: "open",
                    key: self.address.clone(),
                    source: io::Error::other(error),
                },
            })
        };
        self.opened.get_or_try_init(open).await
    }
}

#[async_trait]
impl Store for LazyStore {
    async fn create(&self, key: &Key, body: Body) -> Result<(), Error> {
        self.get().await?.create(key, body).await
    }

    async fn read(&self, key: &Key, range: Option<Range<u64>>) -> Result<Bytes, Error> {
        self.get().await?.read(key, range).await
    }

    async fn size(&self, key: &Key) -> Result<u64, Error> {
        self.get().await?.size(key).await
    }

    async fn list(&self, directory: &Directory) -> Result<Vec<Entry>, Error> {
        self.get().await?.list(directory).await
    }

    async fn delete(&self, key: &Key) -> Result<(), Error> {
        self.get().await?.delete(key).await
    }

    async fn read_version(&self, key: &Key) -> Result<Option<(Bytes, Version)>, Error> {
        self.get().await?.read_version(key).await
    }

    async fn replace(&self, key: &Key, expected: Option<&Version>, body: Bytes) -> Result<Version, Error> {
        self.get().await?.replace(key, expected, body).await
    }

    fn address(&self) -> String {
        self.address.clone()
    }
}
