//! The repository's objects, seen from outside: files under a directory, named as docs/format.md names them.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

/// The kinds of object that hold data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// `<cluster>/backups/<id>/record.json`
    Record,
    /// `<cluster>/backups/<id>/files.zst`
    Files,
    /// `<cluster>/backups/<id>/maps/<n>`
    Map,
    /// `<cluster>/backups/<id>/packs/<n>`
    Pack,
    /// `<cluster>/wal/<tli>/<log>/<segment>.zst`
    Segment,
    /// `<cluster>/wal/<tli>/<log>/<segment>/<from>-<to>.zst`
    Piece,
    /// `repository.json`
    Repository,
    /// `<cluster>/cluster.json`
    Cluster,
    /// `<cluster>/wal/<tli>.history`
    History,
    /// `<cluster>/wal/<tli>/holes/<from>-<to>.json`
    Hole,
}

impl Kind {
    /// Those that any repository has which is in use.
    pub const ALL: [Kind; 6] = [Kind::Record, Kind::Files, Kind::Map, Kind::Pack, Kind::Segment, Kind::Piece];

    fn of(key: &str) -> Option<Kind> {
        if key == "repository.json" {
            return Some(Kind::Repository);
        }
        let parts: Vec<&str> = key.split('/').skip(1).collect();
        match parts.as_slice() {
            ["cluster.json"] => Some(Kind::Cluster),
            ["wal", history] if history.ends_with(".history") => Some(Kind::History),
            ["wal", _, "holes", _] => Some(Kind::Hole),
            ["backups", _, "record.json"] => Some(Kind::Record),
            ["backups", _, "files.zst"] => Some(Kind::Files),
            ["backups", _, "maps", _] => Some(Kind::Map),
            ["backups", _, "packs", _] => Some(Kind::Pack),
            ["wal", _, _, segment] if segment.ends_with(".zst") => Some(Kind::Segment),
            ["wal", _, _, _, piece] if piece.ends_with(".zst") => Some(Kind::Piece),
            _ => None,
        }
    }
}

/// A repository on disk.
#[derive(Debug, Clone)]
pub struct Objects {
    root: PathBuf,
}

impl Objects {
    pub(crate) fn new(root: &Path) -> Objects {
        Objects { root: root.to_owned() }
    }

    /// Every key, sorted.
    pub fn keys(&self) -> Vec<String> {
        let mut keys = Vec::new();
        let mut directories = vec![self.root.clone()];
        while let Some(directory) = directories.pop() {
            // A directory can go while the service tidies up.
            for entry in fs::read_dir(&directory).into_iter().flatten().flatten() {
                let path = entry.path();
                if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                    directories.push(path);
                } else if let Ok(key) = path.strip_prefix(&self.root) {
                    keys.push(key.to_str().expect("keys are plain text").to_owned());
                }
            }
        }
        keys.sort();
        keys
    }

    /// The keys of one kind, sorted.
    pub fn of(&self, kind: Kind) -> Vec<String> {
        self.keys().into_iter().filter(|key| Kind::of(key) == Some(kind)).collect()
    }

    /// The last key of one kind.
    #[track_caller]
    pub fn last(&self, kind: Kind) -> String {
        self.of(kind).pop().unwrap_or_else(|| panic!("no {kind:?} among {:#?}", self.keys()))
    }

    /// Where the object lies.
    pub fn path(&self, key: &str) -> PathBuf {
        self.root.join(key)
    }

    /// The object's bytes.
    #[track_caller]
    pub fn read(&self, key: &str) -> Vec<u8> {
        fs::read(self.path(key)).unwrap_or_else(|error| panic!("read {key}: {error}"))
    }

    /// Flips one bit of the byte at `offset`, until the returned guard is dropped.
    #[track_caller]
    pub fn flip(&self, key: &str, offset: usize) -> Damage {
        self.change(key, offset, 0x01)
    }

    /// Flips the bits of `mask` in the byte at `offset`, until the returned guard is dropped.
    #[track_caller]
    pub fn change(&self, key: &str, offset: usize, mask: u8) -> Damage {
        let original = self.read(key);
        let mut bytes = original.clone();
        bytes[offset] ^= mask;
        overwrite(&self.path(key), &bytes);
        Damage { path: self.path(key), original, at: Some((offset, mask)) }
    }

    /// Takes the object away, until the returned guard is dropped.
    #[track_caller]
    pub fn hide(&self, key: &str) -> Damage {
        let original = self.read(key);
        fs::remove_file(self.path(key)).unwrap_or_else(|error| panic!("delete {key}: {error}"));
        Damage { path: self.path(key), original, at: None }
    }
}

/// Undoes a damage when dropped.
pub struct Damage {
    path: PathBuf,
    original: Vec<u8>,
    at: Option<(usize, u8)>,
}

impl fmt::Debug for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.at {
            Some((offset, mask)) => {
                write!(f, "at byte {offset} of {} by {mask:#04x}", self.original.len())
            }
            None => f.write_str("by its absence"),
        }
    }
}

impl Drop for Damage {
    fn drop(&mut self) {
        overwrite(&self.path, &self.original);
    }
}

/// Replaces the file's bytes and keeps its owner; the product may have made it read-only.
fn overwrite(path: &Path, bytes: &[u8]) {
    let fresh = path.with_extension("e2e");
    fs::write(&fresh, bytes).unwrap_or_else(|error| panic!("write {}: {error}", fresh.display()));
    crate::person::Person::unprivileged().own(&fresh);
    fs::rename(&fresh, path).unwrap_or_else(|error| panic!("replace {}: {error}", path.display()));
}
