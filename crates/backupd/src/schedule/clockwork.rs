//! Doing something by the clock, again and again, with the settings as they are then.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::{Calendar, NAP_MAX};
use crate::config::{Live, Settings};

/// Something that is done by the clock.
pub(super) trait Clockwork {
    /// What is done, for the log.
    const WHAT: &str;

    /// When it is due, where it is at all.
    fn calendar(settings: &Settings) -> Option<&Calendar>;

    /// Does it if it is time; how long nothing is to be done then.
    fn step(&mut self, settings: Arc<Settings>) -> impl Future<Output = Duration> + Send;
}

/// Has it done until our turn is over.
pub(super) async fn run<C: Clockwork>(mut clockwork: C, mut live: Live, over: CancellationToken) {
    say_when::<C>(&live.now());
    loop {
        let nap = tokio::select! {
            () = over.cancelled() => return,
            nap = clockwork.step(live.now()) => nap,
        };
        tokio::select! {
            () = over.cancelled() => return,
            () = tokio::time::sleep(nap.min(NAP_MAX)) => {}
            () = live.changed() => say_when::<C>(&live.now()),
        }
    }
}

fn say_when<C: Clockwork>(settings: &Settings) {
    if let Some(calendar) = C::calendar(settings) {
        let next = calendar.next(crate::now()).map(|next| next.to_rfc3339());
        tracing::info!(schedule = calendar.as_str(), next, "{} by the clock", C::WHAT);
    }
}
