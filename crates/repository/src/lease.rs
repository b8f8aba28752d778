//! Who of several services archives a cluster: a document that one of them holds, and renews.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use store::Version;

use crate::{Cluster, Error, document};

/// The right to archive a cluster, as one service holds it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lease {
    /// Grows each time it changes hands. Whoever remembers a smaller one has lost it.
    pub token: u64,
    /// Who holds it, for people: `host/process id`; `None` when it was given back.
    pub holder: Option<String>,
    /// The holder's process, so that one on the same machine can see whether that is still there.
    pub process: String,
    /// The holder renews it within this time, or has lost it.
    pub milliseconds: u64,
    /// How often it was renewed. A change tells that the holder lives, whatever anybody's clock says.
    pub renewals: u64,
    /// When it was renewed, for people.
    pub renewed_at: DateTime<Utc>,
}

/// Another service waits for the lease.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Waiting {
    /// Who, for people.
    pub by: String,
    /// Changes while it does.
    pub count: u64,
}

/// A lease as it was read. Whoever replaces it does so only if nobody else has meanwhile.
#[derive(Debug, Clone)]
pub struct LeaseSeen {
    /// The lease; `None` when nobody ever held it, or when it cannot be read.
    pub lease: Option<Lease>,
    version: Option<Version>,
}

impl Cluster {
    /// The lease as it is now.
    pub async fn lease(&self) -> Result<LeaseSeen, Error> {
        let key = self.layout.lease()?;
        let Some((bytes, version)) = self.store.read_version(&key).await? else {
            return Ok(LeaseSeen { lease: None, version: None });
        };
        // What cannot be read is nobody's.
        let lease = document::open("lease", &key, &bytes).ok();
        Ok(LeaseSeen { lease, version: Some(version) })
    }

    /// Takes, renews or gives back the lease; `None` when somebody else has changed it since it was seen.
    pub async fn replace_lease(&self, seen: &LeaseSeen, lease: Lease) -> Result<Option<LeaseSeen>, Error> {
        let key = self.layout.lease()?;
        let body = document::seal("lease", &lease)?;
        match self.store.replace(&key, seen.version.as_ref(), body.into()).await {
            Ok(version) => Ok(Some(LeaseSeen { lease: Some(lease), version: Some(version) })),
            Err(store::Error::Changed { .. } | store::Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Who waits for the lease, if anybody says so.
    pub async fn waiting(&self) -> Result<Option<Waiting>, Error> {
        let key = self.layout.waiting()?;
        let found = self.store.read_version(&key).await?;
        Ok(found.and_then(|(bytes, _)| document::open("waiting", &key, &bytes).ok()))
    }

    /// Says that we wait for the lease. Of several who wait, the last one's word is there.
    pub async fn say_waiting(&self, waiting: &Waiting) -> Result<(), Error> {
        let key = self.layout.waiting()?;
        let version = self.store.read_version(&key).await?.map(|(_, version)| version);
        let body = document::seal("waiting", waiting)?;
        match self.store.replace(&key, version.as_ref(), body.into()).await {
            Ok(_) | Err(store::Error::Changed { .. }) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}
