//! Archive: stream WAL into the repository, and acknowledge what is durable there.
//!
//! Every session starts from what the repository says, so that recovering from a failure is what happens every day. A
//! session streams from the start of the segment it is in, even when pieces of it are durable: the bytes that come again must be
//! the same, or the server is not the one we followed.

mod assemble;
mod open;
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

use crate::server::Server;
use crate::{Clock, Error};

pub(crate) use assemble::wal_time;

/// What archiving needs to know.
#[derive(Debug, Clone)]
pub struct ArchiveConfig {
    /// The server. Its `application_name` is what `synchronous_standby_names` may name.
    pub connect: ConnectConfig,
    /// The replication slot.
    pub slot: String,
    /// How long WAL of an unfinished segment may wait for more before it is made durable.
    pub flush_interval: Duration,
    /// Segments that are compressed and written at once, at most. Each holds its plain bytes in memory.
    pub in_flight_max: usize,
    /// What time it is.
    pub clock: Clock,
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
/// Longest time between two attempts. Short, as a server that is back may soon remove WAL that no slot of ours keeps.
const RETRY_MAX: Duration = Duration::from_secs(1);

/// Archives until `shutdown`. Fails only if the very first session fails in a way that time does not mend: then nobody
/// counts on us yet, and whoever started us is told. Later, everything is tried again for ever.
pub async fn run(
    config: ArchiveConfig,
    cluster: Cluster,
    status: watch::Sender<ArchiveStatus>,
    shutdown: CancellationToken,
) -> Result<(), Error> {
    let mut streamed = false;
    let mut delay = RETRY_MIN;
    let mut last_problem = String::new();
    while !shutdown.is_cancelled() {
        let begun = Instant::now();
        let attempt = session::attempt(&config, &cluster, &status, &shutdown).await;
        streamed |= status.borrow().server.is_some();
        if begun.elapsed() > RETRY_MAX {
            // It went well for a while, so what happened now is news.
            delay = RETRY_MIN;
            last_problem.clear();
        }
        match attempt {
            Ok(Ended::Stopped) => break,
            Ok(Ended::Again) => last_problem.clear(),
            Err(error) if !streamed && !error.is_transient() => return Err(error),
            Err(error) => report(&config, &status, &error, &mut last_problem),
        }
        tokio::select! {
            () = shutdown.cancelled() => break,
            () = tokio::time::sleep(delay) => delay = (delay * 2).min(RETRY_MAX),
        }
    }
    Ok(())
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
