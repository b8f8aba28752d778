//! Checking WAL objects in parts, so that whoever verifies decides how fast they are read.

use std::ops::Range as Bounds;

use bytes::Bytes;
use pgformat::SegmentSize;
use store::Key;

use super::WalObject;
use super::object::check_place;
use crate::codec::Checksum;
use crate::{Cluster, Error};

impl Cluster {
    fn wal_object_key(&self, object: &WalObject, size: SegmentSize) -> Result<Key, Error> {
        if object.whole {
            self.layout.segment(object.name, size)
        } else {
            self.layout.piece(object.name, size, object.range.from, object.range.to)
        }
    }

    /// What names a WAL object in messages.
    pub fn wal_key(&self, object: &WalObject, size: SegmentSize) -> Result<String, Error> {
        Ok(self.wal_object_key(object, size)?.to_string())
    }

    /// A part of a WAL object's stored bytes; fewer where it ends before.
    pub async fn read_wal_part(
        &self,
        object: &WalObject,
        size: SegmentSize,
        part: Bounds<u64>,
    ) -> Result<Bytes, Error> {
        Ok(self.store.read(&self.wal_object_key(object, size)?, Some(part)).await?)
    }

    /// Checks all of a WAL object's stored bytes; gives their checksum.
    ///
    /// The header knows the plain bytes only, and zstd has bits that mean nothing. So other stored bytes can hold the same
    /// WAL, and only whoever remembers their checksum sees that they changed.
    pub async fn check_wal(
        &self,
        object: &WalObject,
        size: SegmentSize,
        stored: Bytes,
    ) -> Result<Checksum, Error> {
        let key = self.wal_object_key(object, size)?;
        let bytes = stored.clone();
        let (header, _) = self.decode_wal(&key, stored).await?;
        check_place(&key, &header, object.name.timeline, object.range)?;
        tokio::task::spawn_blocking(move || Checksum::of(&bytes)).await.map_err(|cause| {
            let source = std::io::Error::other(cause);
            store::Error::Unavailable { action: "hash", key: key.to_string(), source }.into()
        })
    }
}
