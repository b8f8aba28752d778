//! What Drydock does: one module per verb.
//!
//! Nothing here reads flags, environment or the clock; the binaries do and pass what they found.

pub mod archive;
pub mod backup;
pub mod catalog;
pub mod check;
pub mod drill;
mod error;
pub mod expire;
pub mod fetch;
pub mod follow;
pub mod lease;
pub mod restore;
mod server;
pub mod status;
#[cfg(test)]
mod testing;
pub mod verify;
mod wal;

pub use error::{Error, chain};
pub use follow::{Decision, Known, decide};
pub use server::Server;

/// What time it is, told by whoever may look at a clock.
pub type Clock = fn() -> chrono::DateTime<chrono::Utc>;
