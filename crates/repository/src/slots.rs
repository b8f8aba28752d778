//! On which nodes there are replication slots of ours. A node that leaves the cluster while nobody looks keeps WAL for a slot
//! that nobody moves, until its disk is full; whoever knows where slots are can remove them later.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use store::Version;

use crate::{Cluster, Error, document};

/// A replication slot of ours on a node.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct SlotAt {
    /// The node's host, or the directory of its socket.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// The slot's name.
    pub slot: String,
}

/// The slots as they were read. Whoever replaces them does so only if nobody else has meanwhile.
#[derive(Debug, Clone, Default)]
pub struct SlotsSeen {
    /// Where there are slots; none when that cannot be read.
    pub slots: BTreeSet<SlotAt>,
    version: Option<Version>,
}

#[derive(Serialize, Deserialize)]
struct SlotsDocument {
    slots: BTreeSet<SlotAt>,
}

impl Cluster {
    /// Where there are slots of ours, as far as anybody remembers.
    pub async fn slots(&self) -> Result<SlotsSeen, Error> {
        let key = self.layout.slots()?;
        let Some((bytes, version)) = self.store.read_version(&key).await? else {
            return Ok(SlotsSeen::default());
        };
        let found = document::open::<SlotsDocument>("slots", &key, &bytes).ok();
        Ok(SlotsSeen { slots: found.map(|found| found.slots).unwrap_or_default(), version: Some(version) })
    }

    /// Remembers where there are slots; `None` when somebody else has changed that since it was seen.
    pub async fn replace_slots(
        &self,
        seen: &SlotsSeen,
        slots: BTreeSet<SlotAt>,
    ) -> Result<Option<SlotsSeen>, Error> {
        let key = self.layout.slots()?;
        let document = SlotsDocument { slots };
        let body = document::seal("slots", &document)?;
        match self.store.replace(&key, seen.version.as_ref(), body.into()).await {
            Ok(version) => Ok(Some(SlotsSeen { slots: document.slots, version: Some(version) })),
            Err(store::Error::Changed { .. } | store::Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }
}
