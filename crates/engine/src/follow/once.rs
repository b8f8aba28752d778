//! One look at all nodes, for whoever asks once and does not follow.

use std::collections::BTreeMap;
use std::time::Duration;

use pgformat::{History, TimelineId};
use replication::sql;
use repository::Cluster;
use tokio::time::timeout;

use super::choose::{STANDBY_AFTER, View};
use super::list::{self, Node};
use super::node::{Seen, look_at_all};
use super::position::Known;
use super::run::FollowConfig;
use crate::Error;
use crate::archive::newest;

/// How long repmgr's metadata is waited for.
const REPMGR_WITHIN: Duration = Duration::from_secs(3);

/// The nodes of a cluster, and what the repository has of it, at one moment.
#[derive(Debug)]
pub struct Look {
    /// The nodes there are.
    pub nodes: Vec<Node>,
    /// What they said.
    pub seen: BTreeMap<String, Seen>,
    identity: Option<repository::Identity>,
    known: Option<Known>,
    history: Option<History>,
    lacking: BTreeMap<String, Known>,
}

impl Look {
    /// Asks all nodes, and the repository.
    pub async fn at(config: &FollowConfig, cluster: &Cluster) -> Result<Look, Error> {
        let mut seen = look_at_all(&config.nodes, config.slot.as_deref()).await;
        let mut nodes = config.nodes.clone();
        if let Some(database) = &config.repmgr_database {
            nodes = list::merge(&nodes, &registered(&nodes, &seen, database).await, &Default::default());
            let further: Vec<Node> =
                nodes.iter().filter(|node| !seen.contains_key(&node.name)).cloned().collect();
            seen.extend(look_at_all(&further, config.slot.as_deref()).await);
        }
        let identity = cluster.identity().await?;
        let known = match &identity {
            Some(identity) => newest(&cluster.coverage(identity.segment_size()).await?),
            None => None,
        };
        let history = history_of(cluster, known).await?;
        Ok(Look { nodes, seen, identity, known, history, lacking: BTreeMap::new() })
    }

    /// What a choice is made from. There is nobody to wait for.
    pub fn view(&self) -> View<'_> {
        View {
            nodes: &self.seen,
            identity: self.identity.as_ref().map(|identity| identity.system_identifier),
            known: self.known,
            history: self.history.as_ref(),
            segment_size: self
                .identity
                .as_ref()
                .map_or(pgformat::SegmentSize::DEFAULT, |identity| identity.segment_size()),
            current: None,
            lacking: &self.lacking,
            without_primary: STANDBY_AFTER,
        }
    }

    /// A node by its name.
    pub fn node(&self, name: &str) -> Option<&Node> {
        self.nodes.iter().find(|node| node.name == name)
    }
}

/// The history of the timeline that the repository is on, as it has it.
pub(super) async fn history_of(cluster: &Cluster, known: Option<Known>) -> Result<Option<History>, Error> {
    let Some(Known { timeline, .. }) = known else { return Ok(None) };
    if timeline == TimelineId::FIRST {
        return Ok(Some(History::first()));
    }
    let content = cluster.history(timeline).await?;
    // A damaged one is no reason not to archive; `verify` finds it.
    Ok(content.and_then(|content| History::parse(timeline, &content).ok()))
}

/// What repmgr says on the first node that answers.
async fn registered(nodes: &[Node], seen: &BTreeMap<String, Seen>, database: &str) -> Vec<list::Registered> {
    for node in
        nodes.iter().filter(|node| seen.get(&node.name).is_some_and(|seen| seen.observation().is_some()))
    {
        let mut config = node.sql.clone();
        config.database = Some(database.to_owned());
        let asked = async { list::registered(&sql::connect(&config).await?).await };
        if let Ok(Ok(found)) = timeout(REPMGR_WITHIN, asked).await {
            return found;
        }
    }
    Vec::new()
}
