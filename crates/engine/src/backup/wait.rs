//! Waiting for WAL that somebody else archives.

use std::time::Duration;

use pgformat::{Lsn, TimelineId};
use repository::Cluster;
use repository::wal::Durable;
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
    server: &Server,
    timeline: TimelineId,
    start: Lsn,
    stop: Lsn,
    limit: Duration,
) -> Result<Durable, Error> {
    let begun = Instant::now();
    loop {
        let durable = cluster.durable_from(timeline, start, server.segment_size).await?;
        let reached = match durable {
            Some(durable) if durable.lsn() >= stop => return Ok(durable),
            Some(durable) => durable.lsn(),
            None => start,
        };
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
