//! Figures that only the repository has; it is looked at now and then, and not whenever somebody asks.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use engine::catalog::Catalog;
use engine::check::Space;
use engine::status::{self, Fork, HoleStatus, Request, RunningBackup, Written};
use repository::state::Verification;
use repository::{Cluster, Record};
use tokio_util::sync::CancellationToken;

use super::snapshot::Observed;
use crate::Failure;
use crate::config::{Live, Settings};
use crate::view::{self, List};

/// Time between two looks at the repository.
const LOOK_INTERVAL: Duration = Duration::from_secs(60);
/// Time between two looks whether the archive is level with the server.
const LEVEL_INTERVAL: Duration = Duration::from_secs(1);

/// What the repository has.
#[derive(Debug, Clone)]
pub(crate) struct Figures {
    /// When it was looked at.
    pub at: DateTime<Utc>,
    /// Backups, WAL, and what can be restored.
    pub list: List,
    /// The newest backup.
    pub last: Option<Record>,
    /// Bytes of all packs that records name.
    pub pack_bytes: u64,
    /// Bytes of all WAL.
    pub wal_bytes: u64,
    /// Room where the repository is, where that can be known.
    pub space: Option<Space>,
    /// Holes, and what they mean.
    pub holes: Vec<HoleStatus>,
    /// Where timelines were left.
    pub forks: Vec<Fork>,
    /// When WAL was written.
    pub written: Vec<Written>,
    /// Backups that say that they run.
    pub running: Vec<RunningBackup>,
    /// What the last verification came to.
    pub verified: Option<Verification>,
    /// What is wrong and needs somebody.
    pub findings: Vec<String>,
}

impl Figures {
    /// Holes that no backup lies behind.
    pub fn holes_without_backup(&self) -> usize {
        self.holes.iter().filter(|hole| hole.covered_by.is_none()).count()
    }

    /// WAL that is missing without a known cause.
    pub fn gaps(&self) -> usize {
        self.list.wal.iter().map(|wal| wal.unexplained_gaps.len()).sum()
    }
}

/// Keeps the figures up to date until `shutdown`.
pub(crate) async fn keep_figures(
    settings: Live,
    cluster: Cluster,
    observed: Arc<Observed>,
    shutdown: CancellationToken,
) {
    let directory = settings.now().repository.directory().map(ToOwned::to_owned);
    let mut ticks = tokio::time::interval(LEVEL_INTERVAL);
    let mut looked_at: Option<tokio::time::Instant> = None;
    let mut written = Vec::new();
    loop {
        tokio::select! {
            () = shutdown.cancelled() => return,
            _ = ticks.tick() => observed.note_level(crate::now()),
        }
        if looked_at.is_some_and(|at| at.elapsed() < LOOK_INTERVAL) && !observed.take_hint() {
            continue;
        }
        looked_at = Some(tokio::time::Instant::now());
        let now = settings.now();
        let looked = tokio::select! {
            () = shutdown.cancelled() => return,
            looked = look(&now, &cluster, &written) => looked,
        };
        match looked {
            Ok(figures) => {
                written.clone_from(&figures.written);
                observed.keep(Figures { space: directory.as_deref().and_then(crate::space), ..figures });
            }
            // Whoever asks sees that the figures are old.
            Err(error) => tracing::debug!("the repository cannot be asked for figures: {error}"),
        }
    }
}

async fn look(settings: &Settings, cluster: &Cluster, known: &[Written]) -> Result<Figures, Failure> {
    let catalog = Catalog::load(cluster).await?;
    let request = Request {
        // What the server says is known where it is streamed from.
        connect: None,
        follow: None,
        slot: &settings.slot,
        dead_after: settings.dead_after,
        maximum_age: settings.schedule.maximum_age,
        now: crate::now(),
    };
    let status = status::of(cluster, &catalog, &request).await?;
    let records = &catalog.backups.records;
    let packs: BTreeMap<_, u64> =
        records.iter().flat_map(|record| record.packs.iter().map(|pack| (&pack.pack, pack.size))).collect();
    Ok(Figures {
        at: crate::now(),
        list: view::list(cluster, &catalog).await?,
        last: records.last().cloned(),
        pack_bytes: packs.values().sum(),
        wal_bytes: catalog.coverage.timelines.values().map(|covered| covered.stored_bytes).sum(),
        space: None,
        holes: status.holes,
        forks: status.forks,
        written: status::written(cluster, &catalog, known).await?,
        running: status.running_backups,
        verified: cluster.verification().await?,
        findings: status.findings,
    })
}
