//! Telling systemd that the service has started, what it is at, and that it does not stand still.

use std::sync::Arc;
use std::time::Duration;

use sd_notify::NotifyState;
use tokio_util::sync::CancellationToken;

use crate::monitor::Observed;

/// Time between two looks at what there is to tell.
const TELL_INTERVAL: Duration = Duration::from_secs(2);
/// So many times within the time that systemd allows it is told that we live.
const PER_WATCHDOG: u32 = 3;

/// Tells, until `shutdown`, whoever has started us and wants to know; nobody does where `NOTIFY_SOCKET` is not set.
///
/// It runs on the thread that archives: one that stands still tells nothing, and is ended.
pub(crate) async fn tell(observed: Arc<Observed>, shutdown: CancellationToken) {
    if std::env::var_os("NOTIFY_SOCKET").is_none_or(|socket| socket.is_empty()) {
        return;
    }
    let watchdog = sd_notify::watchdog_enabled();
    let interval = watchdog.map_or(TELL_INTERVAL, |within| TELL_INTERVAL.min(within / PER_WATCHDOG));
    let mut ticks = tokio::time::interval(interval);
    let (mut is_ready, mut told) = (false, String::new());
    loop {
        tokio::select! {
            () = shutdown.cancelled() => break,
            _ = ticks.tick() => {}
        }
        let summary = observed.summary(crate::now());
        if summary.has_started && !is_ready {
            is_ready = true;
            say(&[NotifyState::Ready]);
        }
        if summary.text != told {
            say(&[NotifyState::Status(&summary.text)]);
            told = summary.text;
        }
        if watchdog.is_some() {
            say(&[NotifyState::Watchdog]);
        }
    }
    say(&[NotifyState::Stopping]);
}

fn say(states: &[NotifyState]) {
    // Whoever wanted to know is gone; the service goes on.
    if let Err(error) = sd_notify::notify(states) {
        tracing::debug!("systemd cannot be told: {error}");
    }
}
