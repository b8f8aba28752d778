//! Beginning a session: find out what the server is and what the repository has, and start the stream that joins them.

use pgformat::wal::Expect;
use pgformat::{History, Lsn, SegmentName, SegmentSize, TimelineId};
use replication::{ConnectConfig, Connection, SlotState, sql};
use repository::Cluster;
use repository::wal::{Coverage, Durable, Frontier, Hole, KnownWal, WalStream};
use tokio::sync::watch;

use super::assemble::Assembler;
use super::salvage::{self, Lost};
use super::{ArchiveConfig, ArchiveStatus, Target};
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
    /// The repository has nothing of the timeline yet, so nothing but the first object will show where its WAL begins.
    pub(super) begins: bool,
    /// How many pieces of the first segment are there.
    pub(super) pieces: usize,
}

/// Where a session streams from.
struct Start {
    timeline: TimelineId,
    lsn: Lsn,
}

/// Begins a session; `None` when a hole was recorded and the next attempt goes on behind it.
pub(super) async fn open(
    config: &ArchiveConfig,
    target: &Target,
    cluster: &Cluster,
    status: &watch::Sender<ArchiveStatus>,
) -> Result<Option<Opened>, Error> {
    let (mut connection, server) = Server::connect(&target.connect).await?;
    cluster.claim(&server.identity((config.clock)())).await?;
    let history = archive_histories(&mut connection, cluster, &server).await?;
    let coverage = cluster.coverage(server.segment_size).await?;
    remove_superseded_pieces(cluster, &coverage, &server).await?;
    let known = newest(&coverage);
    // A node that has just become what we follow never had our slot.
    let expected = known.is_some_and(|known| known.timeline == server.timeline);
    let restart_lsn = ensure_slot(&mut connection, config.slot.as_deref(), expected).await?;
    let start = choose_start(&server, &history, known, restart_lsn)?;

    let resumed = coverage.timelines.get(&start.timeline).and_then(|covered| covered.frontier());
    let begins = resumed.is_none();
    let frontier = resumed.unwrap_or_else(|| cluster.begin_frontier(start.timeline, start.lsn));
    let wal = match connection.start_replication(config.slot.as_deref(), start.timeline, start.lsn).await {
        Ok(wal) => wal,
        Err(error) if leaves_a_hole(&error) => {
            give_up(config, target, cluster, &server, frontier.durable(), error, status).await?;
            return Ok(None);
        }
        Err(error) => return Err(error.into()),
    };
    let first = SegmentName::containing(start.timeline, start.lsn, server.segment_size);
    let pieces = cluster.pieces(first, server.segment_size).await?.len();
    let known = match cluster.known_pieces(first, server.segment_size).await {
        Err(error) if error.is_damage() => {
            // The server still has this segment, so what is damaged is streamed and stored again.
            tracing::error!("WAL in the repository is damaged and will be stored again: {error}");
            KnownWal::Plain(Vec::new())
        }
        known => known?,
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
    let assembler = Assembler::new(expect, start.lsn, known);
    Ok(Some(Opened { server, wal, stream, assembler, frontier, begins, pieces }))
}

fn choose_start(
    server: &Server,
    history: &History,
    known: Option<Known>,
    restart_lsn: Option<Lsn>,
) -> Result<Start, Error> {
    let size = server.segment_size;
    match follow::decide(history, known, size) {
        // The slot keeps WAL from its restart position; a new archive begins as early as it can. Not earlier: the server may
        // have gone far since it said how far it was, and nothing keeps the WAL in between.
        Decision::Begin { timeline } => {
            let lsn = size.floor(restart_lsn.unwrap_or(server.flushed));
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
async fn ensure_slot(
    connection: &mut Connection,
    slot: Option<&str>,
    expected: bool,
) -> Result<Option<Lsn>, Error> {
    let Some(slot) = slot else { return Ok(None) };
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

/// The server no longer has the WAL after what is durable. Another node may have it, and whoever chooses the target is told;
/// when nobody has it, it becomes a hole.
pub(super) async fn give_up(
    config: &ArchiveConfig,
    target: &Target,
    cluster: &Cluster,
    server: &Server,
    durable: Durable,
    error: replication::Error,
    status: &watch::Sender<ArchiveStatus>,
) -> Result<(), Error> {
    if target.leaves_hole {
        return record_hole(config, target, cluster, server, durable, &error).await;
    }
    let lacked = Known { timeline: durable.timeline(), durable: durable.lsn() };
    tracing::warn!(
        server = server.target, timeline = %lacked.timeline, lsn = %lacked.durable,
        "the server no longer has the WAL that comes next; the other nodes are asked for it"
    );
    status.send_modify(|status| {
        status.server = None;
        status.durable = Some(durable);
        status.lacking = Some((target.node.clone(), lacked));
    });
    Err(error.into())
}

/// Records what is gone, so that archiving can go on behind it. Unless it is gone because another incarnation of ours archived it
/// after we had looked, or can be read out of some node's pg_wal: then beginning again is all there is to do.
async fn record_hole(
    config: &ArchiveConfig,
    target: &Target,
    cluster: &Cluster,
    server: &Server,
    durable: Durable,
    error: &replication::Error,
) -> Result<(), Error> {
    let (timeline, from) = (durable.timeline(), durable.lsn());
    let now = cluster.durable_end(timeline, server.segment_size).await?;
    if let Some(now) = now.filter(|now| now.lsn() > from) {
        tracing::info!(%timeline, durable = %now.lsn(), "the archive has gone on meanwhile; beginning again");
        return Ok(());
    }
    let (mut connection, again) = Server::connect(&target.connect).await?;
    let size = server.segment_size;
    let kept = match config.slot.as_deref() {
        Some(slot) => kept_by_slot(&mut connection, slot, from, size, error).await?,
        None => oldest_there(&target.connect, &again).await,
    };
    let kept = size.floor(kept.unwrap_or(again.flushed));
    let to = if again.timeline == timeline {
        kept
    } else {
        // The server has gone over to another timeline meanwhile; what it keeps of the old one ends at the fork.
        let history = archive_histories(&mut connection, cluster, &again).await?;
        history.fork_from(timeline).map_or(Lsn::INVALID, |fork| fork.min(kept))
    };
    if to <= from {
        // The server's answers do not fit together (it is changing under us); asking again is safe, guessing is not.
        return Err(Error::Server(replication::Error::WalRemoved { message: error.to_string() }));
    }
    if salvage::from_pg_wal(cluster, &Lost { server, durable, to }, &target.others).await? {
        return Ok(());
    }
    let cause = match &config.slot {
        Some(slot) => format!("slot \"{slot}\" did not keep it, and the server has removed it: {error}"),
        None => format!("no slot is used, and the server has removed it: {error}"),
    };
    let hole = Hole { timeline, from, to, cause, since: (config.clock)() };
    cluster.put_hole(&hole).await?;
    tracing::error!(
        timeline = %timeline, from = %hole.from, to = %hole.to,
        "WAL is missing for good and a hole has been recorded: {error}; a new base backup is needed"
    );
    Ok(())
}

/// From where on a slot keeps WAL, once it does.
async fn kept_by_slot(
    connection: &mut Connection,
    slot: &str,
    from: Lsn,
    size: SegmentSize,
    error: &replication::Error,
) -> Result<Option<Lsn>, Error> {
    if matches!(error, replication::Error::SlotInvalidated { .. }) {
        connection.drop_slot(slot).await?;
    }
    let restart_lsn = ensure_slot(connection, Some(slot), true).await?;
    if restart_lsn.is_some_and(|restart| size.floor(restart) <= from) {
        // It claims to keep what the server has just said is gone, so it keeps nothing; a new one does.
        connection.drop_slot(slot).await?;
        return ensure_slot(connection, Some(slot), true).await;
    }
    Ok(restart_lsn)
}

/// Where the oldest WAL begins that the server has of its timeline; `None` where it does not let us look.
async fn oldest_there(connect: &ConnectConfig, server: &Server) -> Option<Lsn> {
    let size = server.segment_size;
    let sql = "select min(name) from pg_ls_waldir() where name ~ '^[0-9A-F]{24}$' and name like $1 || '%'";
    let client = sql::connect(connect).await.ok()?;
    let row = client.query_one(sql, &[&format!("{:08X}", server.timeline.get())]).await.ok()?;
    let name: String = row.get::<_, Option<String>>(0)?;
    // The first may go before we get there; the one behind it is as good a beginning.
    Some(SegmentName::parse(&name, size)?.end(size)).filter(|lsn| *lsn <= server.flushed)
}

/// Ends the connection that has our slot. It belongs to a service that no longer holds the lease, and the server would keep
/// it for a minute.
pub(super) async fn evict(config: &ArchiveConfig, target: &Target) {
    let sql = "select count(pg_terminate_backend(active_pid)) from pg_replication_slots where slot_name = $1 and active";
    let ended = async {
        let client = sql::connect(&target.connect).await?;
        client.query_one(sql, &[&config.slot.as_deref().unwrap_or_default()]).await
    };
    match ended.await {
        Ok(_) => tracing::info!(
            server = target.node,
            "the connection of the service that is gone still had the slot, and is ended"
        ),
        Err(error) => tracing::warn!(
            server = target.node,
            "the slot is in use by the service that is gone, and its connection cannot be ended: {error}"
        ),
    }
}
