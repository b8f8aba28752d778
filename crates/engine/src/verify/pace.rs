//! Reading no faster than one is told.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

/// Bytes in one read at most. A pack takes four requests, and several may be under way at once.
const PART_BYTES_MAX: u64 = 8 << 20;
/// Bytes in one read at least, however slow it is to go.
const PART_BYTES_MIN: u64 = 64 << 10;

/// Spreads reads over time. What was not used in a quiet while is not made up for: the limit holds in every second.
pub(super) struct Pace {
    bytes_per_second: Option<u64>,
    /// Until when what was let through so far takes.
    taken_until: Mutex<Instant>,
}

impl Pace {
    pub(super) fn new(bytes_per_second: Option<u64>) -> Pace {
        let bytes_per_second = bytes_per_second.map(|bytes| bytes.max(1));
        Pace { bytes_per_second, taken_until: Mutex::new(Instant::now()) }
    }

    /// Bytes to ask for at once: no more than goes through in a second.
    pub(super) fn part_bytes(&self) -> u64 {
        self.bytes_per_second.map_or(PART_BYTES_MAX, |rate| rate.clamp(PART_BYTES_MIN, PART_BYTES_MAX))
    }

    /// Waits until so many bytes may be asked for.
    pub(super) async fn wait(&self, bytes: u64) {
        let Some(rate) = self.bytes_per_second else { return };
        let begin = {
            // A panic elsewhere cannot leave a time half changed.
            let mut until = self.taken_until.lock().unwrap_or_else(PoisonError::into_inner);
            let begin = (*until).max(Instant::now());
            *until = begin + Duration::from_secs_f64(bytes as f64 / rate as f64);
            begin
        };
        sleep_until(begin).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::future::join_all;

    #[tokio::test(start_paused = true)]
    async fn all_together_keep_the_rate() {
        let pace = Pace::new(Some(1 << 20));
        let begun = Instant::now();
        join_all((0..64).map(|_| pace.wait(1 << 20))).await;
        // The last one begins when the others have had their second each.
        assert_eq!(begun.elapsed().as_secs(), 63);
    }

    #[tokio::test(start_paused = true)]
    async fn a_quiet_while_is_not_made_up_for() {
        let pace = Pace::new(Some(100));
        pace.wait(100).await;
        tokio::time::sleep(Duration::from_secs(60)).await;
        let begun = Instant::now();
        for _ in 0..11 {
            pace.wait(100).await;
        }
        assert_eq!(begun.elapsed().as_secs(), 10);
    }

    #[tokio::test(start_paused = true)]
    async fn without_a_limit_nobody_waits() {
        let (pace, begun) = (Pace::new(None), Instant::now());
        pace.wait(u64::MAX).await;
        assert_eq!(begun.elapsed(), Duration::ZERO);
    }

    #[test]
    fn no_read_takes_longer_than_a_second() {
        for (rate, part) in [(None, PART_BYTES_MAX), (Some(1 << 20), 1 << 20), (Some(1), PART_BYTES_MIN)] {
            assert_eq!(Pace::new(rate).part_bytes(), part);
        }
    }
}
