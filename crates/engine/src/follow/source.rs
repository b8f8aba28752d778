//! Which node a backup copies.

use std::str::FromStr;

use super::choose::{Role, Verdict, View, choose};
use super::list::Node;
use super::node::Observation;

/// Which of several nodes a backup copies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum BackupSource {
    /// The primary.
    #[default]
    Primary,
    /// A standby where there is a suitable one, or else the primary.
    PreferStandby,
    /// A standby, or nobody.
    Standby,
}

impl FromStr for BackupSource {
    type Err = ();

    fn from_str(text: &str) -> Result<BackupSource, ()> {
        match text {
            "primary" => Ok(BackupSource::Primary),
            "prefer-standby" => Ok(BackupSource::PreferStandby),
            "standby" => Ok(BackupSource::Standby),
            _ => Err(()),
        }
    }
}

/// WAL that a standby may be behind with and still be copied. Its backup begins at its last restartpoint, so the further it is
/// behind, the more has to be replayed.
const LAG_BYTES_MAX: u64 = 256 << 20;

/// Chooses the node to copy, or says why there is none. Of several standbys: one that streams from the primary itself, as a
/// cascade may vanish with the node above it; one that nobody streams from; one that is not meant to become the primary;
/// the one that is least behind.
pub fn source_of_backup(view: &View, nodes: &[Node], source: BackupSource) -> Result<String, String> {
    let choice = choose(view);
    let primary = match &choice.verdict {
        Verdict::Stream { node, role: Role::Primary, .. } => Some(node.as_str()),
        Verdict::Stream { .. } | Verdict::Wait { .. } => None,
    };
    let standby = best_standby(view, nodes, primary);
    let chosen = match source {
        BackupSource::Primary => primary,
        BackupSource::PreferStandby => standby.or(primary),
        BackupSource::Standby => standby,
    };
    chosen.map(str::to_owned).ok_or_else(|| {
        let said =
            choice.passed_over.iter().map(|(name, reason)| format!("{name} {reason}")).collect::<Vec<_>>();
        let wanted = if source == BackupSource::Standby { "standby" } else { "primary" };
        format!("there is no {wanted} that a backup could be taken from: {}", said.join("; "))
    })
}

fn best_standby<'a>(view: &View<'a>, nodes: &[Node], primary: Option<&str>) -> Option<&'a str> {
    let of_primary = view.nodes.get(primary?)?.observation()?;
    let at_primary = nodes.iter().find(|node| Some(node.name.as_str()) == primary)?;
    let suitable = |node: &Observation| {
        node.in_recovery
            && node.system_identifier == of_primary.system_identifier
            && node.timeline == of_primary.timeline
            && node.upstream.is_some()
            && of_primary.flushed.since(node.flushed) <= LAG_BYTES_MAX
    };
    let rank = |name: &str, node: &Observation| {
        let upstream = node.upstream.as_ref().map(|upstream| (upstream.host.clone(), upstream.port));
        let cascades = upstream.is_none_or(|(host, port)| {
            at_primary.elsewhere(&host, port, at_primary.origin).name != at_primary.name
        });
        let priority =
            nodes.iter().find(|node| node.name == name).and_then(|node| node.priority).unwrap_or(0);
        (cascades, node.replicas, priority, of_primary.flushed.since(node.flushed))
    };
    let observed = view.nodes.iter().filter_map(|(name, seen)| Some((name.as_str(), seen.observation()?)));
    observed
        .filter(|(_, node)| suitable(node))
        .min_by_key(|(name, node)| rank(name, node))
        .map(|(name, _)| name)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::time::Duration;

    use pgformat::{Lsn, SegmentSize};
    use replication::ConnectConfig;

    use super::super::choose::tests::node;
    use super::super::node::{Seen, Upstream};
    use super::*;

    fn standby(upstream: &str, flushed: u64, replicas: u32) -> Observation {
        let upstream = Some(Upstream { host: upstream.to_owned(), port: 5432 });
        Observation {
            instance: format!("{upstream:?}{flushed}{replicas}"),
            upstream,
            replicas,
            ..node(1, &[], flushed)
        }
    }

    fn choose_from(nodes: &[(&str, Observation)], source: BackupSource) -> Result<String, String> {
        let seen: BTreeMap<String, Seen> =
            nodes.iter().map(|(name, node)| (format!("{name}:5432"), Seen::Node(node.clone()))).collect();
        let list: Vec<Node> = nodes
            .iter()
            .map(|(name, _)| Node::configured(ConnectConfig::new(*name, "r"), ConnectConfig::new(*name, "r")))
            .collect();
        let view = View {
            nodes: &seen,
            identity: Some(7),
            known: None,
            history: None,
            segment_size: SegmentSize::DEFAULT,
            current: None,
            lacking: &BTreeMap::new(),
            without_primary: Duration::ZERO,
        };
        source_of_backup(&view, &list, source).map(|name| name.trim_end_matches(":5432").to_owned())
    }

    #[test]
    fn the_least_needed_standby_is_copied() {
        let primary =
            Observation { in_recovery: false, flushed: Lsn(1000), instance: "p".into(), ..node(1, &[], 0) };
        let all = [
            ("p", primary.clone()),
            ("busy", standby("p", 1000, 1)),
            ("cascade", standby("busy", 1000, 0)),
            ("behind", standby("p", 900, 0)),
            ("near", standby("p", 990, 0)),
        ];
        assert_eq!(choose_from(&all, BackupSource::Primary).unwrap(), "p");
        assert_eq!(choose_from(&all, BackupSource::PreferStandby).unwrap(), "near");
        assert_eq!(choose_from(&all[..3], BackupSource::Standby).unwrap(), "busy");
        assert_eq!(choose_from(&all[..1], BackupSource::PreferStandby).unwrap(), "p");
        assert!(choose_from(&all[..1], BackupSource::Standby).unwrap_err().contains("no standby"));
        assert!(choose_from(&all[1..], BackupSource::Primary).unwrap_err().contains("no primary"));
    }
}
