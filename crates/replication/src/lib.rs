//! A client of PostgreSQL's replication protocol: physical streaming and base backups.
//!
//! `tokio-postgres` speaks SQL but has no replication mode, so this crate builds one on the messages of
//! `postgres-protocol`. It covers what a backup engine needs of a server and nothing else: find out which server this
//! is, keep a slot, stream WAL, follow a timeline to its end, and copy the data directory. [`sql`] lends the same
//! transport to `tokio-postgres` for the few questions that only SQL answers. Nothing here knows what becomes of the
//! bytes.
//!
//! Three habits run through it:
//!
//! - **A connection is owned by what it does.** [`Connection::start_replication`] and [`Connection::base_backup`] take
//!   the connection and give a [`WalStream`] or a [`BaseBackup`]; no command can be sent into the middle of a copy. A
//!   stream gives the connection back when its timeline ends, ready to go on with the next.
//! - **Errors are what a caller acts on.** [`Error`] tells a slot that is missing from one that is in use, WAL that was
//!   removed from WAL that another history never had. It goes by SQLSTATE and by what is not translated, so a server
//!   that speaks German is understood.
//! - **The server is not trusted with our memory.** Every message has a longest length, and no buffer grows before the
//!   bytes that fill it have arrived.
//!
//! A connection follows libpq in what `sslmode`, host names and the password file mean. Where we are stricter on
//! purpose the documentation of the option says so.
//!
//! ```no_run
//! use pgformat::Lsn;
//! use replication::{ConnectConfig, Connection, Error, StatusUpdate, StreamEvent};
//!
//! # async fn example() -> Result<(), Error> {
//! let config = ConnectConfig::new("db.example.org", "replicator");
//! let mut connection = Connection::connect(&config).await?;
//! let system = connection.identify_system().await?;
//! let mut stream = connection.start_replication(Some("drydock"), system.timeline, system.flushed).await?;
//! let mut durable = Lsn::INVALID;
//! loop {
//!     match stream.next().await? {
//!         StreamEvent::Wal { start, data, .. } => durable = start.advance(data.len() as u64), // once stored!
//!         StreamEvent::Keepalive { reply_requested: false, .. } => {}
//!         StreamEvent::Keepalive { .. } => {
//!             let status = StatusUpdate { written: durable, flushed: durable, ..StatusUpdate::default() };
//!             stream.send_status(status).await?;
//!         }
//!         StreamEvent::EndOfTimeline { next, connection } => {
//!             println!("history goes on at {next:?}");
//!             connection.close().await;
//!             return Ok(());
//!         }
//!     }
//! }
//! # }
//! ```

mod backup_message;
mod base_backup;
mod certificate;
mod config;
mod connection;
mod copy_both;
mod error;
mod frame;
mod passfile;
mod report;
mod row;
pub mod sql;
mod startup;
mod stream;
mod tls;
mod transport;
mod verifier;
mod wire;

pub use base_backup::{BackupEvent, BaseBackup, BaseBackupOptions, Tablespace};
pub use config::{ConnectConfig, Dialer, Host, ParseSslModeError, Secret, SslMode, Stream, Tls};
pub use connection::{Connection, HistoryFile, SlotState, System};
pub use copy_both::StatusUpdate;
pub use error::Error;
pub use sql::SqlClient;
pub use stream::{StreamEvent, WalStream};
pub use tls::check_key_permissions;
pub use tokio_postgres;
