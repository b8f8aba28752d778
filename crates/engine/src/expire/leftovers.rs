//! What dead and expired backups left: objects in directories without a record.

use std::collections::BTreeSet;
use std::time::Duration;

use chrono::{DateTime, Utc};
use repository::backup::Remains;
use repository::pack::PackName;
use repository::state::Heartbeat;
use repository::{BackupId, Cluster, Record};

use crate::Error;

/// What dead backups left, and what of it must stay.
#[derive(Debug, Default)]
pub struct Leftovers {
    /// Objects of backups that no record makes exist and that nobody is working on.
    pub remains: Vec<Remains>,
    /// Packs that a record names; they stay, wherever they lie.
    pub named: BTreeSet<PackName>,
    /// Heartbeats of the dead.
    pub heartbeats: Vec<BackupId>,
}

impl Leftovers {
    /// Whether there is anything to remove.
    pub fn is_empty(&self) -> bool {
        let removable = |remains: &Remains| !remains.removable(&self.named).is_empty();
        self.heartbeats.is_empty() && !self.remains.iter().any(removable)
    }
}

/// Finds what dead backups left.
///
/// A backup whose record cannot be read is not dead, and may name packs of others we would remove; while there is one,
/// nothing is removed.
pub async fn leftovers(
    cluster: &Cluster,
    now: DateTime<Utc>,
    dead_after: Duration,
) -> Result<Leftovers, Error> {
    // Remains first: a backup that is published in between then appears among the records.
    let remains = cluster.remains().await?;
    let heartbeats = cluster.heartbeats().await?;
    let backups = cluster.backups().await?;
    if !backups.unreadable.is_empty() || misses_parent(&heartbeats, &backups.records, now, dead_after) {
        return Ok(Leftovers::default());
    }
    Ok(plan(remains, &heartbeats, &backups.records, now, dead_after))
}

/// Whether a backup that runs refers to one that has expired since it began. Its packs must not go before it ends, and which they
/// are, only the record told.
fn misses_parent(
    heartbeats: &[Heartbeat],
    records: &[Record],
    now: DateTime<Utc>,
    dead_after: Duration,
) -> bool {
    let parents = heartbeats.iter().filter(|heartbeat| lives(heartbeat.updated_at, now, dead_after));
    let mut parents = parents.filter_map(|heartbeat| heartbeat.parent.as_ref());
    parents.any(|parent| !records.iter().any(|record| record.id == *parent))
}

/// Whether whoever last said so then still runs.
pub(super) fn lives(updated_at: DateTime<Utc>, now: DateTime<Utc>, dead_after: Duration) -> bool {
    // A clock that runs ahead of ours makes it silent for less than nothing: it lives.
    now.signed_duration_since(updated_at).to_std().map_or(true, |silent| silent < dead_after)
}

/// Decides what is dead: no record, and no sign of life for `dead_after`.
pub fn plan(
    remains: Vec<Remains>,
    heartbeats: &[Heartbeat],
    records: &[Record],
    now: DateTime<Utc>,
    dead_after: Duration,
) -> Leftovers {
    let living = heartbeats.iter().filter(|heartbeat| lives(heartbeat.updated_at, now, dead_after));
    let living: BTreeSet<&BackupId> = living.map(|heartbeat| &heartbeat.id).collect();
    let existing: BTreeSet<&BackupId> = records.iter().map(|record| &record.id).collect();
    let is_dead = |id: &BackupId| !living.contains(id) && !existing.contains(id);
    Leftovers {
        remains: remains.into_iter().filter(|remains| is_dead(&remains.id)).collect(),
        named: records.iter().flat_map(|record| record.packs.iter().map(|pack| pack.pack.clone())).collect(),
        heartbeats: heartbeats
            .iter()
            .map(|heartbeat| heartbeat.id.clone())
            .filter(|id| !living.contains(id))
            .collect(),
    }
}

/// Removes them; gives the bytes freed.
pub async fn remove_leftovers(cluster: &Cluster, leftovers: &Leftovers) -> Result<u64, Error> {
    let mut freed = 0;
    for remains in &leftovers.remains {
        let bytes = cluster.remove_remains(remains, &leftovers.named).await?;
        if bytes > 0 {
            tracing::info!(backup = %remains.id, bytes, "removed what a backup that died had left");
        }
        freed += bytes;
    }
    // Last, so that a crash in between finds the rest again.
    for id in &leftovers.heartbeats {
        cluster.end_backup(id).await?;
    }
    Ok(freed)
}
