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
pub mod fault;
pub mod fence;
pub mod file;
pub mod http;
mod key;
pub mod memory;
pub mod mirror;
pub mod s3;

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

    /// The size of an object in bytes.
    async fn size(&self, key: &Key) -> Result<u64, Error> {
        let parent = key.as_str().rsplit_once('/').map_or("", |(parent, _)| parent);
        let gone = || Error::NotFound { key: key.to_string() };
        let parent = Directory::new(parent).map_err(|_invalid| gone())?;
        let entries = self.list(&parent).await?;
        let found = entries.into_iter().find_map(|entry| match entry {
            Entry::Object { name, size } if name == key.name() => Some(size),
            _ => None,
        });
        found.ok_or_else(gone)
    }

    /// One level of the names below `directory`, in byte order. A directory that is not there is empty.
    async fn list(&self, directory: &Directory) -> Result<Vec<Entry>, Error>;

    /// As [`Store::list`], for whoever removes: where a store is several, also what only one of them has, which may be what
    /// another object needs.
    async fn list_any(&self, directory: &Directory) -> Result<Vec<Entry>, Error> {
        self.list(directory).await
    }

    /// Removes an object, durably. One that is not there is removed already.
    async fn delete(&self, key: &Key) -> Result<(), Error>;

    /// Reads one of the few objects that change, with its version; `None` when it is not there.
    async fn read_version(&self, key: &Key) -> Result<Option<(Bytes, Version)>, Error>;

    /// Creates (`expected` is `None`) or replaces an object, if nobody else did meanwhile: [`Error::Changed`].
    async fn replace(&self, key: &Key, expected: Option<&Version>, body: Bytes) -> Result<Version, Error>;

    /// The address, for messages; holds no secret.
    fn address(&self) -> String;
}

/// What the stores need beside an address.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Options {
    /// For `https://` and `http://`.
    pub http: http::HttpOptions,
    /// For `s3://`.
    pub s3: s3::S3Options,
}

/// The address does not name a store we can open.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Not a URL, or one of an unknown scheme.
    #[error(
        "repository address \"{0}\" is not understood; use an absolute directory such as file:///var/backups, s3://bucket/prefix, or \
         a service such as https://backup:8443"
    )]
    Address(String),
    /// Anybody on the way could read the token.
    #[error("{0} would send the token and the data for anybody on the way to read; use https")]
    Insecure(String),
    /// A service gives nothing to nobody.
    #[error("{0} asks for a token, and none is configured")]
    NoToken(String),
    /// It cannot be sent.
    #[error("the repository's token has characters that no token has")]
    Token,
    /// The file of trusted authorities.
    #[error("the file of trusted authorities {path} cannot be used")]
    CaFile {
        /// Which file.
        path: String,
        /// Why.
        source: std::io::Error,
    },
    /// The TLS library cannot be set up.
    #[error("TLS cannot be set up")]
    Tls {
        /// Why.
        source: std::io::Error,
    },
    /// An option of the store is wrong.
    #[error("{name}: {reason}")]
    Option {
        /// The option.
        name: &'static str,
        /// What is wrong with it.
        reason: String,
    },
    /// The store is not usable.
    #[error(transparent)]
    Store(#[from] Error),
}

/// Opens the store at an address that needs nothing else: `file:///directory`, or a plain absolute directory.
pub async fn open(address: &str) -> Result<Arc<dyn Store>, OpenError> {
    open_with(address, &Options::default()).await
}

/// Opens the store at `address`: a directory, `s3://bucket/prefix`, or a service's repository at `https://host:port`, which can only be read.
pub async fn open_with(address: &str, options: &Options) -> Result<Arc<dyn Store>, OpenError> {
    let misunderstood = || OpenError::Address(address.to_owned());
    if address.starts_with('/') {
        return Ok(Arc::new(file::FileStore::open(std::path::Path::new(address)).await?));
    }
    if address.starts_with("s3:") {
        let config = s3::S3Config::parse(address, options.s3.clone()).ok_or_else(misunderstood)?;
        return Ok(Arc::new(s3::S3Store::open(config).await?));
    }
    let url = url::Url::parse(address).map_err(|_no_url| misunderstood())?;
    match url.scheme() {
        "file" => {
            let path = url.to_file_path().ok().ok_or_else(misunderstood)?;
            Ok(Arc::new(file::FileStore::open(&path).await?))
        }
        "http" | "https" => Ok(Arc::new(http::HttpStore::open(address, &options.http).await?)),
        _ => Err(misunderstood()),
    }
}
