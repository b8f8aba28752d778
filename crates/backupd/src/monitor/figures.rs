//! Figures that only the repository has; it is looked at now and then, and not whenever somebody asks.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use engine::Error;
use engine::catalog::Catalog;
use engine::status;
use repository::{Cluster, Record};
use tokio_util::sync::CancellationToken;

use super::snapshot::Observed;

/// Time between two looks at the repository.
const LOOK_INTERVAL: Duration = Duration::from_secs(60);
/// Time between two looks whether the archive is level with the server.
const LEVEL_INTERVAL: Duration = Duration::from_secs(1);

/// What the repository has.
#[derive(Debug, Clone, Default)]
pub(crate) struct Figures {
    /// When it was looked at.
    pub at: DateTime<Utc>,
    /// How many backups there are.
    pub backups: usize,
    /// When the oldest was finished.
    pub oldest_finished_at: Option<DateTime<Utc>>,
    /// The newest.
    pub last: Option<Record>,
    /// Backups whose records cannot be read.
    pub unreadable: usize,
    /// Bytes of all packs that records name.
    pub pack_bytes: u64,
    /// Bytes of all WAL.
    pub wal_bytes: u64,
    /// Bytes that can still be written, where that can be known.
    pub free_bytes: Option<u64>,
    /// Holes that are recorded, and those of them that no backup lies behind.
    pub holes: usize,
    pub holes_without_backup: usize,
    /// WAL that is missing without a known cause.
    pub gaps: usize,
    /// From when to when one can restore without interruption, up to now.
    pub recoverable: Option<(DateTime<Utc>, Option<DateTime<Utc>>)>,
}

/// Keeps the figures up to date until `shutdown`. `directory` is where the repository is, if it is one.
pub(crate) async fn keep_figures(
    cluster: Cluster,
    directory: Option<PathBuf>,
    observed: Arc<Observed>,
    shutdown: CancellationToken,
) {
    let mut ticks = tokio::time::interval(LEVEL_INTERVAL);
    let mut looked_at: Option<tokio::time::Instant> = None;
    loop {
        tokio::select! {
            () = shutdown.cancelled() => return,
            _ = ticks.tick() => observed.note_level(crate::now()),
        }
        if looked_at.is_some_and(|at| at.elapsed() < LOOK_INTERVAL) {
            continue;
        }
        looked_at = Some(tokio::time::Instant::now());
        let looked = tokio::select! {
            () = shutdown.cancelled() => return,
            looked = look(&cluster) => looked,
        };
        match looked {
            Ok(figures) => {
                let free_bytes = directory.as_deref().and_then(crate::space).map(|space| space.free_bytes);
                observed.keep(Figures { free_bytes, ..figures });
            }
            // Whoever asks sees that the figures are old.
            Err(error) => tracing::debug!("the repository cannot be asked for figures: {error}"),
        }
    }
}

async fn look(cluster: &Cluster) -> Result<Figures, Error> {
    let catalog = Catalog::load(cluster).await?;
    let windows = status::windows(cluster, &catalog).await?;
    let covered = || catalog.coverage.timelines.values();
    let holes: Vec<_> = covered().flat_map(|covered| covered.holes.clone()).collect();
    let records = &catalog.backups.records;
    let without_backup = |hole: &&repository::wal::Hole| {
        status::hole_needs_backup(std::slice::from_ref(*hole), records).is_some()
    };
    let packs: BTreeMap<_, u64> =
        records.iter().flat_map(|record| record.packs.iter().map(|pack| (&pack.pack, pack.size))).collect();
    Ok(Figures {
        at: crate::now(),
        backups: records.len(),
        oldest_finished_at: records.first().map(|record| record.finished_at),
        unreadable: catalog.backups.unreadable.len(),
        pack_bytes: packs.values().sum(),
        wal_bytes: covered().map(|covered| covered.stored_bytes).sum(),
        free_bytes: None,
        holes: holes.len(),
        holes_without_backup: holes.iter().filter(without_backup).count(),
        gaps: covered().map(|covered| covered.unexplained_gaps().len()).sum(),
        recoverable: windows.last().map(|window| (window.from, window.to)),
        last: records.last().cloned(),
    })
}
