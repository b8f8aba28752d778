//! Waiting for WAL that somebody else archives.

use std::time::Duration;

use pgformat::{History, Lsn, SegmentSize, TimelineId};
use repository::Cluster;
use repository::wal::{Durable, Hole};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::Error;
use crate::server::Server;

/// How long WAL may stand still before a backup is not even begun. Several times what a service needs to start.
const FLOW_WAIT: Duration = Duration::from_secs(30);
/// Time between two looks whether WAL flows, which list all of the timeline.
const FLOW_POLL_INTERVAL: Duration = Duration::from_millis(250);
/// Time between two looks for the backup's own WAL.
const POLL_INTERVAL: Duration = Duration::from_millis(100);

/// So many of these go by between two looks for holes.
const LOOKS_PER_HOLE_LOOK: u64 = 10;

/// Waits until WAL is seen to reach the repository: a backup without its WAL is no backup, and it is better to know
/// that before hours of copying.
pub(super) async fn until_wal_flows(
    cluster: &Cluster,
    server: &Server,
    shutdown: &CancellationToken,
) -> Result<(), Error> {
    let begun = Instant::now();
    let size = server.segment_size;
    let mut first = None;
    loop {
        let found = cluster.durable_end(server.timeline, size).await?;
        let at = found.map(|durable| durable.lsn());
        if at.is_some_and(|at| at >= server.flushed) || first.is_some_and(|first| at > first) {
            return Ok(());
        }
        first.get_or_insert(at);
        if begun.elapsed() > FLOW_WAIT {
            let reached =
                at.map_or_else(|| "has none of this timeline".to_owned(), |at| format!("ends at {at}"));
            let reason = format!(
                "WAL is not being archived: {} is at {} on timeline {}, and the WAL in the repository {reached}",
                server.target, server.flushed, server.timeline
            );
            return Err(Error::WalNotArchived { reason });
        }
        tokio::select! {
            () = shutdown.cancelled() => return Err(Error::Stopped),
            () = tokio::time::sleep(FLOW_POLL_INTERVAL) => {}
        }
    }
}

/// Waits until all WAL from `start` to `stop` is durable.
pub(super) async fn until_durable(
    cluster: &Cluster,
    size: SegmentSize,
    timeline: TimelineId,
    start: Lsn,
    stop: Lsn,
    limit: Duration,
) -> Result<Durable, Error> {
    let begun = Instant::now();
    let mut looks = 0u64;
    loop {
        let durable = cluster.durable_from(timeline, start, size).await?;
        let reached = match durable {
            Some(durable) if durable.lsn() >= stop => return Ok(durable),
            Some(durable) => durable.lsn(),
            None => start,
        };
        if let Some((newer, fork)) = left_before(cluster, timeline, stop).await? {
            let reason = format!(
                "timeline {timeline} was left at {fork} for timeline {newer}, before the backup's end at {stop}"
            );
            return Err(Error::Overtaken { reason });
        }
        if looks.is_multiple_of(LOOKS_PER_HOLE_LOOK)
            && let Some(hole) = hole_between(cluster, timeline, start, stop).await?
        {
            let reason = format!(
                "WAL of timeline {timeline} from {} to {} is missing for good, and the backup needs it",
                hole.from, hole.to
            );
            return Err(Error::Overtaken { reason });
        }
        looks += 1;
        if begun.elapsed() > limit {
            let reason = format!(
                "the backup was copied, but its WAL from {start} to {stop} is durable only up to {reached} after {} s",
                limit.as_secs()
            );
            return Err(Error::WalNotArchived { reason });
        }
        tokio::time::sleep(POLL_INTERVAL).await;
    }
}

/// A hole in the WAL from `start` to `stop`, which is never going to come then.
async fn hole_between(
    cluster: &Cluster,
    timeline: TimelineId,
    start: Lsn,
    stop: Lsn,
) -> Result<Option<Hole>, Error> {
    let holes = cluster.holes(timeline).await?;
    Ok(holes.into_iter().find(|hole| hole.from < stop && start < hole.to))
}

/// The timeline that left this one before a position, if one did: WAL up to there is never going to come.
async fn left_before(
    cluster: &Cluster,
    timeline: TimelineId,
    lsn: Lsn,
) -> Result<Option<(TimelineId, Lsn)>, Error> {
    for newer in cluster.histories().await?.into_iter().filter(|newer| *newer > timeline) {
        let Some(content) = cluster.history(newer).await? else { continue };
        let fork = History::parse(newer, &content).ok().and_then(|history| history.fork_from(timeline));
        if let Some(fork) = fork.filter(|fork| *fork < lsn) {
            return Ok(Some((newer, fork)));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use repository::Repository;
    use store::memory::MemoryStore;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn wal_that_is_missing_for_good_is_not_waited_for() {
        let now = chrono::DateTime::UNIX_EPOCH;
        let repository = Repository::open_or_create(Arc::new(MemoryStore::default()), now).await.unwrap();
        let cluster = repository.cluster("c").unwrap();
        let hole = |from, to| Hole {
            timeline: TimelineId::FIRST,
            from: Lsn(from),
            to: Lsn(to),
            cause: "a test".into(),
            since: now,
        };
        let wait = async |start, stop| {
            let begun = Instant::now();
            let (size, limit) = (SegmentSize::DEFAULT, Duration::from_secs(600));
            let waited = until_durable(&cluster, size, TimelineId::FIRST, Lsn(start), Lsn(stop), limit).await;
            (waited, begun.elapsed())
        };
        cluster.put_hole(&hole(0x200, 0x300)).await.unwrap();
        let (waited, took) = wait(0x250, 0x400).await;
        assert!(
            matches!(waited, Err(Error::Overtaken { .. })) && took < Duration::from_secs(2),
            "{waited:?}"
        );
        let (waited, took) = wait(0x300, 0x400).await;
        assert!(
            matches!(waited, Err(Error::WalNotArchived { .. })) && took >= Duration::from_secs(600),
            "{waited:?}"
        );
    }
}
