//! A cluster of real servers on loopback: a primary, standbys that stream from it, and one that streams from a standby.
//!
//! Nodes are numbered. Which of them is the primary, and who streams from whom, changes with every failover: `failover`
//! holds what happens to a cluster, `rejoin` how the other nodes come to follow the new primary.

mod failover;
mod rejoin;

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use pgformat::{Lsn, TimelineId};

pub use failover::{Loss, Promotion};
pub use rejoin::Return;

use crate::postgres::{Options, Postgres};
use crate::process::Output;
use crate::proxy::Proxy;
use crate::wait::{wait_for, wait_until};

/// Name and password of the role that standbys stream with.
const REPLICATOR: (&str, &str) = ("replicator", "replicator");
/// The application name of the product's stream.
const ENGINE: &str = "drydock";

const CATCHES_UP_WITHIN: Duration = Duration::from_secs(180);
const WATCHES_FOR: Duration = Duration::from_secs(180);

/// What every node is configured with. Standbys look for a new upstream at once, so that a failover takes seconds.
const SETTINGS: [&str; 9] = [
    "shared_buffers = 16MB",
    "wal_log_hints = on",
    "max_wal_senders = 20",
    "max_replication_slots = 20",
    "wal_keep_size = 256MB",
    "wal_retrieve_retry_interval = 200ms",
    "wal_receiver_status_interval = 1s",
    "recovery_target_timeline = latest",
    "hot_standby = on",
];

/// What a cluster is made with.
#[derive(Debug, Clone)]
pub struct Shape {
    /// How many nodes follow the primary.
    pub standbys: usize,
    /// Whether the last of them streams from the first one instead.
    pub cascade: bool,
    /// Whether standbys have slots of their own on whom they stream from.
    pub slots: bool,
    /// Whether the product reaches every node through a [`Proxy`], so that it alone can be cut off.
    pub proxied: bool,
    /// What every node is made with.
    pub options: Options,
}

impl Default for Shape {
    fn default() -> Shape {
        // Commits that were confirmed are what these clusters are about.
        let options = Options { fsync: true, ..Options::default() };
        Shape { standbys: 2, cascade: false, slots: true, proxied: false, options }
    }
}

/// Servers with one system identifier.
pub struct Cluster {
    nodes: Vec<Node>,
    primary: usize,
    shape: Shape,
    promotions: Vec<Promotion>,
    /// Nodes that are down and can follow as they are.
    clean: BTreeSet<usize>,
}

struct Node {
    name: String,
    server: Postgres,
    proxy: Option<Proxy>,
    /// Whom it streams from, or did before it became the primary.
    upstream: usize,
    /// The newest timeline it is known to have followed.
    timeline: TimelineId,
}

impl Cluster {
    /// A running cluster with the product's role, whose first primary is node 0, and with all standbys streaming.
    #[track_caller]
    pub(crate) fn create(home: &Path, shape: &Shape) -> Cluster {
        let mut options = shape.options.clone();
        let settings = SETTINGS.map(str::to_owned).into_iter();
        options.settings = settings.chain(shape.options.settings.clone()).collect();
        let server = Postgres::create(home, &home.join("member0"), &options).start();
        server.create_role();
        let (name, password) = REPLICATOR;
        server.sql(&format!("create role {name} login replication password '{password}'"));
        let shape = shape.clone();
        let (promotions, clean) = (Vec::new(), BTreeSet::new());
        let mut cluster = Cluster { nodes: Vec::new(), primary: 0, shape, promotions, clean };
        cluster.add(server);
        for number in 1..=cluster.shape.standbys {
            cluster.add(Postgres::at(home, &home.join(format!("member{number}"))));
        }
        cluster.gather(Return::Clone);
        cluster
    }

    fn add(&mut self, server: Postgres) {
        let name = format!("node_{}", self.nodes.len());
        let proxy = self.shape.proxied.then(|| Proxy::to(server.port()));
        self.nodes.push(Node { name, server, proxy, upstream: 0, timeline: TimelineId::FIRST });
    }

    // ---- who is who

    /// The primary.
    pub fn primary(&self) -> &Postgres {
        &self.nodes[self.primary].server
    }

    /// The primary's number.
    pub fn primary_node(&self) -> usize {
        self.primary
    }

    /// A node's server.
    pub fn server(&self, node: usize) -> &Postgres {
        &self.nodes[node].server
    }

    /// The numbers of all nodes.
    pub fn nodes(&self) -> std::ops::Range<usize> {
        0..self.nodes.len()
    }

    /// The numbers of the standbys that run.
    pub fn standbys(&self) -> Vec<usize> {
        self.others().filter(|&node| self.server(node).is_started()).collect()
    }

    /// Whom a node streams from.
    pub fn upstream(&self, node: usize) -> usize {
        self.nodes[node].upstream
    }

    /// Every promotion there was, oldest first.
    pub fn promotions(&self) -> &[Promotion] {
        &self.promotions
    }

    /// Where the cluster left a timeline; `None` for the one it is on.
    pub fn left_at(&self, timeline: TimelineId) -> Option<Lsn> {
        self.promotions.iter().find(|promotion| promotion.parent == timeline).map(|found| found.fork)
    }

    fn others(&self) -> impl Iterator<Item = usize> + use<> {
        let primary = self.primary;
        (0..self.nodes.len()).filter(move |&node| node != primary)
    }

    // ---- how the product reaches it

    /// The port at which the product reaches a node.
    pub fn port(&self, node: usize) -> u16 {
        self.nodes[node].proxy.as_ref().map_or_else(|| self.server(node).port(), Proxy::port)
    }

    /// `REPLICATION_HOST` for the whole cluster.
    pub fn addresses(&self) -> String {
        let addresses: Vec<String> =
            self.nodes().map(|node| format!("127.0.0.1:{}", self.port(node))).collect();
        addresses.join(",")
    }

    /// The network between the product and a node.
    #[track_caller]
    pub fn proxy(&self, node: usize) -> &Proxy {
        self.nodes[node].proxy.as_ref().expect("the cluster was made with proxies")
    }

    // ---- waiting

    /// Waits until a standby has replayed the WAL up to `lsn`.
    #[track_caller]
    pub fn wait_until_has(&self, node: usize, lsn: Lsn) {
        wait_until(&format!("node {node} to have {lsn}"), CATCHES_UP_WITHIN, || {
            self.server(node)
                .try_sql("select pg_last_wal_replay_lsn()")
                .is_ok_and(|replayed| replayed.parse::<Lsn>().is_ok_and(|replayed| replayed >= lsn))
        });
    }

    /// Waits until the product has told the primary that all it has written by now is durable. Unlike
    /// [`crate::Service::wait_until_durable`] this needs no slot.
    #[track_caller]
    pub fn wait_until_durable(&self) -> Lsn {
        let end = self.primary().lsn("select pg_current_wal_flush_lsn()");
        let sql =
            format!("select max(flush_lsn) from pg_stat_replication where application_name = '{ENGINE}'");
        wait_for(&format!("the product to acknowledge {end}"), CATCHES_UP_WITHIN, || {
            let flushed = self.primary().try_sql(&sql).ok()?.parse::<Lsn>().ok()?;
            (flushed >= end).then_some(flushed)
        })
    }

    /// Watches for the product to stream from the primary, and tells how long after `since` it did; `None` when the
    /// server was gone first, or the product did not come.
    pub fn watch_for_the_engine(&self, since: Instant) -> JoinHandle<Option<Duration>> {
        // One statement that polls within the server: a psql for each look would cost more than what it measures.
        let sql = format!(
            "set statement_timeout = '{}s'; do $$ begin loop \
               exit when exists (select from pg_stat_replication \
                 where application_name = '{ENGINE}' and state = 'streaming'); \
               perform pg_sleep(0.01); perform pg_stat_clear_snapshot(); \
             end loop; end $$",
            WATCHES_FOR.as_secs()
        );
        let mut psql: Command = self.primary().psql();
        psql.args(["-v", "ON_ERROR_STOP=1", "-f", "-"]);
        std::thread::spawn(move || {
            let output = Output::of(&mut psql, &sql, WATCHES_FOR * 2);
            (output.code == 0).then(|| since.elapsed())
        })
    }

    /// Whether the product streams from a node now.
    pub fn engine_streams_from(&self, node: usize) -> bool {
        let sql = format!("select count(*) from pg_stat_replication where application_name = '{ENGINE}'");
        self.server(node).try_sql(&sql).is_ok_and(|count| count != "0")
    }
}
