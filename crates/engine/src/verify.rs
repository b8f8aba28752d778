//! Verify: look at everything, and say what does not hold. What is found is data, not an error.

use std::collections::BTreeMap;

use futures::StreamExt;
use repository::files::FileKind;
use repository::pack::PackName;
use repository::record::PackUse;
use repository::wal::WalObject;
use repository::{BackupId, Cluster, Error as RepositoryError, Record};
use serde::Serialize;
use tokio::sync::watch;

use crate::Error;
use crate::catalog::Catalog;

/// How deep to look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Depth {
    /// Read records, lists and maps; see that packs and WAL are there and have the right size.
    Quick,
    /// Read and hash everything.
    Read,
}

/// Something that does not hold.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// The object, or what it is about.
    pub key: String,
    /// What does not hold, in a sentence.
    pub what: String,
    /// The backups that cannot be restored because of it.
    pub backups: Vec<BackupId>,
}

/// What was looked at, and what was found.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Report {
    /// In the order of discovery.
    pub findings: Vec<Finding>,
    /// Objects looked at.
    pub objects: u64,
    /// Bytes read or, of what was not read, seen to be there.
    pub bytes: u64,
}

/// How far verification is.
#[derive(Debug, Clone, Copy, Default)]
pub struct Progress {
    /// Objects looked at.
    pub objects: u64,
    /// Bytes of them.
    pub bytes: u64,
    /// Bytes there are to look at.
    pub bytes_total: u64,
}

struct Verifier<'a> {
    cluster: &'a Cluster,
    catalog: &'a Catalog,
    depth: Depth,
    workers: usize,
    progress: &'a watch::Sender<Progress>,
    report: Report,
}

/// Verifies a cluster.
pub async fn verify(
    cluster: &Cluster,
    catalog: &Catalog,
    depth: Depth,
    workers: usize,
    progress: &watch::Sender<Progress>,
) -> Result<Report, Error> {
    let mut verifier =
        Verifier { cluster, catalog, depth, workers: workers.max(1), progress, report: Report::default() };
    verifier.expect_bytes();
    verifier.records()?;
    for record in &catalog.backups.records {
        verifier.documents(record).await?;
    }
    verifier.packs().await?;
    verifier.continuity()?;
    verifier.wal().await?;
    Ok(verifier.report)
}

impl Verifier<'_> {
    fn expect_bytes(&self) {
        let packs: BTreeMap<&PackName, u64> =
            self.packs_in_use().map(|(_, pack)| (&pack.pack, pack.size)).collect();
        let wal: u64 = self.catalog.coverage.timelines.values().map(|covered| covered.stored_bytes).sum();
        let total = packs.values().sum::<u64>() + wal;
        self.progress.send_modify(|progress| progress.bytes_total = total);
    }

    fn packs_in_use(&self) -> impl Iterator<Item = (&BackupId, &PackUse)> {
        self.catalog
            .backups
            .records
            .iter()
            .flat_map(|record| record.packs.iter().map(move |pack| (&record.id, pack)))
    }

    fn looked_at(&mut self, bytes: u64) {
        self.report.objects += 1;
        self.report.bytes += bytes;
        let (objects, bytes) = (self.report.objects, self.report.bytes);
        self.progress.send_modify(|progress| (progress.objects, progress.bytes) = (objects, bytes));
    }

    fn find(&mut self, key: String, what: String, backups: Vec<BackupId>) {
        self.report.findings.push(Finding { key, what, backups });
    }

    /// Turns damage into a finding; whatever else failed ends the verification.
    fn judge<T>(
        &mut self,
        result: Result<T, RepositoryError>,
        backups: &[BackupId],
    ) -> Result<Option<T>, Error> {
        match result {
            Ok(value) => Ok(Some(value)),
            Err(RepositoryError::Damaged { key, reason }) => {
                self.find(key, reason, backups.to_vec());
                Ok(None)
            }
            Err(RepositoryError::Missing { key, needed_by }) => {
                self.find(key, format!("it is missing, and {needed_by} needs it"), backups.to_vec());
                Ok(None)
            }
            Err(RepositoryError::Store(store::Error::NotFound { key })) => {
                self.find(key, "it is missing".to_owned(), backups.to_vec());
                Ok(None)
            }
            Err(error @ RepositoryError::UnknownFormat { .. }) => {
                let what = error.to_string();
                let RepositoryError::UnknownFormat { key, .. } = error else { return Ok(None) };
                self.find(key, what, backups.to_vec());
                Ok(None)
            }
            Err(error) => Err(error.into()),
        }
    }

    fn records(&mut self) -> Result<(), Error> {
        for (id, error) in &self.catalog.backups.unreadable {
            self.looked_at(0);
            self.find(self.cluster.record_key(id)?, error.to_string(), vec![id.clone()]);
        }
        for (timeline, reason) in &self.catalog.unreadable_histories {
            self.find(self.cluster.history_key(*timeline)?, reason.clone(), Vec::new());
        }
        for record in &self.catalog.backups.records {
            self.looked_at(0);
            if record.corrupt_pages_total > 0 {
                let what = format!(
                    "{} pages were corrupt on the server when it was taken",
                    record.corrupt_pages_total
                );
                self.find(self.cluster.record_key(&record.id)?, what, Vec::new());
            }
        }
        Ok(())
    }

    /// The list of files and the maps of one backup, and that they fit together and with the record.
    async fn documents(&mut self, record: &Record) -> Result<(), Error> {
        let backups = std::slice::from_ref(&record.id);
        self.looked_at(record.files.size);
        let listed = list_of_files(self.cluster, record).await;
        let Some(listed) = self.judge(listed, backups)? else { return Ok(()) };
        let mut mapped = 0u64;
        let packs: BTreeMap<&PackName, u64> =
            record.packs.iter().map(|pack| (&pack.pack, pack.size)).collect();
        for (number, summary) in (0u32..).zip(&record.maps) {
            self.looked_at(summary.size);
            let map = self.cluster.map(record, number).await;
            let Some(map) = self.judge(map, backups)? else { return Ok(()) };
            mapped += map
                .files
                .iter()
                .flat_map(|file| &file.extents)
                .map(|extent| u64::from(extent.len))
                .sum::<u64>();
            let outside = map.packs.iter().find(|pack| {
                let size = packs.get(&pack.pack).copied().unwrap_or(0);
                pack.frames.iter().any(|frame| frame.range().end > size)
            });
            if let Some(pack) = outside {
                let what = format!("it refers to frames of pack {} that the pack does not have", pack.pack);
                self.find(self.cluster.map_key(&record.id, number)?, what, backups.to_vec());
            }
        }
        if mapped != listed {
            let what = format!("its files have {listed} bytes, but its maps {mapped}");
            self.find(self.cluster.record_key(&record.id)?, what, backups.to_vec());
        }
        Ok(())
    }

    /// Every pack once, whoever uses it.
    async fn packs(&mut self) -> Result<(), Error> {
        let mut users: BTreeMap<PackName, (PackUse, Vec<BackupId>)> = BTreeMap::new();
        for (id, pack) in self.packs_in_use() {
            let entry = users.entry(pack.pack.clone()).or_insert_with(|| (pack.clone(), Vec::new()));
            entry.1.push(id.clone());
        }
        let mut sizes: BTreeMap<BackupId, BTreeMap<u32, u64>> = BTreeMap::new();
        let mut readable = Vec::new();
        for (name, (pack, backups)) in users {
            if !sizes.contains_key(&name.backup) {
                let found = self.cluster.pack_sizes(&name.backup).await?;
                sizes.insert(name.backup.clone(), found.into_iter().collect());
            }
            let found = sizes.get(&name.backup).and_then(|sizes| sizes.get(&name.number));
            let key = self.cluster.pack_key(&name)?;
            match found {
                None => self.find(key, "it is missing".to_owned(), backups),
                Some(size) if *size != pack.size => {
                    self.find(key, format!("it has {size} bytes, not {}", pack.size), backups);
                }
                Some(_) if self.depth == Depth::Read => readable.push((pack, backups)),
                Some(_) => self.looked_at(pack.size),
            }
        }
        self.read_packs(readable).await
    }

    async fn read_packs(&mut self, packs: Vec<(PackUse, Vec<BackupId>)>) -> Result<(), Error> {
        let cluster = self.cluster;
        let mut read = futures::stream::iter(packs)
            .map(|(pack, backups)| async move {
                let checked = match backups.first() {
                    Some(id) => cluster.check_pack(&pack, id).await,
                    None => Ok(()),
                };
                (pack.size, backups, checked)
            })
            .buffered(self.workers);
        while let Some((size, backups, checked)) = read.next().await {
            self.looked_at(size);
            self.judge(checked, &backups)?;
        }
        Ok(())
    }

    /// Whether all WAL that backups need is there, and no other WAL is missing without a word.
    fn continuity(&mut self) -> Result<(), Error> {
        let coverage = &self.catalog.coverage;
        let mut found = Vec::new();
        for record in &self.catalog.backups.records {
            let covered = coverage.timelines.get(&record.timeline);
            let end = covered.and_then(|covered| covered.end_from(record.start_lsn));
            if end.is_none_or(|end| end < record.stop_lsn) {
                let what = format!(
                    "WAL of timeline {} from {} to {} is not all there",
                    record.timeline, record.start_lsn, record.stop_lsn
                );
                found.push((self.cluster.record_key(&record.id)?, what, vec![record.id.clone()]));
            }
        }
        for (timeline, covered) in &coverage.timelines {
            for gap in covered.unexplained_gaps() {
                let size = self.catalog.segment_size();
                let name = pgformat::SegmentName::containing(*timeline, gap.from, size);
                let what =
                    format!("WAL is missing from {} to {}, and no hole was recorded", gap.from, gap.to);
                found.push((self.cluster.segment_key(name, size)?, what, Vec::new()));
            }
            for hole in &covered.holes {
                let what = format!("WAL is missing from {} to {}: {}", hole.from, hole.to, hole.cause);
                found.push((format!("hole on timeline {timeline}"), what, Vec::new()));
            }
            if !self.catalog.histories.contains_key(timeline) {
                let key = self.cluster.history_key(*timeline)?;
                found.push((
                    key,
                    "it is missing, so nothing on that timeline can be reached".to_owned(),
                    Vec::new(),
                ));
            }
        }
        found.into_iter().for_each(|(key, what, backups)| self.find(key, what, backups));
        Ok(())
    }

    async fn wal(&mut self) -> Result<(), Error> {
        let size = self.catalog.segment_size();
        for timeline in self.catalog.coverage.timelines.keys() {
            let objects = self.cluster.wal_objects(*timeline, size).await?;
            let cluster = self.cluster;
            let depth = self.depth;
            let mut looked = futures::stream::iter(objects)
                .map(|object| async move { (object, look_at_wal(cluster, object, size, depth).await) })
                .buffered(self.workers);
            while let Some((object, result)) = looked.next().await {
                self.looked_at(object.stored_bytes);
                let backups = self.backups_within(&object);
                match result {
                    // It became part of a whole segment since it was listed.
                    Err(error) if error.is_not_found() && !object.whole => {}
                    result => drop(self.judge(result, &backups)?),
                }
            }
        }
        Ok(())
    }

    /// Backups that are not consistent without this WAL.
    fn backups_within(&self, object: &WalObject) -> Vec<BackupId> {
        let needs = |record: &&Record| {
            record.timeline == object.name.timeline
                && record.start_lsn < object.range.to
                && object.range.from < record.stop_lsn
        };
        self.catalog.backups.records.iter().filter(needs).map(|record| record.id.clone()).collect()
    }
}

async fn look_at_wal(
    cluster: &Cluster,
    object: WalObject,
    size: pgformat::SegmentSize,
    depth: Depth,
) -> Result<(), RepositoryError> {
    match (depth, object.whole) {
        (Depth::Quick, _) => {}
        (Depth::Read, true) => drop(cluster.read_segment(object.name, size).await?),
        (Depth::Read, false) => drop(cluster.read_piece(object.name, size, object.range).await?),
    }
    Ok(())
}

/// Bytes of all files in the list.
async fn list_of_files(cluster: &Cluster, record: &Record) -> Result<u64, RepositoryError> {
    let mut list = cluster.files(record).await?;
    let mut bytes = 0;
    while let Some(entry) = list.next()? {
        if let FileKind::File { size, .. } = entry.kind {
            bytes += size;
        }
    }
    Ok(bytes)
}
