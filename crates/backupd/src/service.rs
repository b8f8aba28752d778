//! `backupd run`: archives WAL, and keeps in order what comes with it.

use std::time::Duration;

use engine::archive::{self, ArchiveConfig, ArchiveStatus};
use engine::expire;
use repository::Cluster;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::config::Settings;
use crate::{Failure, guard, open};

/// Time between two looks for what dead backups left.
const SWEEP_INTERVAL: Duration = Duration::from_secs(3600);
/// Time to the next try to open a repository that cannot be reached; it doubles up to [`OPEN_RETRY_MAX`].
const OPEN_RETRY_MIN: Duration = Duration::from_millis(500);
const OPEN_RETRY_MAX: Duration = Duration::from_secs(30);

/// Runs until `shutdown`, or until archiving fails before it ever worked.
pub async fn run(settings: &Settings, shutdown: CancellationToken) -> Result<(), Failure> {
    let server = settings.server()?;
    let mut connect = server.replication.clone();
    // Archiving asks the odd question in SQL, too, with the role it has.
    connect.database = server.sql.database.clone();
    let archive = ArchiveConfig {
        connect,
        slot: settings.slot.clone(),
        flush_interval: settings.flush_interval,
        in_flight_max: settings.in_flight,
        clock: crate::now,
    };
    let backup = crate::backup_config(settings)?;
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"), repository = %settings.repository, cluster = settings.cluster,
        server = archive.connect.target(), "backupd starts"
    );
    let Some(cluster) = open_repository(settings, &shutdown).await? else { return Ok(()) };

    // Whatever ends archiving ends the rest; the rest ends nothing.
    let (status, watched) = watch::channel(ArchiveStatus::default());
    let rest = shutdown.child_token();
    let mut beside = JoinSet::new();
    beside.spawn(guard::run(backup, cluster.clone(), watched, rest.clone()));
    beside.spawn(sweep(cluster.clone(), settings.dead_after, rest.clone()));
    let archived = tokio::spawn(archive::run(archive, cluster, status, shutdown)).await;
    rest.cancel();
    while let Some(ended) = beside.join_next().await {
        ended.map_err(panicked)?;
    }
    archived.map_err(panicked)??;
    tracing::info!("backupd stops");
    Ok(())
}

fn panicked(cause: tokio::task::JoinError) -> Failure {
    Failure::System { action: "go on after a mistake in this program", source: std::io::Error::other(cause) }
}

/// Opens the repository, waiting for one that may come back; `None` when told to stop meanwhile.
async fn open_repository(
    settings: &Settings,
    shutdown: &CancellationToken,
) -> Result<Option<Cluster>, Failure> {
    let mut delay = OPEN_RETRY_MIN;
    loop {
        let failure = match open::or_create(settings, crate::now()).await {
            Ok(cluster) => return Ok(Some(cluster)),
            Err(failure) => failure,
        };
        if !matches!(&failure, Failure::Engine(error) if error.is_transient()) {
            return Err(failure);
        }
        let hint = failure.hint(Some(settings)).unwrap_or_default();
        tracing::warn!(hint, "the repository cannot be opened, trying again: {}", engine::chain(&failure));
        tokio::select! {
            () = shutdown.cancelled() => return Ok(None),
            () = tokio::time::sleep(delay) => delay = (delay * 2).min(OPEN_RETRY_MAX),
        }
    }
}

/// Removes what dead backups left, now and then.
async fn sweep(cluster: Cluster, dead_after: Duration, shutdown: CancellationToken) {
    loop {
        let swept = async {
            let leftovers = expire::leftovers(&cluster, crate::now(), dead_after).await?;
            expire::remove_leftovers(&cluster, &leftovers).await
        };
        tokio::select! {
            () = shutdown.cancelled() => return,
            result = swept => match result {
                Err(error) => tracing::warn!("what dead backups left cannot be removed yet: {}", engine::chain(&error)),
                Ok(_freed) => {}
            },
        }
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = tokio::time::sleep(SWEEP_INTERVAL) => {}
        }
    }
}
