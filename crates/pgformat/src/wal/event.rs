//! The records an archive reads: ends of transactions, restore points, ends of backups, and what changes the WAL itself.

use super::WalError;
use super::record::{MANAGER_TRANSACTION, RecordHeader, main_data};
use crate::bytes::Fields;
use crate::{Lsn, Major, TimelineId, WalLevel};

/// Something in the WAL that an archive wants to know of. `lsn` is where its record begins and `end` where the next
/// record may; recovery that is to include the event goes at least to `end`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum WalEvent {
    /// A transaction was committed or rolled back.
    Transaction(TransactionEnd),
    /// Someone called `pg_create_restore_point`.
    RestorePoint {
        /// Start of the record.
        lsn: Lsn,
        /// End of the record.
        end: Lsn,
        /// Microseconds since 2000; see [`timestamp_to_unix_micros`](super::timestamp_to_unix_micros).
        time_micros: i64,
        /// Its name.
        name: String,
    },
    /// A backup taken from a primary ended: its data is consistent once this record was replayed.
    BackupEnd {
        /// Start of the record.
        lsn: Lsn,
        /// End of the record.
        end: Lsn,
        /// Where that backup began.
        start: Lsn,
    },
    /// The rest of the segment is unused.
    Switch {
        /// Where WAL goes on: the start of a segment.
        end: Lsn,
    },
    /// The server was started with other settings. The new ones hold from here on.
    ParameterChange {
        /// Start of the record.
        lsn: Lsn,
        /// End of the record.
        end: Lsn,
        /// How much is written to WAL from here on.
        wal_level: WalLevel,
    },
    /// A checkpoint was completed.
    Checkpoint {
        /// Start of the record.
        lsn: Lsn,
        /// End of the record.
        end: Lsn,
        /// Where replay from this checkpoint begins.
        redo: Lsn,
        /// The timeline it was made on.
        timeline: TimelineId,
        /// Whether the server was shut down with it.
        shutdown: bool,
    },
}

/// How a transaction ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TransactionEnd {
    /// Start of the record.
    pub lsn: Lsn,
    /// End of the record.
    pub end: Lsn,
    /// The transaction; for a prepared one, the one that was prepared.
    pub xid: u32,
    /// Microseconds since 2000; see [`timestamp_to_unix_micros`](super::timestamp_to_unix_micros). Not in the order of
    /// the records: the time is taken before the record finds its place.
    pub time_micros: i64,
    /// Committed, not rolled back.
    pub committed: bool,
    /// Ended by `COMMIT PREPARED` or `ROLLBACK PREPARED`.
    pub prepared: bool,
}

/// A record's place: where it begins and ends.
#[derive(Clone, Copy, Debug)]
pub(super) struct Span {
    pub(super) lsn: Lsn,
    pub(super) end: Lsn,
}

const CHECKPOINT_SHUTDOWN: u8 = 0x00;
const CHECKPOINT_ONLINE: u8 = 0x10;
const SWITCH: u8 = 0x40;
const BACKUP_END: u8 = 0x50;
const PARAMETER_CHANGE: u8 = 0x60;
const RESTORE_POINT: u8 = 0x70;
const OVERWRITE_CONTRECORD: u8 = 0xD0;

/// Whether this is the record that leaves the rest of its segment unused.
pub(super) fn is_switch(header: &RecordHeader) -> bool {
    header.manager != MANAGER_TRANSACTION && header.operation() == SWITCH
}

/// Which unfinished record this one says it replaces; `None` when it does not say so.
pub(super) fn overwritten(header: &RecordHeader, body: &[u8]) -> Option<Lsn> {
    let says_so = header.is_read()
        && header.manager != MANAGER_TRANSACTION
        && header.operation() == OVERWRITE_CONTRECORD;
    says_so.then(|| Fields::new(main_data(body)?).u64().map(Lsn)).flatten()
}

/// Reads a record for which [`RecordHeader::is_read`] holds; `None` for one that is no event.
pub(super) fn read(
    header: &RecordHeader,
    body: &[u8],
    span: Span,
    segment_end: Lsn,
    major: Major,
) -> Result<Option<WalEvent>, WalError> {
    let Span { lsn, end } = span;
    let malformed = |kind| WalError::Malformed { record: lsn, kind };
    if header.manager == MANAGER_TRANSACTION {
        return read_transaction(header, body, span, major).ok_or_else(|| malformed("end of a transaction"));
    }
    let data = || main_data(body).map(Fields::new);
    let event = match header.operation() {
        CHECKPOINT_SHUTDOWN | CHECKPOINT_ONLINE => data()
            .and_then(|fields| checkpoint(fields, span, header))
            .ok_or_else(|| malformed("checkpoint"))?,
        SWITCH => WalEvent::Switch { end: segment_end },
        BACKUP_END => {
            let start = data().and_then(|mut fields| fields.u64());
            WalEvent::BackupEnd {
                lsn,
                end,
                start: start.map(Lsn).ok_or_else(|| malformed("end of a backup"))?,
            }
        }
        PARAMETER_CHANGE => {
            let wal_level = data().and_then(wal_level).ok_or_else(|| malformed("wal_level"))?;
            WalEvent::ParameterChange { lsn, end, wal_level }
        }
        RESTORE_POINT => {
            data().and_then(|fields| restore_point(fields, span)).ok_or_else(|| malformed("restore point"))?
        }
        _ => return Ok(None),
    };
    Ok(Some(event))
}

fn checkpoint(mut fields: Fields<'_>, span: Span, header: &RecordHeader) -> Option<WalEvent> {
    Some(WalEvent::Checkpoint {
        lsn: span.lsn,
        end: span.end,
        redo: Lsn(fields.u64()?),
        timeline: TimelineId::new(fields.u32()?)?,
        shutdown: header.operation() == CHECKPOINT_SHUTDOWN,
    })
}

fn wal_level(mut fields: Fields<'_>) -> Option<WalLevel> {
    // MaxConnections, max_worker_processes, max_wal_senders, max_prepared_transactions, max_locks_per_transaction.
    fields.skip(5 * 4)?;
    fields.u32().and_then(WalLevel::from_number)
}

fn restore_point(mut fields: Fields<'_>, span: Span) -> Option<WalEvent> {
    const NAME_LENGTH: usize = 64;
    let time_micros = fields.i64()?;
    let name = fields.array::<NAME_LENGTH>()?;
    let name = name.split(|&byte| byte == 0).next().unwrap_or_default();
    let name = String::from_utf8_lossy(name).into_owned();
    Some(WalEvent::RestorePoint { lsn: span.lsn, end: span.end, time_micros, name })
}

/// The outer `None` is a record that cannot be read, the inner one a record that ends no transaction.
fn read_transaction(
    header: &RecordHeader,
    body: &[u8],
    span: Span,
    major: Major,
) -> Option<Option<WalEvent>> {
    const OPERATIONS: u8 = 0x70;
    const HAS_DETAILS: u8 = 0x80;
    let (committed, prepared) = match header.info & OPERATIONS {
        0x00 => (true, false),
        0x30 => (true, true),
        0x20 => (false, false),
        0x40 => (false, true),
        _ => return Some(None),
    };
    let mut fields = Fields::new(main_data(body)?);
    let time_micros = fields.i64()?;
    let xid = match prepared {
        false => header.transaction,
        true if header.info & HAS_DETAILS == 0 => return None,
        true => prepared_transaction(fields, committed, major)?,
    };
    let Span { lsn, end } = span;
    Some(Some(WalEvent::Transaction(TransactionEnd { lsn, end, xid, time_micros, committed, prepared })))
}

/// The transaction that was prepared stands behind lists of everything else its end brings about.
fn prepared_transaction(mut fields: Fields<'_>, committed: bool, major: Major) -> Option<u32> {
    const DATABASE: u32 = 1 << 0;
    const SUBTRANSACTIONS: u32 = 1 << 1;
    const RELATIONS: u32 = 1 << 2;
    const INVALIDATIONS: u32 = 1 << 3;
    const TWO_PHASE: u32 = 1 << 4;
    const STATISTICS: u32 = 1 << 8;
    let details = fields.u32()?;
    if details & TWO_PHASE == 0 {
        return None;
    }
    if details & DATABASE != 0 {
        fields.skip(8)?;
    }
    if details & SUBTRANSACTIONS != 0 {
        skip_list(&mut fields, 4)?;
    }
    if details & RELATIONS != 0 {
        skip_list(&mut fields, 12)?;
    }
    if details & STATISTICS != 0 {
        skip_list(&mut fields, major.dropped_statistics_bytes()?)?;
    }
    if committed && details & INVALIDATIONS != 0 {
        skip_list(&mut fields, 16)?;
    }
    fields.u32()
}

fn skip_list(fields: &mut Fields<'_>, item_bytes: usize) -> Option<()> {
    let items = usize::try_from(fields.u32()?).ok()?;
    fields.skip(items.checked_mul(item_bytes)?)
}
