//! The repository as a whole.

use std::sync::Arc;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use store::{Directory, Entry, Store};

use crate::cluster::Cluster;
use crate::crypt::{Access, Keys, Recipient, Recipients};
use crate::layout::{self, Layout};
use crate::{Error, document};

/// A store that holds clusters.
#[derive(Debug, Clone)]
pub struct Repository {
    store: Arc<dyn Store>,
    access: Arc<Access>,
}

#[derive(Debug, Serialize, Deserialize)]
struct RootDocument {
    id: String,
    created_at: DateTime<Utc>,
    /// Whom what is stored is encrypted to; nobody means that it is not encrypted.
    #[serde(default)]
    recipients: Vec<String>,
}

impl RootDocument {
    fn open(bytes: &[u8]) -> Result<(RootDocument, Recipients), Error> {
        let key = layout::repository()?;
        let root: RootDocument = document::open("repository", &key, bytes)?;
        // Writing plain text, or to fewer, where encryption was asked for would be worse than not writing.
        let recipients =
            root.recipients.iter().map(|text| text.parse()).collect::<Result<Vec<Recipient>, _>>();
        let recipients = recipients.and_then(Recipients::new);
        let recipients = recipients.map_err(|error| Error::damaged(&key, error.to_string()))?;
        Ok((root, recipients))
    }
}

/// Tries to change `repository.json` at most so often, while others change it too.
const CHANGES_MAX: usize = 16;

impl Repository {
    /// Opens a repository that exists.
    pub async fn open(store: Arc<dyn Store>) -> Result<Repository, Error> {
        let bytes = match store.read(&layout::repository()?, None).await {
            Err(store::Error::NotFound { .. }) => {
                return Err(Error::NoRepository { address: store.address() });
            }
            bytes => bytes?,
        };
        let (root, recipients) = RootDocument::open(&bytes)?;
        let access = Access { repository_id: root.id, recipients, keys: Keys::default() };
        Ok(Repository { store, access: Arc::new(access) })
    }

    /// Opens the repository, writing `repository.json` where there is none yet.
    pub async fn open_or_create(store: Arc<dyn Store>, now: DateTime<Utc>) -> Result<Repository, Error> {
        Repository::open_or_create_for(store, now, &Recipients::default()).await
    }

    /// As [`Repository::open_or_create`]; one that is made is encrypted to these recipients.
    pub async fn open_or_create_for(
        store: Arc<dyn Store>,
        now: DateTime<Utc>,
        recipients: &Recipients,
    ) -> Result<Repository, Error> {
        match Repository::open(store.clone()).await {
            Err(Error::NoRepository { .. }) => {}
            other => return other,
        }
        let id = format!("{:032x}", rand::random::<u128>());
        let root = RootDocument { id, created_at: now, recipients: recipients.texts() };
        match store.create(&layout::repository()?, document::seal("repository", &root)?.into()).await {
            // Somebody else was faster, which is as good.
            Ok(()) | Err(store::Error::Exists { .. }) => Repository::open(store).await,
            Err(error) => Err(error.into()),
        }
    }

    /// The same, read with these keys.
    pub fn with_keys(&self, keys: Keys) -> Repository {
        let Access { repository_id, recipients, .. } = &*self.access;
        let access = Access { repository_id: repository_id.clone(), recipients: recipients.clone(), keys };
        Repository { store: self.store.clone(), access: Arc::new(access) }
    }

    /// To whom what is written is encrypted.
    pub fn recipients(&self) -> &Recipients {
        &self.access.recipients
    }

    /// Sees that the repository is encrypted to just these: [`Error::OtherRecipients`].
    pub fn expect_recipients(&self, configured: &Recipients) -> Result<(), Error> {
        let found = self.recipients();
        if found == configured {
            return Ok(());
        }
        let text = |recipients: &Recipients| match recipients.is_empty() {
            true => "nobody".to_owned(),
            false => recipients.texts().join(", "),
        };
        Err(Error::OtherRecipients {
            address: self.address(),
            found: text(found),
            configured: text(configured),
        })
    }

    /// Adds a recipient of all that is written from now on; `false` when it was one already.
    pub async fn add_recipient(&self, new: &Recipient) -> Result<bool, Error> {
        let add = |recipients: &Recipients| {
            let known = recipients.iter().any(|recipient| recipient == new);
            Ok((!known).then(|| recipients.iter().chain([new]).cloned().collect()))
        };
        self.change_recipients(add).await
    }

    /// Takes away a recipient. The last one goes only with `plain`: nothing is encrypted from then on.
    pub async fn remove_recipient(&self, old: &Recipient, plain: bool) -> Result<(), Error> {
        let remove = |recipients: &Recipients| {
            let left: Vec<Recipient> =
                recipients.iter().filter(|recipient| *recipient != old).cloned().collect();
            match left.len() {
                count if count == recipients.iter().count() => Err(Error::NoRecipient(old.to_string())),
                0 if !plain => Err(Error::LastRecipient(old.to_string())),
                _ => Ok(Some(left)),
            }
        };
        self.change_recipients(remove).await.map(drop)
    }

    /// Replaces the list if nobody else did meanwhile, and otherwise looks again; `false` when there was nothing to change.
    async fn change_recipients(
        &self,
        change: impl Fn(&Recipients) -> Result<Option<Vec<Recipient>>, Error>,
    ) -> Result<bool, Error> {
        let key = layout::repository()?;
        let mut tries = 0;
        loop {
            let Some((bytes, version)) = self.store.read_version(&key).await? else {
                return Err(Error::NoRepository { address: self.address() });
            };
            let (mut root, recipients) = RootDocument::open(&bytes)?;
            let Some(changed) = change(&recipients)? else { return Ok(false) };
            root.recipients = Recipients::new(changed)?.texts();
            let body = document::seal("repository", &root)?.into();
            match self.store.replace(&key, Some(&version), body).await {
                Ok(_) => return Ok(true),
                Err(store::Error::Changed { .. }) if tries < CHANGES_MAX => tries += 1,
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// The cluster of this name; it may have nothing yet.
    pub fn cluster(&self, name: &str) -> Result<Cluster, Error> {
        Ok(Cluster::new(self.store.clone(), Layout::new(name)?, self.access.clone()))
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
