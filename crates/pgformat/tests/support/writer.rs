//! Lays records through pages as a server does, so that records can be made up.

use pgformat::wal::Expect;
use pgformat::{Lsn, Major, SegmentSize, TimelineId};

pub const BLOCK: usize = 8192;

/// WAL of a made-up cluster, from the start of a segment.
pub struct Writer {
    pub expect: Expect,
    pub start: Lsn,
    pub bytes: Vec<u8>,
    previous: Lsn,
}

impl Writer {
    pub fn new(major: Major) -> Writer {
        let segment_size = SegmentSize::new(1 << 20).unwrap();
        let timeline = TimelineId::new(3).unwrap();
        let expect = Expect { system_identifier: 7, timeline, major, segment_size };
        Writer { expect, start: Lsn(0x500_0000), bytes: Vec::new(), previous: Lsn(0x4FF_0000) }
    }

    pub fn position(&self) -> Lsn {
        self.start.advance(self.bytes.len() as u64)
    }

    /// Appends a record and says where it starts and ends.
    pub fn record(&mut self, manager: u8, info: u8, transaction: u32, body: &[u8]) -> (Lsn, Lsn) {
        if self.bytes.len().is_multiple_of(BLOCK) {
            self.page_header(0);
        }
        let start = self.position();
        let mut record = Vec::with_capacity(24 + body.len());
        record.extend(u32::try_from(24 + body.len()).unwrap().to_le_bytes());
        record.extend(transaction.to_le_bytes());
        record.extend(self.previous.0.to_le_bytes());
        record.extend([info, manager, 0, 0]);
        let checksum = crc32c::crc32c_append(crc32c::crc32c(body), &record);
        record.extend(checksum.to_le_bytes());
        record.extend(body);
        self.previous = start;
        self.spread(&record);
        self.bytes.resize(self.bytes.len().next_multiple_of(8), 0);
        (start, self.position())
    }

    /// Leaves the rest of the segment unused.
    #[allow(dead_code, reason = "the fuzzer writes no switches of its own")]
    pub fn fill_segment(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(self.expect.segment_size.len()), 0);
    }

    fn spread(&mut self, mut record: &[u8]) {
        while !record.is_empty() {
            if self.bytes.len().is_multiple_of(BLOCK) {
                self.page_header(record.len());
            }
            let room = BLOCK - self.bytes.len() % BLOCK;
            let (here, later) = record.split_at(room.min(record.len()));
            self.bytes.extend(here);
            record = later;
        }
    }

    fn page_header(&mut self, remaining: usize) {
        let position = self.position();
        let long = self.expect.segment_size.offset(position) == 0;
        let flags = u16::from(remaining > 0) | u16::from(long) << 1;
        self.bytes.extend(self.expect.major.wal_magic().to_le_bytes());
        self.bytes.extend(flags.to_le_bytes());
        self.bytes.extend(self.expect.timeline.get().to_le_bytes());
        self.bytes.extend(position.0.to_le_bytes());
        self.bytes.extend(u32::try_from(remaining).unwrap().to_le_bytes());
        self.bytes.extend([0; 4]);
        if long {
            self.bytes.extend(self.expect.system_identifier.to_le_bytes());
            self.bytes.extend((1u32 << 20).to_le_bytes());
            self.bytes.extend(u32::try_from(BLOCK).unwrap().to_le_bytes());
        }
    }
}

/// A record's body of nothing but main data.
pub fn main_data(data: &[u8]) -> Vec<u8> {
    let mut body = match u8::try_from(data.len()) {
        Ok(length) => vec![255, length],
        Err(_) => [&[254][..], &u32::try_from(data.len()).unwrap().to_le_bytes()].concat(),
    };
    body.extend(data);
    body
}
