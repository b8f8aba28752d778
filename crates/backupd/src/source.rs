//! From which node a backup is taken, and again from another when that one goes.

use std::time::Duration;

use engine::Error;
use engine::backup::{self, BackupConfig, BackupRequest, Progress};
use engine::follow::{Look, source_of_backup};
use repository::{Cluster, Record};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::config::Settings;
use crate::{Failure, backup_config};

/// How often a backup is begun that a failover ends.
const ATTEMPTS_MAX: u32 = 4;
/// Time to the next attempt: a failover takes its time.
const PAUSE: Duration = Duration::from_secs(5);

/// Takes a backup. Of several nodes, from the one that the settings ask for; when that one goes, or is promoted, from the
/// one that is the right one then.
pub async fn back_up(
    settings: &Settings,
    cluster: &Cluster,
    request: &BackupRequest,
    progress: &watch::Sender<Progress>,
    shutdown: &CancellationToken,
) -> Result<Record, Failure> {
    for attempt in 1.. {
        let taken = async {
            let config = choose(settings, cluster).await?;
            backup::run(&config, cluster, request, progress, shutdown).await
        };
        let error = match taken.await {
            Ok(record) => return Ok(record),
            Err(error) => error,
        };
        let again = attempt < ATTEMPTS_MAX
            && follows(settings)
            && may_be_failover(&error)
            && !shutdown.is_cancelled();
        if !again {
            return Err(error.into());
        }
        tracing::warn!("the backup has ended, and begins anew: {}", engine::chain(&error));
        progress.send_replace(Progress::default());
        tokio::select! {
            () = shutdown.cancelled() => return Err(Error::Stopped.into()),
            () = tokio::time::sleep(PAUSE) => {}
        }
    }
    Err(Error::Stopped.into())
}

fn follows(settings: &Settings) -> bool {
    settings.follow(crate::now).is_ok_and(|follow| follow.is_some())
}

/// Whether another node, or the same one a little later, may do better.
fn may_be_failover(error: &Error) -> bool {
    match error {
        Error::Server(error) => error.is_transient(),
        Error::Overtaken { .. } | Error::NoNode { .. } => true,
        _ => false,
    }
}

async fn choose(settings: &Settings, cluster: &Cluster) -> Result<BackupConfig, Error> {
    let wrong = |failure: Failure| Error::NoNode { reason: engine::chain(&failure) };
    let mut config = backup_config(settings).map_err(wrong)?;
    let Some(follow) = settings.follow(crate::now).map_err(|error| wrong(error.into()))? else {
        return Ok(config);
    };
    let look = Look::at(&follow, cluster).await?;
    let chosen = source_of_backup(&look.view(), &look.nodes, settings.backup_source);
    let chosen = chosen.map_err(|reason| Error::NoNode { reason })?;
    if let Some(node) = look.node(&chosen) {
        (config.connect, config.sql) = (node.connect.clone(), node.sql.clone());
    }
    Ok(config)
}
