//! Exit codes: what they mean, and which one an error has. Nobody else decides.

use std::process::ExitCode;

use engine::Error as Engine;
use replication::Error as Server;
use repository::Error as Repository;
use store::Error as Store;

use crate::Failure;

/// How a run of either binary ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// It was done.
    Done = 0,
    /// It failed for a reason of no other class.
    Failed = 1,
    /// The command line is wrong.
    Usage = 2,
    /// The configuration is wrong.
    Configuration = 3,
    /// The server cannot be reached or does not let us in.
    Server = 4,
    /// The server is there but not one we can work with.
    Unsuitable = 5,
    /// The repository cannot be used.
    Repository = 6,
    /// The repository is damaged.
    Damaged = 7,
    /// There is no such backup, or the target cannot be reached.
    NoTarget = 8,
    /// The destination cannot be restored into.
    Destination = 9,
    /// It was done, and something was found.
    Findings = 10,
    /// Somebody else is at it.
    Busy = 11,
}

/// The codes as `--help` lists them.
pub const HELP: &str = "\
Exit codes:
  0   done
  1   failed for another reason, or was stopped
  2   the command line is wrong
  3   the configuration is wrong
  4   the server cannot be reached, or refuses password or TLS
  5   the server is not suitable: pg_hba.conf, REPLICATION, wal_level, slots, version, another cluster, diverged WAL
  6   the repository cannot be used: unreachable, not writable, full, of a newer format, or not there
  7   the repository is damaged
  8   no such backup, or the target cannot be reached
  9   the destination cannot be restored into
  10  done, with findings
  11  another base backup of the cluster is being taken";

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> ExitCode {
        ExitCode::from(exit as u8)
    }
}

impl Failure {
    /// The exit code.
    pub fn exit(&self) -> Exit {
        match self {
            Failure::Config(_) => Exit::Configuration,
            Failure::Engine(error) => of_engine(error),
            Failure::Destination { .. } => Exit::Destination,
            Failure::Busy { .. } => Exit::Busy,
            Failure::System { .. } => Exit::Failed,
        }
    }
}

fn of_engine(error: &Engine) -> Exit {
    match error {
        Engine::Server(error) => of_server(error),
        Engine::Repository(error) => of_repository(error),
        Engine::Unsuitable { .. } | Engine::BadWal { .. } | Engine::Diverged { .. } => Exit::Unsuitable,
        Engine::BadBackup(_) | Engine::Overtaken { .. } | Engine::WalNotArchived { .. } => Exit::Unsuitable,
        Engine::Unreachable { .. } => Exit::NoTarget,
        Engine::NoNode { .. } => Exit::Server,
        Engine::Destination { .. } | Engine::File { .. } => Exit::Destination,
        Engine::Stopped => Exit::Failed,
    }
}

fn of_server(error: &Server) -> Exit {
    match error {
        Server::Unreachable { .. } | Server::Lost { .. } | Server::Timeout { .. } | Server::Tls { .. } => {
            Exit::Server
        }
        Server::Authentication { .. } | Server::StartingUp { .. } | Server::Shutdown { .. } => Exit::Server,
        Server::NotAuthorized { .. } | Server::NotReplicationRole { .. } => Exit::Unsuitable,
        Server::SlotMissing { .. } | Server::SlotInUse { .. } | Server::SlotExists { .. } => Exit::Unsuitable,
        Server::NoFreeSlot { .. } | Server::NoFreeWalSender { .. } => Exit::Unsuitable,
        Server::WalRemoved { .. } | Server::SlotInvalidated { .. } => Exit::Unsuitable,
        Server::NotInHistory { .. } | Server::AheadOfServer { .. } => Exit::Unsuitable,
        Server::Server { .. } | Server::Protocol(_) => Exit::Unsuitable,
    }
}

fn of_repository(error: &Repository) -> Exit {
    match error {
        Repository::Store(error) => of_store(error),
        Repository::Damaged { .. } | Repository::Missing { .. } | Repository::Differs { .. } => Exit::Damaged,
        Repository::UnknownFormat { .. } | Repository::OtherRecipients { .. } => Exit::Repository,
        Repository::NoIdentity { .. } | Repository::WrongIdentity { .. } => Exit::Configuration,
        Repository::NotARecipient(_) | Repository::TooManyRecipients => Exit::Usage,
        Repository::LastRecipient(_) | Repository::NoRecipient(_) => Exit::Failed,
        Repository::OtherCluster { .. } => Exit::Unsuitable,
        Repository::NoCluster { .. } | Repository::NoRepository { .. } => Exit::Repository,
        Repository::OtherRepository { .. } => Exit::Repository,
        Repository::NoBackup(_) => Exit::NoTarget,
        Repository::ClusterName(_) => Exit::Configuration,
        Repository::Encode { .. } => Exit::Failed,
    }
}

fn of_store(error: &Store) -> Exit {
    match error {
        Store::NotFound { .. } | Store::Exists { .. } | Store::Changed { .. } => Exit::Repository,
        Store::Fenced { .. } => Exit::Repository,
        Store::Denied { .. } | Store::Full { .. } | Store::Unavailable { .. } => Exit::Repository,
        Store::Unauthorized { .. } | Store::Untrusted { .. } => Exit::Repository,
        Store::ReadOnly { .. } | Store::Unusable { .. } => Exit::Repository,
        Store::Corrupt { .. } => Exit::Damaged,
        Store::Locked { .. } | Store::Refused { .. } => Exit::Repository,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_class_has_its_code() {
        let text = || "x".to_owned();
        let io = || std::io::Error::other("x");
        let cases: Vec<(Failure, u8)> = vec![
            (Engine::Stopped.into(), 1),
            (Repository::ClusterName(text()).into(), 3),
            (Server::Unreachable { target: text(), source: io() }.into(), 4),
            (Server::Authentication { message: text() }.into(), 4),
            (Server::NotAuthorized { message: text(), user: text(), replication: true }.into(), 5),
            (Engine::WalNotArchived { reason: text() }.into(), 5),
            (Repository::OtherCluster { name: text(), what: "x", stored: text(), found: text() }.into(), 5),
            (Store::Full { action: "create", key: text(), source: io() }.into(), 6),
            (Store::Unauthorized { address: text() }.into(), 6),
            (Repository::UnknownFormat { key: text(), found: 9 }.into(), 6),
            (Repository::Damaged { key: text(), reason: text() }.into(), 7),
            (Repository::NoIdentity { key: text() }.into(), 3),
            (Repository::NoBackup(text()).into(), 8),
            (Engine::Unreachable { reason: text() }.into(), 8),
            (Engine::Destination { reason: text(), hint: text() }.into(), 9),
        ];
        for (failure, code) in cases {
            assert_eq!(failure.exit() as u8, code, "{failure:?}");
        }
    }
}
