//! Back up: BASE_BACKUP as a stream through bounded memory into packs.
//!
//! The stream is read, cut and worked on in three stages that run side by side: one task reads and cuts, all cores verify, hash
//! and compress, one task finishes in order. The record, which makes the backup exist, is written when all that, and the
//! WAL up to the backup's end, is durable.

mod manifest;
mod pack;
mod parent;
mod recheck;
mod split;
mod stream;
mod tar;
mod wait;
mod work;

use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use replication::{BaseBackup, BaseBackupOptions, ConnectConfig};
use repository::crypt::BackupKeys;
use repository::record::Tablespace;
use repository::state::Heartbeat;
use repository::{BackupId, Cluster, Record};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use self::parent::Parent;
use crate::server::Server;
use crate::{Clock, Error, expire};

/// What a backup needs to know.
#[derive(Debug, Clone)]
pub struct BackupConfig {
    /// The server.
    pub connect: ConnectConfig,
    /// The same server for SQL, to read a suspect page again.
    pub sql: ConnectConfig,
    /// zstd's level for files.
    pub level: i32,
    /// Threads that verify, hash and compress.
    pub workers: usize,
    /// Files at the top of the data directory that say what role a node plays, and must not come back with a restore.
    pub role_files: Vec<String>,
    /// How long the WAL of the backup may take to become durable after its end.
    pub wal_wait: Duration,
    /// Limit on what the server sends, in kB/s.
    pub max_rate_kb: Option<u32>,
    /// After this long without a sign of life, an unfinished backup is dead and what it left is removed.
    pub dead_after: Duration,
    /// Who runs it: `host/process id`.
    pub runner: String,
    /// What time it is.
    pub clock: Clock,
}

/// What is asked for.
#[derive(Debug, Clone, Default)]
pub struct BackupRequest {
    /// Words to keep with it.
    pub note: Option<String>,
}

/// What a backup is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Phase {
    /// Looking at the server and the repository.
    #[default]
    Preparing,
    /// Waiting for the server's checkpoint.
    Checkpoint,
    /// Copying files.
    Copying,
    /// Waiting for the WAL up to the backup's end to be durable.
    WaitingForWal,
    /// The record is written.
    Published,
}

/// How far a backup is.
#[derive(Debug, Clone, Default)]
pub struct Progress {
    /// What it is doing.
    pub phase: Phase,
    /// Its name, once it has one.
    pub id: Option<BackupId>,
    /// Bytes of files that came.
    pub bytes: u64,
    /// Bytes the server expects to send.
    pub bytes_total: u64,
    /// Bytes added to the repository.
    pub stored_bytes: u64,
    /// Bytes that were there already.
    pub shared_bytes: u64,
}

/// Time between two signs of life of a running backup.
const HEARTBEAT_INTERVAL: Duration = Duration::from_secs(30);

/// Takes a backup. Dropping the future ends it; what it left is removed by a later one.
pub async fn run(
    config: &BackupConfig,
    cluster: &Cluster,
    request: &BackupRequest,
    progress: &watch::Sender<Progress>,
    shutdown: &CancellationToken,
) -> Result<Record, Error> {
    let (connection, server) = Server::connect(&config.connect).await?;
    cluster.claim(&server.identity((config.clock)())).await?;
    let leftovers = expire::leftovers(cluster, (config.clock)(), config.dead_after).await?;
    expire::remove_leftovers(cluster, &leftovers).await?;
    // Before the backup's checkpoint: where no slot of ours keeps it yet, the checkpoint lets the server remove WAL we need.
    wait::until_wal_flows(cluster, &server, shutdown).await?;

    let mut heartbeat = cluster.begin_backup((config.clock)(), &config.runner).await?;
    let parent = open_parent(cluster).await?;
    heartbeat.parent = parent.as_ref().map(|parent| parent.record().id.clone());
    cluster.beat(&heartbeat).await?;
    // Whoever expires backups looks at heartbeats after he has removed a record, so one of us two sees the other.
    let parent = match parent {
        Some(parent) if cluster.record(&parent.record().id).await.is_err() => {
            heartbeat.parent = None;
            cluster.beat(&heartbeat).await?;
            None
        }
        parent => parent,
    };
    let keys = match cluster.make_backup_keys(&heartbeat.id).await {
        Ok(keys) => keys,
        Err(error) => {
            abandon(cluster, &heartbeat.id).await;
            return Err(error.into());
        }
    };
    progress.send_modify(|progress| {
        progress.id = Some(heartbeat.id.clone());
        progress.phase = Phase::Checkpoint;
    });

    let taken = tokio::select! {
        taken = take(config, cluster, request, progress, connection, &server, &heartbeat, parent, keys) => taken,
        beating = beat(config, cluster, heartbeat.clone()) => Err(beating),
        () = shutdown.cancelled() => Err(Error::Stopped),
    };
    match &taken {
        Err(_) => abandon(cluster, &heartbeat.id).await,
        Ok(_) => end(cluster, &heartbeat.id).await,
    }
    taken
}

async fn end(cluster: &Cluster, id: &BackupId) {
    if let Err(error) = cluster.end_backup(id).await {
        tracing::info!("the backup's heartbeat could not be removed: {error}");
    }
}

async fn abandon(cluster: &Cluster, id: &BackupId) {
    discard(cluster, id).await;
    end(cluster, id).await;
}

/// The newest backup that can be read, of those that every repository has.
async fn open_parent(cluster: &Cluster) -> Result<Option<Parent>, Error> {
    let mut records = cluster.backups().await?.records;
    while let Some(newest) = records.last()
        && !cluster.is_everywhere(&newest.id).await?
    {
        records.pop();
    }
    let Some(record) = records.pop() else { return Ok(None) };
    let id = record.id.clone();
    match Parent::open(cluster, record).await {
        Ok(parent) => Ok(Some(parent)),
        Err(error) if error.is_transient() => Err(error.into()),
        Err(repository::Error::NoIdentity { .. } | repository::Error::WrongIdentity { .. }) => {
            tracing::warn!(
                backup = %id,
                "the previous backup's maps cannot be read, so everything is stored anew; a service identity (DRYDOCK_SERVICE_IDENTITY_FILE) lets backups refer to earlier ones"
            );
            Ok(None)
        }
        Err(error) => {
            tracing::warn!(backup = %id, "nothing is shared with the previous backup: {error}");
            Ok(None)
        }
    }
}

async fn beat(config: &BackupConfig, cluster: &Cluster, mut heartbeat: Heartbeat) -> Error {
    loop {
        tokio::time::sleep(HEARTBEAT_INTERVAL).await;
        heartbeat.updated_at = (config.clock)();
        if let Err(error) = cluster.beat(&heartbeat).await {
            if !error.is_transient() {
                return error.into();
            }
            tracing::warn!("the backup could not say that it still runs: {error}");
        }
    }
}

#[expect(clippy::too_many_arguments, reason = "the parts of one step, each made by the step before it")]
async fn take(
    config: &BackupConfig,
    cluster: &Cluster,
    request: &BackupRequest,
    progress: &watch::Sender<Progress>,
    connection: replication::Connection,
    server: &Server,
    heartbeat: &Heartbeat,
    parent: Option<Parent>,
    keys: Option<Arc<BackupKeys>>,
) -> Result<Record, Error> {
    let options = BaseBackupOptions {
        label: format!("drydock {}", heartbeat.id),
        fast_checkpoint: true,
        manifest: true,
        max_rate_kb: config.max_rate_kb,
        progress: true,
    };
    let base = connection.base_backup(&options).await?;
    let (start_lsn, timeline) = base.start();
    let tablespaces = tablespaces(&base);
    tracing::info!(backup = %heartbeat.id, server = server.target, %timeline, %start_lsn, "copying");
    progress.send_modify(|progress| {
        progress.phase = Phase::Copying;
        progress.bytes_total =
            base.tablespaces().iter().filter_map(|space| space.size_kb).sum::<u64>() * 1024;
    });

    let parent_record = parent.as_ref().map(|parent| parent.record().clone());
    let encrypted_to = keys.as_ref().map(|keys| keys.encrypted_to.clone());
    let copied = stream::copy(config, cluster, server, &heartbeat.id, base, parent, keys, progress).await?;
    let (stop_lsn, stop_timeline) = copied.end;
    if stop_timeline != timeline {
        let reason = format!(
            "the backup began on timeline {timeline} and ended on {stop_timeline}: there was a promotion meanwhile"
        );
        return Err(Error::Overtaken { reason });
    }
    progress.send_modify(|progress| progress.phase = Phase::WaitingForWal);
    let durable =
        wait::until_durable(cluster, server.segment_size, timeline, start_lsn, stop_lsn, config.wal_wait)
            .await?;

    let packed = copied.packed;
    let unlisted = packed.suspects_total - packed.suspects.len() as u64;
    let corrupt_pages =
        recheck::still_corrupt(&config.sql, packed.suspects, server.block_size, start_lsn).await;
    for page in &corrupt_pages {
        tracing::warn!(
            path = page.path,
            block = page.block,
            "a page is corrupt on the server: its checksum does not hold"
        );
    }
    let record = Record {
        id: heartbeat.id.clone(),
        system_identifier: server.system_identifier,
        postgresql_version: server.version,
        data_checksums: server.data_checksums,
        started_at: heartbeat.started_at,
        finished_at: finish_time(config, heartbeat),
        timeline,
        start_lsn,
        stop_timeline,
        stop_lsn,
        source: server.target.clone(),
        note: request.note.clone(),
        parent: parent_record.map(|record| record.id),
        tablespaces,
        files: packed.files,
        file_count: packed.file_count,
        size_bytes: packed.size_bytes,
        maps: packed.maps,
        packs: packed.packs,
        stored_bytes: packed.stored_bytes,
        shared_bytes: packed.shared_bytes,
        // What is not listed was not read again either.
        corrupt_pages_total: unlisted + corrupt_pages.len() as u64,
        corrupt_pages,
        encrypted_to,
    };
    cluster.publish(&record, &durable).await?;
    progress.send_modify(|progress| progress.phase = Phase::Published);
    tracing::info!(backup = %record.id, %stop_lsn, size = record.size_bytes, stored = record.stored_bytes, "published");
    Ok(record)
}

/// A clock that was set back must not make a backup end before it began.
fn finish_time(config: &BackupConfig, heartbeat: &Heartbeat) -> DateTime<Utc> {
    (config.clock)().max(heartbeat.started_at)
}

fn tablespaces(base: &BaseBackup) -> Vec<Tablespace> {
    let with_location = |space: &replication::Tablespace| {
        Some(Tablespace { oid: space.oid?, location: space.location.clone()? })
    };
    base.tablespaces().iter().filter_map(with_location).collect()
}

/// Removes what a backup that failed has stored. What stays is found by the next one.
async fn discard(cluster: &Cluster, id: &BackupId) {
    let removed = async {
        for remains in cluster.remains().await?.into_iter().filter(|remains| remains.id == *id) {
            cluster.remove_remains(&remains, &Default::default()).await?;
        }
        Ok::<(), repository::Error>(())
    };
    if let Err(error) = removed.await {
        tracing::warn!(backup = %id, "what the failed backup stored could not be removed yet: {error}");
    }
}
