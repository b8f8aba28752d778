//! One seed: a server, a storage that fails, a service that is killed again and again, and in the end a look at what is left.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use chrono::{DateTime, Utc};
use engine::archive::{self, ArchiveConfig, ArchiveStatus, Target};
use replication::{ConnectConfig, Host};
use repository::Repository;
use store::Store;
use store::fault::{Counts, Dice, FaultStore, Faults, Outage};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::script::Script;
use super::server::{Manners, SLOT, Seen, Server};
use super::stores::{Death, Ground, GroundStore, Life, LivingStore};
use super::trace::Trace;
use super::witness::Witness;

/// What is broken on purpose, to see that the simulation notices.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mutant {
    None,
    /// The storage says that an object is durable before it is.
    LyingStore,
    /// What the server is told is what was received.
    EarlyAcknowledgement,
}

/// How a seed went.
#[derive(Debug)]
pub struct Outcome {
    pub violation: Option<String>,
    pub trace: String,
    pub faults: Counts,
    pub server: Seen,
    pub kills: u64,
    pub stops: u64,
    /// Incarnations that gave up by themselves and were started again.
    pub exits: u64,
    pub wal_bytes: u64,
    pub synchronous: bool,
    pub restores: u64,
    pub simulated: Duration,
}

/// The longest a service may take, once nothing fails any more, until all is durable. It may have to wait for storage that has stopped
/// (five minutes), and for the server to notice that a dead client holds the slot (a minute).
const CATCH_UP: Duration = Duration::from_secs(600);
/// How often somebody reads from afar during one life of the service, at most.
const READS_MAX: u64 = 3;
/// How long a service may take to stop when it is asked to: it gives what was received five seconds.
const STOP: Duration = Duration::from_secs(15);

const MS: Duration = Duration::from_millis(1);
const S: Duration = Duration::from_secs(1);

pub fn run(seed: u64, mutant: Mutant) -> Outcome {
    // One thread for blocking work keeps its order; time stands still while it works.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .max_blocking_threads(1)
        .build()
        .unwrap();
    runtime.block_on(simulate(seed, mutant))
}

async fn simulate(seed: u64, mutant: Mutant) -> Outcome {
    let (dice, began, trace) = (Dice::new(seed), Instant::now(), Trace::new());
    let mut plan = dice.fork("plan");
    // Much WAL, and services that start beside each other and take their time: what one knows may be old when it begins.
    let hasty = plan.chance(0.15);
    let bytes = if hasty { plan.within(3 << 20..5 << 20) } else { plan.within(100 << 10..2500 << 10) };
    let bytes = usize::try_from(bytes).unwrap();
    let script = Script::new(&mut dice.fork("script"), bytes);
    let wal_bytes = script.bytes.len() as u64;
    let synchronous = plan.chance(0.3);
    let manners = manners(&mut plan, synchronous, hasty, mutant);
    let server = Server::new(script, manners, dice.fork("server"), trace.clone());
    let ground = Arc::new(Ground {
        memory: Arc::default(),
        trace: trace.clone(),
        created: Default::default(),
        removed: Default::default(),
        changed: Default::default(),
        lies: mutant == Mutant::LyingStore,
        power: AtomicU64::new(0),
    });
    let storage = FaultStore::new(
        Arc::new(GroundStore(ground.clone())),
        dice.fork("storage").throw(),
        faults(&mut plan),
    );
    let witness = Witness { server: server.clone(), ground: ground.clone() };
    let mut world = World {
        dice: plan,
        hasty,
        server: server.clone(),
        ground,
        storage: storage.clone(),
        witness: witness.clone(),
        trace: trace.clone(),
        kills: 0,
        stops: 0,
        exits: 0,
        restores: 0,
    };
    let violation = tokio::select! {
        biased;
        violation = witness.watch() => Some(violation),
        violation = world.story() => violation.err(),
    };
    let seen = server.state().seen.clone();
    Outcome {
        violation,
        trace: trace.text(),
        faults: storage.counts(),
        server: seen,
        kills: world.kills,
        stops: world.stops,
        exits: world.exits,
        wal_bytes,
        synchronous,
        restores: world.restores,
        simulated: began.elapsed(),
    }
}

fn manners(dice: &mut Dice, synchronous: bool, hasty: bool, mutant: Mutant) -> Manners {
    let rough = dice.chance(0.7);
    let share = |share: f64| if rough { share } else { 0.0 };
    Manners {
        synchronous,
        flush_every: MS..[50 * MS, 500 * MS, 3 * S][usize::try_from(dice.below(3)).unwrap()],
        burst: if hasty { 400 } else { [4, 20, 100][usize::try_from(dice.below(3)).unwrap()] },
        slow_commands: if hasty { 0.3 } else { 0.0 },
        pause: share(0.1),
        pause_for: MS..Duration::from_secs(1 + dice.below(20)),
        breaks: share(0.01),
        restart_every: 30 * S..1200 * S,
        away_for: MS..120 * S,
        unnoticed: share(0.2),
        wal_sender_timeout: Duration::from_secs(30 + dice.below(31)),
        acknowledges_received: mutant == Mutant::EarlyAcknowledgement,
    }
}

fn faults(dice: &mut Dice) -> Faults {
    let mut share = |most: f64| if dice.chance(0.3) { 0.0 } else { most * dice.below(1000) as f64 / 1000.0 };
    let (slow, fail_before, fail_after, truncate) = (share(0.1), share(0.1), share(0.1), share(0.03));
    let (stale_listing, land_late, hang) = (share(0.5), share(0.8), share(1.0));
    let mut outage = |share: f64, lasts: Duration| {
        dice.chance(share).then(|| Outage { every: 5 * S..400 * S, lasts: MS..lasts })
    };
    Faults {
        slow,
        fail_before,
        fail_after,
        truncate,
        stale_listing,
        land_late,
        hang,
        stop: outage(0.5, 300 * S),
        full: outage(0.3, 200 * S),
        delay: MS..Duration::from_millis(2 + dice.below(150)),
        slow_delay: 100 * MS..20 * S,
    }
}

struct World {
    dice: Dice,
    hasty: bool,
    server: Server,
    ground: Arc<Ground>,
    storage: FaultStore,
    witness: Witness,
    trace: Trace,
    kills: u64,
    stops: u64,
    exits: u64,
    restores: u64,
}

/// The service, from its start to its death.
struct Incarnation {
    task: JoinHandle<Result<(), String>>,
    life: Arc<Life>,
    shutdown: CancellationToken,
}

impl World {
    async fn story(&mut self) -> Result<(), String> {
        let (work, fall) =
            (tokio::spawn(self.server.clone().work()), tokio::spawn(self.server.clone().fall()));
        let mut service = self.start();
        let lives = 2 + self.dice.below(10);
        for _ in 0..lives {
            service = self.end_of_life(service).await?;
            let told = self.server.told();
            self.witness.holds(told).await?;
        }
        self.storage.heal();
        self.server.heal();
        self.trace.note(|| "no more faults".to_owned());
        self.catch_up(&mut service, work).await?;
        fall.abort();
        self.stop(service).await?;
        let directory = tempfile::tempdir().map_err(|error| error.to_string())?;
        self.witness.is_complete(directory.path()).await?;
        self.judge_server()
    }

    fn start(&mut self) -> Incarnation {
        let dies_at = self.dice.chance(if self.hasty { 0.2 } else { 0.6 }).then(|| {
            let most = if self.dice.chance(0.3) { 20 } else { 400 };
            let death = match self.dice.below(4) {
                0 => Death::Before,
                1 => Death::After,
                _ => Death::During(self.dice.between(&(MS..100 * MS))),
            };
            (self.dice.below(most), death)
        });
        self.start_with(dies_at)
    }

    fn start_with(&mut self, dies_at: Option<(u64, Death)>) -> Incarnation {
        let life = Arc::new(Life {
            dies_at,
            calls: AtomicU64::new(0),
            dead: false.into(),
            died: Default::default(),
            ghosts: AtomicU64::new(0),
        });
        let mut connect = ConnectConfig::new(Host::Dialed(self.server.dialer()), "drydock");
        connect.application_name = SLOT.to_owned();
        let config = ArchiveConfig {
            slot: Some(SLOT.to_owned()),
            flush_interval: self.dice.between(&(20 * MS..5 * S)),
            in_flight_max: usize::try_from(1 + self.dice.below(4)).unwrap(),
            evicts: false,
            clock: now,
        };
        let shutdown = CancellationToken::new();
        let store: Arc<dyn Store> =
            Arc::new(LivingStore { life: life.clone(), below: Arc::new(self.storage.clone()) });
        self.trace.note(|| format!("start, dies at call {dies_at:?}"));
        let task = tokio::spawn(serve(store, config, Target::only(connect), shutdown.clone()));
        Incarnation { task, life, shutdown }
    }

    /// Waits until the service ends one way or another, and starts the next.
    async fn end_of_life(&mut self, mut service: Incarnation) -> Result<Incarnation, String> {
        let longest = match self.dice.below(3) {
            _ if self.hasty => 20 * S,
            0 => 2 * S,
            1 => 60 * S,
            _ => 900 * S,
        };
        let lives_for = self.dice.between(&(MS..longest));
        let mut reads = Dice::new(self.dice.throw());
        let witness = self.witness.clone();
        let from_afar = async {
            for _ in 0..READS_MAX {
                sleep(reads.between(&(MS..20 * S))).await;
                witness.restore_from_afar(reads.throw()).await?;
            }
            Ok::<(), String>(())
        };
        let mut from_afar = std::pin::pin!(from_afar);
        let mut read = false;
        let mut end = std::pin::pin!(sleep(lives_for));
        loop {
            tokio::select! {
                biased;
                verdict = &mut from_afar, if !read => {
                    verdict?;
                    read = true;
                    self.restores += READS_MAX;
                }
                ended = &mut service.task => {
                    self.exited(ended)?;
                    sleep(S).await;
                    return Ok(self.start());
                }
                () = service.life.died.notified() => {
                    self.kill(service).await?;
                    break;
                }
                () = &mut end => return self.end_now(service).await,
            }
        }
        self.rest().await;
        Ok(self.start())
    }

    async fn end_now(&mut self, service: Incarnation) -> Result<Incarnation, String> {
        if self.dice.chance(0.2) {
            self.stop(service).await?;
        } else if self.dice.chance(if self.hasty { 0.9 } else { 0.4 }) {
            // Started elsewhere before the old one is dead: both write for a moment.
            let next = self.start();
            let longest = if self.dice.chance(0.5) { 2 * S } else { 30 * S };
            sleep(self.dice.between(&(MS..longest))).await;
            self.kill(service).await?;
            return Ok(next);
        } else {
            self.kill(service).await?;
        }
        self.rest().await;
        Ok(self.start())
    }

    /// Nobody is there for a while.
    async fn rest(&mut self) {
        let longest = if self.dice.chance(0.2) { 300 * S } else { 2 * S };
        sleep(self.dice.between(&(Duration::ZERO..longest))).await;
    }

    /// Everything the service does ends at once, except what the network carries already.
    async fn kill(&mut self, service: Incarnation) -> Result<(), String> {
        self.trace.note(|| "kill".to_owned());
        self.kills += 1;
        self.ground.power.fetch_add(1, Ordering::Relaxed);
        service.task.abort();
        let ended = service.task.await;
        service.life.dead.store(true, Ordering::Relaxed);
        match ended {
            Err(error) if error.is_panic() => return Err(format!("the service panicked: {error}")),
            _ => {}
        }
        // Whatever of it is still there would act within this time.
        let life = service.life;
        let watch_for = self.dice.between(&(MS..2 * S));
        sleep(watch_for).await;
        match life.ghosts.load(Ordering::Relaxed) {
            0 => Ok(()),
            calls => Err(format!("a service that was killed made {calls} more calls to its storage")),
        }
    }

    async fn stop(&mut self, mut service: Incarnation) -> Result<(), String> {
        self.trace.note(|| "stop".to_owned());
        self.stops += 1;
        service.shutdown.cancel();
        tokio::select! {
            biased;
            ended = &mut service.task => self.exited(ended),
            () = service.life.died.notified() => self.kill(service).await,
            () = sleep(STOP) => Err(format!("asked to stop, it did not within {STOP:?}")),
        }
    }

    /// Giving up is allowed at a start, where whoever started it is told. A panic never is.
    fn exited(&mut self, ended: Result<Result<(), String>, tokio::task::JoinError>) -> Result<(), String> {
        match ended {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => {
                self.trace.note(|| format!("exit: {error}"));
                self.exits += 1;
                Ok(())
            }
            Err(error) => Err(format!("the service panicked: {error}")),
        }
    }

    /// The rest of the script, without faults. What it ends with must be durable soon.
    async fn catch_up(&mut self, service: &mut Incarnation, work: JoinHandle<()>) -> Result<(), String> {
        let lasts = service.life.dies_at.is_none();
        if !lasts {
            let fresh = self.start_with(None);
            let old = std::mem::replace(service, fresh);
            self.kill(old).await?;
        }
        let mut told = self.server.0.told.subscribe();
        let server = self.server.clone();
        let end = server.0.script.end();
        let caught_up = async {
            work.await.map_err(|error| format!("the server: {error}"))?;
            let flushed = Instant::now();
            drop(timeout(CATCH_UP, told.wait_for(|told| *told >= end)).await);
            if server.told() < end {
                let told = server.told();
                return Err(format!(
                    "{CATCH_UP:?} after the last of it was flushed {told} of {end} is acknowledged"
                ));
            }
            Ok(flushed.elapsed())
        };
        let mut caught_up = std::pin::pin!(caught_up);
        let mut restarts = 0;
        let took = loop {
            tokio::select! {
                biased;
                took = &mut caught_up => break took?,
                // It may still have met a fault at its start, but not twice.
                ended = &mut service.task => {
                    self.exited(ended)?;
                    restarts += 1;
                    if restarts > 1 {
                        return Err("the service gave up, although nothing fails any more".to_owned());
                    }
                    *service = self.start_with(None);
                }
            }
        };
        self.trace.note(|| format!("caught up in {took:?}"));
        Ok(())
    }

    fn judge_server(&self) -> Result<(), String> {
        let mut state = self.server.state();
        let seen = state.seen.clone();
        if let Some(violation) = state.violations.pop() {
            return Err(violation);
        }
        if seen.slots_made != 1 || seen.slots_dropped != 0 {
            return Err(format!(
                "the slot was made {} and dropped {} times",
                seen.slots_made, seen.slots_dropped
            ));
        }
        Ok(())
    }
}

/// As backupd does it: the repository is opened, made if need be, and the archive runs until it is stopped.
async fn serve(
    store: Arc<dyn Store>,
    config: ArchiveConfig,
    target: Target,
    shutdown: CancellationToken,
) -> Result<(), String> {
    let opened = tokio::select! {
        biased;
        () = shutdown.cancelled() => return Ok(()),
        opened = Repository::open_or_create(store, now()) => opened,
    };
    let repository = opened.map_err(|error| engine::chain(&error))?;
    let cluster = repository.cluster("main").map_err(|error| engine::chain(&error))?;
    let (status, _watched) = watch::channel(ArchiveStatus::default());
    let (_targets, target) = watch::channel(Some(target));
    archive::run(config, cluster, target, status, shutdown).await.map_err(|error| engine::chain(&error))
}

/// No clock: it is always the same moment.
fn now() -> DateTime<Utc> {
    DateTime::UNIX_EPOCH
}
