//! WAL that is known without being read: by the labels of encrypted objects.

use pgformat::{Lsn, SegmentName, SegmentSize, TimelineId};
use store::Key;

use super::object::{HEADER_BYTES, pieces_at};
use super::{Range, WalHeader, WalObject};
use crate::codec::Checksum;
use crate::crypt::{self, Access, Label, Labelled, WalLabel};
use crate::{Cluster, Error};

/// What is durable of a segment that is not whole, to be compared with what a server sends of it again.
#[derive(Debug)]
pub enum KnownWal {
    /// Its bytes, from the start of the segment.
    Plain(Vec<u8>),
    /// Where it is encrypted and cannot be read: the labels of the pieces that hold it.
    Labelled {
        /// How many bytes there are from the start of the segment without a gap.
        len: u64,
        /// In order, and together they hold all of it.
        pieces: Vec<LabelledPiece>,
    },
}

/// A piece whose bytes are not known, but recognised.
#[derive(Debug)]
pub struct LabelledPiece {
    /// Which bytes.
    pub range: Range,
    repository_id: String,
    timeline: TimelineId,
    sum: Checksum,
}

impl KnownWal {
    /// How many bytes there are from the start of the segment without a gap.
    pub fn len(&self) -> u64 {
        match self {
            KnownWal::Plain(bytes) => bytes.len() as u64,
            KnownWal::Labelled { len, .. } => *len,
        }
    }

    /// Whether there is nothing.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl LabelledPiece {
    /// Whether these are the bytes of the piece.
    pub fn holds(&self, plain: &[u8]) -> bool {
        let LabelledPiece { range, repository_id, timeline, sum } = self;
        let found = WalLabel {
            repository_id,
            timeline: *timeline,
            from: range.from,
            to: range.to,
            sha256: Checksum::of(plain),
        };
        found.sum() == *sum
    }
}

impl Cluster {
    /// As [`Cluster::read_pieces`], as much of it as this process can know.
    pub async fn known_pieces(&self, name: SegmentName, size: SegmentSize) -> Result<KnownWal, Error> {
        match self.read_pieces(name, size).await {
            Err(Error::NoIdentity { .. } | Error::WrongIdentity { .. }) => {
                self.labelled_pieces(name, size).await
            }
            plain => plain.map(KnownWal::Plain),
        }
    }

    async fn labelled_pieces(&self, name: SegmentName, size: SegmentSize) -> Result<KnownWal, Error> {
        let all = self.pieces(name, size).await?;
        let (mut at, mut pieces) = (name.start(size), Vec::new());
        loop {
            let before = at;
            let mut damage = None;
            for (range, stored_bytes) in pieces_at(&all, at) {
                match self.labelled_piece(name, size, range, stored_bytes).await {
                    Ok(piece) => {
                        pieces.push(piece);
                        at = range.to;
                        damage = None;
                        break;
                    }
                    Err(error) if error.is_damage() => drop(damage.get_or_insert(error)),
                    Err(error) if error.is_not_found() => {}
                    Err(error) => return Err(error),
                }
            }
            if let Some(damage) = damage {
                return Err(damage);
            }
            if at == before {
                return Ok(KnownWal::Labelled { len: at.since(name.start(size)), pieces });
            }
        }
    }

    async fn labelled_piece(
        &self,
        name: SegmentName,
        size: SegmentSize,
        range: Range,
        stored_bytes: u64,
    ) -> Result<LabelledPiece, Error> {
        let key = self.layout.piece(name, size, range.from, range.to)?;
        let start = self.store.read(&key, Some(0..HEADER_BYTES)).await?;
        let sum = if crypt::is_age(&start) {
            labelled(&key, &start, stored_bytes)?.sum
        } else {
            // From before the repository was encrypted.
            let (header, _) = self.read_piece(name, size, range).await?;
            self.sum(&header)
        };
        let repository_id = self.access.repository_id.clone();
        Ok(LabelledPiece { range, repository_id, timeline: name.timeline, sum })
    }

    fn sum(&self, header: &WalHeader) -> Checksum {
        sum(&self.access, header)
    }

    /// How far all WAL was durable when an object was begun, which even who cannot open it can tell; `None` when it is not
    /// there.
    pub async fn durable_before(&self, object: &WalObject, size: SegmentSize) -> Result<Option<Lsn>, Error> {
        let WalObject { name, range, .. } = *object;
        let key = match object.whole {
            true => self.layout.segment(name, size)?,
            false => self.layout.piece(name, size, range.from, range.to)?,
        };
        match self.wal_header(&key).await {
            Err(Error::NoIdentity { .. } | Error::WrongIdentity { .. }) => {
                let start = self.store.read(&key, Some(0..HEADER_BYTES)).await?;
                Ok(Some(labelled(&key, &start, object.stored_bytes)?.durable))
            }
            header => Ok(header?.map(|header| header.durable)),
        }
    }
}

pub(super) fn sum(access: &Access, header: &WalHeader) -> Checksum {
    let WalHeader { timeline, from, to, sha256, .. } = *header;
    WalLabel { repository_id: &access.repository_id, timeline, from, to, sha256 }.sum()
}

/// The label of an encrypted object of this size, of which `start` is the start.
pub(super) fn labelled(key: &Key, start: &[u8], stored_bytes: u64) -> Result<Label, Error> {
    let Labelled { label, object_bytes } =
        crypt::label(start).map_err(|reason| Error::damaged(key, reason))?;
    if object_bytes == stored_bytes {
        return Ok(label);
    }
    Err(Error::damaged(key, format!("it has {stored_bytes} bytes, and its label promises {object_bytes}")))
}
