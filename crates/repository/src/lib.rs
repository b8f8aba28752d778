//! What Drydock stores, and nothing of how it got it.
//!
//! A [`Repository`] holds clusters, a [`Cluster`] holds WAL and backups. This crate alone knows key names and formats;
//! `docs/format.md` describes them for people who have to do without it. Three rules carry everything:
//!
//! - Objects are immutable. Meeting an object that is there already is success when it says the same, and
//!   [`Error::Differs`] when it does not.
//! - A backup exists when its record does. The record is written last and removed first.
//! - A [`wal::Durable`] position can only be made here, from WAL that the store has said is durable, without a gap.
//!
//! ```
//! # tokio::runtime::Runtime::new().unwrap().block_on(async {
//! use std::sync::Arc;
//! use repository::Repository;
//!
//! let store = Arc::new(store::memory::MemoryStore::default());
//! let repository = Repository::open_or_create(store, chrono::Utc::now()).await?;
//! let cluster = repository.cluster("pg_cluster")?;
//! assert!(cluster.backups().await?.records.is_empty());
//! # Ok::<(), repository::Error>(())
//! # }).unwrap();
//! ```

pub mod backup;
mod cluster;
pub mod codec;
pub mod copy;
pub mod crypt;
pub mod decimal;
mod document;
mod error;
pub mod files;
mod layout;
pub mod lease;
pub mod ledger;
pub mod map;
pub mod pack;
pub mod pin;
mod probe;
pub mod record;
mod root;
pub mod slots;
pub mod state;
pub mod wal;

pub use cluster::{Cluster, Identity};
pub use document::FORMAT;
pub use error::Error;
pub use record::{BackupId, Record};
pub use root::Repository;
