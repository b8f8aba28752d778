//! Objects as files below a directory.
//!
//! **How an object becomes durable**, the only place where it is spelled out: the bytes go into a file that has no
//! name (`O_TMPFILE`) or, where the file system has none such, a file in `.tmp`; the file is synced; it is linked to its
//! name, which fails when the name is taken; the directory is synced, and every directory that was made on the way is
//! synced into its parent. A crash before the link leaves nothing that anybody could take for an object; a crash
//! after it leaves the whole object, or nothing if the directory had not reached the disk, and then nobody was told.
//!
//! Files are readable by their owner only: they hold the database.

use std::collections::HashSet;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::ops::Range;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use bytes::Bytes;
use rustix::fs::{AtFlags, CWD, FlockOperation, OFlags};

use crate::{Body, Directory, Entry, Error, Key, Store, Version, memory};

/// How many directories are remembered as durable; a segment with pieces has one of its own.
const DURABLE_DIRECTORIES_MAX: usize = 1024;
/// Where files lie that have no object's name yet.
const SCRATCH: &str = ".tmp";
/// How often a directory may be removed under the feet of one `create`.
const CREATE_ATTEMPTS_MAX: u32 = 8;
/// A scratch file older than this belongs to a process that died.
const SCRATCH_AGE_MAX: Duration = Duration::from_secs(24 * 3600);

/// Objects as files below a directory.
#[derive(Debug, Clone)]
pub struct FileStore {
    root: Arc<PathBuf>,
    /// Directories that this process has seen to be durable. Somebody else may have made one and died before syncing it.
    durable: Arc<Mutex<HashSet<PathBuf>>>,
}

impl FileStore {
    /// Opens the directory, making it when it is not there, and removes what dead writers left in its scratch.
    pub async fn open(root: &Path) -> Result<FileStore, Error> {
        let store = FileStore { root: Arc::new(root.to_path_buf()), durable: Arc::default() };
        store
            .blocking("open", root.display().to_string(), |store| {
                store.make_directories(&store.root)?;
                store.sweep_scratch()
            })
            .await?;
        Ok(store)
    }

    async fn blocking<T: Send + 'static>(
        &self,
        action: &'static str,
        name: String,
        work: impl FnOnce(&FileStore) -> io::Result<T> + Send + 'static,
    ) -> Result<T, Error> {
        let store = self.clone();
        let result = tokio::task::spawn_blocking(move || work(&store))
            .await
            .unwrap_or_else(|cause| Err(io::Error::other(cause)));
        result.map_err(|source| Error::from_io(action, name, source))
    }

    fn path(&self, name: &str) -> PathBuf {
        if name.is_empty() { self.root.to_path_buf() } else { self.root.join(name) }
    }

    fn sweep_scratch(&self) -> io::Result<()> {
        let entries = match fs::read_dir(self.path(SCRATCH)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            entries => entries?,
        };
        for entry in entries {
            let entry = entry?;
            let age = entry
                .metadata()
                .and_then(|data| data.modified())
                .map(|at| SystemTime::now().duration_since(at));
            if matches!(age, Ok(Ok(age)) if age > SCRATCH_AGE_MAX) {
                remove_if_there(&entry.path())?;
            }
        }
        Ok(())
    }

    fn durable(&self) -> MutexGuard<'_, HashSet<PathBuf>> {
        // A panic elsewhere cannot leave the set half changed.
        self.durable.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes the directory and those above it, each synced into its parent.
    fn make_directories(&self, path: &Path) -> io::Result<()> {
        if path.is_dir() && self.durable().contains(path) {
            return Ok(());
        }
        let Some(parent) = path.parent() else { return Ok(()) };
        if path.starts_with(&*self.root) {
            self.make_directories(parent)?;
        } else if path.is_dir() {
            // What lies above the repository is not ours to make durable, nor may we be let in to try.
            return Ok(());
        }
        match fs::DirBuilder::new().mode(0o700).recursive(true).create(path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => {}
            result => result?,
        }
        if path != self.root.as_path() {
            sync_directory(parent)?;
        }
        let mut durable = self.durable();
        if durable.len() >= DURABLE_DIRECTORIES_MAX {
            durable.clear();
        }
        durable.insert(path.to_path_buf());
        Ok(())
    }

    /// Writes and syncs a file that has no object's name yet.
    fn stage(&self, directory: &Path, body: &Body) -> io::Result<Staged> {
        let unnamed = rustix::fs::openat(
            CWD,
            directory,
            OFlags::TMPFILE | OFlags::WRONLY | OFlags::CLOEXEC,
            0o600.into(),
        );
        let mut staged = match unnamed {
            Ok(fd) => Staged { file: File::from(fd), scratch: None },
            Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::ISDIR | rustix::io::Errno::INVAL) => {
                self.stage_named()?
            }
            Err(error) => return Err(error.into()),
        };
        for chunk in body.chunks() {
            staged.file.write_all(chunk)?;
        }
        staged.file.sync_all()?;
        Ok(staged)
    }

    fn stage_named(&self) -> io::Result<Staged> {
        let scratch = self.path(SCRATCH);
        self.make_directories(&scratch)?;
        let path = scratch.join(format!("{:032x}", rand::random::<u128>()));
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path)?;
        Ok(Staged { file, scratch: Some(path) })
    }

    fn create_file(&self, name: &str, body: &Body) -> io::Result<()> {
        let path = self.path(name);
        let directory = path.parent().unwrap_or(&self.root);
        if fs::exists(&path)? {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        for attempt in 1.. {
            self.make_directories(directory)?;
            match self.stage(directory, body).and_then(|staged| staged.link(&path)) {
                // `delete` removed the directory, which was empty, between our two calls.
                Err(error) if error.kind() == io::ErrorKind::NotFound && attempt < CREATE_ATTEMPTS_MAX => {}
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(io::Error::other(error)),
                result => {
                    result?;
                    break;
                }
            }
        }
        sync_directory(directory)
    }

    fn replace_file(
        &self,
        name: &str,
        expected: Option<&Version>,
        body: &Bytes,
    ) -> io::Result<Option<Version>> {
        let path = self.path(name);
        let directory = path.parent().unwrap_or(&self.root);
        self.make_directories(directory)?;
        self.make_directories(&self.path(SCRATCH))?;
        let mut staged = self.stage_named()?;
        staged.file.write_all(body)?;
        staged.file.sync_all()?;
        // Comparing and replacing are two steps; the lock makes them one for everybody who uses this directory. Nothing that takes
        // time happens while it is held: whoever is stopped then holds up all others.
        let lock = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(self.path(".lock"))?;
        rustix::fs::flock(&lock, FlockOperation::LockExclusive)?;
        let current = match fs::read(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            bytes => Some(memory::version(&bytes?)),
        };
        if current.as_ref() != expected {
            return Ok(None);
        }
        staged.rename(&path)?;
        drop(lock);
        sync_directory(directory)?;
        Ok(Some(memory::version(body)))
    }

    fn delete_file(&self, name: &str) -> io::Result<()> {
        let path = self.path(name);
        remove_if_there(&path)?;
        // Directories exist because objects do; the last object takes its directory along.
        let mut directory = path.parent();
        while let Some(parent) = directory.filter(|parent| *parent != self.root.as_path()) {
            match sync_directory(parent) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                result => result?,
            }
            if fs::remove_dir(parent).is_err() {
                break;
            }
            self.durable().remove(parent);
            directory = parent.parent();
        }
        Ok(())
    }
}

/// A synced file without an object's name; it goes when it is dropped before it got one.
struct Staged {
    file: File,
    scratch: Option<PathBuf>,
}

impl Staged {
    fn link(mut self, path: &Path) -> io::Result<()> {
        match &self.scratch {
            None => {
                let unnamed = format!("/proc/self/fd/{}", self.file.as_raw_fd());
                rustix::fs::linkat(CWD, unnamed, CWD, path, AtFlags::SYMLINK_FOLLOW)?;
            }
            Some(scratch) => {
                fs::hard_link(scratch, path)?;
                fs::remove_file(scratch)?;
                self.scratch = None;
            }
        }
        Ok(())
    }

    fn rename(mut self, path: &Path) -> io::Result<()> {
        if let Some(scratch) = self.scratch.take() {
            fs::rename(scratch, path)?;
        }
        Ok(())
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        if let Some(scratch) = &self.scratch {
            // Failing here leaves a scratch file, which `open` sweeps.
            drop(fs::remove_file(scratch));
        }
    }
}

fn remove_if_there(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result,
    }
}

fn sync_directory(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

/// The file and its size. A directory is no object, nor is there one below an object.
fn open_object(path: &Path) -> io::Result<(File, u64)> {
    let file = File::open(path).map_err(|error| match error.kind() {
        io::ErrorKind::NotADirectory => io::ErrorKind::NotFound.into(),
        _ => error,
    })?;
    let data = file.metadata()?;
    if data.is_dir() { Err(io::ErrorKind::NotFound.into()) } else { Ok((file, data.len())) }
}

fn read_file(path: &Path, range: Option<Range<u64>>) -> io::Result<Bytes> {
    let (mut file, size) = open_object(path)?;
    let range = range.unwrap_or(0..u64::MAX);
    let there = size.saturating_sub(range.start);
    let wanted = range.end.saturating_sub(range.start).min(there);
    file.seek(SeekFrom::Start(range.start))?;
    let mut bytes = Vec::with_capacity(usize::try_from(wanted).unwrap_or(0));
    file.take(range.end.saturating_sub(range.start)).read_to_end(&mut bytes)?;
    Ok(bytes.into())
}

fn list_directory(path: &Path) -> io::Result<Vec<Entry>> {
    let listing = match fs::read_dir(path) {
        // Nothing lies below an object either.
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            return Ok(Vec::new());
        }
        listing => listing?,
    };
    let mut entries = Vec::new();
    for found in listing {
        let found = found?;
        // No key starts with a dot: scratch, locks, and what others leave in a directory.
        let Some(name) = found.file_name().to_str().filter(|name| !name.starts_with('.')).map(str::to_owned)
        else {
            continue;
        };
        match found.metadata() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
            Ok(data) if data.is_dir() => entries.push(Entry::Directory { name }),
            Ok(data) => entries.push(Entry::Object { name, size: data.len() }),
        }
    }
    entries.sort_by(|a, b| a.name().cmp(b.name()));
    Ok(entries)
}

#[async_trait]
impl Store for FileStore {
    async fn create(&self, key: &Key, body: Body) -> Result<(), Error> {
        let name = key.to_string();
        self.blocking("create", name.clone(), move |store| store.create_file(&name, &body)).await
    }

    async fn read(&self, key: &Key, range: Option<Range<u64>>) -> Result<Bytes, Error> {
        let name = key.to_string();
        self.blocking("read", name.clone(), move |store| read_file(&store.path(&name), range)).await
    }

    async fn size(&self, key: &Key) -> Result<u64, Error> {
        let name = key.to_string();
        self.blocking("look at", name.clone(), move |store| Ok(open_object(&store.path(&name))?.1)).await
    }

    async fn list(&self, directory: &Directory) -> Result<Vec<Entry>, Error> {
        let name = directory.as_str().to_owned();
        self.blocking("list", name.clone(), move |store| list_directory(&store.path(&name))).await
    }

    async fn delete(&self, key: &Key) -> Result<(), Error> {
        let name = key.to_string();
        self.blocking("delete", name.clone(), move |store| store.delete_file(&name)).await
    }

    async fn read_version(&self, key: &Key) -> Result<Option<(Bytes, Version)>, Error> {
        match self.read(key, None).await {
            Err(Error::NotFound { .. }) => Ok(None),
            bytes => bytes.map(|bytes| Some((bytes.clone(), memory::version(&bytes)))),
        }
    }

    async fn replace(&self, key: &Key, expected: Option<&Version>, body: Bytes) -> Result<Version, Error> {
        let (name, expected) = (key.to_string(), expected.cloned());
        self.blocking("replace", name.clone(), move |store| {
            store.replace_file(&name, expected.as_ref(), &body)
        })
        .await?
        .ok_or_else(|| Error::Changed { key: key.to_string() })
    }

    fn address(&self) -> String {
        format!("file://{}", self.root.display())
    }
}
