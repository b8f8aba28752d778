//! Whether commits wait for us, which may change at any time by a reload of the server's configuration.

use std::sync::Arc;
use std::time::Duration;

use replication::ConnectConfig;
use replication::sql::{self, SqlClient};
use tokio::sync::{Notify, watch};

/// Time between two looks at least. WAL brings about a look, so that an idle service does nothing.
const INTERVAL: Duration = Duration::from_millis(250);
/// Time to the next try where SQL is refused; the role may not be let in by pg_hba.conf, which is allowed.
const REFUSED_INTERVAL: Duration = Duration::from_secs(60);

const QUESTION: &str = "select exists (select from pg_stat_replication \
     where application_name = $1 and sync_state in ('sync', 'quorum', 'potential'))";

/// Keeps `synchronous` true to the server while it is polled. It starts as the server's settings had it at the
/// beginning of the session; where SQL is not possible it stays that.
pub(super) async fn watch(config: ConnectConfig, synchronous: watch::Sender<bool>, wal_came: Arc<Notify>) {
    let mut told = false;
    loop {
        match look_until_it_fails(&config, &synchronous, &wal_came).await {
            // A server that went away ends the session too, which says so.
            Err(error) if !told && !error.is_transient() => {
                told = true;
                tracing::info!(
                    "cannot look at pg_stat_replication, so a change of synchronous_standby_names is noticed only when streaming starts again: {error}"
                );
            }
            _ => {}
        }
        tokio::time::sleep(REFUSED_INTERVAL).await;
    }
}

async fn look_until_it_fails(
    config: &ConnectConfig,
    synchronous: &watch::Sender<bool>,
    wal_came: &Notify,
) -> Result<(), replication::Error> {
    let client = sql::connect(config).await?;
    loop {
        wal_came.notified().await;
        let now = look(&client, &config.application_name).await?;
        synchronous.send_if_modified(|before| std::mem::replace(before, now) != now);
        tokio::time::sleep(INTERVAL).await;
    }
}

async fn look(client: &SqlClient, application_name: &str) -> Result<bool, replication::Error> {
    let row = client.query_one(QUESTION, &[&application_name]).await?;
    Ok(row.get(0))
}
