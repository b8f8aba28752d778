//! Limits that all requests share: bytes per second, and how long one may stand still.

use std::num::{NonZeroU32, NonZeroU64};
use std::pin::pin;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use governor::clock::{Clock, DefaultClock};
use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};
use tokio::time::{Instant, sleep, sleep_until};

/// Bytes that are handed to the network at once: small enough that a limit of a megabyte per second is an even flow.
pub(crate) const PIECE_BYTES_MAX: usize = 64 * 1024;
/// What the system may hold of a body after we have handed it over (the largest send buffer Linux gives by itself).
const SOCKET_BYTES_MAX: u64 = 4 * 1024 * 1024;
/// How slowly that may drain at least before the request counts as standing still.
const DRAIN_BYTES_PER_SECOND_MIN: u64 = 256 * 1024;
/// The limiter counts in units, so that a second holds few enough of them for its clock of nanoseconds.
const UNIT_BYTES: usize = 1024;

/// Bytes per second, in one direction, of all requests of a store.
#[derive(Debug)]
pub(crate) struct Bandwidth {
    limiter: DefaultDirectRateLimiter,
    clock: DefaultClock,
    piece_units: NonZeroU32,
}

impl Bandwidth {
    pub(crate) fn new(bytes_per_second: NonZeroU64) -> Bandwidth {
        let units = bytes_per_second.get().div_ceil(UNIT_BYTES as u64);
        let units = NonZeroU32::new(u32::try_from(units).unwrap_or(u32::MAX)).unwrap_or(NonZeroU32::MIN);
        let piece_max = u32::try_from(PIECE_BYTES_MAX / UNIT_BYTES).unwrap_or(1);
        // Never more at once than a second allows, so that no piece has to wait longer than that for its turn.
        let piece_units = NonZeroU32::new(piece_max.min(units.get())).unwrap_or(NonZeroU32::MIN);
        let limiter = RateLimiter::direct(Quota::per_second(units).allow_burst(piece_units));
        Bandwidth { limiter, clock: DefaultClock::default(), piece_units }
    }

    /// The most bytes that can be asked for at once.
    pub(crate) fn piece_bytes(&self) -> usize {
        self.piece_units.get() as usize * UNIT_BYTES
    }

    /// Takes these bytes from what is allowed, or says how long to wait before asking again.
    pub(crate) fn take(&self, bytes: usize) -> Result<(), Duration> {
        let units = u32::try_from(bytes.div_ceil(UNIT_BYTES)).unwrap_or(u32::MAX);
        let Some(units) = NonZeroU32::new(units) else { return Ok(()) };
        match self.limiter.check_n(units.min(self.piece_units)) {
            Ok(Err(early)) => Err(early.wait_time_from(self.clock.now())),
            Ok(Ok(())) | Err(_) => Ok(()),
        }
    }
}

/// Waits until `bytes` may pass.
pub(crate) async fn pass(limit: Option<&Bandwidth>, mut bytes: usize, progress: &Progress) {
    let Some(limit) = limit else { return };
    while bytes > 0 {
        let piece = bytes.min(limit.piece_bytes());
        while let Err(wait) = limit.take(piece) {
            progress.holds_still_for(wait);
            sleep(wait).await;
        }
        bytes -= piece;
    }
}

/// When a request last moved. Time that we hold it back ourselves does not count as standing still.
#[derive(Debug)]
pub(crate) struct Progress(Mutex<Instant>);

impl Progress {
    pub(crate) fn new() -> Progress {
        Progress(Mutex::new(Instant::now()))
    }

    pub(crate) fn moved(&self) {
        self.holds_still_for(Duration::ZERO);
    }

    pub(crate) fn holds_still_for(&self, wait: Duration) {
        // A panic elsewhere cannot leave an instant half changed.
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now() + wait;
    }

    fn last(&self) -> Instant {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How long a request with a body of `bytes` may stand still.
pub(crate) fn patience(request_timeout: Duration, bytes: u64) -> Duration {
    let drain = Duration::from_secs(bytes.min(SOCKET_BYTES_MAX) / DRAIN_BYTES_PER_SECOND_MIN);
    request_timeout.saturating_add(drain)
}

/// Does the work; `None` when it stood still for `patience`.
pub(crate) async fn while_moving<T>(
    progress: &Progress,
    patience: Duration,
    work: impl Future<Output = T>,
) -> Option<T> {
    let mut work = pin!(work);
    loop {
        let until = progress.last() + patience;
        tokio::select! {
            biased;
            done = &mut work => return Some(done),
            () = sleep_until(until) => {
                if progress.last() + patience <= Instant::now() {
                    return None;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_allows_a_piece_at_once_and_then_makes_wait() {
        let limit = Bandwidth::new(NonZeroU64::new(10 * 1024).unwrap());
        assert_eq!(limit.piece_bytes(), 10 * 1024);
        assert_eq!(limit.take(10 * 1024), Ok(()));
        let wait = limit.take(10 * 1024).unwrap_err();
        assert!(wait > Duration::from_millis(800) && wait <= Duration::from_secs(1), "{wait:?}");
    }

    #[test]
    fn any_rate_makes_a_limit() {
        for rate in [1, 1023, 1024, 1 << 20, 1 << 40, u64::MAX] {
            let limit = Bandwidth::new(NonZeroU64::new(rate).unwrap());
            assert_eq!(limit.take(limit.piece_bytes()), Ok(()), "{rate}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_moves_is_let_go_on() {
        let progress = Progress::new();
        let patience = Duration::from_secs(10);
        let slow = async {
            for _ in 0..100 {
                sleep(Duration::from_secs(9)).await;
                progress.moved();
            }
        };
        assert!(while_moving(&progress, patience, slow).await.is_some());
        let begun = Instant::now();
        assert!(while_moving(&progress, patience, sleep(Duration::from_secs(11))).await.is_none());
        assert_eq!(begun.elapsed(), patience);
        progress.holds_still_for(Duration::from_secs(5));
        assert!(while_moving(&progress, patience, sleep(Duration::from_secs(14))).await.is_some());
    }
}
