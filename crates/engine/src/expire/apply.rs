//! Carrying a plan out. Whoever dies here, or runs twice at once, does no harm: what is left is found again.

use std::collections::BTreeSet;
use std::time::Duration;

use chrono::{DateTime, Utc};
use futures::{StreamExt, TryStreamExt};
use pgformat::{SegmentSize, TimelineId};
use repository::wal::{Expired, Range};
use repository::{BackupId, Cluster};
use serde::Serialize;

use super::leftovers::{leftovers, lives, remove_leftovers};
use super::plan::{BackupFate, Kept, Plan};
use crate::Error;

/// A restore that was last heard of so long ago protects nothing any more, twice over.
const RESTORE_FORGOTTEN_AFTER: chrono::Duration = chrono::Duration::days(2);
/// WAL objects that are removed at once.
const IN_FLIGHT_MAX: usize = 8;

/// What was removed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Applied {
    /// Backups.
    pub backups: u64,
    /// WAL objects: segments, and pieces of segments.
    pub wal_objects: u64,
    /// Bytes of them.
    pub wal_bytes: u64,
    /// Bytes of packs, maps and lists, of these backups and of dead ones.
    pub backup_bytes: u64,
}

/// Removes what the plan says: records, then WAL, then whatever no record names any more.
pub async fn apply(
    cluster: &Cluster,
    plan: &Plan,
    now: DateTime<Utc>,
    dead_after: Duration,
) -> Result<Applied, Error> {
    let (backups, all) = remove_records(cluster, plan, now, dead_after).await?;
    let mut applied = Applied { backups, ..Applied::default() };
    // A record that stays needs WAL that the plan has given up; the next plan knows.
    if all {
        remove_all_wal(cluster, plan, now, &mut applied).await?;
    }
    for restore in cluster.restores().await? {
        if now.signed_duration_since(restore.updated_at) > RESTORE_FORGOTTEN_AFTER {
            cluster.forget_restore(&restore).await?;
        }
    }
    let left = leftovers(cluster, now, dead_after).await?;
    applied.backup_bytes = remove_leftovers(cluster, &left).await?;
    Ok(applied)
}

async fn remove_all_wal(
    cluster: &Cluster,
    plan: &Plan,
    now: DateTime<Utc>,
    applied: &mut Applied,
) -> Result<(), Error> {
    let size = cluster.require_identity().await?.segment_size();
    let touched: BTreeSet<TimelineId> =
        plan.wal.iter().filter(|wal| !wal.keep).map(|wal| wal.timeline).collect();
    for (timeline, kept) in plan.timelines.iter().filter(|(timeline, _)| touched.contains(timeline)) {
        let (objects, bytes) = remove_wal(cluster, *timeline, kept, size, now).await?;
        applied.wal_objects += objects;
        applied.wal_bytes += bytes;
    }
    for hole in &plan.holes {
        cluster.forget_hole(hole).await?;
    }
    Ok(())
}

/// Removes the records of backups that go. Not of those that somebody has begun to count on since the plan was made; whoever does
/// so from now on no longer finds them. Gives how many went, and whether all did.
async fn remove_records(
    cluster: &Cluster,
    plan: &Plan,
    now: DateTime<Utc>,
    dead_after: Duration,
) -> Result<(u64, bool), Error> {
    let mut removed = 0;
    let mut all = true;
    let going: Vec<BackupFate> = plan.going().cloned().collect();
    for backup in going {
        if counted_on(cluster, now, dead_after).await?.contains(&backup.id) {
            tracing::info!(backup = %backup.id, "the backup stays for now: somebody has begun to use it");
            all = false;
            continue;
        }
        if cluster.pin_of(&backup.id).await?.is_some_and(|pin| pin.holds(now)) {
            tracing::info!(backup = %backup.id, "the backup stays: somebody has pinned it");
            all = false;
            continue;
        }
        cluster.unpublish(&backup.id).await?;
        tracing::info!(backup = %backup.id, finished_at = %backup.finished_at, "the backup has expired");
        removed += 1;
    }
    Ok((removed, all))
}

async fn counted_on(
    cluster: &Cluster,
    now: DateTime<Utc>,
    dead_after: Duration,
) -> Result<BTreeSet<BackupId>, Error> {
    let lives = |updated_at| lives(updated_at, now, dead_after);
    let parents = cluster.heartbeats().await?.into_iter().filter(|running| lives(running.updated_at));
    let restored = cluster.restores().await?.into_iter().filter(|restore| lives(restore.updated_at));
    Ok(parents.filter_map(|running| running.parent).chain(restored.map(|restore| restore.backup)).collect())
}

/// Removes the WAL of a timeline that does not stay; gives how many objects and bytes.
///
/// That it goes is written down first: a crash leaves some of it, with gaps between that are no loss. It stays written down, for
/// another repository that was away meanwhile may bring some of it back.
async fn remove_wal(
    cluster: &Cluster,
    timeline: TimelineId,
    kept: &Kept,
    size: SegmentSize,
    now: DateTime<Utc>,
) -> Result<(u64, u64), Error> {
    let mut going = cluster.wal_objects(timeline, size).await?;
    let end = going.iter().map(|object| object.range.to).max().unwrap_or_default();
    going.retain(|object| !kept.keeps(object.range));
    going.sort_by_key(|object| object.range.from);
    let stretches: BTreeSet<Range> =
        going.iter().map(|object| kept.gone_around(object.range.from, end)).collect();
    for range in &stretches {
        cluster.put_expired(&Expired { timeline, from: range.from, to: range.to, at: now }).await?;
    }
    let bytes = going.iter().map(|object| object.stored_bytes).sum();
    let count = going.len();
    let removals = going.into_iter().map(|object| {
        let cluster = cluster.clone();
        async move { cluster.remove_wal(&object, size).await }
    });
    futures::stream::iter(removals).buffered(IN_FLIGHT_MAX).try_collect::<()>().await?;
    forget(cluster, timeline, &stretches, size).await?;
    if count > 0 {
        tracing::info!(%timeline, objects = count, bytes, "WAL that no backup needs has been removed");
    }
    Ok((count as u64, bytes))
}

/// Forgets what a longer stretch says as well.
async fn forget(
    cluster: &Cluster,
    timeline: TimelineId,
    stretches: &BTreeSet<Range>,
    size: SegmentSize,
) -> Result<(), Error> {
    if stretches.is_empty() {
        return Ok(());
    }
    for range in cluster.timeline_coverage(timeline, size).await?.expired {
        let says_more = |other: &Range| *other != range && other.from <= range.from && range.to <= other.to;
        if stretches.iter().any(says_more) {
            cluster.forget_expired(timeline, range).await?;
        }
    }
    Ok(())
}
