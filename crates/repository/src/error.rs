//! Why the repository could not do it.

/// A variant exists because some caller does something different about it.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The store failed.
    #[error(transparent)]
    Store(#[from] store::Error),
    /// An object is not what it was when it was written.
    #[error("{key} is damaged: {reason}")]
    Damaged {
        /// The object.
        key: String,
        /// What does not hold.
        reason: String,
    },
    /// An object that other objects need is gone.
    #[error("{key} is missing, and {needed_by} needs it")]
    Missing {
        /// The object.
        key: String,
        /// Who refers to it.
        needed_by: String,
    },
    /// Somebody wrote other content under a name that is ours. Nothing was overwritten.
    #[error("{key} exists with other content than we have; two engines or two servers write as one cluster")]
    Differs {
        /// The object.
        key: String,
    },
    /// Written by a version of Drydock that we do not understand.
    #[error(
        "{key} has format {found}, and this version of Drydock understands format {}; use the version that wrote it, or a newer one",
        crate::FORMAT
    )]
    UnknownFormat {
        /// The object.
        key: String,
        /// Its format.
        found: u64,
    },
    /// The repository's cluster of this name is another cluster.
    #[error(
        "the repository holds cluster \"{name}\" with {what} {stored}, but the server has {found}; choose another cluster name for another cluster"
    )]
    OtherCluster {
        /// The name in the repository.
        name: String,
        /// What differs.
        what: &'static str,
        /// What the repository has.
        stored: String,
        /// What the server has.
        found: String,
    },
    /// No such cluster in the repository.
    #[error("the repository at {address} has no cluster \"{name}\"{}", known_names(.known))]
    NoCluster {
        /// The repository.
        address: String,
        /// The name asked for.
        name: String,
        /// The names there are.
        known: Vec<String>,
    },
    /// There is no repository at the address.
    #[error("there is no repository at {address}; backupd makes one when it starts")]
    NoRepository {
        /// The address.
        address: String,
    },
    /// Two repositories that cannot hold the same objects.
    #[error(
        "{from} and {to} are different repositories, and one is encrypted; copy into an empty place instead"
    )]
    OtherRepository {
        /// One.
        from: String,
        /// The other.
        to: String,
    },
    /// No such backup.
    #[error("there is no backup \"{0}\"; `backupctl list` shows the backups there are")]
    NoBackup(String),
    /// Not a name we can use in keys.
    #[error("\"{0}\" cannot be the name of a cluster; use letters, digits, \"_\", \"-\" and \".\"")]
    ClusterName(String),
    /// Something is encrypted, and there is nothing to read it with.
    #[error("{key} is encrypted, and no identity is given to read it with")]
    NoIdentity {
        /// The object.
        key: String,
    },
    /// Something is encrypted to others than us.
    #[error("{key} is encrypted, and none of the identities given opens it")]
    WrongIdentity {
        /// The object.
        key: String,
    },
    /// Not the public half of an age identity.
    #[error("\"{0}\" is not an age recipient, which looks like age1… and is what `backupctl key new` prints")]
    NotARecipient(String),
    /// More recipients than a repository takes.
    #[error("a repository takes {} recipients at most", crate::crypt::RECIPIENTS_MAX)]
    TooManyRecipients,
    /// The repository is encrypted to others than the configuration says. Whoever owns the storage could have put
    /// themselves there.
    #[error(
        "the repository at {address} is encrypted to {found}, but the configuration says {configured}; nothing is written until the two agree"
    )]
    OtherRecipients {
        /// The repository.
        address: String,
        /// Whom its document names.
        found: String,
        /// Whom the configuration names.
        configured: String,
    },
    /// Without recipients, everything would be stored plain from then on.
    #[error(
        "{0} is the last recipient, and without one everything is stored unencrypted; if that is meant, say --plain"
    )]
    LastRecipient(String),
    /// Not among the recipients.
    #[error("{0} is not a recipient of the repository; `backupctl key list` shows them")]
    NoRecipient(String),
    /// Something of ours could not be put into a document.
    #[error("cannot encode {what}")]
    Encode {
        /// What.
        what: &'static str,
        /// Why.
        source: serde_json::Error,
    },
}

fn known_names(known: &[String]) -> String {
    if known.is_empty() { String::new() } else { format!("; it has {}", known.join(", ")) }
}

impl Error {
    /// Whether the same call may succeed later without anybody doing anything here.
    pub fn is_transient(&self) -> bool {
        matches!(self, Error::Store(error) if error.is_transient())
    }

    /// Whether the object asked for is simply not there.
    pub fn is_not_found(&self) -> bool {
        matches!(self, Error::Store(error) if error.is_not_found())
    }

    /// Whether content was found that is not what was written, or is gone.
    pub fn is_damage(&self) -> bool {
        matches!(
            self,
            Error::Damaged { .. }
                | Error::Missing { .. }
                | Error::Differs { .. }
                | Error::Store(store::Error::Corrupt { .. })
        )
    }

    pub(crate) fn damaged(key: &store::Key, reason: impl Into<String>) -> Error {
        Error::Damaged { key: key.to_string(), reason: reason.into() }
    }

    /// A missing object that `needed_by` refers to is damage; everything else stays what it is.
    pub(crate) fn needed_by(self, needed_by: impl Into<String>) -> Error {
        match self {
            Error::Store(store::Error::NotFound { key }) => {
                Error::Missing { key, needed_by: needed_by.into() }
            }
            other => other,
        }
    }
}
