//! The last resort before a hole: a node that does not stream to us may still have the WAL in its `pg_wal`, and lets us read it
//! there over SQL (`pg_read_binary_file`, which a role has to be allowed). All of its walsenders may be taken, or its
//! `pg_hba.conf` may let nobody replicate.
//!
//! Only whole segments are taken, and like those of a stream they have to be the WAL that they should be.

use std::time::Duration;

use pgformat::wal::Expect;
use pgformat::{Lsn, SegmentName};
use replication::ConnectConfig;
use replication::sql::{self, SqlClient};
use repository::Cluster;
use repository::wal::{Durable, KnownWal, WalStream};
use tokio::time::timeout;

use super::assemble::{Assembler, Refused};
use crate::Error;
use crate::server::Server;

/// How long a node may take to let us in, or to read that much. Archiving waits meanwhile.
const ANSWERS_WITHIN: Duration = Duration::from_secs(30);
/// Bytes that one statement reads.
const READ_BYTES: usize = 1 << 20;

/// A stretch of WAL that nobody streams any more.
pub(super) struct Lost<'a> {
    /// The server that does not have it, and whose history it is part of.
    pub server: &'a Server,
    /// Where it begins: the end of what is durable.
    pub durable: Durable,
    /// Where it ends.
    pub to: Lsn,
}

/// Stores what any of the nodes has of it, from its beginning on; whether that was anything.
pub(super) async fn from_pg_wal(
    cluster: &Cluster,
    lost: &Lost<'_>,
    nodes: &[ConnectConfig],
) -> Result<bool, Error> {
    for node in nodes {
        match read_from(cluster, lost, node).await? {
            Ok(0) => {}
            Ok(segments) => {
                tracing::warn!(
                    node = node.target(), timeline = %lost.durable.timeline(), from = %lost.durable.lsn(), segments,
                    "nobody streams this WAL any more; it was read from a node's pg_wal over SQL"
                );
                return Ok(true);
            }
            Err(problem) => {
                tracing::info!(node = node.target(), "the node's pg_wal does not help: {problem}");
            }
        }
    }
    Ok(false)
}

/// How many segments were stored, or why none could be had. What goes wrong with the repository is an error.
async fn read_from(
    cluster: &Cluster,
    lost: &Lost<'_>,
    node: &ConnectConfig,
) -> Result<Result<usize, String>, Error> {
    let client = match in_time(connect(node, lost.server.system_identifier)).await {
        Ok(client) => client,
        Err(problem) => return Ok(Err(problem)),
    };
    let (size, timeline) = (lost.server.segment_size, lost.durable.timeline());
    let system_identifier = lost.server.system_identifier;
    let expect = Expect { system_identifier, timeline, major: lost.server.major, segment_size: size };
    let stream = WalStream { system_identifier, timeline, segment_size: size };
    let mut name = SegmentName::containing(timeline, lost.durable.lsn(), size);
    let known = match cluster.known_pieces(name, size).await {
        Err(error) if error.is_damage() => KnownWal::Plain(Vec::new()),
        known => known?,
    };
    let mut assembler = Assembler::new(expect, size.floor(lost.durable.lsn()), known);
    let mut durable = lost.durable.lsn();
    let mut stored = 0;
    while name.end(size) <= lost.to {
        let chunk = match segment(&client, &name.file_name(size), &mut assembler).await {
            Ok(chunk) => chunk,
            Err(problem) if stored == 0 => return Ok(Err(problem)),
            Err(_no_more) => break,
        };
        let wal = cluster.encode_segment(&stream, chunk.with_durable(durable)).await?;
        cluster.put_wal(&wal).await?;
        stored += 1;
        durable = name.end(size);
        name = SegmentName::containing(timeline, durable, size);
    }
    Ok(Ok(stored))
}

async fn in_time<T>(answer: impl Future<Output = Result<T, String>>) -> Result<T, String> {
    let late = |_elapsed| Err(format!("it did not answer within {} s", ANSWERS_WITHIN.as_secs()));
    timeout(ANSWERS_WITHIN, answer).await.unwrap_or_else(late)
}

async fn connect(node: &ConnectConfig, system_identifier: u64) -> Result<SqlClient, String> {
    let client = sql::connect(node).await.map_err(|error| error.to_string())?;
    let row = client.query_one("select system_identifier from pg_control_system()", &[]).await;
    let found: i64 = row.map_err(|error| error.to_string())?.get(0);
    if found.cast_unsigned() == system_identifier {
        Ok(client)
    } else {
        Err("it is another cluster's".to_owned())
    }
}

/// Reads one segment, which has to be there as a whole.
async fn segment(
    client: &SqlClient,
    file: &str,
    assembler: &mut Assembler,
) -> Result<super::assemble::Chunk, String> {
    let sql = "select pg_read_binary_file('pg_wal/' || $1::text, $2, $3, true)";
    let start = assembler.segment_start();
    loop {
        let from = assembler.received();
        let (offset, length) = (i64::try_from(from.since(start)), i64::try_from(READ_BYTES));
        let (Ok(offset), Ok(length)) = (offset, length) else { return Err("it is too long".to_owned()) };
        let read = async {
            let row = client.query_one(sql, &[&file, &offset, &length]).await;
            row.map_err(|error| error.to_string())
        };
        let row = in_time(read).await?;
        let Some(bytes) = row.get::<_, Option<Vec<u8>>>(0).filter(|bytes| !bytes.is_empty()) else {
            return Err(format!("{file} is not there"));
        };
        let whole = assembler.push(from, &bytes).map_err(|refused| refusal(file, &refused))?;
        if let Some(chunk) = whole.into_iter().next() {
            return Ok(chunk);
        }
    }
}

fn refusal(file: &str, refused: &Refused) -> String {
    match refused {
        Refused::Bad(error) => format!("{file} is not the WAL it should be: {error}"),
        Refused::Differs(lsn) => format!("{file} differs from what is archived, from {lsn} on"),
        Refused::Ended(lsn) => format!("{file} ends at {lsn}"),
        Refused::Gap { expected, found } => format!("{file} goes on at {found} instead of {expected}"),
    }
}
