//! Why the engine could not do it.

use pgformat::{Lsn, TimelineId};

/// A variant exists because some caller, or the exit code, differs.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The server cannot be reached, or refused a command.
    #[error(transparent)]
    Server(#[from] replication::Error),
    /// The repository failed.
    #[error(transparent)]
    Repository(#[from] repository::Error),
    /// The server is there, but not one we can work with.
    #[error("{reason}")]
    Unsuitable {
        /// Why, in a sentence.
        reason: String,
        /// What to do about it.
        hint: String,
    },
    /// What streams in is not WAL of this cluster, timeline and address. Nothing of it was archived.
    #[error("{target} sends WAL that cannot be right: {source}")]
    BadWal {
        /// The server.
        target: String,
        /// What does not hold.
        source: pgformat::wal::WalError,
    },
    /// What streams in differs from what is durable already.
    #[error(
        "{target} sends other WAL for timeline {timeline} at {lsn} than the repository holds; another server with the same identifier wrote there"
    )]
    Diverged {
        /// The server.
        target: String,
        /// The timeline.
        timeline: TimelineId,
        /// The first byte that differs.
        lsn: Lsn,
    },
    /// The backup that came is not what the server says it sent.
    #[error("the backup is not what the server sent: {0}")]
    BadBackup(String),
    /// A failover came in between, or WAL was lost.
    #[error("{reason}")]
    Overtaken {
        /// What was left, and where.
        reason: String,
    },
    /// WAL that should be coming is not.
    #[error("{reason}")]
    WalNotArchived {
        /// What was waited for, and how far it got.
        reason: String,
    },
    /// The target cannot be reached from what the repository holds.
    #[error("{reason}")]
    Unreachable {
        /// Why, with the range that can be reached.
        reason: String,
    },
    /// The destination cannot be restored into.
    #[error("{reason}")]
    Destination {
        /// Why.
        reason: String,
        /// What to do about it.
        hint: String,
    },
    /// A file of ours or of the destination.
    #[error("cannot {action} {path}")]
    File {
        /// What was tried.
        action: &'static str,
        /// The file.
        path: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// Of several nodes, none will do.
    #[error("{reason}")]
    NoNode {
        /// Why, node by node.
        reason: String,
    },
    /// We were told to stop.
    #[error("stopped before it was finished")]
    Stopped,
}

impl Error {
    pub(crate) fn file(action: &'static str, path: &std::path::Path) -> impl FnOnce(std::io::Error) -> Error {
        let path = path.display().to_string();
        move |source| Error::File { action, path, source }
    }

    /// Whether the same may succeed later with nobody's help.
    pub fn is_transient(&self) -> bool {
        match self {
            Error::Server(error) => error.is_transient(),
            Error::Repository(error) => error.is_transient(),
            Error::NoNode { .. } => true,
            _ => false,
        }
    }

    /// One sentence on what a person can do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            Error::Server(error) => error.hint(),
            Error::Unsuitable { hint, .. } | Error::Destination { hint, .. } => Some(hint.clone()),
            Error::WalNotArchived { .. } => Some(
                "see that `backupd run` runs for this cluster and repository, and what it logs".to_owned(),
            ),
            Error::Repository(repository::Error::Store(store::Error::Denied { .. })) => {
                Some("give the user that runs this the right to read and write the repository".to_owned())
            }
            Error::Repository(repository::Error::Store(store::Error::Full { .. })) => {
                Some("make room in the repository; everything goes on by itself then".to_owned())
            }
            _ => None,
        }
    }
}

/// An error and all its causes in one line, as messages and logs show it.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let part = error.to_string();
        if !text.ends_with(&part) {
            text.push_str(": ");
            text.push_str(&part);
        }
        cause = error.source();
    }
    text
}
