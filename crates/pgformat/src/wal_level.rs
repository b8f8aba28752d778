//! How much a server writes to its WAL.

use serde::{Deserialize, Serialize};

/// The setting `wal_level`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WalLevel {
    /// Only what crash recovery needs: neither backups nor archives can be made from such WAL.
    Minimal,
    /// What a standby, and so a restore, needs.
    Replica,
    /// As `Replica`, and what logical decoding needs.
    Logical,
}

impl WalLevel {
    /// `None` for a number PostgreSQL does not use.
    pub(crate) fn from_number(number: u32) -> Option<WalLevel> {
        match number {
            0 => Some(WalLevel::Minimal),
            1 => Some(WalLevel::Replica),
            2 => Some(WalLevel::Logical),
            _ => None,
        }
    }
}
