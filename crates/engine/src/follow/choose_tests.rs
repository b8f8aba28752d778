//! The choice, by table and by property.

use std::sync::Arc;

use pgformat::{History, Lsn, TimelineId};
use proptest::prelude::*;

use super::*;

const MB: u64 = 1 << 20;
const SIZE: SegmentSize = SegmentSize::DEFAULT;
const SYSTEM: u64 = 7;

pub(in crate::follow) fn timeline(number: u32) -> TimelineId {
    TimelineId::new(number).unwrap()
}

fn history(number: u32, forks: &[(u32, u64)]) -> History {
    let text: String = forks.iter().map(|(tli, lsn)| format!("{tli}\t{}\tx\n", Lsn(*lsn))).collect();
    History::parse(timeline(number), text.as_bytes()).unwrap()
}

/// A standby on this timeline.
pub(in crate::follow) fn node(number: u32, forks: &[(u32, u64)], flushed: u64) -> Observation {
    Observation {
        instance: String::new(),
        system_identifier: SYSTEM,
        in_recovery: true,
        timeline: timeline(number),
        history: Arc::new(history(number, forks)),
        flushed: Lsn(flushed),
        upstream: None,
        replicas: 0,
        replica_hosts: Vec::new(),
        slot: None,
        streams_to_us_since: None,
    }
}

fn standby(number: u32, forks: &[(u32, u64)], flushed: u64) -> Seen {
    Seen::Node(node(number, forks, flushed))
}

fn primary(number: u32, forks: &[(u32, u64)], flushed: u64, replicas: u32) -> Seen {
    Seen::Node(Observation { in_recovery: false, replicas, ..node(number, forks, flushed) })
}

fn gone() -> Seen {
    Seen::Unreachable { problem: "connection refused".into(), transient: true }
}

/// Names the nodes a, b, c, … and makes them different servers.
fn nodes(seen: Vec<Seen>) -> BTreeMap<String, Seen> {
    let named = ('a'..).map(|name| name.to_string()).zip(seen);
    named
        .map(|(name, seen)| {
            let seen = match seen {
                Seen::Node(node) if node.instance.is_empty() => {
                    Seen::Node(Observation { instance: name.clone(), ..node })
                }
                seen => seen,
            };
            (name, seen)
        })
        .collect()
}

struct Case {
    nodes: BTreeMap<String, Seen>,
    known: Option<Known>,
    history: Option<History>,
    current: Option<(&'static str, bool)>,
    lacking: BTreeMap<String, Known>,
    without_primary: Duration,
    identity: Option<u64>,
}

fn case(seen: Vec<Seen>, known: (u32, u64)) -> Case {
    Case {
        nodes: nodes(seen),
        known: Some(at(known.0, known.1)),
        history: None,
        current: None,
        lacking: BTreeMap::new(),
        without_primary: Duration::ZERO,
        identity: Some(SYSTEM),
    }
}

fn at(number: u32, durable: u64) -> Known {
    Known { timeline: timeline(number), durable: Lsn(durable) }
}

impl Case {
    fn choose(&self) -> Choice {
        choose(&View {
            nodes: &self.nodes,
            identity: self.identity,
            known: self.known,
            history: self.history.as_ref(),
            segment_size: SIZE,
            current: self.current.map(|(node, streaming)| Current { node, streaming }),
            lacking: &self.lacking,
            without_primary: self.without_primary,
        })
    }

    #[track_caller]
    fn streams(&self, node: &str) -> Choice {
        let choice = self.choose();
        match &choice.verdict {
            Verdict::Stream { node: chosen, .. } if chosen == node => choice,
            other => panic!("{other:?}, and not {node}: {choice:#?}"),
        }
    }

    #[track_caller]
    fn waits(&self) -> Choice {
        let choice = self.choose();
        assert!(matches!(choice.verdict, Verdict::Wait { .. }), "{choice:#?}");
        choice
    }
}

#[test]
fn the_one_primary_is_followed() {
    let quiet =
        case(vec![standby(1, &[], 90 * MB), primary(1, &[], 100 * MB, 1), gone()], (1, 80 * MB)).streams("b");
    assert!(quiet.alarms.is_empty());
    assert!(quiet.passed_over["c"].contains("connection refused"));
    // Two nodes, one of them down.
    case(vec![primary(1, &[], 100 * MB, 0), gone()], (1, 80 * MB)).streams("a");
    let empty = Case { known: None, identity: None, ..case(vec![gone(), primary(1, &[], MB, 0)], (1, 0)) };
    empty.streams("b");
}

#[test]
fn another_cluster_is_never_followed() {
    let stranger =
        |in_recovery| Seen::Node(Observation { system_identifier: 8, in_recovery, ..node(1, &[], 900 * MB) });
    let both = case(vec![stranger(false), primary(1, &[], 100 * MB, 0)], (1, 80 * MB)).streams("b");
    assert!(both.alarms[0].contains("another cluster"), "{both:?}");
    let alone = Case { without_primary: STANDBY_AFTER, ..case(vec![stranger(true)], (1, 80 * MB)) };
    alone.waits();
    let nothing_known =
        Case { identity: None, known: None, ..case(vec![stranger(false), primary(1, &[], MB, 0)], (1, 0)) };
    assert!(nothing_known.waits().alarms[0].contains("different clusters"));
}

#[test]
fn a_former_primary_is_not_followed() {
    let forks = &[(1, 90 * MB)];
    // It still commits, and has more than the new one.
    let former = primary(1, &[], 500 * MB, 0);
    let choice = case(vec![former.clone(), primary(2, forks, 95 * MB, 1)], (1, 80 * MB)).streams("b");
    assert!(choice.alarms[0].contains("which left that at"), "{choice:?}");
    // The new primary is away, but a standby of it tells.
    case(vec![former.clone(), gone(), standby(2, forks, 94 * MB)], (1, 80 * MB)).waits();
    // Nobody tells but the repository.
    let back = case(vec![former.clone(), gone()], (2, 92 * MB)).waits();
    assert!(back.alarms[0].contains("timeline 2"), "{back:?}");
    // While we stream from it, too.
    let streaming = Case {
        current: Some(("a", true)),
        ..case(vec![former, primary(2, forks, 91 * MB, 0)], (1, 400 * MB))
    };
    streaming.streams("b");
}

#[test]
fn of_several_primaries_the_one_that_is_replicated_from() {
    let two = |a, b| vec![primary(1, &[], 100 * MB, a), primary(1, &[], 200 * MB, b)];
    assert!(case(two(2, 1), (1, 80 * MB)).streams("a").alarms[0].contains("all act as primaries"));
    case(two(0, 1), (1, 80 * MB)).streams("b");
    case(two(1, 1), (1, 80 * MB)).waits();
    Case { current: Some(("a", true)), ..case(two(1, 1), (1, 80 * MB)) }.streams("a");
    // Two promotions at once: both are on timeline 2, from different forks.
    let split = vec![primary(2, &[(1, 90 * MB)], 95 * MB, 0), primary(2, &[(1, 91 * MB)], 99 * MB, 1)];
    case(split, (1, 80 * MB)).streams("b");
}

#[test]
fn a_standby_will_do_after_a_while() {
    let left_alone = vec![gone(), standby(1, &[], 90 * MB), standby(1, &[], 95 * MB)];
    case(left_alone.clone(), (1, 80 * MB)).waits();
    let later = Case { without_primary: STANDBY_AFTER, ..case(left_alone.clone(), (1, 80 * MB)) };
    later.streams("c");
    let stays = Case { current: Some(("b", true)), ..case(left_alone.clone(), (1, 80 * MB)) };
    stays.streams("b");
    let behind = Case { without_primary: STANDBY_AFTER, ..case(left_alone, (1, 99 * MB)) };
    behind.waits();
    // What still streams has not gone because it cannot be asked.
    let deaf = vec![gone(), standby(1, &[], 90 * MB)];
    Case { current: Some(("a", true)), without_primary: STANDBY_AFTER, ..case(deaf, (1, 80 * MB)) }
        .streams("a");
}

#[test]
fn whoever_has_the_wal_is_asked_before_it_is_given_up() {
    let seen = vec![primary(1, &[], 100 * MB, 1), standby(1, &[], 95 * MB), standby(1, &[], 80 * MB)];
    let lacking =
        |names: &[&str], durable| names.iter().map(|name| ((*name).to_owned(), at(1, durable))).collect();
    let with = |lacking| Case { lacking, ..case(seen.clone(), (1, 80 * MB)) };
    with(lacking(&["a"], 80 * MB)).streams("b");
    // Whoever is asked has time to answer, though another one is ahead by now.
    let asked = vec![primary(1, &[], 100 * MB, 1), standby(1, &[], 95 * MB), standby(1, &[], 90 * MB)];
    let lacks = lacking(&["a"], 80 * MB);
    Case { lacking: lacks, current: Some(("c", false)), ..case(asked, (1, 80 * MB)) }.streams("c");
    // That was then.
    with(lacking(&["a"], 70 * MB)).streams("a");
    let given_up = with(lacking(&["a", "b"], 80 * MB)).streams("a");
    assert!(matches!(given_up.verdict, Verdict::Stream { leaves_hole: true, .. }), "{given_up:?}");
}

#[test]
fn a_timeline_of_the_same_number_may_be_another_one() {
    let split = vec![primary(2, &[(1, 91 * MB)], 200 * MB, 3), standby(2, &[(1, 90 * MB)], 95 * MB)];
    let history = Some(history(2, &[(1, 90 * MB)]));
    let ours = Case { history: history.clone(), ..case(split, (2, 94 * MB)) }.waits();
    assert!(ours.alarms[0].contains("forked elsewhere"), "{ours:?}");
    let descended = vec![primary(3, &[(1, 91 * MB), (2, 300 * MB)], 400 * MB, 3)];
    Case { history: history.clone(), ..case(descended, (2, 94 * MB)) }.waits();
    let right = vec![primary(3, &[(1, 90 * MB), (2, 100 * MB)], 400 * MB, 3)];
    Case { history, ..case(right, (2, 94 * MB)) }.streams("a");
}

#[test]
fn one_server_by_two_names_is_one() {
    let same =
        |in_recovery| Seen::Node(Observation { instance: "i".into(), in_recovery, ..node(1, &[], MB) });
    let choice = case(vec![same(false), same(false)], (1, 0)).streams("a");
    assert!(choice.alarms.is_empty() && choice.passed_over["b"].contains("same server as a"), "{choice:?}");
    let by_b =
        Case { current: Some(("b", true)), ..case(vec![same(false), same(false)], (1, 0)) }.streams("b");
    assert!(by_b.alarms.is_empty() && by_b.passed_over["a"].contains("same server as b"), "{by_b:?}");
}

fn any_node() -> impl Strategy<Value = Seen> {
    let forks = prop::collection::btree_map(1u32..5, 1u64..200, 0..4);
    let observed = (forks, any::<bool>(), 0u64..400, 0u32..4, 0u64..8).prop_map(
        |(forks, in_recovery, flushed, replicas, other)| {
            let mut position = 0;
            let forks: Vec<(u32, u64)> = forks
                .into_iter()
                .map(|(tli, step)| {
                    position += step * MB;
                    (tli, position)
                })
                .collect();
            let number = forks.last().map_or(1, |(tli, _)| tli + 1);
            let system_identifier = if other == 0 { 8 } else { SYSTEM };
            Seen::Node(Observation {
                in_recovery,
                replicas,
                system_identifier,
                ..node(number, &forks, flushed * MB)
            })
        },
    );
    prop_oneof![4 => observed, 1 => Just(gone()), 1 => Just(Seen::NotYet)]
}

proptest! {
    #[test]
    fn whatever_they_say(
        seen in prop::collection::vec(any_node(), 0..6),
        known in prop::option::of((1u32..6, 0u64..400)),
        current in prop::option::of((prop::sample::select(vec!["a", "b", "c"]), any::<bool>())),
        patient: bool,
        lacking in prop::collection::vec(prop::sample::select(vec!["a", "b", "c"]), 0..3),
    ) {
        let known = known.map(|(number, durable)| at(number, durable * MB));
        let lacking = lacking.into_iter().filter_map(|name| Some((name.to_owned(), known?))).collect();
        let without_primary = if patient { STANDBY_AFTER } else { Duration::ZERO };
        let case = Case { nodes: nodes(seen), known, history: None, current, lacking, without_primary, identity: Some(SYSTEM) };
        let choice = case.choose();
        prop_assert_eq!(&choice, &case.choose(), "the same again");
        let Verdict::Stream { node, role, leaves_hole } = &choice.verdict else { return Ok(()) };
        let Some(chosen) = case.nodes.get(node).and_then(Seen::observation) else {
            prop_assert!(current.is_some_and(|(name, streaming)| name == node && streaming), "only what streams anyway");
            return Ok(());
        };
        prop_assert_eq!(chosen.system_identifier, SYSTEM, "never another cluster");
        prop_assert_eq!(*role == Role::Standby, chosen.in_recovery);
        if let Some(known) = known {
            prop_assert!(chosen.timeline >= known.timeline, "never back");
            prop_assert!(chosen.timeline == known.timeline || chosen.history.fork_from(known.timeline).is_some());
        }
        let ours = case.nodes.values().filter_map(Seen::observation).filter(|one| one.system_identifier == SYSTEM);
        if !chosen.in_recovery {
            for other in ours {
                prop_assert!(other.history.fork_from(chosen.timeline).is_none(), "never a former primary");
            }
        }
        if *leaves_hole {
            prop_assert!(!chosen.in_recovery, "only the primary decides that WAL is gone");
        }
    }
}
