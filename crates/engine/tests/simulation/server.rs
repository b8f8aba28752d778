//! A server that speaks the replication protocol over streams in memory, by a script and a seed.
//!
//! It is as unkind as a real one may be. The slot keeps WAL from the position that was last acknowledged, and whole
//! segments before that are gone at once, so an acknowledgement that came too early is a loss. It sends what it has flushed
//! in parts of any size, stalls, restarts, drops connections, and does not always notice that its client died.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use pgformat::Lsn;
use replication::{Dialer, Stream};
use store::fault::Dice;
use tokio::sync::watch;
use tokio::time::sleep;

use super::peer::{Ended, Peer};
use super::script::{Script, segment_size};
use super::trace::Trace;

pub const SLOT: &str = "drydock";

/// How long a slow command takes.
pub const SLOW_COMMAND: std::ops::Range<Duration> = Duration::from_secs(1)..Duration::from_secs(30);

/// How the server behaves.
#[derive(Debug, Clone)]
pub struct Manners {
    /// Whether `synchronous_standby_names` names the archive, and commits wait for it.
    pub synchronous: bool,
    /// Time between two flushes of WAL.
    pub flush_every: std::ops::Range<Duration>,
    /// Most records flushed at once.
    pub burst: u64,
    /// Share of messages before which the server pauses, and for how long.
    pub pause: f64,
    pub pause_for: std::ops::Range<Duration>,
    /// Share of commands that are answered only after [`SLOW_COMMAND`].
    pub slow_commands: f64,
    /// Share of messages after which the connection breaks.
    pub breaks: f64,
    /// Time between restarts.
    pub restart_every: std::ops::Range<Duration>,
    /// How long it is away then.
    pub away_for: std::ops::Range<Duration>,
    /// Share of dead clients that are noticed only by the timeout.
    pub unnoticed: f64,
    pub wal_sender_timeout: Duration,
    /// The transport is a liar: it acknowledges what was received, not what is durable.
    pub acknowledges_received: bool,
}

/// What happened at the server.
#[derive(Debug, Clone, Default)]
pub struct Seen {
    pub connections: u64,
    pub streams: u64,
    pub restarts: u64,
    pub broken: u64,
    pub timed_out: u64,
    pub slots_made: u64,
    pub slots_dropped: u64,
    pub status_updates: u64,
    pub sent_bytes: u64,
    pub removed_asked_for: u64,
}

#[derive(Clone)]
pub struct Server(pub Arc<Shared>);

pub struct Shared {
    pub script: Script,
    pub manners: Manners,
    pub trace: Trace,
    pub state: Mutex<State>,
    /// Whoever needs chance forks dice of his own: who comes first at one moment must not matter.
    dice: Dice,
    pub flushed: watch::Sender<Lsn>,
    /// The highest position that was acknowledged.
    pub told: watch::Sender<Lsn>,
    /// Counts restarts; connections of an earlier life are dead.
    life: watch::Sender<u64>,
}

pub struct State {
    pub healed: bool,
    away: bool,
    /// From where on the slot keeps WAL.
    pub slot: Option<Lsn>,
    /// The connection that streams from the slot.
    pub holder: Option<u64>,
    /// WAL before this is gone.
    pub removed: Lsn,
    /// Where the first slot began to keep WAL, which is what the archive has to hold from.
    pub base: Option<Lsn>,
    pub seen: Seen,
    pub violations: Vec<String>,
}

impl Server {
    pub fn new(script: Script, manners: Manners, mut dice: Dice, trace: Trace) -> Server {
        let start = script.ends[usize::try_from(dice.below(40)).unwrap().min(script.ends.len() - 1)];
        let state = State {
            healed: false,
            away: false,
            slot: None,
            holder: None,
            removed: script.start,
            base: None,
            seen: Seen::default(),
            violations: Vec::new(),
        };
        Server(Arc::new(Shared {
            script,
            manners,
            trace,
            state: Mutex::new(state),
            dice,
            flushed: watch::Sender::new(start),
            told: watch::Sender::new(Lsn::INVALID),
            life: watch::Sender::new(0),
        }))
    }

    pub fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap()
    }

    pub fn flushed(&self) -> Lsn {
        *self.0.flushed.borrow()
    }

    pub fn told(&self) -> Lsn {
        *self.0.told.borrow()
    }

    /// From now on it behaves.
    pub fn heal(&self) {
        self.state().healed = true;
    }

    /// What a client connects with.
    pub fn dialer(&self) -> Dialer {
        let server = self.clone();
        Dialer::new("made-up:5432", move || server.accept())
    }

    fn accept(&self) -> io::Result<Box<dyn Stream>> {
        let mut state = self.state();
        if state.away {
            return Err(io::ErrorKind::ConnectionRefused.into());
        }
        state.seen.connections += 1;
        let number = state.seen.connections;
        drop(state);
        let mut dice = self.0.dice.fork(&format!("connection {number}"));
        let buffer = usize::try_from(dice.within(4 << 10..256 << 10)).unwrap();
        let unnoticed = dice.chance(self.0.manners.unnoticed);
        let (ours, theirs) = tokio::io::duplex(buffer);
        let (server, mut life) = (self.clone(), self.0.life.subscribe());
        tokio::spawn(async move {
            let mut peer = Peer::new(server.clone(), number, dice, ours);
            let ended = tokio::select! {
                biased;
                _ = life.changed() => Ended::Broken,
                ended = peer.serve() => ended,
            };
            if ended == Ended::ClientGone && unnoticed && !server.state().healed {
                // The client's machine went away without a word: only the timeout tells.
                tokio::select! {
                    biased;
                    _ = life.changed() => {}
                    () = sleep(server.0.manners.wal_sender_timeout) => {}
                }
            }
            server.release(number);
        });
        Ok(Box::new(theirs))
    }

    fn release(&self, number: u64) {
        let mut state = self.state();
        if state.holder == Some(number) {
            state.holder = None;
        }
    }

    /// Flushes WAL until the script ends. A commit that waits for the archive holds up those behind it, for a while: other
    /// sessions go on.
    pub async fn work(self) {
        let (script, mut dice) = (&self.0.script, self.0.dice.fork("work"));
        while self.flushed() < script.end() {
            let long = if dice.chance(0.01) { Duration::from_secs(dice.below(120)) } else { Duration::ZERO };
            let wait = dice.between(&self.0.manners.flush_every) + long;
            let patience = Duration::from_secs(dice.below(30));
            let records = 1 + dice.below(self.0.manners.burst);
            sleep(wait).await;
            let next = script.ends.partition_point(|end| *end <= self.flushed());
            let last = next.saturating_add(usize::try_from(records).unwrap()).min(script.ends.len()) - 1;
            let flushed = script.ends[last];
            self.0.flushed.send_replace(flushed);
            if self.0.manners.synchronous {
                let mut told = self.0.told.subscribe();
                drop(tokio::time::timeout(patience, told.wait_for(|told| *told >= flushed)).await);
            }
        }
    }

    /// Restarts now and then.
    pub async fn fall(self) {
        let mut dice = self.0.dice.fork("fall");
        loop {
            sleep(dice.between(&self.0.manners.restart_every)).await;
            if self.state().healed {
                return;
            }
            self.state().away = true;
            self.state().seen.restarts += 1;
            self.0.trace.note(|| "the server goes away".to_owned());
            self.0.life.send_modify(|life| *life += 1);
            sleep(dice.between(&self.0.manners.away_for)).await;
            self.state().away = false;
            self.state().holder = None;
        }
    }

    /// A client has said how far it is.
    pub fn acknowledged(&self, written: Lsn, flushed: Lsn) {
        let flushed = if self.0.manners.acknowledges_received { written } else { flushed };
        let mut state = self.state();
        state.seen.status_updates += 1;
        let end = *self.0.flushed.borrow();
        if flushed > end || written > end || written < flushed {
            let text = format!(
                "told of WAL that was never sent: written {written}, flushed {flushed}, sent to {end}"
            );
            state.violations.push(text);
        }
        if flushed.is_invalid() || state.slot.is_none() {
            return;
        }
        // As PostgreSQL does, even backwards.
        state.slot = Some(flushed);
        state.removed = state.removed.max(segment_size().floor(flushed));
        drop(state);
        let moved = |told: &mut Lsn| {
            flushed > *told && {
                *told = flushed;
                true
            }
        };
        if self.0.told.send_if_modified(moved) {
            self.0.trace.note(|| format!("told {flushed}"));
        }
    }

    /// `None` when WAL from there on is gone.
    pub fn has(&self, lsn: Lsn) -> bool {
        lsn >= self.state().removed
    }
}
