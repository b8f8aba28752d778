//! AES-256-GCM: the nonce in front, the tag behind.
//!
//! A key is random, belongs to one process and is gone with it, so a counter makes nonces that never come twice.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};

use ring::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use ring::rand::{SecureRandom, SystemRandom};
use zeroize::Zeroizing;

use crate::BackupId;

/// Bytes of a key.
pub(crate) const KEY_BYTES: usize = 32;
/// Bytes that sealing adds.
pub(crate) const SEAL_BYTES: usize = NONCE_LEN + 16;

/// A key as bytes.
pub(crate) type RawKey = Zeroizing<[u8; KEY_BYTES]>;

pub(crate) fn random_key() -> io::Result<RawKey> {
    let mut key = Zeroizing::new([0; KEY_BYTES]);
    SystemRandom::new()
        .fill(key.as_mut_slice())
        .map_err(|_nothing| io::Error::other("the system gives no random bytes"))?;
    Ok(key)
}

fn cipher(key: &RawKey) -> io::Result<LessSafeKey> {
    let key = UnboundKey::new(&AES_256_GCM, key.as_slice())
        .map_err(|_nothing| io::Error::other("not a key of AES-256"))?;
    Ok(LessSafeKey::new(key))
}

/// Encrypts under one key, from any thread.
#[derive(Debug)]
pub(crate) struct Sealer {
    key: LessSafeKey,
    next: AtomicU64,
}

impl Sealer {
    pub(crate) fn new(key: &RawKey) -> io::Result<Sealer> {
        Ok(Sealer { key: cipher(key)?, next: AtomicU64::new(0) })
    }

    /// Seals `plain`; it opens only with the same `context`.
    pub(crate) fn seal(&self, context: &str, plain: &[u8]) -> io::Result<Vec<u8>> {
        let mut nonce = [0; NONCE_LEN];
        nonce[NONCE_LEN - 8..].copy_from_slice(&self.next.fetch_add(1, Ordering::Relaxed).to_be_bytes());
        let mut sealed = Vec::with_capacity(plain.len() + SEAL_BYTES);
        sealed.extend_from_slice(&nonce);
        sealed.extend_from_slice(plain);
        let nonce = Nonce::assume_unique_for_key(nonce);
        let tag = self
            .key
            .seal_in_place_separate_tag(nonce, Aad::from(context), &mut sealed[NONCE_LEN..])
            .map_err(|_nothing| io::Error::other("it is too long to encrypt"))?;
        sealed.extend_from_slice(tag.as_ref());
        Ok(sealed)
    }
}

/// Decrypts what a [`Sealer`] of the same key sealed.
#[derive(Debug)]
pub(crate) struct Opener(LessSafeKey);

impl Opener {
    pub(crate) fn new(key: &RawKey) -> io::Result<Opener> {
        Ok(Opener(cipher(key)?))
    }

    /// The plain bytes; `None` when a bit is not as it was sealed, or it was sealed with another key or context.
    pub(crate) fn open(&self, context: &str, sealed: &[u8]) -> Option<Vec<u8>> {
        let (nonce, sealed) = sealed.split_first_chunk::<NONCE_LEN>()?;
        let mut plain = sealed.to_vec();
        let len = self
            .0
            .open_in_place(Nonce::assume_unique_for_key(*nonce), Aad::from(context), &mut plain)
            .ok()?
            .len();
        plain.truncate(len);
        Some(plain)
    }
}

/// Encrypts the frames of one backup.
#[derive(Debug)]
pub struct FrameSealer {
    sealer: Sealer,
    context: String,
}

impl FrameSealer {
    pub(crate) fn new(key: &RawKey, id: &BackupId) -> io::Result<FrameSealer> {
        Ok(FrameSealer { sealer: Sealer::new(key)?, context: frame_context(id) })
    }

    /// A compressed frame as it is stored.
    pub fn seal(&self, compressed: &[u8]) -> io::Result<Vec<u8>> {
        self.sealer.seal(&self.context, compressed)
    }
}

/// What a frame's encryption is bound to, besides its key: which backup wrote it.
pub(crate) fn frame_context(id: &BackupId) -> String {
    format!("frame {id}")
}
