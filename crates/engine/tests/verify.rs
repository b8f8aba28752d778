//! Verification while others remove what it looks at, and while the storage fails.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test")]

use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use bytes::Bytes;
use chrono::{DateTime, Utc};
use engine::verify::{Progress, Reading, Report, Request, Severity, verify};
use pgformat::{Lsn, TimelineId};
use repository::codec::{self, Checksum, Fingerprint};
use repository::files::{FileEntry, FileKind, FileListWriter};
use repository::pack::{PackBuilder, PackName};
use repository::wal::{WalChunk, WalFacts, WalStream};
use repository::{BackupId, Cluster, Identity, Record, Repository};
use store::memory::MemoryStore;
use store::{Body, Directory, Entry, Error, Key, Store, Version};
use tokio::sync::watch;

const SEGMENT: u64 = 1 << 20;

/// A store in which something happens when a key or directory with `trigger` in it is asked for.
#[derive(Debug, Default)]
struct Eventful {
    inner: MemoryStore,
    trigger: Mutex<Option<&'static str>>,
    /// Keys that contain one of these go when the trigger is met.
    removes: Mutex<Vec<&'static str>>,
    /// Reads of keys that contain one of these fail.
    fails: Mutex<Vec<&'static str>>,
}

impl Eventful {
    async fn happen(&self, name: &str) -> Result<(), Error> {
        if self.fails.lock().unwrap().iter().any(|part| name.contains(part)) {
            let source = std::io::Error::other("a broken disk");
            return Err(Error::Unavailable { action: "read", key: name.to_owned(), source });
        }
        let met = self.trigger.lock().unwrap().take_if(|trigger| name.contains(*trigger)).is_some();
        let removes = if met { self.removes.lock().unwrap().clone() } else { Vec::new() };
        for key in removes {
            self.inner.delete(&Key::new(key).unwrap()).await?;
        }
        Ok(())
    }
}

#[async_trait]
impl Store for Eventful {
    async fn create(&self, key: &Key, body: Body) -> Result<(), Error> {
        self.inner.create(key, body).await
    }

    async fn read(&self, key: &Key, range: Option<Range<u64>>) -> Result<Bytes, Error> {
        self.happen(key.as_str()).await?;
        self.inner.read(key, range).await
    }

    async fn list(&self, directory: &Directory) -> Result<Vec<Entry>, Error> {
        self.happen(directory.as_str()).await?;
        self.inner.list(directory).await
    }

    async fn delete(&self, key: &Key) -> Result<(), Error> {
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

fn time(seconds: i64) -> DateTime<Utc> {
    DateTime::from_timestamp(1_700_000_000 + seconds, 0).unwrap()
}

/// Segments 1 to 8 of timeline 1, and a backup in each of segments 2 and 5, each with a pack of its own.
async fn cluster() -> (Arc<Eventful>, Cluster, Vec<BackupId>) {
    let store = Arc::new(Eventful::default());
    let cluster = Repository::open_or_create(store.clone(), time(0)).await.unwrap().cluster("c").unwrap();
    let identity = Identity {
        system_identifier: 7,
        postgresql_major: 15,
        segment_size: SEGMENT,
        block_size: 8192,
        created_at: time(0),
    };
    let size = cluster.claim(&identity).await.unwrap().segment_size();
    let stream = WalStream { system_identifier: 7, timeline: TimelineId::FIRST, segment_size: size };
    for number in 1..=8 {
        let mut facts = WalFacts::default();
        facts.add_transaction(time(i64::try_from(number).unwrap() * 100), 7);
        let from = Lsn(number * SEGMENT);
        let plain = Bytes::from(vec![u8::try_from(number).unwrap(); size.len()]);
        let chunk = WalChunk { from, plain, facts, durable: from };
        cluster.put_wal(&cluster.encode_segment(&stream, chunk).await.unwrap()).await.unwrap();
    }
    let mut ids = Vec::new();
    for number in [2, 5] {
        ids.push(backup(&cluster, number).await);
    }
    (store, cluster, ids)
}

async fn backup(cluster: &Cluster, number: u64) -> BackupId {
    let at = time(i64::try_from(number).unwrap() * 100 + 50);
    let id = BackupId::at(at);
    let mut pack = PackBuilder::new(PackName { backup: id.clone(), number: 0 }).unwrap();
    let stored = codec::compress(b"bytes", 1).unwrap();
    pack.push(&stored, 5, Checksum::of(&stored), Fingerprint::of(b"bytes"));
    let pack = cluster.put_pack(pack.finish(), None).await.unwrap();
    let mut list = FileListWriter::new().unwrap();
    list.push(&FileEntry { path: "base".into(), kind: FileKind::Directory, mode: 0o700 }).unwrap();
    let files = cluster.put_files(&id, list.finish().unwrap(), None).await.unwrap();
    let (start_lsn, stop_lsn) = (Lsn(number * SEGMENT + 40), Lsn(number * SEGMENT + 400));
    let record = Record {
        id: id.clone(),
        system_identifier: 7,
        postgresql_version: 150_000,
        data_checksums: true,
        started_at: at,
        finished_at: at,
        timeline: TimelineId::FIRST,
        start_lsn,
        stop_timeline: TimelineId::FIRST,
        stop_lsn,
        source: "db".into(),
        note: None,
        parent: None,
        tablespaces: vec![],
        files,
        file_count: 1,
        size_bytes: 0,
        maps: vec![],
        packs: vec![pack],
        encrypted_to: None,
        stored_bytes: 0,
        shared_bytes: 0,
        corrupt_pages: vec![],
        corrupt_pages_total: 0,
    };
    let size = cluster.require_identity().await.unwrap().segment_size();
    let durable = cluster.durable_from(TimelineId::FIRST, start_lsn, size).await.unwrap().unwrap();
    cluster.publish(&record, &durable).await.unwrap();
    id
}

async fn run(cluster: &Cluster) -> Result<Report, engine::Error> {
    let request = Request { reading: Reading::All, workers: 2, max_rate: None, clock: || time(5000) };
    verify(cluster, &request, &watch::channel(Progress::default()).0).await
}

const FIRST: &str = "c/backups/20231114T221730Z";

fn segment(number: u64) -> String {
    format!("c/wal/00000001/00000000/0000000100000000{number:08X}.zst")
}

#[tokio::test]
async fn what_is_whole_is_found_whole() {
    let (_, cluster, ids) = cluster().await;
    assert_eq!(format!("c/backups/{}", ids[0]), FIRST);
    let report = run(&cluster).await.unwrap();
    assert!(report.findings.is_empty() && report.unread.is_empty(), "{report:#?}");
    assert_eq!(report.read.objects, 10);
}

#[tokio::test]
async fn a_backup_that_expires_meanwhile_is_no_finding() {
    for trigger in ["packs", "20231114T221730Z/files", "20231114T221730Z/packs/0", "00000008.zst"] {
        let (store, cluster, _) = cluster().await;
        let gone = ["record.json", "files.zst", "packs/0"];
        let gone = gone.map(|name| &*Box::leak(format!("{FIRST}/{name}").into_boxed_str()));
        // Its WAL goes last, oldest first; it is listed before by a verification that began before.
        let wal: [&'static str; 3] = [1, 2, 3].map(|number| &*Box::leak(segment(number).into_boxed_str()));
        *store.removes.lock().unwrap() = gone.into_iter().chain(wal).collect();
        *store.trigger.lock().unwrap() = Some(trigger);
        let report = run(&cluster).await.unwrap();
        assert!(store.trigger.lock().unwrap().is_none(), "{trigger} was met");
        assert!(report.findings.is_empty() && report.unread.is_empty(), "{trigger}: {report:#?}");
    }
}

#[tokio::test]
async fn what_goes_missing_without_its_record_is_a_finding() {
    let (store, cluster, ids) = cluster().await;
    *store.removes.lock().unwrap() = vec![&*Box::leak(format!("{FIRST}/packs/0").into_boxed_str())];
    *store.trigger.lock().unwrap() = Some("packs/0");
    let report = run(&cluster).await.unwrap();
    let [finding] = &report.findings[..] else { panic!("{report:#?}") };
    assert_eq!((finding.severity, &finding.backups[..]), (Severity::Critical, &ids[..1]));
    let [lost] = &finding.lost[..] else { panic!("{finding:#?}") };
    assert_eq!((lost.from_lsn, lost.to_lsn), (Lsn(2 * SEGMENT + 400), Lsn(5 * SEGMENT + 400)));
    assert_eq!((lost.from_time, lost.to_time), (Some(time(100)), Some(time(550))));
}

#[tokio::test]
async fn wal_that_goes_missing_is_a_finding_wherever_it_lies() {
    for (number, to) in [(3, Lsn(5 * SEGMENT + 400)), (8, Lsn(9 * SEGMENT))] {
        let (store, cluster, _) = cluster().await;
        let key = segment(number);
        *store.removes.lock().unwrap() = vec![&*Box::leak(key.clone().into_boxed_str())];
        // When the first segment is read, all have been listed.
        *store.trigger.lock().unwrap() = Some("00000001.zst");
        let report = run(&cluster).await.unwrap();
        let [finding] = &report.findings[..] else { panic!("{number}: {report:#?}") };
        assert_eq!(finding.key, key);
        let [lost] = &finding.lost[..] else { panic!("{finding:#?}") };
        assert_eq!((lost.from_lsn, lost.to_lsn), (Lsn(number * SEGMENT), to), "{finding:#?}");
        let before = time(i64::try_from(number - 1).unwrap() * 100);
        assert_eq!((finding.severity, lost.from_time), (Severity::Serious, Some(before)));
    }
}

#[tokio::test]
async fn what_cannot_be_read_is_not_known_and_not_damaged() {
    let (store, cluster, _) = cluster().await;
    *store.fails.lock().unwrap() = vec!["00000004.zst", "packs/0"];
    let report = run(&cluster).await.unwrap();
    assert!(report.findings.is_empty(), "{report:#?}");
    let unread: BTreeSet<&str> = report.unread.iter().map(|unread| unread.key.as_str()).collect();
    assert_eq!(unread.len(), 3, "{unread:?}");
    assert!(unread.contains(&*segment(4)) && report.unread[0].why.contains("a broken disk"), "{report:#?}");
    // When it can be read again, it is read first.
    store.fails.lock().unwrap().clear();
    let request = Request { reading: Reading::Share(0), workers: 2, max_rate: None, clock: || time(6000) };
    let report = verify(&cluster, &request, &watch::channel(Progress::default()).0).await.unwrap();
    assert_eq!((report.read.objects, report.remembered.objects), (3, 7), "{report:#?}");
}

#[tokio::test]
async fn a_storage_that_is_away_ends_it() {
    let (store, cluster, _) = cluster().await;
    *store.fails.lock().unwrap() = vec![".zst"];
    let error = run(&cluster).await.unwrap_err();
    assert!(error.is_transient(), "{error}");
}
