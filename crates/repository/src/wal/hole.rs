//! Holes: WAL that is missing and cannot be had, recorded with its cause.

use chrono::{DateTime, Utc};
use pgformat::{Lsn, TimelineId};
use serde::{Deserialize, Serialize};

use crate::{Cluster, Error, document, layout};

/// WAL that is missing. No plan leads through it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hole {
    /// The timeline.
    pub timeline: TimelineId,
    /// First missing byte.
    pub from: Lsn,
    /// First byte that is there again.
    pub to: Lsn,
    /// Why, in a sentence.
    pub cause: String,
    /// When it was found.
    pub since: DateTime<Utc>,
}

impl Cluster {
    /// Records a hole durably, before any WAL behind it is archived.
    pub async fn put_hole(&self, hole: &Hole) -> Result<(), Error> {
        let key = self.layout.hole(hole.timeline, hole.from, hole.to)?;
        match self.store.create(&key, document::seal("hole", hole)?.into()).await {
            // Found again after a restart; the first time counts.
            Ok(()) | Err(store::Error::Exists { .. }) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// The holes of a timeline, in the order of their positions.
    pub async fn holes(&self, timeline: TimelineId) -> Result<Vec<Hole>, Error> {
        let mut holes = Vec::new();
        for entry in self.store.list(&self.layout.holes(timeline)?).await? {
            if let Some((from, to)) = layout::parse_range(entry.name(), ".json") {
                let key = self.layout.hole(timeline, from, to)?;
                holes.push(document::open::<Hole>("hole", &key, &self.store.read(&key, None).await?)?);
            }
        }
        Ok(holes)
    }
}
