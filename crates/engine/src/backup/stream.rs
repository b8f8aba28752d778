//! From the server's stream to the repository, in three stages side by side.

use std::sync::Arc;

use bytes::Bytes;
use futures::StreamExt;
use pgformat::{BackupLabel, ControlFile, Lsn, TimelineId};
use replication::{BackupEvent, BaseBackup};
use repository::crypt::BackupKeys;
use repository::files::{FileEntry, FileKind};
use repository::{BackupId, Cluster};
use tokio::sync::{mpsc, watch};

use super::manifest::{Manifest, Received};
use super::pack::{Packed, Packer};
use super::parent::Parent;
use super::split::{Pages, Splitter};
use super::tar::{Entry, EntryKind, Item, Reader};
use super::work::{self, Done, Encoding, Job};
use super::{BackupConfig, Progress};
use crate::Error;
use crate::server::Server;

/// Jobs that are cut but not finished yet, for each worker. A job holds a quarter of a megabyte at most.
const JOBS_PER_WORKER: usize = 6;
/// The manifest's place in the data directory.
const MANIFEST: &str = "backup_manifest";
/// Small files that say what the backup is are looked into; none of them is larger.
const INSPECTED_BYTES_MAX: usize = 64 << 10;

/// What was copied.
pub(super) struct Copied {
    pub(super) packed: Packed,
    pub(super) end: (Lsn, TimelineId),
}

/// Copies everything. When this returns, all objects but the record are durable.
#[expect(clippy::too_many_arguments, reason = "the parts of one step, each made by the step before it")]
pub(super) async fn copy(
    config: &BackupConfig,
    cluster: &Cluster,
    server: &Server,
    id: &BackupId,
    base: BaseBackup,
    parent: Option<Parent>,
    keys: Option<Arc<BackupKeys>>,
    progress: &watch::Sender<Progress>,
) -> Result<Copied, Error> {
    let workers = config.workers.max(1);
    let parent_record = parent.as_ref().map(|parent| parent.record().clone());
    let (jobs, mut queue) = mpsc::channel::<Job>(workers * 2);
    let mut source = Source::new(config, server, base, parent, jobs, progress);
    let reading = async move { source.read().await };

    let sealer = keys.as_ref().map(|keys| keys.frames.clone());
    let encoding = Encoding { level: config.level, sealer };
    let packing = async {
        let mut packer = Packer::new(cluster, id, keys)?;
        let queue = futures::stream::poll_fn(move |context| queue.poll_recv(context));
        let mut done = queue.map(|job| run(job, encoding.clone())).buffered(workers * JOBS_PER_WORKER);
        while let Some(done) = done.next().await {
            packer.push(done?).await?;
            progress.send_modify(|progress| {
                progress.stored_bytes = packer.stored_bytes();
                progress.shared_bytes = packer.shared_bytes();
            });
        }
        packer.finish(parent_record.as_ref()).await
    };
    // Whoever fails first is the reason; a reader that finds its queue closed only reports that.
    let (end, packed) = tokio::join!(reading, packing);
    match (end, packed) {
        (Ok(end), Ok(packed)) => Ok(Copied { packed, end }),
        (Err(Error::Stopped), Err(error)) | (Ok(_), Err(error)) | (Err(error), _) => Err(error),
    }
}

async fn run(job: Job, encoding: Encoding) -> Result<Done, Error> {
    let done = tokio::task::spawn_blocking(move || work::work(job, &encoding)).await;
    done.unwrap_or_else(|cause| Err(std::io::Error::other(cause))).map_err(|source| {
        let error = store::Error::Unavailable { action: "compress", key: "a frame".to_owned(), source };
        Error::Repository(error.into())
    })
}

/// Reads and cuts.
struct Source<'a> {
    server: &'a Server,
    base: BaseBackup,
    role_files: &'a [String],
    parent: Option<Parent>,
    jobs: mpsc::Sender<Job>,
    cut: Vec<Job>,
    progress: &'a watch::Sender<Progress>,
    splitter: Splitter,
    received: Received,
    left_out: Vec<String>,
    /// `pg_tblspc/<oid>/` while a tablespace's archive comes.
    prefix: String,
    tar: Reader,
    /// The file that is being left out, or read into `inspected` as well.
    skipping: bool,
    inspected: Option<(String, Vec<u8>)>,
    seen_control: bool,
}

impl<'a> Source<'a> {
    fn new(
        config: &'a BackupConfig,
        server: &'a Server,
        base: BaseBackup,
        parent: Option<Parent>,
        jobs: mpsc::Sender<Job>,
        progress: &'a watch::Sender<Progress>,
    ) -> Source<'a> {
        let pages = server
            .data_checksums
            .then_some(Pages { block_size: server.block_size, backup_start: base.start().0 });
        Source {
            server,
            base,
            role_files: &config.role_files,
            parent,
            jobs,
            cut: Vec::new(),
            progress,
            splitter: Splitter::new(pages),
            received: Received::default(),
            left_out: Vec::new(),
            prefix: String::new(),
            tar: Reader::default(),
            skipping: false,
            inspected: None,
            seen_control: false,
        }
    }

    async fn read(&mut self) -> Result<(Lsn, TimelineId), Error> {
        let mut manifest = None;
        let mut end = None;
        while let Some(event) = self.base.next().await? {
            match event {
                BackupEvent::Archive { tablespace } => self.begin_archive(tablespace)?,
                BackupEvent::Data(data) => self.take_archive(data).await?,
                BackupEvent::Manifest => {
                    self.end_archive()?;
                    let received = std::mem::take(&mut self.received);
                    manifest = Some(Manifest::new(received, std::mem::take(&mut self.left_out)));
                    self.splitter.begin(MANIFEST.to_owned(), 0o600, 0, None);
                }
                BackupEvent::ManifestData(data) => {
                    let manifest = manifest
                        .as_mut()
                        .ok_or_else(|| Error::BadBackup("its manifest has no start".into()))?;
                    let stored = manifest.push(&data)?;
                    self.splitter.push(&stored, &mut self.cut);
                    self.flush().await?;
                }
                BackupEvent::Progress { .. } => {}
                BackupEvent::End { lsn, timeline } => end = Some((lsn, timeline)),
            }
        }
        let manifest = manifest.ok_or_else(|| Error::BadBackup("it came without a manifest".into()))?;
        let (lsn, timeline) = end.ok_or_else(|| Error::BadBackup("it came without an end".into()))?;
        self.check_end(&manifest.finish()?, lsn, timeline)?;
        self.splitter.end(&mut self.cut);
        self.splitter.finish(&mut self.cut);
        self.flush().await?;
        Ok((lsn, timeline))
    }

    fn check_end(&self, ranges: &[pgformat::WalRange], lsn: Lsn, timeline: TimelineId) -> Result<(), Error> {
        let (start, _) = self.base.start();
        let starts = ranges.iter().map(|range| range.start).min();
        let ends = ranges.iter().find(|range| range.timeline == timeline).map(|range| range.end);
        if starts != Some(start) || ends != Some(lsn) {
            return Err(Error::BadBackup(format!(
                "its manifest does not say that WAL from {start} to {lsn} is needed"
            )));
        }
        if !self.seen_control {
            return Err(Error::BadBackup("it came without global/pg_control".into()));
        }
        Ok(())
    }

    fn begin_archive(&mut self, tablespace: Option<u32>) -> Result<(), Error> {
        self.end_archive()?;
        self.prefix = tablespace.map(|oid| format!("pg_tblspc/{oid}/")).unwrap_or_default();
        Ok(())
    }

    fn end_archive(&mut self) -> Result<(), Error> {
        let tar = std::mem::take(&mut self.tar);
        if tar.is_at_rest() {
            Ok(())
        } else {
            Err(Error::BadBackup("a tar archive ends in the middle of a file".into()))
        }
    }

    async fn take_archive(&mut self, mut data: Bytes) -> Result<(), Error> {
        let len = data.len() as u64;
        while let Some(item) = self.tar.next(&mut data)? {
            match item {
                Item::Entry(entry) => self.begin_entry(entry).await,
                Item::Data(bytes) => self.take_data(&bytes),
                Item::EndOfFile => self.end_file()?,
            }
            self.flush().await?;
        }
        self.progress.send_modify(|progress| progress.bytes += len);
        Ok(())
    }

    async fn begin_entry(&mut self, entry: Entry) {
        let path = format!("{}{}", self.prefix, entry.path);
        let kind = match entry.kind {
            // The root of an archive.
            _ if entry.path.is_empty() => return,
            EntryKind::File { size } => return self.begin_file(path, entry.mode, entry.mtime, size).await,
            EntryKind::Directory => FileKind::Directory,
            // A tablespace's link is made anew by a restore, to wherever the tablespace then is.
            EntryKind::Link { .. } if path.starts_with("pg_tblspc/") => return,
            EntryKind::Link { target } => FileKind::Link { target },
        };
        self.cut.push(Job::Listed(FileEntry { path, kind, mode: entry.mode }));
    }

    async fn begin_file(&mut self, path: String, mode: u32, mtime: i64, size: u64) {
        self.skipping = self.role_files.contains(&path);
        if self.skipping {
            self.left_out.push(path);
            return;
        }
        let inspected = matches!(path.as_str(), "backup_label" | "global/pg_control");
        if inspected && size <= INSPECTED_BYTES_MAX as u64 {
            self.inspected = Some((path.clone(), Vec::new()));
        }
        let parent = match &mut self.parent {
            Some(parent) => parent.file(&path).await,
            None => None,
        };
        self.splitter.begin(path, mode, mtime, parent);
    }

    fn take_data(&mut self, bytes: &[u8]) {
        if self.skipping {
            return;
        }
        if let Some((_, content)) = &mut self.inspected {
            content.extend_from_slice(bytes);
        }
        self.splitter.push(bytes, &mut self.cut);
    }

    fn end_file(&mut self) -> Result<(), Error> {
        if std::mem::take(&mut self.skipping) {
            return Ok(());
        }
        if let Some(facts) = self.splitter.end(&mut self.cut) {
            self.received.add(&facts);
        }
        match self.inspected.take() {
            Some((path, content)) => {
                self.inspect(&path, &content).map_err(|reason| Error::BadBackup(format!("{path}: {reason}")))
            }
            None => Ok(()),
        }
    }

    /// Files that tell whether this is the backup we think it is.
    fn inspect(&mut self, path: &str, content: &[u8]) -> Result<(), String> {
        let (start, timeline) = self.base.start();
        if path == "backup_label" {
            let label = BackupLabel::parse(content).map_err(|error| error.to_string())?;
            let same = (label.start_lsn, label.timeline) == (start, timeline);
            return if same {
                Ok(())
            } else {
                Err(format!("it starts at {}, not at {start}", label.start_lsn))
            };
        }
        let control = ControlFile::parse(content).map_err(|error| error.to_string())?;
        self.seen_control = true;
        match control.system_identifier == self.server.system_identifier {
            true => Ok(()),
            false => Err(format!(
                "it belongs to system {}, not {}",
                control.system_identifier, self.server.system_identifier
            )),
        }
    }

    async fn flush(&mut self) -> Result<(), Error> {
        for job in self.cut.drain(..) {
            // The other stages ended, and they say why.
            self.jobs.send(job).await.map_err(|_closed| Error::Stopped)?;
        }
        Ok(())
    }
}
