//! A made-up cluster over time, seen late, stale and in contradiction, and an archive that does what is chosen.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use pgformat::{History, SegmentSize};
use proptest::prelude::*;

use super::choose::tests::{node, timeline};
use super::choose::{Current, STANDBY_AFTER, Verdict, View, choose};
use super::node::{Observation, Seen};
use super::position::{Decision, Known, decide};

const SIZE: SegmentSize = SegmentSize::DEFAULT;
const MB: u64 = 1 << 20;
/// How old an observation may be, in steps.
const STALE_MAX: usize = 4;

/// What happens in one step.
#[derive(Debug, Clone)]
enum Event {
    /// Whoever is a primary writes; a false one does so, too.
    Write(u64),
    /// A standby gets what the newest primary has, if its history leads there.
    Replicate(usize),
    /// A standby is promoted; the primary before it goes on, not knowing.
    Promote(usize),
    /// A node comes back as a standby of the newest primary.
    Rejoin(usize),
    Dies(usize),
    Lives(usize),
}

fn events() -> impl Strategy<Value = Vec<(Event, [usize; 4], [bool; 4])>> {
    let of = 0usize..4;
    let event = prop_oneof![
        6 => (1u64..20).prop_map(Event::Write),
        6 => of.clone().prop_map(Event::Replicate),
        2 => of.clone().prop_map(Event::Promote),
        2 => of.clone().prop_map(Event::Rejoin),
        1 => of.clone().prop_map(Event::Dies),
        2 => of.prop_map(Event::Lives),
    ];
    // How stale each node is seen, and whether it answers.
    let stale = prop::array::uniform4(0usize..=STALE_MAX);
    prop::collection::vec((event, stale, prop::array::uniform4(prop::bool::weighted(0.85))), 1..120)
}

struct World {
    nodes: Vec<Observation>,
    alive: [bool; 4],
    newest: usize,
    highest: u32,
}

impl World {
    fn new() -> World {
        let mut nodes: Vec<Observation> = (0..4)
            .map(|number| Observation { instance: number.to_string(), ..node(1, &[], 32 * MB) })
            .collect();
        nodes[0].in_recovery = false;
        World { nodes, alive: [true; 4], newest: 0, highest: 1 }
    }

    fn happens(&mut self, event: &Event) {
        match *event {
            Event::Write(mb) => {
                for (node, alive) in self.nodes.iter_mut().zip(self.alive) {
                    if alive && !node.in_recovery {
                        node.flushed = node.flushed.advance(mb * MB);
                    }
                }
            }
            Event::Replicate(at) => {
                let primary = self.nodes[self.newest].clone();
                let one = &mut self.nodes[at];
                let leads = one.timeline == primary.timeline
                    || primary.history.fork_from(one.timeline).is_some_and(|fork| one.flushed <= fork);
                if self.alive[at] && self.alive[self.newest] && one.in_recovery && leads {
                    (one.timeline, one.history) = (primary.timeline, primary.history);
                    one.flushed = one.flushed.max(primary.flushed);
                }
            }
            Event::Promote(at) => {
                if !self.alive[at] || !self.nodes[at].in_recovery {
                    return;
                }
                self.highest += 1;
                let one = &mut self.nodes[at];
                let mut text: String =
                    one.history.entries.iter().map(|e| format!("{}\t{}\tx\n", e.timeline, e.end)).collect();
                text.push_str(&format!("{}\t{}\tx\n", one.timeline, one.flushed));
                one.timeline = timeline(self.highest);
                one.history = Arc::new(History::parse(one.timeline, text.as_bytes()).unwrap());
                one.in_recovery = false;
                self.newest = at;
            }
            Event::Rejoin(at) if at != self.newest && self.alive[self.newest] => {
                let primary = self.nodes[self.newest].clone();
                self.nodes[at] = Observation { in_recovery: true, instance: at.to_string(), ..primary };
                self.alive[at] = true;
            }
            Event::Rejoin(_) => {}
            Event::Dies(at) => self.alive[at] = false,
            Event::Lives(at) => self.alive[at] = true,
        }
    }
}

/// What is archived of each timeline, and by which history it came there.
#[derive(Default)]
struct Archive {
    known: Option<Known>,
    history: Option<Arc<History>>,
}

impl Archive {
    /// Streams a little from a node, as it really is.
    fn stream(&mut self, from: &Observation) -> Result<(), TestCaseError> {
        let before = self.known;
        let reached = match decide(&from.history, self.known, SIZE) {
            Decision::Begin { timeline } => Known { timeline, durable: from.flushed },
            Decision::Continue { timeline, .. } => {
                let end = from.history.fork_from(timeline).unwrap_or(from.flushed).min(from.flushed);
                Known { timeline, durable: self.known.map_or(end, |known| known.durable.max(end)) }
            }
            Decision::Switch { timeline, fork, .. } => {
                let end = from.history.fork_from(timeline).unwrap_or(from.flushed).min(from.flushed);
                Known { timeline, durable: end.max(fork) }
            }
            Decision::Refuse { .. } => return Ok(()),
        };
        if let Some(before) = before {
            prop_assert!(reached.timeline >= before.timeline, "never back: {before:?} to {reached:?}");
            let leads =
                reached.timeline == before.timeline || from.history.fork_from(before.timeline).is_some();
            prop_assert!(leads, "{reached:?} does not descend from {before:?}");
        }
        self.known = Some(reached);
        let path: Vec<_> =
            from.history.path().into_iter().filter(|(one, _)| *one <= reached.timeline).collect();
        let text: String = path
            .iter()
            .filter(|(one, _)| *one < reached.timeline)
            .filter_map(|(one, end)| Some(format!("{one}\t{}\tx\n", (*end)?)))
            .collect();
        self.history = Some(Arc::new(History::parse(reached.timeline, text.as_bytes()).unwrap()));
        Ok(())
    }
}

fn name(number: usize) -> String {
    char::from(b'a' + u8::try_from(number).unwrap()).to_string()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn whatever_is_seen_the_archive_never_goes_back_and_ends_at_the_newest_primary(steps in events()) {
        let mut world = World::new();
        let mut archive = Archive::default();
        let mut past: VecDeque<(Vec<Observation>, [bool; 4])> = VecDeque::new();
        let mut current: Option<String> = None;
        let quiet: Vec<_> = (0..3).map(|_| (Event::Write(1), [0; 4], [true; 4])).collect();
        let settled = steps.len();
        for (index, (event, stale, answers)) in steps.iter().chain(&quiet).enumerate() {
            if index == settled {
                // In the end everybody lives, and follows whoever was promoted last.
                world.alive = [true; 4];
                (0..4).for_each(|at| world.happens(&Event::Rejoin(at)));
                past.clear();
            }
            world.happens(event);
            past.push_front((world.nodes.clone(), world.alive));
            past.truncate(STALE_MAX + 1);
            let seen: BTreeMap<String, Seen> = (0..4)
                .map(|at| {
                    let (nodes, alive) = &past[stale[at].min(past.len() - 1)];
                    let gone = Seen::Unreachable { problem: "gone".into(), transient: true };
                    (name(at), if answers[at] && alive[at] { Seen::Node(nodes[at].clone()) } else { gone })
                })
                .collect();
            let choice = choose(&View {
                nodes: &seen,
                identity: Some(7),
                known: archive.known,
                history: archive.history.as_deref(),
                segment_size: SIZE,
                current: current.as_deref().map(|node| Current { node, streaming: false }),
                lacking: &BTreeMap::new(),
                without_primary: if index % 3 == 0 { STANDBY_AFTER } else { Duration::ZERO },
            });
            if let Verdict::Stream { node, .. } = &choice.verdict {
                let at = usize::from(node.as_bytes()[0] - b'a');
                current = Some(node.clone());
                if world.alive[at] {
                    archive.stream(&world.nodes[at])?;
                }
            }
        }
        let newest = &world.nodes[world.newest];
        // What was taken from a false master's branch before anybody could know leads nowhere else; then, and only then, we wait.
        let known = archive.known.unwrap();
        let can = known.timeline == newest.timeline || newest.history.fork_from(known.timeline).is_some();
        prop_assert!(!can || (known.timeline, known.durable) == (newest.timeline, newest.flushed), "{known:?}, and the primary is at {:?} {}", newest.timeline, newest.flushed);
    }
}
