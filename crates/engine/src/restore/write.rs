//! Writing files: map by map, read by read, all cores at once, in bounded memory.

use std::collections::HashMap;
use std::fs::{DirBuilder, OpenOptions};
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use futures::TryStreamExt;
use repository::codec::{self, FrameError};
use repository::crypt::FrameKeys;
use repository::files::{FileEntry, FileKind};
use repository::map::Map;
use repository::pack::{self, Frame, PackName};
use repository::{Cluster, Record};
use tokio::sync::watch;

use super::destination::{CONTROL, CONTROL_STAGED, Prepared};
use super::writeback::Writeback;
use super::{Plan, Progress};
use crate::Error;

/// Reads of packs under way at once, at most; each holds up to [`pack::READ_BYTES_MAX`].
const READS_AT_ONCE_MAX: usize = 16;

/// Writes every file of the backup. None of it is synced yet.
pub(super) async fn files(
    cluster: &Cluster,
    plan: &Plan,
    keys: FrameKeys,
    prepared: &Prepared,
    workers: usize,
    progress: &watch::Sender<Progress>,
) -> Result<(), Error> {
    let record = &plan.record;
    let keys = Arc::new(keys);
    let root: Arc<Path> = prepared.data_dir.as_path().into();
    let mut list = cluster.files(record).await?;
    let mut batch = Batch::default();
    let writeback = Mutex::new(Writeback::start());
    while let Some(entry) = list.next()? {
        let FileKind::File { size, map, crc32c, .. } = entry.kind else {
            make_entry(&root, &entry)?;
            continue;
        };
        let target = create_file(&root, &entry, size)?;
        let Some(map) = map else { continue };
        if batch.map != Some(map) {
            write_batch(cluster, record, &keys, std::mem::take(&mut batch), workers, progress, &writeback)
                .await?;
            batch.map = Some(map);
        }
        batch.files.insert(entry.path, Target { path: target.into(), size, crc32c });
    }
    write_batch(cluster, record, &keys, batch, workers, progress, &writeback).await
}

/// The files of one map.
#[derive(Default)]
struct Batch {
    map: Option<u32>,
    files: HashMap<String, Target>,
}

/// A file that is to be written.
#[derive(Clone)]
struct Target {
    path: Arc<Path>,
    size: u64,
    /// What PostgreSQL's manifest says of it.
    crc32c: u32,
}

fn make_entry(root: &Path, entry: &FileEntry) -> Result<(), Error> {
    let path = inside(root, &entry.path)?;
    match &entry.kind {
        FileKind::Directory if path.is_dir() => Ok(()),
        FileKind::Directory => DirBuilder::new()
            .recursive(true)
            .mode(entry.mode)
            .create(&path)
            .map_err(Error::file("make", &path)),
        FileKind::Link { target } => symlink(target, &path).map_err(Error::file("link", &path)),
        FileKind::File { .. } => Ok(()),
    }
}

/// A list of files that was tampered with must not write elsewhere.
fn inside(root: &Path, path: &str) -> Result<PathBuf, Error> {
    let plain = |part: std::path::Component<'_>| matches!(part, std::path::Component::Normal(_));
    if path.is_empty() || !Path::new(path).components().all(plain) {
        return Err(Error::Destination {
            reason: format!("the backup names a file \"{path}\", which is not below the data directory"),
            hint: "verify the backup, and use another".to_owned(),
        });
    }
    Ok(root.join(path))
}

fn create_file(root: &Path, entry: &FileEntry, size: u64) -> Result<PathBuf, Error> {
    let staged = if entry.path == CONTROL { CONTROL_STAGED } else { entry.path.as_str() };
    let path = inside(root, staged)?;
    let mut options = OpenOptions::new();
    options.write(true).create_new(true).mode(entry.mode);
    let file = match options.open(&path) {
        // Archives may hold a file before its directory.
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            let parent = path.parent().unwrap_or(root);
            DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(parent)
                .map_err(Error::file("make", parent))?;
            options.open(&path).map_err(Error::file("create", &path))?
        }
        file => file.map_err(Error::file("create", &path))?,
    };
    file.set_len(size).map_err(Error::file("size", &path))?;
    Ok(path)
}

/// One read of a pack, and where its bytes go.
struct ReadJob {
    pack: PackName,
    range: std::ops::Range<u64>,
    frames: Vec<FrameJob>,
}

struct FrameJob {
    frame: Frame,
    writes: Vec<Write>,
}

/// Bytes of a frame that are bytes of a file.
struct Write {
    path: Arc<Path>,
    offset: u64,
    at: u32,
    len: u32,
}

async fn write_batch(
    cluster: &Cluster,
    record: &Record,
    keys: &Arc<FrameKeys>,
    batch: Batch,
    workers: usize,
    progress: &watch::Sender<Progress>,
    writeback: &Mutex<Writeback>,
) -> Result<(), Error> {
    let Some(number) = batch.map else { return Ok(()) };
    let map = cluster.map(record, number).await?;
    let targets: Vec<Target> = batch.files.values().cloned().collect();
    let jobs = jobs(&map, batch, &cluster.map_key(&record.id, number)?)?;
    let sums = Mutex::new(Sums::default());
    futures::stream::iter(jobs.into_iter().map(Ok))
        .try_for_each_concurrent((workers.max(1) * 2).min(READS_AT_ONCE_MAX), |job| async {
            let written = read_and_write(cluster, record, keys.clone(), job).await?;
            let mut writeback = writeback.lock().unwrap_or_else(PoisonError::into_inner);
            let mut sums = sums.lock().unwrap_or_else(PoisonError::into_inner);
            for part in written {
                writeback.wrote(&part.path, u64::from(part.len));
                progress.send_modify(|progress| progress.bytes += u64::from(part.len));
                sums.entry(part.path).or_default().push((part.offset, part.len, part.crc32c));
            }
            Ok::<(), Error>(())
        })
        .await?;
    writeback.lock().unwrap_or_else(PoisonError::into_inner).forget_files();
    compare(&targets, sums.into_inner().unwrap_or_else(PoisonError::into_inner))?;
    progress.send_modify(|progress| progress.files += targets.len() as u64);
    Ok(())
}

/// Offset, length and CRC-32C of each part of each file.
type Sums = HashMap<Arc<Path>, Vec<(u64, u32, u32)>>;

/// The last check there is: what was written is what PostgreSQL sent, whatever happened in between.
fn compare(targets: &[Target], mut sums: Sums) -> Result<(), Error> {
    for target in targets {
        let mut parts = sums.remove(&target.path).unwrap_or_default();
        parts.sort_unstable();
        let combine =
            |sum, (_, len, crc32c): (u64, u32, u32)| crc32c::crc32c_combine(sum, crc32c, len as usize);
        let found = parts.into_iter().fold(0, combine);
        if found != target.crc32c {
            let reason =
                format!("as restored it has CRC-32C {found:08x}, but PostgreSQL sent {:08x}", target.crc32c);
            return Err(damaged(&target.path.display().to_string(), reason));
        }
    }
    Ok(())
}

fn jobs(map: &Map, mut batch: Batch, key: &str) -> Result<Vec<ReadJob>, Error> {
    let mut writes: Vec<Vec<Vec<Write>>> =
        map.packs.iter().map(|pack| pack.frames.iter().map(|_| Vec::new()).collect()).collect();
    for file in &map.files {
        // A map is shared by nobody, so a file in it that the list lacks, or the other way round, is damage.
        let Some(Target { path, size, .. }) = batch.files.remove(&file.path) else { continue };
        let mapped: u64 = file.extents.iter().map(|extent| u64::from(extent.len)).sum();
        if mapped != size {
            return Err(damaged(key, format!("it has {mapped} bytes of {}, not {size}", file.path)));
        }
        for extent in &file.extents {
            let write = Write { path: path.clone(), offset: extent.offset, at: extent.at, len: extent.len };
            writes[extent.pack][extent.frame].push(write);
        }
    }
    if let Some(path) = batch.files.keys().next() {
        return Err(damaged(key, format!("{path} is not in it")));
    }
    let mut jobs = Vec::new();
    for (pack, writes) in map.packs.iter().zip(writes) {
        let (frames, mut writes): (Vec<Frame>, Vec<Vec<Write>>) =
            pack.frames.iter().copied().zip(writes).filter(|(_, writes)| !writes.is_empty()).unzip();
        for read in pack::coalesce(&frames) {
            let frame_job = |index: &usize| FrameJob {
                frame: frames[*index],
                writes: std::mem::take(&mut writes[*index]),
            };
            jobs.push(ReadJob {
                pack: pack.pack.clone(),
                range: read.range,
                frames: read.frames.iter().map(frame_job).collect(),
            });
        }
    }
    Ok(jobs)
}

fn damaged(key: &str, reason: String) -> Error {
    repository::Error::Damaged { key: key.to_owned(), reason }.into()
}

/// What was written.
type Written = Vec<Part>;

/// Bytes of a file that were written, and their CRC-32C.
struct Part {
    path: Arc<Path>,
    offset: u64,
    len: u32,
    crc32c: u32,
}

async fn read_and_write(
    cluster: &Cluster,
    record: &Record,
    keys: Arc<FrameKeys>,
    job: ReadJob,
) -> Result<Written, Error> {
    let bytes = cluster.read_pack(&job.pack, job.range.clone(), &record.id).await?;
    let key = cluster.pack_key(&job.pack)?;
    let write = move || {
        let mut written = Written::new();
        for frame in &job.frames {
            let decode = |stored: &[u8]| keys.decode(&job.pack, &frame.frame, stored);
            write_frame(&key, &bytes, job.range.start, frame, decode, &mut written)?;
        }
        Ok(written)
    };
    tokio::task::spawn_blocking(write)
        .await
        .unwrap_or_else(|cause| Err(Error::Destination { reason: cause.to_string(), hint: String::new() }))
}

fn write_frame(
    key: &str,
    bytes: &Bytes,
    start: u64,
    job: &FrameJob,
    decode: impl FnOnce(&[u8]) -> Result<Vec<u8>, FrameError>,
    written: &mut Written,
) -> Result<(), Error> {
    let damaged = |reason: String| {
        Error::from(repository::Error::Damaged {
            key: key.to_owned(),
            reason: format!("the frame at {}: {reason}", job.frame.offset),
        })
    };
    let range = job.frame.range();
    let index = |at: u64| usize::try_from(at - start).unwrap_or(usize::MAX);
    let stored =
        bytes.get(index(range.start)..index(range.end)).ok_or_else(|| damaged("it is not there".into()))?;
    let plain_len = usize::try_from(job.frame.plain).unwrap_or(usize::MAX);
    if plain_len > codec::FRAME_BYTES_MAX {
        return Err(damaged(format!("it claims to hold {plain_len} bytes")));
    }
    let plain = decode(stored).map_err(|error| damaged(error.to_string()))?;
    for write in &job.writes {
        let (at, len) = (write.at as usize, write.len as usize);
        let part =
            plain.get(at..at + len).ok_or_else(|| damaged("it is shorter than its map says".into()))?;
        let file =
            OpenOptions::new().write(true).open(&write.path).map_err(Error::file("open", &write.path))?;
        file.write_all_at(part, write.offset).map_err(Error::file("write", &write.path))?;
        let Write { path, offset, len, .. } = write;
        written.push(Part { path: path.clone(), offset: *offset, len: *len, crc32c: crc32c::crc32c(part) });
    }
    Ok(())
}
