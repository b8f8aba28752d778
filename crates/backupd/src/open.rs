//! Opening the repository that the configuration names.

use std::fs;
use std::io;
use std::sync::Arc;

use chrono::{DateTime, Utc};
use repository::{BackupId, Cluster, Repository};
use store::mirror::MirrorStore;
use store::{OpenError, Store};

use crate::config::{self, Address, Settings};
use crate::lazy::LazyStore;
use crate::{Copies, Failure};

/// The cluster in a repository that exists. Looking makes nothing.
pub async fn existing(settings: &Settings) -> Result<Cluster, Failure> {
    Ok(repository(settings).await?.cluster(&settings.cluster)?)
}

/// The repository, which must exist.
pub async fn repository(settings: &Settings) -> Result<Repository, Failure> {
    let address = &settings.repository;
    if is_missing(address) {
        return Err(repository::Error::NoRepository { address: address.to_string() }.into());
    }
    let keys = settings.encryption.keys()?;
    Ok(Repository::open(open_store(settings).await?).await?.with_keys(keys))
}

/// The repository at another address, which must exist.
pub async fn existing_at(address: &Address, settings: &Settings) -> Result<Repository, Failure> {
    if is_missing(address) {
        return Err(repository::Error::NoRepository { address: address.to_string() }.into());
    }
    Ok(Repository::open(store_at(address, settings).await?).await?)
}

/// As [`existing`], for whom asks whether it could be written to: it must be for those whom the configuration names, where
/// it names anybody.
pub async fn existing_for_writing(settings: &Settings) -> Result<Cluster, Failure> {
    let repository = repository(settings).await?;
    if let Some(recipients) = &settings.encryption.recipients {
        repository.expect_recipients(recipients)?;
    }
    Ok(repository.cluster(&settings.cluster)?)
}

/// Whether it is a directory that is not there.
pub fn is_missing(address: &Address) -> bool {
    let gone = |error: io::Error| error.kind() == io::ErrorKind::NotFound;
    address.directory().is_some_and(|directory| fs::metadata(directory).is_err_and(gone))
}

/// The cluster in a repository that is made where there is none, for writing: it must be for those whom the configuration
/// names, where it names anybody. Who only reads may do so whatever somebody has put there. Where there are several
/// repositories, this writes to all that must have everything.
pub async fn or_create(settings: &Settings, now: DateTime<Utc>) -> Result<Cluster, Failure> {
    // Those that may lag get it from the service, which is there for longer than we are.
    Ok(in_all(settings, Vec::new(), now).await?.0)
}

/// As [`or_create`], for the service: also writes to those that may lag, and tells what the several ones are.
pub async fn with_copies(
    settings: &Settings,
    now: DateTime<Utc>,
) -> Result<(Cluster, Option<Copies>), Failure> {
    let lazy = |address: &Address| -> Arc<dyn Store> {
        Arc::new(LazyStore::new(address.to_string(), settings.store.clone()))
    };
    in_all(settings, settings.further.later.iter().map(lazy).collect(), now).await
}

async fn in_all(
    settings: &Settings,
    lagging: Vec<Arc<dyn Store>>,
    now: DateTime<Utc>,
) -> Result<(Cluster, Option<Copies>), Failure> {
    let address = &settings.repository;
    if address.is_read_only() {
        return Err(store::Error::ReadOnly { address: address.to_string() }.into());
    }
    let mut required = vec![open_store(settings).await?];
    for address in &settings.further.also {
        required.push(store_at(address, settings).await?);
    }
    if required.len() == 1 && lagging.is_empty() {
        return Ok((made_in(required.remove(0), settings, now).await?, None));
    }
    // The first that has them: a repository that was lost comes back as the copy it is.
    repository::copy::settle_heads(&required, &settings.cluster).await?;
    let mirror = Arc::new(MirrorStore::new(required[0].clone(), required[1..].to_vec(), lagging));
    let cluster = made_in(mirror.clone(), settings, now).await?;
    let mut each = Vec::new();
    for store in required {
        each.push(Repository::open(store).await?.cluster(&settings.cluster)?);
    }
    let alike = Arc::new(MirrorStore::new(each[0].store().clone(), stores(&each[1..]), Vec::new()));
    let kept = Repository::open(alike).await?.cluster(&settings.cluster)?;
    let copies = Copies { first: each.remove(0), required: each, kept, lagging: mirror.lagging().to_vec() };
    Ok((cluster, Some(copies)))
}

fn stores(clusters: &[Cluster]) -> Vec<Arc<dyn Store>> {
    clusters.iter().map(|cluster| cluster.store().clone()).collect()
}

async fn made_in(store: Arc<dyn Store>, settings: &Settings, now: DateTime<Utc>) -> Result<Cluster, Failure> {
    let keys = settings.encryption.keys()?;
    let recipients = settings.encryption.recipients.clone().unwrap_or_default();
    let repository = Repository::open_or_create_for(store, now, &recipients).await?.with_keys(keys);
    if let Some(recipients) = &settings.encryption.recipients {
        repository.expect_recipients(recipients)?;
    }
    Ok(repository.cluster(&settings.cluster)?)
}

/// The names of the cluster's backups, where the repository itself cannot be opened.
pub async fn backup_names(settings: &Settings) -> Result<Vec<BackupId>, Failure> {
    let store = open_store(settings).await?;
    Ok(repository::backup::names(&store, &settings.cluster).await?)
}

/// The store that holds the repository; the first one, where there are several.
pub async fn open_store(settings: &Settings) -> Result<Arc<dyn Store>, Failure> {
    store_at(&settings.repository, settings).await
}

/// The store at an address. A directory that is not there is made.
pub async fn store_at(address: &Address, settings: &Settings) -> Result<Arc<dyn Store>, Failure> {
    let wrong = |error: &OpenError, what: &str| Err(config::Error::new(format!("{error}: {what}")).into());
    match store::open_with(address.as_str(), &settings.store).await {
        Ok(store) => Ok(store),
        Err(OpenError::Store(error)) => Err(error.into()),
        Err(error @ OpenError::Insecure(_)) => {
            wrong(&error, "or set DRYDOCK_REPOSITORY_INSECURE=true where the network is trusted")
        }
        Err(error @ OpenError::NoToken(_)) => {
            wrong(&error, "set DRYDOCK_REPOSITORY_TOKEN_FILE to a file that has it")
        }
        Err(error @ OpenError::Token) => wrong(&error, "look for spaces and line breaks in it"),
        Err(OpenError::CaFile { path, source }) => Err(config::Error::new(format!(
            "DRYDOCK_REPOSITORY_CA_FILE names {path}, which cannot be used: {source}"
        ))
        .into()),
        // The configuration has checked the address; the two disagree only if one of them is wrong.
        Err(error @ (OpenError::Address(_) | OpenError::Tls { .. } | OpenError::Option { .. })) => {
            Err(Failure::System { action: "open the repository", source: io::Error::other(error) })
        }
    }
}
