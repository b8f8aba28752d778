//! What changes: heartbeats of running backups, and of restores. Losing it loses no data.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use store::Key;

use crate::{BackupId, Cluster, Error, document};

/// Characters of a runner that are part of a name.
const RUNNER_CHARS_MAX: usize = 80;

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

/// A restore says that it runs, or did not long ago, and what it counts on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RestoreHeartbeat {
    /// The backup that is restored.
    pub backup: BackupId,
    /// Where it runs: `host/process id`.
    pub runner: String,
    /// When it began.
    pub started_at: DateTime<Utc>,
    /// When it last said so; the restored server goes on asking for WAL after that.
    pub updated_at: DateTime<Utc>,
}

/// What the last verification came to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verification {
    /// When it began.
    pub started_at: DateTime<Utc>,
    /// When it was over.
    pub finished_at: DateTime<Utc>,
    /// Whether packs and WAL were read, and not only looked for.
    pub read: bool,
    /// How much was found.
    pub findings: u64,
    /// The worst of it, in a sentence.
    pub worst: Option<String>,
    /// Objects that could not be read, so that nothing is known of them.
    pub unread: u64,
}

impl RestoreHeartbeat {
    fn name(&self) -> String {
        let plain = self.runner.chars().filter(char::is_ascii_alphanumeric);
        format!("{}{}", BackupId::at(self.started_at), plain.take(RUNNER_CHARS_MAX).collect::<String>())
    }
}

impl Cluster {
    /// Says that a restore runs.
    pub async fn beat_restore(&self, heartbeat: &RestoreHeartbeat) -> Result<(), Error> {
        let key = self.layout.restore(&heartbeat.name())?;
        self.replace_state(&key, document::seal("restore", heartbeat)?).await
    }

    /// All restores that said so, lately or not. One that cannot be read counts as none.
    pub async fn restores(&self) -> Result<Vec<RestoreHeartbeat>, Error> {
        let mut found = Vec::new();
        for entry in self.store.list_any(&self.layout.restores()?).await? {
            let Some(name) = entry.name().strip_suffix(".json") else { continue };
            let key = self.layout.restore(name)?;
            if let Some((bytes, _)) = self.store.read_version(&key).await? {
                found.extend(document::open::<RestoreHeartbeat>("restore", &key, &bytes).ok());
            }
        }
        Ok(found)
    }

    /// Forgets a restore.
    pub async fn forget_restore(&self, heartbeat: &RestoreHeartbeat) -> Result<(), Error> {
        Ok(self.store.delete(&self.layout.restore(&heartbeat.name())?).await?)
    }

    /// Remembers what a verification came to.
    pub async fn note_verification(&self, verification: &Verification) -> Result<(), Error> {
        self.replace_state(&self.layout.verification()?, document::seal("verification", verification)?).await
    }

    /// What the last verification came to; `None` where there was none, or nothing is known of it.
    pub async fn verification(&self) -> Result<Option<Verification>, Error> {
        let key = self.layout.verification()?;
        let found = self.store.read_version(&key).await?;
        Ok(found.and_then(|(bytes, _)| document::open("verification", &key, &bytes).ok()))
    }

    /// Replaces a document of the state, whatever it said.
    async fn replace_state(&self, key: &Key, body: Vec<u8>) -> Result<(), Error> {
        let version = self.store.read_version(key).await?.map(|(_, version)| version);
        match self.store.replace(key, version.as_ref(), body.into()).await {
            Ok(_) | Err(store::Error::Changed { .. }) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

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
            // An expired backup of that name may have left packs that others refer to, and a failure would take them along.
            let taken = !self.store.list_any(&self.layout.backup(&id)?).await?.is_empty();
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
        self.replace_state(&key, document::seal("heartbeat", heartbeat)?).await
    }

    /// The backup runs no more, whether it is published or not.
    pub async fn end_backup(&self, id: &BackupId) -> Result<(), Error> {
        Ok(self.store.delete(&self.layout.heartbeat(id)?).await?)
    }

    /// All heartbeats, of living and dead. One that cannot be read counts as none. Where there are several repositories,
    /// the first has them.
    pub async fn heartbeats(&self) -> Result<Vec<Heartbeat>, Error> {
        let directory = self.layout.heartbeats()?;
        let mut found = Vec::new();
        for entry in self.store.list_any(&directory).await? {
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
