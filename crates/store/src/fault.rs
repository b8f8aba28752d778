//! A store that misbehaves, by a plan and a seed.
//!
//! [`FaultStore`] wraps any store and does to its callers what networks, disks and object stores do: it is slow, it
//! fails before it did anything, it fails after it did everything, it gives part of what was asked for, it stops for
//! minutes, it is full for a while, and it finishes a write whose caller has died long ago. Each call's fate follows from the seed,
//! what the call does, its key and how often that was called before, so it does not depend on which of two calls at
//! one moment comes first. All time is tokio's, so a test in paused time pays nothing for minutes.
//!
//! What it never does is break a promise of [`Store`]: those are what callers build on. In particular a listing is
//! in byte order and holds whatever was created before the call began. What the promise leaves open is used to the
//! full: a listing may show its directory as it was at the call's beginning or at its end.

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use tokio::time::{Instant, sleep, sleep_until};

use crate::{Body, Directory, Entry, Error, Key, Store, Version};

/// Which faults, and how many. The default is none at all. Shares are from 0 to 1.
#[derive(Debug, Clone, Default)]
pub struct Faults {
    /// How long a call takes.
    pub delay: Range<Duration>,
    /// Share of calls that take `slow_delay` more.
    pub slow: f64,
    /// How long a slow call takes.
    pub slow_delay: Range<Duration>,
    /// Share of calls that fail without having done anything.
    pub fail_before: f64,
    /// Share of calls that do what they should and then fail: the answer was lost.
    pub fail_after: f64,
    /// Share of reads that give fewer bytes than there are.
    pub truncate: f64,
    /// Share of listings that show what was there when the call began, not when it ended.
    pub stale_listing: f64,
    /// Share of writes that go on when their caller has gone, as a request does that is on its way.
    pub land_late: f64,
    /// When the storage stops: no call succeeds.
    pub stop: Option<Outage>,
    /// Share of calls to stopped storage that get no answer until it is back; the rest fail at once.
    pub hang: f64,
    /// When the storage is full: nothing can be written, but read and removed.
    pub full: Option<Outage>,
}

/// What comes again and again for a while.
#[derive(Debug, Clone)]
pub struct Outage {
    /// Time between two of them.
    pub every: Range<Duration>,
    /// How long one lasts.
    pub lasts: Range<Duration>,
}

/// How many of each were made.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Calls, with and without a fault.
    pub calls: u64,
    /// Calls that took long.
    pub slow: u64,
    /// Calls that failed without having done anything.
    pub failed_before: u64,
    /// Calls that failed although they did what they should.
    pub failed_after: u64,
    /// Reads that gave too little.
    pub truncated: u64,
    /// Listings that were older than their answer.
    pub stale_listings: u64,
    /// Writes that took effect after their caller had gone.
    pub landed_late: u64,
    /// Calls that stopped storage refused.
    pub stopped: u64,
    /// Calls that stopped storage left without an answer.
    pub hung: u64,
    /// Writes for which there was no room.
    pub full: u64,
}

impl Counts {
    /// All faults, of whatever kind.
    pub fn faults(&self) -> u64 {
        self.by_kind().iter().map(|(_, count)| count).sum()
    }

    /// The faults with their names.
    pub fn by_kind(&self) -> [(&'static str, u64); 9] {
        [
            ("slow", self.slow),
            ("failed before", self.failed_before),
            ("failed after", self.failed_after),
            ("truncated", self.truncated),
            ("stale listing", self.stale_listings),
            ("landed late", self.landed_late),
            ("stopped", self.stopped),
            ("hung", self.hung),
            ("full", self.full),
        ]
    }
}

/// A store that misbehaves. Clones share one fate and one set of counts.
#[derive(Clone)]
pub struct FaultStore(Arc<Shared>);

struct Shared {
    inner: Arc<dyn Store>,
    faults: Faults,
    dice: Dice,
    began: Instant,
    healed: AtomicBool,
    state: Mutex<State>,
}

struct State {
    counts: Counts,
    /// How often each call was made to each key.
    made: HashMap<String, u64>,
    stops: Option<Schedule>,
    fulls: Option<Schedule>,
}

/// What a call is about to do.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Act {
    Look,
    Write,
    Remove,
}

/// One call, and the dice that decide about it.
struct Call {
    act: Act,
    verb: &'static str,
    key: String,
    dice: Dice,
}

impl FaultStore {
    /// Wraps a store. Must be called on a tokio runtime, whose time it goes by.
    pub fn new(inner: Arc<dyn Store>, seed: u64, faults: Faults) -> FaultStore {
        let dice = Dice::new(seed);
        let schedule = |name, outage: &Option<Outage>| {
            outage.clone().map(|outage| Schedule {
                outage,
                dice: dice.fork(name),
                from: Duration::ZERO,
                to: Duration::ZERO,
            })
        };
        let state = State {
            counts: Counts::default(),
            made: HashMap::new(),
            stops: schedule("stop", &faults.stop),
            fulls: schedule("full", &faults.full),
        };
        let (began, healed) = (Instant::now(), AtomicBool::new(false));
        FaultStore(Arc::new(Shared { inner, faults, dice, began, healed, state: Mutex::new(state) }))
    }

    /// What it has done so far.
    pub fn counts(&self) -> Counts {
        self.state().counts
    }

    /// Calls that begin from now on meet no fault. Those under way meet what they were going to.
    pub fn heal(&self) {
        self.0.healed.store(true, Ordering::Relaxed);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // A panic elsewhere cannot leave counts half changed.
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_healed(&self) -> bool {
        self.0.healed.load(Ordering::Relaxed)
    }

    fn call(&self, act: Act, verb: &'static str, key: &str) -> Call {
        let name = format!("{verb} {key}");
        let mut state = self.state();
        state.counts.calls += 1;
        let made = state.made.entry(name.clone()).or_default();
        *made += 1;
        Call { act, verb, key: key.to_owned(), dice: self.0.dice.fork(&name).fork(&made.to_string()) }
    }

    /// What happens on the way there. An error means that nothing was done.
    async fn way_there(&self, call: &mut Call) -> Result<(), Error> {
        if self.is_healed() {
            return Ok(());
        }
        let faults = &self.0.faults;
        sleep(call.dice.between(&faults.delay) / 2).await;
        if call.dice.chance(faults.slow) {
            self.state().counts.slow += 1;
            sleep(call.dice.between(&faults.slow_delay)).await;
        }
        let now = self.0.began.elapsed();
        let stopped_until = self.state().stops.as_mut().and_then(|stops| stops.end_at(now));
        if let Some(until) = stopped_until {
            let hangs = call.dice.chance(faults.hang);
            if !hangs {
                self.state().counts.stopped += 1;
                return Err(call.unavailable("the storage has stopped"));
            }
            self.state().counts.hung += 1;
            sleep_until(self.0.began + until).await;
            // When the storage is back, the request may have been kept by somebody on the way, or not.
            if call.dice.chance(0.5) {
                return Err(call.unavailable("the storage stopped and the request was lost"));
            }
        }
        let full = self.state().fulls.as_mut().and_then(|fulls| fulls.end_at(now)).is_some();
        if full && call.act == Act::Write {
            self.state().counts.full += 1;
            let source = io::Error::from(io::ErrorKind::StorageFull);
            return Err(Error::Full { action: call.verb, key: call.key.clone(), source });
        }
        if call.dice.chance(faults.fail_before) {
            self.state().counts.failed_before += 1;
            return Err(call.unavailable("the request was lost"));
        }
        Ok(())
    }

    /// What happens on the way back. An error says nothing of what was done.
    async fn way_back(&self, call: &mut Call) -> Result<(), Error> {
        if self.is_healed() {
            return Ok(());
        }
        sleep(call.dice.between(&self.0.faults.delay) / 2).await;
        if call.dice.chance(self.0.faults.fail_after) {
            self.state().counts.failed_after += 1;
            return Err(call.unavailable("the answer was lost"));
        }
        Ok(())
    }

    async fn there_and_back<T>(
        &self,
        mut call: Call,
        effect: impl Future<Output = Result<T, Error>>,
        caller_gone: &AtomicBool,
    ) -> Result<T, Error> {
        self.way_there(&mut call).await?;
        let result = effect.await;
        if caller_gone.load(Ordering::Relaxed) {
            self.state().counts.landed_late += 1;
        }
        self.way_back(&mut call).await?;
        result
    }

    /// A call that changes something; some go on without their caller.
    async fn change<T: Send + 'static>(
        &self,
        mut call: Call,
        effect: impl Future<Output = Result<T, Error>> + Send + 'static,
    ) -> Result<T, Error> {
        if self.is_healed() || !call.dice.chance(self.0.faults.land_late) {
            return self.there_and_back(call, effect, &AtomicBool::new(false)).await;
        }
        let caller = Caller::default();
        let (store, gone, lost) = (self.clone(), caller.gone.clone(), call.unavailable("the request died"));
        let on_its_way = tokio::spawn(async move { store.there_and_back(call, effect, &gone).await });
        let result = on_its_way.await;
        drop(caller);
        // It is never aborted, so this is the runtime's end.
        result.unwrap_or(Err(lost))
    }

    async fn look<T>(
        &self,
        mut call: Call,
        effect: impl AsyncFnOnce() -> Result<T, Error>,
    ) -> Result<T, Error> {
        self.way_there(&mut call).await?;
        let result = effect().await;
        self.way_back(&mut call).await?;
        result
    }
}

/// Tells the request on its way that nobody waits for it any more.
#[derive(Default)]
struct Caller {
    gone: Arc<AtomicBool>,
}

impl Drop for Caller {
    fn drop(&mut self) {
        self.gone.store(true, Ordering::Relaxed);
    }
}

impl Call {
    fn unavailable(&self, why: &str) -> Error {
        let source = io::Error::other(format!("fault: {why}"));
        Error::Unavailable { action: self.verb, key: self.key.clone(), source }
    }
}

impl fmt::Debug for FaultStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "FaultStore({:?})", self.0.inner)
    }
}

#[async_trait]
impl Store for FaultStore {
    async fn create(&self, key: &Key, body: Body) -> Result<(), Error> {
        let (inner, to_create) = (self.0.inner.clone(), key.clone());
        let call = self.call(Act::Write, "create", key.as_str());
        self.change(call, async move { inner.create(&to_create, body).await }).await
    }

    async fn read(&self, key: &Key, range: Option<Range<u64>>) -> Result<Bytes, Error> {
        let mut call = self.call(Act::Look, "read", key.as_str());
        let truncated = !self.is_healed() && call.dice.chance(self.0.faults.truncate);
        let share = call.dice.below(1 << 16);
        let bytes = self.look(call, async || self.0.inner.read(key, range).await).await?;
        if !truncated || bytes.is_empty() {
            return Ok(bytes);
        }
        self.state().counts.truncated += 1;
        let kept = usize::try_from(share).unwrap_or_default() * bytes.len() / (1 << 16);
        Ok(bytes.slice(..kept))
    }

    async fn list(&self, directory: &Directory) -> Result<Vec<Entry>, Error> {
        let mut call = self.call(Act::Look, "list", directory.as_str());
        let stale = !self.is_healed() && call.dice.chance(self.0.faults.stale_listing);
        if !stale {
            return self.look(call, async || self.0.inner.list(directory).await).await;
        }
        let before = self.0.inner.list(directory).await?;
        self.look(call, async || {
            if self.0.inner.list(directory).await? != before {
                self.state().counts.stale_listings += 1;
            }
            Ok(before)
        })
        .await
    }

    async fn delete(&self, key: &Key) -> Result<(), Error> {
        let (inner, to_delete) = (self.0.inner.clone(), key.clone());
        let call = self.call(Act::Remove, "delete", key.as_str());
        self.change(call, async move { inner.delete(&to_delete).await }).await
    }

    async fn read_version(&self, key: &Key) -> Result<Option<(Bytes, Version)>, Error> {
        let call = self.call(Act::Look, "read", key.as_str());
        self.look(call, async || self.0.inner.read_version(key).await).await
    }

    async fn replace(&self, key: &Key, expected: Option<&Version>, body: Bytes) -> Result<Version, Error> {
        let (inner, to_replace, expected) = (self.0.inner.clone(), key.clone(), expected.cloned());
        let call = self.call(Act::Write, "replace", key.as_str());
        self.change(call, async move { inner.replace(&to_replace, expected.as_ref(), body).await }).await
    }

    fn address(&self) -> String {
        self.0.inner.address()
    }
}

/// When an outage is, as far as anybody has asked. Time only goes forward.
struct Schedule {
    outage: Outage,
    dice: Dice,
    from: Duration,
    to: Duration,
}

impl Schedule {
    /// When the outage ends that there is at `now`.
    fn end_at(&mut self, now: Duration) -> Option<Duration> {
        while self.to <= now {
            // A millisecond at least, so that this ends.
            let lasts = self.dice.between(&self.outage.lasts).max(Duration::from_millis(1));
            self.from = self.to + self.dice.between(&self.outage.every);
            self.to = self.from + lasts;
        }
        (self.from <= now).then_some(self.to)
    }
}

/// Chance that can be repeated: SplitMix64. Our own, as the seeds of runs that once failed are kept, and must mean the same run after an
/// upgrade of whatever crate.
#[derive(Debug, Clone)]
pub struct Dice(u64);

impl Dice {
    /// The same seed gives the same throws.
    pub fn new(seed: u64) -> Dice {
        Dice(seed)
    }

    /// Dice of their own for what has this name. They do not depend on what was thrown elsewhere.
    pub fn fork(&self, name: &str) -> Dice {
        let mix = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01B3);
        let mut forked = Dice(name.bytes().fold(self.0 ^ 0xCBF2_9CE4_8422_2325, mix));
        Dice(forked.throw())
    }

    /// Any number.
    pub fn throw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    /// A number below `end`; 0 when there is none.
    pub fn below(&mut self, end: u64) -> u64 {
        self.throw().checked_rem(end).unwrap_or(0)
    }

    /// A number of a range; its start when it is empty.
    pub fn within(&mut self, range: Range<u64>) -> u64 {
        range.start + self.below(range.end.saturating_sub(range.start))
    }

    /// Whether something happens that does so with this share.
    pub fn chance(&mut self, share: f64) -> bool {
        ((self.throw() >> 11) as f64) < share * (1u64 << 53) as f64
    }

    /// A time of a range; its start when it is empty.
    pub fn between(&mut self, range: &Range<Duration>) -> Duration {
        let nanos = |time: Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        Duration::from_nanos(self.within(nanos(range.start)..nanos(range.end)))
    }
}
