//! Following the run of records through the pages.

use super::error::WalError;
use super::event::{self, Span, WalEvent};
use super::page::{LONG_LENGTH, PageHeader, SHORT_LENGTH};
use super::record::{self, HEADER_LENGTH, RecordHeader};
use crate::{Lsn, Major, SegmentSize, TimelineId};

/// Whose WAL it must be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Expect {
    /// The cluster.
    pub system_identifier: u64,
    /// The timeline. Its first segment may begin with pages of its ancestors.
    pub timeline: TimelineId,
    /// The server's major.
    pub major: Major,
    /// The cluster's segment size.
    pub segment_size: SegmentSize,
}

/// Whether more WAL may follow.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Progress {
    /// Everything pushed so far is WAL, and more may come.
    More,
    /// Where the next record should begin there are only zeroes: nothing valid follows. Ordinary at the end of a
    /// segment that was never filled; within a stream from a server, or before another segment, it is a hole.
    EndOfWal(Lsn),
}

/// Checks a stream of WAL and reports its events. However the stream is cut into pushes, the outcome is the same.
#[derive(Debug)]
pub struct Decoder {
    expect: Expect,
    start: Lsn,
    /// First byte not yet pushed.
    pushed_to: Lsn,
    /// First byte not yet decoded.
    cursor: Lsn,
    state: State,
    page: Page,
    /// Start of the last whole record.
    last_record: Option<Lsn>,
    last_record_end: Lsn,
    /// Set by a page that replaces an unfinished record, until the record that must say so was seen.
    overwrite: Option<Overwrite>,
}

/// What the next byte of a page's body belongs to.
#[derive(Debug)]
enum State {
    /// The padding before a record, or its first byte.
    Between,
    /// A record that began before the stream; so many of its bytes are missing.
    Skipping(u64),
    /// A record that did not lie whole in one push and one page.
    Within(Partial),
    /// The unused rest of a segment, up to there.
    Switched(Lsn),
    Ended(Lsn),
    Failed(WalError),
}

/// The page at the cursor.
#[derive(Debug)]
struct Page {
    /// Where it ends and the next header begins.
    end: Lsn,
    /// The next header, as far as it arrived.
    header: [u8; LONG_LENGTH],
    /// Bytes in a page; known from the first header on.
    bytes: Option<u32>,
    /// Highest timeline seen.
    timeline: u32,
}

/// A record of which some bytes have passed.
#[derive(Debug)]
struct Partial {
    start: Lsn,
    header: [u8; HEADER_LENGTH],
    /// Bytes passed, header included.
    passed: u32,
    /// CRC of the body so far.
    checksum: u32,
    /// The body, only of records that are read. Grows with what arrives, never to a length only claimed.
    body: Vec<u8>,
}

#[derive(Clone, Copy, Debug)]
struct Overwrite {
    page: Lsn,
    /// The unfinished record; unknown when it began before the stream.
    record: Option<Lsn>,
}

impl Decoder {
    /// `start` must be the start of a segment. The end of a record that began before it is skipped.
    pub fn new(expect: Expect, start: Lsn) -> Decoder {
        let state = match expect.segment_size.offset(start) {
            0 => State::Between,
            _ => State::Failed(WalError::NotSegmentStart { lsn: start }),
        };
        Decoder {
            expect,
            start,
            pushed_to: start,
            cursor: start,
            state,
            page: Page { end: start, header: [0; LONG_LENGTH], bytes: None, timeline: 1 },
            last_record: None,
            last_record_end: start,
            overwrite: None,
        }
    }

    /// Takes the next bytes of the stream. After the end of WAL further bytes are ignored; after an error every further
    /// push returns it again.
    pub fn push(&mut self, bytes: &[u8], on_event: &mut dyn FnMut(WalEvent)) -> Result<Progress, WalError> {
        self.pushed_to = self.pushed_to.advance(length(bytes));
        let mut rest = bytes;
        loop {
            match &self.state {
                State::Ended(lsn) => return Ok(Progress::EndOfWal(*lsn)),
                State::Failed(error) => return Err(error.clone()),
                _ if rest.is_empty() => return Ok(Progress::More),
                _ => {}
            }
            match self.step(rest, on_event) {
                Ok(taken) => {
                    self.cursor = self.cursor.advance(length(taken));
                    rest = rest.get(taken.len()..).unwrap_or_default();
                }
                Err(error) => self.state = State::Failed(error),
            }
        }
    }

    /// First byte not yet pushed.
    pub fn position(&self) -> Lsn {
        self.pushed_to
    }

    /// End of the last whole record, all of whose checks held, or the start of the stream when there was none. Rounded
    /// up to where the next record may begin: as PostgreSQL rounds, so that it equals the server's own idea of it.
    pub fn last_record_end(&self) -> Lsn {
        self.last_record_end
    }

    /// Decodes some bytes from the front of `rest` and returns them. Empty only when the state has changed.
    fn step<'a>(&mut self, rest: &'a [u8], on_event: &mut dyn FnMut(WalEvent)) -> Result<&'a [u8], WalError> {
        if let State::Switched(next) = self.state {
            if self.cursor < next {
                return Ok(first(rest, next.since(self.cursor)));
            }
            self.state = State::Between;
        }
        if self.cursor >= self.page.end {
            return self.page_header(rest);
        }
        let body = first(rest, self.page.end.since(self.cursor));
        match &mut self.state {
            State::Between => self.record(body, on_event),
            State::Skipping(missing) => {
                let taken = first(body, *missing);
                *missing -= length(taken);
                if *missing == 0 {
                    self.state = State::Between;
                }
                Ok(taken)
            }
            _ => self.partial(body, on_event),
        }
    }

    /// At a record's start, or in the padding before it. `body` ends with the page.
    fn record<'a>(
        &mut self,
        body: &'a [u8],
        on_event: &mut dyn FnMut(WalEvent),
    ) -> Result<&'a [u8], WalError> {
        let padding = aligned(self.cursor).since(self.cursor);
        if padding > 0 {
            return Ok(first(body, padding));
        }
        let start = self.cursor;
        if let Some((header_bytes, after)) = body.split_first_chunk() {
            let header = RecordHeader::parse(header_bytes);
            if header.length == 0 {
                self.state = State::Ended(start);
                return Ok(&[]);
            }
            record::length_fits(start, header.length)?;
            header.verify(start, self.last_record, self.expect.major)?;
            let length = header.length as usize;
            if let Some(data) = after.get(..length - HEADER_LENGTH) {
                header.verify_checksum(start, header_bytes, crc32c::crc32c(data))?;
                self.finish(start, &header, data, start.advance(header.length.into()), on_event)?;
                return Ok(body.get(..length).unwrap_or_default());
            }
        }
        self.state = State::Within(Partial::new(start));
        self.partial(body, on_event)
    }

    /// Within a record that arrives in parts.
    fn partial<'a>(
        &mut self,
        body: &'a [u8],
        on_event: &mut dyn FnMut(WalEvent),
    ) -> Result<&'a [u8], WalError> {
        let State::Within(partial) = &mut self.state else { return Ok(&[]) };
        let start = partial.start;
        let taken = partial.take(body);
        if partial.passed == Partial::LENGTH_KNOWN {
            if partial.length() == 0 {
                self.state = State::Ended(start);
                return Ok(&[]);
            }
            record::length_fits(start, partial.length())?;
        } else if partial.passed == Partial::HEADER_KNOWN {
            RecordHeader::parse(&partial.header).verify(start, self.last_record, self.expect.major)?;
        }
        if partial.is_whole() {
            let header = RecordHeader::parse(&partial.header);
            header.verify_checksum(start, &partial.header, partial.checksum)?;
            let data = std::mem::take(&mut partial.body);
            let end = self.cursor.advance(length(taken));
            self.state = State::Between;
            self.finish(start, &header, &data, end, on_event)?;
        }
        Ok(taken)
    }

    /// A record is whole and its checksum held. `data` is its body, empty for a straddling record that is not read.
    fn finish(
        &mut self,
        start: Lsn,
        header: &RecordHeader,
        data: &[u8],
        end: Lsn,
        on_event: &mut dyn FnMut(WalEvent),
    ) -> Result<(), WalError> {
        let end = aligned(end);
        if let Some(overwrite) = self.overwrite.take() {
            let said = event::overwritten(header, data);
            let fits = said.is_some_and(|said| overwrite.record.is_none_or(|record| record == said));
            if !fits {
                return Err(WalError::Overwrite { page: overwrite.page, record: start });
            }
        }
        if header.is_read() {
            let segment_end = self.expect.segment_size.ceil(end);
            let span = Span { lsn: start, end };
            if let Some(event) = event::read(header, data, span, segment_end, self.expect.major)? {
                on_event(event);
            }
            if event::is_switch(header) {
                self.state = State::Switched(segment_end);
                self.page.end = segment_end;
            }
        }
        self.last_record = Some(start);
        self.last_record_end = end;
        Ok(())
    }

    /// At a page's header, or within it.
    fn page_header<'a>(&mut self, rest: &'a [u8]) -> Result<&'a [u8], WalError> {
        let page = self.page.end;
        let wanted = if self.expect.segment_size.offset(page) == 0 { LONG_LENGTH } else { SHORT_LENGTH };
        let mut missing =
            self.page.header.get_mut(index(self.cursor.since(page))..wanted).unwrap_or_default();
        let taken = first(rest, missing.len() as u64);
        missing = missing.get_mut(..taken.len()).unwrap_or_default();
        missing.copy_from_slice(taken);
        if self.cursor.advance(length(taken)).since(page) == wanted as u64 {
            self.open_page(page, wanted)?;
        }
        Ok(taken)
    }

    fn open_page(&mut self, page: Lsn, header_length: usize) -> Result<(), WalError> {
        let bytes = self.page.header.get(..header_length).unwrap_or_default();
        if bytes.iter().all(|&byte| byte == 0) {
            return self.zero_page(page);
        }
        let Some(header) = PageHeader::parse(bytes) else {
            return Err(WalError::Flags { page, found: 0 });
        };
        self.verify_page(page, &header)?;
        self.page.timeline = header.timeline;
        self.page.end = page.advance(self.page.bytes.unwrap_or_default().into());
        self.join(page, &header)
    }

    fn zero_page(&mut self, page: Lsn) -> Result<(), WalError> {
        match &self.state {
            State::Between => {
                self.state = State::Ended(page);
                Ok(())
            }
            State::Within(partial) => Err(WalError::CutOff { record: partial.start, page }),
            _ => Err(WalError::CutOff { record: self.start, page }),
        }
    }

    fn verify_page(&mut self, page: Lsn, header: &PageHeader) -> Result<(), WalError> {
        let expected = self.expect.major.wal_magic();
        if header.magic != expected {
            return Err(WalError::Magic { page, expected, found: header.magic });
        }
        if !header.flags_fit() {
            return Err(WalError::Flags { page, found: header.flags });
        }
        if header.address != page.0 {
            return Err(WalError::Address { page, found: Lsn(header.address) });
        }
        if let Some(segment) = header.segment {
            if segment.system_identifier != self.expect.system_identifier {
                let (expected, found) = (self.expect.system_identifier, segment.system_identifier);
                return Err(WalError::SystemIdentifier { page, expected, found });
            }
            if u64::from(segment.segment_bytes) != self.expect.segment_size.bytes() {
                let (expected, found) = (self.expect.segment_size, segment.segment_bytes);
                return Err(WalError::SegmentSize { page, expected, found });
            }
            self.verify_block_size(page, segment.block_bytes)?;
        }
        let (at_least, at_most) = (self.page.timeline, self.expect.timeline.get());
        if !(at_least..=at_most).contains(&header.timeline) {
            return Err(WalError::Timeline { page, at_least, at_most, found: header.timeline });
        }
        Ok(())
    }

    /// The first page of the stream says how long pages are; the others must agree.
    fn verify_block_size(&mut self, page: Lsn, found: u32) -> Result<(), WalError> {
        const BLOCK_BYTES: std::ops::RangeInclusive<u32> = 1 << 10..=64 << 10;
        let known = *self.page.bytes.get_or_insert(found);
        if found == known && found.is_power_of_two() && BLOCK_BYTES.contains(&found) {
            Ok(())
        } else {
            Err(WalError::BlockSize { page, found })
        }
    }

    /// Whether what stood at the end of the last page goes on at the beginning of this one.
    fn join(&mut self, page: Lsn, header: &PageHeader) -> Result<(), WalError> {
        let found = if header.continues() { u64::from(header.remaining) } else { 0 };
        if header.overwrites() && found == 0 {
            let record = match &self.state {
                State::Within(partial) => Some(partial.start),
                _ => None,
            };
            self.overwrite = Some(Overwrite { page, record });
            self.state = State::Between;
            return Ok(());
        }
        let expected = match &self.state {
            State::Within(partial) => u64::from(partial.length() - partial.passed),
            State::Skipping(missing) => *missing,
            _ if page == self.start => {
                if found > 0 {
                    self.state = State::Skipping(found);
                }
                found
            }
            _ => 0,
        };
        if found == expected { Ok(()) } else { Err(WalError::Continuation { page, expected, found }) }
    }
}

impl Partial {
    const LENGTH_KNOWN: u32 = 4;
    const HEADER_KNOWN: u32 = 24;

    fn new(start: Lsn) -> Partial {
        Partial { start, header: [0; HEADER_LENGTH], passed: 0, checksum: 0, body: Vec::new() }
    }

    /// The length claimed, once four bytes have passed.
    fn length(&self) -> u32 {
        RecordHeader::parse(&self.header).length
    }

    fn is_whole(&self) -> bool {
        self.passed >= Self::HEADER_KNOWN && self.passed == self.length()
    }

    /// Takes what belongs to the record, stopping where something becomes known that must be checked first.
    fn take<'a>(&mut self, bytes: &'a [u8]) -> &'a [u8] {
        let until = match self.passed {
            0..Self::LENGTH_KNOWN => Self::LENGTH_KNOWN,
            Self::LENGTH_KNOWN..Self::HEADER_KNOWN => Self::HEADER_KNOWN,
            _ => self.length(),
        };
        let taken = first(bytes, (until - self.passed).into());
        if self.passed < Self::HEADER_KNOWN {
            let from = self.passed as usize;
            if let Some(place) = self.header.get_mut(from..from + taken.len()) {
                place.copy_from_slice(taken);
            }
        } else {
            self.checksum = crc32c::crc32c_append(self.checksum, taken);
            if RecordHeader::parse(&self.header).is_read() {
                self.body.extend_from_slice(taken);
            }
        }
        self.passed += u32::try_from(taken.len()).unwrap_or_default();
        taken
    }
}

/// Records begin at multiples of eight.
fn aligned(lsn: Lsn) -> Lsn {
    Lsn(lsn.0.saturating_add(7) & !7)
}

fn first(bytes: &[u8], count: u64) -> &[u8] {
    bytes.get(..index(count)).unwrap_or(bytes)
}

fn length(bytes: &[u8]) -> u64 {
    bytes.len() as u64
}

/// Past the end of anything that fits in memory where it does not fit an index.
fn index(count: u64) -> usize {
    usize::try_from(count).unwrap_or(usize::MAX)
}
