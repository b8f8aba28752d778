//! One file per command.

pub(crate) mod backup;
pub(crate) mod check;
mod compare;
pub(crate) mod copy;
mod drill;
pub(crate) mod expire;
pub(crate) mod key;
pub(crate) mod list;
pub(crate) mod manual;
pub(crate) mod pin;
pub(crate) mod restore;
pub(crate) mod show;
pub(crate) mod status;
pub(crate) mod verify;
pub(crate) mod wal;

use std::path::PathBuf;
use std::str::FromStr;

use backupd::Failure;
use repository::BackupId;
use repository::backup::Backups;

/// A backup as people name it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum WhichBackup {
    /// The newest.
    Latest,
    /// The oldest.
    Oldest,
    /// This one, which need not exist.
    Named(String),
}

impl FromStr for WhichBackup {
    type Err = std::convert::Infallible;

    fn from_str(text: &str) -> Result<WhichBackup, Self::Err> {
        Ok(match text {
            "latest" => WhichBackup::Latest,
            "oldest" => WhichBackup::Oldest,
            name => WhichBackup::Named(name.to_owned()),
        })
    }
}

impl WhichBackup {
    /// The backup's id. Text that no backup can have as its name is a backup that does not exist.
    pub fn find(&self, backups: &Backups) -> Result<BackupId, Failure> {
        let none = |name: &str| Failure::from(repository::Error::NoBackup(name.to_owned()));
        let found = match self {
            WhichBackup::Latest => backups.records.last(),
            WhichBackup::Oldest => backups.records.first(),
            WhichBackup::Named(name) => return name.parse().map_err(|_not_an_id: String| none(name)),
        };
        let word = if *self == WhichBackup::Latest { "latest" } else { "oldest" };
        found.map(|record| record.id.clone()).ok_or_else(|| none(word))
    }
}

/// The path of this program, for whom starts it again. Linux marks a program whose file was replaced since it started;
/// the new one is then meant.
pub(crate) fn this_program() -> std::io::Result<PathBuf> {
    let path = std::env::current_exe()?;
    let replaced = path.to_str().and_then(|text| text.strip_suffix(" (deleted)")).map(PathBuf::from);
    Ok(replaced.unwrap_or(path))
}
