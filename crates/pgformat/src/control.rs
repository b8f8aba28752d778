//! `global/pg_control`: the file that says which cluster this is and where its WAL must be replayed from.
//!
//! The layout is that of a 64-bit little-endian server, the only kind we know of in use. It is the same from 14 to 18
//! but for the end: 17 put the WAL level into padding of the checkpoint copy, and 18 added a byte before the nonce,
//! which moves the CRC. The offsets of 14 and 16 are read from source; 15, 17 and 18 are checked with real files.

use crate::bytes::Fields;
use crate::version::UnknownMajor;
use crate::{Lsn, Major, SegmentSize, TimelineId, WalLevel};

/// Offsets of the fields we read. All are the same in every supported major.
mod offset {
    pub const SYSTEM_IDENTIFIER: usize = 0;
    pub const CONTROL_VERSION: usize = 8;
    pub const CATALOG_VERSION: usize = 12;
    pub const STATE: usize = 16;
    pub const CHECKPOINT: usize = 32;
    pub const REDO: usize = 40;
    pub const TIMELINE: usize = 48;
    pub const MIN_RECOVERY_POINT: usize = 136;
    pub const MIN_RECOVERY_TIMELINE: usize = 144;
    pub const BACKUP_START: usize = 152;
    pub const BACKUP_END: usize = 160;
    pub const WAL_LEVEL: usize = 172;
    pub const MAXIMUM_ALIGNMENT: usize = 204;
    pub const FLOAT_FORMAT: usize = 208;
    pub const BLOCK_SIZE: usize = 216;
    pub const RELATION_SEGMENT_BLOCKS: usize = 220;
    pub const WAL_BLOCK_SIZE: usize = 224;
    pub const SEGMENT_SIZE: usize = 228;
    pub const DATA_CHECKSUM_VERSION: usize = 252;
}

/// The contents of `pg_control` that matter to a backup.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ControlFile {
    /// Identifies the cluster; the same on every node of it.
    pub system_identifier: u64,
    /// The major that wrote the file.
    pub major: Major,
    /// Layout version of this file.
    pub pg_control_version: u32,
    /// Layout version of the system catalogs.
    pub catalog_version: u32,
    /// What the server was doing when it last wrote the file.
    pub state: ClusterState,
    /// The latest checkpoint record.
    pub checkpoint: Lsn,
    /// Where replay from that checkpoint begins.
    pub redo: Lsn,
    /// The timeline of that checkpoint.
    pub timeline: TimelineId,
    /// On a standby: the WAL up to here must be replayed before the data is consistent.
    pub min_recovery_point: Lsn,
    /// The timeline of `min_recovery_point`, where that is set.
    pub min_recovery_timeline: Option<TimelineId>,
    /// While a backup is being recovered: where it began.
    pub backup_start: Lsn,
    /// While a backup taken from a standby is being recovered: where it ended.
    pub backup_end: Lsn,
    /// `wal_level` of the server.
    pub wal_level: WalLevel,
    /// Bytes in a page of a relation.
    pub block_size: u32,
    /// Pages in a file of a relation; the next page begins the file with the next `.N`.
    pub relation_segment_blocks: u32,
    /// Bytes in a page of WAL.
    pub wal_block_size: u32,
    /// Bytes in a WAL segment.
    pub segment_size: SegmentSize,
    /// Whether relation pages carry checksums.
    pub data_checksums: bool,
}

/// What the server was doing when it last wrote `pg_control`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum ClusterState {
    /// Starting up, nothing replayed yet.
    StartingUp,
    /// Shut down cleanly as a primary.
    ShutDown,
    /// Shut down cleanly as a standby.
    ShutDownInRecovery,
    /// Shutting down.
    ShuttingDown,
    /// Replaying its own WAL after a crash.
    InCrashRecovery,
    /// Replaying an archive or a stream: a standby, or a restore.
    InArchiveRecovery,
    /// Running as a primary.
    InProduction,
}

/// The bytes are not a `pg_control` we can believe.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ControlError {
    /// Fewer bytes than the structure has.
    #[error("pg_control is cut short: {length} bytes")]
    Truncated {
        /// How many there are.
        length: usize,
    },
    /// Another major, or not a control file at all.
    #[error("pg_control is of an unknown version")]
    Version(#[from] UnknownMajor),
    /// Written by a machine of the other byte order.
    #[error("pg_control was written on a big-endian machine, which is not supported")]
    ByteOrder,
    /// Half written, or damaged. Reading it while the server writes can show this; read it again.
    #[error("pg_control fails its checksum: computed {computed:08x}, stored {stored:08x}")]
    Checksum {
        /// Over the bytes read.
        computed: u32,
        /// In the file.
        stored: u32,
    },
    /// The checksum holds and yet a field has a value we know no meaning for.
    #[error("pg_control has {found} as its {field}")]
    Field {
        /// Which field.
        field: &'static str,
        /// Its value.
        found: u64,
    },
}

impl ControlFile {
    /// Reads the file; it may be cut after its CRC.
    pub fn parse(bytes: &[u8]) -> Result<ControlFile, ControlError> {
        let raw = Raw(bytes);
        let (pg_control_version, catalog_version) =
            (raw.u32(offset::CONTROL_VERSION)?, raw.u32(offset::CATALOG_VERSION)?);
        // PostgreSQL's own rule: control versions are small, so one with an empty low half has its bytes swapped.
        if pg_control_version != 0 && pg_control_version.trailing_zeros() >= 16 {
            return Err(ControlError::ByteOrder);
        }
        let major = Major::from_control_version(pg_control_version, catalog_version)?;
        raw.verify_checksum(major)?;
        raw.verify_architecture()?;
        Ok(ControlFile {
            system_identifier: raw.u64(offset::SYSTEM_IDENTIFIER)?,
            major,
            pg_control_version,
            catalog_version,
            state: raw.known("state", offset::STATE, ClusterState::from_number)?,
            checkpoint: raw.lsn(offset::CHECKPOINT)?,
            redo: raw.lsn(offset::REDO)?,
            timeline: raw.known("timeline", offset::TIMELINE, TimelineId::new)?,
            min_recovery_point: raw.lsn(offset::MIN_RECOVERY_POINT)?,
            min_recovery_timeline: TimelineId::new(raw.u32(offset::MIN_RECOVERY_TIMELINE)?),
            backup_start: raw.lsn(offset::BACKUP_START)?,
            backup_end: raw.lsn(offset::BACKUP_END)?,
            wal_level: raw.known("wal_level", offset::WAL_LEVEL, WalLevel::from_number)?,
            block_size: raw.known("block size", offset::BLOCK_SIZE, |size| power_of_two(size, 10..=15))?,
            relation_segment_blocks: raw.known(
                "relation segment size",
                offset::RELATION_SEGMENT_BLOCKS,
                |blocks| (blocks > 0).then_some(blocks),
            )?,
            wal_block_size: raw
                .known("WAL block size", offset::WAL_BLOCK_SIZE, |size| power_of_two(size, 10..=16))?,
            segment_size: raw
                .known("WAL segment size", offset::SEGMENT_SIZE, |size| SegmentSize::new(size.into()))?,
            data_checksums: raw.known("checksum version", offset::DATA_CHECKSUM_VERSION, |version| {
                match version {
                    0 => Some(false),
                    1 => Some(true),
                    _ => None,
                }
            })?,
        })
    }
}

impl ClusterState {
    fn from_number(number: u32) -> Option<ClusterState> {
        Some(match number {
            0 => ClusterState::StartingUp,
            1 => ClusterState::ShutDown,
            2 => ClusterState::ShutDownInRecovery,
            3 => ClusterState::ShuttingDown,
            4 => ClusterState::InCrashRecovery,
            5 => ClusterState::InArchiveRecovery,
            6 => ClusterState::InProduction,
            _ => return None,
        })
    }
}

struct Raw<'a>(&'a [u8]);

impl Raw<'_> {
    fn u32(&self, offset: usize) -> Result<u32, ControlError> {
        Fields::at(self.0, offset).u32().ok_or(ControlError::Truncated { length: self.0.len() })
    }

    fn u64(&self, offset: usize) -> Result<u64, ControlError> {
        Fields::at(self.0, offset).u64().ok_or(ControlError::Truncated { length: self.0.len() })
    }

    fn lsn(&self, offset: usize) -> Result<Lsn, ControlError> {
        self.u64(offset).map(Lsn)
    }

    fn known<T>(
        &self,
        field: &'static str,
        offset: usize,
        meaning: impl Fn(u32) -> Option<T>,
    ) -> Result<T, ControlError> {
        let found = self.u32(offset)?;
        meaning(found).ok_or(ControlError::Field { field, found: found.into() })
    }

    fn verify_checksum(&self, major: Major) -> Result<(), ControlError> {
        let covered = major.control_checksum_offset();
        let stored = self.u32(covered)?;
        let computed = crc32c::crc32c(self.0.get(..covered).unwrap_or_default());
        if computed == stored { Ok(()) } else { Err(ControlError::Checksum { computed, stored }) }
    }

    /// A server built for another alignment or float format lays out everything else differently too.
    fn verify_architecture(&self) -> Result<(), ControlError> {
        self.known("maximum alignment", offset::MAXIMUM_ALIGNMENT, |bytes| (bytes == 8).then_some(()))?;
        let float = self.u64(offset::FLOAT_FORMAT)?;
        if float == 1_234_567.0_f64.to_bits() {
            Ok(())
        } else {
            Err(ControlError::Field { field: "float format", found: float })
        }
    }
}

fn power_of_two(value: u32, exponents: std::ops::RangeInclusive<u32>) -> Option<u32> {
    (value.is_power_of_two() && exponents.contains(&value.trailing_zeros())).then_some(value)
}
