//! What is done by the clock: when it is due, and whether it is to begin now.
//!
//! When something is due is decided by what the repository has, not by what this process remembers: a run that was missed while
//! nobody was there is made up for, and a backup that a person or a CronJob has taken since counts as well as one of ours.

mod backups;
mod calendar;
mod clockwork;
mod decide;
mod verification;

use std::time::Duration;

use chrono::{DateTime, Utc};
use repository::Cluster;
use repository::state::Heartbeat;

use crate::process;

pub(crate) use backups::take_backups;
pub use calendar::{Calendar, Window};
pub use decide::{Decision, Failed, Situation, decide};
pub(crate) use verification::{verify, verify_by_the_clock};

/// Longest time without a look at the clock, which may have been set.
const NAP_MAX: Duration = Duration::from_secs(60);
/// A backup that has not said for so long that it runs is not waited for. It says so every half a minute.
const SILENT_MAX: chrono::Duration = chrono::Duration::minutes(2);
/// Time to the next look while nothing is streamed, or the repository cannot be asked.
const LOOK_AGAIN: Duration = Duration::from_secs(5);

/// A backup of the cluster that runs, wherever it does. One that was killed is not waited for as long as what it left is kept, and not at
/// all where it is known to have ended.
pub async fn running(cluster: &Cluster) -> Result<Option<Heartbeat>, repository::Error> {
    let now = crate::now();
    let lives = |running: &Heartbeat| {
        now.signed_duration_since(running.updated_at) < SILENT_MAX
            && !process::runner_has_ended(&running.runner)
    };
    Ok(cluster.heartbeats().await?.into_iter().find(lives))
}

fn until_then(then: DateTime<Utc>) -> Duration {
    then.signed_duration_since(crate::now()).to_std().unwrap_or(Duration::ZERO)
}
