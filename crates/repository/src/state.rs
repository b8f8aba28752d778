//! What changes: heartbeats of running backups. Losing it loses no data.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::{BackupId, Cluster, Error, document};

/// A running backup says that it runs, and what it counts on.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Heartbeat {
    /// The backup.
    pub id: BackupId,
    /// The backup whose packs it may refer to; it must not expire meanwhile.
    pub parent: Option<BackupId>,
    /// Where it runs: `host/process id`.
    pub runner: String,
    /// When it began.
    pub started_at: DateTime<Utc>,
    /// When it last said so.
    pub updated_at: DateTime<Utc>,
}

impl Cluster {
    /// Takes a name for a backup that begins, which nobody else has, and says that it runs.
    ///
    /// A name is a second, so whoever meets a taken one takes the next that is free.
    pub async fn begin_backup(&self, now: DateTime<Utc>, runner: &str) -> Result<Heartbeat, Error> {
        let mut at = now;
        loop {
            let id = BackupId::at(at);
            let heartbeat = Heartbeat {
                id: id.clone(),
                parent: None,
                runner: runner.to_owned(),
                started_at: now,
                updated_at: now,
            };
            let body = document::seal("heartbeat", &heartbeat)?;
            let taken = self.store.read_version(&self.layout.record(&id)?).await?.is_some();
            match self.store.replace(&self.layout.heartbeat(&id)?, None, body.into()).await {
                Ok(_) if !taken => return Ok(heartbeat),
                Ok(_) => self.store.delete(&self.layout.heartbeat(&id)?).await?,
                Err(store::Error::Changed { .. }) => {}
                Err(error) => return Err(error.into()),
            }
            at += chrono::Duration::seconds(1);
        }
    }

    /// Says that the backup still runs.
    pub async fn beat(&self, heartbeat: &Heartbeat) -> Result<(), Error> {
        let key = self.layout.heartbeat(&heartbeat.id)?;
        let version = self.store.read_version(&key).await?.map(|(_, version)| version);
        let body = document::seal("heartbeat", heartbeat)?;
        match self.store.replace(&key, version.as_ref(), body.into()).await {
            Ok(_) | Err(store::Error::Changed { .. }) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// The backup runs no more, whether it is published or not.
    pub async fn end_backup(&self, id: &BackupId) -> Result<(), Error> {
        Ok(self.store.delete(&self.layout.heartbeat(id)?).await?)
    }

    /// All heartbeats, of living and dead. One that cannot be read counts as none.
    pub async fn heartbeats(&self) -> Result<Vec<Heartbeat>, Error> {
        let directory = self.layout.heartbeats()?;
        let mut found = Vec::new();
        for entry in self.store.list(&directory).await? {
            let Some(id) = entry.name().strip_suffix(".json").and_then(|id| id.parse().ok()) else {
                continue;
            };
            let key = self.layout.heartbeat(&id)?;
            if let Some((bytes, _)) = self.store.read_version(&key).await? {
                found.extend(document::open::<Heartbeat>("heartbeat", &key, &bytes).ok());
            }
        }
        Ok(found)
    }
}
