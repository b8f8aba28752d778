//! A connection in replication mode, and the commands that answer with a small result.

use std::fmt;
use std::time::Duration;

use bytes::Bytes;
use pgformat::version::Major;
use pgformat::{Lsn, TimelineId};
use tokio::time::timeout;

use crate::base_backup::{BaseBackup, BaseBackupOptions};
use crate::config::ConnectConfig;
use crate::error::Error;
use crate::row::{self, Row};
use crate::startup;
use crate::stream::WalStream;
use crate::transport;
use crate::wire::Wire;

/// How long [`Connection::close`] waits for its goodbye to be sent.
const CLOSE_WAIT: Duration = Duration::from_secs(1);

/// A connection in physical replication mode, waiting for a command.
///
/// A command whose future is dropped half-way leaves the connection in the middle of an answer; every later command
/// then fails with [`Error::Protocol`], and a new connection is needed. No command has a time limit of its own, since
/// some wait for checkpoints: use [`tokio::time::timeout`] where that matters.
pub struct Connection {
    pub(crate) wire: Wire,
    server_version: u32,
}

/// What IDENTIFY_SYSTEM says about a server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct System {
    /// The same on all nodes of a cluster, and on no other cluster.
    pub system_identifier: u64,
    /// The timeline the server is on.
    pub timeline: TimelineId,
    /// How far its WAL is flushed.
    pub flushed: Lsn,
    /// The database of the connection; `None` in physical replication mode.
    pub database: Option<String>,
}

/// A timeline's history, as the server has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HistoryFile {
    /// Such as `00000002.history`.
    pub name: String,
    /// The file.
    pub content: Bytes,
}

/// What a server knows about a slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SlotState {
    /// The server cannot say over the replication protocol; PostgreSQL 14. Ask `pg_replication_slots`.
    Unsupported,
    /// There is no such slot.
    Missing,
    /// There is.
    Physical {
        /// From where on its WAL is kept; `None` if it reserves none, or has lost it.
        restart_lsn: Option<Lsn>,
        /// The timeline of that WAL.
        restart_timeline: Option<TimelineId>,
    },
}

impl Connection {
    /// Connects and logs in for physical replication.
    pub async fn connect(config: &ConnectConfig) -> Result<Connection, Error> {
        let wire = transport::establish(config, &startup::Replication { config }).await?;
        let server_version = parse_version(wire.parameter("server_version").unwrap_or_default())
            .ok_or_else(|| wire.protocol("the server does not tell its version"))?;
        Ok(Connection { wire, server_version })
    }

    /// The version as `server_version_num` has it: 150018 is 15.18.
    pub fn server_version(&self) -> u32 {
        self.server_version
    }

    /// What this server's commands look like; majors we do not know are refused.
    pub(crate) fn major(&self) -> Result<Major, Error> {
        Major::from_version_num(self.server_version).map_err(|error| self.wire.protocol(error))
    }

    /// The server, as messages name it.
    pub fn target(&self) -> &str {
        self.wire.target()
    }

    /// A parameter that the server reported by itself, such as `server_encoding` or `in_hot_standby`.
    pub fn parameter(&self, name: &str) -> Option<&str> {
        self.wire.parameter(name)
    }

    /// Which cluster this is, and where it stands.
    pub async fn identify_system(&mut self) -> Result<System, Error> {
        let row = self.row("IDENTIFY_SYSTEM").await?;
        Ok(System {
            system_identifier: row.required(0, "systemid")?,
            timeline: row.required(1, "timeline")?,
            flushed: row.required(2, "xlogpos")?,
            database: row.optional(3, "dbname")?,
        })
    }

    /// A configuration setting, such as `wal_segment_size`, as SHOW prints it.
    pub async fn show(&mut self, name: &str) -> Result<String, Error> {
        let plain = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '.';
        if name.is_empty() || !name.chars().all(plain) {
            return Err(Error::Protocol(format!("{name:?} is not the name of a setting")));
        }
        self.row(&format!("SHOW {name}")).await?.required(0, name)
    }

    /// The history of a timeline. Timeline 1 has none; the server then answers with an error.
    pub async fn timeline_history(&mut self, timeline: TimelineId) -> Result<HistoryFile, Error> {
        let row = self.row(&format!("TIMELINE_HISTORY {timeline}")).await?;
        let content = row.bytes(1).ok_or_else(|| Error::Protocol("column content is null".to_owned()))?;
        Ok(HistoryFile { name: row.required(0, "filename")?, content: content.clone() })
    }

    /// Creates a slot that outlives this connection. Unless it reserves WAL, it keeps none until something has
    /// streamed from it.
    pub async fn create_physical_slot(&mut self, name: &str, reserve_wal: bool) -> Result<(), Error> {
        let option = match (reserve_wal, self.major()?.base_backup_parenthesised()) {
            (false, _) => "",
            (true, true) => " (RESERVE_WAL)",
            (true, false) => " RESERVE_WAL",
        };
        let command = format!("CREATE_REPLICATION_SLOT {} PHYSICAL{option}", quote_identifier(name));
        self.wire.rows(&command).await.map(drop)
    }

    /// What the server knows about a slot.
    pub async fn read_slot(&mut self, name: &str) -> Result<SlotState, Error> {
        if !self.major()?.has_read_replication_slot() {
            return Ok(SlotState::Unsupported);
        }
        let row = self.row(&format!("READ_REPLICATION_SLOT {}", quote_identifier(name))).await?;
        match row.text(0, "slot_type")? {
            None => Ok(SlotState::Missing),
            Some("physical") => Ok(SlotState::Physical {
                restart_lsn: row.optional(1, "restart_lsn")?,
                restart_timeline: row.optional(2, "restart_tli")?,
            }),
            Some(other) => Err(Error::Protocol(format!("slot {name} is {other}, not physical"))),
        }
    }

    /// Drops a slot. One that is in use is not waited for.
    pub async fn drop_slot(&mut self, name: &str) -> Result<(), Error> {
        self.wire.rows(&format!("DROP_REPLICATION_SLOT {}", quote_identifier(name))).await.map(drop)
    }

    /// Streams WAL of `timeline` from `start` on; see [`WalStream`].
    ///
    /// The server consents before it looks for the WAL, so that [`Error::WalRemoved`] and [`Error::AheadOfServer`] may
    /// come from here or from the first [`WalStream::next`].
    pub async fn start_replication(
        self,
        slot: Option<&str>,
        timeline: TimelineId,
        start: Lsn,
    ) -> Result<WalStream, Error> {
        let slot = slot.map(|name| format!(" SLOT {}", quote_identifier(name))).unwrap_or_default();
        let command = format!("START_REPLICATION{slot} PHYSICAL {start} TIMELINE {timeline}");
        WalStream::start(self, &command).await
    }

    /// Starts a base backup; see [`BaseBackup`]. Returns when the server has made its checkpoint, which takes as long
    /// as a checkpoint takes unless a fast one is asked for.
    pub async fn base_backup(self, options: &BaseBackupOptions) -> Result<BaseBackup, Error> {
        BaseBackup::start_on(self, options).await
    }

    /// Ends the connection politely. Dropping it does so too, if the goodbye can be sent without waiting.
    pub async fn close(mut self) {
        match timeout(CLOSE_WAIT, self.wire.terminate()).await {
            Ok(Ok(())) => {}
            // Gone is gone, said goodbye or not.
            Ok(Err(_)) | Err(_) => tracing::debug!(target = self.wire.target(), "closed without a goodbye"),
        }
    }

    async fn row(&mut self, command: &str) -> Result<Row, Error> {
        row::only(self.wire.rows(command).await?, command)
    }
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Connection({}, version {})", self.target(), self.server_version)
    }
}

/// Quotes a slot's name, which keeps odd ones from being read as part of the command.
fn quote_identifier(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// Reads `15.18 (Debian 15.18-1)`, `18beta1` or `16devel` as the number of `server_version_num`.
fn parse_version(text: &str) -> Option<u32> {
    let digits = |text: &str| -> Option<u32> {
        let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
        text.get(..end)?.parse().ok()
    };
    let major = digits(text).filter(|major| (10..1000).contains(major))?;
    let minor = text.split_once('.').and_then(|(_, rest)| digits(rest)).filter(|minor| *minor < 10_000);
    Some(major * 10_000 + minor.unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn versions_read_as_numbers() {
        for (text, number) in [
            ("15.18 (Debian 15.18-0+deb12u1)", Some(150_018)),
            ("14.0", Some(140_000)),
            ("18beta1", Some(180_000)),
            ("17devel", Some(170_000)),
            ("9.6.24", None),
            ("", None),
            ("x", None),
        ] {
            assert_eq!(parse_version(text), number, "{text}");
        }
    }

    #[test]
    fn connecting_may_be_spawned() {
        fn is_send(_: &impl Send) {}
        let config = ConnectConfig::new("db", "u");
        is_send(&Connection::connect(&config));
        is_send(&crate::sql::connect(&config));
    }

    #[test]
    fn odd_names_stay_names() {
        assert_eq!(quote_identifier("a\" PHYSICAL; --"), "\"a\"\" PHYSICAL; --\"");
    }

    proptest! {
        #[test]
        fn never_panics(text: String) {
            parse_version(&text);
        }
    }
}
