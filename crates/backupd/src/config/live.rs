//! Settings that change while the service runs, when it is told to read them again.

use std::sync::Arc;

use tokio::sync::watch;

use super::{Settings, setting};

/// Keys, or the beginnings of keys, whose values are looked up whenever they are needed. All others count from start to end.
const CHANGE: [&str; 6] = ["api.token", "backup.", "events.", "retention.", "schedule.", "verify."];

/// The settings as they are now.
#[derive(Debug, Clone)]
pub struct Live(watch::Receiver<Arc<Settings>>);

/// Where they are changed.
#[derive(Debug)]
pub struct Changes(watch::Sender<Arc<Settings>>);

/// What reading the settings again came to.
#[derive(Debug, PartialEq, Eq)]
pub struct Reloaded {
    /// Keys with another value, which counts from now on.
    pub changed: Vec<&'static str>,
    /// Keys with another value that counts from the next start on.
    pub waiting: Vec<&'static str>,
}

impl Live {
    /// Settings, and where they are changed.
    pub fn new(settings: Settings) -> (Changes, Live) {
        let (sender, receiver) = watch::channel(Arc::new(settings));
        (Changes(sender), Live(receiver))
    }

    /// As they are now; whoever asks again later may get others.
    pub fn now(&self) -> Arc<Settings> {
        self.0.borrow().clone()
    }

    /// Waits until they have changed; for ever when they cannot any more.
    pub async fn changed(&mut self) {
        if self.0.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

impl Changes {
    /// Takes over what may change of `read`. The rest stays as it is.
    pub fn take(&self, read: &Settings) -> Reloaded {
        let now = self.0.borrow().clone();
        let other = |key: &&str| now.fingerprints.get(key) != read.fingerprints.get(key);
        let keys = setting::ALL.iter().map(|setting| setting.key).filter(other);
        let (changed, waiting): (Vec<_>, Vec<_>) = keys.partition(|key| may_change(key));
        if !changed.is_empty() {
            self.0.send_replace(Arc::new(merged(&now, read)));
        }
        Reloaded { changed, waiting }
    }
}

fn may_change(key: &str) -> bool {
    CHANGE.iter().any(|word| key.starts_with(word))
}

/// `now` with what may change as in `read`.
fn merged(now: &Settings, read: &Settings) -> Settings {
    let mut fingerprints = now.fingerprints.clone();
    for key in setting::ALL.iter().map(|setting| setting.key).filter(|key| may_change(key)) {
        match read.fingerprints.get(key) {
            Some(fingerprint) => fingerprints.insert(key, *fingerprint),
            None => fingerprints.remove(key),
        };
    }
    Settings {
        api_token: read.api_token.clone(),
        backup_source: read.backup_source,
        level: read.level,
        role_files: read.role_files.clone(),
        wal_wait: read.wal_wait,
        dead_after: read.dead_after,
        max_rate_kb: read.max_rate_kb,
        schedule: read.schedule.clone(),
        retention: read.retention.clone(),
        events: read.events.clone(),
        fingerprints,
        ..now.clone()
    }
}
