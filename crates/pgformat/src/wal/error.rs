//! What can be wrong with WAL.

use crate::{Lsn, SegmentSize};

/// WAL that is damaged, or not the WAL that was expected. Each names where.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs, reason = "the messages say what the fields are")]
pub enum WalError {
    #[error("WAL can be read from the start of a segment only, and {lsn} is not one")]
    NotSegmentStart { lsn: Lsn },
    #[error(
        "the WAL page at {page} has magic {found:04X} instead of {expected:04X}: it is of another major, or no WAL"
    )]
    Magic { page: Lsn, expected: u16, found: u16 },
    #[error("the WAL page at {page} has unknown or misplaced flags {found:04X}")]
    Flags { page: Lsn, found: u16 },
    #[error(
        "the WAL page at {page} claims to be at {found}: it is left over from an earlier use of the file"
    )]
    Address { page: Lsn, found: Lsn },
    #[error("the WAL page at {page} is of timeline {found}; only {at_least} to {at_most} can follow there")]
    Timeline { page: Lsn, at_least: u32, at_most: u32, found: u32 },
    #[error("the WAL page at {page} belongs to cluster {found}, not {expected}")]
    SystemIdentifier { page: Lsn, expected: u64, found: u64 },
    #[error("the WAL page at {page} is of segments of {found} bytes, not {expected}")]
    SegmentSize { page: Lsn, expected: SegmentSize, found: u32 },
    #[error("the WAL page at {page} names pages of {found} bytes")]
    BlockSize { page: Lsn, found: u32 },
    #[error("the WAL page at {page} continues a record by {found} bytes where {expected} are missing")]
    Continuation { page: Lsn, expected: u64, found: u64 },
    #[error("the WAL record at {record} is cut off at {page}, where only zeroes follow")]
    CutOff { record: Lsn, page: Lsn },
    #[error(
        "the WAL page at {page} overwrites an unfinished record, but the record at {record} does not say which"
    )]
    Overwrite { page: Lsn, record: Lsn },
    #[error("the WAL record at {record} claims a length of {found} bytes")]
    Length { record: Lsn, found: u32 },
    #[error("the WAL record at {record} is of unknown resource manager {found}")]
    ResourceManager { record: Lsn, found: u8 },
    #[error("the WAL record at {record} says it follows one at {found}, not {expected}")]
    Previous { record: Lsn, expected: Lsn, found: Lsn },
    #[error("the WAL record at {record} fails its checksum: computed {computed:08x}, stored {stored:08x}")]
    Checksum { record: Lsn, computed: u32, stored: u32 },
    #[error("the WAL record at {record} holds its checksum but no readable {kind}")]
    Malformed { record: Lsn, kind: &'static str },
}

impl WalError {
    /// Where the trouble is: the start of the page or record concerned.
    pub fn lsn(&self) -> Lsn {
        match *self {
            WalError::NotSegmentStart { lsn } => lsn,
            WalError::Magic { page, .. }
            | WalError::Flags { page, .. }
            | WalError::Address { page, .. }
            | WalError::Timeline { page, .. }
            | WalError::SystemIdentifier { page, .. }
            | WalError::SegmentSize { page, .. }
            | WalError::BlockSize { page, .. }
            | WalError::Continuation { page, .. }
            | WalError::CutOff { page, .. }
            | WalError::Overwrite { page, .. } => page,
            WalError::Length { record, .. }
            | WalError::ResourceManager { record, .. }
            | WalError::Previous { record, .. }
            | WalError::Checksum { record, .. }
            | WalError::Malformed { record, .. } => record,
        }
    }
}
