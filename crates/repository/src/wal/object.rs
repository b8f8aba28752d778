//! WAL objects: a segment, or a piece of one, as a plain zstd file.
//!
//! A leading skippable frame holds a document that says what the object is, so that any zstd reads the WAL bytes and
//! nothing else, and we know what they should be.

use std::sync::Arc;

use bytes::Bytes;
use chrono::{DateTime, Utc};
use pgformat::{Lsn, SegmentName, SegmentSize, TimelineId};
use serde::{Deserialize, Serialize};
use store::{Body, Key};

use super::known::{labelled, sum};
use super::{Range, Stored};
use crate::codec::{self, Checksum};
use crate::crypt::{self, Access, Identities, Label, Opened};
use crate::pack::{Leading, leading, skippable};
use crate::{Cluster, Error, document};

/// What a WAL object is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WalHeader {
    /// Of the cluster.
    #[serde(with = "crate::decimal")]
    pub system_identifier: u64,
    /// The timeline.
    pub timeline: TimelineId,
    /// First byte.
    pub from: Lsn,
    /// First byte after it.
    pub to: Lsn,
    /// Of the plain WAL bytes.
    #[serde(rename = "plain_sha256")]
    pub sha256: Checksum,
    /// All WAL of the timeline before this was durable when the object was begun. A gap before it is a loss; a gap
    /// behind it is what a crash leaves of objects that were written side by side.
    pub durable: Lsn,
    /// What the WAL holds that somebody may want to restore to.
    #[serde(flatten)]
    pub facts: WalFacts,
}

/// What a run of WAL holds that somebody may want to restore to: of the records that end in it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct WalFacts {
    /// Commits and aborts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub transactions: Option<Transactions>,
    /// What `pg_create_restore_point` wrote.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub restore_points: Vec<RestorePoint>,
}

/// The ends of transactions in a run of WAL. Times need not rise with positions: PostgreSQL takes them before it
/// inserts the record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Transactions {
    /// How many.
    pub count: u64,
    /// The earliest.
    pub earliest: DateTime<Utc>,
    /// The latest.
    pub latest: DateTime<Utc>,
    /// The lowest transaction id.
    pub xid_min: u32,
    /// The highest transaction id.
    pub xid_max: u32,
}

/// A named restore point.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RestorePoint {
    /// Its name.
    pub name: String,
    /// End of its record.
    pub lsn: Lsn,
    /// When it was made.
    pub time: DateTime<Utc>,
}

impl WalFacts {
    /// A transaction ended.
    pub fn add_transaction(&mut self, time: DateTime<Utc>, xid: u32) {
        let one = Transactions { count: 1, earliest: time, latest: time, xid_min: xid, xid_max: xid };
        self.merge_transactions(&one);
    }

    /// These facts and those of the WAL that follows.
    pub fn merge(&mut self, later: &WalFacts) {
        if let Some(transactions) = &later.transactions {
            self.merge_transactions(transactions);
        }
        self.restore_points.extend(later.restore_points.iter().cloned());
    }

    fn merge_transactions(&mut self, other: &Transactions) {
        match &mut self.transactions {
            None => self.transactions = Some(other.clone()),
            Some(all) => {
                all.count += other.count;
                all.earliest = all.earliest.min(other.earliest);
                all.latest = all.latest.max(other.latest);
                all.xid_min = all.xid_min.min(other.xid_min);
                all.xid_max = all.xid_max.max(other.xid_max);
            }
        }
    }
}

/// The identity that every WAL object of one stream shares.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WalStream {
    /// Of the cluster.
    pub system_identifier: u64,
    /// The timeline.
    pub timeline: TimelineId,
    /// Of the cluster.
    pub segment_size: SegmentSize,
}

/// WAL on its way into the repository.
#[derive(Debug, Clone)]
pub struct WalChunk {
    /// First byte.
    pub from: Lsn,
    /// The WAL.
    pub plain: Bytes,
    /// What it holds.
    pub facts: WalFacts,
    /// What is durable already, for the header.
    pub durable: Lsn,
}

/// WAL that is compressed and ready to be stored, as often as it takes.
#[derive(Debug)]
pub struct EncodedWal {
    key: Key,
    header: WalHeader,
    body: Body,
    /// What its label says, or would say, of what it holds.
    sum: Checksum,
}

/// zstd's level for WAL: what it costs is on the way of every commit.
const WAL_LEVEL: i32 = 1;
/// Bytes read first to see an object's header.
pub(super) const HEADER_BYTES: u64 = 16 << 10;
/// How often pieces are listed again because one was replaced while they were read. It takes 64 new pieces to replace any.
const PIECE_LISTINGS_MAX: u32 = 4;
/// A header longer than this is not one of ours.
const HEADER_BYTES_MAX: usize = 16 << 20;
/// The same for an encrypted one: age's own head, and the first chunk, which opens only as a whole.
const ENCRYPTED_HEADER_BYTES: u64 = HEADER_BYTES + (64 << 10) + 16;

impl Cluster {
    /// A whole segment, compressed and ready to be stored.
    pub async fn encode_segment(&self, stream: &WalStream, chunk: WalChunk) -> Result<EncodedWal, Error> {
        let name = SegmentName::containing(stream.timeline, chunk.from, stream.segment_size);
        encode(self.layout.segment(name, stream.segment_size)?, stream, chunk, &self.access).await
    }

    /// WAL of a segment that is not whole yet, compressed and ready to be stored.
    pub async fn encode_piece(&self, stream: &WalStream, chunk: WalChunk) -> Result<EncodedWal, Error> {
        let name = SegmentName::containing(stream.timeline, chunk.from, stream.segment_size);
        let to = chunk.from.advance(chunk.plain.len() as u64);
        encode(self.layout.piece(name, stream.segment_size, chunk.from, to)?, stream, chunk, &self.access)
            .await
    }

    /// Stores WAL durably. Meeting it again is success when it holds the same WAL.
    pub async fn put_wal(&self, wal: &EncodedWal) -> Result<Stored, Error> {
        let EncodedWal { key, header, body, .. } = wal;
        match self.store.create(key, body.clone()).await {
            Err(store::Error::Exists { .. }) if self.holds_same(wal).await? => {}
            Err(store::Error::Exists { .. }) => return Err(Error::Differs { key: key.to_string() }),
            result => result?,
        }
        Ok(Stored { timeline: header.timeline, from: header.from, to: header.to })
    }

    /// Whether the object that is there, ours from before a restart or somebody else's, holds the same WAL. Its bytes must be
    /// read: a header alone proves nothing. Where they cannot be, the label and the object's size have to do.
    async fn holds_same(&self, wal: &EncodedWal) -> Result<bool, Error> {
        let EncodedWal { key, header, sum, .. } = wal;
        let object = self.store.read(key, None).await?;
        match self.decode_wal(key, object.clone()).await {
            Ok((found, _)) => {
                Ok(found.sha256 == header.sha256 && (found.from, found.to) == (header.from, header.to))
            }
            Err(Error::NoIdentity { .. } | Error::WrongIdentity { .. }) => {
                Ok(labelled(key, &object, object.len() as u64)?.sum == *sum)
            }
            Err(error) => Err(error),
        }
    }

    async fn read_wal(&self, key: &Key) -> Result<(WalHeader, Bytes), Error> {
        let object = self.store.read(key, None).await?;
        self.decode_wal(key, object).await
    }

    /// The header and the plain bytes of a WAL object, on another thread.
    pub(crate) async fn decode_wal(&self, key: &Key, object: Bytes) -> Result<(WalHeader, Bytes), Error> {
        let (key_again, access) = (key.clone(), self.access.clone());
        let decode = move || decode(&key_again, &object, &access.keys.identities);
        tokio::task::spawn_blocking(decode).await.unwrap_or_else(|cause| {
            let source = std::io::Error::other(cause);
            Err(store::Error::Unavailable { action: "decompress", key: key.to_string(), source }.into())
        })
    }

    /// A whole segment's bytes.
    pub async fn read_segment(
        &self,
        name: SegmentName,
        size: SegmentSize,
    ) -> Result<(WalHeader, Bytes), Error> {
        let key = self.layout.segment(name, size)?;
        let (header, plain) = self.read_wal(&key).await?;
        let expected = Range { from: name.start(size), to: name.end(size) };
        check_place(&key, &header, name.timeline, expected)?;
        Ok((header, plain))
    }

    /// One piece's bytes.
    pub async fn read_piece(
        &self,
        name: SegmentName,
        size: SegmentSize,
        range: Range,
    ) -> Result<(WalHeader, Bytes), Error> {
        let key = self.layout.piece(name, size, range.from, range.to)?;
        let (header, plain) = self.read_wal(&key).await?;
        check_place(&key, &header, name.timeline, range)?;
        Ok((header, plain))
    }

    /// The WAL there is of a segment that is not whole, from its start without a gap; empty when there is none.
    ///
    /// Pieces may overlap: one that is damaged does no harm where another holds the same WAL.
    pub async fn read_pieces(&self, name: SegmentName, size: SegmentSize) -> Result<Vec<u8>, Error> {
        let mut pieces = self.pieces(name, size).await?;
        let mut plain = Vec::new();
        let mut listings_left = PIECE_LISTINGS_MAX;
        loop {
            let at = name.start(size).advance(plain.len() as u64);
            let (mut damage, mut gone) = (None, false);
            for (range, _) in pieces_at(&pieces, at) {
                match self.read_piece(name, size, range).await {
                    Ok((_, bytes)) => {
                        let skip = usize::try_from(at.since(range.from)).unwrap_or(usize::MAX);
                        plain.extend_from_slice(bytes.get(skip..).unwrap_or_default());
                        damage = None;
                        break;
                    }
                    Err(error) if error.is_damage() => drop(damage.get_or_insert(error)),
                    // Another piece, or the whole segment, has taken its place since it was listed.
                    Err(error) if error.is_not_found() => gone = true,
                    Err(error) => return Err(error),
                }
            }
            if let Some(damage) = damage {
                return Err(damage);
            }
            if name.start(size).advance(plain.len() as u64) > at {
                continue;
            }
            if !gone || listings_left == 0 {
                return Ok(plain);
            }
            listings_left -= 1;
            pieces = self.pieces(name, size).await?;
        }
    }

    /// The WAL there is of a segment: all of it, or as far as its pieces lead; empty when there is none.
    ///
    /// Whatever was there when the call began is in it, though the archive goes on meanwhile.
    pub async fn read_available(&self, name: SegmentName, size: SegmentSize) -> Result<Bytes, Error> {
        match self.read_segment(name, size).await {
            Err(error) if error.is_not_found() => {}
            read => return Ok(read?.1),
        }
        let pieces = self.read_pieces(name, size).await?;
        // A segment is whole before its pieces go: where pieces were missing for that reason, it is there by now.
        match self.read_segment(name, size).await {
            Err(error) if error.is_not_found() => Ok(pieces.into()),
            read => Ok(read?.1),
        }
    }

    /// What a segment's header says; `None` when the segment is not there.
    pub async fn segment_header(
        &self,
        name: SegmentName,
        size: SegmentSize,
    ) -> Result<Option<WalHeader>, Error> {
        self.wal_header(&self.layout.segment(name, size)?).await
    }

    /// What a piece's header says; `None` when the piece is not there.
    pub async fn piece_header(
        &self,
        name: SegmentName,
        size: SegmentSize,
        range: Range,
    ) -> Result<Option<WalHeader>, Error> {
        self.wal_header(&self.layout.piece(name, size, range.from, range.to)?).await
    }

    pub(super) async fn wal_header(&self, key: &Key) -> Result<Option<WalHeader>, Error> {
        let mut wanted = HEADER_BYTES;
        loop {
            let bytes = match self.store.read(key, Some(0..wanted)).await {
                Err(store::Error::NotFound { .. }) => return Ok(None),
                bytes => bytes?,
            };
            let complete = (bytes.len() as u64) < wanted;
            if crypt::is_age(&bytes) && !complete && wanted < ENCRYPTED_HEADER_BYTES {
                wanted = ENCRYPTED_HEADER_BYTES;
                continue;
            }
            let overhead = if crypt::is_age(&bytes) { ENCRYPTED_HEADER_BYTES } else { 0 };
            let bytes = open_start(key, bytes, &self.access.keys.identities)?;
            match leading(&bytes) {
                Leading::Whole(payload, _) => return document::open("wal", key, payload).map(Some),
                Leading::Need(len) if len <= HEADER_BYTES_MAX && !complete => {
                    // Each chunk has a tag, which is less than a thousandth of it.
                    let more = len as u64 + if overhead > 0 { overhead + len as u64 / 1024 } else { 0 };
                    if more <= wanted {
                        return Err(Error::damaged(key, "its header does not decrypt"));
                    }
                    wanted = more;
                }
                Leading::Need(_) => return Err(Error::damaged(key, "it ends within its header")),
                Leading::Foreign => {
                    return Err(Error::damaged(key, "it does not start with a header of ours"));
                }
            }
        }
    }

    /// Removes a segment's pieces, once the segment is whole or when newer pieces hold what they hold.
    pub async fn delete_pieces(
        &self,
        name: SegmentName,
        size: SegmentSize,
        before: Lsn,
    ) -> Result<(), Error> {
        for (range, _) in self.pieces(name, size).await? {
            if range.to <= before {
                self.store.delete(&self.layout.piece(name, size, range.from, range.to)?).await?;
            }
        }
        Ok(())
    }

    /// Removes pieces that a longer piece from the start of the segment to `to` makes superfluous.
    pub async fn delete_pieces_within(
        &self,
        name: SegmentName,
        size: SegmentSize,
        to: Lsn,
    ) -> Result<(), Error> {
        let whole = Range { from: name.start(size), to };
        for (range, _) in self.pieces(name, size).await? {
            if range != whole && range.to <= to {
                self.store.delete(&self.layout.piece(name, size, range.from, range.to)?).await?;
            }
        }
        Ok(())
    }

    /// Stores a timeline's history file durably.
    pub async fn put_history(&self, timeline: TimelineId, content: Bytes) -> Result<(), Error> {
        self.create_same(&self.layout.history(timeline)?, content).await
    }

    /// A timeline's history file as PostgreSQL wrote it; `None` when it is not there.
    pub async fn history(&self, timeline: TimelineId) -> Result<Option<Bytes>, Error> {
        match self.store.read(&self.layout.history(timeline)?, None).await {
            Err(store::Error::NotFound { .. }) => Ok(None),
            bytes => Ok(Some(bytes?)),
        }
    }

    /// The timelines whose history files are there.
    pub async fn histories(&self) -> Result<Vec<TimelineId>, Error> {
        let entries = self.store.list(&self.layout.wal()?).await?;
        let timeline = |name: &str| {
            let digits = name.strip_suffix(".history").filter(|digits| digits.len() == 8)?;
            TimelineId::new(u32::from_str_radix(digits, 16).ok()?)
        };
        Ok(entries.iter().filter_map(|entry| timeline(entry.name())).collect())
    }

    /// What names a piece's object in messages.
    pub fn piece_key(&self, name: SegmentName, size: SegmentSize, range: Range) -> Result<String, Error> {
        Ok(self.layout.piece(name, size, range.from, range.to)?.to_string())
    }

    /// What names a history file's object in messages.
    pub fn history_key(&self, timeline: TimelineId) -> Result<String, Error> {
        Ok(self.layout.history(timeline)?.to_string())
    }

    /// What names a segment's object in messages.
    pub fn segment_key(&self, name: SegmentName, size: SegmentSize) -> Result<String, Error> {
        Ok(self.layout.segment(name, size)?.to_string())
    }
}

/// Compresses on another thread. The plain bytes are gone when this returns, however long storing then takes.
async fn encode(
    key: Key,
    stream: &WalStream,
    chunk: WalChunk,
    access: &Arc<Access>,
) -> Result<EncodedWal, Error> {
    let WalStream { system_identifier, timeline, .. } = *stream;
    let compressed = tokio::task::spawn_blocking(move || {
        let WalChunk { from, plain, facts, durable } = chunk;
        let to = from.advance(plain.len() as u64);
        let sha256 = Checksum::of(&plain);
        let header = WalHeader { system_identifier, timeline, from, to, sha256, durable, facts };
        Ok::<_, std::io::Error>((header, codec::compress_large(&plain, WAL_LEVEL)?))
    })
    .await
    .unwrap_or_else(|cause| Err(std::io::Error::other(cause)));
    let (header, stored) = compressed.map_err(|source| store::Error::Unavailable {
        action: "compress",
        key: key.to_string(),
        source,
    })?;
    let head = skippable(&document::seal("wal", &header)?);
    let sum = sum(access, &header);
    if access.recipients.is_empty() {
        let mut body = Body::from(head);
        body.push(stored.into());
        return Ok(EncodedWal { key, header, body, sum });
    }
    let label = Label { sum, durable: header.durable, plain_bytes: (head.len() + stored.len()) as u64 };
    let access = access.clone();
    let encrypt = move || crypt::encrypt(&access.recipients, &[], Some(&label), &[&head, &stored]);
    let encrypted =
        tokio::task::spawn_blocking(encrypt).await.unwrap_or_else(|cause| Err(std::io::Error::other(cause)));
    let object = encrypted.map_err(|source| store::Error::Unavailable {
        action: "encrypt",
        key: key.to_string(),
        source,
    })?;
    Ok(EncodedWal { key, header, body: object.into(), sum })
}

/// The plain bytes of the start of an object.
fn open_start(key: &Key, start: Bytes, identities: &Identities) -> Result<Bytes, Error> {
    if !crypt::is_age(&start) {
        return Ok(start);
    }
    if identities.is_empty() {
        return Err(Error::NoIdentity { key: key.to_string() });
    }
    opened(key, crypt::open_start(&start, identities, start.len() as u64))
}

fn opened(key: &Key, opened: Opened) -> Result<Bytes, Error> {
    match opened {
        Opened::Plain(plain) => Ok(plain.into()),
        Opened::NotForUs => Err(Error::WrongIdentity { key: key.to_string() }),
        Opened::Damaged(reason) => Err(Error::damaged(key, reason)),
    }
}

/// The pieces that hold the byte at `at`, the longest first.
pub(super) fn pieces_at(pieces: &[(Range, u64)], at: Lsn) -> Vec<(Range, u64)> {
    let mut next: Vec<(Range, u64)> =
        pieces.iter().filter(|(range, _)| range.from <= at && at < range.to).copied().collect();
    next.sort_by_key(|(range, _)| std::cmp::Reverse(range.to));
    next
}

pub(crate) fn check_place(
    key: &Key,
    header: &WalHeader,
    timeline: TimelineId,
    range: Range,
) -> Result<(), Error> {
    if header.timeline == timeline && (header.from, header.to) == (range.from, range.to) {
        return Ok(());
    }
    let reason = format!(
        "it holds timeline {} from {} to {}, not what its name says",
        header.timeline, header.from, header.to
    );
    Err(Error::damaged(key, reason))
}

fn decode(key: &Key, object: &[u8], identities: &Identities) -> Result<(WalHeader, Bytes), Error> {
    let decrypted;
    let object = match crypt::is_age(object) {
        false => object,
        true if identities.is_empty() => return Err(Error::NoIdentity { key: key.to_string() }),
        true => {
            decrypted = opened(key, crypt::open(object, identities))?;
            &decrypted
        }
    };
    let Leading::Whole(payload, stored) = leading(object) else {
        return Err(Error::damaged(key, "it does not start with a whole header of ours"));
    };
    let header: WalHeader = document::open("wal", key, payload)?;
    let len = usize::try_from(header.to.since(header.from)).unwrap_or(0);
    if len == 0 || len > 1 << 30 {
        return Err(Error::damaged(key, "its header names no range a segment can have"));
    }
    let plain =
        codec::decompress_plain(stored, len).map_err(|error| Error::damaged(key, error.to_string()))?;
    let found = Checksum::of(&plain);
    if found != header.sha256 {
        return Err(Error::damaged(key, format!("its WAL has checksum {found}, not {}", header.sha256)));
    }
    Ok((header, plain.into()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Repository;
    use store::memory::MemoryStore;

    const STREAM: WalStream = WalStream {
        system_identifier: u64::MAX,
        timeline: TimelineId::FIRST,
        segment_size: SegmentSize::DEFAULT,
    };
    const START: Lsn = Lsn(32 << 20);

    async fn put_segment(cluster: &Cluster, chunk: WalChunk) -> Result<Stored, Error> {
        cluster.put_wal(&cluster.encode_segment(&STREAM, chunk).await?).await
    }

    async fn put_piece(cluster: &Cluster, chunk: WalChunk) -> Result<Stored, Error> {
        cluster.put_wal(&cluster.encode_piece(&STREAM, chunk).await?).await
    }

    async fn cluster() -> Cluster {
        let store = Arc::new(MemoryStore::default());
        Repository::open_or_create(store, Utc::now()).await.unwrap().cluster("c").unwrap()
    }

    fn wal(len: usize) -> Bytes {
        (0..len).map(|at| u8::try_from(at % 253).unwrap()).collect::<Vec<u8>>().into()
    }

    fn chunk(from: Lsn, plain: Bytes, facts: WalFacts) -> WalChunk {
        WalChunk { from, plain, facts, durable: START }
    }

    fn facts() -> WalFacts {
        let mut facts = WalFacts::default();
        facts.add_transaction(DateTime::UNIX_EPOCH, 7);
        facts.restore_points.push(RestorePoint {
            name: "a \"b\"".into(),
            lsn: START,
            time: DateTime::UNIX_EPOCH,
        });
        facts
    }

    #[tokio::test]
    async fn a_segment_comes_back_with_its_facts_and_is_plain_zstd() {
        let (cluster, plain) = (cluster().await, wal(16 << 20));
        put_segment(&cluster, chunk(START, plain.clone(), facts())).await.unwrap();
        let name = SegmentName::containing(STREAM.timeline, START, STREAM.segment_size);
        let (header, read) = cluster.read_segment(name, STREAM.segment_size).await.unwrap();
        assert!(read == plain && header.facts == facts());
        assert_eq!(cluster.segment_header(name, STREAM.segment_size).await.unwrap(), Some(header));
        let key = cluster.layout.segment(name, STREAM.segment_size).unwrap();
        let object = cluster.store.read(&key, None).await.unwrap();
        assert!(zstd::decode_all(&object[..]).unwrap() == plain);
    }

    #[tokio::test]
    async fn the_same_again_is_success_and_other_wal_is_an_alarm() {
        let cluster = cluster().await;
        for _ in 0..2 {
            put_piece(&cluster, chunk(START, wal(100), WalFacts::default())).await.unwrap();
        }
        let other = put_piece(&cluster, chunk(START, vec![1; 100].into(), WalFacts::default())).await;
        assert!(matches!(other, Err(Error::Differs { .. })));
    }

    #[tokio::test]
    async fn pieces_join_up_to_the_first_gap_and_may_overlap() {
        let (cluster, all) = (cluster().await, wal(1000));
        for (from, to) in [(0usize, 100usize), (100, 250), (0, 250), (200, 300), (301, 400)] {
            put_piece(&cluster, chunk(START.advance(from as u64), all.slice(from..to), WalFacts::default()))
                .await
                .unwrap();
        }
        let name = SegmentName::containing(STREAM.timeline, START, STREAM.segment_size);
        assert_eq!(cluster.read_pieces(name, STREAM.segment_size).await.unwrap(), all.slice(..300));
        let covered = cluster.timeline_coverage(STREAM.timeline, STREAM.segment_size).await.unwrap();
        assert_eq!(
            covered.resume_at(),
            Some(START.advance(300)),
            "a gap that no hole explains is filled first"
        );
        cluster.delete_pieces_within(name, STREAM.segment_size, START.advance(250)).await.unwrap();
        assert_eq!(cluster.read_pieces(name, STREAM.segment_size).await.unwrap(), all.slice(..300));
    }

    #[tokio::test]
    async fn a_damaged_piece_does_no_harm_where_another_has_the_same_wal() {
        let (cluster, all) = (cluster().await, wal(300));
        let name = SegmentName::containing(STREAM.timeline, START, STREAM.segment_size);
        let damaged = cluster.layout.piece(name, STREAM.segment_size, START, START.advance(100)).unwrap();
        cluster.store.create(&damaged, Bytes::from_static(b"nonsense").into()).await.unwrap();
        let error = cluster.read_pieces(name, STREAM.segment_size).await.unwrap_err();
        assert!(error.is_damage(), "{error}");
        put_piece(&cluster, chunk(START, all.clone(), WalFacts::default())).await.unwrap();
        assert_eq!(cluster.read_pieces(name, STREAM.segment_size).await.unwrap(), all);
    }

    #[tokio::test]
    async fn a_flip_of_any_byte_is_found() {
        let cluster = cluster().await;
        put_piece(&cluster, chunk(START, wal(300), facts())).await.unwrap();
        let name = SegmentName::containing(STREAM.timeline, START, STREAM.segment_size);
        let range = Range { from: START, to: START.advance(300) };
        let key = cluster.layout.piece(name, STREAM.segment_size, range.from, range.to).unwrap();
        let object = cluster.store.read(&key, None).await.unwrap();
        for at in 0..object.len() {
            let mut damaged = object.to_vec();
            damaged[at] ^= 0x10;
            cluster.store.delete(&key).await.unwrap();
            cluster.store.create(&key, damaged.into()).await.unwrap();
            match cluster.read_piece(name, STREAM.segment_size, range).await {
                Err(error) => assert!(
                    matches!(error, Error::Damaged { .. } | Error::UnknownFormat { .. }),
                    "{at}: {error}"
                ),
                // zstd has bits that mean nothing; what counts is that the bytes are right.
                Ok((_, plain)) => assert_eq!(plain, wal(300), "{at}"),
            }
        }
    }
}
