//! Backups by the clock: when one is due, and whether it is to begin now.
//!
//! When a backup is due is decided by what the repository has, not by what this process remembers: a run that was missed while
//! nobody was there is made up for, and a backup that a person or a CronJob has taken since counts as well as one of ours.

mod calendar;
mod decide;
mod run;

pub use calendar::{Calendar, Window};
pub use decide::{Decision, Failed, Situation, decide};
pub(crate) use run::run;
