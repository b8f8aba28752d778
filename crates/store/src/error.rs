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
    /// The server keeps the object from being deleted.
    #[error("{key} is locked until {until}")]
    Locked {
        /// The key to be deleted.
        key: String,
        /// In RFC 3339.
        until: String,
    },
    /// The store cannot be used as it is configured: no such bucket, another region, a certificate nobody trusts. It
    /// stays so until a person changes something.
    #[error("cannot {action} {key}")]
    Refused {
        /// What was tried.
        action: &'static str,
        /// The object or directory.
        key: String,
        /// Why, and what to change.
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
    /// The service that has the repository does not let us in.
    #[error("{address} does not accept the token")]
    Unauthorized {
        /// Where the service is.
        address: String,
    },
    /// Nobody we trust vouches for the service, or what answers does not speak TLS.
    #[error("cannot make a trusted connection to {address}")]
    Untrusted {
        /// Where the service is.
        address: String,
        /// What TLS said.
        source: rustls::Error,
    },
    /// The store can only be read, whoever asks.
    #[error("the repository at {address} can only be read")]
    ReadOnly {
        /// Where it is.
        address: String,
    },
    /// What is there is nothing we can use, now or later.
    #[error("{address} cannot be used: {reason}")]
    Unusable {
        /// Where it is.
        address: String,
        /// Why.
        reason: String,
    },
    /// The right to write is over, or cannot be renewed at the moment. It may come back, unless somebody else has it.
    #[error("{key} is not written while this service does not hold the cluster's lease")]
    Fenced {
        /// The object.
        key: String,
    },
    /// What the store gives is not what was stored there, by the store's own checksum, however often it is asked.
    #[error("{key} has changed in the storage")]
    Corrupt {
        /// The object.
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
        matches!(self, Error::Unavailable { .. } | Error::Full { .. } | Error::Fenced { .. })
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
