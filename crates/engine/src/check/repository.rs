//! What the repository says.

use repository::wal::Hole;
use repository::{Cluster, Identity, Record};

use crate::Error;

/// What was seen of the repository.
#[derive(Debug, Default)]
pub(super) struct RepositorySeen {
    pub address: String,
    /// `None` when nothing of the cluster is there yet.
    pub identity: Option<Identity>,
    /// Whether it takes and gives what is written, or why not.
    pub probe: Option<(String, Option<String>)>,
    pub records: Vec<Record>,
    pub unreadable: Vec<String>,
    pub holes: Vec<Hole>,
    /// Gaps in the WAL that no hole explains, as text.
    pub gaps: Vec<String>,
}

pub(super) async fn look(cluster: &Cluster) -> Result<RepositorySeen, Error> {
    let mut seen = RepositorySeen { address: cluster.address(), ..RepositorySeen::default() };
    seen.identity = cluster.identity().await?;
    seen.probe = cluster.probe().await.err().map(|error| {
        let error = Error::from(error);
        (crate::chain(&error), error.hint())
    });
    let Some(identity) = &seen.identity else { return Ok(seen) };
    let coverage = cluster.coverage(identity.segment_size()).await?;
    for covered in coverage.timelines.values() {
        let gaps = covered.unexplained_gaps().into_iter();
        seen.gaps
            .extend(gaps.map(|gap| format!("timeline {} from {} to {}", covered.timeline, gap.from, gap.to)));
    }
    seen.holes = coverage.timelines.into_values().flat_map(|covered| covered.holes).collect();
    let backups = cluster.backups().await?;
    seen.unreadable = backups.unreadable.iter().map(|(id, error)| format!("{id}: {error}")).collect();
    seen.records = backups.records;
    Ok(seen)
}
