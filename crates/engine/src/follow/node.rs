//! One node: what it says of itself when it is asked, and the task that asks it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use pgformat::{History, Lsn, TimelineId};
use replication::sql::{self, SqlClient};
use replication::{Connection, tokio_postgres};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};

use super::list::Node;
use super::slot::SlotSeen;
use crate::Error;

/// How long a node may take to answer; then it counts as unreachable.
pub(super) const ANSWERS_WITHIN: Duration = Duration::from_secs(3);

/// What a node said of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Observation {
    /// Which server this is, whatever name it was reached by: its port and when it was started.
    pub instance: String,
    /// PostgreSQL's, of the cluster.
    pub system_identifier: u64,
    /// It is a standby.
    pub in_recovery: bool,
    /// The timeline it is on.
    pub timeline: TimelineId,
    /// The history of that timeline.
    pub history: Arc<History>,
    /// How far its WAL is flushed; on a standby, received or replayed.
    pub flushed: Lsn,
    /// From whom a standby streams, while it does and where the role may see it.
    pub upstream: Option<Upstream>,
    /// How many others stream from it, we apart.
    pub replicas: u32,
    /// Where those are.
    pub replica_hosts: Vec<String>,
    /// Our slot.
    pub slot: Option<SlotSeen>,
    /// Since when somebody of our name streams from it; `None` when nobody does.
    pub streams_to_us_since: Option<DateTime<Utc>>,
}

/// From whom a standby streams.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Upstream {
    /// The host, as the standby calls it.
    pub host: String,
    /// Its port.
    pub port: u16,
}

/// What is known of a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Seen {
    /// It has not answered yet, and there was time enough only now.
    NotYet,
    /// It cannot be reached, or does not let us in.
    Unreachable {
        /// Why.
        problem: String,
        /// It may pass by itself.
        transient: bool,
    },
    /// What it said last.
    Node(Observation),
}

impl Seen {
    /// What it said, if it did.
    pub fn observation(&self) -> Option<&Observation> {
        match self {
            Seen::Node(observation) => Some(observation),
            Seen::NotYet | Seen::Unreachable { .. } => None,
        }
    }
}

/// All in one question, so that the answers belong together. What only `pg_monitor` may see is null without it.
const QUESTION: &str = "select pg_is_in_recovery(), \
    (select system_identifier from pg_control_system()), \
    case when pg_is_in_recovery() \
      then (select greatest(coalesce((select received_tli from pg_stat_wal_receiver), 0), \
        (select min_recovery_end_timeline from pg_control_recovery()), \
        (select timeline_id from pg_control_checkpoint())))::bigint \
      else ('x' || substr(pg_walfile_name(pg_current_wal_flush_lsn()), 1, 8))::bit(32)::bigint end, \
    (case when pg_is_in_recovery() \
      then greatest(pg_last_wal_receive_lsn(), pg_last_wal_replay_lsn()) \
      else pg_current_wal_flush_lsn() end)::text, \
    r.sender_host, r.sender_port, \
    (select count(*) from pg_stat_replication where state = 'streaming' and application_name <> $1), \
    (select coalesce(array_agg(distinct host(client_addr)), '{}') from pg_stat_replication \
      where state = 'streaming' and application_name <> $1 and client_addr is not null), \
    (select extract(epoch from min(backend_start))::float8 from pg_stat_replication \
      where state = 'streaming' and application_name = $1), \
    current_setting('port') || ' ' || extract(epoch from pg_postmaster_start_time())::text, \
    s.slot_name is not null, s.active, s.restart_lsn::text, s.wal_status, s.safe_wal_size, \
    (select count(*) from pg_replication_slots), current_setting('max_replication_slots')::bigint \
  from (values (1)) one \
    left join (select sender_host, sender_port from pg_stat_wal_receiver where status = 'streaming' limit 1) r on true \
    left join pg_replication_slots s on s.slot_name = $2";

/// Asks one node, and keeps the connection for the next time.
pub(super) struct Prober {
    node: Node,
    slot: Option<String>,
    client: Option<SqlClient>,
    history: Arc<History>,
}

impl Prober {
    pub fn new(node: Node, slot: Option<String>) -> Prober {
        Prober { node, slot, client: None, history: Arc::new(History::first()) }
    }

    /// Asks. Whatever goes wrong, the next time begins with a new connection.
    pub async fn look(&mut self) -> Seen {
        let begun = Instant::now();
        match timeout(ANSWERS_WITHIN, self.ask()).await {
            Ok(Ok(observation)) => Seen::Node(observation),
            Ok(Err(error)) => {
                self.client = None;
                let (problem, transient) = (crate::chain(&error), error.is_transient());
                Seen::Unreachable { problem, transient }
            }
            Err(_elapsed) => {
                self.client = None;
                let problem = format!("it did not answer within {} s", begun.elapsed().as_secs());
                Seen::Unreachable { problem, transient: true }
            }
        }
    }

    /// The connection that was used last.
    pub fn client(&self) -> Option<&SqlClient> {
        self.client.as_ref()
    }

    async fn ask(&mut self) -> Result<Observation, Error> {
        let client = match self.client.take() {
            Some(client) => client,
            None => sql::connect(&self.node.sql).await?,
        };
        let (application, slot) =
            (&self.node.connect.application_name, self.slot.as_deref().unwrap_or_default());
        let row = client.query_one(QUESTION, &[application, &slot]).await?;
        let mut observation = read(&row, self.history.clone()).ok_or_else(|| Error::Unsuitable {
            reason: format!("{} gives answers that no PostgreSQL gives", self.node.name),
            hint: "see that the address is that of a PostgreSQL server".to_owned(),
        })?;
        if observation.timeline != self.history.timeline {
            self.history = Arc::new(self.history_of(observation.timeline).await?);
            observation.history = self.history.clone();
        }
        self.client = Some(client);
        Ok(observation)
    }

    /// Asked for only when the node has come to another timeline, as only a walsender tells it.
    async fn history_of(&self, timeline: TimelineId) -> Result<History, Error> {
        if timeline == TimelineId::FIRST {
            return Ok(History::first());
        }
        let mut connection = Connection::connect(&self.node.connect).await?;
        let file = connection.timeline_history(timeline).await?;
        connection.close().await;
        History::parse(timeline, &file.content).map_err(|error| Error::Unsuitable {
            reason: format!("{} has a damaged {}: {error}", self.node.name, file.name),
            hint: "restore the file on the server from another node of the cluster".to_owned(),
        })
    }
}

fn read(row: &tokio_postgres::Row, history: Arc<History>) -> Option<Observation> {
    let text = |index: usize| row.get::<_, Option<String>>(index);
    let timeline = u32::try_from(row.get::<_, i64>(2)).ok().and_then(TimelineId::new)?;
    let port = row.get::<_, Option<i32>>(5).and_then(|port| u16::try_from(port).ok());
    let has_slot: bool = row.get(10);
    let slots = (row.get::<_, i64>(15), row.get::<_, i64>(16));
    Some(Observation {
        in_recovery: row.get(0),
        // PostgreSQL shows the unsigned number as a signed one.
        system_identifier: row.get::<_, i64>(1).cast_unsigned(),
        timeline,
        history,
        flushed: text(3)?.parse().ok()?,
        upstream: text(4).zip(port).map(|(host, port)| Upstream { host, port }),
        replicas: u32::try_from(row.get::<_, i64>(6)).ok()?,
        replica_hosts: row.get(7),
        streams_to_us_since: row.get::<_, Option<f64>>(8).and_then(from_epoch),
        instance: text(9)?,
        slot: Some(SlotSeen {
            exists: has_slot,
            active: row.get::<_, Option<bool>>(11).unwrap_or(false),
            restart_lsn: text(12).and_then(|lsn| lsn.parse().ok()),
            wal_status: text(13),
            safe_wal_size: row.get(14),
            has_room: slots.0 < slots.1,
        }),
    })
}

/// Seconds since 1970, to the microsecond.
fn from_epoch(seconds: f64) -> Option<DateTime<Utc>> {
    let since = Duration::try_from_secs_f64(seconds).ok()?;
    DateTime::from_timestamp_micros(i64::try_from(since.as_micros()).ok()?)
}

/// Asks all nodes at once, each once.
pub async fn look_at_all(nodes: &[Node], slot: Option<&str>) -> BTreeMap<String, Seen> {
    let mut asking = JoinSet::new();
    for node in nodes {
        let mut prober = Prober::new(node.clone(), slot.map(str::to_owned));
        asking.spawn(async move { (prober.node.name.clone(), prober.look().await) });
    }
    let mut seen: BTreeMap<_, _> = nodes.iter().map(|node| (node.name.clone(), Seen::NotYet)).collect();
    while let Some(answer) = asking.join_next().await {
        seen.extend(answer.ok());
    }
    seen
}
