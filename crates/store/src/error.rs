//! Why a store could not do it.

use std::io;

/// A variant exists because some caller does something different about it.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no such object.
    #[error("{key} is not in the repository")]
    NotFound {
        /// The key asked for.
        key: String,
    },
    /// Create met an object of this name.
    #[error("{key} exists already")]
    Exists {
        /// The key to be created.
        key: String,
    },
    /// Replace met a version other than the one expected.
    #[error("{key} was changed by somebody else")]
    Changed {
        /// The key to be replaced.
        key: String,
    },
    /// We have no right to do this.
    #[error("no permission to {action} {key}")]
    Denied {
        /// What was tried.
        action: &'static str,
        /// The object or directory.
        key: String,
        /// What the system said.
        source: io::Error,
    },
    /// No room is left. Writing goes on when there is room again.
    #[error("no space left to {action} {key}")]
    Full {
        /// What was tried.
        action: &'static str,
        /// The object or directory.
        key: String,
        /// What the system said.
        source: io::Error,
    },
    /// Anything else, which may pass.
    #[error("cannot {action} {key}")]
    Unavailable {
        /// What was tried.
        action: &'static str,
        /// The object or directory.
        key: String,
        /// What the system said.
        source: io::Error,
    },
}

impl Error {
    /// Whether the same call may succeed later without anybody doing anything here.
    pub fn is_transient(&self) -> bool {
        matches!(self, Error::Unavailable { .. } | Error::Full { .. })
    }

    /// Whether the object is simply not there.
    pub fn is_not_found(&self) -> bool {
        matches!(self, Error::NotFound { .. })
    }

    pub(crate) fn from_io(action: &'static str, key: impl Into<String>, source: io::Error) -> Error {
        let key = key.into();
        match source.kind() {
            io::ErrorKind::NotFound => Error::NotFound { key },
            io::ErrorKind::AlreadyExists => Error::Exists { key },
            io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
                Error::Denied { action, key, source }
            }
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Error::Full { action, key, source },
            _ => Error::Unavailable { action, key, source },
        }
    }
}
