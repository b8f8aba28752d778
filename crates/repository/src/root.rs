//! The repository as a whole.

use std::sync::Arc;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use store::{Directory, Entry, Store};

use crate::cluster::Cluster;
use crate::layout::{self, Layout};
use crate::{Error, document};

/// A store that holds clusters.
#[derive(Debug, Clone)]
pub struct Repository {
    store: Arc<dyn Store>,
}

#[derive(Debug, Serialize, Deserialize)]
struct RootDocument {
    id: String,
    created_at: DateTime<Utc>,
    /// Whom what is stored is encrypted to; nobody means that it is not encrypted.
    #[serde(default)]
    recipients: Vec<String>,
}

impl Repository {
    /// Opens a repository that exists.
    pub async fn open(store: Arc<dyn Store>) -> Result<Repository, Error> {
        let key = layout::repository()?;
        let bytes = match store.read(&key, None).await {
            Err(store::Error::NotFound { .. }) => {
                return Err(Error::NoRepository { address: store.address() });
            }
            bytes => bytes?,
        };
        let root: RootDocument = document::open("repository", &key, &bytes)?;
        if !root.recipients.is_empty() {
            // Writing plain text where encryption was asked for would be worse than not writing.
            return Err(Error::UnknownFormat {
                key: format!("{key} (encrypted)"),
                found: u64::from(crate::FORMAT),
            });
        }
        Ok(Repository { store })
    }

    /// Opens the repository, writing `repository.json` where there is none yet.
    pub async fn open_or_create(store: Arc<dyn Store>, now: DateTime<Utc>) -> Result<Repository, Error> {
        match Repository::open(store.clone()).await {
            Err(Error::NoRepository { .. }) => {}
            other => return other,
        }
        let id = format!("{:032x}", rand::random::<u128>());
        let root = RootDocument { id, created_at: now, recipients: Vec::new() };
        match store.create(&layout::repository()?, document::seal("repository", &root)?.into()).await {
            // Somebody else was faster, which is as good.
            Ok(()) | Err(store::Error::Exists { .. }) => Repository::open(store).await,
            Err(error) => Err(error.into()),
        }
    }

    /// The cluster of this name; it may have nothing yet.
    pub fn cluster(&self, name: &str) -> Result<Cluster, Error> {
        Ok(Cluster::new(self.store.clone(), Layout::new(name)?))
    }

    /// The names of the clusters there are.
    pub async fn cluster_names(&self) -> Result<Vec<String>, Error> {
        let entries = self.store.list(&Directory::root()).await?;
        Ok(entries
            .into_iter()
            .filter_map(|entry| match entry {
                Entry::Directory { name } => Some(name),
                Entry::Object { .. } => None,
            })
            .collect())
    }

    /// Where it is, for messages.
    pub fn address(&self) -> String {
        self.store.address()
    }
}
