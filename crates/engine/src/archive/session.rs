//! One session: from connecting to whatever ends it.
//!
//! [`Session::step`] waits in one place for whatever comes first; what to do about it is decided without waiting.

use std::collections::BTreeSet;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use pgformat::{Lsn, SegmentName};
use replication::{StatusUpdate, StreamEvent};
use repository::Cluster;
use repository::wal::{Frontier, Stored, WalStream};
use tokio::sync::{Notify, watch};
use tokio::task::{JoinError, JoinSet};
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;

use super::assemble::{Assembler, Chunk, Refused};
use super::open::{self, Opened};
use super::{ArchiveConfig, ArchiveStatus, Ended, Target, synchronous};
use crate::Error;
use crate::server::Server;

/// Time between two status updates when nothing changes; well below `wal_sender_timeout`, which is a minute by default.
const STATUS_INTERVAL: Duration = Duration::from_secs(10);
/// Pieces of one segment at most; then one piece from the start of the segment replaces them.
const PIECES_MAX: u32 = 64;
/// Plain bytes of segments that are compressed and written at once, at most; but one segment always may.
const SEGMENT_BYTES_IN_FLIGHT_MAX: u64 = 64 << 20;
/// Clean-ups under way at once, at most.
const CLEANUPS_MAX: usize = 4;
/// For whatever comes before a piece is cut and after it is durable.
const PIECE_MARGIN: Duration = Duration::from_millis(50);
/// How much of the longest time that a piece took is still reckoned with after the next one.
const PIECE_TIME_KEPT: f64 = 0.9;
/// How long a stop waits for what was received to become durable.
const STOP_WAIT: Duration = Duration::from_secs(5);
/// Time between two tries to write to a repository that cannot be written to.
const STORE_RETRY_MIN: Duration = Duration::from_millis(250);
const STORE_RETRY_MAX: Duration = Duration::from_secs(5);

/// Opens a stream and archives it until something ends it.
pub(super) async fn attempt(
    config: &ArchiveConfig,
    target: &Target,
    cluster: &Cluster,
    status: &watch::Sender<ArchiveStatus>,
    shutdown: &CancellationToken,
) -> Result<Ended, Error> {
    let opened = tokio::select! {
        biased;
        () = shutdown.cancelled() => return Ok(Ended::Stopped),
        opened = open::open(config, target, cluster, status) => opened?,
    };
    let Some(opened) = opened else { return Ok(Ended::Again) };
    let (synchronous, watched) = watch::channel(opened.server.synchronous);
    let wal_came = Arc::new(Notify::new());
    // A set, so that the watcher ends with the session however that ends.
    let mut watcher = JoinSet::new();
    watcher.spawn(synchronous::watch(target.connect.clone(), synchronous, wal_came.clone()));
    let mut session = Session::new(config, cluster, status, opened, watched, wal_came);
    let ended = session.run(shutdown).await;
    watcher.shutdown().await;
    match ended {
        Err(Error::Server(error)) if open::leaves_a_hole(&error) => {
            let durable = session.frontier.durable();
            open::give_up(config, target, cluster, &session.server, durable, error, status).await?;
            Ok(Ended::Again)
        }
        ended => ended,
    }
}

struct Session<'a> {
    config: &'a ArchiveConfig,
    cluster: &'a Cluster,
    status: &'a watch::Sender<ArchiveStatus>,
    server: Server,
    wal: replication::WalStream,
    stream: WalStream,
    assembler: Assembler,
    frontier: Frontier,
    synchronous: watch::Receiver<bool>,
    wal_came: Arc<Notify>,
    /// How many segments may be stored at once: as configured, and fewer when they are large.
    in_flight_max: usize,
    /// Segments that are being stored.
    segments: JoinSet<Result<Stored, Error>>,
    /// The piece that is being stored; never more than one.
    piece: JoinSet<Result<Stored, Error>>,
    cleanups: JoinSet<()>,
    /// Segments that have pieces.
    with_pieces: BTreeSet<SegmentName>,
    /// Pieces of the segment that is being received.
    piece_count: u32,
    /// The piece under way holds everything from the start of its segment.
    replaces_pieces: bool,
    /// Since when WAL waits to be cut into a piece.
    waiting_since: Option<Instant>,
    /// When the piece under way was cut, and how long pieces have lately taken to become durable.
    piece_cut_at: Option<Instant>,
    piece_takes: Duration,
    /// Nothing of the timeline is durable yet. Until something is, nothing is written beside its first segment: what came after it
    /// would, if we died in between, look like the beginning of the archive, and be acknowledged.
    begins: bool,
    server_end: Lsn,
    acknowledged: Lsn,
    /// The server has sent something: it has the WAL we asked for. Before, it must not be told where we are: it would set the slot back
    /// to a position whose WAL it has removed, and the slot would look as if it kept that.
    confirmed: bool,
}

/// What a session waited for.
enum Happened {
    Stop,
    Segment(Result<Stored, Error>),
    Piece(Result<Stored, Error>),
    Stream(StreamEvent),
    Cleaned,
    FlushIsDue,
    StatusIsDue,
    SynchronousChanged,
}

impl<'a> Session<'a> {
    fn new(
        config: &'a ArchiveConfig,
        cluster: &'a Cluster,
        status: &'a watch::Sender<ArchiveStatus>,
        opened: Opened,
        synchronous: watch::Receiver<bool>,
        wal_came: Arc<Notify>,
    ) -> Session<'a> {
        let first = SegmentName::containing(
            opened.stream.timeline,
            opened.assembler.segment_start(),
            opened.stream.segment_size,
        );
        let fit = SEGMENT_BYTES_IN_FLIGHT_MAX / opened.stream.segment_size.bytes();
        let in_flight_max = config.in_flight_max.min(usize::try_from(fit).unwrap_or(1)).max(1);
        Session {
            config,
            in_flight_max,
            cluster,
            status,
            server_end: opened.server.flushed,
            server: opened.server,
            wal: opened.wal,
            stream: opened.stream,
            assembler: opened.assembler,
            frontier: opened.frontier,
            begins: opened.begins,
            synchronous,
            wal_came,
            segments: JoinSet::new(),
            piece: JoinSet::new(),
            cleanups: JoinSet::new(),
            with_pieces: (opened.pieces > 0).then_some(first).into_iter().collect(),
            piece_count: u32::try_from(opened.pieces).unwrap_or(u32::MAX),
            replaces_pieces: false,
            waiting_since: None,
            piece_cut_at: None,
            piece_takes: Duration::ZERO,
            acknowledged: Lsn::INVALID,
            confirmed: false,
        }
    }

    async fn run(&mut self, shutdown: &CancellationToken) -> Result<Ended, Error> {
        let durable = self.frontier.durable();
        tracing::info!(
            server = self.server.target, timeline = %durable.timeline(), durable = %durable.lsn(),
            synchronous = *self.synchronous.borrow(), "streaming"
        );
        self.publish_status(true);
        let mut ticks = tokio::time::interval(STATUS_INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let happened = self.wait(shutdown, &mut ticks).await?;
            match happened {
                Happened::Stop => return self.stop().await,
                Happened::Stream(StreamEvent::EndOfTimeline { next, .. }) => {
                    return self.end_timeline(next).await;
                }
                other => self.handle(other).await?,
            }
            self.start_cleanups();
            self.cut_piece_if_due();
        }
    }

    /// The one place that waits.
    async fn wait(
        &mut self,
        shutdown: &CancellationToken,
        ticks: &mut tokio::time::Interval,
    ) -> Result<Happened, Error> {
        let room = self.segments.len() < self.in_flight_max
            && self.ahead() < self.in_flight_max
            && !self.first_is_under_way();
        let flush_at = self
            .waiting_since
            .filter(|_| self.piece.is_empty() && !self.first_is_under_way())
            .map(|since| since + waits_at_most(self.config.flush_interval, self.piece_takes));
        let flush_is_due = async {
            match flush_at {
                Some(at) => tokio::time::sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        // In this order: what is finished counts before more is taken in, and a stream that never rests holds up nothing.
        Ok(tokio::select! {
            biased;
            () = shutdown.cancelled() => Happened::Stop,
            Some(done) = self.segments.join_next() => Happened::Segment(joined(done)),
            Some(done) = self.piece.join_next() => Happened::Piece(joined(done)),
            Some(_) = self.cleanups.join_next() => Happened::Cleaned,
            () = flush_is_due => Happened::FlushIsDue,
            _ = ticks.tick() => Happened::StatusIsDue,
            Ok(()) = self.synchronous.changed() => Happened::SynchronousChanged,
            event = self.wal.next(), if room => Happened::Stream(event?),
        })
    }

    /// The timeline's first segment is being stored, and nothing of the timeline is durable.
    fn first_is_under_way(&self) -> bool {
        self.begins && !self.segments.is_empty()
    }

    /// Whole segments between what is durable and what is being received. One that cannot be stored holds up the rest.
    fn ahead(&self) -> usize {
        let ahead = self.assembler.segment_start().since(self.frontier.durable().lsn());
        usize::try_from(ahead / self.stream.segment_size.bytes()).unwrap_or(usize::MAX)
    }

    async fn handle(&mut self, happened: Happened) -> Result<(), Error> {
        match happened {
            Happened::Segment(stored) => {
                self.frontier.add(stored?);
                self.begins = false;
                self.acknowledge().await
            }
            Happened::Piece(stored) => {
                self.piece_is_stored(stored?);
                self.acknowledge().await
            }
            Happened::Stream(StreamEvent::Wal { start, server_end, data }) => {
                self.server_end = server_end;
                self.wal_came.notify_one();
                self.receive(start, &data)?;
                self.confirm().await
            }
            Happened::Stream(StreamEvent::Keepalive { server_end, reply_requested }) => {
                self.server_end = server_end;
                self.confirm().await?;
                if reply_requested { self.send_status().await } else { Ok(()) }
            }
            Happened::StatusIsDue if self.confirmed => self.send_status().await,
            Happened::StatusIsDue => Ok(()),
            Happened::SynchronousChanged => {
                let synchronous = *self.synchronous.borrow_and_update();
                tracing::info!(synchronous, "whether commits wait for this archive has changed");
                self.publish_status(false);
                Ok(())
            }
            Happened::FlushIsDue => {
                self.cut_piece();
                Ok(())
            }
            Happened::Cleaned | Happened::Stop | Happened::Stream(StreamEvent::EndOfTimeline { .. }) => {
                Ok(())
            }
        }
    }

    fn receive(&mut self, start: Lsn, data: &[u8]) -> Result<(), Error> {
        let whole = self.assembler.push(start, data).map_err(|refused| self.refuse(refused))?;
        for segment in whole {
            self.piece_count = 0;
            self.waiting_since = None;
            self.store_segment(segment);
        }
        if self.assembler.has_waiting() {
            self.waiting_since.get_or_insert_with(Instant::now);
        }
        Ok(())
    }

    fn refuse(&self, refused: Refused) -> Error {
        let target = self.server.target.clone();
        match refused {
            Refused::Bad(source) => Error::BadWal { target, source },
            Refused::Differs(lsn) => Error::Diverged { target, timeline: self.stream.timeline, lsn },
            Refused::Ended(lsn) => Error::Server(replication::Error::Protocol(format!(
                "{target} sent zeroes at {lsn}, where a WAL record should begin"
            ))),
            Refused::Gap { expected, found } => Error::Server(replication::Error::Protocol(format!(
                "{target} sent WAL from {found} where {expected} comes next"
            ))),
        }
    }

    fn store_segment(&mut self, segment: Chunk) {
        let (cluster, stream, status) = (self.cluster.clone(), self.stream, self.status.clone());
        let chunk = segment.with_durable(self.frontier.durable().lsn());
        self.segments.spawn(async move {
            let wal = cluster.encode_segment(&stream, chunk).await?;
            until_stored(|| cluster.put_wal(&wal), &status).await
        });
    }

    fn cut_piece_if_due(&mut self) {
        // While the server still has more to send, no commit waits for what we have; one write then answers all.
        let answers_commits = *self.synchronous.borrow() && self.assembler.received() >= self.server_end;
        if answers_commits && self.piece.is_empty() && self.assembler.has_waiting() {
            self.cut_piece();
        }
    }

    fn cut_piece(&mut self) {
        if self.first_is_under_way() {
            return;
        }
        self.waiting_since = None;
        if !self.assembler.has_waiting() {
            return;
        }
        self.replaces_pieces = self.piece_count >= PIECES_MAX;
        let chunk =
            if self.replaces_pieces { self.assembler.cut_whole_piece() } else { self.assembler.cut_piece() };
        self.piece_count = if self.replaces_pieces { 1 } else { self.piece_count + 1 };
        self.piece_cut_at = Some(Instant::now());
        self.with_pieces.insert(SegmentName::containing(
            self.stream.timeline,
            chunk.from,
            self.stream.segment_size,
        ));
        let (cluster, stream, status) = (self.cluster.clone(), self.stream, self.status.clone());
        let chunk = chunk.with_durable(self.frontier.durable().lsn());
        self.piece.spawn(async move {
            let wal = cluster.encode_piece(&stream, chunk).await?;
            until_stored(|| cluster.put_wal(&wal), &status).await
        });
    }

    fn piece_is_stored(&mut self, stored: Stored) {
        self.frontier.add(stored);
        self.begins = false;
        let took = self.piece_cut_at.take().map_or(Duration::ZERO, |cut_at| cut_at.elapsed());
        // The longest of late: an average would make half of them late.
        self.piece_takes = took.max(self.piece_takes.mul_f64(PIECE_TIME_KEPT));
        if std::mem::take(&mut self.replaces_pieces) {
            let (cluster, size) = (self.cluster.clone(), self.stream.segment_size);
            let name = SegmentName::containing(self.stream.timeline, stored.from(), size);
            self.cleanups.spawn(async move {
                report_leftovers(name, cluster.delete_pieces_within(name, size, stored.to()).await);
            });
        }
        if self.assembler.has_waiting() {
            self.waiting_since.get_or_insert_with(Instant::now);
        }
    }

    /// Removes the pieces of segments that are durable as a whole. Not while a piece is under way: it may be one of them.
    fn start_cleanups(&mut self) {
        if !self.piece.is_empty() {
            return;
        }
        let size = self.stream.segment_size;
        let durable = self.frontier.durable().lsn();
        while self.cleanups.len() < CLEANUPS_MAX {
            let Some(name) = self.with_pieces.first().copied().filter(|name| name.end(size) <= durable)
            else {
                break;
            };
            self.with_pieces.remove(&name);
            let cluster = self.cluster.clone();
            self.cleanups.spawn(async move {
                report_leftovers(name, cluster.delete_pieces(name, size, name.end(size)).await);
            });
        }
    }

    /// The server has what we asked for; from now on it is told where we are.
    async fn confirm(&mut self) -> Result<(), Error> {
        self.confirmed = true;
        self.acknowledge().await
    }

    /// Tells the server what is durable, if that has moved.
    async fn acknowledge(&mut self) -> Result<(), Error> {
        if !self.confirmed || self.frontier.durable().lsn() == self.acknowledged {
            return Ok(());
        }
        self.publish_status(false);
        self.send_status().await
    }

    /// `Durable` is the only position that is ever reported as flushed. It is reported as applied as well, so that
    /// `synchronous_commit = remote_apply` does not wait for ever on an archive that applies nothing.
    async fn send_status(&mut self) -> Result<(), Error> {
        let durable = self.frontier.durable().lsn();
        let received = self.assembler.received().max(durable);
        let update =
            StatusUpdate { written: received, flushed: durable, applied: durable, reply_requested: false };
        self.wal.send_status(update).await?;
        self.acknowledged = durable;
        self.publish_status(false);
        Ok(())
    }

    fn publish_status(&self, begins: bool) {
        let (durable, received) = (self.frontier.durable(), self.assembler.received());
        self.status.send_modify(|status| {
            if begins {
                status.server = Some(self.server.clone());
                status.problem = None;
                status.lacking = None;
                status.since = Some((self.config.clock)());
            }
            status.durable = Some(durable);
            status.received = received.max(durable.lsn());
            status.server_end = self.server_end;
            status.synchronous = *self.synchronous.borrow();
        });
    }

    async fn stop(&mut self) -> Result<Ended, Error> {
        // What is not durable by then will be streamed again.
        match tokio::time::timeout(STOP_WAIT, self.drain()).await {
            Ok(result) => result?,
            Err(_elapsed) => tracing::warn!("stopping although the repository has not taken everything yet"),
        }
        tracing::info!(durable = %self.frontier.durable().lsn(), "stopped streaming");
        Ok(Ended::Stopped)
    }

    /// The old timeline's unfinished segment is kept as a piece; what follows is streamed as the next timeline's.
    async fn end_timeline(&mut self, next: Option<(pgformat::TimelineId, Lsn)>) -> Result<Ended, Error> {
        self.drain().await?;
        let durable = self.frontier.durable();
        tracing::info!(
            timeline = %durable.timeline(), end = %durable.lsn(), next = next.map(|(timeline, _)| timeline.get()),
            "the server ended the timeline"
        );
        Ok(Ended::Again)
    }

    /// Waits until everything received is durable and acknowledged.
    async fn drain(&mut self) -> Result<(), Error> {
        loop {
            if self.piece.is_empty() {
                self.cut_piece();
            }
            let stored = tokio::select! {
                biased;
                Some(done) = self.segments.join_next() => joined(done)?,
                Some(done) = self.piece.join_next() => joined(done)?,
                else => break,
            };
            self.frontier.add(stored);
            self.begins = false;
        }
        self.start_cleanups();
        while self.cleanups.join_next().await.is_some() {}
        if let Err(error) = self.send_status().await {
            // The server is gone or its timeline is over; it asks again where we are.
            tracing::debug!(%error, "the last acknowledgement was not taken");
        }
        Ok(())
    }
}

/// How long WAL may wait for more, to be durable within `flush_interval`. A storage that takes long shortens that by half
/// at most, as every piece costs.
fn waits_at_most(flush_interval: Duration, piece_takes: Duration) -> Duration {
    flush_interval.saturating_sub(piece_takes + PIECE_MARGIN).max(flush_interval / 2)
}

fn joined(done: Result<Result<Stored, Error>, JoinError>) -> Result<Stored, Error> {
    done.unwrap_or_else(|cause| {
        let source = std::io::Error::other(cause);
        let error = store::Error::Unavailable { action: "store", key: "WAL".to_owned(), source };
        Err(Error::Repository(error.into()))
    })
}

/// Tries until it is stored, or until that can never be. While it waits, the connection is kept alive by the session,
/// nothing more is acknowledged, and WAL waits on the server.
async fn until_stored<F, R>(mut put: F, status: &watch::Sender<ArchiveStatus>) -> Result<Stored, Error>
where
    F: FnMut() -> R,
    R: Future<Output = Result<Stored, repository::Error>>,
{
    let mut delay = STORE_RETRY_MIN;
    let mut told = String::new();
    loop {
        let error = match put().await {
            Ok(stored) => {
                if !told.is_empty() {
                    tracing::info!("the repository takes WAL again");
                    status.send_modify(|status| status.problem = None);
                }
                return Ok(stored);
            }
            Err(error) => Error::from(error),
        };
        let waits = error.is_transient()
            || matches!(
                &error,
                Error::Repository(repository::Error::Store(
                    store::Error::Denied { .. } | store::Error::Refused { .. }
                ))
            );
        if !waits {
            return Err(error);
        }
        let problem = crate::error::chain(&error);
        if problem != told {
            let hint = error.hint().unwrap_or_default();
            tracing::warn!(
                hint,
                "the repository does not take WAL, which waits on the server meanwhile: {problem}"
            );
            status.send_modify(|status| status.problem = Some(problem.clone()));
            told = problem;
        }
        tokio::time::sleep(delay).await;
        delay = (delay * 2).min(STORE_RETRY_MAX);
    }
}

/// Pieces that stay do no harm: the next session removes them.
fn report_leftovers(name: SegmentName, result: Result<(), repository::Error>) {
    if let Err(error) = result {
        tracing::info!(
            segment = name.number,
            "pieces that are no longer needed could not be removed yet: {error}"
        );
    }
}
