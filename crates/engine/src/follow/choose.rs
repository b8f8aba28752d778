//! Whom to stream from: a pure choice from what the nodes say and what the repository has, with its reasons.
//!
//! The rules, in this order. Never another cluster. Never a node whose history does not continue ours, so never back to an
//! older timeline. Never a former primary: one whose timeline another node has left. Of the primaries that remain, there is
//! normally one; of several, the one that more nodes replicate from. Where no primary has been there for a while, a standby
//! will do, as its WAL is the same. A node that no longer has the WAL we need is passed over while another has it.

use std::collections::BTreeMap;
use std::time::Duration;

use pgformat::{History, SegmentSize};
use serde::Serialize;

use super::node::{Observation, Seen};
use super::position::{self, Decision, Known};

/// How long there may be no primary before we stream from a standby. A failover usually takes longer, but what a standby has
/// then is worth having, and from there the way to the new primary is short.
pub const STANDBY_AFTER: Duration = Duration::from_secs(3);

/// What a node is to us.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// It writes.
    Primary,
    /// It replays.
    Standby,
}

/// From whom WAL comes now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Current<'a> {
    /// The node.
    pub node: &'a str,
    /// WAL does come; a node that cannot be asked has then not gone.
    pub streaming: bool,
}

/// All that a choice is made from.
#[derive(Debug, Clone)]
pub struct View<'a> {
    /// What the nodes said.
    pub nodes: &'a BTreeMap<String, Seen>,
    /// The system identifier that the repository holds; `None` while it holds nothing.
    pub identity: Option<u64>,
    /// What the repository has.
    pub known: Option<Known>,
    /// The history of that timeline, as the repository has it.
    pub history: Option<&'a History>,
    /// Of the cluster.
    pub segment_size: SegmentSize,
    /// From whom WAL comes now.
    pub current: Option<Current<'a>>,
    /// Nodes that did not have the WAL behind this position when they were asked for it.
    pub lacking: &'a BTreeMap<String, Known>,
    /// How long there has been no primary to follow.
    pub without_primary: Duration,
}

/// What to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Stream from this node.
    Stream {
        /// The node.
        node: String,
        /// What it is.
        role: Role,
        /// Nobody has the WAL that comes next. What is missing becomes a hole, and archiving goes on behind it.
        leaves_hole: bool,
    },
    /// Stream from nobody yet.
    Wait {
        /// Why, in a sentence.
        why: String,
    },
}

/// A choice and how it came about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Choice {
    /// What to do.
    pub verdict: Verdict,
    /// Why the other nodes are not streamed from.
    pub passed_over: BTreeMap<String, String>,
    /// What somebody should look at, in sentences.
    pub alarms: Vec<String>,
}

/// A node that could be streamed from.
#[derive(Clone, Copy)]
struct Candidate<'a> {
    name: &'a str,
    node: &'a Observation,
}

/// Chooses.
pub fn choose(view: &View) -> Choice {
    let mut passed_over = BTreeMap::new();
    let mut alarms = Vec::new();
    let Some(identity) = identity(view, &mut alarms) else {
        let why = "no node has said yet to which cluster it belongs".to_owned();
        let why = alarms.first().cloned().unwrap_or(why);
        return Choice { verdict: Verdict::Wait { why }, passed_over: reasons_unreachable(view), alarms };
    };
    let mut candidates: Vec<Candidate> = Vec::new();
    for (name, seen) in view.nodes {
        match suitable(view, identity, seen) {
            Ok(node) => add(view, &mut candidates, Candidate { name, node }, &mut passed_over),
            Err(Unsuitable { reason, alarm }) => {
                if alarm {
                    alarms.push(format!("{name} {reason}"));
                }
                passed_over.insert(name.clone(), reason);
            }
        }
    }
    let (standbys, mut primaries): (Vec<Candidate>, Vec<Candidate>) =
        candidates.iter().copied().partition(|one| one.node.in_recovery);
    primaries.retain(|primary| match left_by(view, identity, primary) {
        None => true,
        Some(reason) => {
            alarms.push(format!("{} {reason}", primary.name));
            passed_over.insert(primary.name.to_owned(), reason);
            false
        }
    });
    let verdict = match one_of(view, &primaries, &mut alarms) {
        Ok(Some(primary)) => with_wal(view, primary, &candidates),
        Ok(None) => without_primary(view, &standbys),
        Err(why) => Verdict::Wait { why },
    };
    if let Verdict::Stream { node, .. } = &verdict {
        let others = candidates.iter().filter(|one| one.name != node);
        passed_over.extend(others.map(|one| (one.name.to_owned(), role_of(one.node).to_owned())));
    }
    Choice { verdict, passed_over, alarms }
}

fn role_of(node: &Observation) -> &'static str {
    if node.in_recovery { "is a standby" } else { "is another primary" }
}

/// The cluster that is followed: the repository's, or else the one that all nodes belong to.
fn identity(view: &View, alarms: &mut Vec<String>) -> Option<u64> {
    if view.identity.is_some() {
        return view.identity;
    }
    let mut found =
        view.nodes.iter().filter_map(|(name, seen)| Some((name, seen.observation()?.system_identifier)));
    let (first_name, first) = found.next()?;
    match found.find(|(_, other)| *other != first) {
        None => Some(first),
        Some((other, _)) => {
            alarms.push(format!(
                "{first_name} and {other} belong to different clusters, and the repository holds none yet that would tell which is meant"
            ));
            None
        }
    }
}

fn reasons_unreachable(view: &View) -> BTreeMap<String, String> {
    let reason = |seen: &Seen| match seen {
        Seen::NotYet => "has not answered yet".to_owned(),
        Seen::Unreachable { problem, .. } => format!("cannot be asked: {problem}"),
        Seen::Node(_) => "belongs to a cluster that is not known to be ours".to_owned(),
    };
    view.nodes.iter().map(|(name, seen)| (name.clone(), reason(seen))).collect()
}

struct Unsuitable {
    reason: String,
    alarm: bool,
}

/// One server may be known by two names. That by which we stream from it counts, or else the first.
fn add<'a>(
    view: &View,
    candidates: &mut Vec<Candidate<'a>>,
    one: Candidate<'a>,
    passed_over: &mut BTreeMap<String, String>,
) {
    let Some(same) = candidates.iter_mut().find(|other| other.node.instance == one.node.instance) else {
        candidates.push(one);
        return;
    };
    let is_current = view.current.is_some_and(|current| current.node == one.name);
    let (stays, goes) = if is_current { (one, *same) } else { (*same, one) };
    passed_over.insert(goes.name.to_owned(), format!("is the same server as {}", stays.name));
    *same = stays;
}

fn suitable<'a>(view: &View, identity: u64, seen: &'a Seen) -> Result<&'a Observation, Unsuitable> {
    let quiet = |reason: String| Err(Unsuitable { reason, alarm: false });
    let node = match seen {
        Seen::NotYet => return quiet("has not answered yet".to_owned()),
        Seen::Unreachable { problem, .. } => return quiet(format!("cannot be asked: {problem}")),
        Seen::Node(node) => node,
    };
    if node.system_identifier != identity {
        let reason = format!(
            "belongs to another cluster: its system identifier is {}, and ours {identity}",
            node.system_identifier
        );
        return Err(Unsuitable { reason, alarm: true });
    }
    if let Some(ours) = view.history.filter(|ours| !came_the_same_way(&node.history, ours)) {
        let reason = format!("is on a timeline {} that is not ours: it forked elsewhere", ours.timeline);
        return Err(Unsuitable { reason, alarm: !node.in_recovery });
    }
    match position::decide(&node.history, view.known, view.segment_size) {
        Decision::Refuse { reason } if node.in_recovery => quiet(reason),
        Decision::Refuse { reason } => Err(Unsuitable {
            reason: format!("acts as a primary and is not followed: {reason}"),
            alarm: true,
        }),
        Decision::Begin { .. } | Decision::Continue { .. } | Decision::Switch { .. } => Ok(node),
    }
}

/// Two nodes that are promoted at once both begin a timeline of the same number. Whether a node's is ours shows in where it
/// forked. One that has not come as far as ours is judged by its number.
fn came_the_same_way(theirs: &History, ours: &History) -> bool {
    let path = theirs.path();
    let forks = ours.path().into_iter().filter_map(|(timeline, end)| Some((timeline, end?)));
    let reaches_ours = path.iter().any(|(timeline, _)| *timeline == ours.timeline);
    !reaches_ours || forks.into_iter().all(|(timeline, end)| path.contains(&(timeline, Some(end))))
}

/// Why a primary is a former one, if it is: another node is on a timeline that has left the primary's.
fn left_by(view: &View, identity: u64, primary: &Candidate) -> Option<String> {
    let others = view.nodes.iter().filter_map(|(name, seen)| Some((name, seen.observation()?)));
    let ours = others.filter(|(_, node)| node.system_identifier == identity);
    let mut left = ours.filter_map(|(name, node)| {
        let fork = node.history.fork_from(primary.node.timeline)?;
        Some(format!(
            "acts as a primary on timeline {} and is not followed: {name} is on timeline {}, which left that at {fork}",
            primary.node.timeline, node.timeline
        ))
    });
    left.next()
}

/// The primary to follow; `None` when there is none, and a reason to wait when there are several and nothing tells them apart.
fn one_of<'a>(
    view: &View,
    primaries: &[Candidate<'a>],
    alarms: &mut Vec<String>,
) -> Result<Option<Candidate<'a>>, String> {
    let (first, others) = match primaries {
        [] => return Ok(None),
        [only] => return Ok(Some(*only)),
        [first, others @ ..] => (*first, others),
    };
    let names = primaries.iter().map(|one| one.name).collect::<Vec<_>>().join(" and ");
    let most = others
        .iter()
        .fold(first, |most, one| if one.node.replicas > most.node.replicas { *one } else { most });
    let is_tie = primaries.iter().filter(|one| one.node.replicas == most.node.replicas).count() > 1;
    let current = view.current.and_then(|current| primaries.iter().find(|one| one.name == current.node));
    let chosen = match current {
        _ if !is_tie => most,
        Some(current) if current.node.replicas == most.node.replicas => *current,
        _ => {
            let why = format!("{names} all act as primaries, and as many nodes replicate from each");
            alarms.push(why.clone());
            return Err(why);
        }
    };
    alarms.push(format!(
        "{names} all act as primaries; {} is followed, as most nodes replicate from it",
        chosen.name
    ));
    Ok(Some(chosen))
}

fn stream(one: &Candidate, leaves_hole: bool) -> Verdict {
    let role = if one.node.in_recovery { Role::Standby } else { Role::Primary };
    Verdict::Stream { node: one.name.to_owned(), role, leaves_hole }
}

/// Whether it was found not to have the WAL that comes next.
fn lacks(view: &View, one: &Candidate) -> bool {
    view.known.is_some() && view.lacking.get(one.name).copied() == view.known
}

/// The primary, or a standby that still has WAL which the primary has removed. Never a former primary: it would go on beyond the
/// fork, and be told that what it commits there is safe. What it has up to there is read from its pg_wal.
fn with_wal(view: &View, primary: Candidate, candidates: &[Candidate]) -> Verdict {
    if !lacks(view, &primary) {
        return stream(&primary, false);
    }
    let has_more =
        |one: &&Candidate| !lacks(view, one) && view.known.is_some_and(|known| has_behind(one.node, known));
    let standbys = candidates.iter().filter(|one| one.node.in_recovery);
    // Under load another one is ahead at every look, and whoever is asked must have the time to answer.
    let is_current = |one: &Candidate| view.current.is_some_and(|current| current.node == one.name);
    match standbys.filter(has_more).max_by_key(|one| (is_current(one), one.node.flushed)) {
        Some(other) => stream(other, false),
        None => stream(&primary, true),
    }
}

/// Whether the node's history has WAL behind this position.
fn has_behind(node: &Observation, known: Known) -> bool {
    if node.timeline == known.timeline {
        return node.flushed > known.durable;
    }
    node.history.fork_from(known.timeline).is_some()
}

/// There is no primary to follow.
fn without_primary(view: &View, standbys: &[Candidate]) -> Verdict {
    if let Some(current) = view.current
        && current.streaming
        && let Some(Seen::Unreachable { .. } | Seen::NotYet) = view.nodes.get(current.node)
    {
        return Verdict::Stream { node: current.node.to_owned(), role: Role::Primary, leaves_hole: false };
    }
    let usable = |one: &&Candidate| {
        let reaches =
            view.known.is_none_or(|known| has_behind(one.node, known) || one.node.flushed >= known.durable);
        reaches && !lacks(view, one)
    };
    let is_current = |one: &Candidate| view.current.is_some_and(|current| current.node == one.name);
    let best = standbys
        .iter()
        .filter(usable)
        .max_by_key(|one| (is_current(one), one.node.timeline, one.node.flushed));
    match best {
        Some(one) if is_current(one) || view.without_primary >= STANDBY_AFTER => stream(one, false),
        Some(_) => Verdict::Wait { why: "no primary can be reached at the moment".to_owned() },
        None => Verdict::Wait { why: "no node can be reached that has what comes next".to_owned() },
    }
}

#[cfg(test)]
#[path = "choose_tests.rs"]
pub(super) mod tests;
