//! The crate `replication` against a real server: logging in, TLS, slots, streams, base backups.
//!
//! What no server at hand does is covered by the crate's own tests, with a server that plays a script.

mod backup;
mod login;
mod stream;
mod tls;

use std::time::Duration;

use e2e::{Postgres, ROLE};
use replication::{ConnectConfig, Connection, Error, Secret, SslMode};
use tokio::runtime::Runtime;

/// How to reach this server over TCP with the product's role.
fn config(server: &Postgres) -> ConnectConfig {
    let mut config = ConnectConfig::new("127.0.0.1", ROLE.0);
    config.port = server.port();
    config.password = Some(Secret::new(ROLE.1));
    config.database = Some("postgres".to_owned());
    config.tls.mode = SslMode::Disable;
    config
}

/// Runs a story's asynchronous part, within a limit.
#[track_caller]
fn run<T>(story: impl Future<Output = T>) -> T {
    let runtime = Runtime::new().expect("start tokio");
    let limited = runtime.block_on(async { tokio::time::timeout(Duration::from_secs(120), story).await });
    limited.expect("the story ends within two minutes")
}

/// Connects and asks the server who it is.
async fn greet(config: &ConnectConfig) -> Result<Connection, Error> {
    let mut connection = Connection::connect(config).await?;
    connection.identify_system().await?;
    Ok(connection)
}
