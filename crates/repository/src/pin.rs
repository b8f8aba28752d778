//! Pins: a backup that somebody wants to keep, whatever the policy says.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::{BackupId, Cluster, Error, document};

/// Keeps a backup from expiring.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pin {
    /// The backup.
    pub backup: BackupId,
    /// Why, in the words of whoever pinned it.
    pub reason: Option<String>,
    /// Until when; `None` for as long as it is there.
    pub until: Option<DateTime<Utc>>,
    /// When it was pinned.
    pub at: DateTime<Utc>,
}

impl Pin {
    /// Whether it still holds.
    pub fn holds(&self, now: DateTime<Utc>) -> bool {
        self.until.is_none_or(|until| now < until)
    }
}

impl Cluster {
    /// Pins a backup, which has to be there. A pin that is there already is replaced.
    pub async fn pin(&self, pin: &Pin) -> Result<(), Error> {
        self.record(&pin.backup).await?;
        let key = self.layout.pin(&pin.backup)?;
        let body = document::seal("pin", pin)?;
        // Between the two it is not pinned, and whoever dies there is told that it is not.
        match self.store.create(&key, body.clone().into()).await {
            Err(store::Error::Exists { .. }) => {
                self.store.delete(&key).await?;
                Ok(self.store.create(&key, body.into()).await?)
            }
            created => Ok(created?),
        }
    }

    /// Takes the pin off a backup; whether there was one.
    pub async fn unpin(&self, backup: &BackupId) -> Result<bool, Error> {
        let is_pinned = self.pin_of(backup).await?.is_some();
        self.store.delete(&self.layout.pin(backup)?).await?;
        Ok(is_pinned)
    }

    /// The pin of a backup. One that cannot be read holds: nobody knows until when.
    pub async fn pin_of(&self, backup: &BackupId) -> Result<Option<Pin>, Error> {
        let key = self.layout.pin(backup)?;
        let bytes = match self.store.read(&key, None).await {
            Err(store::Error::NotFound { .. }) => return Ok(None),
            bytes => bytes?,
        };
        let unreadable = |error: Error| Pin {
            backup: backup.clone(),
            reason: Some(format!("the pin cannot be read: {error}")),
            until: None,
            at: DateTime::UNIX_EPOCH,
        };
        Ok(Some(document::open("pin", &key, &bytes).unwrap_or_else(unreadable)))
    }
}
