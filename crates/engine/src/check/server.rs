//! What the server says.

use std::collections::BTreeMap;

use pgformat::Lsn;
use replication::sql::{self, SqlClient};
use replication::{ConnectConfig, SlotState};

use super::Request;
use crate::Error;
use crate::server::Server;

/// An error as it is shown: what, and what to do.
pub(super) type Trouble = (String, Option<String>);

/// What was seen of the server.
#[derive(Debug)]
pub(super) struct ServerSeen {
    /// Over replication, or why not.
    pub replication: Result<ReplicationSeen, Trouble>,
    /// Over SQL, or why not.
    pub sql: Result<SqlSeen, Trouble>,
}

/// What the replication protocol says.
#[derive(Debug, Clone)]
pub(super) struct ReplicationSeen {
    pub server: Server,
    pub slot: SlotState,
}

/// What SQL says.
#[derive(Debug, Clone, Default)]
pub(super) struct SqlSeen {
    /// Settings by name; those with a unit in that unit.
    pub settings: BTreeMap<String, String>,
    pub in_recovery: bool,
    pub replication_role: bool,
    pub superuser: bool,
    pub pg_monitor: bool,
    pub slots: Vec<SlotSeen>,
    /// Walsenders in use; the one that asks for replication has ended by then.
    pub walsenders: i64,
    /// How commits treat us: `sync`, `quorum`, `potential`, `async`; `None` when we do not stream.
    pub sync_state: Option<String>,
}

/// A slot.
#[derive(Debug, Clone, Default)]
pub(super) struct SlotSeen {
    pub name: String,
    pub physical: bool,
    pub active: bool,
    pub restart_lsn: Option<Lsn>,
    pub wal_status: Option<String>,
    pub safe_wal_size: Option<i64>,
    pub retained_bytes: Option<i64>,
}

/// The settings that are looked at. All of them are readable by everybody.
const SETTINGS: [&str; 12] = [
    "wal_level",
    "max_wal_senders",
    "max_replication_slots",
    "max_slot_wal_keep_size",
    "wal_keep_size",
    "full_page_writes",
    "data_checksums",
    "wal_sender_timeout",
    "synchronous_standby_names",
    "synchronous_commit",
    "fsync",
    "max_connections",
];

pub(super) async fn look(request: &Request<'_>) -> ServerSeen {
    let trouble = |error: Error| (crate::chain(&error), error.hint());
    let replication = look_by_replication(request.connect, request.slot).await.map_err(trouble);
    let sql = look_by_sql(request).await.map_err(|error| trouble(error.into()));
    ServerSeen { replication, sql }
}

async fn look_by_replication(connect: &ConnectConfig, slot: &str) -> Result<ReplicationSeen, Error> {
    let (mut connection, server) = Server::connect(connect).await?;
    let slot = connection.read_slot(slot).await?;
    connection.close().await;
    Ok(ReplicationSeen { server, slot })
}

async fn look_by_sql(request: &Request<'_>) -> Result<SqlSeen, replication::Error> {
    let client = sql::connect(request.sql).await?;
    let mut seen = SqlSeen { settings: settings(&client).await?, ..SqlSeen::default() };
    let role = client
        .query_opt(
            "select r.rolreplication, r.rolsuper, pg_has_role(r.oid, 'pg_monitor', 'member') \
             from pg_roles r where r.rolname = $1",
            &[&request.connect.user],
        )
        .await?;
    if let Some(role) = role {
        (seen.replication_role, seen.superuser, seen.pg_monitor) = (role.get(0), role.get(1), role.get(2));
    }
    seen.in_recovery = client.query_one("select pg_is_in_recovery()", &[]).await?.get(0);
    seen.slots = slots(&client).await?;
    seen.walsenders = client.query_one("select count(*) from pg_stat_replication", &[]).await?.get(0);
    let state = client
        .query_opt(
            "select sync_state from pg_stat_replication where application_name = $1 order by sync_state desc limit 1",
            &[&request.connect.application_name],
        )
        .await?;
    seen.sync_state = state.and_then(|row| row.get(0));
    Ok(seen)
}

async fn settings(client: &SqlClient) -> Result<BTreeMap<String, String>, replication::Error> {
    let names: Vec<&str> = SETTINGS.to_vec();
    let rows = client.query("select name, setting from pg_settings where name = any($1)", &[&names]).await?;
    Ok(rows.iter().map(|row| (row.get(0), row.get(1))).collect())
}

async fn slots(client: &SqlClient) -> Result<Vec<SlotSeen>, replication::Error> {
    let rows = client
        .query(
            "select slot_name::text, slot_type = 'physical', active, restart_lsn::text, wal_status::text, safe_wal_size, \
               pg_wal_lsn_diff(case when pg_is_in_recovery() then pg_last_wal_receive_lsn() \
                 else pg_current_wal_lsn() end, restart_lsn)::bigint \
             from pg_replication_slots",
            &[],
        )
        .await?;
    let slot = |row: &replication::tokio_postgres::Row| SlotSeen {
        name: row.get(0),
        physical: row.get(1),
        active: row.get(2),
        restart_lsn: row.get::<_, Option<String>>(3).and_then(|lsn| lsn.parse().ok()),
        wal_status: row.get(4),
        safe_wal_size: row.get(5),
        retained_bytes: row.get(6),
    };
    Ok(rows.iter().map(slot).collect())
}
