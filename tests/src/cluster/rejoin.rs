//! How nodes come to follow a new primary: by following it, by pg_rewind, or as a fresh clone.

use std::fmt::Write as _;
use std::fs;
use std::time::{Duration, Instant};

use pgformat::Lsn;

use super::{Cluster, Node, REPLICATOR};
use crate::person::Person;
use crate::postgres::Shutdown;
use crate::process::Output;

const TOOL_WITHIN: Duration = Duration::from_secs(300);
/// A node that does not follow by then lacks WAL that is gone, and is cloned.
const FOLLOWS_WITHIN: Duration = Duration::from_secs(10);
const CATCHES_UP_OR_CLONED: Duration = Duration::from_secs(30);
const CLONE_FOLLOWS_WITHIN: Duration = Duration::from_secs(90);
const POLL_EVERY: Duration = Duration::from_millis(50);

/// How a node comes back whose WAL is not part of the new primary's history.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Return {
    /// By pg_rewind; as a clone where pg_rewind cannot.
    Rewind,
    /// Its data directory is deleted and copied afresh.
    Clone,
}

impl Cluster {
    /// Has all nodes follow the primary. Those that are down are started, and those that went too far come back by
    /// `how`. Another primary that still runs is left alone.
    #[track_caller]
    pub fn gather(&mut self, how: Return) {
        let followers: Vec<usize> = self.others().filter(|&node| !self.is_another_primary(node)).collect();
        for (position, &node) in followers.iter().enumerate() {
            let cascaded = self.shape.cascade && position > 0 && position + 1 == followers.len();
            let upstream = if cascaded { followers[0] } else { self.primary };
            if self.must_be_mended(node) {
                self.mend(node, how);
            }
            self.follow(node, upstream);
            // Before another node streams from this one, it has to be there.
            self.wait_until_follows(node);
        }
        self.drop_idle_slots();
        // pg_rewind goes by the timeline of the last checkpoint that a node has seen; at the next failover that must be
        // this one.
        self.primary().sql("checkpoint");
    }

    /// Has a node stream from `upstream`: it is pointed there, and started when it is down.
    #[track_caller]
    pub fn follow(&mut self, node: usize, upstream: usize) {
        if self.shape.slots {
            let name = &self.nodes[node].name;
            self.server(upstream).sql(&format!(
                "select pg_create_physical_replication_slot('{name}', true) \
                 where not exists (select from pg_replication_slots where slot_name = '{name}')"
            ));
        }
        self.nodes[node].upstream = upstream;
        self.clean.remove(&node);
        self.write_upstream(node, self.server(upstream).port());
        if self.server(node).is_started() {
            self.server(node).sql("select pg_reload_conf()");
        } else {
            let signal = self.server(node).data().join("standby.signal");
            fs::write(&signal, "").expect("write standby.signal");
            Person::unprivileged().own(&signal);
            self.start_again(node);
        }
    }

    /// Waits until a node streams on the primary's timeline and has what the primary had when this began. One that cannot is cloned.
    #[track_caller]
    pub fn wait_until_follows(&mut self, node: usize) {
        if !self.follows_within(node, FOLLOWS_WITHIN) {
            eprintln!("node {node} cannot follow the primary, and is cloned");
            self.mend(node, Return::Clone);
            self.follow(node, self.nodes[node].upstream);
            assert!(
                self.follows_within(node, CLONE_FOLLOWS_WITHIN),
                "node {node} does not follow, though it is a clone:\n{}",
                self.server(node).log_text()
            );
        }
        self.nodes[node].timeline = self.nodes[self.primary].timeline;
    }

    /// Waits until a standby has replayed the WAL up to `lsn`. One that cannot, as whom it streams from no longer has what comes next, is
    /// cloned.
    #[track_caller]
    pub fn wait_until_has_or_clone(&mut self, node: usize, lsn: Lsn) {
        if self.has_within(node, lsn, CATCHES_UP_OR_CLONED) {
            return;
        }
        // Its slot may be gone: the node it streams from may have been cloned itself.
        self.follow(node, self.nodes[node].upstream);
        if !self.has_within(node, lsn, FOLLOWS_WITHIN) {
            eprintln!("node {node} cannot catch up, and is cloned");
            self.mend(node, Return::Clone);
            self.follow(node, self.nodes[node].upstream);
            self.wait_until_has(node, lsn);
        }
    }

    fn has_within(&self, node: usize, lsn: Lsn, limit: Duration) -> bool {
        let start = Instant::now();
        let replayed = |text: String| text.parse::<Lsn>().is_ok_and(|replayed| replayed >= lsn);
        while start.elapsed() < limit {
            if self.server(node).try_sql("select pg_last_wal_replay_lsn()").is_ok_and(replayed) {
                return true;
            }
            std::thread::sleep(POLL_EVERY);
        }
        false
    }

    fn follows_within(&self, node: usize, limit: Duration) -> bool {
        let timeline = self.nodes[self.primary].timeline.to_string();
        // A receiver whose upstream lacks what it needs says that it streams, until it is told.
        let end = self.primary().lsn("select pg_current_wal_flush_lsn()");
        let sql = format!(
            "select received_tli from pg_stat_wal_receiver \
             where status = 'streaming' and pg_last_wal_replay_lsn() >= '{end}'"
        );
        let start = Instant::now();
        while start.elapsed() < limit {
            if self.server(node).try_sql(&sql).is_ok_and(|received| received == timeline) {
                return true;
            }
            std::thread::sleep(POLL_EVERY);
        }
        false
    }

    fn is_another_primary(&self, node: usize) -> bool {
        self.server(node).is_started() && self.server(node).value("select pg_is_in_recovery()") == "f"
    }

    /// Whether a node has WAL that the primary's history does not have, or may have.
    fn must_be_mended(&self, node: usize) -> bool {
        let Node { timeline, upstream, .. } = &self.nodes[node];
        if !self.server(node).is_started() {
            return !self.clean.contains(&node);
        }
        // What followed the promoted node has nothing that this did not have.
        *upstream != self.primary && self.left_at(*timeline).is_some_and(|fork| self.position(node) > fork)
    }

    /// Makes the data directory of a node one that can follow the primary; the node is down afterwards.
    #[track_caller]
    fn mend(&mut self, node: usize, how: Return) {
        self.stop(node, Shutdown::Fast);
        if how == Return::Clone || !self.rewind(node) {
            self.clone_again(node);
        }
    }

    /// Whether pg_rewind could.
    fn rewind(&self, node: usize) -> bool {
        // pg_rewind compares timelines by what the last checkpoint says.
        self.primary().sql("checkpoint");
        let mut rewind = self.server(node).tool("pg_rewind");
        rewind.arg("--target-pgdata").arg(self.server(node).data()).arg("--no-sync");
        let source = format!(
            "host={} port={} user=postgres dbname=postgres",
            self.primary().sockets().display(),
            self.primary().port()
        );
        rewind.arg("--source-server").arg(source);
        let output = Output::of(&mut rewind, "", TOOL_WITHIN);
        if output.code != 0 {
            eprintln!("node {node} cannot be rewound, and is cloned: {}", output.stderr.trim());
        }
        output.code == 0
    }

    #[track_caller]
    fn clone_again(&self, node: usize) {
        let data = self.server(node).data();
        if data.exists() {
            fs::remove_dir_all(data).unwrap_or_else(|error| panic!("delete {}: {error}", data.display()));
        }
        let directory = data.to_str().expect("a plain path");
        self.primary().run("pg_basebackup", &["-D", directory, "-c", "fast", "-X", "stream", "--no-sync"]);
    }

    /// Writes whom a node streams from; what a rewind or a clone brought along is another node's.
    pub(super) fn write_upstream(&self, node: usize, port: u16) {
        let Node { name, server, .. } = &self.nodes[node];
        let path = server.data().join("postgresql.auto.conf");
        let text = fs::read_to_string(&path).unwrap_or_default();
        let mut lines: String = text
            .lines()
            .filter(|line| !line.starts_with("primary_conninfo") && !line.starts_with("primary_slot_name"))
            .fold(String::new(), |lines, line| lines + line + "\n");
        let (user, password) = REPLICATOR;
        let conninfo =
            format!("host=127.0.0.1 port={port} user={user} password={password} application_name={name}");
        writeln!(lines, "primary_conninfo = '{conninfo}'").expect("write to a string");
        if self.shape.slots {
            writeln!(lines, "primary_slot_name = '{name}'").expect("write to a string");
        }
        fs::write(&path, lines).unwrap_or_else(|error| panic!("write {}: {error}", path.display()));
    }

    /// Removes slots of nodes that stream from elsewhere now; they would keep WAL for ever.
    fn drop_idle_slots(&self) {
        for at in self.nodes().filter(|&at| self.server(at).is_started()) {
            let here = self.others().filter(|&node| self.nodes[node].upstream == at);
            let wanted: Vec<&str> = here.map(|node| self.nodes[node].name.as_str()).collect();
            self.server(at).sql(&format!(
                "select pg_drop_replication_slot(slot_name) from pg_replication_slots \
                 where slot_name like 'node\\_%' and not active and slot_name <> all ('{{{}}}')",
                wanted.join(",")
            ));
        }
    }
}
