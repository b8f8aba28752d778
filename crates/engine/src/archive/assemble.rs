//! Cutting the stream into segments and pieces, and checking that it is the WAL it should be. No I/O.

use bytes::Bytes;
use chrono::{DateTime, Utc};
use pgformat::wal::{Decoder, Expect, Progress, WalError, WalEvent, timestamp_to_unix_micros};
use pgformat::{Lsn, SegmentSize};
use repository::wal::{KnownWal, RestorePoint, WalChunk, WalFacts};

/// WAL that is ready to be stored.
#[derive(Debug)]
pub(super) struct Chunk {
    pub(super) from: Lsn,
    pub(super) plain: Bytes,
    pub(super) facts: WalFacts,
}

impl Chunk {
    /// For the repository, with what is durable by now.
    pub(super) fn with_durable(self, durable: Lsn) -> WalChunk {
        let Chunk { from, plain, facts } = self;
        WalChunk { from, plain, facts, durable }
    }
}

/// Why WAL was not taken.
#[derive(Debug)]
pub(super) enum Refused {
    Bad(WalError),
    /// The bytes from here on are not the ones that are durable already.
    Differs(Lsn),
    /// There are zeroes where a record should begin.
    Ended(Lsn),
    /// The stream left bytes out.
    Gap {
        expected: Lsn,
        found: Lsn,
    },
}

/// The segment that is being received.
#[derive(Debug)]
pub(super) struct Assembler {
    size: SegmentSize,
    decoder: Decoder,
    start: Lsn,
    buffer: Vec<u8>,
    /// Durable bytes from the start of the segment, which come again after a restart and must be the same.
    known: KnownWal,
    /// What lies before this is in a piece, or on its way into one.
    cut: Lsn,
    segment_facts: WalFacts,
    cut_facts: WalFacts,
}

impl Assembler {
    /// Starts at a segment's start, of which `known` is durable.
    pub(super) fn new(expect: Expect, start: Lsn, known: KnownWal) -> Assembler {
        Assembler {
            size: expect.segment_size,
            decoder: Decoder::new(expect, start),
            start,
            buffer: Vec::with_capacity(expect.segment_size.len()),
            cut: start.advance(known.len()),
            known,
            segment_facts: WalFacts::default(),
            cut_facts: WalFacts::default(),
        }
    }

    /// First byte not received yet.
    pub(super) fn received(&self) -> Lsn {
        self.start.advance(self.buffer.len() as u64)
    }

    /// Takes what follows; gives the segments it completes.
    pub(super) fn push(&mut self, from: Lsn, mut data: &[u8]) -> Result<Vec<Chunk>, Refused> {
        if from != self.received() {
            return Err(Refused::Gap { expected: self.received(), found: from });
        }
        let mut whole = Vec::new();
        while !data.is_empty() {
            let room = self.size.len() - self.buffer.len();
            let (now, rest) = data.split_at(room.min(data.len()));
            self.take(now)?;
            data = rest;
            if self.buffer.len() == self.size.len() {
                whole.push(self.complete());
            }
        }
        Ok(whole)
    }

    fn take(&mut self, data: &[u8]) -> Result<(), Refused> {
        self.compare(data)?;
        let (segment_facts, cut_facts, cut) = (&mut self.segment_facts, &mut self.cut_facts, self.cut);
        let mut note = |event: WalEvent| {
            add_event(segment_facts, &event);
            if end_of(&event) > cut {
                add_event(cut_facts, &event);
            }
        };
        // A server sends what it has flushed, and never the zeroes behind it.
        if let Progress::EndOfWal(lsn) = self.decoder.push(data, &mut note).map_err(Refused::Bad)? {
            return Err(Refused::Ended(lsn));
        }
        self.buffer.extend_from_slice(data);
        self.recognise(data.len())
    }

    /// What is durable and can be read must come again byte for byte.
    fn compare(&self, data: &[u8]) -> Result<(), Refused> {
        let KnownWal::Plain(known) = &self.known else { return Ok(()) };
        let known = known.get(self.buffer.len()..).unwrap_or_default();
        match known.iter().zip(data).position(|(known, new)| known != new) {
            Some(differs) => Err(Refused::Differs(self.received().advance(differs as u64))),
            None => Ok(()),
        }
    }

    /// What is durable and cannot be read is recognised once all of a piece has come; nothing behind it is stored before.
    fn recognise(&self, new_bytes: usize) -> Result<(), Refused> {
        let KnownWal::Labelled { pieces, .. } = &self.known else { return Ok(()) };
        let index = |lsn: Lsn| usize::try_from(lsn.since(self.start)).unwrap_or(usize::MAX);
        let before = self.buffer.len() - new_bytes;
        let complete = |end: usize| before < end && end <= self.buffer.len();
        for piece in pieces.iter().filter(|piece| complete(index(piece.range.to))) {
            let bytes = self.buffer.get(index(piece.range.from)..index(piece.range.to));
            if !bytes.is_some_and(|bytes| piece.holds(bytes)) {
                return Err(Refused::Differs(piece.range.from));
            }
        }
        Ok(())
    }

    fn complete(&mut self) -> Chunk {
        let next = self.received();
        let buffer = std::mem::replace(&mut self.buffer, Vec::with_capacity(self.size.len()));
        let chunk =
            Chunk { from: self.start, plain: buffer.into(), facts: std::mem::take(&mut self.segment_facts) };
        self.cut_facts = WalFacts::default();
        self.known = KnownWal::Plain(Vec::new());
        self.start = next;
        self.cut = next;
        chunk
    }

    /// Whether there is WAL that is in no piece yet.
    pub(super) fn has_waiting(&self) -> bool {
        self.cut < self.received()
    }

    /// Start of the segment that is being received.
    pub(super) fn segment_start(&self) -> Lsn {
        self.start
    }

    /// Cuts a piece of all WAL that is in none yet.
    pub(super) fn cut_piece(&mut self) -> Chunk {
        let skip = usize::try_from(self.cut.since(self.start)).unwrap_or(usize::MAX);
        let plain = Bytes::copy_from_slice(self.buffer.get(skip..).unwrap_or_default());
        let chunk = Chunk { from: self.cut, plain, facts: std::mem::take(&mut self.cut_facts) };
        self.cut = self.received();
        chunk
    }

    /// Cuts a piece of the segment from its start, which makes the earlier ones superfluous.
    pub(super) fn cut_whole_piece(&mut self) -> Chunk {
        self.cut_facts = WalFacts::default();
        self.cut = self.received();
        Chunk {
            from: self.start,
            plain: Bytes::copy_from_slice(&self.buffer),
            facts: self.segment_facts.clone(),
        }
    }
}

fn end_of(event: &WalEvent) -> Lsn {
    match event {
        WalEvent::Transaction(end) => end.end,
        WalEvent::RestorePoint { end, .. }
        | WalEvent::BackupEnd { end, .. }
        | WalEvent::Switch { end }
        | WalEvent::ParameterChange { end, .. }
        | WalEvent::Checkpoint { end, .. } => *end,
    }
}

/// The time of a WAL record. One that chrono cannot hold is none a clock can show.
pub(crate) fn wal_time(micros: i64) -> DateTime<Utc> {
    DateTime::from_timestamp_micros(timestamp_to_unix_micros(micros)).unwrap_or(DateTime::UNIX_EPOCH)
}

fn add_event(facts: &mut WalFacts, event: &WalEvent) {
    match event {
        WalEvent::Transaction(end) => facts.add_transaction(wal_time(end.time_micros), end.xid),
        WalEvent::RestorePoint { end, time_micros, name, .. } => {
            facts.restore_points.push(RestorePoint {
                name: name.clone(),
                lsn: *end,
                time: wal_time(*time_micros),
            });
        }
        _ => {}
    }
}
