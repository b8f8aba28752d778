//! The directories a restore goes into: empty at first, startable last.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use rustix::fs::FlockOperation;

use super::{Destination, Plan};
use crate::Error;

/// Lies in a data directory while it is being restored, and is locked by whoever does it.
const MARKER: &str = "drydock.restoring";
/// Where pg_control lies until everything else is durable. PostgreSQL does not start without it.
pub(super) const CONTROL: &str = "global/pg_control";
pub(super) const CONTROL_STAGED: &str = "global/pg_control.drydock";

/// Directories that are ready to be written into.
#[derive(Debug)]
pub(super) struct Prepared {
    pub(super) data_dir: PathBuf,
    tablespaces: Vec<PathBuf>,
    /// Locked as long as this lives.
    _marker: File,
}

/// Checks the directories; gives where each tablespace that lies outside the data directory goes.
pub(super) fn look(plan: &Plan, destination: &Destination) -> Result<Vec<(u32, PathBuf)>, Error> {
    let data_dir = &destination.data_dir;
    if !data_dir.is_absolute() {
        return Err(refuse(data_dir, "is not an absolute path", "give the whole path of the data directory"));
    }
    let moved = moved_tablespaces(plan, destination)?;
    for directory in std::iter::once(data_dir).chain(moved.iter().map(|(_, now)| now)) {
        check(directory)?;
    }
    Ok(moved)
}

/// Checks and makes the directories, and the links to tablespaces. Everything is looked at before anything is changed.
pub(super) fn prepare(plan: &Plan, destination: &Destination) -> Result<Prepared, Error> {
    let data_dir = &destination.data_dir;
    let moved = look(plan, destination)?;
    make(data_dir)?;
    let marker = begin(data_dir)?;
    let mut markers = Vec::new();
    for (oid, now) in &moved {
        make(now)?;
        markers.push(begin(now)?);
        let link = data_dir.join(format!("pg_tblspc/{oid}"));
        make(&data_dir.join("pg_tblspc"))?;
        symlink(now, &link).map_err(Error::file("link", &link))?;
    }
    drop(markers);
    let tablespaces = moved.into_iter().map(|(_, now)| now).collect();
    Ok(Prepared { data_dir: data_dir.clone(), tablespaces, _marker: marker })
}

/// Where each tablespace that lies outside the data directory goes.
fn moved_tablespaces(plan: &Plan, destination: &Destination) -> Result<Vec<(u32, PathBuf)>, Error> {
    for (old, _) in &destination.tablespaces {
        if !plan.tablespaces.iter().any(|space| Path::new(&space.location) == old) {
            let known: Vec<&str> = plan.tablespaces.iter().map(|space| space.location.as_str()).collect();
            let hint = if known.is_empty() {
                "the backup has no tablespaces".to_owned()
            } else {
                format!("the backup has {}", known.join(", "))
            };
            return Err(refuse(old, "is not the directory of a tablespace in this backup", &hint));
        }
    }
    let mut moved = Vec::new();
    for space in plan.tablespaces.iter().filter(|space| space.location.starts_with('/')) {
        let old = PathBuf::from(&space.location);
        let now =
            destination.tablespaces.iter().find(|(from, _)| *from == old).map_or(old, |(_, to)| to.clone());
        if !now.is_absolute() {
            return Err(refuse(
                &now,
                "is not an absolute path",
                "give the whole path of the tablespace's directory",
            ));
        }
        moved.push((space.oid, now));
    }
    Ok(moved)
}

fn refuse(path: &Path, what: &str, hint: &str) -> Error {
    Error::Destination { reason: format!("{} {what}", path.display()), hint: hint.to_owned() }
}

/// A directory may be absent, empty, or what an earlier restore began and did not finish.
fn check(directory: &Path) -> Result<(), Error> {
    let mut entries = match fs::read_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries.map_err(Error::file("look into", directory))?,
    };
    let is_empty = entries.next().is_none();
    if is_empty || is_unfinished(directory) {
        return Ok(());
    }
    Err(refuse(
        directory,
        "is not empty",
        "restore into a new directory, and remove the old one only when the restored server runs",
    ))
}

/// Begun by an earlier restore, which did not get to the end: PostgreSQL cannot have run on it.
fn is_unfinished(directory: &Path) -> bool {
    directory.join(MARKER).is_file() && !directory.join(CONTROL).exists()
}

fn make(directory: &Path) -> Result<(), Error> {
    if directory.is_dir() {
        return Ok(());
    }
    let made = DirBuilder::new().recursive(true).mode(0o700).create(directory);
    made.map_err(Error::file("make", directory))
}

/// Marks a directory as being restored, locks it, and removes what an earlier, unfinished restore left in it.
fn begin(directory: &Path) -> Result<File, Error> {
    let path = directory.join(MARKER);
    let open = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(&path);
    let mut marker = open.map_err(Error::file("create", &path))?;
    if rustix::fs::flock(&marker, FlockOperation::NonBlockingLockExclusive).is_err() {
        return Err(refuse(directory, "is being restored by another process", "wait for it, or stop it"));
    }
    marker
        .write_all(b"A restore into this directory has begun and is not finished.\n")
        .map_err(Error::file("write", &path))?;
    marker.sync_all().map_err(Error::file("sync", &path))?;
    for entry in fs::read_dir(directory).map_err(Error::file("look into", directory))? {
        let entry = entry.map_err(Error::file("look into", directory))?;
        if entry.file_name() != MARKER {
            remove(&entry.path()).map_err(Error::file("remove", &entry.path()))?;
        }
    }
    // PostgreSQL refuses a data directory that others may enter.
    let mode = fs::Permissions::from_mode(0o700);
    fs::set_permissions(directory, mode).map_err(Error::file("set the mode of", directory))?;
    Ok(marker)
}

fn remove(path: &Path) -> io::Result<()> {
    if fs::symlink_metadata(path)?.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) }
}

impl Prepared {
    /// Makes all that was written durable, and only then startable.
    pub(super) fn finish(self) -> Result<(), Error> {
        let data_dir = &self.data_dir;
        for tablespace in &self.tablespaces {
            let marker = tablespace.join(MARKER);
            fs::remove_file(&marker).map_err(Error::file("remove", &marker))?;
            sync_file_system(tablespace)?;
        }
        sync_file_system(data_dir)?;
        let (staged, control) = (data_dir.join(CONTROL_STAGED), data_dir.join(CONTROL));
        fs::rename(&staged, &control).map_err(Error::file("put in place", &control))?;
        sync_directory(&data_dir.join("global"))?;
        let marker = data_dir.join(MARKER);
        fs::remove_file(&marker).map_err(Error::file("remove", &marker))?;
        sync_directory(data_dir)
    }
}

/// One call for all files and directories of a file system; since Linux 5.8 it reports what could not be written.
fn sync_file_system(directory: &Path) -> Result<(), Error> {
    let open = File::open(directory).map_err(Error::file("open", directory))?;
    rustix::fs::syncfs(&open).map_err(|errno| Error::file("sync", directory)(errno.into()))
}

fn sync_directory(directory: &Path) -> Result<(), Error> {
    File::open(directory).and_then(|open| open.sync_all()).map_err(Error::file("sync", directory))
}
