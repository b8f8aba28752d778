//! Pages of relations: their header and their checksum.

use crate::Lsn;
use crate::bytes::Fields;

/// The fixed part at the front of every page of a relation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PageHeader {
    /// End of the WAL record that last changed the page.
    pub lsn: Lsn,
    /// The stored checksum; meaningless when the cluster has none.
    pub checksum: u16,
    /// `PD_*` flags.
    pub flags: u16,
    /// Where free space begins.
    pub lower: u16,
    /// Where free space ends. Zero on a page that was never initialised.
    pub upper: u16,
    /// Where the part begins that belongs to the access method.
    pub special: u16,
    /// Bytes in the page.
    pub size: u16,
    /// Layout version; 4 since PostgreSQL 8.3.
    pub version: u8,
}

impl PageHeader {
    /// Bytes the header takes.
    pub const LENGTH: usize = 24;

    /// `None` when `page` is shorter than a header.
    pub fn parse(page: &[u8]) -> Option<PageHeader> {
        let mut fields = Fields::new(page.get(..Self::LENGTH)?);
        // Unlike everywhere else, the LSN is two 32-bit halves here, the high one first.
        let (high, low) = (fields.u32()?, fields.u32()?);
        let (checksum, flags) = (fields.u16()?, fields.u16()?);
        let (lower, upper, special) = (fields.u16()?, fields.u16()?, fields.u16()?);
        let [version, size_high] = fields.array()?;
        let size = u16::from_le_bytes([0, size_high]);
        let lsn = Lsn(u64::from(high) << 32 | u64::from(low));
        Some(PageHeader { lsn, checksum, flags, lower, upper, special, size, version })
    }
}

/// What [`verify`] found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PageState {
    /// The checksum holds.
    Valid,
    /// Never initialised, so it carries no checksum.
    New,
    /// The checksum fails, and WAL from the backup's start on rewrites the page: it was read while being written.
    Torn {
        /// LSN of the page.
        lsn: Lsn,
    },
    /// The checksum fails, and no WAL the backup replays mends it.
    ///
    /// One reading does not prove that: a page can be torn so that its header is still the old one. Whoever reads from
    /// a running server reads the page once more before believing it.
    Corrupt {
        /// Computed over the page.
        expected: u16,
        /// Stored in the page.
        found: u16,
        /// LSN of the page.
        lsn: Lsn,
    },
}

/// Judges a page read while a backup runs that began at `backup_start`.
///
/// `block` is the page's number in the whole relation, not in its file. Pass `Lsn(u64::MAX)` as `backup_start` where no
/// WAL will be replayed over the page.
pub fn verify(page: &[u8], block: u32, backup_start: Lsn) -> PageState {
    let Some(header) = PageHeader::parse(page) else {
        return PageState::Corrupt { expected: checksum(page, block), found: 0, lsn: Lsn::INVALID };
    };
    // The server's own base backup asks no more of a new page: all but the header may be torn.
    if header.upper == 0 {
        return PageState::New;
    }
    let expected = checksum(page, block);
    if expected == header.checksum {
        PageState::Valid
    } else if header.lsn < backup_start {
        PageState::Corrupt { expected, found: header.checksum, lsn: header.lsn }
    } else {
        PageState::Torn { lsn: header.lsn }
    }
}

/// Columns the page is hashed in, side by side; fixed by the algorithm.
const LANES: usize = 32;
/// Bytes in one row of the columns.
const ROW: usize = LANES * 4;
const FNV_PRIME: u32 = 16_777_619;

/// What each column starts from.
const BASIS: [u32; LANES] = [
    0x5B1F_36E9,
    0xB852_5960,
    0x02AB_50AA,
    0x1DE6_6D2A,
    0x79FF_467A,
    0x9BB9_F8A3,
    0x217E_7CD2,
    0x83E1_3D2C,
    0xF8D4_474F,
    0xE39E_B970,
    0x42C6_AE16,
    0x9932_16FA,
    0x7B09_3B5D,
    0x98DA_FF3C,
    0xF718_902A,
    0x0B1C_9CDB,
    0xE58F_764B,
    0x1876_36BC,
    0x5D7B_3BB1,
    0xE73D_E7DE,
    0x92BE_C979,
    0xCCA6_C0B2,
    0x304A_0979,
    0x85AA_43D4,
    0x7831_25BB,
    0x6CA8_EAA2,
    0xE407_EAC6,
    0x4B5C_FC3E,
    0x9FBF_8C76,
    0x15CA_20BE,
    0xF2CA_9FD3,
    0x959B_D756,
];

/// PostgreSQL's `pg_checksum_page`: the checksum `page` should carry as block number `block` of its relation.
///
/// The page's own checksum field counts as zero. `page` is a whole page; bytes past a multiple of 128 are not looked at,
/// and no page has any.
pub fn checksum(page: &[u8], block: u32) -> u16 {
    let (rows, _) = page.as_chunks::<ROW>();
    let mut sums = BASIS;
    if let Some((first, rest)) = rows.split_first() {
        let mut first = *first;
        first[8..10].fill(0);
        mix_row(&mut sums, &first);
        for row in rest {
            mix_row(&mut sums, row);
        }
    }
    mix_row(&mut sums, &[0; ROW]);
    mix_row(&mut sums, &[0; ROW]);
    let folded = sums.iter().fold(block, |folded, sum| folded ^ sum);
    // One more than the remainder, so that no page has zero as its checksum.
    u16::try_from(folded % 65_535 + 1).unwrap_or(u16::MAX)
}

/// The columns do not depend on each other, which is what lets the compiler use vector instructions here.
#[inline(always)]
fn mix_row(sums: &mut [u32; LANES], row: &[u8; ROW]) {
    let (values, _) = row.as_chunks::<4>();
    for (sum, value) in sums.iter_mut().zip(values) {
        let mixed = *sum ^ u32::from_le_bytes(*value);
        *sum = mixed.wrapping_mul(FNV_PRIME) ^ (mixed >> 17);
    }
}
