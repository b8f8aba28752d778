//! A server, as we find it when we connect.

use chrono::{DateTime, Utc};
use pgformat::{Lsn, Major, SegmentSize, TimelineId};
use replication::{ConnectConfig, Connection};
use repository::Identity;

use crate::Error;

/// What a server says it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Server {
    /// `host:port`.
    pub target: String,
    /// PostgreSQL's, of the cluster.
    pub system_identifier: u64,
    /// The timeline it is on.
    pub timeline: TimelineId,
    /// How far its WAL is flushed, or on a standby received or replayed.
    pub flushed: Lsn,
    /// `server_version_num`.
    pub version: u32,
    /// Of the version.
    pub major: Major,
    /// Bytes in a WAL segment.
    pub segment_size: SegmentSize,
    /// Bytes in a page.
    pub block_size: u32,
    /// Whether pages carry checksums.
    pub data_checksums: bool,
    /// Whether `synchronous_standby_names` names us: commits wait for our acknowledgement.
    pub synchronous: bool,
}

impl Server {
    /// Connects for replication and finds out whom we talk to.
    pub async fn connect(config: &ConnectConfig) -> Result<(Connection, Server), Error> {
        let mut connection = Connection::connect(config).await?;
        let version = connection.server_version();
        let major = Major::from_version_num(version).map_err(|unknown| Error::Unsuitable {
            reason: format!(
                "{} runs a PostgreSQL that this version of Drydock does not know: {unknown}",
                config.target()
            ),
            hint: "use a version of Drydock that supports it".to_owned(),
        })?;
        let system = connection.identify_system().await?;
        let segment_size = show_bytes(&mut connection, "wal_segment_size").await?;
        let block_size = show_bytes(&mut connection, "block_size").await?;
        let names = connection.show("synchronous_standby_names").await?;
        let server = Server {
            target: config.target(),
            system_identifier: system.system_identifier,
            timeline: system.timeline,
            flushed: system.flushed,
            version,
            major,
            segment_size: SegmentSize::new(segment_size)
                .ok_or_else(|| strange("wal_segment_size", segment_size))?,
            block_size: u32::try_from(block_size).map_err(|_too_large| strange("block_size", block_size))?,
            data_checksums: connection.show("data_checksums").await? == "on",
            synchronous: names_us(&names, &config.application_name),
        };
        Ok((connection, server))
    }

    /// What the repository is to remember of it.
    pub fn identity(&self, now: DateTime<Utc>) -> Identity {
        Identity {
            system_identifier: self.system_identifier,
            postgresql_major: self.major.number(),
            segment_size: self.segment_size.bytes(),
            block_size: self.block_size,
            created_at: now,
        }
    }
}

fn strange(name: &str, value: u64) -> Error {
    Error::Unsuitable {
        reason: format!("the server's {name} is {value}, which PostgreSQL cannot have"),
        hint: "see that the address is that of a PostgreSQL server".to_owned(),
    }
}

/// A setting that SHOW gives with a unit, in bytes.
async fn show_bytes(connection: &mut Connection, name: &str) -> Result<u64, Error> {
    let text = connection.show(name).await?;
    parse_bytes(&text).ok_or_else(|| Error::Unsuitable {
        reason: format!("the server says that {name} is \"{text}\", which is not a size"),
        hint: "see that the address is that of a PostgreSQL server".to_owned(),
    })
}

fn parse_bytes(text: &str) -> Option<u64> {
    let digits = text.trim_end_matches(|c: char| !c.is_ascii_digit());
    let unit = match text[digits.len()..].trim() {
        "" | "B" => 1,
        "kB" => 1 << 10,
        "MB" => 1 << 20,
        "GB" => 1 << 30,
        _ => return None,
    };
    digits.parse::<u64>().ok()?.checked_mul(unit)
}

/// Whether `synchronous_standby_names` names this application: any of its forms is a list of names, where `*` is all.
fn names_us(setting: &str, application_name: &str) -> bool {
    setting
        .split(|c: char| c == ',' || c == '(' || c == ')' || c.is_whitespace())
        .map(|name| name.trim_matches('"'))
        .any(|name| name == "*" || name.eq_ignore_ascii_case(application_name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_as_show_prints_them() {
        for (text, bytes) in [("16MB", 16 << 20), ("8192", 8192), ("1GB", 1 << 30), ("64kB", 64 << 10)] {
            assert_eq!(parse_bytes(text), Some(bytes), "{text}");
        }
        for text in ["", "MB", "1TB", "x1MB", "-1"] {
            assert_eq!(parse_bytes(text), None, "{text}");
        }
    }

    #[test]
    fn every_form_of_synchronous_standby_names_is_read() {
        for setting in
            ["drydock", "*", "a,drydock", "FIRST 1 (a, drydock)", "ANY 2 (\"drydock\", b)", "1 (Drydock)"]
        {
            assert!(names_us(setting, "drydock"), "{setting}");
        }
        for setting in ["", "a", "drydock2", "FIRST 1 (a, b)"] {
            assert!(!names_us(setting, "drydock"), "{setting}");
        }
    }
}
