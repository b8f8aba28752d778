//! Metrics in the form that Prometheus reads. Pure: each scrape is made from a snapshot.

use std::borrow::Cow;
use std::sync::atomic::AtomicU64;

use chrono::{DateTime, Utc};
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use repository::Record;

use super::figures::Figures;
use super::health;
use super::snapshot::Snapshot;

type Float = Gauge<f64, AtomicU64>;
type Labels = Vec<(String, String)>;

/// The text of a scrape. What is not known is not there.
pub(super) fn text(snapshot: &Snapshot) -> Result<String, std::fmt::Error> {
    let mut registry = Registry::default();
    let of_cluster = (Cow::Borrowed("cluster"), Cow::Owned(snapshot.cluster.clone()));
    let own = registry.sub_registry_with_prefix("drydock").sub_registry_with_label(of_cluster);
    service(own, snapshot);
    archive(own, snapshot);
    nodes(own, snapshot);
    if let Some(figures) = &snapshot.figures {
        repository(own, figures, snapshot.now);
    }
    names_of_postdock(&mut registry, snapshot);
    let mut text = String::new();
    encode(&mut text, &registry)?;
    Ok(text)
}

fn gauge(registry: &mut Registry, name: &str, help: &str, value: impl Into<Option<f64>>) {
    let Some(value) = value.into() else { return };
    let gauge = Float::default();
    gauge.set(value);
    registry.register(name, help, gauge);
}

fn labelled(registry: &mut Registry, name: &str, help: &str, values: Vec<(Labels, f64)>) {
    let family = Family::<Labels, Float>::default();
    for (labels, value) in values {
        family.get_or_create(&labels).set(value);
    }
    registry.register(name, help, family);
}

fn label(name: &str, value: &str) -> Labels {
    vec![(name.to_owned(), value.to_owned())]
}

fn truth(value: bool) -> f64 {
    if value { 1.0 } else { 0.0 }
}

fn seconds(at: DateTime<Utc>) -> f64 {
    at.timestamp_micros() as f64 / 1e6
}

fn service(registry: &mut Registry, snapshot: &Snapshot) {
    let version = label("version", env!("CARGO_PKG_VERSION"));
    labelled(registry, "build_info", "The program's version", vec![(version, 1.0)]);
    let phases = ["starting", "standing_by", "leading"];
    let phase = |phase: &&str| (label("phase", phase), truth(*phase == snapshot.phase));
    labelled(registry, "phase", "What the service is at", phases.iter().map(phase).collect());
    gauge(registry, "ready", "Whether the service does its work", truth(health::of(snapshot).ready));
}

fn archive(registry: &mut Registry, snapshot: &Snapshot) {
    let Some(archive) = &snapshot.archive else { return };
    gauge(registry, "streaming", "Whether WAL is streamed", truth(archive.server.is_some()));
    gauge(registry, "synchronous", "Whether commits wait for the archive", truth(archive.synchronous));
    let timeline = archive.server.as_ref().map(|server| f64::from(server.timeline.get()));
    gauge(registry, "streaming_timeline", "The timeline that is streamed", timeline);
    let durable = archive.durable.map(|durable| durable.lsn());
    gauge(
        registry,
        "wal_durable_lsn",
        "End of durable WAL, as a number of bytes",
        durable.map(|lsn| lsn.0 as f64),
    );
    let lag = durable.filter(|_| archive.server.is_some()).map(|lsn| archive.server_end.since(lsn) as f64);
    gauge(registry, "wal_lag_bytes", "Bytes that the server has flushed and that are not durable here", lag);
    let queued = durable.filter(|_| archive.server.is_some()).map(|lsn| archive.received.since(lsn) as f64);
    gauge(registry, "wal_queued_bytes", "Bytes that are received and not durable yet", queued);
    gauge(
        registry,
        "wal_lag_seconds",
        "How old the oldest WAL is that is not durable; also counts while no server can be reached",
        snapshot.behind_seconds,
    );
}

fn nodes(registry: &mut Registry, snapshot: &Snapshot) {
    let Some(follow) = snapshot.follow.as_ref().filter(|follow| !follow.nodes.is_empty()) else { return };
    let reachable =
        follow.seen.iter().map(|(name, seen)| (label("node", name), truth(seen.observation().is_some())));
    labelled(registry, "node_reachable", "Whether a node answers", reachable.collect());
    let retained = follow.seen.iter().filter_map(|(name, seen)| {
        let node = seen.observation()?;
        let restart = node.slot.as_ref()?.restart_lsn?;
        Some((label("node", name), node.flushed.since(restart) as f64))
    });
    labelled(registry, "slot_retained_bytes", "WAL that our slot keeps on a node", retained.collect());
    let from = follow.switches.last().map(|switch| (label("node", &switch.node), 1.0));
    labelled(registry, "streaming_source", "The node that WAL comes from", from.into_iter().collect());
    let followed = follow.switches.len().saturating_sub(1) as f64;
    gauge(registry, "source_changes", "How often another node was streamed from, of late", followed);
    let alarms = follow.choice.as_ref().map_or(0, |choice| choice.alarms.len());
    gauge(
        registry,
        "alarms",
        "What somebody should look at, such as a former primary that still writes",
        alarms as f64,
    );
}

fn repository(registry: &mut Registry, figures: &Figures, now: DateTime<Utc>) {
    let age = now.signed_duration_since(figures.at).as_seconds_f64();
    gauge(registry, "figures_age_seconds", "How old what follows of the repository is", age);
    gauge(registry, "backups", "Backups", figures.list.backups.len() as f64);
    gauge(
        registry,
        "backups_unreadable",
        "Backups whose records cannot be read",
        figures.list.unreadable_backups.len() as f64,
    );
    gauge(registry, "holes", "Holes in the WAL", figures.holes.len() as f64);
    gauge(
        registry,
        "holes_without_backup",
        "Holes that no backup lies behind",
        figures.holes_without_backup() as f64,
    );
    gauge(registry, "gaps", "Missing WAL without a known cause", figures.gaps() as f64);
    let bytes = vec![
        (label("kind", "packs"), figures.pack_bytes as f64),
        (label("kind", "wal"), figures.wal_bytes as f64),
    ];
    labelled(registry, "repository_bytes", "Bytes in the repository", bytes);
    if let Some(space) = figures.space {
        gauge(
            registry,
            "repository_free_bytes",
            "Room left where the repository is",
            space.free_bytes as f64,
        );
        gauge(registry, "repository_room_bytes", "Room in all where it is", space.total_bytes as f64);
    }
    let window = figures.list.windows.last();
    let (from, until) = (window.map(|window| window.from), window.and_then(|window| window.to));
    gauge(
        registry,
        "recoverable_from_seconds",
        "The oldest moment of the current recovery window",
        from.map(seconds),
    );
    gauge(
        registry,
        "recoverable_until_seconds",
        "The newest moment that can be restored",
        until.map(seconds),
    );
    if let Some(last) = &figures.last {
        last_backup(registry, last, now);
    }
    if let Some(verified) = &figures.verified {
        let age = now.signed_duration_since(verified.finished_at).as_seconds_f64();
        gauge(registry, "verification_age_seconds", "Since when the last verification is over", age);
        gauge(
            registry,
            "verification_findings",
            "What the last verification found",
            verified.findings as f64,
        );
        gauge(registry, "verification_unread", "Objects it could not read", verified.unread as f64);
    }
    gauge(
        registry,
        "findings",
        "What `backupctl status` finds wrong with the repository",
        figures.findings.len() as f64,
    );
    gauge(registry, "backups_running", "Backups that say that they run", figures.running.len() as f64);
}

fn last_backup(registry: &mut Registry, last: &Record, now: DateTime<Utc>) {
    let age = now.signed_duration_since(last.finished_at).as_seconds_f64();
    gauge(registry, "last_backup_age_seconds", "Since when the newest backup is there", age);
    gauge(
        registry,
        "last_backup_end_seconds",
        "When the newest backup was published",
        seconds(last.finished_at),
    );
    gauge(registry, "last_backup_duration_seconds", "How long the newest backup took", duration(last));
    gauge(registry, "last_backup_size_bytes", "Bytes of the newest backup's files", last.size_bytes as f64);
    gauge(
        registry,
        "last_backup_stored_bytes",
        "Bytes that the newest backup added",
        last.stored_bytes as f64,
    );
    gauge(
        registry,
        "last_backup_corrupt_pages",
        "Corrupt pages it found on the server",
        last.corrupt_pages_total as f64,
    );
}

fn duration(record: &Record) -> f64 {
    record.finished_at.signed_duration_since(record.started_at).as_seconds_f64()
}

/// The names of PostDock's exporter, for dashboards that exist. What it calls copying is a part of what a backup takes, and is not
/// told apart here.
fn names_of_postdock(registry: &mut Registry, snapshot: &Snapshot) {
    let figures = snapshot.figures.as_deref();
    let healthy = figures.is_some_and(|figures| {
        figures.gaps() + figures.holes_without_backup() + figures.list.unreadable_backups.len() == 0
    });
    let ok = truth(health::of(snapshot).ready && healthy);
    gauge(registry, "barman_check_is_ok", "As drydock_ready, with no hole that needs a backup", ok);
    let Some(figures) = figures else { return };
    gauge(registry, "barman_backups_amount", "As drydock_backups", figures.list.backups.len() as f64);
    let oldest = figures.list.backups.first().map(|backup| seconds(backup.finished_at));
    gauge(registry, "barman_oldest_backup_end_time_seconds", "When the oldest backup was published", oldest);
    let used = (figures.pack_bytes + figures.wal_bytes) as f64;
    gauge(registry, "barman_disk_used_bytes", "As drydock_repository_bytes, of all kinds", used);
    gauge(
        registry,
        "barman_disk_free_bytes",
        "Room where the repository is",
        figures.space.map(|space| space.free_bytes as f64),
    );
    let Some(last) = &figures.last else { return };
    for (name, value) in [
        ("barman_last_backup_start_time_seconds", seconds(last.started_at)),
        ("barman_last_backup_end_time_seconds", seconds(last.finished_at)),
        ("barman_last_backup_size_bytes", last.size_bytes as f64),
        ("barman_last_backup_duration_total_seconds", duration(last)),
        ("barman_last_backup_duration_copy_seconds", duration(last)),
    ] {
        gauge(registry, name, "Of the newest backup", value);
    }
}
