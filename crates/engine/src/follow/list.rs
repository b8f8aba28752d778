//! Which nodes there are: those that are configured, those that repmgr knows, and those that replicate from them.

use std::collections::BTreeSet;

use replication::sql::SqlClient;
use replication::{ConnectConfig, Host};
use serde::Serialize;

/// How a node came to be known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Origin {
    /// It is named in the configuration.
    Configured,
    /// repmgr's metadata names it.
    Repmgr,
    /// It replicates from one of the others.
    Replica,
}

/// A node and how to reach it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// `host:port`, as messages name it.
    pub name: String,
    /// For replication.
    pub connect: ConnectConfig,
    /// For SQL.
    pub sql: ConnectConfig,
    /// How it came to be known.
    pub origin: Origin,
    /// repmgr's; a node with none or 0 is never promoted by it.
    pub priority: Option<i32>,
}

/// What repmgr says of a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Registered {
    pub host: String,
    pub port: u16,
    pub priority: i32,
}

impl Node {
    /// A node that is configured.
    pub fn configured(connect: ConnectConfig, sql: ConnectConfig) -> Node {
        Node { name: connect.target(), connect, sql, origin: Origin::Configured, priority: None }
    }

    /// Another node that is reached as this one is, but elsewhere.
    pub(super) fn elsewhere(&self, host: &str, port: u16, origin: Origin) -> Node {
        let at = |config: &ConnectConfig| {
            let mut config = config.clone();
            (config.host, config.port) = (Host::parse(host), port);
            config
        };
        let (connect, sql) = (at(&self.connect), at(&self.sql));
        Node { name: connect.target(), connect, sql, origin, priority: None }
    }
}

/// Asks repmgr's metadata, which lies in a database of its own and is replicated like any other. Only the active nodes with
/// data count; a witness has none.
pub(super) async fn registered(client: &SqlClient) -> Result<Vec<Registered>, replication::Error> {
    let sql = "select conninfo, priority from repmgr.nodes where active and type in ('primary', 'standby')";
    let rows = client.query(sql, &[]).await?;
    let registered = rows.iter().filter_map(|row| {
        let (host, port) = host_and_port(row.get(0))?;
        Some(Registered { host, port, priority: row.get(1) })
    });
    Ok(registered.collect())
}

/// Host and port in a connection string of libpq's `keyword = value` form.
fn host_and_port(conninfo: &str) -> Option<(String, u16)> {
    let words = keywords(conninfo)?;
    let value = |name: &str| words.iter().rev().find(|(key, _)| key == name).map(|(_, value)| value.clone());
    let host = value("host").or_else(|| value("hostaddr"))?;
    let port = value("port").map_or(Some(5432), |port| port.parse().ok())?;
    Some((host, port))
}

/// Reads `keyword = value` pairs as libpq does: values may stand in single quotes, and a backslash takes the next character
/// as it is.
fn keywords(text: &str) -> Option<Vec<(String, String)>> {
    let mut found = Vec::new();
    let mut rest = text.trim_start();
    while !rest.is_empty() {
        let (key, after) = rest.split_once('=')?;
        let mut chars = after.trim_start().chars();
        let mut value = String::new();
        let quoted = chars.as_str().starts_with('\'');
        if quoted {
            chars.next();
        }
        loop {
            match chars.next() {
                Some('\\') => value.push(chars.next()?),
                Some('\'') if quoted => break,
                Some(c) if !quoted && c.is_whitespace() => break,
                Some(c) => value.push(c),
                None if quoted => return None,
                None => break,
            }
        }
        found.push((key.trim().to_owned(), value));
        rest = chars.as_str().trim_start();
    }
    Some(found)
}

/// The configured nodes, those that repmgr knows, and those that were seen to replicate; each once, by its name.
pub(super) fn merge(
    configured: &[Node],
    registered: &[Registered],
    replicas: &BTreeSet<(String, u16)>,
) -> Vec<Node> {
    let mut nodes = configured.to_vec();
    let Some(like) = configured.first() else { return nodes };
    for one in registered {
        let node = like.elsewhere(&one.host, one.port, Origin::Repmgr);
        match nodes.iter_mut().find(|known| known.name == node.name) {
            Some(known) => known.priority = Some(one.priority),
            None => nodes.push(Node { priority: Some(one.priority), ..node }),
        }
    }
    for (host, port) in replicas {
        let node = like.elsewhere(host, *port, Origin::Replica);
        if !nodes.iter().any(|known| known.name == node.name) {
            nodes.push(node);
        }
    }
    nodes
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn conninfo_is_read_as_libpq_reads_it() {
        let read = |text: &str| host_and_port(text);
        assert_eq!(
            read("user=r password=p host=pgslave1 dbname=d port=5433"),
            Some(("pgslave1".into(), 5433))
        );
        assert_eq!(read("host = 'a b' port='5434'"), Some(("a b".into(), 5434)));
        assert_eq!(read("password='it\\'s host=x' host=y"), Some(("y".into(), 5432)));
        assert_eq!(read("host=x host=y"), Some(("y".into(), 5432)), "the last one counts");
        assert_eq!(read("dbname=d"), None);
        assert_eq!(read("host='x"), None);
    }

    #[test]
    fn each_node_is_there_once() {
        let node =
            |host: &str| Node::configured(ConnectConfig::new(host, "r"), ConnectConfig::new(host, "s"));
        let registered = |host: &str, priority| Registered { host: host.into(), port: 5432, priority };
        let replicas = [("a".to_owned(), 5432), ("d".to_owned(), 5432)].into();
        let merged = merge(&[node("a"), node("b")], &[registered("b", 50), registered("c", 60)], &replicas);
        let found: Vec<_> =
            merged.iter().map(|node| (node.name.as_str(), node.origin, node.priority)).collect();
        let expected = [
            ("a:5432", Origin::Configured, None),
            ("b:5432", Origin::Configured, Some(50)),
            ("c:5432", Origin::Repmgr, Some(60)),
            ("d:5432", Origin::Replica, None),
        ];
        assert_eq!(found, expected);
        assert_eq!(merged[2].sql.user, "s");
    }

    proptest! {
        #[test]
        fn never_panics(text: String) {
            host_and_port(&text);
        }
    }
}
