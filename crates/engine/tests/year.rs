//! A year in the life of a repository, in a minute: backups every few hours, failovers, pins, restores, backups that run for hours and
//! some that die, clocks that jump, and an expiry twice a day that is cut off now and then. The policy is kept at every step.
//!
//! The repository is the real one, over a store in memory; what runs is what the service runs.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test")]

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use chrono::{DateTime, Utc};
use engine::catalog::Catalog;
use engine::expire::{self, Every, Policy};
use pgformat::{Lsn, TimelineId};
use proptest::prelude::Rng;
use proptest::test_runner::{RngAlgorithm, TestRng};
use repository::codec::{self, Checksum, Fingerprint};
use repository::files::{FileEntry, FileKind, FileListWriter};
use repository::pack::{PackBuilder, PackName};
use repository::pin::Pin;
use repository::record::PackUse;
use repository::state::{Heartbeat, RestoreHeartbeat};
use repository::wal::{WalChunk, WalFacts, WalStream};
use repository::{BackupId, Cluster, Identity, Record, Repository};
use store::memory::MemoryStore;
use store::{Body, Directory, Entry, Error, Key, Store, Version};

const SEGMENT: u64 = 1 << 20;
const HOURS: u64 = 365 * 24;
/// WAL fills a segment in so many hours.
const SEGMENT_HOURS: u64 = 2;
const BACKUP_HOURS: u64 = 4;
const EXPIRE_HOURS: u64 = 12;
const WINDOW_DAYS: u64 = 14;
/// Of the window, every so many hours are looked at; they are other ones each time.
const CHECK_HOURS: usize = 5;
const DEAD_AFTER: Duration = Duration::from_secs(3600);
/// What a window of two weeks, the newest of four weeks and three months, and what is pinned or runs come to, at most.
const BACKUPS_MAX: usize = 120;

/// A store whose deletions fail from some point on.
#[derive(Debug)]
struct CutOff {
    inner: MemoryStore,
    deletions_left: AtomicI64,
}

#[async_trait]
impl Store for CutOff {
    async fn create(&self, key: &Key, body: Body) -> Result<(), Error> {
        self.inner.create(key, body).await
    }

    async fn read(&self, key: &Key, range: Option<Range<u64>>) -> Result<Bytes, Error> {
        self.inner.read(key, range).await
    }

    async fn list(&self, directory: &Directory) -> Result<Vec<Entry>, Error> {
        self.inner.list(directory).await
    }

    async fn delete(&self, key: &Key) -> Result<(), Error> {
        if self.deletions_left.fetch_sub(1, Ordering::Relaxed) <= 0 {
            let source = std::io::Error::other("the process has died");
            return Err(Error::Unavailable { action: "delete", key: key.to_string(), source });
        }
        self.inner.delete(key).await
    }

    async fn read_version(&self, key: &Key) -> Result<Option<(Bytes, Version)>, Error> {
        self.inner.read_version(key).await
    }

    async fn replace(&self, key: &Key, expected: Option<&Version>, body: Bytes) -> Result<Version, Error> {
        self.inner.replace(key, expected, body).await
    }

    fn address(&self) -> String {
        self.inner.address()
    }
}

/// A backup that runs.
struct Running {
    heartbeat: Heartbeat,
    began: u64,
    ends: u64,
    /// It is never going to be published.
    dies: bool,
    packs: Vec<PackUse>,
}

struct Year {
    store: Arc<CutOff>,
    cluster: Cluster,
    random: TestRng,
    /// The hour, and the text of the history so far.
    now: u64,
    history: String,
    /// The hours at which the cluster went over to another timeline.
    forks: Vec<u64>,
    running: Option<Running>,
    first_backup: Option<u64>,
    published: usize,
    dead: usize,
    cut_off: usize,
    newest_packs: Vec<PackUse>,
}

fn at(hour: u64) -> DateTime<Utc> {
    DateTime::UNIX_EPOCH + chrono::Duration::hours(490_000 + i64::try_from(hour).unwrap())
}

fn lsn(hour: u64) -> Lsn {
    Lsn(SEGMENT + hour * SEGMENT / SEGMENT_HOURS + 40)
}

fn timeline(number: usize) -> TimelineId {
    TimelineId::new(u32::try_from(number).unwrap()).unwrap()
}

impl Year {
    async fn begin(seed: u8) -> Year {
        let store =
            Arc::new(CutOff { inner: MemoryStore::default(), deletions_left: AtomicI64::new(i64::MAX) });
        let repository = Repository::open_or_create(store.clone(), at(0)).await.unwrap();
        let cluster = repository.cluster("c").unwrap();
        let identity = Identity {
            system_identifier: 7,
            postgresql_major: 17,
            segment_size: SEGMENT,
            block_size: 8192,
            created_at: at(0),
        };
        cluster.claim(&identity).await.unwrap();
        Year {
            store,
            cluster,
            random: TestRng::from_seed(RngAlgorithm::ChaCha, &[seed; 32]),
            now: 0,
            history: String::new(),
            forks: Vec::new(),
            running: None,
            first_backup: None,
            published: 0,
            dead: 0,
            cut_off: 0,
            newest_packs: Vec::new(),
        }
    }

    fn chance(&mut self, of: u64) -> bool {
        self.random.next_u64().is_multiple_of(of)
    }

    fn timeline(&self, hour: u64) -> TimelineId {
        timeline(1 + self.forks.iter().filter(|fork| **fork <= hour).count())
    }

    async fn put_segment(&self, timeline: TimelineId, hour: u64) {
        let size = self.cluster.require_identity().await.unwrap().segment_size();
        let stream = WalStream { system_identifier: 7, timeline, segment_size: size };
        let from = size.floor(lsn(hour));
        let plain = Bytes::from(vec![0; size.len()]);
        let chunk = WalChunk { from, plain, facts: WalFacts::default(), durable: from };
        self.cluster.put_wal(&self.cluster.encode_segment(&stream, chunk).await.unwrap()).await.unwrap();
    }

    /// A failover: the old primary's segment is there, and the new timeline has its own of that number.
    async fn fail_over(&mut self) {
        let parent = self.timeline(self.now);
        self.history += &format!("{}\t{}\tno recovery target specified\n", parent, lsn(self.now));
        self.forks.push(self.now);
        let next = self.timeline(self.now);
        self.cluster.put_history(next, self.history.clone().into()).await.unwrap();
        self.put_segment(next, self.now).await;
        // It ends a backup that runs.
        if let Some(running) = &mut self.running {
            running.dies = true;
        }
    }

    async fn begin_backup(&mut self) {
        let mut heartbeat = self.cluster.begin_backup(at(self.now), "host/1").await.unwrap();
        let parent = self.cluster.backups().await.unwrap().records.pop();
        heartbeat.parent = parent.as_ref().map(|parent| parent.id.clone());
        self.cluster.beat(&heartbeat).await.unwrap();
        let mut packs = vec![self.pack(&heartbeat.id).await];
        // It refers to some of what the one before has.
        for pack in parent.into_iter().flat_map(|parent| parent.packs) {
            if packs.len() < 8 && !self.chance(4) {
                packs.push(pack);
            }
        }
        let long = self.random.next_u64() % 3;
        let dies = self.chance(12);
        self.running = Some(Running { began: self.now, ends: self.now + long, heartbeat, dies, packs });
    }

    async fn pack(&self, id: &BackupId) -> PackUse {
        let mut pack = PackBuilder::new(PackName { backup: id.clone(), number: 0 }).unwrap();
        let stored = codec::compress(b"bytes", 1).unwrap();
        pack.push(&stored, 5, Checksum::of(&stored), Fingerprint::of(b"bytes"));
        self.cluster.put_pack(pack.finish(), None).await.unwrap()
    }

    /// Goes on with the backup that runs.
    async fn continue_backup(&mut self) {
        let Some(mut running) = self.running.take() else { return };
        running.heartbeat.updated_at = at(self.now);
        self.cluster.beat(&running.heartbeat).await.unwrap();
        if self.now < running.ends {
            self.running = Some(running);
            return;
        }
        if running.dies {
            // It leaves its heartbeat and whatever it has stored.
            self.dead += 1;
            return;
        }
        self.publish(&running).await;
        self.cluster.end_backup(&running.heartbeat.id).await.unwrap();
    }

    async fn publish(&mut self, running: &Running) {
        let id = running.heartbeat.id.clone();
        let on = self.timeline(running.began);
        let mut list = FileListWriter::new().unwrap();
        list.push(&FileEntry { path: "base".into(), kind: FileKind::Directory, mode: 0o700 }).unwrap();
        let files = self.cluster.put_files(&id, list.finish().unwrap(), None).await.unwrap();
        let (start_lsn, stop_lsn) = (lsn(running.began), Lsn(lsn(running.began).0 + 400));
        let record = Record {
            id,
            system_identifier: 7,
            postgresql_version: 170_000,
            data_checksums: true,
            started_at: at(running.began),
            finished_at: at(self.now),
            timeline: on,
            start_lsn,
            stop_timeline: on,
            stop_lsn,
            source: "db".into(),
            note: None,
            parent: running.heartbeat.parent.clone(),
            tablespaces: vec![],
            files,
            file_count: 1,
            size_bytes: 0,
            maps: vec![],
            packs: running.packs.clone(),
            encrypted_to: None,
            stored_bytes: 0,
            shared_bytes: 0,
            corrupt_pages: vec![],
            corrupt_pages_total: 0,
        };
        let size = self.cluster.require_identity().await.unwrap().segment_size();
        let durable = self.cluster.durable_from(on, start_lsn, size).await.unwrap().unwrap();
        // What a backup refers to never goes while it runs.
        self.cluster.publish(&record, &durable).await.unwrap();
        self.first_backup.get_or_insert(self.now);
        self.newest_packs = record.packs;
        self.published += 1;
    }

    /// A person pins, unpins and restores.
    async fn person(&mut self) {
        let records = self.cluster.backups().await.unwrap().records;
        if records.is_empty() {
            return;
        }
        let chosen = records[usize::try_from(self.random.next_u64()).unwrap() % records.len()].id.clone();
        match self.random.next_u64() % 3 {
            0 => {
                let until = Some(at(self.now + 24 * 20));
                let pin = Pin { backup: chosen, reason: None, until, at: at(self.now) };
                self.cluster.pin(&pin).await.unwrap();
            }
            1 => drop(self.cluster.unpin(&chosen).await.unwrap()),
            _ => {
                let heartbeat = RestoreHeartbeat {
                    backup: chosen,
                    runner: "node/9".into(),
                    started_at: at(self.now),
                    updated_at: at(self.now),
                };
                self.cluster.beat_restore(&heartbeat).await.unwrap();
            }
        }
    }

    fn policy() -> Policy {
        Policy {
            window: Some(Duration::from_secs(WINDOW_DAYS * 24 * 3600)),
            minimum: 2,
            periods: vec![(Every::Week, 4), (Every::Month, 3)],
            ..Policy::default()
        }
    }

    /// Expires, with a clock that may be wrong, and may be cut off. Now and then two services do so at once.
    async fn expire(&mut self) {
        let clock = match self.random.next_u64() % 12 {
            0 => at(self.now + 24 * 400),
            1 => at(self.now.saturating_sub(24 * 10)),
            _ => at(self.now),
        };
        let facts = expire::facts(&self.cluster).await.unwrap();
        let plan = expire::plan(&facts, &Self::policy(), clock, DEAD_AFTER);
        let twice = self.chance(10);
        if self.chance(4) {
            let left = i64::try_from(self.random.next_u64() % 20).unwrap();
            self.store.deletions_left.store(left, Ordering::Relaxed);
        }
        // A clock that is ahead takes a backup that runs for dead; that is what it means.
        let now = clock.min(at(self.now));
        let mut applied = expire::apply(&self.cluster, &plan, now, DEAD_AFTER).await;
        if twice && applied.is_ok() {
            applied = expire::apply(&self.cluster, &plan, now, DEAD_AFTER).await;
        }
        self.cut_off += usize::from(applied.is_err());
        self.store.deletions_left.store(i64::MAX, Ordering::Relaxed);
    }

    /// Whatever is listed can be restored, and every hour of the window.
    async fn check(&self) {
        let catalog = Catalog::load(&self.cluster).await.unwrap();
        let gaps: Vec<_> =
            catalog.coverage.timelines.values().flat_map(|covered| covered.unexplained_gaps()).collect();
        assert!(gaps.is_empty(), "hour {}: {gaps:?}", self.now);
        let mut packs: BTreeMap<BackupId, Vec<u32>> = BTreeMap::new();
        for record in &catalog.backups.records {
            let path = catalog.path(record.timeline).unwrap();
            let reach = catalog.reach(&path, record.timeline, record.start_lsn);
            assert!(reach.lsn >= record.stop_lsn, "hour {}: {} is not consistent", self.now, record.id);
            for pack in &record.packs {
                let writer = &pack.pack.backup;
                if !packs.contains_key(writer) {
                    let numbers = self.cluster.pack_sizes(writer).await.unwrap();
                    packs.insert(writer.clone(), numbers.into_iter().map(|(number, _)| number).collect());
                }
                assert!(packs[writer].contains(&pack.pack.number), "{} lacks {:?}", record.id, pack.pack);
            }
        }
        let Some(first) = self.first_backup else { return };
        for hour in (self.now.saturating_sub(WINDOW_DAYS * 24).max(first)..=self.now).step_by(CHECK_HOURS) {
            assert!(self.recovers(&catalog, hour), "hour {hour} was lost at hour {}", self.now);
        }
        assert!(catalog.backups.records.len() <= BACKUPS_MAX, "{} backups", catalog.backups.records.len());
    }

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

    async fn live(&mut self) {
        while self.now < HOURS {
            if self.now.is_multiple_of(SEGMENT_HOURS) {
                self.put_segment(self.timeline(self.now), self.now).await;
            }
            // Now and then a cluster fails over, and sometimes again within the hour.
            if self.now > 10 && self.chance(36) {
                self.fail_over().await;
            } else if self.running.is_none() && self.now.is_multiple_of(BACKUP_HOURS) {
                self.begin_backup().await;
            }
            self.continue_backup().await;
            if self.chance(20) {
                self.person().await;
            }
            if self.now % EXPIRE_HOURS == EXPIRE_HOURS - 1 {
                self.expire().await;
                self.check().await;
            }
            self.now += 1;
        }
    }
}

#[tokio::test]
async fn a_year_in_which_the_policy_is_kept() {
    let mut year = Year::begin(1).await;
    year.live().await;
    let objects = year.cluster.backup_directories().await.unwrap().len();
    println!(
        "{} backups published and {} dead, {} failovers, {} expiries cut off; {objects} directories are left",
        year.published,
        year.dead,
        year.forks.len(),
        year.cut_off
    );
    assert!(year.published > 1000 && year.forks.len() > 100 && year.cut_off > 50, "the year was too quiet");
    assert!(objects <= BACKUPS_MAX * 2, "{objects} directories of backups pile up");
}
