//! Everything a person wants to see at a glance, as the status page shows it. Pure.

use chrono::{DateTime, Utc};
use engine::status::{Fork, HoleStatus, RunningBackup, Window, Written};
use pgformat::Lsn;
use repository::state::Verification;
use serde::Serialize;

use super::health::{self, Health};
use super::snapshot::Snapshot;
use crate::config::Settings;
use crate::view::{BackupView, Unreadable, WalView};

/// Everything at a glance.
#[derive(Debug, Serialize)]
pub(crate) struct Overview {
    /// The cluster's name in the repository.
    cluster: String,
    /// The program's version.
    version: &'static str,
    /// Where the repository is.
    repository: String,
    /// What time it is here.
    now: DateTime<Utc>,
    #[serde(flatten)]
    health: Health,
    /// From whom WAL comes; null while it does not.
    server: Option<String>,
    /// The timeline that is streamed.
    timeline: Option<u32>,
    /// Whether commits wait for us.
    synchronous: bool,
    /// First byte that is not durable.
    durable_lsn: Option<Lsn>,
    /// Bytes that the server has flushed and that are not durable.
    lag_bytes: Option<u64>,
    /// For how long the archive has been behind.
    behind_seconds: Option<f64>,
    /// The nodes of the cluster, where there may be several.
    nodes: Vec<NodeView>,
    /// When the next base backup is due; null where nobody takes one by the clock.
    next_backup: Option<DateTime<Utc>>,
    /// When the next verification is due.
    next_verification: Option<DateTime<Utc>>,
    /// What the repository has; null until it was looked at.
    figures: Option<FiguresView>,
}

/// A node of the cluster.
#[derive(Debug, Serialize)]
struct NodeView {
    /// `host:port`.
    node: String,
    /// Whether it answers.
    reachable: bool,
    /// `primary` or `standby`.
    role: Option<&'static str>,
    /// The timeline it is on.
    timeline: Option<u32>,
    /// WAL comes from it.
    followed: bool,
    /// Bytes of WAL that our slot keeps there.
    slot_retained_bytes: Option<u64>,
}

/// What the repository has.
#[derive(Debug, Serialize)]
struct FiguresView {
    /// When it was looked at.
    at: DateTime<Utc>,
    /// PostgreSQL's major version.
    postgresql_major: u16,
    /// Oldest first.
    backups: Vec<BackupView>,
    /// Backups whose records cannot be read.
    unreadable_backups: Vec<Unreadable>,
    /// Backups that say that they run.
    running_backups: Vec<RunningBackup>,
    /// WAL by timeline.
    wal: Vec<WalView>,
    /// When it was written.
    written: Vec<Written>,
    /// WAL that is missing for good.
    holes: Vec<HoleStatus>,
    /// Where timelines were left for others.
    forks: Vec<Fork>,
    /// From when to when one can restore along the newest timeline.
    windows: Vec<Window>,
    /// Bytes of packs.
    pack_bytes: u64,
    /// Bytes of WAL.
    wal_bytes: u64,
    /// Bytes that can still be written, where that can be known.
    free_bytes: Option<u64>,
    /// What the last verification came to.
    verified: Option<Verification>,
    /// What is wrong and needs somebody.
    findings: Vec<String>,
}

/// Everything at a glance.
pub(crate) fn of(settings: &Settings, snapshot: &Snapshot) -> Overview {
    let archive = snapshot.archive.as_ref();
    let server = archive.and_then(|archive| archive.server.as_ref());
    let durable = archive.and_then(|archive| archive.durable).map(|durable| durable.lsn());
    let lag = |durable: Lsn| archive.map(|archive| archive.server_end.since(durable));
    let next = |calendar: &Option<crate::schedule::Calendar>| {
        calendar.as_ref().and_then(|calendar| calendar.next(snapshot.now))
    };
    Overview {
        cluster: snapshot.cluster.clone(),
        version: env!("CARGO_PKG_VERSION"),
        repository: settings.repository.to_string(),
        now: snapshot.now,
        health: health::of(snapshot),
        server: server.map(|server| server.target.clone()),
        timeline: server.map(|server| server.timeline.get()),
        synchronous: archive.is_some_and(|archive| archive.synchronous),
        durable_lsn: durable,
        lag_bytes: durable.filter(|_| server.is_some()).and_then(lag),
        behind_seconds: snapshot.behind_seconds,
        nodes: nodes(snapshot),
        next_backup: next(&settings.schedule.backups),
        next_verification: next(&settings.schedule.verification),
        figures: figures(snapshot),
    }
}

fn nodes(snapshot: &Snapshot) -> Vec<NodeView> {
    let Some(follow) = &snapshot.follow else { return Vec::new() };
    let followed = follow.switches.last().map(|switch| switch.node.as_str());
    let view = |name: &String| {
        let seen = follow.seen.get(name).and_then(|seen| seen.observation());
        let restart = seen.and_then(|node| Some((node, node.slot.as_ref()?.restart_lsn?)));
        NodeView {
            node: name.clone(),
            reachable: seen.is_some(),
            role: seen.map(|node| if node.in_recovery { "standby" } else { "primary" }),
            timeline: seen.map(|node| node.timeline.get()),
            followed: followed == Some(name.as_str()),
            slot_retained_bytes: restart.map(|(node, restart)| node.flushed.since(restart)),
        }
    };
    follow.seen.keys().map(view).collect()
}

fn figures(snapshot: &Snapshot) -> Option<FiguresView> {
    let figures = snapshot.figures.as_deref()?.clone();
    Some(FiguresView {
        at: figures.at,
        postgresql_major: figures.list.postgresql_major,
        backups: figures.list.backups,
        unreadable_backups: figures.list.unreadable_backups,
        running_backups: figures.running,
        wal: figures.list.wal,
        written: figures.written,
        holes: figures.holes,
        forks: figures.forks,
        windows: figures.list.windows,
        pack_bytes: figures.pack_bytes,
        wal_bytes: figures.wal_bytes,
        free_bytes: figures.space.map(|space| space.free_bytes),
        verified: figures.verified,
        findings: figures.findings,
    })
}
