//! Frames: runs of bytes, compressed with zstd. What is stored has a [`Checksum`], so that anybody can tell whether it is
//! whole without opening it; what it holds has a [`Fingerprint`], so that a later backup can tell whether it changed.

use std::cell::RefCell;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

/// The plain bytes of a frame at most.
pub const FRAME_BYTES_MAX: usize = 256 << 10;

/// SHA-256 of stored bytes, printed in lower-case hexadecimal.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Checksum(pub [u8; 32]);

impl Checksum {
    /// The checksum of these bytes.
    pub fn of(bytes: &[u8]) -> Checksum {
        Checksum(Sha256::digest(bytes).into())
    }
}

impl fmt::Display for Checksum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for Checksum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Checksum {
    type Err = hex::FromHexError;

    fn from_str(text: &str) -> Result<Checksum, hex::FromHexError> {
        let mut bytes = [0; 32];
        hex::decode_to_slice(text, &mut bytes)?;
        Ok(Checksum(bytes))
    }
}

/// The first 128 bits of BLAKE3 of plain bytes, printed in lower-case hexadecimal.
///
/// Two runs of bytes with one fingerprint are taken for the same run. Nobody can make two that differ, whatever they write
/// into a database.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Fingerprint(pub [u8; 16]);

impl Fingerprint {
    /// The fingerprint of these bytes.
    pub fn of(bytes: &[u8]) -> Fingerprint {
        let mut first = [0; 16];
        first.copy_from_slice(&blake3::hash(bytes).as_bytes()[..16]);
        Fingerprint(first)
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Fingerprint {
    type Err = hex::FromHexError;

    fn from_str(text: &str) -> Result<Fingerprint, hex::FromHexError> {
        let mut bytes = [0; 16];
        hex::decode_to_slice(text, &mut bytes)?;
        Ok(Fingerprint(bytes))
    }
}

/// Serialised as text.
macro_rules! as_text {
    ($type:ty) => {
        impl Serialize for $type {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<$type, D::Error> {
                let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}

as_text!(Checksum);
as_text!(Fingerprint);

/// What a frame turned out not to be.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// zstd cannot read it.
    #[error("it does not decompress: {0}")]
    Decompress(std::io::Error),
    /// It was encrypted with another key, or for another backup, or has changed since.
    #[error("it does not decrypt with the key of the backup that wrote it")]
    Decrypt,
    /// It holds fewer bytes than it should.
    #[error("it holds {found} bytes, not {expected}")]
    Length {
        /// What was written.
        expected: usize,
        /// What is there.
        found: usize,
    },
    /// It is not what was written.
    #[error("its bytes have checksum {found}, not {expected}")]
    Checksum {
        /// What was written.
        expected: Checksum,
        /// What is there.
        found: Checksum,
    },
}

thread_local! {
    // A compression context is a megabyte and more; making one for every frame would cost as much as the frame. The buffer is
    // as large as the worst case, and what is kept is cut to size.
    static COMPRESSOR: RefCell<Option<Compressor>> = const { RefCell::new(None) };
    static DECOMPRESSOR: RefCell<Option<zstd::bulk::Decompressor<'static>>> = const { RefCell::new(None) };
}

struct Compressor {
    level: i32,
    context: zstd::bulk::Compressor<'static>,
    buffer: Vec<u8>,
}

/// One zstd frame with these bytes.
pub fn compress(plain: &[u8], level: i32) -> std::io::Result<Vec<u8>> {
    COMPRESSOR.with_borrow_mut(|slot| {
        let compressor = match slot {
            Some(compressor) if compressor.level == level => compressor,
            _ => slot.insert(Compressor {
                level,
                context: zstd::bulk::Compressor::new(level)?,
                buffer: Vec::new(),
            }),
        };
        compressor.buffer.clear();
        compressor.buffer.reserve(zstd::zstd_safe::compress_bound(plain.len()));
        compressor.context.compress_to_buffer(plain, &mut compressor.buffer)?;
        Ok(compressor.buffer.as_slice().to_vec())
    })
}

/// As [`compress`], for more bytes than a frame has: the result grows as it must, instead of starting as large as the input.
pub fn compress_large(plain: &[u8], level: i32) -> std::io::Result<Vec<u8>> {
    use std::io::Write;
    let mut encoder = zstd::Encoder::new(Vec::with_capacity(plain.len() / 8), level)?;
    encoder.set_pledged_src_size(Some(plain.len() as u64))?;
    encoder.include_contentsize(true)?;
    encoder.write_all(plain)?;
    encoder.finish()
}

/// The plain bytes of one zstd frame, which has `plain_len` of them, once its stored bytes have been found to have
/// this checksum.
pub fn decompress(stored: &[u8], plain_len: usize, expected: &Checksum) -> Result<Vec<u8>, FrameError> {
    check(stored, expected)?;
    decompress_plain(stored, plain_len)
}

/// Whether stored bytes have this checksum.
pub(crate) fn check(stored: &[u8], expected: &Checksum) -> Result<(), FrameError> {
    let found = Checksum::of(stored);
    if found == *expected { Ok(()) } else { Err(FrameError::Checksum { expected: *expected, found }) }
}

/// The plain bytes of one zstd frame, which must have `plain_len` of them.
pub(crate) fn decompress_plain(stored: &[u8], plain_len: usize) -> Result<Vec<u8>, FrameError> {
    let plain = DECOMPRESSOR.with_borrow_mut(|slot| {
        let decompressor = match slot {
            Some(decompressor) => decompressor,
            None => slot.insert(zstd::bulk::Decompressor::new().map_err(FrameError::Decompress)?),
        };
        decompressor.decompress(stored, plain_len).map_err(FrameError::Decompress)
    })?;
    if plain.len() == plain_len {
        Ok(plain)
    } else {
        Err(FrameError::Length { expected: plain_len, found: plain.len() })
    }
}
