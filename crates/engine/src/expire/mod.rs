//! Expire: remove what nothing needs any more.
//!
//! [`plan`] decides from what the repository has, what is asked to be kept, and the time, and gives a reason for everything that
//! stays and everything that goes; it is pure. [`apply`] carries a plan out: records first, so that what is listed can be restored at any
//! moment, then WAL, and packs when no record names them. What dead backups left goes the same way ([`leftovers`]).

mod apply;
mod leftovers;
mod plan;
#[cfg(test)]
mod plan_tests;
mod policy;

pub use apply::{Applied, apply};
pub use leftovers::{Leftovers, leftovers, remove_leftovers};
pub use plan::{BackupFate, Facts, Plan, WalFate, facts, plan};
pub use policy::{Every, Policy};
