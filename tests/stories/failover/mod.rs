//! The engine follows a cluster: across failovers without a hole and without a hand, and it is not fooled.

mod backups;
mod false_master;
mod fork_segment;
mod nodes;
mod random;
mod run;
mod slots;
mod stranger;

use e2e::{Lsn, World};
use serde_json::Value;

/// What a failover makes the service say.
const AFTER_A_FAILOVER: &[&str] =
    &["slot", "timeline", "primary", "connect", "connection", "promot", "fork", "tail", "reach"];

/// `backupctl status`, whatever it finds.
#[track_caller]
fn status(world: &World) -> Value {
    world.backupctl(&["--output", "json", "status"]).json()
}

/// A list in a document.
#[track_caller]
fn list<'a>(document: &'a Value, field: &str) -> &'a [Value] {
    document[field].as_array().unwrap_or_else(|| panic!("no list \"{field}\" in {document:#}"))
}

/// A position in a document.
#[track_caller]
fn lsn(document: &Value, field: &str) -> Lsn {
    let text = document[field].as_str().unwrap_or_else(|| panic!("no \"{field}\" in {document:#}"));
    text.parse().unwrap_or_else(|error| panic!("{text}: {error}"))
}

/// The WAL of a timeline in the repository: from where to where, range by range.
#[track_caller]
fn ranges(world: &World, timeline: u32) -> Vec<(Lsn, Lsn)> {
    let wal = world.json(&["wal", "list"]);
    let found = list(&wal, "timelines").iter().find(|found| found["timeline"] == timeline);
    let range = |range: &Value| (lsn(range, "from"), lsn(range, "to"));
    found.map_or_else(Vec::new, |found| list(found, "ranges").iter().map(range).collect())
}
