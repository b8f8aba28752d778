//! The task at each node: it asks the node again and again, and keeps our slot there.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::timeout;

use super::list::{Node, Origin};
use super::node::{ANSWERS_WITHIN, Prober, Seen};
use super::run::Shared;
use super::slot;

/// Time between two looks at a node.
pub(super) const LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// Time between two looks while there is nobody to stream from: a new primary should not wait for us.
pub(super) const LOOK_INTERVAL_IN_NEED: Duration = Duration::from_millis(200);

/// Asks a node again and again, and keeps our slot on it.
pub(super) async fn watch_node(
    node: Node,
    slot: Option<String>,
    seen: Arc<watch::Sender<BTreeMap<String, Seen>>>,
    shared: Arc<watch::Sender<Shared>>,
) {
    let mut watched = shared.subscribe();
    let mut prober = Prober::new(node.clone(), slot.clone());
    let mut told = String::new();
    loop {
        let answer = prober.look().await;
        let quiet = node.origin == Origin::Replica && answer.observation().is_none();
        seen.send_if_modified(|all| {
            // Whatever replicates from a node need not be a server we can ask.
            let changed = !quiet && all.get(&node.name) != Some(&answer);
            match quiet {
                true => drop(all.remove(&node.name)),
                false => drop(all.insert(node.name.clone(), answer.clone())),
            }
            changed
        });
        if let (Some(slot), Seen::Node(_)) = (&slot, &answer) {
            let now = watched.borrow().clone();
            let problem = keep_slot(&node, &prober, slot, &answer, &now).await;
            if let Some(problem) = problem.filter(|problem| *problem != told) {
                tracing::warn!(node = node.name, "{problem}");
                told = problem;
            }
        }
        let in_need = watched.borrow_and_update().in_need;
        let pause = if in_need { LOOK_INTERVAL_IN_NEED } else { LOOK_INTERVAL };
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            _ = watched.wait_for(|shared| shared.in_need && !in_need) => {}
        }
    }
}

/// Keeps our slot on a node that we do not stream from. Gives what is wrong with it.
async fn keep_slot(
    node: &Node,
    prober: &Prober,
    slot: &str,
    answer: &Seen,
    shared: &Shared,
) -> Option<String> {
    let (client, observed) = (prober.client()?, answer.observation()?);
    // Before anything is archived, nobody knows whether the node is one of ours.
    if shared.target.as_ref() == Some(&node.name) || shared.identity != Some(observed.system_identifier) {
        return None;
    }
    let step = slot::step(observed, shared.known, shared.segment_size?);
    match step {
        slot::Step::NoRoom => {
            return Some(format!(
                "there is no room for our slot \"{slot}\": raise max_replication_slots, or WAL may be lost when this node is promoted"
            ));
        }
        slot::Step::Recreate => {
            tracing::warn!(node = node.name, slot, "the server has cut the slot off; it is made anew")
        }
        slot::Step::Create => tracing::info!(node = node.name, slot, "making our slot on this node, too"),
        slot::Step::Nothing | slot::Step::Advance(_) => {}
    }
    match timeout(ANSWERS_WITHIN, slot::take(client, slot, step)).await {
        Ok(Ok(())) => None,
        Ok(Err(error)) if error.is_transient() => None,
        Ok(Err(error)) => Some(format!("our slot \"{slot}\" cannot be kept: {error}")),
        Err(_elapsed) => None,
    }
}
