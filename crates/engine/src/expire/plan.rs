//! What stays and what goes, and why. Pure but for [`facts`].

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use chrono::{DateTime, Utc};
use pgformat::{Lsn, SegmentSize, TimelineId};
use repository::pin::Pin;
use repository::state::{Heartbeat, RestoreHeartbeat};
use repository::wal::{Hole, Range};
use repository::{BackupId, Cluster, Record};
use serde::Serialize;

use super::leftovers::lives;
use super::policy::Policy;
use crate::Error;
use crate::catalog::{Catalog, Step, is_on};

/// How long after a restore was last heard of its server may still ask for WAL.
const RESTORE_GRACE: Duration = Duration::from_secs(24 * 3600);

/// What a plan is made from.
#[derive(Debug)]
pub struct Facts {
    /// What the repository has.
    pub catalog: Catalog,
    /// The pins there are, whether they still hold or not.
    pub pins: BTreeMap<BackupId, Pin>,
    /// Backups that say that they run.
    pub heartbeats: Vec<Heartbeat>,
    /// Restores that do.
    pub restores: Vec<RestoreHeartbeat>,
}

/// What becomes of the backups, and of the WAL.
#[derive(Debug, Clone, Serialize)]
pub struct Plan {
    /// Why nothing goes, whatever the policy says.
    pub nothing_because: Option<String>,
    /// Every moment since then can be restored, as far as it ever could; null where no window is asked for.
    pub window_since: Option<DateTime<Utc>>,
    /// Every backup, the oldest first.
    pub backups: Vec<BackupFate>,
    /// All WAL, by timeline and position.
    pub wal: Vec<WalFate>,
    /// Bytes that the packs of backups free that go.
    pub pack_bytes: u64,
    /// Holes that nothing which stays lies before.
    pub holes: Vec<Hole>,
    #[serde(skip)]
    pub(super) timelines: BTreeMap<TimelineId, Kept>,
}

/// What becomes of a backup.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct BackupFate {
    /// The backup.
    pub id: BackupId,
    /// When it was finished.
    pub finished_at: DateTime<Utc>,
    /// It stays.
    pub keep: bool,
    /// One can restore from it to any moment behind it, not only to its own.
    pub recovers_onwards: bool,
    /// Why it stays or goes, in words.
    pub reasons: Vec<String>,
}

/// What becomes of a stretch of WAL.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct WalFate {
    /// The timeline.
    pub timeline: TimelineId,
    /// First byte.
    pub from: Lsn,
    /// First byte behind it.
    pub to: Lsn,
    /// It stays.
    pub keep: bool,
    /// Why it stays or goes, in words.
    pub reason: String,
}

/// The WAL of a timeline that stays.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Kept {
    /// All from here on.
    pub onwards: Option<(Lsn, String)>,
    /// What old backups need to be consistent, in order and apart from each other.
    pub stretches: Vec<(Range, String)>,
}

impl Plan {
    /// Whether there is nothing to remove.
    pub fn is_empty(&self) -> bool {
        self.backups.iter().all(|backup| backup.keep)
            && self.wal.iter().all(|wal| wal.keep)
            && self.holes.is_empty()
    }

    /// The backups that go.
    pub fn going(&self) -> impl Iterator<Item = &BackupFate> {
        self.backups.iter().filter(|backup| !backup.keep)
    }
}

/// Reads what a plan is made from.
pub async fn facts(cluster: &Cluster) -> Result<Facts, Error> {
    // Heartbeats first: a backup that ends meanwhile is then found as a backup.
    let heartbeats = cluster.heartbeats().await?;
    let restores = cluster.restores().await?;
    let catalog = Catalog::load(cluster).await?;
    let mut pins = BTreeMap::new();
    for record in &catalog.backups.records {
        if let Some(pin) = cluster.pin_of(&record.id).await? {
            pins.insert(record.id.clone(), pin);
        }
    }
    Ok(Facts { catalog, pins, heartbeats, restores })
}

/// Decides. A backup or restore that has been silent for `dead_after` protects nothing any more.
pub fn plan(facts: &Facts, policy: &Policy, now: DateTime<Utc>, dead_after: Duration) -> Plan {
    let mut deciding = Deciding::new(facts, policy, now);
    let nothing_because = deciding.nothing_because();
    match &nothing_because {
        Some(reason) => {
            deciding.records().iter().for_each(|record| deciding.keep.keep(record, true, reason.clone()))
        }
        None => deciding.decide(now, dead_after),
    }
    let window_since = deciding.since(policy.window).filter(|_| nothing_because.is_none());
    let backups = deciding.fates();
    let timelines = deciding.timelines(nothing_because.is_some());
    let wal = wal_fates(&facts.catalog, &timelines);
    let holes = forgotten_holes(&facts.catalog, &timelines);
    let pack_bytes = freed_packs(&facts.catalog.backups.records, &backups);
    Plan { nothing_because, window_since, backups, wal, pack_bytes, holes, timelines }
}

/// Which backups stay, so far.
#[derive(Debug, Default)]
struct Keeping {
    /// With the reasons.
    kept: BTreeMap<BackupId, Vec<String>>,
    /// Those that one can restore from onwards.
    onwards: BTreeSet<BackupId>,
}

impl Keeping {
    fn keep(&mut self, record: &Record, onwards: bool, reason: String) {
        self.kept.entry(record.id.clone()).or_default().push(reason);
        if onwards {
            self.onwards.insert(record.id.clone());
        }
    }
}

struct Deciding<'a> {
    facts: &'a Facts,
    policy: &'a Policy,
    /// Now, as far as backups bear it out.
    now: DateTime<Utc>,
    /// The timelines on which restores may end, each with the path there.
    leaves: Vec<(TimelineId, Vec<Step>)>,
    keep: Keeping,
}

impl<'a> Deciding<'a> {
    fn new(facts: &'a Facts, policy: &'a Policy, now: DateTime<Utc>) -> Deciding<'a> {
        let now = borne_out(&facts.catalog.backups.records, policy, now);
        let leaves = leaves(&facts.catalog);
        Deciding { facts, policy, now, leaves, keep: Keeping::default() }
    }

    fn records(&self) -> &'a [Record] {
        &self.facts.catalog.backups.records
    }

    /// The beginning of a window that ends now.
    fn since(&self, window: Option<Duration>) -> Option<DateTime<Utc>> {
        let window = chrono::Duration::from_std(window?).ok()?;
        self.now.checked_sub_signed(window)
    }

    /// What makes it unsafe to remove anything.
    fn nothing_because(&self) -> Option<String> {
        let catalog = &self.facts.catalog;
        if self.policy.keeps_everything() {
            return Some("no retention is configured".to_owned());
        }
        if let Some((id, error)) = catalog.backups.unreadable.first() {
            return Some(format!("the record of backup {id} cannot be read, and may need anything: {error}"));
        }
        if let Some((timeline, error)) = catalog.unreadable_histories.first() {
            return Some(format!("the history of timeline {timeline} cannot be read: {error}"));
        }
        let unknown = catalog.coverage.timelines.keys().find(|timeline| catalog.path(**timeline).is_none());
        if let Some(timeline) = unknown {
            return Some(format!(
                "there is no history of timeline {timeline}, so nobody knows what leads there"
            ));
        }
        catalog.backups.records.is_empty().then(|| "there is no backup".to_owned())
    }

    fn decide(&mut self, now: DateTime<Utc>, dead_after: Duration) {
        self.by_window();
        self.by_number();
        self.only_what_wal_window_asks();
        self.by_period();
        self.by_pin(now);
        self.by_heartbeat(now, dead_after);
    }

    /// Whatever a restore to a moment of the window begins with.
    fn by_window(&mut self) {
        let Some(since) = self.since(self.policy.window) else { return };
        for (record, begins) in self.reaching(since) {
            let reason = match begins {
                true => format!("the recovery window, since {}, begins with it", written(since)),
                false => format!("in the recovery window, since {}", written(since)),
            };
            self.keep.keep(record, true, reason);
        }
    }

    /// The backups that restores to a moment since then begin with; for each way through the timelines, the last one before
    /// that, and all behind it.
    fn reaching(&self, since: DateTime<Utc>) -> Vec<(&'a Record, bool)> {
        let mut found: BTreeMap<&BackupId, (&Record, bool)> = BTreeMap::new();
        for (timeline, path) in &self.leaves {
            if self.ended(*timeline).is_some_and(|ended| ended < since) {
                continue;
            }
            let on_path: Vec<&Record> = self.records().iter().filter(|record| is_on(record, path)).collect();
            let before = on_path.iter().filter(|record| record.finished_at <= since);
            let first = before.max_by_key(|record| record.finished_at).copied();
            let behind = on_path.iter().copied().filter(|record| record.finished_at > since);
            for (record, begins) in
                first.map(|record| (record, true)).into_iter().chain(behind.map(|record| (record, false)))
            {
                found.entry(&record.id).and_modify(|(_, known)| *known |= begins).or_insert((record, begins));
            }
        }
        found.into_values().collect()
    }

    /// When a timeline had ended at the latest: nobody archives it any more once a later one is, and so once there is a backup on
    /// that. `None` when it may still go on.
    fn ended(&self, timeline: TimelineId) -> Option<DateTime<Utc>> {
        if timeline >= self.facts.catalog.newest_timeline() {
            return None;
        }
        let later = self.records().iter().filter(|record| record.timeline > timeline);
        later.map(|record| record.finished_at).min()
    }

    fn by_number(&mut self) {
        let newest_first = || self.facts.catalog.backups.records.iter().rev();
        let (number, minimum) = (self.policy.backups.unwrap_or(0), self.policy.minimum.max(1));
        for (count, record) in newest_first().enumerate() {
            if count < number {
                self.keep.keep(record, true, format!("one of the newest {number}"));
            } else if count < minimum {
                self.keep.keep(record, true, format!("at least {minimum} stay, whatever their age"));
            }
        }
    }

    /// Of what stays so far, only what the shorter window for WAL asks for leads on.
    fn only_what_wal_window_asks(&mut self) {
        let Some(since) = self.since(self.policy.wal_window) else { return };
        let asked: BTreeSet<BackupId> =
            self.reaching(since).iter().map(|(record, _)| record.id.clone()).collect();
        self.keep.onwards.retain(|id| asked.contains(id));
    }

    fn by_period(&mut self) {
        for (every, number) in &self.policy.periods {
            let mut seen = BTreeSet::new();
            for record in self.records().iter().rev() {
                let period = every.of(record.finished_at);
                if seen.len() < *number && seen.insert(period.clone()) {
                    self.keep.keep(record, false, format!("the last one of the {every} {period}"));
                }
            }
        }
    }

    fn by_pin(&mut self, now: DateTime<Utc>) {
        for record in self.records() {
            let Some(pin) = self.facts.pins.get(&record.id).filter(|pin| pin.holds(now)) else { continue };
            let until = pin.until.map_or_else(String::new, |until| format!(" until {}", written(until)));
            let why = pin.reason.as_ref().map_or_else(String::new, |reason| format!(": {reason}"));
            self.keep.keep(record, false, format!("pinned{until}{why}"));
        }
    }

    fn by_heartbeat(&mut self, now: DateTime<Utc>, dead_after: Duration) {
        for record in self.records() {
            for running in &self.facts.heartbeats {
                if running.parent.as_ref() == Some(&record.id) && lives(running.updated_at, now, dead_after) {
                    self.keep.keep(record, false, format!("backup {} runs and may refer to it", running.id));
                }
            }
            for restore in &self.facts.restores {
                if restore.backup == record.id && lives(restore.updated_at, now, RESTORE_GRACE) {
                    self.keep.keep(record, true, format!("{} restores it, or did lately", restore.runner));
                }
            }
        }
    }

    fn fates(&self) -> Vec<BackupFate> {
        let fate = |record: &Record| {
            let reasons = self.keep.kept.get(&record.id);
            BackupFate {
                id: record.id.clone(),
                finished_at: record.finished_at,
                keep: reasons.is_some(),
                recovers_onwards: self.keep.onwards.contains(&record.id),
                reasons: reasons
                    .cloned()
                    .unwrap_or_else(|| vec!["nothing in the policy asks for it".to_owned()]),
            }
        };
        self.records().iter().map(fate).collect()
    }

    /// The WAL that stays, by timeline.
    fn timelines(&self, everything: bool) -> BTreeMap<TimelineId, Kept> {
        let catalog = &self.facts.catalog;
        let kept = |timeline: &TimelineId| {
            let kept = match everything {
                true => Kept { onwards: Some((Lsn(0), "nothing goes".to_owned())), stretches: Vec::new() },
                false => self.kept_of(*timeline),
            };
            (*timeline, kept)
        };
        catalog.coverage.timelines.keys().map(kept).collect()
    }

    fn kept_of(&self, timeline: TimelineId) -> Kept {
        let (catalog, size) = (&self.facts.catalog, self.facts.catalog.segment_size());
        let path = catalog.path(timeline).unwrap_or_default();
        let staying = self.records().iter().filter(|record| self.keep.kept.contains_key(&record.id));
        let (onwards, alone): (Vec<&Record>, Vec<&Record>) =
            staying.partition(|record| self.keep.onwards.contains(&record.id));
        let leading =
            onwards.into_iter().filter(|record| record.timeline == timeline || is_on(record, &path));
        let from = |record: &Record| match record.timeline == timeline {
            true => size.floor(record.start_lsn),
            false => Lsn(0),
        };
        let first = leading.min_by_key(|record| from(record));
        let first = first
            .map(|record| (from(record), format!("backup {} needs it, and leads on from there", record.id)));
        let alone = alone.into_iter().filter(|record| record.timeline == timeline);
        let stretches = alone.map(|record| {
            let range = Range { from: size.floor(record.start_lsn), to: ceil(record.stop_lsn, size) };
            (range, format!("backup {} needs it to be consistent", record.id))
        });
        Kept { onwards: first.or_else(|| self.without_backup(timeline)), stretches: stretches.collect() }
    }

    /// No backup leads to this timeline. It stays while a backup of it may still come, or somebody may have one from elsewhere.
    fn without_backup(&self, timeline: TimelineId) -> Option<(Lsn, String)> {
        if timeline >= self.facts.catalog.newest_timeline() {
            return Some((Lsn(0), "it is the newest timeline, and has no backup yet".to_owned()));
        }
        let is_left = !self.leaves.iter().any(|(leaf, _)| *leaf == timeline);
        let is_old = match (self.since(self.policy.window), self.ended(timeline)) {
            (Some(since), Some(ended)) => ended < since,
            (None, Some(_)) => true,
            (_, None) => false,
        };
        (!is_left && !is_old)
            .then(|| (Lsn(0), "its timeline has ended within the recovery window".to_owned()))
    }
}

/// Now, but not later than backups bear out: with a clock that has jumped ahead, or when nobody has taken a backup for long, what
/// is there must not grow old by that alone. One backup that is far from all others bears out nothing.
fn borne_out(records: &[Record], policy: &Policy, now: DateTime<Utc>) -> DateTime<Utc> {
    let mut finished: Vec<DateTime<Utc>> = records.iter().map(|record| record.finished_at).collect();
    finished.sort();
    let far = policy.window.and_then(|window| chrono::Duration::from_std(window).ok());
    let newest = match (finished.as_slice(), far) {
        ([.., before, newest], Some(far)) if newest.signed_duration_since(before) > far => before,
        ([.., newest], _) => newest,
        ([], _) => return now,
    };
    now.min(*newest)
}

/// The timelines that have WAL which is in no other's path, and so the newest: there a restore may end.
fn leaves(catalog: &Catalog) -> Vec<(TimelineId, Vec<Step>)> {
    let left_at = |timeline: TimelineId| {
        let forks = catalog.histories.values().filter_map(|history| history.fork_from(timeline));
        forks.max()
    };
    let is_leaf = |(timeline, to): (TimelineId, Lsn)| left_at(timeline).is_none_or(|fork| to > fork);
    let ends = catalog.coverage.timelines.iter().filter_map(|(timeline, covered)| {
        let to = covered.bounds().map_or(Lsn(0), |bounds| bounds.to);
        is_leaf((*timeline, to)).then_some(*timeline)
    });
    ends.filter_map(|timeline| Some((timeline, catalog.path(timeline)?))).collect()
}

fn ceil(lsn: Lsn, size: SegmentSize) -> Lsn {
    let floor = size.floor(lsn);
    if floor == lsn { lsn } else { Lsn(floor.0 + size.bytes()) }
}

fn written(at: DateTime<Utc>) -> String {
    at.format("%Y-%m-%d %H:%M:%S UTC").to_string()
}

/// Cuts the WAL there is where something else becomes of it.
fn wal_fates(catalog: &Catalog, timelines: &BTreeMap<TimelineId, Kept>) -> Vec<WalFate> {
    let mut fates = Vec::new();
    for (timeline, covered) in &catalog.coverage.timelines {
        let Some(kept) = timelines.get(timeline) else { continue };
        for range in &covered.ranges {
            let mut at = range.from;
            while at < range.to {
                let (keep, reason, until) = kept.fate(at);
                let to = until.map_or(range.to, |until| until.min(range.to));
                fates.push(WalFate { timeline: *timeline, from: at, to, keep, reason });
                at = to;
            }
        }
    }
    fates
}

impl Kept {
    /// What becomes of the byte at a position, why, and up to where that holds.
    fn fate(&self, at: Lsn) -> (bool, String, Option<Lsn>) {
        if let Some((_, reason)) = self.onwards.as_ref().filter(|(from, _)| *from <= at) {
            return (true, reason.clone(), None);
        }
        let next = self.onwards.as_ref().map(|(from, _)| *from);
        if let Some((range, reason)) =
            self.stretches.iter().find(|(range, _)| range.from <= at && at < range.to)
        {
            return (true, reason.clone(), Some(next.map_or(range.to, |next| next.min(range.to))));
        }
        let starts = self.stretches.iter().map(|(range, _)| range.from).filter(|from| *from > at);
        (false, "no backup that stays needs it".to_owned(), starts.chain(next).min())
    }

    /// Whether an object with this range stays.
    pub(super) fn keeps(&self, range: Range) -> bool {
        let onwards = self.onwards.as_ref().is_some_and(|(from, _)| range.to > *from);
        onwards || self.stretches.iter().any(|(kept, _)| range.from < kept.to && kept.from < range.to)
    }

    /// Whether anything that stays may lie before a position.
    pub(super) fn keeps_before(&self, lsn: Lsn) -> bool {
        let onwards = self.onwards.as_ref().map(|(from, _)| *from);
        self.stretches.iter().map(|(range, _)| range.from).chain(onwards).any(|from| from < lsn)
    }

    /// The stretch around a position of which nothing stays, and which ends at `end` where nothing behind it does. What lies
    /// before the first WAL that stays begins at the very beginning: some of it may come back from another repository.
    pub(super) fn gone_around(&self, at: Lsn, end: Lsn) -> Range {
        let ends = self.stretches.iter().map(|(range, _)| range.to).filter(|to| *to <= at);
        let onwards = self.onwards.as_ref().map(|(from, _)| *from);
        let starts = self.stretches.iter().map(|(range, _)| range.from).chain(onwards);
        Range {
            from: ends.max().unwrap_or(Lsn(0)),
            to: starts.filter(|from| *from > at).min().unwrap_or(end).min(end),
        }
    }
}

/// Holes that no WAL which stays lies before.
fn forgotten_holes(catalog: &Catalog, timelines: &BTreeMap<TimelineId, Kept>) -> Vec<Hole> {
    let holes = catalog.coverage.timelines.values().flat_map(|covered| &covered.holes);
    let is_forgotten = |hole: &&Hole| {
        let newest = catalog.coverage.timelines.get(&hole.timeline).and_then(|covered| covered.bounds());
        // Behind all WAL, it is where archiving goes on.
        let is_inside = newest.is_some_and(|bounds| hole.to <= bounds.to);
        is_inside && timelines.get(&hole.timeline).is_some_and(|kept| !kept.keeps_before(hole.to))
    };
    holes.filter(is_forgotten).cloned().collect()
}

/// Bytes of packs that only backups name which go.
fn freed_packs(records: &[Record], fates: &[BackupFate]) -> u64 {
    let stays: BTreeSet<&BackupId> = fates.iter().filter(|fate| fate.keep).map(|fate| &fate.id).collect();
    let (staying, going): (Vec<&Record>, Vec<&Record>) =
        records.iter().partition(|record| stays.contains(&record.id));
    let named: BTreeSet<_> =
        staying.iter().flat_map(|record| record.packs.iter().map(|pack| &pack.pack)).collect();
    let freed: BTreeMap<_, u64> = going
        .iter()
        .flat_map(|record| record.packs.iter().map(|pack| (&pack.pack, pack.size)))
        .filter(|(pack, _)| !named.contains(pack))
        .collect();
    freed.values().sum()
}
