//! The work on bytes: verify pages, hash, compare, compress. Runs on all cores; pure.

use std::sync::Arc;

use bytes::Bytes;
use pgformat::Lsn;
use pgformat::page::{self, PageState};
use repository::codec::{self, Checksum, Fingerprint};
use repository::crypt::FrameSealer;
use repository::map::Place;

/// All about a file but where its bytes are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct FileFacts {
    pub(super) path: String,
    pub(super) mode: u32,
    pub(super) mtime: i64,
    pub(super) size: u64,
    pub(super) crc32c: u32,
}

/// How to verify the pages of a chunk.
#[derive(Debug, Clone)]
pub(super) struct PageCheck {
    pub(super) path: String,
    /// Number, in the relation, of the chunk's first block.
    pub(super) first_block: u32,
    /// Number, in the file, of that block.
    pub(super) first_in_file: u32,
    pub(super) block_size: usize,
    pub(super) backup_start: Lsn,
}

/// A page whose checksum does not hold and that no WAL mends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct BadPage {
    pub(super) path: String,
    pub(super) block: u32,
}

/// A small file in a bundle.
#[derive(Debug)]
pub(super) struct Part {
    pub(super) facts: FileFacts,
    pub(super) at: u32,
    pub(super) fingerprint: Fingerprint,
}

/// What is to be done, in the order in which it is to be finished.
#[derive(Debug)]
pub(super) enum Job {
    /// A directory or link: nothing to do but to list it.
    Listed(repository::files::FileEntry),
    /// A run of a large file.
    Chunk { bytes: Bytes, check: Option<PageCheck>, parent: Option<Place> },
    /// Several small files.
    Bundle { bytes: Bytes, parts: Vec<Part>, checks: Vec<(PageCheck, std::ops::Range<usize>)> },
    /// A small file that the previous backup has.
    Known { facts: FileFacts, place: Place, bytes: Bytes, check: Option<PageCheck> },
    /// A file with no bytes.
    Empty(FileFacts),
    /// The chunks that came belong to this file.
    EndOfFile(FileFacts),
}

/// What was done.
#[derive(Debug)]
pub(super) struct Done {
    pub(super) outcome: Outcome,
    pub(super) bad_pages: Vec<BadPage>,
}

#[derive(Debug)]
pub(super) enum Outcome {
    Listed(repository::files::FileEntry),
    Chunk(Stored),
    Bundle(Compressed, Vec<Part>),
    Known { facts: FileFacts, place: Place },
    Empty(FileFacts),
    EndOfFile(FileFacts),
}

/// Where a chunk is.
#[derive(Debug)]
pub(super) enum Stored {
    /// In the previous backup, unchanged.
    Shared(Place),
    /// Here, ready for a pack.
    New(Compressed),
}

/// A compressed frame.
#[derive(Debug)]
pub(super) struct Compressed {
    pub(super) stored: Bytes,
    pub(super) plain: u32,
    pub(super) checksum: Checksum,
    pub(super) fingerprint: Fingerprint,
}

/// How bytes become a frame.
#[derive(Debug, Clone)]
pub(super) struct Encoding {
    /// zstd's level.
    pub(super) level: i32,
    /// Encrypts what was compressed.
    pub(super) sealer: Option<Arc<FrameSealer>>,
}

/// Does a job.
pub(super) fn work(job: Job, encoding: &Encoding) -> std::io::Result<Done> {
    let mut bad_pages = Vec::new();
    let outcome = match job {
        Job::Listed(entry) => Outcome::Listed(entry),
        Job::Empty(facts) => Outcome::Empty(facts),
        Job::EndOfFile(facts) => Outcome::EndOfFile(facts),
        Job::Known { facts, place, bytes, check } => {
            check.iter().for_each(|check| verify(&bytes, check, &mut bad_pages));
            Outcome::Known { facts, place }
        }
        Job::Chunk { bytes, check, parent } => {
            check.iter().for_each(|check| verify(&bytes, check, &mut bad_pages));
            let fingerprint = Fingerprint::of(&bytes);
            match parent.filter(|place| place.known_fingerprint() == fingerprint) {
                Some(place) => Outcome::Chunk(Stored::Shared(place)),
                None => Outcome::Chunk(Stored::New(compress(&bytes, fingerprint, encoding)?)),
            }
        }
        Job::Bundle { bytes, parts, checks } => {
            for (check, range) in &checks {
                verify(&bytes[range.clone()], check, &mut bad_pages);
            }
            Outcome::Bundle(compress(&bytes, Fingerprint::of(&bytes), encoding)?, parts)
        }
    };
    Ok(Done { outcome, bad_pages })
}

fn compress(plain: &[u8], fingerprint: Fingerprint, encoding: &Encoding) -> std::io::Result<Compressed> {
    let compressed = codec::compress(plain, encoding.level)?;
    let stored: Bytes = match &encoding.sealer {
        Some(sealer) => sealer.seal(&compressed)?.into(),
        None => compressed.into(),
    };
    let checksum = Checksum::of(&stored);
    let plain = u32::try_from(plain.len()).map_err(std::io::Error::other)?;
    Ok(Compressed { stored, plain, checksum, fingerprint })
}

/// What is left of a file whose size is no multiple of the block size is not a page.
fn verify(bytes: &[u8], check: &PageCheck, bad_pages: &mut Vec<BadPage>) {
    for (index, page) in (0u32..).zip(bytes.chunks_exact(check.block_size)) {
        let state = page::verify(page, check.first_block.wrapping_add(index), check.backup_start);
        if matches!(state, PageState::Corrupt { .. }) {
            bad_pages.push(BadPage { path: check.path.clone(), block: check.first_in_file + index });
        }
    }
}
