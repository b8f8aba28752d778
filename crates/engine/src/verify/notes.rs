//! What verification notes while it looks.

use pgformat::TimelineId;
use repository::wal::{Range, WalObject};
use repository::{BackupId, Error as RepositoryError};
use tokio::sync::watch;

use super::{Progress, Report, Unread};
use crate::Error;

/// So many objects in a row that cannot be read mean that the storage is away, and there is no use in going on.
const UNREAD_IN_A_ROW_MAX: u32 = 8;

/// What something found is about, from which follows what it costs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum About {
    /// Files of these backups.
    Backups(Vec<BackupId>),
    /// WAL that recovery cannot read.
    Wal(TimelineId, Range),
    /// The end of a timeline's WAL, which was there and is gone.
    Tail(TimelineId, Range),
    /// A timeline's history.
    History(TimelineId),
    /// Nothing that a restore needs.
    Nothing,
}

/// Something found, before it is known what it costs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Note {
    pub(super) key: String,
    pub(super) what: String,
    pub(super) about: About,
}

/// Everything that was found so far.
pub(super) struct Notes<'a> {
    progress: &'a watch::Sender<Progress>,
    pub(super) report: Report,
    pub(super) found: Vec<Note>,
    /// WAL objects that were listed and are not there any more: part of a whole segment by now, expired, or lost.
    pub(super) vanished: Vec<WalObject>,
    /// The ledger cannot be written, which was said.
    pub(super) forgetful: bool,
    unread_in_a_row: u32,
}

impl<'a> Notes<'a> {
    pub(super) fn new(progress: &'a watch::Sender<Progress>) -> Notes<'a> {
        Notes {
            progress,
            report: Report::default(),
            found: Vec::new(),
            vanished: Vec::new(),
            forgetful: false,
            unread_in_a_row: 0,
        }
    }

    /// There are so many more bytes to read.
    pub(super) fn expect(&self, bytes: u64) {
        self.progress.send_modify(|progress| progress.bytes_total += bytes);
    }

    /// An object was read.
    pub(super) fn has_read(&mut self, bytes: u64) {
        self.looked_at(bytes);
        self.progress.send_modify(|progress| progress.bytes += bytes);
    }

    /// An object was looked at, and not read.
    pub(super) fn looked_at(&mut self, bytes: u64) {
        self.report.objects += 1;
        self.report.bytes += bytes;
        let objects = self.report.objects;
        self.progress.send_modify(|progress| progress.objects = objects);
    }

    pub(super) fn find(&mut self, key: String, what: impl Into<String>, about: About) {
        self.found.push(Note { key, what: what.into(), about });
    }

    /// Turns damage into a finding, and what storage would not give into something not known; whatever else failed ends the
    /// verification.
    pub(super) fn judge<T>(
        &mut self,
        key: &str,
        result: Result<T, RepositoryError>,
        about: impl FnOnce() -> About,
    ) -> Result<Option<T>, Error> {
        let error = match result {
            Ok(value) => {
                self.unread_in_a_row = 0;
                return Ok(Some(value));
            }
            Err(error) => error,
        };
        match error {
            RepositoryError::Damaged { key, reason } => self.find(key, reason, about()),
            RepositoryError::Missing { key, .. } | RepositoryError::Store(store::Error::NotFound { key }) => {
                self.find(key, "it is missing", about());
            }
            RepositoryError::Store(store::Error::Corrupt { key, source }) => {
                self.find(key, format!("it has changed in the storage: {source}"), about());
            }
            error @ RepositoryError::UnknownFormat { .. } => {
                self.find(key.to_owned(), error.to_string(), about());
            }
            // It may as well be the head that is damaged: the two cannot be told apart.
            RepositoryError::WrongIdentity { key } => {
                self.find(key, "it is encrypted, and none of the identities given opens it", about());
            }
            // Not damaged: nobody knows.
            error @ RepositoryError::Store(_) => {
                self.unread_in_a_row += 1;
                if self.unread_in_a_row >= UNREAD_IN_A_ROW_MAX {
                    return Err(error.into());
                }
                self.report.unread.push(Unread { key: key.to_owned(), why: crate::chain(&error) });
            }
            error => return Err(error.into()),
        }
        Ok(None)
    }
}
