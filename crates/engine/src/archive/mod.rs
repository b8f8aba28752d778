//! Archive: stream WAL into the repository, and acknowledge what is durable there.
//!
//! Every session starts from what the repository says, so that recovering from a failure is what happens every day. A
//! session streams from the start of the segment it is in, even when pieces of it are durable: the bytes that come again must be
//! the same, or the server is not the one we followed.

mod assemble;
mod open;
mod salvage;
mod session;
mod synchronous;

use std::time::Duration;

use chrono::{DateTime, Utc};
use pgformat::Lsn;
use replication::ConnectConfig;
use repository::Cluster;
use repository::wal::Durable;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::follow::Known;
use crate::server::Server;
use crate::{Clock, Error};

pub(crate) use assemble::wal_time;
pub(crate) use open::newest;

/// What archiving needs to know.
#[derive(Debug, Clone)]
pub struct ArchiveConfig {
    /// The replication slot; `None` to do without, and risk that the server removes WAL that we have not got yet.
    pub slot: Option<String>,
    /// Within what time WAL of an unfinished segment is made durable, where storing a piece takes less than half of that.
    pub flush_interval: Duration,
    /// Segments that are compressed and written at once, at most. Each holds its plain bytes in memory.
    pub in_flight_max: usize,
    /// Another service has archived before and is gone without a word. A connection of its that still has the slot is ended,
    /// once.
    pub evicts: bool,
    /// What time it is.
    pub clock: Clock,
}

/// From whom to stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// The node, as whoever chose it calls it.
    pub node: String,
    /// How to reach it. Its `application_name` is what `synchronous_standby_names` may name.
    pub connect: ConnectConfig,
    /// When it does not have the WAL that comes next, nobody has: a hole is recorded, and archiving goes on behind it.
    pub leaves_hole: bool,
    /// For SQL: the nodes whose `pg_wal` may be looked into before that.
    pub others: Vec<ConnectConfig>,
    /// There never will be another one. Whoever started us is told if it cannot be streamed from at all.
    pub only: bool,
}

impl Target {
    /// The one server there is.
    pub fn only(connect: ConnectConfig) -> Target {
        Target { node: connect.target(), connect, leaves_hole: true, others: Vec::new(), only: true }
    }
}

/// How archiving goes.
#[derive(Debug, Clone, Default)]
pub struct ArchiveStatus {
    /// The server we stream from; `None` while there is none.
    pub server: Option<Server>,
    /// What is durable.
    pub durable: Option<Durable>,
    /// First byte not received yet.
    pub received: Lsn,
    /// How far the server's WAL was flushed when it last said so.
    pub server_end: Lsn,
    /// Whether commits wait for us.
    pub synchronous: bool,
    /// What keeps us from going on, if anything does.
    pub problem: Option<String>,
    /// When that began, or when streaming did.
    pub since: Option<DateTime<Utc>>,
    /// The node that was asked last and did not have the WAL behind this position.
    pub lacking: Option<(String, Known)>,
}

/// How a session ended, when nothing failed.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Ended {
    /// We were told to stop; everything received is durable.
    Stopped,
    /// The server's timeline ended, or a hole was recorded: start again from what the repository says now.
    Again,
}

/// Time to the next attempt after the first failure; it doubles up to [`RETRY_MAX`].
const RETRY_MIN: Duration = Duration::from_millis(250);
/// How long a session does without a slot that is in use, before the slot is tried again.
const WITHOUT_SLOT_FOR: Duration = Duration::from_secs(15);
/// Longest time between two attempts. Short, as a server that is back may soon remove WAL that no slot of ours keeps.
const RETRY_MAX: Duration = Duration::from_secs(1);

/// Archives from whoever is the target, until `shutdown`. Fails only if there is one target for ever and the very first
/// session fails in a way that time does not mend: then nobody counts on us yet, and whoever started us is told. Later,
/// everything is tried again for ever.
pub async fn run(
    config: ArchiveConfig,
    cluster: Cluster,
    mut targets: watch::Receiver<Option<Target>>,
    status: watch::Sender<ArchiveStatus>,
    shutdown: CancellationToken,
) -> Result<(), Error> {
    let mut streamed = false;
    let mut delay = RETRY_MIN;
    let mut last_problem = String::new();
    let mut occupied = Occupied::default();
    while !shutdown.is_cancelled() {
        let Some(target) = next_target(&mut targets, &shutdown).await else { break };
        let begun = Instant::now();
        let attempt = {
            let over = shutdown.child_token();
            let config = occupied.config(&config);
            let session = session::attempt(&config, &target, &cluster, &status, &over);
            until_retargeted(session, &target, targets.clone(), occupied.limit(), &over).await
        };
        streamed |= status.borrow().server.is_some();
        if begun.elapsed() > RETRY_MAX {
            // It went well for a while, so what happened now is news.
            delay = RETRY_MIN;
            last_problem.clear();
        }
        match attempt {
            Ok(Ended::Stopped) if shutdown.is_cancelled() => break,
            Ok(Ended::Stopped | Ended::Again) => {
                status.send_modify(|status| status.server = None);
                last_problem.clear();
            }
            Err(error) if target.only && !streamed && !error.is_transient() => return Err(error),
            Err(Error::Server(replication::Error::SlotInUse { .. })) if config.evicts => {
                occupied.is_in_use(&config, &target).await;
            }
            Err(error) => report(&config, &status, &error, &mut last_problem),
        }
        tokio::select! {
            biased;
            () = shutdown.cancelled() => break,
            // Another target is news, and need not wait.
            Ok(_) = targets.wait_for(|next| next.as_ref() != Some(&target)) => delay = RETRY_MIN,
            () = tokio::time::sleep(delay) => delay = (delay * 2).min(RETRY_MAX),
        }
    }
    Ok(())
}

/// What is done about a slot that a service has which is gone without a word.
#[derive(Debug, Default)]
struct Occupied {
    evicted: bool,
    /// The next session does without the slot.
    without: bool,
}

impl Occupied {
    /// Its connection is ended, which takes effect at once unless it is busy sending to somebody who does not read. Then we do
    /// without for a while: as long as it is there, the slot keeps the WAL that we need.
    async fn is_in_use(&mut self, config: &ArchiveConfig, target: &Target) {
        if self.evicted {
            self.without = true;
            tracing::info!(server = target.node, "streaming without the slot until it is free");
        } else {
            self.evicted = true;
            open::evict(config, target).await;
        }
    }

    fn config(&self, config: &ArchiveConfig) -> ArchiveConfig {
        ArchiveConfig { slot: config.slot.clone().filter(|_| !self.without), ..config.clone() }
    }

    fn limit(&mut self) -> Option<Duration> {
        std::mem::take(&mut self.without).then_some(WITHOUT_SLOT_FOR)
    }
}

/// The target, once there is one; `None` when told to stop meanwhile.
async fn next_target(
    targets: &mut watch::Receiver<Option<Target>>,
    shutdown: &CancellationToken,
) -> Option<Target> {
    let target = async {
        let found = targets.wait_for(Option::is_some).await.ok().and_then(|target| target.clone());
        match found {
            Some(target) => target,
            // Nobody chooses any more, so nobody else will come.
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        biased;
        () = shutdown.cancelled() => None,
        target = target => Some(target),
    }
}

/// Runs a session, and has it stop when it is to be another node's.
async fn until_retargeted(
    session: impl Future<Output = Result<Ended, Error>>,
    target: &Target,
    mut targets: watch::Receiver<Option<Target>>,
    limit: Option<Duration>,
    over: &CancellationToken,
) -> Result<Ended, Error> {
    let is_over = async {
        match limit {
            Some(limit) => tokio::time::sleep(limit).await,
            None => std::future::pending().await,
        }
    };
    let is_other = |next: &Option<Target>| next.as_ref().is_some_and(|next| next.node != target.node);
    let retargeted = async {
        let is_closed = targets.wait_for(is_other).await.is_err();
        if is_closed {
            std::future::pending::<()>().await;
        }
    };
    let mut session = std::pin::pin!(session);
    tokio::select! {
        ended = &mut session => return ended,
        () = retargeted => over.cancel(),
        () = is_over => over.cancel(),
    }
    session.await
}

/// Says what is wrong: in the status at once, in the log when it is news.
fn report(
    config: &ArchiveConfig,
    status: &watch::Sender<ArchiveStatus>,
    error: &Error,
    last_problem: &mut String,
) {
    let problem = crate::error::chain(error);
    status.send_modify(|status| {
        if status.problem.is_none() {
            status.since = Some((config.clock)());
        }
        status.server = None;
        status.problem = Some(problem.clone());
    });
    if problem == *last_problem {
        return;
    }
    let hint = error.hint().unwrap_or_default();
    if error.is_transient() {
        tracing::warn!(hint, "not archiving, trying again: {problem}");
    } else {
        tracing::error!(hint, "not archiving, trying again: {problem}");
    }
    *last_problem = problem;
}
