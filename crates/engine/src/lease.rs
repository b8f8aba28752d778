//! One service at a time archives a cluster; another one waits, and takes over when the first one is gone.
//!
//! The lease is a document in the repository. Its holder renews it; whoever waits watches it, and takes it when it has not
//! changed for as long as it says, by the watcher's own clock, so that clocks need not agree. A holder that could not
//! renew it in time writes nothing any more ([`store::fence`]): it stops before anybody else may begin. While nobody waits, it
//! is renewed seldom, as each renewal is a request that costs; whoever waits says so, and then it is renewed often.

use std::sync::Arc;
use std::time::Duration;

use repository::Cluster;
use repository::lease::{Lease, LeaseSeen, Waiting};
use store::fence::{Fence, Moment};
use tokio_util::sync::CancellationToken;

use crate::{Clock, Error};

/// How long a lease lasts, and time between two renewals, while nobody waits for it.
const LASTS_UNWATCHED: Duration = Duration::from_secs(30);
const RENEWED_UNWATCHED: Duration = Duration::from_secs(8);
/// The same while somebody does: a takeover is over within 10 s.
const LASTS_WATCHED: Duration = Duration::from_secs(5);
const RENEWED_WATCHED: Duration = Duration::from_millis(1200);
/// The holder stops so long before others may begin, for whatever is on its way.
const MARGIN: Duration = Duration::from_millis(1000);
/// Time between two looks of whoever waits.
const LOOK_INTERVAL: Duration = Duration::from_millis(700);
/// Time between two words of whoever waits that it does.
const SAY_INTERVAL: Duration = Duration::from_secs(5);
/// Looks of the holder without a new word after which nobody waits any more.
const SILENT_LOOKS_MAX: u32 = 8;
/// Time to the next try after a failure to renew.
const RETRY_INTERVAL: Duration = Duration::from_millis(300);

/// Who wants the lease.
#[derive(Debug, Clone)]
pub struct Claimant {
    /// For people: `host/process id`.
    pub name: String,
    /// Which process on which machine this is.
    pub process: String,
    /// Whether that process, of this machine, is known to have ended.
    pub has_ended: fn(&str) -> bool,
    /// What time it is.
    pub clock: Clock,
}

/// A lease that is ours.
#[derive(Debug)]
pub struct Held {
    /// Another one held it and did not give it back: its connections may still be there.
    pub taken_over: bool,
    cluster: Cluster,
    claimant: Claimant,
    seen: LeaseSeen,
    fence: Arc<Fence>,
    watched: bool,
    silent_looks: u32,
    last_word: Option<Waiting>,
}

/// Waits until the lease is ours; `None` when told to stop meanwhile.
pub async fn acquire(
    cluster: &Cluster,
    claimant: &Claimant,
    shutdown: &CancellationToken,
) -> Result<Option<Held>, Error> {
    tokio::select! {
        biased;
        () = shutdown.cancelled() => Ok(None),
        held = wait_for(cluster, claimant) => held.map(Some),
    }
}

async fn wait_for(cluster: &Cluster, claimant: &Claimant) -> Result<Held, Error> {
    // As it was when it last changed, and when that was.
    let mut last: Option<(Lease, Moment)> = None;
    let mut said_at: Option<Moment> = None;
    let mut count = 0;
    loop {
        let seen = cluster.lease().await?;
        let Some(lease) = seen.lease.clone().filter(|lease| lease.holder.is_some()) else {
            if let Some(held) = take(cluster, claimant, &seen).await? {
                return Ok(held);
            }
            continue;
        };
        if last.as_ref().is_none_or(|(known, _)| *known != lease) {
            last = Some((lease.clone(), Moment::now()));
        }
        let since = last.as_ref().map_or_else(Moment::now, |(_, since)| *since);
        let is_over = since.elapsed() >= Duration::from_millis(lease.milliseconds);
        if is_over || (claimant.has_ended)(&lease.process) {
            tracing::info!(
                holder = lease.holder.as_deref().unwrap_or_default(),
                "the service that archived this cluster is gone; taking over"
            );
            if let Some(held) = take(cluster, claimant, &seen).await? {
                return Ok(held);
            }
            continue;
        }
        if said_at.is_none() {
            tracing::info!(
                holder = lease.holder.as_deref().unwrap_or_default(),
                "another service archives this cluster; standing by"
            );
        }
        if said_at.is_none_or(|at| at.elapsed() >= SAY_INTERVAL) {
            said_at = Some(Moment::now());
            count += 1;
            cluster.say_waiting(&Waiting { by: claimant.name.clone(), count }).await?;
        }
        tokio::time::sleep(LOOK_INTERVAL).await;
    }
}

/// Takes the lease, unless somebody else is faster.
async fn take(cluster: &Cluster, claimant: &Claimant, seen: &LeaseSeen) -> Result<Option<Held>, Error> {
    let token = seen.lease.as_ref().map_or(0, |lease| lease.token) + 1;
    let taken_over = seen.lease.as_ref().is_some_and(|lease| lease.holder.is_some());
    let last_word = cluster.waiting().await?;
    let asked = Moment::now();
    let lease = Lease {
        token,
        holder: Some(claimant.name.clone()),
        process: claimant.process.clone(),
        milliseconds: millis(LASTS_WATCHED),
        renewals: 0,
        renewed_at: (claimant.clock)(),
    };
    let Some(seen) = cluster.replace_lease(seen, lease).await? else { return Ok(None) };
    let fence = Arc::new(Fence::default());
    fence.open_until(asked, LASTS_WATCHED - MARGIN);
    let (cluster, claimant) = (cluster.clone(), claimant.clone());
    // Whoever took turns with us may wait again.
    Ok(Some(Held { taken_over, cluster, claimant, seen, fence, watched: true, silent_looks: 0, last_word }))
}

impl Held {
    /// What must stand around every store that the holder writes to.
    pub fn fence(&self) -> Arc<Fence> {
        self.fence.clone()
    }

    /// Keeps the lease until `over`, then gives it back. Returns early, having cancelled `over`, when it is lost.
    pub async fn keep(mut self, over: CancellationToken) {
        loop {
            let pause = if self.watched { RENEWED_WATCHED } else { RENEWED_UNWATCHED };
            tokio::select! {
                () = over.cancelled() => break,
                () = tokio::time::sleep(pause) => {}
            }
            if !self.renew(&over).await {
                self.fence.close();
                over.cancel();
                tracing::error!("this service no longer holds the lease of the cluster, and stops archiving");
                return;
            }
        }
    }

    /// Lets the next one begin at once. When that fails, it waits a little longer.
    pub async fn give_back(cluster: &Cluster, claimant: &Claimant) {
        let given_back = async {
            let seen = cluster.lease().await?;
            match seen.lease.clone().filter(|lease| lease.process == claimant.process) {
                Some(lease) => cluster.replace_lease(&seen, Lease { holder: None, ..lease }).await.map(drop),
                None => Ok(()),
            }
        };
        if let Err(error) = given_back.await {
            tracing::info!("the lease could not be given back: {error}");
        }
    }

    /// Renews it, trying until it is over; `false` when somebody else has it. While the repository cannot be reached the fence
    /// closes by itself, and opens again if nobody else has come by then.
    async fn renew(&mut self, over: &CancellationToken) -> bool {
        loop {
            match self.try_renew().await {
                Ok(renewed) => return renewed,
                Err(error) => tracing::debug!("the lease cannot be renewed yet: {}", crate::chain(&error)),
            }
            tokio::select! {
                () = over.cancelled() => return true,
                () = tokio::time::sleep(RETRY_INTERVAL) => {}
            }
        }
    }

    async fn try_renew(&mut self) -> Result<bool, Error> {
        self.look_who_waits().await?;
        let lasts = if self.watched { LASTS_WATCHED } else { LASTS_UNWATCHED };
        let Some(mine) = self.seen.lease.clone() else { return Ok(false) };
        let asked = Moment::now();
        let lease = Lease {
            milliseconds: millis(lasts),
            renewals: mine.renewals + 1,
            renewed_at: (self.claimant.clock)(),
            ..mine.clone()
        };
        match self.cluster.replace_lease(&self.seen, lease).await? {
            Some(seen) => self.seen = seen,
            None => {
                // The answer to an earlier try may have been lost.
                let now = self.cluster.lease().await?;
                let is_ours = now
                    .lease
                    .as_ref()
                    .is_some_and(|lease| lease.token == mine.token && lease.process == mine.process);
                if !is_ours {
                    return Ok(false);
                }
                self.seen = now;
            }
        }
        // Those who watch count from when they saw it change, which is later than when we asked; a lease that lasted longer
        // before is what they go by until then.
        self.fence.open_until(asked, lasts - MARGIN);
        Ok(true)
    }

    async fn look_who_waits(&mut self) -> Result<(), Error> {
        let word = self.cluster.waiting().await?;
        if word.is_some() && word != self.last_word {
            (self.silent_looks, self.watched) = (0, true);
        } else {
            self.silent_looks = self.silent_looks.saturating_add(1);
            self.watched = self.watched && self.silent_looks < SILENT_LOOKS_MAX;
        }
        self.last_word = word;
        Ok(())
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
