//! Check: look at everything that could keep a backup or a restore from working, and say what to do about it.
//!
//! What is seen is gathered first ([`server`] and [`repository`] ask), and judged by a pure function ([`judge`]). A role
//! with nothing but LOGIN and REPLICATION sees nearly everything; what it cannot see is said, with the grant that shows it.

mod judge;
mod repository;
mod server;

use std::time::Duration;

use ::repository::Cluster;
use chrono::{DateTime, Utc};
use replication::ConnectConfig;
use serde::Serialize;

use crate::Error;

/// How a check came out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// As it should be.
    Ok,
    /// It works, but somebody should know.
    Warning,
    /// A backup or a restore will not work.
    Failed,
}

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Check {
    /// Its name, which does not change.
    pub name: &'static str,
    /// How it came out.
    pub verdict: Verdict,
    /// What was found.
    pub found: String,
    /// What to do; null where nothing needs to be done.
    pub advice: Option<String>,
}

/// Room in the repository.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Space {
    /// Bytes that can still be written.
    pub free_bytes: u64,
    /// Bytes in all.
    pub total_bytes: u64,
}

/// Another repository than the first.
#[derive(Debug)]
pub struct Further {
    /// Where it is.
    pub address: String,
    /// Nothing is acknowledged before it has it; the others may lag.
    pub required: bool,
    /// What came of writing to it and reading that back.
    pub used: Result<(), Error>,
}

/// What to look at.
#[derive(Debug)]
pub struct Request<'a> {
    /// The server, for replication.
    pub connect: &'a ConnectConfig,
    /// The server, for SQL.
    pub sql: &'a ConnectConfig,
    /// The slot.
    pub slot: &'a str,
    /// The cluster in the repository, or why there is none.
    pub cluster: Result<&'a Cluster, &'a Error>,
    /// Room in the repository, where it can be known.
    pub space: Option<Space>,
    /// The other repositories, where there are several.
    pub further: &'a [Further],
    /// An older newest backup is a fault.
    pub maximum_age: Option<Duration>,
    /// What time it is.
    pub now: DateTime<Utc>,
}

/// Looks at everything.
pub async fn check(request: &Request<'_>) -> Vec<Check> {
    let server = server::look(request).await;
    let repository = match request.cluster {
        Ok(cluster) => repository::look(cluster).await.map_err(|error| (crate::chain(&error), error.hint())),
        Err(error) => Err((crate::chain(error), error.hint())),
    };
    let is_missing =
        |error: &Error| matches!(error, Error::Repository(::repository::Error::NoRepository { .. }));
    let seen = judge::Seen {
        role: &request.connect.user,
        application_name: &request.connect.application_name,
        slot: request.slot,
        repository_is_missing: request.cluster.err().is_some_and(is_missing),
        space: request.space,
        further: request.further,
        now: request.now,
        maximum_age: request.maximum_age,
        server: &server,
        repository: &repository,
    };
    judge::judge(&seen)
}
