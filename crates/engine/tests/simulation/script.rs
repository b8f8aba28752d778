//! The WAL a made-up server writes: valid pages and records, all of it known from the seed.

use pgformat::{Lsn, Major, SegmentSize, TimelineId};
use store::fault::Dice;

#[path = "../../../pgformat/tests/support/writer.rs"]
mod writer;

use writer::{Writer, main_data};

pub const SYSTEM_IDENTIFIER: u64 = 7;
pub const TIMELINE: TimelineId = TimelineId::FIRST;

/// Everything the server will ever write, and where it may stop flushing for a while.
pub struct Script {
    pub start: Lsn,
    pub bytes: Vec<u8>,
    /// Ends of records, in order.
    pub ends: Vec<Lsn>,
}

pub fn segment_size() -> SegmentSize {
    SegmentSize::new(1 << 20).unwrap()
}

impl Script {
    /// At least `bytes` of WAL in records of random kind and size.
    pub fn new(dice: &mut Dice, bytes: usize) -> Script {
        let mut writer = Writer::new(Major::from_version_num(150_004).unwrap());
        writer.expect.timeline = TIMELINE;
        assert_eq!(
            (writer.expect.system_identifier, writer.expect.segment_size),
            (SYSTEM_IDENTIFIER, segment_size())
        );
        let mut ends = Vec::new();
        while writer.bytes.len() < bytes {
            append(&mut writer, dice);
            ends.push(writer.position());
        }
        Script { start: writer.start, bytes: writer.bytes, ends }
    }

    pub fn end(&self) -> Lsn {
        self.start.advance(self.bytes.len() as u64)
    }

    pub fn slice(&self, from: Lsn, to: Lsn) -> &[u8] {
        let at = |lsn: Lsn| usize::try_from(lsn.since(self.start)).unwrap();
        &self.bytes[at(from)..at(to)]
    }
}

fn append(writer: &mut Writer, dice: &mut Dice) {
    // Long records are rare.
    let dice_sides = if dice.chance(0.02) { 6 } else { 4 };
    let xid = u32::try_from(dice.within(700..1_000_000)).unwrap();
    match dice.below(100) {
        0 => {
            let mut data = [&9i64.to_le_bytes()[..], b"before the release"].concat();
            data.resize(72, 0);
            writer.record(0, 0x70, 0, &main_data(&data));
        }
        1 if dice.chance(0.1) => {
            writer.record(0, 0x40, 0, &[]);
            writer.fill_segment();
        }
        2..30 => {
            let time = i64::try_from(dice.below(1 << 50)).unwrap();
            writer.record(1, 0, xid, &main_data(&time.to_le_bytes()));
        }
        _ => {
            let longest =
                [60, 200, 500, 3_000, 9_000, 60_000][usize::try_from(dice.below(dice_sides)).unwrap()];
            // Some random bytes, so that no two are alike, and many equal ones, so that it takes no time.
            let mut body: Vec<u8> = (0..8).flat_map(|_| dice.throw().to_le_bytes()).collect();
            body.resize(
                usize::try_from(dice.within(8..longest)).unwrap(),
                u8::try_from(dice.below(256)).unwrap(),
            );
            writer.record(10, 0, xid, &body);
        }
    }
}
