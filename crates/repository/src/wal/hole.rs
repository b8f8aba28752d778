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

    /// The holes of a timeline, in the order of their positions. Of one whose document is damaged its name still says
    /// from where to where no restore leads, which must not be forgotten, nor archiving end because of it.
    pub async fn holes(&self, timeline: TimelineId) -> Result<Vec<Hole>, Error> {
        let mut holes = Vec::new();
        for entry in self.store.list(&self.layout.holes(timeline)?).await? {
            let Some((from, to)) = layout::parse_range(entry.name(), ".json") else { continue };
            match self.hole(timeline, from, to).await {
                Err(Error::Damaged { key, .. }) => holes.push(Hole {
                    timeline,
                    from,
                    to,
                    cause: format!("not known any more, as {key} is damaged"),
                    since: DateTime::UNIX_EPOCH,
                }),
                // Removed since it was listed.
                Err(error) if error.is_not_found() => {}
                hole => holes.push(hole?),
            }
        }
        Ok(holes)
    }

    /// What is recorded of one hole.
    pub async fn hole(&self, timeline: TimelineId, from: Lsn, to: Lsn) -> Result<Hole, Error> {
        let key = self.layout.hole(timeline, from, to)?;
        document::open("hole", &key, &self.store.read(&key, None).await?)
    }

    /// What names a hole's document in messages.
    pub fn hole_key(&self, hole: &Hole) -> Result<String, Error> {
        Ok(self.layout.hole(hole.timeline, hole.from, hole.to)?.to_string())
    }
}
