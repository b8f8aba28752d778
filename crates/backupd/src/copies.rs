//! Several repositories with the same: what one of them lacks is copied there from another.
//!
//! Required ones are made alike before archiving begins, as far as WAL goes: the archive goes on from what all of them have,
//! and would take WAL that only one has for lost. Their backups follow while it runs. Those that may lag are brought up to
//! date whenever they missed something, each on its own, and nobody waits for them.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use engine::Error;
use repository::copy::{CopyPlan, settle_heads};
use repository::{BackupId, Cluster};
use store::Store;
use store::mirror::Lagging;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// Time to the next try after a failure; it doubles up to [`RETRY_MAX`].
const RETRY_MIN: Duration = Duration::from_secs(1);
const RETRY_MAX: Duration = Duration::from_secs(60);
/// Time between two looks for backups that another process has taken; two short listings each.
const LOOK_INTERVAL: Duration = Duration::from_secs(30);
/// Under load a repository may miss objects all the time. A copy begins with listing everything, so it comes no sooner than
/// this after the last one, nor than [`PAUSE_FACTOR`] times what that took.
const PAUSE_MIN: Duration = Duration::from_secs(5);
const PAUSE_FACTOR: u32 = 4;

/// The cluster in each of several repositories.
#[derive(Debug, Clone)]
pub struct Copies {
    /// In the first repository.
    pub first: Cluster,
    /// In the other required ones.
    pub required: Vec<Cluster>,
    /// In all required ones together, and in none that may lag: what expires there goes by what those have themselves.
    pub kept: Cluster,
    /// Repositories that may lag.
    pub lagging: Vec<Arc<Lagging>>,
}

/// What of the repositories is made alike.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    Wal,
    Backups,
}

impl Copies {
    /// Gives the required repositories what WAL one of them lacks, trying until it has worked; `false` when told to stop
    /// meanwhile.
    pub async fn settle(&self, shutdown: &CancellationToken) -> bool {
        if self.required.is_empty() {
            return true;
        }
        until_done(shutdown, "the repositories cannot be made alike yet", || self.align(Part::Wal)).await
    }

    /// Keeps the backups of the required repositories alike.
    pub async fn keep_backups(self, shutdown: CancellationToken) {
        let what = "a repository cannot be given the backups it lacks yet";
        while !self.required.is_empty() {
            let seen = look(&self.first).await.ok();
            if !until_done(&shutdown, what, || self.align(Part::Backups)).await {
                return;
            }
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = other_backups(&self.first, seen) => {}
            }
        }
    }

    /// In both directions: the first may be the one that was lost.
    async fn align(&self, part: Part) -> Result<(), Error> {
        for other in &self.required {
            copy_part(other, &self.first, part).await?;
        }
        for other in &self.required {
            copy_part(&self.first, other, part).await?;
        }
        Ok(())
    }

    /// Keeps a repository that may lag up to date.
    pub async fn keep_up(first: Cluster, lagging: Arc<Lagging>, shutdown: CancellationToken) {
        let address = lagging.store().address();
        let mut is_behind = false;
        let mut delay = RETRY_MIN;
        loop {
            let seen = look(&first).await.ok();
            let begun = Instant::now();
            lagging.forgive();
            let copied = tokio::select! {
                () = shutdown.cancelled() => return,
                copied = bring_up(&first, lagging.store()) => copied,
            };
            let pause = match copied {
                Ok(objects) => {
                    if is_behind {
                        tracing::info!(address, objects, "the repository has caught up");
                    }
                    is_behind = false;
                    delay = RETRY_MIN;
                    PAUSE_MIN.max(begun.elapsed() * PAUSE_FACTOR)
                }
                Err(error) => {
                    lagging.miss();
                    if !is_behind {
                        let problem = engine::chain(&error);
                        tracing::warn!(address, "a repository that may lag has fallen behind: {problem}");
                    }
                    is_behind = true;
                    delay = (delay * 2).min(RETRY_MAX);
                    delay
                }
            };
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = tokio::time::sleep(pause) => {}
            }
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = lagging.behind() => {}
                () = other_backups(&first, seen) => {}
            }
        }
    }
}

/// Copies whatever the repository lacks; gives how many objects.
async fn bring_up(first: &Cluster, to: &Arc<dyn Store>) -> Result<u64, Error> {
    settle_heads(&[first.store().clone(), to.clone()], first.name()).await?;
    let plan = first.plan_copy(to).await?;
    report_differing(first, to, &plan);
    let copied = first.copy(to, &plan, |_size| {}).await?;
    Ok(copied.objects)
}

async fn copy_part(from: &Cluster, to: &Cluster, part: Part) -> Result<(), Error> {
    let to = to.store();
    let mut plan = from.plan_copy(to).await?;
    let backups = plan.split_backups();
    if part == Part::Wal {
        report_differing(from, to, &plan);
    }
    let plan = if part == Part::Wal { plan } else { backups };
    let (objects, bytes) = plan.totals();
    if objects == 0 {
        return Ok(());
    }
    tracing::info!(
        from = from.address(),
        to = to.address(),
        objects,
        bytes,
        "copying what a repository lacks"
    );
    from.copy(to, &plan, |_size| {}).await?;
    Ok(())
}

/// Nothing is done about it: which of the two is right only a verification can tell.
fn report_differing(from: &Cluster, to: &Arc<dyn Store>, plan: &CopyPlan) {
    let Some(key) = plan.differing.first() else { return };
    tracing::error!(
        count = plan.differing.len(),
        from = from.address(),
        to = to.address(),
        "two repositories have different objects under one name, such as {key}; verify both, and delete the damaged ones"
    );
}

/// Tries until it has worked; `false` when told to stop meanwhile. Says what is wrong when that is news.
async fn until_done<F: Future<Output = Result<(), Error>>>(
    shutdown: &CancellationToken,
    what: &str,
    work: impl Fn() -> F,
) -> bool {
    let mut delay = RETRY_MIN;
    let mut told = String::new();
    loop {
        let done = tokio::select! {
            () = shutdown.cancelled() => return false,
            done = work() => done,
        };
        let Err(error) = done else { return true };
        let problem = engine::chain(&error);
        if problem != told {
            tracing::warn!(hint = error.hint().unwrap_or_default(), "{what}, trying again: {problem}");
            told = problem;
        }
        tokio::select! {
            () = shutdown.cancelled() => return false,
            () = tokio::time::sleep(delay) => delay = (delay * 2).min(RETRY_MAX),
        }
    }
}

/// The directories of backups, and the backups that run.
type Look = (BTreeSet<BackupId>, BTreeSet<BackupId>);

async fn look(cluster: &Cluster) -> Result<Look, repository::Error> {
    let running = cluster.heartbeats().await?.into_iter().map(|heartbeat| heartbeat.id);
    Ok((cluster.backup_directories().await?.into_iter().collect(), running.collect()))
}

/// Waits until a backup has begun, ended or gone since `seen`.
async fn other_backups(cluster: &Cluster, seen: Option<Look>) {
    loop {
        tokio::time::sleep(LOOK_INTERVAL).await;
        // A repository that cannot be asked has other worries, and will be asked again.
        if let Ok(now) = look(cluster).await
            && seen.as_ref() != Some(&now)
        {
            return;
        }
    }
}
