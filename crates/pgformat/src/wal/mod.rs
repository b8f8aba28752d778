//! Reading WAL as it streams by.
//!
//! WAL is a run of records, laid through pages that each begin with a header; a record that does not fit goes on in
//! the next page. [`Decoder`] follows that run in whatever pieces it arrives, checks everything that can be checked
//! without data files, and reports the few records an archive wants to know of. It keeps no record in memory that it
//! does not report: others are checksummed as they pass.

mod decoder;
mod error;
mod event;
mod page;
mod record;

pub use decoder::{Decoder, Expect, Progress};
pub use error::WalError;
pub use event::{TransactionEnd, WalEvent};

use crate::Lsn;

/// Microseconds since 1970 of a PostgreSQL timestamp, which counts them from 2000. Saturates.
pub fn timestamp_to_unix_micros(timestamp: i64) -> i64 {
    const POSTGRESQL_EPOCH_MICROS: i64 = 946_684_800_000_000;
    timestamp.saturating_add(POSTGRESQL_EPOCH_MICROS)
}

/// What [`scan_segment`] found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Scan {
    /// Whether WAL ended within the bytes.
    pub progress: Progress,
    /// End of the last whole record, or `start` when there was none.
    pub last_record_end: Lsn,
}

/// Decodes a segment, or several in a row, that lie in memory. `start` is where the first begins.
pub fn scan_segment(
    expect: Expect,
    start: Lsn,
    bytes: &[u8],
    on_event: &mut dyn FnMut(WalEvent),
) -> Result<Scan, WalError> {
    let mut decoder = Decoder::new(expect, start);
    let progress = decoder.push(bytes, on_event)?;
    Ok(Scan { progress, last_record_end: decoder.last_record_end() })
}
