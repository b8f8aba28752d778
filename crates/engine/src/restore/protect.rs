//! Saying that a restore runs, so that what it needs does not expire meanwhile.

use std::time::Duration;

use repository::Cluster;
use repository::state::RestoreHeartbeat;

use super::Plan;
use crate::Clock;

/// Time between two signs of life of a running restore.
const HEARTBEAT_INTERVAL: Duration = Duration::from_secs(30);

/// Says that a restore runs, again and again, for as long as the future is polled. Where nothing can be written, as in a
/// repository that is served read only, it says nothing, and what expires meanwhile ends the restore with an error.
pub async fn protect(cluster: &Cluster, plan: &Plan, runner: &str, clock: Clock) {
    let mut heartbeat = RestoreHeartbeat {
        backup: plan.backup.clone(),
        runner: runner.to_owned(),
        started_at: clock(),
        updated_at: clock(),
    };
    loop {
        heartbeat.updated_at = clock();
        match cluster.beat_restore(&heartbeat).await {
            Ok(()) => {}
            Err(error) if error.is_transient() => {
                tracing::info!("the restore cannot say that it runs: {error}")
            }
            Err(error) => {
                tracing::info!("nobody is told of the restore, so its backup may expire meanwhile: {error}");
                return;
            }
        }
        tokio::time::sleep(HEARTBEAT_INTERVAL).await;
    }
}
