//! Opening the repository that the configuration names.

use std::fs;
use std::io;

use chrono::{DateTime, Utc};
use repository::{Cluster, Repository};

use crate::Failure;
use crate::config::Settings;

/// The cluster in a repository that exists. Looking makes nothing.
pub async fn existing(settings: &Settings) -> Result<Cluster, Failure> {
    let address = &settings.repository;
    if fs::metadata(address.directory()).is_err_and(|error| error.kind() == io::ErrorKind::NotFound) {
        return Err(repository::Error::NoRepository { address: address.to_string() }.into());
    }
    let store = open_store(settings).await?;
    Ok(Repository::open(store).await?.cluster(&settings.cluster)?)
}

/// The cluster in a repository that is made where there is none.
pub async fn or_create(settings: &Settings, now: DateTime<Utc>) -> Result<Cluster, Failure> {
    let store = open_store(settings).await?;
    Ok(Repository::open_or_create(store, now).await?.cluster(&settings.cluster)?)
}

async fn open_store(settings: &Settings) -> Result<std::sync::Arc<dyn store::Store>, Failure> {
    match store::open(settings.repository.as_str()).await {
        Ok(store) => Ok(store),
        Err(store::OpenError::Store(error)) => Err(error.into()),
        // The configuration has checked the address; the two disagree only if one of them is wrong.
        Err(error @ store::OpenError::Address(_)) => {
            Err(Failure::System { action: "open the repository", source: io::Error::other(error) })
        }
    }
}
