//! Those who ask without our token.

use std::net::SocketAddr;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// A line of the log in so long at most: strangers are not to fill a disk with it.
const SAY_INTERVAL: Duration = Duration::from_secs(10);

/// How many came since that was last said, and when it was.
#[derive(Debug, Default)]
pub(super) struct Strangers(Mutex<(u64, Option<Instant>)>);

impl Strangers {
    /// Counts one, and says so now and then.
    pub fn saw(&self, peer: Option<SocketAddr>) {
        // A panic elsewhere cannot leave two numbers half changed.
        let mut seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        seen.0 += 1;
        if seen.1.is_none_or(|said| said.elapsed() >= SAY_INTERVAL) {
            tracing::warn!(?peer, requests = seen.0, "somebody without our token asked for the repository");
            *seen = (0, Some(Instant::now()));
        }
    }
}
