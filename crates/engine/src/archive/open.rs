//! Beginning a session: find out what the server is and what the repository has, and start the stream that joins them.

use pgformat::wal::Expect;
use pgformat::{History, Lsn, SegmentName, TimelineId};
use replication::{Connection, SlotState};
use repository::Cluster;
use repository::wal::{Coverage, Durable, Frontier, Hole, WalStream};

use super::ArchiveConfig;
use super::assemble::Assembler;
use crate::Error;
use crate::follow::{self, Decision, Known};
use crate::server::Server;

/// A stream that has started, and what it goes on from.
pub(super) struct Opened {
    pub(super) server: Server,
    pub(super) wal: replication::WalStream,
    pub(super) stream: WalStream,
    pub(super) assembler: Assembler,
    pub(super) frontier: Frontier,
    /// How many pieces of the first segment are there.
    pub(super) pieces: usize,
}

/// Where a session streams from.
struct Start {
    timeline: TimelineId,
    lsn: Lsn,
}

/// Begins a session; `None` when a hole was recorded and the next attempt goes on behind it.
pub(super) async fn open(config: &ArchiveConfig, cluster: &Cluster) -> Result<Option<Opened>, Error> {
    let (mut connection, server) = Server::connect(&config.connect).await?;
    cluster.claim(&server.identity((config.clock)())).await?;
    let history = archive_histories(&mut connection, cluster, &server).await?;
    let coverage = cluster.coverage(server.segment_size).await?;
    remove_superseded_pieces(cluster, &coverage, &server).await?;
    let known = newest(&coverage);
    // A node that has just become what we follow never had our slot.
    let expected = known.is_some_and(|known| known.timeline == server.timeline);
    let restart_lsn = ensure_slot(&mut connection, &config.slot, expected).await?;
    let start = choose_start(&server, &history, known, restart_lsn)?;

    let frontier = match coverage.timelines.get(&start.timeline).and_then(|covered| covered.frontier()) {
        Some(frontier) => frontier,
        None => cluster.begin_frontier(start.timeline, start.lsn),
    };
    let wal = match connection.start_replication(Some(&config.slot), start.timeline, start.lsn).await {
        Ok(wal) => wal,
        Err(error) if leaves_a_hole(&error) => {
            record_hole(config, cluster, &server, frontier.durable(), &error).await?;
            return Ok(None);
        }
        Err(error) => return Err(error.into()),
    };
    let first = SegmentName::containing(start.timeline, start.lsn, server.segment_size);
    let pieces = cluster.pieces(first, server.segment_size).await?.len();
    let known_bytes = match cluster.read_pieces(first, server.segment_size).await {
        Err(error) if error.is_damage() => {
            // The server still has this segment, so what is damaged is streamed and stored again.
            tracing::error!("WAL in the repository is damaged and will be stored again: {error}");
            Vec::new()
        }
        bytes => bytes?,
    };
    let stream = WalStream {
        system_identifier: server.system_identifier,
        timeline: start.timeline,
        segment_size: server.segment_size,
    };
    let expect = Expect {
        system_identifier: server.system_identifier,
        timeline: start.timeline,
        major: server.major,
        segment_size: server.segment_size,
    };
    let assembler = Assembler::new(expect, start.lsn, known_bytes);
    Ok(Some(Opened { server, wal, stream, assembler, frontier, pieces }))
}

fn choose_start(
    server: &Server,
    history: &History,
    known: Option<Known>,
    restart_lsn: Option<Lsn>,
) -> Result<Start, Error> {
    let size = server.segment_size;
    match follow::decide(history, known, size) {
        // The slot keeps WAL from its restart position; a new archive begins as early as it can.
        Decision::Begin { timeline } => {
            let lsn = size.floor(restart_lsn.unwrap_or(server.flushed).min(server.flushed));
            tracing::info!(%timeline, %lsn, "beginning the archive");
            Ok(Start { timeline, lsn })
        }
        Decision::Continue { timeline, start } => Ok(Start { timeline, lsn: start }),
        Decision::Switch { timeline, start, fork } => {
            tracing::info!(%timeline, %fork, "going over to the server's timeline");
            Ok(Start { timeline, lsn: start })
        }
        Decision::Refuse { reason } => Err(Error::Unsuitable {
            reason: format!("{}: {reason}", server.target),
            hint: "point the service at the primary that continues the archived history, or archive this one as another cluster"
                .to_owned(),
        }),
    }
}

/// The newest timeline the repository has WAL of, and how far.
pub(crate) fn newest(coverage: &Coverage) -> Option<Known> {
    let (timeline, covered) = coverage.timelines.last_key_value()?;
    Some(Known { timeline: *timeline, durable: covered.resume_at()? })
}

/// Archives the server's history files before any of its WAL: a timeline without its history cannot be restored.
async fn archive_histories(
    connection: &mut Connection,
    cluster: &Cluster,
    server: &Server,
) -> Result<History, Error> {
    if server.timeline == TimelineId::FIRST {
        return Ok(History::first());
    }
    let file = connection.timeline_history(server.timeline).await?;
    let history = History::parse(server.timeline, &file.content).map_err(|error| Error::Unsuitable {
        reason: format!("{} has a damaged {}: {error}", server.target, file.name),
        hint: "restore the file on the server from another node of the cluster".to_owned(),
    })?;
    for ancestor in
        history.entries.iter().map(|entry| entry.timeline).filter(|ancestor| *ancestor != TimelineId::FIRST)
    {
        archive_ancestor(connection, cluster, ancestor).await?;
    }
    cluster.put_history(server.timeline, file.content).await?;
    Ok(history)
}

/// An ancestor's history is contained in its descendant's, so a server that no longer has the file does no harm.
async fn archive_ancestor(
    connection: &mut Connection,
    cluster: &Cluster,
    ancestor: TimelineId,
) -> Result<(), Error> {
    if cluster.history(ancestor).await?.is_some() {
        return Ok(());
    }
    match connection.timeline_history(ancestor).await {
        Ok(file) => Ok(cluster.put_history(ancestor, file.content).await?),
        Err(error) if error.is_transient() => Err(error.into()),
        Err(error) => {
            tracing::info!(timeline = %ancestor, "the server has no history file of an ancestor: {error}");
            Ok(())
        }
    }
}

/// A crash between storing a segment and removing its pieces leaves pieces that nobody needs.
async fn remove_superseded_pieces(
    cluster: &Cluster,
    coverage: &Coverage,
    server: &Server,
) -> Result<(), Error> {
    for name in coverage.timelines.values().flat_map(|covered| &covered.superseded) {
        cluster.delete_pieces(*name, server.segment_size, name.end(server.segment_size)).await?;
    }
    Ok(())
}

/// Makes the slot when it is not there, and gives the position it keeps WAL from, where the server says it.
async fn ensure_slot(connection: &mut Connection, slot: &str, expected: bool) -> Result<Option<Lsn>, Error> {
    match connection.read_slot(slot).await? {
        SlotState::Physical { restart_lsn, .. } => return Ok(restart_lsn),
        SlotState::Missing | SlotState::Unsupported => {}
    }
    match connection.create_physical_slot(slot, true).await {
        Ok(()) if expected => {
            tracing::warn!(
                slot,
                "the slot was missing and has been made again; if the server removed WAL meanwhile, a hole will be recorded"
            );
        }
        Ok(()) => tracing::info!(slot, "made the replication slot"),
        // Below version 15 a server cannot be asked for its slots, so making it is how to find out.
        Err(replication::Error::SlotExists { .. }) => {}
        Err(error) => return Err(error.into()),
    }
    match connection.read_slot(slot).await? {
        SlotState::Physical { restart_lsn, .. } => Ok(restart_lsn),
        SlotState::Missing | SlotState::Unsupported => Ok(None),
    }
}

/// Whether the server has said that the WAL we need next is gone. It says so when it is asked to stream, or only when it
/// looks for the segment.
pub(super) fn leaves_a_hole(error: &replication::Error) -> bool {
    matches!(error, replication::Error::WalRemoved { .. } | replication::Error::SlotInvalidated { .. })
}

/// The WAL after what is durable is gone from the server. Records that, so that archiving can go on behind it.
pub(super) async fn record_hole(
    config: &ArchiveConfig,
    cluster: &Cluster,
    server: &Server,
    durable: Durable,
    error: &replication::Error,
) -> Result<(), Error> {
    let (timeline, from) = (durable.timeline(), durable.lsn());
    let (mut connection, again) = Server::connect(&config.connect).await?;
    if matches!(error, replication::Error::SlotInvalidated { .. }) {
        connection.drop_slot(&config.slot).await?;
    }
    let size = server.segment_size;
    let mut restart_lsn = ensure_slot(&mut connection, &config.slot, true).await?;
    if restart_lsn.is_some_and(|restart| size.floor(restart) <= from) {
        // It claims to keep what the server has just said is gone, so it keeps nothing; a new one does.
        connection.drop_slot(&config.slot).await?;
        restart_lsn = ensure_slot(&mut connection, &config.slot, true).await?;
    }
    let to = size.floor(restart_lsn.unwrap_or(again.flushed));
    if to <= from || again.timeline != timeline {
        // The server's answers do not fit together (it is changing under us); asking again is safe, guessing is not.
        return Err(Error::Server(replication::Error::WalRemoved { message: error.to_string() }));
    }
    let cause = format!("slot \"{}\" did not keep it, and the server has removed it: {error}", config.slot);
    let hole = Hole { timeline, from, to, cause, since: (config.clock)() };
    cluster.put_hole(&hole).await?;
    tracing::error!(
        timeline = %timeline, from = %hole.from, to = %hole.to,
        "WAL is missing for good and a hole has been recorded: {error}; a new base backup is needed"
    );
    Ok(())
}
