use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use chrono::{DateTime, Utc};
use pgformat::{History, Lsn, SegmentSize, TimelineId};
use proptest::prelude::*;
use repository::backup::Backups;
use repository::pin::Pin;
use repository::state::{Heartbeat, RestoreHeartbeat};
use repository::wal::{Coverage, Hole, Range, TimelineCoverage};
use repository::{BackupId, Identity, Record};

use super::plan::{Facts, Plan, plan};
use super::policy::{Every, Policy};
use crate::catalog::Catalog;

const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(24 * 3600);
/// A segment is full every two hours.
const BYTES_AN_HOUR: u64 = 8 << 20;
const SIZE: SegmentSize = SegmentSize::DEFAULT;

/// A cluster's life, in hours. The position in the WAL tells the time.
#[derive(Debug, Clone, Default)]
struct Life {
    backups: Vec<u64>,
    /// Each ends a timeline; the old primary goes on for so many hours.
    failovers: Vec<(u64, u64)>,
    holes: Vec<(u64, u64)>,
    now: u64,
}

fn at(hour: u64) -> DateTime<Utc> {
    DateTime::UNIX_EPOCH + chrono::Duration::hours(500_000 + i64::try_from(hour).unwrap())
}

fn lsn(hour: u64) -> Lsn {
    Lsn((hour + 2) * BYTES_AN_HOUR + 0x100)
}

fn timeline(number: usize) -> TimelineId {
    TimelineId::new(u32::try_from(number).unwrap()).unwrap()
}

impl Life {
    /// The timeline at a time.
    fn timeline(&self, hour: u64) -> TimelineId {
        timeline(1 + self.failovers.iter().filter(|(at, _)| *at <= hour).count())
    }

    fn histories(&self) -> BTreeMap<TimelineId, History> {
        let mut histories = BTreeMap::from([(TimelineId::FIRST, History::first())]);
        let mut text = String::new();
        for (number, (hour, _)) in self.failovers.iter().enumerate() {
            text += &format!("{}\t{}\tno recovery target specified\n", number + 1, lsn(*hour));
            let next = timeline(number + 2);
            histories.insert(next, History::parse(next, text.as_bytes()).unwrap());
        }
        histories
    }

    fn coverage(&self) -> Coverage {
        let mut coverage = Coverage::default();
        let mut from = Lsn(SIZE.floor(lsn(0)).0);
        for number in 0..=self.failovers.len() {
            let (until, tail) = self.failovers.get(number).copied().unwrap_or((self.now, 0));
            let whole = Range { from, to: lsn(until + tail) };
            let holes = self.holes.iter().filter(|(hour, _)| self.timeline(*hour) == timeline(number + 1));
            let holes: Vec<Range> = holes
                .map(|(hour, length)| Range {
                    from: SIZE.floor(lsn(*hour)),
                    to: SIZE.floor(lsn((hour + length).min(until))),
                })
                .filter(|hole| hole.from < hole.to && hole.from > whole.from)
                .collect();
            coverage.timelines.insert(timeline(number + 1), covered(timeline(number + 1), whole, &holes));
            from = SIZE.floor(lsn(until));
        }
        coverage
    }

    fn facts(&self) -> Facts {
        let records = self.backups.iter().map(|hour| record(*hour, self.timeline(*hour))).collect();
        let catalog = Catalog {
            identity: Identity {
                system_identifier: 1,
                postgresql_major: 17,
                segment_size: SIZE.bytes(),
                block_size: 8192,
                created_at: at(0),
            },
            backups: Backups { records, unreadable: Vec::new() },
            coverage: self.coverage(),
            histories: self.histories(),
            unacknowledged: Vec::new(),
            unreadable_histories: Vec::new(),
        };
        Facts { catalog, pins: BTreeMap::new(), heartbeats: Vec::new(), restores: Vec::new() }
    }

    /// Whether a restore to this hour is possible.
    fn recovers(&self, catalog: &Catalog, hour: u64) -> bool {
        let end = self.timeline(hour);
        let path = catalog.path(end).unwrap();
        catalog.backups.records.iter().any(|record| {
            let step = path.iter().find(|step| step.timeline == record.timeline);
            let is_on = step.is_some_and(|step| step.end.is_none_or(|fork| record.stop_lsn <= fork));
            let reach = catalog.reach(&path, record.timeline, record.start_lsn);
            is_on && record.finished_at <= at(hour) && reach.timeline == end && reach.lsn >= lsn(hour)
        })
    }
}

fn covered(timeline: TimelineId, whole: Range, holes: &[Range]) -> TimelineCoverage {
    let mut ranges = Vec::new();
    let mut from = whole.from;
    for hole in holes {
        if from < hole.from {
            ranges.push(Range { from, to: hole.from });
        }
        from = from.max(hole.to);
    }
    if from < whole.to {
        ranges.push(Range { from, to: whole.to });
    }
    let hole =
        |range: &Range| Hole { timeline, from: range.from, to: range.to, cause: String::new(), since: at(0) };
    let holes = holes.iter().map(hole).collect();
    let (expired, superseded) = (Vec::new(), Vec::new());
    TimelineCoverage { timeline, ranges, holes, expired, segments: 0, pieces: 0, stored_bytes: 0, superseded }
}

fn record(hour: u64, timeline: TimelineId) -> Record {
    let record = crate::testing::record(at(hour), timeline, lsn(hour), Lsn(lsn(hour).0 + 0x1000));
    Record { finished_at: at(hour) + chrono::Duration::minutes(10), ..record }
}

/// What is left when the plan is carried out.
fn carry_out(facts: &mut Facts, plan: &Plan) {
    let stays: BTreeSet<&BackupId> =
        plan.backups.iter().filter(|fate| fate.keep).map(|fate| &fate.id).collect();
    facts.catalog.backups.records.retain(|record| stays.contains(&record.id));
    for (timeline, covered) in &mut facts.catalog.coverage.timelines {
        let kept = plan.wal.iter().filter(|wal| wal.keep && wal.timeline == *timeline);
        let mut ranges: Vec<Range> = Vec::new();
        for range in kept.map(|wal| Range { from: wal.from, to: wal.to }) {
            match ranges.last_mut() {
                Some(last) if last.to == range.from => last.to = range.to,
                _ => ranges.push(range),
            }
        }
        covered.ranges = ranges;
        covered.holes.retain(|hole| !plan.holes.contains(hole));
    }
    facts.catalog.coverage.timelines.retain(|_, covered| !covered.ranges.is_empty());
}

fn days(days: u32) -> Option<Duration> {
    Some(DAY * days)
}

fn kept(plan: &Plan) -> Vec<(u64, bool)> {
    let hour = |at: DateTime<Utc>| u64::try_from((at - self::at(0)).num_hours()).unwrap();
    let kept = plan.backups.iter().filter(|fate| fate.keep);
    kept.map(|fate| (hour(fate.finished_at), fate.recovers_onwards)).collect()
}

/// A backup a day for ten days.
fn daily() -> Life {
    Life { backups: (0..10).map(|day| day * 24).collect(), now: 9 * 24 + 1, ..Life::default() }
}

fn decide(life: &Life, policy: &Policy) -> Plan {
    plan(&life.facts(), policy, at(life.now), HOUR)
}

#[test]
fn without_a_policy_everything_stays() {
    let plan = decide(&daily(), &Policy::default());
    assert!(plan.is_empty() && plan.nothing_because.is_some());
    assert!(plan.wal.iter().all(|wal| wal.keep));
}

#[test]
fn the_window_begins_with_the_backup_before_it() {
    let plan = decide(&daily(), &Policy { window: days(3), ..Policy::default() });
    assert_eq!(kept(&plan), [(144, true), (168, true), (192, true), (216, true)]);
    assert!(plan.backups[6].reasons[0].contains("begins with it"), "{:?}", plan.backups[6]);
    let gone = plan.wal.iter().find(|wal| !wal.keep).unwrap();
    assert_eq!(gone.to, SIZE.floor(lsn(144)));
}

#[test]
fn the_newest_stay_whatever_their_age() {
    let policy = Policy { window: days(1), minimum: 3, ..Policy::default() };
    let mut life = daily();
    life.now += 1000;
    assert_eq!(kept(&decide(&life, &policy)).len(), 3);
    let policy = Policy { backups: Some(4), ..Policy::default() };
    assert_eq!(kept(&decide(&life, &policy)), [(144, true), (168, true), (192, true), (216, true)]);
}

#[test]
fn an_old_backup_keeps_what_makes_it_consistent() {
    let policy = Policy { window: days(2), periods: vec![(Every::Week, 2)], ..Policy::default() };
    let plan = decide(&daily(), &policy);
    let old = plan.backups.iter().find(|fate| fate.keep && !fate.recovers_onwards).unwrap();
    assert!(old.reasons[0].contains("week"), "{old:?}");
    let stretch = plan.wal.iter().find(|wal| wal.keep).unwrap();
    assert_eq!(stretch.to.0 - stretch.from.0, SIZE.bytes(), "a segment: {stretch:?}");
    let mut facts = daily().facts();
    carry_out(&mut facts, &plan);
    let path = facts.catalog.path(TimelineId::FIRST).unwrap();
    for record in &facts.catalog.backups.records {
        assert!(facts.catalog.reach(&path, record.timeline, record.start_lsn).lsn >= record.stop_lsn);
    }
}

#[test]
fn a_shorter_window_for_wal() {
    let policy = Policy { window: days(6), wal_window: days(2), ..Policy::default() };
    let expected =
        [(72, false), (96, false), (120, false), (144, false), (168, true), (192, true), (216, true)];
    assert_eq!(kept(&decide(&daily(), &policy)), expected);
}

#[test]
fn pins_and_running_work_protect() {
    let life = daily();
    let policy = Policy { window: days(1), ..Policy::default() };
    let mut facts = life.facts();
    let id = |day: u64| BackupId::at(at(day * 24));
    let pin = |day: u64, until: Option<u64>| {
        let until = until.map(at);
        (id(day), Pin { backup: id(day), reason: Some("audit".into()), until, at: at(0) })
    };
    facts.pins = BTreeMap::from([pin(1, None), pin(2, Some(life.now - 1)), pin(3, Some(life.now + 1))]);
    let beat = |updated_at| Heartbeat {
        id: id(99),
        parent: Some(id(4)),
        runner: "h/1".into(),
        started_at: at(0),
        updated_at,
    };
    facts.heartbeats = vec![beat(at(life.now))];
    facts.restores = vec![RestoreHeartbeat {
        backup: id(5),
        runner: "h/2".into(),
        started_at: at(0),
        updated_at: at(life.now - 5),
    }];
    let found = plan(&facts, &policy, at(life.now), HOUR);
    let onwards_from_restored =
        [(24, false), (72, false), (96, false), (120, true), (192, true), (216, true)];
    assert_eq!(kept(&found), onwards_from_restored);
    assert!(found.backups[1].reasons[0].contains("audit"));
    facts.heartbeats = vec![beat(at(life.now - 2))];
    assert!(!plan(&facts, &policy, at(life.now), HOUR).backups[4].keep, "silent for too long");
}

#[test]
fn a_clock_that_jumps_ahead_takes_nothing_away() {
    let policy = Policy { window: days(3), ..Policy::default() };
    let facts = daily().facts();
    let right = plan(&facts, &policy, at(daily().now), HOUR);
    let ahead = plan(&facts, &policy, at(daily().now + 100_000), HOUR);
    assert_eq!(kept(&right), kept(&ahead));
    let mut life = daily();
    life.backups.push(100_000);
    life.now = 100_001;
    let with_one_from_the_future = kept(&decide(&life, &policy));
    for one in kept(&right) {
        assert!(with_one_from_the_future.contains(&one), "{one:?} of {with_one_from_the_future:?}");
    }
}

#[test]
fn what_cannot_be_read_keeps_everything() {
    let mut facts = daily().facts();
    facts.catalog.histories.clear();
    let policy = Policy { window: days(1), ..Policy::default() };
    let found = plan(&facts, &policy, at(daily().now), HOUR);
    assert!(found.is_empty(), "{found:?}");
    assert!(found.nothing_because.unwrap().contains("history"));
}

fn policies() -> impl Strategy<Value = Policy> {
    let window = prop::option::of(1u32..20);
    let periods = prop::collection::vec(
        (prop::sample::select(vec![Every::Day, Every::Week, Every::Month]), 1usize..5),
        0..3,
    );
    (window, prop::option::of(1usize..6), 1usize..4, prop::option::of(1u32..10), periods).prop_map(
        |(window, backups, minimum, wal_window, periods)| Policy {
            window: window.map(|days| DAY * days),
            backups,
            minimum,
            wal_window: wal_window.map(|days| DAY * days),
            periods,
        },
    )
}

fn lives() -> impl Strategy<Value = Life> {
    let gaps = prop::collection::vec(1u64..60, 1..25);
    let failovers = prop::collection::vec((5u64..400, 0u64..4), 0..5);
    let holes = prop::collection::vec((5u64..700, 2u64..30), 0..3);
    (gaps, failovers, holes, 1u64..40).prop_map(|(gaps, mut failovers, mut holes, rest)| {
        let mut hour = 0;
        let next = |gap: u64| {
            let now = hour;
            hour += gap;
            now
        };
        let mut backups: Vec<u64> = gaps.into_iter().map(next).collect();
        let now = hour + rest;
        failovers.retain(|(at, _)| *at < now);
        failovers.sort();
        failovers.dedup_by_key(|(at, _)| *at);
        let forks: BTreeSet<u64> = failovers.iter().map(|(at, _)| *at).collect();
        holes.sort();
        // A failover ends a backup.
        backups.retain(|at| !forks.contains(at) && !forks.contains(&(at + 1)));
        if backups.is_empty() {
            backups.push(0);
        }
        Life { backups, failovers, holes, now }
    })
}

proptest! {
    #[test]
    fn the_policy_is_kept(life in lives(), policy in policies()) {
        let facts = life.facts();
        let decided = plan(&facts, &policy, at(life.now), HOUR);
        let mut after = life.facts();
        carry_out(&mut after, &decided);

        let stays = after.catalog.backups.records.len();
        let asked = policy.minimum.max(policy.backups.unwrap_or(0)).min(life.backups.len());
        prop_assert!(stays >= asked, "{stays} of {asked}");

        for record in &after.catalog.backups.records {
            let path = after.catalog.path(record.timeline).unwrap();
            let consistent = |catalog: &Catalog| {
                catalog.reach(&path, record.timeline, record.start_lsn).lsn >= record.stop_lsn
            };
            prop_assert!(consistent(&after.catalog) || !consistent(&facts.catalog), "{}", record.id);
        }

        if let Some(window) = policy.window {
            let window = policy.wal_window.map_or(window, |wal_window| wal_window.min(window));
            let hours = window.as_secs() / 3600;
            for hour in life.now.saturating_sub(hours)..life.now {
                let could = life.recovers(&facts.catalog, hour);
                prop_assert!(!could || life.recovers(&after.catalog, hour), "hour {hour} was lost");
            }
        }

        let again = plan(&after, &policy, at(life.now), HOUR);
        prop_assert!(again.backups.iter().all(|fate| fate.keep), "{again:?}");
    }

    /// Whatever order things come in, and however often and whenever it is carried out.
    #[test]
    fn the_window_never_shrinks_below_the_policy(life in lives(), policy in policies(), skips in prop::collection::vec(1u64..80, 1..12)) {
        let Some(window) = policy.window else { return Ok(()) };
        let window = policy.wal_window.map_or(window, |wal_window| wal_window.min(window));
        let hours = window.as_secs() / 3600;
        let mut gone: BTreeSet<BackupId> = BTreeSet::new();
        let mut removed_of: BTreeMap<TimelineId, Vec<Range>> = BTreeMap::new();
        let mut now = 0;
        for skip in skips {
            now = (now + skip).min(life.now);
            let mut life = life.clone();
            life.now = now;
            life.backups.retain(|at| *at < now);
            life.failovers.retain(|(at, _)| *at < now);
            if life.backups.is_empty() {
                continue;
            }
            let mut facts = life.facts();
            facts.catalog.backups.records.retain(|record| !gone.contains(&record.id));
            for (timeline, removed) in &removed_of {
                if let Some(covered) = facts.catalog.coverage.timelines.get_mut(timeline) {
                    covered.ranges = without(&covered.ranges, removed);
                }
            }
            facts.catalog.coverage.timelines.retain(|_, covered| !covered.ranges.is_empty());
            let decided = plan(&facts, &policy, at(now), HOUR);
            gone.extend(decided.going().map(|fate| fate.id.clone()));
            for wal in decided.wal.iter().filter(|wal| !wal.keep) {
                removed_of.entry(wal.timeline).or_default().push(Range { from: wal.from, to: wal.to });
            }
            carry_out(&mut facts, &decided);
            for hour in now.saturating_sub(hours)..now {
                // What is recoverable of a life in which nothing ever expired.
                let could = life.recovers(&life.facts().catalog, hour);
                prop_assert!(!could || life.recovers(&facts.catalog, hour), "hour {hour} was lost at hour {now}");
            }
        }
    }
}

/// The ranges without what was removed.
fn without(ranges: &[Range], removed: &[Range]) -> Vec<Range> {
    let mut left = ranges.to_vec();
    for gone in removed {
        left = left
            .into_iter()
            .flat_map(|range| {
                [
                    Range { from: range.from, to: range.to.min(gone.from) },
                    Range { from: range.from.max(gone.to), to: range.to },
                ]
            })
            .filter(|range| range.from < range.to)
            .collect();
    }
    left.sort();
    left
}
