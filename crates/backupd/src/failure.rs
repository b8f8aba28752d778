//! What a run of either binary can fail with, and how a person is told.

use std::io::{self, Write};

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
            Failure::Engine(error) => hint(error, settings),
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
        _ => error.hint(),
    }
}
