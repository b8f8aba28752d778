//! BASE_BACKUP: a copy of the whole data directory, as tar archives in a stream.
//!
//! PostgreSQL 14 sends one copy for each tablespace, in the order it listed them, and one for the manifest. Later
//! versions send everything in one copy, cut into messages with a type. Both come out as the same events.

use std::fmt;

use bytes::Bytes;
use pgformat::{Lsn, TimelineId};
use postgres_protocol::message::backend::Message;

use crate::backup_message::{self, BackupMessage};
use crate::connection::Connection;
use crate::error::Error;
use crate::frame::Frame;
use crate::row::{self, Row};
use crate::wire::Wire;

/// What a base backup is asked to be.
///
/// Not an option because one choice is right: no `tablespace_map` is sent, since a restore makes the links itself, to
/// wherever the tablespaces then are, and a map would bend them back when the server starts; the backup holds no WAL,
/// which we archive anyway, and does not wait for it to be archived elsewhere; and the server does not verify page
/// checksums. It would by default, but that costs its processor time and makes it give up the backup when pages are
/// corrupt, while we verify every page ourselves and can say which ones are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BaseBackupOptions {
    /// Written into `backup_label`; shown by nothing else.
    pub label: String,
    /// Make the checkpoint at once instead of spread over `checkpoint_completion_target`.
    pub fast_checkpoint: bool,
    /// Send a manifest, with CRC-32C checksums.
    pub manifest: bool,
    /// Limit the rate, in kB/s, from 32 to 1048576.
    pub max_rate_kb: Option<u32>,
    /// Have the server add up sizes first, which fills [`Tablespace::size_kb`].
    pub progress: bool,
}

/// A tablespace of the server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tablespace {
    /// Its OID; `None` for the main data directory, which is listed too.
    pub oid: Option<u32>,
    /// Its directory on the server.
    pub location: Option<String>,
    /// Its approximate size, if [`BaseBackupOptions::progress`] asked for it.
    pub size_kb: Option<u64>,
}

/// A running base backup.
///
/// What [`WalStream`](crate::WalStream) says about memory holds here too. Dropping the value ends the backup; the
/// server notices when it next sends.
pub struct BaseBackup {
    wire: Wire,
    start: (Lsn, TimelineId),
    tablespaces: Vec<Tablespace>,
    layout: Layout,
    part: Part,
    /// From the result set that follows the last copy; published once the server has completed the command, since it
    /// may still report an error after it.
    end: Option<(Lsn, TimelineId)>,
    state: State,
}

/// How the archives are laid out.
enum Layout {
    /// One copy for each; this many have begun.
    CopyForEach { begun: usize },
    /// One copy with typed messages.
    Typed,
}

/// What the data that arrives belongs to.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Part {
    None,
    Archive,
    Manifest,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Between,
    Copying,
    Over,
}

/// What a base backup consists of, in order of arrival.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BackupEvent {
    /// A tar archive begins: a tablespace's, or with `None` the main data directory's, which comes last. The two
    /// blocks of zeroes that end a tar archive may be missing.
    Archive {
        /// The tablespace's OID.
        tablespace: Option<u32>,
    },
    /// A piece of the archive.
    Data(Bytes),
    /// The manifest begins; there are no more archives.
    Manifest,
    /// A piece of the manifest.
    ManifestData(Bytes),
    /// So many bytes have been read on the server. From PostgreSQL 15 on, about once a second.
    Progress {
        /// Bytes of all archives together.
        bytes: u64,
    },
    /// The backup is complete. WAL up to this position is needed to restore it.
    End {
        /// Where WAL replay makes the copy consistent.
        lsn: Lsn,
        /// On which timeline.
        timeline: TimelineId,
    },
}

impl BaseBackup {
    pub(crate) async fn start_on(
        connection: Connection,
        options: &BaseBackupOptions,
    ) -> Result<BaseBackup, Error> {
        let typed = connection.major()?.base_backup_parenthesised();
        let mut wire = connection.wire;
        wire.send_command(&command(options, typed)).await?;
        let start = position(&row::only(wire.result_set().await?, "the start of BASE_BACKUP")?)?;
        let tablespaces = wire.result_set().await?.iter().map(tablespace).collect::<Result<_, _>>()?;
        wire.expect_bulk();
        let layout = if typed { Layout::Typed } else { Layout::CopyForEach { begun: 0 } };
        Ok(BaseBackup {
            wire,
            start,
            tablespaces,
            layout,
            part: Part::None,
            end: None,
            state: State::Between,
        })
    }

    /// Where WAL replay has to start, and on which timeline.
    pub fn start(&self) -> (Lsn, TimelineId) {
        self.start
    }

    /// The server's tablespaces, the main data directory last.
    pub fn tablespaces(&self) -> &[Tablespace] {
        &self.tablespaces
    }

    /// The next event; `None` after [`BackupEvent::End`]. Cancel safe. After an error the backup is over.
    pub async fn next(&mut self) -> Result<Option<BackupEvent>, Error> {
        loop {
            if self.state == State::Over {
                return Ok(None);
            }
            let frame = self.wire.receive().await?;
            let event = match self.state {
                State::Copying => self.copying(frame)?,
                State::Between | State::Over => self.between(frame)?,
            };
            if event.is_some() {
                return Ok(event);
            }
        }
    }

    /// A message inside a copy.
    fn copying(&mut self, frame: Frame) -> Result<Option<BackupEvent>, Error> {
        match frame {
            Frame::CopyData(payload) => match self.layout {
                Layout::CopyForEach { .. } => self.data(payload).map(Some),
                Layout::Typed => self.typed(backup_message::parse(payload)?).map(Some),
            },
            Frame::Message(Message::CopyDone) => {
                self.state = State::Between;
                Ok(None)
            }
            other => Err(self.wire.failure(other, "backup data")),
        }
    }

    /// A message outside: another copy begins, or the end is told.
    fn between(&mut self, frame: Frame) -> Result<Option<BackupEvent>, Error> {
        match frame {
            Frame::Message(Message::CopyOutResponse(_)) => {
                self.state = State::Copying;
                self.begin_copy()
            }
            Frame::Message(Message::RowDescription(_) | Message::CommandComplete(_)) => Ok(None),
            Frame::Message(Message::DataRow(body)) => {
                self.end = Some(position(&Row::parse(&body)?)?);
                Ok(None)
            }
            ready => {
                self.wire.ready(ready)?;
                let (lsn, timeline) = self
                    .end
                    .ok_or_else(|| self.wire.protocol("the backup ended without its end position"))?;
                self.state = State::Over;
                Ok(Some(BackupEvent::End { lsn, timeline }))
            }
        }
    }

    /// In the layout of version 14 a copy is an archive, or after the last archive the manifest.
    fn begin_copy(&mut self) -> Result<Option<BackupEvent>, Error> {
        let Layout::CopyForEach { begun } = &mut self.layout else {
            return Ok(None);
        };
        let index = *begun;
        *begun += 1;
        match self.tablespaces.get(index) {
            Some(tablespace) => {
                self.part = Part::Archive;
                Ok(Some(BackupEvent::Archive { tablespace: tablespace.oid }))
            }
            None if index == self.tablespaces.len() => {
                self.part = Part::Manifest;
                Ok(Some(BackupEvent::Manifest))
            }
            None => Err(self.wire.protocol("the backup has more archives than tablespaces")),
        }
    }

    fn typed(&mut self, message: BackupMessage) -> Result<BackupEvent, Error> {
        match message {
            BackupMessage::Archive { tablespace } => {
                self.part = Part::Archive;
                Ok(BackupEvent::Archive { tablespace })
            }
            BackupMessage::Manifest => {
                self.part = Part::Manifest;
                Ok(BackupEvent::Manifest)
            }
            BackupMessage::Data(data) => self.data(data),
            BackupMessage::Progress { bytes } => Ok(BackupEvent::Progress { bytes }),
        }
    }

    fn data(&self, data: Bytes) -> Result<BackupEvent, Error> {
        match self.part {
            Part::Archive => Ok(BackupEvent::Data(data)),
            Part::Manifest => Ok(BackupEvent::ManifestData(data)),
            Part::None => Err(self.wire.protocol("backup data before the first archive")),
        }
    }
}

impl fmt::Debug for BaseBackup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (lsn, timeline) = self.start;
        write!(f, "BaseBackup({} from {lsn} on timeline {timeline})", self.wire.target())
    }
}

/// The command, in the grammar of version 15 and later or in the old one.
fn command(options: &BaseBackupOptions, parentheses: bool) -> String {
    let label = format!("LABEL '{}'", options.label.replace('\'', "''"));
    let progress = options.progress.then(|| "PROGRESS".to_owned());
    let rate = options.max_rate_kb.map(|rate| format!("MAX_RATE {rate}"));
    let fast = options.fast_checkpoint;
    let [checkpoint, wait, verify] = match parentheses {
        true => [
            Some(if fast { "CHECKPOINT 'fast'" } else { "CHECKPOINT 'spread'" }),
            Some("WAL false, WAIT false"),
            Some("VERIFY_CHECKSUMS false"),
        ],
        false => [fast.then_some("FAST"), Some("NOWAIT"), Some("NOVERIFY_CHECKSUMS")],
    };
    let separator = if parentheses { ", " } else { " " };
    let manifest = options.manifest.then(|| format!("MANIFEST 'yes'{separator}MANIFEST_CHECKSUMS 'CRC32C'"));
    let fixed = |option: Option<&str>| option.map(str::to_owned);
    // The old grammar takes options in any order, so both are written in one.
    let clauses = [Some(label), progress, fixed(checkpoint), fixed(wait), rate, manifest, fixed(verify)];
    let clauses = clauses.into_iter().flatten().collect::<Vec<_>>().join(separator);
    if parentheses { format!("BASE_BACKUP ({clauses})") } else { format!("BASE_BACKUP {clauses}") }
}

fn position(row: &Row) -> Result<(Lsn, TimelineId), Error> {
    Ok((row.required(0, "recptr")?, row.required(1, "tli")?))
}

fn tablespace(row: &Row) -> Result<Tablespace, Error> {
    Ok(Tablespace {
        oid: row.optional(0, "spcoid")?,
        location: row.optional(1, "spclocation")?,
        size_kb: row.optional(2, "size")?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options() -> BaseBackupOptions {
        BaseBackupOptions {
            label: "it's".to_owned(),
            fast_checkpoint: true,
            manifest: true,
            max_rate_kb: Some(1024),
            progress: true,
        }
    }

    #[test]
    fn both_grammars() {
        assert_eq!(
            command(&options(), false),
            "BASE_BACKUP LABEL 'it''s' PROGRESS FAST NOWAIT MAX_RATE 1024 MANIFEST 'yes' \
             MANIFEST_CHECKSUMS 'CRC32C' NOVERIFY_CHECKSUMS"
        );
        assert_eq!(
            command(&options(), true),
            "BASE_BACKUP (LABEL 'it''s', PROGRESS, CHECKPOINT 'fast', WAL false, WAIT false, MAX_RATE 1024, \
             MANIFEST 'yes', MANIFEST_CHECKSUMS 'CRC32C', VERIFY_CHECKSUMS false)"
        );
        let spread =
            BaseBackupOptions { fast_checkpoint: false, manifest: false, progress: false, ..options() };
        assert!(!command(&spread, false).contains("FAST"));
        assert!(command(&spread, true).contains("CHECKPOINT 'spread'"));
        assert!(!command(&spread, true).contains("MANIFEST"));
    }

    #[test]
    fn tablespace_rows() {
        let main = tablespace(&Row::of(&[None, None, Some("123")])).unwrap();
        assert_eq!(main, Tablespace { oid: None, location: None, size_kb: Some(123) });
        assert!(tablespace(&Row::of(&[Some("x"), None, None])).is_err());
    }
}
