//! Nodes that have left the cluster lose our slot, or it would keep WAL there for ever.
//!
//! Where there are slots of ours is remembered in the repository, so that it makes no difference whether the service ran when
//! a node left. Slots go only while there is a primary to stream from, and only from nodes that have been away for a
//! while: in the middle of a failover nobody can tell who belongs to a cluster.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use replication::{Host, sql};
use repository::Cluster;
use repository::slots::{SlotAt, SlotsSeen};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};

use super::list::{Node, Origin};
use super::node::{ANSWERS_WITHIN, Prober, Seen};
use super::slot;

/// How long a node has to be away from the cluster before it has left it.
const LEAVES_AFTER: Duration = Duration::from_secs(25);
/// Time between two tries to reach a node that has left.
const TRY_INTERVAL: Duration = Duration::from_secs(600);

/// The cluster as it is now.
#[derive(Debug, Clone)]
pub(super) struct Ours {
    /// PostgreSQL's identifier of it.
    pub identity: u64,
    /// The nodes there are.
    pub nodes: Vec<Node>,
    /// The servers that answer at them, whatever they are called.
    pub instances: BTreeSet<String>,
    /// The slot that is used; `None` when none is.
    pub slot: Option<String>,
    /// A node that is reached as every other one is.
    pub like: Option<Node>,
}

impl Ours {
    /// Where slots of ours are meant to be.
    fn slots(&self) -> BTreeSet<SlotAt> {
        let Some(slot) = &self.slot else { return BTreeSet::new() };
        self.nodes.iter().filter_map(|node| slot_at(node, slot)).collect()
    }
}

fn slot_at(node: &Node, slot: &str) -> Option<SlotAt> {
    let host = match &node.connect.host {
        Host::Tcp(host) => host.clone(),
        Host::Unix(directory) => directory.to_str()?.to_owned(),
        Host::Dialed(_) => return None,
    };
    Some(SlotAt { host, port: node.connect.port, slot: slot.to_owned() })
}

/// Slots of ours on nodes that are not in the cluster.
#[derive(Debug, Default)]
pub(super) struct Leaving {
    /// What the repository remembers.
    remembered: Option<SlotsSeen>,
    /// Since when they have not been, and when they were last asked to let go.
    absent: BTreeMap<SlotAt, (Instant, Option<Instant>)>,
    asking: JoinSet<(SlotAt, bool)>,
}

impl Leaving {
    /// Whether it is known where slots are.
    pub fn remembers(&self) -> bool {
        self.remembered.is_some()
    }

    /// Remembers the slots of the cluster as it is now, and has those of nodes that have left removed.
    pub async fn update(&mut self, cluster: &Cluster, ours: Ours, has_primary: bool) {
        let remembered = match self.remembered.take() {
            Some(remembered) => remembered,
            None => match cluster.slots().await {
                Ok(remembered) => remembered,
                Err(error) => return tracing::debug!("the repository cannot be asked for slots: {error}"),
            },
        };
        let present = ours.slots();
        let gone = self.gone();
        let absent: BTreeSet<SlotAt> =
            remembered.slots.difference(&present).filter(|at| !gone.contains(at)).cloned().collect();
        self.absent.retain(|at, _| has_primary && absent.contains(at));
        if has_primary {
            absent.iter().for_each(|at| self.ask(at, &ours));
        }
        let wanted: BTreeSet<SlotAt> = present.union(&absent).cloned().collect();
        self.remembered = self.remember(cluster, remembered, wanted).await;
    }

    /// Those that no longer are where they were.
    fn gone(&mut self) -> BTreeSet<SlotAt> {
        let mut gone = BTreeSet::new();
        while let Some(done) = self.asking.try_join_next() {
            gone.extend(done.ok().filter(|(_, is_gone)| *is_gone).map(|(at, _)| at));
        }
        gone
    }

    fn ask(&mut self, at: &SlotAt, ours: &Ours) {
        let Some(like) = &ours.like else { return };
        let (since, asked) = self.absent.entry(at.clone()).or_insert((Instant::now(), None));
        let is_due = since.elapsed() >= LEAVES_AFTER && asked.is_none_or(|at| at.elapsed() >= TRY_INTERVAL);
        if is_due {
            *asked = Some(Instant::now());
            let (node, ours) = (like.elsewhere(&at.host, at.port, Origin::Configured), ours.clone());
            let at = at.clone();
            self.asking.spawn(async move {
                let is_gone = leave(&node, &at.slot, &ours).await;
                (at, is_gone)
            });
        }
    }

    /// What is remembered from now on; `None` to read it again.
    async fn remember(
        &self,
        cluster: &Cluster,
        remembered: SlotsSeen,
        wanted: BTreeSet<SlotAt>,
    ) -> Option<SlotsSeen> {
        if wanted == remembered.slots {
            return Some(remembered);
        }
        match cluster.replace_slots(&remembered, wanted).await {
            Ok(remembered) => remembered,
            Err(error) => {
                tracing::debug!("where slots are cannot be remembered: {error}");
                None
            }
        }
    }
}

/// Takes our slot off a node that has left the cluster; whether nothing of ours is left there.
async fn leave(node: &Node, slot: &str, ours: &Ours) -> bool {
    match Prober::new(node.clone(), Some(slot.to_owned())).look().await {
        Seen::Node(found) if found.system_identifier != ours.identity => true,
        Seen::Node(found) if found.slot.as_ref().is_none_or(|slot| !slot.exists) => true,
        Seen::Node(found)
            if ours.instances.contains(&found.instance) && ours.slot.as_deref() == Some(slot) =>
        {
            tracing::info!(
                node = node.name,
                "the node is still there under another name, and keeps our slot"
            );
            true
        }
        Seen::Node(_) => remove(node, slot).await,
        Seen::NotYet | Seen::Unreachable { .. } => {
            tracing::warn!(
                node = node.name,
                slot,
                "the node has left the cluster and cannot be asked; should it come back, our slot is removed from it"
            );
            false
        }
    }
}

async fn remove(node: &Node, slot: &str) -> bool {
    let dropped = async { slot::drop_slot(&sql::connect(&node.sql).await?, slot).await };
    let problem = match timeout(ANSWERS_WITHIN, dropped).await {
        Ok(Ok(true)) => {
            tracing::info!(
                node = node.name,
                slot,
                "the node has left the cluster, and our slot is removed from it"
            );
            return true;
        }
        Ok(Ok(false)) => "somebody streams through it".to_owned(),
        Ok(Err(error)) => error.to_string(),
        Err(_elapsed) => "the node does not answer".to_owned(),
    };
    tracing::warn!(
        node = node.name,
        slot,
        "the node has left the cluster, and our slot could not be removed, which is tried again: {problem}"
    );
    false
}
