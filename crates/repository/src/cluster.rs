//! One cluster in the repository.

use std::sync::Arc;

use bytes::Bytes;
use chrono::{DateTime, Utc};
use pgformat::SegmentSize;
use serde::{Deserialize, Serialize};
use store::fence::{Fence, FencedStore};
use store::{Body, Key, Store};

use crate::crypt::{Access, LastOpener};
use crate::layout::Layout;
use crate::{Error, document};

/// Everything stored of one cluster. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Cluster {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) layout: Layout,
    pub(crate) access: Arc<Access>,
    /// The key of the list and maps that were read last, and whose they are.
    pub(crate) documents: LastOpener,
}

/// What makes a cluster this cluster; fixed when it is first archived.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// PostgreSQL's, from pg_control. A decimal string, as it does not fit the numbers of every JSON reader.
    #[serde(with = "crate::decimal")]
    pub system_identifier: u64,
    /// PostgreSQL's major version.
    pub postgresql_major: u16,
    /// Bytes in a WAL segment.
    pub segment_size: u64,
    /// Bytes in a page.
    pub block_size: u32,
    /// When it was first seen.
    pub created_at: DateTime<Utc>,
}

impl Identity {
    /// The WAL segment size, which was checked when the identity was read.
    pub fn segment_size(&self) -> SegmentSize {
        SegmentSize::new(self.segment_size).unwrap_or(SegmentSize::DEFAULT)
    }

    pub(crate) fn compare(&self, name: &str, found: &Identity) -> Result<(), Error> {
        let pairs = [
            ("system identifier", self.system_identifier.to_string(), found.system_identifier.to_string()),
            (
                "PostgreSQL major version",
                self.postgresql_major.to_string(),
                found.postgresql_major.to_string(),
            ),
            ("WAL segment size", self.segment_size.to_string(), found.segment_size.to_string()),
            ("block size", self.block_size.to_string(), found.block_size.to_string()),
        ];
        match pairs.into_iter().find(|(_, stored, found)| stored != found) {
            None => Ok(()),
            Some((what, stored, found)) => {
                Err(Error::OtherCluster { name: name.to_owned(), what, stored, found })
            }
        }
    }
}

impl Cluster {
    /// The same, written to only while the fence is open.
    pub fn fenced(&self, fence: Arc<Fence>) -> Cluster {
        Cluster { store: Arc::new(FencedStore::new(self.store.clone(), fence)), ..self.clone() }
    }

    pub(crate) fn new(store: Arc<dyn Store>, layout: Layout, access: Arc<Access>) -> Cluster {
        Cluster { store, layout, access, documents: Arc::default() }
    }

    /// The name in the repository.
    pub fn name(&self) -> &str {
        self.layout.name()
    }

    /// The store that the repository is in.
    pub fn store(&self) -> &Arc<dyn Store> {
        &self.store
    }

    /// Where the repository is, for messages.
    pub fn address(&self) -> String {
        self.store.address()
    }

    /// What the repository says the cluster is; `None` when nothing was archived of it yet.
    pub async fn identity(&self) -> Result<Option<Identity>, Error> {
        let key = self.layout.identity()?;
        match self.store.read(&key, None).await {
            Err(store::Error::NotFound { .. }) => Ok(None),
            bytes => {
                let identity: Identity = document::open("cluster", &key, &bytes?)?;
                if SegmentSize::new(identity.segment_size).is_none() {
                    return Err(Error::damaged(&key, "its segment size is not one PostgreSQL can have"));
                }
                Ok(Some(identity))
            }
        }
    }

    /// As [`Cluster::identity`], where the caller cannot go on without.
    pub async fn require_identity(&self) -> Result<Identity, Error> {
        match self.identity().await? {
            Some(identity) => Ok(identity),
            None => {
                let repository = crate::Repository::open(self.store.clone()).await?;
                let known = repository.cluster_names().await?;
                Err(Error::NoCluster { address: self.address(), name: self.name().to_owned(), known })
            }
        }
    }

    /// Settles that this is the cluster: the first caller writes what the server is, later ones compare.
    pub async fn claim(&self, found: &Identity) -> Result<Identity, Error> {
        if self.identity().await?.is_none() {
            let document = document::seal("cluster", found)?;
            match self.store.create(&self.layout.identity()?, document.into()).await {
                Ok(()) | Err(store::Error::Exists { .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
        let stored = self.require_identity().await?;
        stored.compare(self.name(), found)?;
        Ok(stored)
    }

    /// Creates an object whose content follows from its name: meeting it again with the same bytes is success.
    pub(crate) async fn create_same(&self, key: &Key, bytes: Bytes) -> Result<(), Error> {
        match self.store.create(key, Body::from(bytes.clone())).await {
            Err(store::Error::Exists { .. }) => {
                let stored = self.store.read(key, None).await?;
                if stored == bytes { Ok(()) } else { Err(Error::Differs { key: key.to_string() }) }
            }
            result => Ok(result?),
        }
    }
}
