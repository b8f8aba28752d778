//! What a run of either binary can fail with, and how a person is told.

use std::io::{self, Write};

use repository::BackupId;

use crate::config::{self, Settings};

/// Why a run failed.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The configuration.
    #[error(transparent)]
    Config(#[from] config::Error),
    /// The work itself.
    #[error(transparent)]
    Engine(#[from] engine::Error),
    /// The destination of a restore, before the work began.
    #[error("{reason}")]
    Destination {
        /// Why.
        reason: String,
        /// What to do about it.
        hint: String,
    },
    /// Somebody else is at it.
    #[error("a base backup of this cluster is being taken already: {id}, by {runner}, since {since}")]
    Busy {
        /// The backup.
        id: BackupId,
        /// Who takes it: `host/process id`.
        runner: String,
        /// Since when.
        since: String,
    },
    /// The system we run on.
    #[error("cannot {action}")]
    System {
        /// What was tried.
        action: &'static str,
        /// What the system said.
        source: io::Error,
    },
}

impl From<replication::Error> for Failure {
    fn from(error: replication::Error) -> Failure {
        Failure::Engine(error.into())
    }
}

impl From<repository::Error> for Failure {
    fn from(error: repository::Error) -> Failure {
        Failure::Engine(error.into())
    }
}

impl From<store::Error> for Failure {
    fn from(error: store::Error) -> Failure {
        repository::Error::from(error).into()
    }
}

impl Failure {
    /// For `map_err` where the system refuses something.
    pub fn system(action: &'static str) -> impl FnOnce(io::Error) -> Failure {
        move |source| Failure::System { action, source }
    }

    /// One sentence on what a person can do about it.
    pub fn hint(&self, settings: Option<&Settings>) -> Option<String> {
        match self {
            Failure::Config(_) | Failure::System { .. } => None,
            Failure::Destination { hint, .. } => Some(hint.clone()),
            Failure::Busy { .. } => {
                Some("wait until it is over, which `backupctl status` tells; one that was killed counts for two minutes".to_owned())
            }
            Failure::Engine(error) => {
                let hints = [hint(error, settings), settings.and_then(|settings| elsewhere(error, settings))];
                hints.into_iter().flatten().reduce(|one, other| format!("{one}; {other}"))
            }
        }
    }

    /// Tells it on standard error: what failed, and what to do.
    pub fn print(&self, settings: Option<&Settings>) {
        let mut text = format!("error: {}\n", engine::chain(self));
        if let Some(hint) = self.hint(settings) {
            text.push_str(&format!("hint: {hint}\n"));
        }
        // Nobody is left to tell when standard error is closed; the exit code still says it.
        drop(io::stderr().write_all(text.as_bytes()));
    }
}

/// The engine's hint, or a better one where the configuration or our own names say more.
fn hint(error: &engine::Error, settings: Option<&Settings>) -> Option<String> {
    use replication::Error as Server;
    use repository::Error as Repository;
    let engine_hint = || error.hint();
    match error {
        engine::Error::Server(Server::NotReplicationRole { .. }) => {
            let role = settings
                .and_then(|settings| settings.server().ok())
                .map(|server| &server.replication.user)?;
            Some(format!("as a superuser: ALTER ROLE \"{}\" REPLICATION", role.replace('"', "\"\"")))
        }
        engine::Error::Repository(Repository::NoRepository { .. }) => Some(
            "its repository.json is not there; check DRYDOCK_REPOSITORY, or start `backupd run`".to_owned(),
        ),
        engine::Error::Repository(Repository::NoCluster { name, .. }) => Some(format!(
            "{name}/cluster.json is not there; check DRYDOCK_CLUSTER, or start `backupd run` for this cluster"
        )),
        engine::Error::Repository(Repository::NoIdentity { .. }) => Some(
            "set DRYDOCK_IDENTITY_FILE to the file of an identity it is encrypted to, or DRYDOCK_IDENTITY_COMMAND"
                .to_owned(),
        ),
        engine::Error::Repository(Repository::WrongIdentity { .. }) => Some(
            "use the identity of one of those who were recipients when it was written; `age-keygen -y FILE` shows whose a file is"
                .to_owned(),
        ),
        engine::Error::Repository(Repository::OtherRecipients { .. }) => Some(
            "find out who changed repository.json; if it was you, change DRYDOCK_RECIPIENTS (encryption.recipients), too"
                .to_owned(),
        ),
        engine::Error::Repository(Repository::Store(error)) => of_store(error).or_else(engine_hint),
        _ => engine_hint(),
    }
}

/// Where else it can be read, when the repository cannot be.
fn elsewhere(error: &engine::Error, settings: &Settings) -> Option<String> {
    use repository::Error as Repository;
    use store::Error as Store;
    let engine::Error::Repository(error) = error else { return None };
    let is_unreadable = match error {
        Repository::NoRepository { .. } | Repository::Damaged { .. } | Repository::Missing { .. } => true,
        Repository::Store(
            Store::Unavailable { action, .. } | Store::Denied { action, .. } | Store::Refused { action, .. },
        ) => ["open", "read", "list"].contains(action),
        _ => false,
    };
    let others: Vec<&str> = settings.further.addresses().map(|address| address.as_str()).collect();
    (is_unreadable && !others.is_empty()).then(|| {
        format!("the same is kept in {}; read from there with --repository ADDRESS", others.join(" and "))
    })
}

fn of_store(error: &store::Error) -> Option<String> {
    use store::Error as Store;
    let hint = match error {
        Store::Unauthorized { .. } => {
            "DRYDOCK_REPOSITORY_TOKEN, or the file DRYDOCK_REPOSITORY_TOKEN_FILE names, must be the token of that \
             service, its DRYDOCK_SERVE_TOKEN"
        }
        Store::Untrusted { .. } => {
            "if the service's certificate is of an authority of your own, set DRYDOCK_REPOSITORY_CA_FILE to that \
             authority's certificate; see that the certificate names this host and is still valid, and that TLS is served \
             there at all"
        }
        Store::ReadOnly { .. } => {
            "another service serves it; write to the repository at its own address, such as file:///var/backups"
        }
        _ => return None,
    };
    Some(hint.to_owned())
}
