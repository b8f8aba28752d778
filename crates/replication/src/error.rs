//! What can go wrong between us and a server. A variant exists because some caller acts on it.

use std::io;
use std::time::Duration;

/// A failed connection or command. No variant ever holds a password.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No connection could be made.
    #[error("cannot reach {target}")]
    Unreachable {
        /// The server.
        target: String,
        /// What the system said.
        source: io::Error,
    },

    /// A connection that stood is gone.
    #[error("lost the connection to {target}")]
    Lost {
        /// The server.
        target: String,
        /// What the system said.
        source: io::Error,
    },

    /// The server did not answer in time.
    #[error("{target} did not answer within {after:?}")]
    Timeout {
        /// The server.
        target: String,
        /// The limit that was reached.
        after: Duration,
    },

    /// No encrypted connection that the configuration accepts: certificates, host name, or a server without TLS.
    #[error("cannot encrypt the connection to {target}")]
    Tls {
        /// The server.
        target: String,
        /// Why.
        source: io::Error,
    },

    /// The password is wrong or missing, or the role does not exist (28P01, 28000).
    #[error("{message}")]
    Authentication {
        /// What the server or we have to say.
        message: String,
    },

    /// `pg_hba.conf` has no line that lets us in, or one that keeps us out.
    #[error("{message}")]
    NotAuthorized {
        /// The server's message, which names our address.
        message: String,
        /// The role we came as.
        user: String,
        /// Whether the connection was for replication.
        replication: bool,
    },

    /// The role may not do that: for replication it lacks `REPLICATION` (42501).
    #[error("{message}")]
    NotReplicationRole {
        /// The server's message.
        message: String,
    },

    /// There is no such slot (42704).
    #[error("{message}")]
    SlotMissing {
        /// The server's message, which names the slot.
        message: String,
    },

    /// Another connection uses the slot (55006).
    #[error("{message}")]
    SlotInUse {
        /// The server's message, which names the slot and the process that holds it.
        message: String,
    },

    /// A slot of that name exists (42710).
    #[error("{message}")]
    SlotExists {
        /// The server's message, which names the slot.
        message: String,
    },

    /// All of `max_replication_slots` are taken (53400).
    #[error("{message}")]
    NoFreeSlot {
        /// The server's message.
        message: String,
    },

    /// All of `max_wal_senders`, or all connections, are taken (53300).
    #[error("{message}")]
    NoFreeWalSender {
        /// The server's message, which says which of the two.
        message: String,
    },

    /// The server no longer has the WAL asked for (58P01).
    #[error("{message}")]
    WalRemoved {
        /// The server's message, which names the segment.
        message: String,
    },

    /// The slot exists, but the server gave up on keeping its WAL (55000).
    #[error("{message}")]
    SlotInvalidated {
        /// The server's message, which names the slot.
        message: String,
    },

    /// The server's history does not contain that timeline, or left it before the position asked for: our WAL
    /// and the server's have diverged.
    #[error("{message}")]
    NotInHistory {
        /// The server's message, with where its history forked.
        message: String,
    },

    /// The position asked for lies beyond the server's own WAL: a standby that is behind us, or a server that
    /// lost WAL which we have.
    #[error("{message}")]
    AheadOfServer {
        /// The server's message, with its own position.
        message: String,
    },

    /// The server is starting, stopping or recovering and takes no connections yet (57P03).
    #[error("{message}")]
    StartingUp {
        /// The server's message.
        message: String,
    },

    /// The server ended the connection because it stops, crashed, or was told to (57P01, 57P02).
    #[error("{message}")]
    Shutdown {
        /// The server's message.
        message: String,
    },

    /// Any other error of the server's.
    #[error("{severity}: {message} (SQLSTATE {code}){}", detail_suffix(.detail))]
    Server {
        /// `ERROR`, `FATAL` or `PANIC`, never translated.
        severity: String,
        /// The SQLSTATE.
        code: String,
        /// The primary message.
        message: String,
        /// More about it.
        detail: Option<String>,
        /// The server's own advice.
        hint: Option<String>,
    },

    /// Bytes or messages that PostgreSQL would not send, or a call that makes no sense now.
    #[error("{0}")]
    Protocol(String),
}

fn detail_suffix(detail: &Option<String>) -> String {
    detail.as_ref().map(|detail| format!(": {detail}")).unwrap_or_default()
}

impl Error {
    /// Whether the same call may succeed later with nobody's help.
    pub fn is_transient(&self) -> bool {
        match self {
            Error::Unreachable { .. } | Error::Lost { .. } | Error::Timeout { .. } => true,
            Error::StartingUp { .. } | Error::Shutdown { .. } => true,
            Error::SlotInUse { .. } | Error::NoFreeWalSender { .. } | Error::AheadOfServer { .. } => true,
            Error::Server { code, .. } => {
                ["08", "40", "53", "57"].iter().any(|class| code.starts_with(class))
            }
            _ => false,
        }
    }

    /// One sentence on what a person can do about it.
    pub fn hint(&self) -> Option<String> {
        let text = match self {
            Error::Unreachable { .. } => {
                "check that PostgreSQL runs there, that listen_addresses covers this address, and that no firewall \
                 is in between"
            }
            Error::Tls { .. } => "check sslmode, the root certificate and the server's ssl settings",
            Error::Authentication { .. } => {
                "check the password of the role, given directly or in the password file"
            }
            Error::NotAuthorized { message, user, replication } => {
                return Some(hba_hint(message, user, *replication));
            }
            Error::NotReplicationRole { .. } => "give the role the privilege: ALTER ROLE … REPLICATION",
            Error::SlotMissing { .. } => {
                "the slot was dropped or this node never had it; WAL written since may be gone, so check for a hole"
            }
            Error::SlotInUse { .. } => {
                "another process streams from the slot, perhaps an earlier run of this service whose connection the \
                 server still holds until wal_sender_timeout"
            }
            Error::NoFreeSlot { .. } => "raise max_replication_slots or drop a slot that nobody uses",
            // None at all is how a server with wal_level = minimal has to be started.
            Error::NoFreeWalSender { message } if message.contains("(currently 0)") => {
                "set wal_level = replica and max_wal_senders = 10 on the server, and restart it"
            }
            Error::NoFreeWalSender { .. } => "raise max_wal_senders and max_connections",
            Error::WalRemoved { .. } => {
                "take a new base backup at once; WAL between it and the last archived is lost"
            }
            Error::SlotInvalidated { .. } => {
                "drop the slot, create it again and take a base backup; raise max_slot_wal_keep_size"
            }
            Error::NotInHistory { .. } => {
                "this server's history does not contain our WAL; check which node is the real primary"
            }
            Error::Server { hint, .. } => return hint.clone(),
            _ => return None,
        };
        Some(text.to_owned())
    }
}

/// The line that `pg_hba.conf` lacks. The server saw our address, we only know it from its message.
fn hba_hint(message: &str, user: &str, replication: bool) -> String {
    let database = if replication { "replication" } else { "all" };
    let address =
        message.split_once("host \"").and_then(|(_, rest)| rest.split_once('"')).map(|(host, _)| host);
    let line = match address {
        None | Some("[local]") => format!("local {database} {user} scram-sha-256"),
        Some(host) if host.contains(':') => format!("host {database} {user} {host}/128 scram-sha-256"),
        Some(host) if host.parse::<std::net::Ipv4Addr>().is_ok() => {
            format!("host {database} {user} {host}/32 scram-sha-256")
        }
        Some(host) => format!("host {database} {user} {host} scram-sha-256"),
    };
    format!("add the line \"{line}\" to the server's pg_hba.conf and reload it")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stays_small() {
        assert!(size_of::<Error>() <= 128, "{}", size_of::<Error>());
    }

    #[test]
    fn the_missing_hba_line_is_spelled_out() {
        let hint = |message: &str, replication| {
            Error::NotAuthorized { message: message.to_owned(), user: "rep".to_owned(), replication }
                .hint()
                .unwrap()
        };
        let v4 = "no pg_hba.conf entry for replication connection from host \"10.0.0.7\", user \"rep\", no encryption";
        assert!(hint(v4, true).contains("\"host replication rep 10.0.0.7/32 scram-sha-256\""));
        let v6 = "no pg_hba.conf entry for host \"fe80::1\", user \"rep\", database \"x\"";
        assert!(hint(v6, false).contains("\"host all rep fe80::1/128 scram-sha-256\""));
        let local = "no pg_hba.conf entry for replication connection from host \"[local]\"";
        assert!(hint(local, true).contains("\"local replication rep scram-sha-256\""));
    }
}
