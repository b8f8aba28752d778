//! Proof that WAL is durable.

use std::collections::BTreeMap;

use pgformat::{Lsn, TimelineId};

/// All WAL of a timeline before this position, as far back as the archive goes, is durable. Only this crate can make one, and only
/// such a position is acknowledged to PostgreSQL.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Durable {
    timeline: TimelineId,
    lsn: Lsn,
}

impl Durable {
    pub(crate) fn new(timeline: TimelineId, lsn: Lsn) -> Durable {
        Durable { timeline, lsn }
    }

    /// The timeline.
    pub fn timeline(&self) -> TimelineId {
        self.timeline
    }

    /// The first byte that is not known to be durable.
    pub fn lsn(&self) -> Lsn {
        self.lsn
    }
}

/// One WAL object is durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stored {
    pub(crate) timeline: TimelineId,
    pub(crate) from: Lsn,
    pub(crate) to: Lsn,
}

impl Stored {
    /// First byte.
    pub fn from(&self) -> Lsn {
        self.from
    }

    /// First byte after it.
    pub fn to(&self) -> Lsn {
        self.to
    }
}

/// How far a timeline is durable without a gap, while objects are written side by side and finish in any order.
#[derive(Debug, Clone)]
pub struct Frontier {
    durable: Durable,
    ahead: BTreeMap<Lsn, Lsn>,
}

impl Frontier {
    pub(crate) fn new(timeline: TimelineId, lsn: Lsn) -> Frontier {
        Frontier { durable: Durable::new(timeline, lsn), ahead: BTreeMap::new() }
    }

    /// How far it is durable now.
    pub fn durable(&self) -> Durable {
        self.durable
    }

    /// Takes in an object that is durable. What lies beyond a gap counts once the gap is filled.
    pub fn add(&mut self, stored: Stored) -> Durable {
        if stored.timeline == self.durable.timeline {
            let end = self.ahead.entry(stored.from).or_insert(stored.to);
            *end = stored.to.max(*end);
        }
        while let Some(entry) = self.ahead.first_entry().filter(|entry| *entry.key() <= self.durable.lsn) {
            self.durable.lsn = self.durable.lsn.max(entry.remove());
        }
        self.durable
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn it_is_the_end_of_what_is_there_without_a_gap(objects in prop::collection::vec((0u64..40, 1u64..6), 0..40)) {
            let mut frontier = Frontier::new(TimelineId::FIRST, Lsn(10));
            let mut bytes = [false; 64];
            for (from, len) in objects {
                let stored = Stored { timeline: TimelineId::FIRST, from: Lsn(from), to: Lsn(from + len) };
                let durable = frontier.add(stored).lsn();
                (from..from + len).for_each(|at| bytes[usize::try_from(at).unwrap()] = true);
                let expected = (10..64).find(|at| !bytes[*at]).unwrap();
                prop_assert_eq!(durable, Lsn(expected as u64));
            }
        }
    }
}
