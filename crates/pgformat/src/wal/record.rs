//! The fixed part of WAL records, and where in a record its main data lies.

use super::WalError;
use crate::bytes::Fields;
use crate::{Lsn, Major};

/// Bytes in a record's header.
pub(super) const HEADER_LENGTH: usize = 24;
/// `XLogRecordMaxSize`: no server writes a longer record.
const LENGTH_MAX: u32 = 1020 << 20;
/// Highest of PostgreSQL's own resource managers, in all supported majors.
const BUILT_IN_MANAGER_MAX: u8 = 21;
/// Lowest number an extension may take.
const CUSTOM_MANAGER_MIN: u8 = 128;

/// The resource manager of WAL itself: checkpoints, switches, restore points.
pub(super) const MANAGER_XLOG: u8 = 0;
/// The resource manager of transactions.
pub(super) const MANAGER_TRANSACTION: u8 = 1;

#[derive(Clone, Copy, Debug)]
pub(super) struct RecordHeader {
    pub(super) length: u32,
    pub(super) transaction: u32,
    pub(super) previous: Lsn,
    pub(super) info: u8,
    pub(super) manager: u8,
    stored_checksum: u32,
}

impl RecordHeader {
    #[inline]
    pub(super) fn parse(bytes: &[u8; HEADER_LENGTH]) -> RecordHeader {
        let [
            l0,
            l1,
            l2,
            l3,
            t0,
            t1,
            t2,
            t3,
            p0,
            p1,
            p2,
            p3,
            p4,
            p5,
            p6,
            p7,
            info,
            manager,
            _,
            _,
            c0,
            c1,
            c2,
            c3,
        ] = *bytes;
        RecordHeader {
            length: u32::from_le_bytes([l0, l1, l2, l3]),
            transaction: u32::from_le_bytes([t0, t1, t2, t3]),
            previous: Lsn(u64::from_le_bytes([p0, p1, p2, p3, p4, p5, p6, p7])),
            info,
            manager,
            stored_checksum: u32::from_le_bytes([c0, c1, c2, c3]),
        }
    }

    /// Whether the record is one we read, and not only check.
    #[inline]
    pub(super) fn is_read(&self) -> bool {
        match self.manager {
            MANAGER_TRANSACTION => true,
            // Full-page images travel under this manager too and are most of its bytes.
            MANAGER_XLOG => !matches!(self.operation(), 0xA0 | 0xB0),
            _ => false,
        }
    }

    /// What the resource manager does with the record. The low half of `info` is not the manager's.
    #[inline]
    pub(super) fn operation(&self) -> u8 {
        self.info & 0xF0
    }

    /// Checks all but the length, which is known before the rest is; see [`length_fits`].
    #[inline]
    pub(super) fn verify(&self, record: Lsn, previous: Option<Lsn>, major: Major) -> Result<(), WalError> {
        let custom = self.manager >= CUSTOM_MANAGER_MIN && major.has_custom_resource_managers();
        if self.manager > BUILT_IN_MANAGER_MAX && !custom {
            return Err(WalError::ResourceManager { record, found: self.manager });
        }
        match previous {
            Some(expected) if self.previous != expected => {
                Err(WalError::Previous { record, expected, found: self.previous })
            }
            // The first record we see: all that is known is that something came before it.
            None if self.previous >= record => {
                Err(WalError::Previous { record, expected: Lsn::INVALID, found: self.previous })
            }
            _ => Ok(()),
        }
    }

    /// `body` is the CRC of all that follows the header; the header comes last, up to the checksum itself.
    #[inline]
    pub(super) fn verify_checksum(
        &self,
        record: Lsn,
        bytes: &[u8; HEADER_LENGTH],
        body: u32,
    ) -> Result<(), WalError> {
        let covered = bytes.first_chunk::<20>().map_or(&[][..], |covered| covered);
        let computed = crc32c::crc32c_append(body, covered);
        let stored = self.stored_checksum;
        if computed == stored { Ok(()) } else { Err(WalError::Checksum { record, computed, stored }) }
    }
}

/// Checks a record's length as soon as it is known, before any more of the record is waited for.
#[inline]
pub(super) fn length_fits(record: Lsn, length: u32) -> Result<(), WalError> {
    const LENGTH_MIN: u32 = 24;
    if (LENGTH_MIN..=LENGTH_MAX).contains(&length) {
        Ok(())
    } else {
        Err(WalError::Length { record, found: length })
    }
}

/// The main data of a record that refers to no blocks; `None` when `body` is not that of such a record.
pub(super) fn main_data(body: &[u8]) -> Option<&[u8]> {
    const LONG: u8 = 254;
    const SHORT: u8 = 255;
    const ORIGIN: u8 = 253;
    const TOP_LEVEL_TRANSACTION: u8 = 252;
    let mut fields = Fields::new(body);
    while !fields.rest().is_empty() {
        let length = match fields.u8()? {
            ORIGIN => {
                fields.skip(2)?;
                continue;
            }
            TOP_LEVEL_TRANSACTION => {
                fields.skip(4)?;
                continue;
            }
            SHORT => usize::from(fields.u8()?),
            LONG => usize::try_from(fields.u32()?).ok()?,
            _ => return None,
        };
        // Headers come first and that of the main data is the last of them.
        return (fields.rest().len() == length).then_some(fields.rest());
    }
    Some(&[])
}
