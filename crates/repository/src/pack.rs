//! Packs: objects full of frames.
//!
//! A pack is a skippable frame that says whose it is, then zstd frames one after the other. Where a frame starts is
//! known from the maps that use it. `zstd -d` on a pack gives the plain bytes of all its frames in order.

use std::fmt;
use std::ops::Range;
use std::str::FromStr;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::codec::{Checksum, FRAME_BYTES_MAX, Fingerprint};
use crate::{BackupId, Error, document};

/// A pack is closed when it has this many bytes.
pub const PACK_BYTES: u64 = 32 << 20;

/// zstd skips frames whose magic is 0x184D2A50 to 0x184D2A5F; ours say "Drydock" by ending in 7.
const SKIPPABLE_MAGIC: u32 = 0x184D_2A57;

/// Which pack: the backup that wrote it, and its number there. Printed as `<backup>/<number>`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PackName {
    /// The backup that wrote it.
    pub backup: BackupId,
    /// Counted from 0.
    pub number: u32,
}

impl fmt::Display for PackName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.backup, self.number)
    }
}

impl FromStr for PackName {
    type Err = String;

    fn from_str(text: &str) -> Result<PackName, String> {
        let wrong = || format!("\"{text}\" is not a pack");
        let (backup, number) = text.split_once('/').ok_or_else(wrong)?;
        let backup = backup.parse().map_err(|_not_an_id| wrong())?;
        Ok(PackName { backup, number: number.parse().map_err(|_not_a_number| wrong())? })
    }
}

impl Serialize for PackName {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for PackName {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<PackName, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// Where a frame lies in its pack, and what it holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Frame {
    /// First byte in the pack.
    pub offset: u64,
    /// Bytes in the pack.
    pub stored: u32,
    /// Bytes when decompressed.
    pub plain: u32,
    /// Of the bytes in the pack.
    pub checksum: Checksum,
    /// Of the plain bytes.
    pub fingerprint: Fingerprint,
}

impl Frame {
    /// The bytes of the pack that are this frame.
    pub fn range(&self) -> Range<u64> {
        self.offset..self.offset.saturating_add(u64::from(self.stored))
    }
}

/// A pack that is being filled.
#[derive(Debug)]
pub struct PackBuilder {
    name: PackName,
    /// One run of memory, so that frames, which are many and small, are gone as soon as they are in it.
    bytes: Vec<u8>,
    frames: u32,
    plain_bytes: u64,
}

/// A pack that is full, ready to be stored.
#[derive(Debug)]
pub struct FullPack {
    /// Its name.
    pub name: PackName,
    /// How many frames it holds.
    pub frames: u32,
    /// Their plain bytes.
    pub plain_bytes: u64,
    pub(crate) bytes: Bytes,
}

#[derive(Serialize, Deserialize)]
struct PackHead {
    pack: PackName,
}

impl PackBuilder {
    /// An empty pack.
    pub fn new(name: PackName) -> Result<PackBuilder, Error> {
        let head = skippable(&document::seal("pack", &PackHead { pack: name.clone() })?);
        Ok(PackBuilder { name, bytes: head.into(), frames: 0, plain_bytes: 0 })
    }

    /// The name it will have.
    pub fn name(&self) -> &PackName {
        &self.name
    }

    /// Whether it should be stored before another frame comes.
    pub fn is_full(&self) -> bool {
        self.bytes.len() as u64 >= PACK_BYTES
    }

    /// Whether it holds no frame.
    pub fn is_empty(&self) -> bool {
        self.frames == 0
    }

    /// Appends a compressed frame.
    pub fn push(&mut self, stored: &[u8], plain: u32, checksum: Checksum, fingerprint: Fingerprint) -> Frame {
        if self.is_empty() {
            let pack_bytes = usize::try_from(PACK_BYTES).unwrap_or(0);
            self.bytes.reserve(pack_bytes + FRAME_BYTES_MAX * 2);
        }
        let frame = Frame {
            offset: self.bytes.len() as u64,
            stored: u32::try_from(stored.len()).unwrap_or(u32::MAX),
            plain,
            checksum,
            fingerprint,
        };
        self.bytes.extend_from_slice(stored);
        self.frames += 1;
        self.plain_bytes += u64::from(plain);
        frame
    }

    /// No more frames.
    pub fn finish(self) -> FullPack {
        FullPack {
            name: self.name,
            frames: self.frames,
            plain_bytes: self.plain_bytes,
            bytes: self.bytes.into(),
        }
    }
}

impl FullPack {
    /// Bytes in the object.
    pub fn size(&self) -> u64 {
        self.bytes.len() as u64
    }

    /// SHA-256 of the object.
    pub fn checksum(&self) -> Checksum {
        Checksum::of(&self.bytes)
    }
}

/// A zstd frame that every reader skips and that holds `payload`.
pub(crate) fn skippable(payload: &[u8]) -> Bytes {
    let len = u32::try_from(payload.len()).unwrap_or(u32::MAX);
    let mut bytes = Vec::with_capacity(payload.len() + 8);
    bytes.extend_from_slice(&SKIPPABLE_MAGIC.to_le_bytes());
    bytes.extend_from_slice(&len.to_le_bytes());
    bytes.extend_from_slice(payload);
    bytes.into()
}

/// What starts an object made with [`skippable`].
pub(crate) enum Leading<'a> {
    /// The payload and what follows it.
    Whole(&'a [u8], &'a [u8]),
    /// There must be this many bytes to say.
    Need(usize),
    /// It does not start with such a frame.
    Foreign,
}

pub(crate) fn leading(bytes: &[u8]) -> Leading<'_> {
    let (Some(magic), Some(len)) =
        (bytes.first_chunk::<4>(), bytes.get(4..8).and_then(|len| len.first_chunk::<4>()))
    else {
        return Leading::Foreign;
    };
    if u32::from_le_bytes(*magic) != SKIPPABLE_MAGIC {
        return Leading::Foreign;
    }
    let end = u32::from_le_bytes(*len) as usize + 8;
    match bytes.get(8..end) {
        Some(payload) => Leading::Whole(payload, &bytes[end..]),
        None => Leading::Need(end),
    }
}

/// One ranged read that fetches several frames of a pack.
#[derive(Debug, PartialEq, Eq)]
pub struct Read {
    /// The bytes of the pack to read.
    pub range: Range<u64>,
    /// Which of the frames asked for lie in it, by position in the caller's list.
    pub frames: Vec<usize>,
}

/// Unused bytes between two frames that are cheaper to read than to ask again for.
const READ_GAP_MAX: u64 = 128 << 10;
/// Bytes in one read at most; bounds memory, as several reads are under way at once. Storage that keeps objects in blocks reads
/// whole ones, so small reads cost more than they give.
pub const READ_BYTES_MAX: u64 = 4 << 20;

/// Plans the reads for these frames of one pack, in the order they lie there. A frame asked for twice is read once.
pub fn coalesce(frames: &[Frame]) -> Vec<Read> {
    let mut order: Vec<usize> = (0..frames.len()).collect();
    order.sort_by_key(|index| frames[*index].offset);
    let mut reads: Vec<Read> = Vec::new();
    for index in order {
        let range = frames[index].range();
        match reads.last_mut() {
            Some(read)
                if range.start <= read.range.end.saturating_add(READ_GAP_MAX)
                    && range.end.saturating_sub(read.range.start) <= READ_BYTES_MAX =>
            {
                read.range.end = read.range.end.max(range.end);
                read.frames.push(index);
            }
            _ => reads.push(Read { range, frames: vec![index] }),
        }
    }
    reads
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn every_frame_is_read_whole_and_once(spots in prop::collection::vec((0u64..1 << 24, 1u32..1 << 18), 0..60)) {
            let frames: Vec<Frame> = spots
                .iter()
                .map(|(offset, stored)| Frame { offset: *offset, stored: *stored, plain: 1, checksum: Checksum([0; 32]), fingerprint: Fingerprint([0; 16]) })
                .collect();
            let mut seen = vec![0; frames.len()];
            for read in coalesce(&frames) {
                prop_assert!(read.range.end - read.range.start <= READ_BYTES_MAX);
                for index in read.frames {
                    seen[index] += 1;
                    let range = frames[index].range();
                    prop_assert!(read.range.start <= range.start && range.end <= read.range.end);
                }
            }
            prop_assert!(seen.iter().all(|count| *count == 1));
        }

        #[test]
        fn leading_never_panics(bytes: Vec<u8>) {
            if let Leading::Need(len) = leading(&bytes) {
                prop_assert!(len > bytes.len());
            }
        }
    }

    #[test]
    fn a_pack_is_plain_zstd() {
        let name = PackName { backup: "20260102T030405Z".parse().unwrap(), number: 3 };
        let mut builder = PackBuilder::new(name).unwrap();
        for text in ["first ", "second"] {
            let stored = crate::codec::compress(text.as_bytes(), 3).unwrap();
            builder.push(&stored, 6, Checksum::of(&stored), Fingerprint::of(text.as_bytes()));
        }
        let pack = builder.finish();
        assert_eq!(zstd::decode_all(&pack.bytes[..]).unwrap(), b"first second");
    }
}
