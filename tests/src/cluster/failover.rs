//! What happens to a cluster: its primary is lost or steps down, and a standby takes over.

use std::time::{Duration, Instant};

use pgformat::{History, Lsn, TimelineId};

use super::Cluster;
use crate::postgres::{Postgres, Shutdown};
use crate::process::Output;
use crate::wait::wait_until;

const PROMOTES_WITHIN: Duration = Duration::from_secs(60);
const LETS_GO_WITHIN: Duration = Duration::from_secs(20);
const TOOL_WITHIN: Duration = Duration::from_secs(60);
/// Nobody listens there.
const NOBODYS_PORT: u16 = 1;

/// How the primary goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Loss {
    /// With every process, as in a power cut.
    Kill9,
    /// `pg_ctl stop -m immediate`: its sessions see it go, nothing is written.
    Immediate,
}

/// A standby became the primary.
#[derive(Debug, Clone, Copy)]
pub struct Promotion {
    /// Which one.
    pub node: usize,
    /// The timeline it began.
    pub timeline: TimelineId,
    /// The one it was on before.
    pub parent: TimelineId,
    /// Where it left that.
    pub fork: Lsn,
    /// When it was first seen to accept writes.
    pub at: Instant,
}

impl Cluster {
    /// Takes the primary away. Nobody else is told.
    pub fn lose_primary(&mut self, how: Loss) {
        let primary = self.primary;
        match how {
            Loss::Kill9 => self.kill9(primary),
            Loss::Immediate => self.stop(primary, Shutdown::Immediate),
        }
    }

    /// Kills a node and every process it started.
    pub fn kill9(&mut self, node: usize) {
        self.nodes[node].server.kill9();
    }

    /// Stops a node.
    #[track_caller]
    pub fn stop(&mut self, node: usize, how: Shutdown) {
        self.nodes[node].server.stop(how);
    }

    /// Starts a node that was stopped or killed, as it is: a primary comes back as one.
    #[track_caller]
    pub fn start_again(&mut self, node: usize) {
        self.nodes[node].server.start_again();
    }

    /// Makes a standby the primary. The old one is left as it is, running or not, and other standbys go on following
    /// whom they follow until [`Cluster::gather`].
    #[track_caller]
    pub fn promote(&mut self, node: usize) -> Promotion {
        let server = &self.nodes[node].server;
        server.sql("select pg_promote(false)");
        wait_until(&format!("node {node} to be promoted"), PROMOTES_WITHIN, || {
            server.value("select pg_is_in_recovery()") == "f"
        });
        let at = Instant::now();
        let (timeline, parent, fork) = last_fork(server);
        let promotion = Promotion { node, timeline, parent, fork, at };
        self.nodes[node].timeline = timeline;
        self.primary = node;
        self.promotions.push(promotion);
        promotion
    }

    /// Stops the primary cleanly, waits until `to` has everything, and promotes it. The old primary comes back as its
    /// standby at the next [`Cluster::gather`], which has nothing to mend.
    #[track_caller]
    pub fn switch_over(&mut self, to: usize) -> Promotion {
        let old = self.primary;
        self.stop(old, Shutdown::Fast);
        let end = shutdown_checkpoint(self.server(old));
        wait_until(&format!("node {to} to have the shutdown checkpoint at {end}"), PROMOTES_WITHIN, || {
            self.server(to).lsn("select pg_last_wal_replay_lsn()") > end
        });
        let promotion = self.promote(to);
        self.clean.insert(old);
        promotion
    }

    /// Cuts a standby off from whom it follows, so that it lacks all WAL from now on; it follows again after
    /// [`Cluster::gather`].
    #[track_caller]
    pub fn hold_back(&self, node: usize) {
        self.write_upstream(node, NOBODYS_PORT);
        self.server(node).sql("select pg_reload_conf()");
        wait_until(&format!("node {node} to let go of its upstream"), LETS_GO_WITHIN, || {
            let receiving = "select count(*) from pg_stat_wal_receiver where status = 'streaming'";
            self.server(node).value(receiving) == "0"
        });
    }

    /// The standby that has received most: the one that loses least when it is promoted.
    #[track_caller]
    pub fn most_advanced(&self) -> usize {
        let standbys = self.standbys().into_iter();
        standbys.max_by_key(|&node| self.position(node)).expect("a standby runs")
    }

    /// How far a standby's WAL goes.
    #[track_caller]
    pub(super) fn position(&self, node: usize) -> Lsn {
        self.server(node).lsn("select greatest(pg_last_wal_receive_lsn(), pg_last_wal_replay_lsn())")
    }
}

/// The timeline of a primary, its parent, and the fork between them.
#[track_caller]
fn last_fork(server: &Postgres) -> (TimelineId, TimelineId, Lsn) {
    let timeline = server.timeline();
    let text = server.value(&format!("select pg_read_file('pg_wal/{:08X}.history')", timeline.get()));
    let history = History::parse(timeline, text.as_bytes()).expect("a history file");
    let last = history.entries.last().expect("a promoted server has a parent timeline");
    (timeline, last.timeline, last.end)
}

/// Where the checkpoint lies that a clean shutdown wrote last.
#[track_caller]
fn shutdown_checkpoint(server: &Postgres) -> Lsn {
    let mut control = server.tool("pg_controldata");
    let printed = Output::of(control.arg(server.data()), "", TOOL_WITHIN).success().stdout;
    let checkpoint = printed.lines().find_map(|line| line.strip_prefix("Latest checkpoint location:"));
    checkpoint.and_then(|lsn| lsn.trim().parse().ok()).expect("a checkpoint's location")
}
