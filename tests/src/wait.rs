//! Waiting with a limit.

use std::time::{Duration, Instant};

const POLL_EVERY: Duration = Duration::from_millis(25);

/// Asks until there is an answer, and panics with `what` when `limit` passes without one.
#[track_caller]
pub fn wait_for<T>(what: &str, limit: Duration, mut ask: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(start.elapsed() < limit, "waited {limit:?} in vain for: {what}");
        std::thread::sleep(POLL_EVERY);
    }
}

/// Asks until it is true, and panics with `what` when `limit` passes before.
#[track_caller]
pub fn wait_until(what: &str, limit: Duration, mut ask: impl FnMut() -> bool) {
    wait_for(what, limit, || ask().then_some(()));
}
