//! Where in the WAL to go on with a node: a pure decision from its history and what the repository has.

use pgformat::{History, Lsn, SegmentSize, TimelineId};

/// What the repository has of the timeline it is on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Known {
    /// The newest timeline with WAL.
    pub timeline: TimelineId,
    /// Where its WAL ends without a gap.
    pub durable: Lsn,
}

/// What to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// Begin an archive: nothing is there yet.
    Begin {
        /// The timeline.
        timeline: TimelineId,
    },
    /// Go on with a timeline.
    Continue {
        /// The timeline.
        timeline: TimelineId,
        /// The start of the segment to stream from.
        start: Lsn,
    },
    /// Go over to the next timeline: ours ended at the fork.
    Switch {
        /// The timeline.
        timeline: TimelineId,
        /// The start of the segment that holds the fork. That segment exists once per timeline, so it is streamed whole.
        start: Lsn,
        /// Where the new timeline left the one we have.
        fork: Lsn,
    },
    /// The server is not one whose WAL continues ours.
    Refuse {
        /// Why, in a sentence.
        reason: String,
    },
}

/// Decides where to stream from a server on `history`'s timeline.
pub fn decide(history: &History, known: Option<Known>, size: SegmentSize) -> Decision {
    let Some(known) = known else {
        return Decision::Begin { timeline: history.timeline };
    };
    if history.timeline == known.timeline {
        return Decision::Continue { timeline: known.timeline, start: size.floor(known.durable) };
    }
    if history.timeline < known.timeline {
        let reason = format!(
            "the server is on timeline {}, but the repository already follows timeline {}: it is a former primary, or was restored",
            history.timeline, known.timeline
        );
        return Decision::Refuse { reason };
    }
    let path = history.path();
    let Some(position) = path.iter().position(|(timeline, _)| *timeline == known.timeline) else {
        let reason = format!(
            "the server's timeline {} does not descend from timeline {}, which the repository follows",
            history.timeline, known.timeline
        );
        return Decision::Refuse { reason };
    };
    match (path[position].1, path.get(position + 1)) {
        // What we have beyond the fork is a tail of the old timeline that the new one never had.
        (Some(fork), Some((next, _))) if known.durable >= fork => {
            Decision::Switch { timeline: *next, start: size.floor(fork), fork }
        }
        _ => Decision::Continue { timeline: known.timeline, start: size.floor(known.durable) },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn timeline(number: u32) -> TimelineId {
        TimelineId::new(number).unwrap()
    }

    fn history(number: u32, forks: &[(u32, u64)]) -> History {
        let text: String = forks.iter().map(|(tli, lsn)| format!("{tli}\t{}\tx\n", Lsn(*lsn))).collect();
        History::parse(timeline(number), text.as_bytes()).unwrap()
    }

    const MB: u64 = 1 << 20;
    const SIZE: SegmentSize = SegmentSize::DEFAULT;

    fn known(number: u32, durable: u64) -> Option<Known> {
        Some(Known { timeline: timeline(number), durable: Lsn(durable) })
    }

    #[test]
    fn table() {
        let first = history(1, &[]);
        let second = history(2, &[(1, 40 * MB)]);
        let third = history(3, &[(1, 40 * MB), (2, 41 * MB)]);
        let go_on = |number, start| Decision::Continue { timeline: timeline(number), start: Lsn(start) };
        let switch = |number, start, fork| Decision::Switch {
            timeline: timeline(number),
            start: Lsn(start),
            fork: Lsn(fork),
        };

        assert_eq!(decide(&first, None, SIZE), Decision::Begin { timeline: timeline(1) });
        assert_eq!(decide(&first, known(1, 33 * MB), SIZE), go_on(1, 32 * MB));
        assert_eq!(
            decide(&second, known(1, 39 * MB), SIZE),
            go_on(1, 32 * MB),
            "behind the fork: the old timeline first"
        );
        assert_eq!(decide(&second, known(1, 40 * MB), SIZE), switch(2, 32 * MB, 40 * MB), "at the fork");
        assert_eq!(
            decide(&second, known(1, 90 * MB), SIZE),
            switch(2, 32 * MB, 40 * MB),
            "ahead of the fork"
        );
        assert_eq!(
            decide(&third, known(1, 90 * MB), SIZE),
            switch(2, 32 * MB, 40 * MB),
            "no timeline is left out"
        );
        assert_eq!(decide(&third, known(2, 41 * MB), SIZE), switch(3, 32 * MB, 41 * MB));
        assert!(matches!(decide(&first, known(2, 41 * MB), SIZE), Decision::Refuse { .. }), "never back");
        assert!(matches!(
            decide(&history(3, &[(1, 40 * MB)]), known(2, 41 * MB), SIZE),
            Decision::Refuse { .. }
        ));
    }

    proptest! {
        #[test]
        fn never_to_an_older_timeline_and_never_past_what_is_durable(
            ours in 1u32..6, durable: u32, forks in prop::collection::btree_map(1u32..6, 1u64..1 << 32, 0..5)
        ) {
            let mut position = 0;
            let forks: Vec<(u32, u64)> = forks.into_iter().map(|(tli, step)| { position += step; (tli, position) }).collect();
            let history = history(forks.last().map_or(1, |(tli, _)| tli + 1), &forks);
            let durable = u64::from(durable) + 1;
            match decide(&history, known(ours, durable), SIZE) {
                Decision::Begin { .. } => prop_assert!(false, "there is WAL already"),
                Decision::Continue { timeline: chosen, start } => {
                    prop_assert_eq!(chosen, timeline(ours));
                    prop_assert!(start <= Lsn(durable) && durable - start.0 < SIZE.bytes());
                }
                Decision::Switch { timeline: chosen, start, fork } => {
                    prop_assert!(chosen > timeline(ours) && chosen <= history.timeline);
                    prop_assert!(start <= fork && fork <= Lsn(durable));
                    prop_assert_eq!(history.fork_from(timeline(ours)), Some(fork));
                }
                Decision::Refuse { .. } => {
                    prop_assert!(history.timeline < timeline(ours) || history.fork_from(timeline(ours)).is_none());
                }
            }
        }
    }
}
