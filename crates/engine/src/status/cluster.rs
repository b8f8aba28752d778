//! The nodes of a cluster, and where its timelines forked.

use chrono::{DateTime, Utc};
use pgformat::{Lsn, TimelineId};
use serde::Serialize;

use super::SlotStatus;
use crate::catalog::Catalog;
use crate::follow::{Choice, Look, Node, Observation, Origin, Role, Seen, SlotState, Verdict, choose};

/// A node of the cluster, as it answered.
#[derive(Debug, Serialize)]
pub struct NodeStatus {
    /// `host:port`.
    pub node: String,
    /// How it came to be known.
    pub origin: Origin,
    /// Whether it could be asked.
    pub reachable: bool,
    /// Whether it is the one to stream from.
    pub followed: bool,
    /// Why not.
    pub why_not: Option<String>,
    /// What it is.
    pub role: Option<Role>,
    /// The timeline it is on.
    pub timeline: Option<TimelineId>,
    /// How far its WAL is flushed; on a standby, received or replayed.
    pub flushed_lsn: Option<Lsn>,
    /// Bytes that it is behind the one that is followed.
    pub lag_bytes: Option<u64>,
    /// `host:port` from which it streams.
    pub upstream: Option<String>,
    /// repmgr's.
    pub priority: Option<i32>,
    /// Since when we stream from it, if we do.
    pub streaming_since: Option<DateTime<Utc>>,
    /// Our slot on it.
    pub slot: Option<SlotStatus>,
    /// How it stands with that.
    pub slot_state: Option<SlotState>,
}

/// A timeline was left for another one: a failover, a switchover, or a recovery.
#[derive(Debug, Clone, Serialize)]
pub struct Fork {
    /// The timeline that was left.
    pub from_timeline: TimelineId,
    /// The one that began.
    pub timeline: TimelineId,
    /// Where.
    pub lsn: Lsn,
    /// Why, in PostgreSQL's words.
    pub reason: String,
    /// Bytes of the old timeline's WAL that are archived beyond the fork. They are kept, and no plan for the newer timeline
    /// leads through them.
    pub tail_bytes: u64,
}

/// The nodes, and what is wrong with them.
pub(super) fn nodes(look: &Look, with_slot: Option<&str>) -> (Vec<NodeStatus>, Vec<String>) {
    let choice = choose(&look.view());
    let followed = followed(&choice).and_then(|name| look.seen.get(name)).and_then(Seen::observation);
    let head = followed.map(|node| node.flushed);
    let nodes: Vec<NodeStatus> =
        look.nodes.iter().map(|node| one(node, look, &choice, head, with_slot)).collect();
    let mut findings = choice.alarms.clone();
    if let Verdict::Wait { why } = &choice.verdict {
        findings.push(format!("there is no node to stream from: {why}"));
    }
    for node in &nodes {
        findings.extend(slot_finding(node, with_slot));
    }
    findings.dedup();
    (nodes, findings)
}

/// The node to stream from.
pub(super) fn followed(choice: &Choice) -> Option<&str> {
    match &choice.verdict {
        Verdict::Stream { node, .. } => Some(node),
        Verdict::Wait { .. } => None,
    }
}

fn one(node: &Node, look: &Look, choice: &Choice, head: Option<Lsn>, slot: Option<&str>) -> NodeStatus {
    let seen = look.seen.get(&node.name).and_then(Seen::observation);
    let role = |seen: &Observation| if seen.in_recovery { Role::Standby } else { Role::Primary };
    let upstream = seen.and_then(|seen| seen.upstream.as_ref());
    NodeStatus {
        node: node.name.clone(),
        origin: node.origin,
        reachable: seen.is_some(),
        followed: followed(choice) == Some(node.name.as_str()),
        why_not: choice.passed_over.get(&node.name).cloned(),
        role: seen.map(role),
        timeline: seen.map(|seen| seen.timeline),
        flushed_lsn: seen.map(|seen| seen.flushed),
        lag_bytes: seen.zip(head).map(|(seen, head)| head.since(seen.flushed)),
        upstream: upstream.map(|upstream| format!("{}:{}", upstream.host, upstream.port)),
        priority: node.priority,
        streaming_since: seen.and_then(|seen| seen.streams_to_us_since),
        slot: slot.and_then(|slot| slot_status(slot, seen?)),
        slot_state: slot.and_then(|_| Some(seen?.slot.as_ref()?.state())),
    }
}

fn slot_status(name: &str, seen: &Observation) -> Option<SlotStatus> {
    let slot = seen.slot.as_ref()?;
    Some(SlotStatus {
        name: name.to_owned(),
        exists: Some(slot.exists),
        restart_lsn: slot.restart_lsn,
        retained_bytes: slot.restart_lsn.map(|restart| seen.flushed.since(restart)),
    })
}

/// A slot that is missing on a node that may be promoted costs WAL then.
fn slot_finding(node: &NodeStatus, slot: Option<&str>) -> Option<String> {
    let (name, slot) = (&node.node, slot?);
    match node.slot_state? {
        SlotState::Kept => None,
        SlotState::Missing => {
            Some(format!("{name} has no slot \"{slot}\"; see that `backupd run` runs, which makes it"))
        }
        SlotState::NoRoom => {
            Some(format!("{name} has no room for slot \"{slot}\"; raise max_replication_slots there"))
        }
        SlotState::CutOff => Some(format!(
            "{name} removes WAL that slot \"{slot}\" is to keep; raise max_slot_wal_keep_size there, or see why the archive is behind"
        )),
    }
}

/// The forks on the way to the newest timeline, the oldest first.
pub fn forks(catalog: &Catalog) -> Vec<Fork> {
    let newest = catalog.newest_timeline();
    let Some(history) = catalog.histories.get(&newest) else { return Vec::new() };
    let path = history.path();
    let mut forks = Vec::new();
    for (from, to) in path.iter().zip(path.iter().skip(1)) {
        let Some(lsn) = from.1 else { continue };
        let end = catalog
            .coverage
            .timelines
            .get(&from.0)
            .and_then(|covered| covered.bounds())
            .map(|bounds| bounds.to);
        let entry = history.entries.iter().find(|entry| entry.timeline == from.0);
        forks.push(Fork {
            from_timeline: from.0,
            timeline: to.0,
            lsn,
            reason: entry.map(|entry| entry.reason.clone()).unwrap_or_default(),
            tail_bytes: end.map_or(0, |end| end.since(lsn)),
        });
    }
    forks
}
