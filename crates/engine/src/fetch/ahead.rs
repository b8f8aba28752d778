//! Fetching ahead of recovery, so that it does not wait for WAL that the network could have delivered.
//!
//! Recovery asks for one segment after the other, each by a process of its own. Behind them one process stays: it fetches the
//! segments that come next, several at once, keeps a few of them ready, and ends when nobody has asked for a while. What it
//! has is taken by a rename. Its files lie in a directory that is named for this start of the machine: after a crash of the
//! machine names may be there without their bytes, and nobody looks there any more.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use futures::stream::{FuturesUnordered, StreamExt};
use pgformat::{SegmentName, SegmentSize};
use repository::Cluster;
use rustix::fs::FlockOperation;
use tokio::time::{Instant, sleep};

use super::{PREFETCH_PATH, Permit, RecoveryPlan, write_beside};
use crate::Error;

/// How many segments are kept ready ahead of the one that was asked for last.
const SEGMENTS_AHEAD: usize = 8;
/// Segments fetched at once, at most, and bytes of them; but one always may.
const AT_ONCE_MAX: usize = 4;
const BYTES_AT_ONCE_MAX: u64 = 64 << 20;
/// Time between two looks at what was asked for.
const LOOK_INTERVAL: Duration = Duration::from_millis(10);
/// Without a question for so long, the process behind ends. The next question starts another.
const IDLE_MAX: Duration = Duration::from_secs(15);
/// How long whoever asks waits for a segment that is on its way.
const COMING_WITHIN: Duration = Duration::from_secs(60);
/// Names of files beside the segments.
const LOCK: &str = "lock";
const ASKED: &str = "asked";
const COMING: &str = ".coming";

/// The place of segments that were fetched ahead.
#[derive(Debug, Clone)]
pub struct Ahead {
    directory: PathBuf,
}

impl Ahead {
    /// Relative to the data directory, where `restore_command` runs. `start` names this start of the machine.
    pub fn of(start: &str) -> Ahead {
        Ahead { directory: Path::new(PREFETCH_PATH).join(start) }
    }

    fn path(&self, name: SegmentName, size: SegmentSize) -> PathBuf {
        self.directory.join(name.file_name(size))
    }

    fn coming(&self, name: SegmentName, size: SegmentSize) -> PathBuf {
        self.directory.join(name.file_name(size) + COMING)
    }

    /// Puts a segment that is ready at `path`, waiting for one that is on its way; `false` when it is neither. The plan is
    /// obeyed as it is when there is nothing ready.
    pub async fn take(&self, plan: &RecoveryPlan, file_name: &str, path: &Path) -> bool {
        let size = plan.segment_size();
        let Some(name) = SegmentName::parse(file_name, size) else { return false };
        if !is_served(plan, name) || !self.directory.is_dir() {
            return false;
        }
        self.note(name, size);
        let begun = Instant::now();
        loop {
            if fs::rename(self.path(name, size), path).is_ok() {
                self.forget_before(name, size);
                return true;
            }
            if !self.coming(name, size).exists() || begun.elapsed() > COMING_WITHIN || !self.is_running() {
                // It may have come between the two looks.
                return fs::rename(self.path(name, size), path).is_ok();
            }
            sleep(LOOK_INTERVAL).await;
        }
    }

    /// What was asked for, so that the process behind knows how far recovery is. Without it that process ends, which costs time
    /// and nothing else.
    fn note(&self, name: SegmentName, size: SegmentSize) {
        drop(write_beside(&self.directory.join(ASKED), |file| {
            file.write_all(name.file_name(size).as_bytes())
        }));
    }

    /// Whether a process has to be started that fetches ahead: none runs, and what comes next is not there.
    pub fn is_wanted(&self, plan: &RecoveryPlan, file_name: &str) -> bool {
        let size = plan.segment_size();
        let next = SegmentName::parse(file_name, size).map(|name| plan.after(name));
        next.is_some_and(|next| !self.path(next, size).exists()) && !self.is_running()
    }

    /// Whether a process fetches ahead.
    fn is_running(&self) -> bool {
        match File::open(self.directory.join(LOCK)) {
            Ok(lock) => rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive).is_err(),
            Err(_absent) => false,
        }
    }

    fn forget_before(&self, name: SegmentName, size: SegmentSize) {
        for entry in fs::read_dir(&self.directory).into_iter().flatten().flatten() {
            let old = entry.file_name().to_str().and_then(|text| SegmentName::parse(text, size));
            if old.is_some_and(|old| old.number < name.number) {
                // What stays is removed when recovery ends.
                drop(fs::remove_file(entry.path()));
            }
        }
    }

    /// Fetches ahead of this segment, and of those that are asked for later, until nobody asks or no whole segments are left.
    /// Only one process does so at a time; another finds nothing to do.
    pub async fn run(&self, cluster: &Cluster, plan: &RecoveryPlan, file_name: &str) -> Result<(), Error> {
        let size = plan.segment_size();
        let Some(mut asked) = SegmentName::parse(file_name, size) else { return Ok(()) };
        self.make_directory()?;
        let path = self.directory.join(LOCK);
        let lock = File::create(&path).map_err(Error::file("create", &path))?;
        if rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive).is_err() {
            return Ok(());
        }
        let at_once = usize::try_from(BYTES_AT_ONCE_MAX / size.bytes()).unwrap_or(1).clamp(1, AT_ONCE_MAX);
        let mut under_way = FuturesUnordered::new();
        let mut next = plan.after(asked);
        let (mut ends, mut asked_at) = (false, Instant::now());
        loop {
            if let Some(newer) = self.asked(size).filter(|newer| *newer != asked) {
                (asked, asked_at) = (newer, Instant::now());
                // Recovery was faster, or began anew.
                let window: Vec<SegmentName> = ahead(plan, asked).collect();
                if !window.contains(&next) && window.last().is_none_or(|last| plan.after(*last) != next) {
                    next = plan.after(asked);
                }
            }
            while !ends && under_way.len() < at_once && ahead(plan, asked).any(|one| one == next) {
                if !is_served(plan, next) {
                    ends = true;
                    break;
                }
                under_way.push(self.fetch_one(cluster, next, size));
                next = plan.after(next);
            }
            if under_way.is_empty() && (ends || asked_at.elapsed() > IDLE_MAX) {
                return Ok(());
            }
            tokio::select! {
                Some(there) = under_way.next(), if !under_way.is_empty() => ends |= !there?,
                () = sleep(LOOK_INTERVAL) => {}
            }
        }
    }

    /// Fetches a whole segment; `false` when there is none.
    async fn fetch_one(
        &self,
        cluster: &Cluster,
        name: SegmentName,
        size: SegmentSize,
    ) -> Result<bool, Error> {
        let path = self.path(name, size);
        if path.exists() {
            return Ok(true);
        }
        let coming = self.coming(name, size);
        File::create(&coming).map_err(Error::file("create", &coming))?;
        let fetched = match cluster.read_segment(name, size).await {
            Ok((_, bytes)) => write_beside(&path, |file| file.write_all(&bytes)).map(|()| true),
            Err(error) if error.is_not_found() => Ok(false),
            Err(error) => Err(error.into()),
        };
        drop(fs::remove_file(&coming));
        fetched
    }

    fn asked(&self, size: SegmentSize) -> Option<SegmentName> {
        SegmentName::parse(&fs::read_to_string(self.directory.join(ASKED)).ok()?, size)
    }

    /// Makes the directory, and removes what an earlier start of the machine left.
    fn make_directory(&self) -> Result<(), Error> {
        let all = Path::new(PREFETCH_PATH);
        for entry in fs::read_dir(all).into_iter().flatten().flatten() {
            if entry.path() != self.directory {
                drop(fs::remove_dir_all(entry.path()));
            }
        }
        fs::create_dir_all(&self.directory).map_err(Error::file("make", &self.directory))
    }
}

fn is_served(plan: &RecoveryPlan, name: SegmentName) -> bool {
    matches!(plan.permit(name), Permit::Serve { .. } | Permit::ServeIfThere)
}

fn ahead(plan: &RecoveryPlan, name: SegmentName) -> impl Iterator<Item = SegmentName> + '_ {
    std::iter::successors(Some(plan.after(name)), |name| Some(plan.after(*name))).take(SEGMENTS_AHEAD)
}
