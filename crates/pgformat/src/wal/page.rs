//! Headers of WAL pages.

use crate::bytes::Fields;

/// The page begins within a record.
const FIRST_IS_CONTINUATION: u16 = 0x0001;
/// The header is the long one, which begins each segment.
const LONG_HEADER: u16 = 0x0002;
/// All flags any supported major sets; the third marks pages an archive may leave out full-page images of.
const ALL_FLAGS: u16 = 0x000F;
/// A record that was to continue here never will: the server crashed before it was whole.
const FIRST_IS_OVERWRITE: u16 = 0x0008;

/// Bytes in the header of a page.
pub(super) const SHORT_LENGTH: usize = 24;
/// Bytes in the header of a segment's first page.
pub(super) const LONG_LENGTH: usize = 40;

#[derive(Clone, Copy, Debug)]
pub(super) struct PageHeader {
    pub(super) magic: u16,
    pub(super) flags: u16,
    pub(super) timeline: u32,
    pub(super) address: u64,
    /// Bytes missing of the record that continues here.
    pub(super) remaining: u32,
    /// Of a long header.
    pub(super) segment: Option<SegmentHeader>,
}

/// What the first page of a segment says in addition.
#[derive(Clone, Copy, Debug)]
pub(super) struct SegmentHeader {
    pub(super) system_identifier: u64,
    pub(super) segment_bytes: u32,
    pub(super) block_bytes: u32,
}

impl PageHeader {
    /// Reads a header of either length; which of them it must be follows from where the page is, not from its flags.
    pub(super) fn parse(bytes: &[u8]) -> Option<PageHeader> {
        let mut fields = Fields::new(bytes);
        let mut header = PageHeader {
            magic: fields.u16()?,
            flags: fields.u16()?,
            timeline: fields.u32()?,
            address: fields.u64()?,
            remaining: fields.u32()?,
            segment: None,
        };
        fields.skip(4)?;
        if !fields.rest().is_empty() {
            header.segment = Some(SegmentHeader {
                system_identifier: fields.u64()?,
                segment_bytes: fields.u32()?,
                block_bytes: fields.u32()?,
            });
        }
        Some(header)
    }

    /// No unknown flag, and the long header marked as such where it is one.
    pub(super) fn flags_fit(&self) -> bool {
        self.flags & !ALL_FLAGS == 0 && (self.flags & LONG_HEADER != 0) == self.segment.is_some()
    }

    pub(super) fn continues(&self) -> bool {
        self.flags & FIRST_IS_CONTINUATION != 0
    }

    pub(super) fn overwrites(&self) -> bool {
        self.flags & FIRST_IS_OVERWRITE != 0
    }
}
