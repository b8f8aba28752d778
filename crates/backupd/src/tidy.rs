//! Removing what the retention settings do not ask for, and what dead backups left.

use std::sync::Arc;
use std::time::Duration;

use engine::expire::{self, Applied};
use repository::{Cluster, Repository};
use store::Store;
use store::mirror::Lagging;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::Failure;
use crate::config::{Live, Settings};

/// Time between two looks, where no schedule says otherwise.
const INTERVAL: Duration = Duration::from_secs(3600);
/// How long a repository that may lag is given to remove what has expired there.
const LAGGING_EXPIRES_WITHIN: Duration = Duration::from_secs(1800);
/// Longest time without a look at the clock, which may have been set.
const NAP_MAX: Duration = Duration::from_secs(60);

/// Removes what has expired at the start and then by the schedule, or every hour, until `shutdown`.
pub(crate) async fn run(
    mut settings: Live,
    cluster: Cluster,
    may_lag: Vec<Arc<Lagging>>,
    shutdown: CancellationToken,
) {
    loop {
        let now = settings.now();
        let tidied = async {
            match expire(&now, &cluster).await {
                Ok(_) => lagging(&now, &may_lag, &shutdown).await,
                Err(error) => {
                    tracing::warn!("what has expired cannot be removed yet: {}", engine::chain(&error));
                }
            }
        };
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = tidied => {}
        }
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = until_next(&now) => {}
            // Another policy is followed at once.
            () = settings.changed() => {}
        }
    }
}

/// Waits for the next time to look.
async fn until_next(settings: &Settings) {
    let Some(calendar) = &settings.schedule.expiry else { return tokio::time::sleep(INTERVAL).await };
    let now = crate::now();
    let Some(next) = calendar.next(now) else { return std::future::pending().await };
    while let Ok(left) = next.signed_duration_since(crate::now()).to_std() {
        tokio::time::sleep(left.min(NAP_MAX)).await;
    }
}

/// Repositories that may lag follow by what they have themselves: they may lack, or still have, what others do not.
pub(crate) async fn lagging(settings: &Settings, may_lag: &[Arc<Lagging>], shutdown: &CancellationToken) {
    for lagging in may_lag {
        let address = lagging.store().address();
        let expired = tokio::select! {
            () = shutdown.cancelled() => return,
            expired = timeout(LAGGING_EXPIRES_WITHIN, expire_in(settings, lagging.store())) => expired,
        };
        match expired {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                tracing::info!(address, "nothing expires there for now: {}", engine::chain(&error));
            }
            Err(_elapsed) => tracing::info!(address, "nothing expires there for now: it does not answer"),
        }
    }
}

async fn expire_in(settings: &Settings, store: &Arc<dyn Store>) -> Result<(), Failure> {
    let cluster = Repository::open(store.clone()).await?.cluster(&settings.cluster)?;
    expire(settings, &cluster).await?;
    Ok(())
}

/// Removes what has expired; what was removed.
pub(crate) async fn expire(settings: &Settings, cluster: &Cluster) -> Result<Applied, engine::Error> {
    // Before the first connection ever there is no cluster, and nothing to expire.
    if cluster.identity().await?.is_none() {
        return Ok(Applied::default());
    }
    let facts = expire::facts(cluster).await?;
    let plan = expire::plan(&facts, &settings.retention, crate::now(), settings.dead_after);
    if let Some(reason) = plan.nothing_because.as_ref().filter(|_| !settings.retention.keeps_everything()) {
        tracing::info!("nothing expires: {reason}");
    }
    let removed = expire::apply(cluster, &plan, crate::now(), settings.dead_after).await?;
    if removed.backups + removed.wal_objects > 0 {
        tracing::info!(
            backups = removed.backups,
            backup_bytes = removed.backup_bytes,
            wal_objects = removed.wal_objects,
            wal_bytes = removed.wal_bytes,
            "removed what the retention settings do not ask for"
        );
    }
    Ok(removed)
}
