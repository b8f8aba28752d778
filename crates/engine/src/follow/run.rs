//! The part that runs: a task for each node, and the choice made anew whenever something is seen.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use pgformat::{History, SegmentSize};
use replication::sql;
use repository::Cluster;
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

use super::choose::{Choice, Current, Role, Verdict, View, choose};
use super::keep::{LOOK_INTERVAL, LOOK_INTERVAL_IN_NEED, watch_node};
use super::leave::{Leaving, Ours};
use super::list::{self, Node, Origin, Registered};
use super::node::{ANSWERS_WITHIN, Seen};
use super::once;
use super::position::Known;
use crate::archive::{ArchiveStatus, Target, newest};
use crate::{Clock, Error};

/// Time between two looks at repmgr's metadata.
const LIST_INTERVAL: Duration = Duration::from_secs(30);
/// How long a node that was only seen to replicate counts as one of the cluster's after it was last seen to.
const REPLICA_KEPT: Duration = Duration::from_secs(600);
/// How long a node that may have WAL which another lacks may take to stream it, before it counts as lacking it, too.
const STREAMS_WITHIN: Duration = Duration::from_secs(30);
/// Failovers that are remembered for whom asks.
const SWITCHES_MAX: usize = 16;

/// What following needs to know.
#[derive(Debug, Clone)]
pub struct FollowConfig {
    /// The nodes that are configured; at least one.
    pub nodes: Vec<Node>,
    /// The database with repmgr's metadata, where that is to be asked.
    pub repmgr_database: Option<String>,
    /// The replication slot; `None` to do without.
    pub slot: Option<String>,
    /// What time it is.
    pub clock: Clock,
}

/// How following goes.
#[derive(Debug, Clone, Default)]
pub struct FollowStatus {
    /// The nodes there are.
    pub nodes: Vec<Node>,
    /// What they said last.
    pub seen: BTreeMap<String, Seen>,
    /// What was chosen last.
    pub choice: Option<Choice>,
    /// From whom was streamed since when, the newest last.
    pub switches: Vec<Switch>,
}

/// Somebody else was streamed from, from then on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Switch {
    /// When.
    pub at: DateTime<Utc>,
    /// From whom.
    pub node: String,
    /// What it was.
    pub role: Role,
}

/// What the tasks at the nodes need to know of each other.
#[derive(Debug, Clone, Default)]
pub(super) struct Shared {
    /// From whom is streamed, or is to be.
    pub(super) target: Option<String>,
    /// What is durable.
    pub(super) known: Option<Known>,
    /// PostgreSQL's, of the cluster; `None` before anything is archived.
    pub(super) identity: Option<u64>,
    pub(super) segment_size: Option<SegmentSize>,
    /// There is nobody to stream from, or nothing comes.
    pub(super) in_need: bool,
}

/// Follows until `shutdown`. Fails only if at the first look no node lets us in, in a way that time does not mend.
pub async fn run(
    config: FollowConfig,
    cluster: Cluster,
    archive: watch::Receiver<ArchiveStatus>,
    target: watch::Sender<Option<Target>>,
    status: watch::Sender<FollowStatus>,
    shutdown: CancellationToken,
) -> Result<(), Error> {
    let (seen, watched) = watch::channel(BTreeMap::new());
    let (shared, _) = watch::channel(Shared::default());
    let mut follower = Follower {
        config,
        cluster,
        archive,
        target,
        status,
        seen: Arc::new(seen),
        shared: Arc::new(shared),
        probers: JoinSet::new(),
        running: BTreeMap::new(),
        lacking: BTreeMap::new(),
        failing: None,
        primary_seen_at: Instant::now(),
        told: BTreeSet::new(),
        streamed_from: None,
        history: None,
        sightings: BTreeMap::new(),
        leaving: Leaving::default(),
    };
    tokio::select! {
        () = shutdown.cancelled() => Ok(()),
        result = follower.run(watched) => result,
    }
}

struct Follower {
    config: FollowConfig,
    cluster: Cluster,
    archive: watch::Receiver<ArchiveStatus>,
    target: watch::Sender<Option<Target>>,
    status: watch::Sender<FollowStatus>,
    seen: Arc<watch::Sender<BTreeMap<String, Seen>>>,
    shared: Arc<watch::Sender<Shared>>,
    probers: JoinSet<()>,
    running: BTreeMap<String, AbortHandle>,
    lacking: BTreeMap<String, Known>,
    /// The target, and since when nothing could be streamed from it.
    failing: Option<(String, Instant)>,
    /// When there last was a primary to follow.
    primary_seen_at: Instant,
    /// Alarms that the log has.
    told: BTreeSet<String>,
    streamed_from: Option<String>,
    /// The history of the timeline that the repository is on.
    history: Option<History>,
    /// When a node was last seen to replicate from one of the others, by host and port.
    sightings: BTreeMap<(String, u16), Instant>,
    leaving: Leaving,
}

impl Follower {
    async fn run(&mut self, mut watched: watch::Receiver<BTreeMap<String, Seen>>) -> Result<(), Error> {
        self.set_nodes(&[], &BTreeSet::new());
        self.learn_from_repository().await;
        self.first_look(&mut watched).await?;
        let mut listed_at = None;
        loop {
            if self.shared.borrow().identity.is_none() || self.shared.borrow().known.is_none() {
                self.learn_from_repository().await;
            }
            self.learn_from_archive();
            self.learn_history().await;
            self.decide();
            // Slots are made once it is known whose nodes these are. Where they are is to be remembered at once, or a node
            // that leaves soon after would keep its own.
            let is_behind = self.shared.borrow().identity.is_some() && !self.leaving.remembers();
            let interval = if is_behind { LOOK_INTERVAL_IN_NEED } else { LIST_INTERVAL };
            if listed_at.is_none_or(|at: Instant| at.elapsed() >= interval) {
                listed_at = Some(Instant::now());
                self.list_nodes().await;
            }
            let pause = self.pause();
            tokio::select! {
                changed = watched.changed() => drop(changed),
                changed = self.archive.changed() => drop(changed),
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    fn pause(&self) -> Duration {
        if self.shared.borrow().in_need { LOOK_INTERVAL_IN_NEED } else { LOOK_INTERVAL }
    }

    /// Waits until every node has answered or has failed to. Where none lets us in, and waiting would not help, somebody has to
    /// change something.
    async fn first_look(&self, watched: &mut watch::Receiver<BTreeMap<String, Seen>>) -> Result<(), Error> {
        let is_over = |seen: &BTreeMap<String, Seen>| !seen.values().any(|seen| *seen == Seen::NotYet);
        let waited = timeout(ANSWERS_WITHIN * 2, watched.wait_for(is_over)).await;
        drop(waited);
        let seen = self.seen.borrow().clone();
        let hopeless = |seen: &Seen| matches!(seen, Seen::Unreachable { transient: false, .. });
        if !seen.is_empty() && seen.values().all(hopeless) {
            for node in &self.config.nodes {
                sql::connect(&node.sql).await?;
            }
        }
        Ok(())
    }

    /// What is durable, before anything is streamed.
    async fn learn_from_repository(&self) {
        let learned = async {
            let Some(identity) = self.cluster.identity().await? else { return Ok(None) };
            let coverage = self.cluster.coverage(identity.segment_size()).await?;
            Ok::<_, repository::Error>(Some((identity, newest(&coverage))))
        };
        match learned.await {
            Ok(Some((identity, known))) => self.shared.send_modify(|shared| {
                shared.identity = Some(identity.system_identifier);
                shared.segment_size = Some(identity.segment_size());
                shared.known = shared.known.or(known);
            }),
            Ok(None) => {}
            // Archiving says so, too.
            Err(error) => tracing::debug!("the repository cannot be asked where to go on: {error}"),
        }
    }

    /// How the repository came to the timeline it is on; read once for each.
    async fn learn_history(&mut self) {
        let known = self.shared.borrow().known;
        if known.map(|known| known.timeline) == self.history.as_ref().map(|history| history.timeline) {
            return;
        }
        match once::history_of(&self.cluster, known).await {
            Ok(history) => self.history = history,
            Err(error) => tracing::debug!("the repository cannot be asked for a history: {error}"),
        }
    }

    fn learn_from_archive(&mut self) {
        let archive = self.archive.borrow_and_update().clone();
        let is_streaming = archive.server.is_some();
        if let Some(durable) = archive.durable {
            let known = Known { timeline: durable.timeline(), durable: durable.lsn() };
            self.shared.send_modify(|shared| shared.known = Some(known));
        }
        if let (Some((node, lacked)), false) = (archive.lacking, is_streaming) {
            self.shared.send_modify(|shared| shared.known = Some(lacked));
            self.lacking.insert(node, lacked);
        }
        self.shared.send_modify(|shared| shared.in_need = !is_streaming);
        self.give_up_on_target(archive.problem.filter(|_| !is_streaming));
    }

    /// A node that is asked for WAL which another one lacks, and does not let us stream, must not keep us from asking the others.
    fn give_up_on_target(&mut self, problem: Option<String>) {
        let target = self.target.borrow().as_ref().map(|target| target.node.clone());
        let (Some(node), Some(problem)) = (target, problem) else { return self.failing = None };
        let since = match self.failing.take() {
            Some((same, since)) if same == node => since,
            _ => Instant::now(),
        };
        self.failing = Some((node.clone(), since));
        let Some(known) = self.shared.borrow().known else { return };
        let others_lack = self.lacking.values().any(|lacked| *lacked == known);
        if others_lack && since.elapsed() >= STREAMS_WITHIN && self.lacking.get(&node) != Some(&known) {
            tracing::warn!(
                node,
                "the node may have WAL that another lacks, and does not stream it: {problem}"
            );
            self.lacking.insert(node, known);
        }
    }

    fn decide(&mut self) {
        let seen = self.seen.borrow().clone();
        let shared = self.shared.borrow().clone();
        let streaming = self.archive.borrow().server.is_some();
        let current = self.target.borrow().as_ref().map(|target| target.node.clone());
        let choice = choose(&View {
            nodes: &seen,
            identity: shared.identity,
            known: shared.known,
            history: self
                .history
                .as_ref()
                .filter(|ours| shared.known.is_some_and(|known| known.timeline == ours.timeline)),
            segment_size: shared.segment_size.unwrap_or(SegmentSize::DEFAULT),
            current: current.as_deref().map(|node| Current { node, streaming }),
            lacking: &self.lacking,
            without_primary: self.primary_seen_at.elapsed(),
        });
        if let Verdict::Stream { role: Role::Primary, .. } = &choice.verdict {
            self.primary_seen_at = Instant::now();
        }
        self.tell(&choice);
        self.aim(&choice);
        let nodes = self.status.borrow().nodes.clone();
        self.status.send_modify(|status| {
            *status = FollowStatus { nodes, seen, choice: Some(choice), ..std::mem::take(status) }
        });
    }

    /// Points the archive at the chosen node. One that streams is left alone when nobody better is there.
    fn aim(&mut self, choice: &Choice) {
        let Verdict::Stream { node, role, leaves_hole } = &choice.verdict else { return };
        let nodes = self.status.borrow().nodes.clone();
        let Some(found) = nodes.iter().find(|known| known.name == *node) else { return };
        let wanted = Target {
            node: node.clone(),
            connect: found.connect.clone(),
            leaves_hole: *leaves_hole,
            others: nodes.iter().map(|node| node.sql.clone()).collect(),
            only: false,
        };
        if self.streamed_from.as_ref() != Some(node) {
            let at = (self.config.clock)();
            tracing::info!(node, role = ?role, "streaming from this node from now on");
            self.status.send_modify(|status| {
                status.switches.push(Switch { at, node: node.clone(), role: *role });
                let surplus = status.switches.len().saturating_sub(SWITCHES_MAX);
                status.switches.drain(..surplus);
            });
            self.streamed_from = Some(node.clone());
        }
        self.shared.send_if_modified(|shared| {
            let changed = shared.target.as_ref() != Some(node);
            shared.target = Some(node.clone());
            changed
        });
        self.target.send_if_modified(|target| {
            let changed = target.as_ref() != Some(&wanted);
            *target = Some(wanted);
            changed
        });
    }

    /// Alarms are news once; when they come back after they had gone, again.
    fn tell(&mut self, choice: &Choice) {
        let mut now: BTreeSet<String> = choice.alarms.iter().map(|alarm| without_numbers(alarm)).collect();
        for alarm in &choice.alarms {
            if !self.told.contains(&without_numbers(alarm)) {
                tracing::error!("{alarm}");
            }
        }
        if let Verdict::Wait { why } = &choice.verdict {
            if !self.told.contains(why) {
                tracing::warn!("not streaming: {why}");
            }
            now.insert(why.clone());
        }
        self.told = now;
    }

    // ---- nodes

    /// Asks repmgr and the nodes themselves which nodes there are.
    async fn list_nodes(&mut self) {
        let seen = self.seen.borrow().clone();
        let identity = self.shared.borrow().identity;
        let mut registered = Vec::new();
        if let Some(database) = self.config.repmgr_database.clone() {
            let nodes = self.status.borrow().nodes.clone();
            for node in nodes {
                let asked = seen.get(&node.name).and_then(Seen::observation);
                if asked
                    .is_none_or(|asked| identity.is_some_and(|identity| identity != asked.system_identifier))
                {
                    continue;
                }
                match timeout(ANSWERS_WITHIN, ask_repmgr(&node, &database)).await {
                    Ok(Ok(found)) => {
                        registered = found;
                        break;
                    }
                    Ok(Err(error)) => {
                        self.tell_once(format!("repmgr's metadata on {} cannot be read: {error}", node.name))
                    }
                    Err(_elapsed) => {}
                }
            }
        }
        self.sight(&seen);
        let replicas = self.sightings.keys().cloned().collect();
        self.set_nodes(&registered, &replicas);
        self.look_after_leavers(&seen).await;
    }

    /// Notes who replicates from whom. While there is no primary, those who followed it are seen nowhere, and one of them is going
    /// to be the next one.
    fn sight(&mut self, seen: &BTreeMap<String, Seen>) {
        let now = Instant::now();
        if !self.has_primary() {
            self.sightings.values_mut().for_each(|at| *at = now);
        }
        self.sightings.extend(self.replicas(seen).into_iter().map(|at| (at, now)));
        self.sightings.retain(|_, at| at.elapsed() < REPLICA_KEPT);
    }

    /// Whether we stream from a primary, as we did when the nodes were listed before.
    fn has_primary(&self) -> bool {
        let streams = self.archive.borrow().server.is_some();
        streams && self.primary_seen_at.elapsed() < LIST_INTERVAL
    }

    /// Has our slot removed from nodes that are not in the cluster any more.
    async fn look_after_leavers(&mut self, seen: &BTreeMap<String, Seen>) {
        let Some(identity) = self.shared.borrow().identity else { return };
        let nodes = self.status.borrow().nodes.clone();
        let answers = |node: &Node| seen.get(&node.name).is_some_and(|seen| seen.observation().is_some());
        let ours = Ours {
            identity,
            // Whatever replicates from a node need not be a server.
            nodes: nodes.into_iter().filter(|node| node.origin != Origin::Replica || answers(node)).collect(),
            instances: seen
                .values()
                .filter_map(Seen::observation)
                .map(|node| node.instance.clone())
                .collect(),
            slot: self.config.slot.clone(),
            like: self.config.nodes.first().cloned(),
        };
        self.leaving.update(&self.cluster, ours, self.has_primary()).await;
    }

    fn tell_once(&mut self, text: String) {
        if self.told.insert(text.clone()) {
            tracing::warn!("{text}");
        }
    }

    /// Where others replicate from nodes of ours. They are asked at the port of the node they replicate from.
    fn replicas(&self, seen: &BTreeMap<String, Seen>) -> BTreeSet<(String, u16)> {
        let nodes = self.status.borrow().nodes.clone();
        let port = |name: &str| nodes.iter().find(|node| node.name == name).map(|node| node.connect.port);
        let observed = seen.iter().filter_map(|(name, seen)| Some((port(name)?, seen.observation()?)));
        observed
            .flat_map(|(port, node)| node.replica_hosts.iter().map(move |host| (host.clone(), port)))
            .collect()
    }

    fn set_nodes(&mut self, registered: &[Registered], replicas: &BTreeSet<(String, u16)>) {
        let nodes = list::merge(&self.config.nodes, registered, replicas);
        for node in &nodes {
            if self.running.contains_key(&node.name) {
                continue;
            }
            if node.origin == Origin::Configured {
                self.seen.send_modify(|seen| drop(seen.insert(node.name.clone(), Seen::NotYet)));
            }
            let task =
                watch_node(node.clone(), self.config.slot.clone(), self.seen.clone(), self.shared.clone());
            self.running.insert(node.name.clone(), self.probers.spawn(task));
        }
        let is_there = |name: &str| nodes.iter().any(|node| node.name == name);
        self.running.retain(|name, task| {
            if !is_there(name) {
                task.abort();
                self.seen.send_modify(|seen| drop(seen.remove(name)));
            }
            is_there(name)
        });
        self.status.send_modify(|status| status.nodes = nodes);
    }
}

/// An alarm without what changes from second to second.
fn without_numbers(text: &str) -> String {
    text.split_whitespace().filter(|word| !word.contains('/')).collect::<Vec<_>>().join(" ")
}

async fn ask_repmgr(node: &Node, database: &str) -> Result<Vec<Registered>, replication::Error> {
    let mut config = node.sql.clone();
    config.database = Some(database.to_owned());
    list::registered(&sql::connect(&config).await?).await
}
