//! WAL that was removed on purpose. Between WAL that an old backup needs to be consistent and the WAL that is kept for
//! recovery there is then nothing, and that is no loss; while somebody removes, or after he died at it, there may be less than that.

use chrono::{DateTime, Utc};
use pgformat::{Lsn, SegmentSize, TimelineId};
use serde::{Deserialize, Serialize};

use super::{Hole, Range, WalObject};
use crate::{Cluster, Error, document, layout};

/// WAL that was removed, or is about to be, because no backup needs it any more.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Expired {
    /// The timeline.
    pub timeline: TimelineId,
    /// First byte.
    pub from: Lsn,
    /// First byte behind it.
    pub to: Lsn,
    /// When that was decided.
    pub at: DateTime<Utc>,
}

impl Cluster {
    /// Says durably that WAL is going to be removed. Only then may it be.
    pub async fn put_expired(&self, expired: &Expired) -> Result<(), Error> {
        let key = self.layout.expired(expired.timeline, expired.from, expired.to)?;
        match self.store.create(&key, document::seal("expired", expired)?.into()).await {
            // Decided before, by somebody who did not get to the end.
            Ok(()) | Err(store::Error::Exists { .. }) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// What was removed of a timeline on purpose. The names say it all.
    pub(super) async fn expired(&self, timeline: TimelineId) -> Result<Vec<Range>, Error> {
        let entries = self.store.list(&self.layout.all_expired(timeline)?).await?;
        let range = |name: &str| layout::parse_range(name, ".json").map(|(from, to)| Range { from, to });
        Ok(entries.iter().filter_map(|entry| range(entry.name())).collect())
    }

    /// Forgets that WAL was removed, where a longer stretch says so as well.
    pub async fn forget_expired(&self, timeline: TimelineId, range: Range) -> Result<(), Error> {
        Ok(self.store.delete(&self.layout.expired(timeline, range.from, range.to)?).await?)
    }

    /// Removes a segment or a piece.
    pub async fn remove_wal(&self, object: &WalObject, size: SegmentSize) -> Result<(), Error> {
        let key = match object.whole {
            true => self.layout.segment(object.name, size)?,
            false => self.layout.piece(object.name, size, object.range.from, object.range.to)?,
        };
        Ok(self.store.delete(&key).await?)
    }

    /// Forgets a hole that nothing which is kept lies before.
    pub async fn forget_hole(&self, hole: &Hole) -> Result<(), Error> {
        Ok(self.store.delete(&self.layout.hole(hole.timeline, hole.from, hole.to)?).await?)
    }
}
