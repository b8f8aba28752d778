//! Immutable named objects on storage that may be slow, full or away.
//!
//! A [`Store`] knows keys and bytes and nothing of PostgreSQL. Whatever it says it created is durable: it survives the
//! loss of power of the machine the call was made on, and it is never half there. Everything else (what the keys mean,
//! which object is written before which) belongs to the layers above.
//!
//! ```
//! # tokio::runtime::Runtime::new().unwrap().block_on(async {
//! use store::{Key, Store};
//!
//! let store = store::memory::MemoryStore::default();
//! let key = Key::new("wal/00000002.history")?;
//! store.create(&key, bytes::Bytes::from_static(b"1\t0/5000000\tbefore 2000-01-01\n").into()).await?;
//! assert!(store.create(&key, bytes::Bytes::new().into()).await.is_err(), "objects are immutable");
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! # }).unwrap();
//! ```

mod body;
mod error;
pub mod file;
mod key;
pub mod memory;

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;

pub use body::Body;
pub use error::Error;
pub use key::{Directory, InvalidKey, Key};

/// What one level of a listing holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Entry {
    /// An object: the last part of its key, and its size in bytes.
    Object {
        /// Last part of the key.
        name: String,
        /// Size in bytes.
        size: u64,
    },
    /// There are objects below this name.
    Directory {
        /// Last part of the directory.
        name: String,
    },
}

impl Entry {
    /// The last part of the key or directory.
    pub fn name(&self) -> &str {
        match self {
            Entry::Object { name, .. } | Entry::Directory { name } => name,
        }
    }
}

/// Which content of a replaceable object was read: opaque, compared for equality by the store that made it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Version(pub(crate) String);

/// Named objects.
///
/// Cancelling a call leaves it undecided whether it took effect, as a lost answer from a network would.
#[async_trait]
pub trait Store: Send + Sync + fmt::Debug {
    /// Creates an object. When this returns, the object is durable and whole. [`Error::Exists`] when the key is taken,
    /// whatever it holds; comparing is the caller's business.
    async fn create(&self, key: &Key, body: Body) -> Result<(), Error>;

    /// Reads an object, or the part of `range` that the object has: a range past its end gives fewer bytes.
    async fn read(&self, key: &Key, range: Option<Range<u64>>) -> Result<Bytes, Error>;

    /// One level of the names below `directory`, in byte order. A directory that is not there is empty.
    async fn list(&self, directory: &Directory) -> Result<Vec<Entry>, Error>;

    /// Removes an object, durably. One that is not there is removed already.
    async fn delete(&self, key: &Key) -> Result<(), Error>;

    /// Reads one of the few objects that change, with its version; `None` when it is not there.
    async fn read_version(&self, key: &Key) -> Result<Option<(Bytes, Version)>, Error>;

    /// Creates (`expected` is `None`) or replaces an object, if nobody else did meanwhile: [`Error::Changed`].
    async fn replace(&self, key: &Key, expected: Option<&Version>, body: Bytes) -> Result<Version, Error>;

    /// The address, for messages; holds no secret.
    fn address(&self) -> String;
}

/// The address does not name a store we can open.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Not a URL, or one of an unknown scheme.
    #[error(
        "repository address \"{0}\" is not understood; use an absolute directory such as file:///var/backups"
    )]
    Address(String),
    /// The store is not usable.
    #[error(transparent)]
    Store(#[from] Error),
}

/// Opens the store at `address`: `file:///directory`, or a plain absolute directory.
pub async fn open(address: &str) -> Result<Arc<dyn Store>, OpenError> {
    let misunderstood = || OpenError::Address(address.to_owned());
    let path = if address.starts_with('/') {
        std::path::PathBuf::from(address)
    } else {
        let url =
            url::Url::parse(address).ok().filter(|url| url.scheme() == "file").ok_or_else(misunderstood)?;
        url.to_file_path().ok().ok_or_else(misunderstood)?
    };
    Ok(Arc::new(file::FileStore::open(&path).await?))
}
