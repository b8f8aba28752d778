//! The directory of a drill: made for it, marked as ours, and removed whatever happens.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::FlockOperation;

use super::postgres;
use crate::Error;

/// Lies in a drill's directory, locked by whoever drills there. Nothing is ever removed from a directory without it.
const MARKER: &str = "drydock.drill";
/// The first line of a marker.
const HEADING: &str = "A drill of Drydock; remove this directory when no drill runs.";
/// How directories begin that we name ourselves.
const PREFIX: &str = "drydock-drill-";
/// The longest name of a unix socket.
const SOCKET_BYTES_MAX: usize = 107;

/// A directory that is ours until this is dropped, which removes it.
#[derive(Debug)]
pub(super) struct Scratch {
    path: PathBuf,
    /// The directory was there before us, and stays.
    keep: bool,
    /// Locked as long as this lives.
    _marker: File,
}

/// Where a drill goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// Into this directory, which is empty or not there.
    Into(PathBuf),
    /// Into a new directory below this one.
    Below(PathBuf),
}

/// A directory that somebody drills in, or has.
enum Mark {
    None,
    Busy,
    /// Whoever drilled here is gone.
    Left(File),
}

impl Place {
    /// The directory whose file system it will be on.
    pub(super) fn parent(&self) -> &Path {
        let (Place::Into(path) | Place::Below(path)) = self;
        path.ancestors().find(|path| path.is_dir()).unwrap_or(Path::new("/"))
    }
}

/// Removes what drills left that were killed; gives the directories.
pub(super) fn clean(place: &Place) -> Result<Vec<PathBuf>, Error> {
    let candidates = match place {
        Place::Into(path) => vec![path.clone()],
        Place::Below(parent) => {
            let entries = fs::read_dir(parent).map_err(Error::file("look into", parent))?;
            let ours = |path: &PathBuf| {
                let name = path.file_name().and_then(|name| name.to_str());
                name.is_some_and(|name| name.starts_with(PREFIX))
            };
            entries.flatten().map(|entry| entry.path()).filter(ours).collect()
        }
    };
    let mut cleaned = Vec::new();
    for path in candidates {
        if let Mark::Left(marker) = mark(&path)? {
            postgres::stop_left(&path);
            empty(&path)?;
            if matches!(place, Place::Below(_)) {
                fs::remove_dir(&path).map_err(Error::file("remove", &path))?;
            }
            drop(marker);
            cleaned.push(path);
        }
    }
    Ok(cleaned)
}

/// Looks for our marker. Others' directories, and links that lead elsewhere, are not ours.
fn mark(directory: &Path) -> Result<Mark, Error> {
    let of_user = rustix::process::geteuid().as_raw();
    match fs::symlink_metadata(directory) {
        Ok(found) if found.is_dir() && found.uid() == of_user => {}
        _ => return Ok(Mark::None),
    }
    let path = directory.join(MARKER);
    let flags = rustix::fs::OFlags::NOFOLLOW.bits().cast_signed();
    let mut marker = match OpenOptions::new().read(true).write(true).custom_flags(flags).open(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Mark::None),
        marker => marker.map_err(Error::file("open", &path))?,
    };
    if rustix::fs::flock(&marker, FlockOperation::NonBlockingLockExclusive).is_err() {
        return Ok(Mark::Busy);
    }
    let mut heading = vec![0; HEADING.len()];
    let is_ours = marker.read_exact(&mut heading).is_ok() && heading == HEADING.as_bytes();
    Ok(if is_ours { Mark::Left(marker) } else { Mark::None })
}

/// Removes everything in a directory, the marker last, so that a crash in between leaves it marked.
fn empty(directory: &Path) -> Result<(), Error> {
    for entry in fs::read_dir(directory).map_err(Error::file("look into", directory))? {
        let entry = entry.map_err(Error::file("look into", directory))?;
        if entry.file_name() != MARKER {
            let path = entry.path();
            let is_directory = entry.file_type().is_ok_and(|kind| kind.is_dir());
            let removed = if is_directory { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
            removed.map_err(Error::file("remove", &path))?;
        }
    }
    let marker = directory.join(MARKER);
    fs::remove_file(&marker).map_err(Error::file("remove", &marker))
}

impl Scratch {
    /// Makes the directory, or takes one that is empty.
    pub(super) fn make(place: &Place, token: &str) -> Result<Scratch, Error> {
        let (path, keep) = match place {
            Place::Into(path) => (path.clone(), path.is_dir()),
            Place::Below(parent) => (parent.join(format!("{PREFIX}{token}")), false),
        };
        let refuse = |what: &str, hint: &str| Error::Destination {
            reason: format!("{} {what}", path.display()),
            hint: hint.to_owned(),
        };
        if !path.is_absolute() {
            return Err(refuse("is not an absolute path", "give the whole path of the directory"));
        }
        if path.join("s/.s.PGSQL.5432.lock").as_os_str().len() > SOCKET_BYTES_MAX {
            return Err(refuse(
                "is too long a path for a socket in it",
                "choose a directory with a shorter path",
            ));
        }
        if matches!(mark(&path)?, Mark::Busy) {
            return Err(refuse("is used by another drill", "wait for it, or choose another directory"));
        }
        if keep {
            let mut entries = fs::read_dir(&path).map_err(Error::file("look into", &path))?;
            if entries.next().is_some() {
                return Err(refuse("is not empty", "a drill goes into a new or an empty directory"));
            }
        } else {
            let recursive = matches!(place, Place::Into(_));
            let made = DirBuilder::new().recursive(recursive).mode(0o700).create(&path);
            made.map_err(Error::file("make", &path))?;
        }
        // A server is recognised by the directory it works in, which the system gives without links.
        let path = fs::canonicalize(&path).map_err(Error::file("find", &path))?;
        let marker = Scratch::begin(&path)?;
        let scratch = Scratch { path, keep, _marker: marker };
        for name in ["s", "tablespaces"] {
            let directory = scratch.path(name);
            DirBuilder::new().mode(0o700).create(&directory).map_err(Error::file("make", &directory))?;
        }
        Ok(scratch)
    }

    fn begin(path: &Path) -> Result<File, Error> {
        let path = path.join(MARKER);
        let open = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(&path);
        let mut marker = open.map_err(Error::file("create", &path))?;
        rustix::fs::flock(&marker, FlockOperation::NonBlockingLockExclusive)
            .map_err(|errno| Error::file("lock", &path)(errno.into()))?;
        let text = format!("{HEADING}\nprocess {}\n", std::process::id());
        let written = marker.write_all(text.as_bytes()).and_then(|()| marker.rewind());
        written.map_err(Error::file("write", &path))?;
        Ok(marker)
    }

    /// A path in it.
    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let removed = empty(&self.path).and_then(|()| match self.keep {
            true => Ok(()),
            false => fs::remove_dir(&self.path).map_err(Error::file("remove", &self.path)),
        });
        if let Err(error) = removed {
            tracing::warn!(
                "what a drill made is left, and removed by the next one: {}",
                crate::chain(&error)
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_carries_our_marker_is_removed() {
        let parent = tempfile::tempdir().unwrap();
        let place = Place::Below(parent.path().to_owned());
        let others = parent.path().join(format!("{PREFIX}others"));
        fs::create_dir(&others).unwrap();
        fs::write(others.join(MARKER), "not ours").unwrap();
        let scratch = Scratch::make(&place, "1").unwrap();
        fs::write(scratch.path("file"), "x").unwrap();
        let root = scratch.path("");
        assert_eq!(clean(&place).unwrap(), Vec::<PathBuf>::new(), "one that is in use is left alone");
        // As a killed process leaves it: the lock is gone, the directory is not.
        let left = parent.path().join(format!("{PREFIX}left"));
        fs::create_dir_all(left.join("data/base")).unwrap();
        fs::write(left.join(MARKER), format!("{HEADING}\nprocess 1\n")).unwrap();
        assert_eq!(clean(&place).unwrap(), std::slice::from_ref(&left));
        assert!(!left.exists() && others.exists() && root.exists());
        drop(scratch);
        assert!(!root.exists());
    }

    #[test]
    fn a_directory_of_others_is_refused_and_an_empty_one_is_emptied_again() {
        let directory = tempfile::tempdir().unwrap();
        let place = Place::Into(directory.path().to_owned());
        drop(Scratch::make(&place, "1").unwrap());
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
        fs::write(directory.path().join("mine"), "x").unwrap();
        assert!(clean(&place).unwrap().is_empty());
        let refused = Scratch::make(&place, "1").unwrap_err();
        assert!(refused.to_string().contains("is not empty"), "{refused}");
        assert!(directory.path().join("mine").exists());
    }
}
