//! Packs and WAL objects: which there are, which of them an earlier verification has read, and which to read now.

use std::collections::{BTreeMap, BTreeSet};

use pgformat::SegmentSize;
use repository::codec::Checksum;
use repository::ledger::{Ledger, LedgerName, Verified};
use repository::pack::PackName;
use repository::record::PackUse;
use repository::wal::WalObject;
use repository::{BackupId, Cluster};

use super::Reading;
use super::notes::{About, Notes};
use crate::catalog::Catalog;
use crate::{Clock, Error};

/// A pack or a WAL object that is there.
#[derive(Debug, Clone)]
pub(super) struct Unit<'a> {
    pub(super) what: What<'a>,
    /// When an earlier verification read it, in seconds since 1970.
    pub(super) read_at: Option<u64>,
    /// Read it now.
    pub(super) chosen: bool,
}

#[derive(Debug, Clone)]
pub(super) enum What<'a> {
    Pack(&'a PackUse),
    Wal(WalObject),
}

/// Units that one document of the ledger knows.
pub(super) struct Group<'a> {
    pub(super) name: LedgerName,
    pub(super) units: Vec<Unit<'a>>,
}

/// All units, by the ledger's documents.
pub(super) struct Units<'a> {
    pub(super) groups: Vec<Group<'a>>,
    pub(super) segment_size: SegmentSize,
}

impl Unit<'_> {
    pub(super) fn size(&self) -> u64 {
        match &self.what {
            What::Pack(pack) => pack.size,
            What::Wal(object) => object.stored_bytes,
        }
    }

    /// What its stored bytes must be, where the repository says it.
    fn expected(&self) -> Option<Checksum> {
        match &self.what {
            What::Pack(pack) => Some(pack.sha256),
            What::Wal(_) => None,
        }
    }

    pub(super) fn ledger_name(&self, size: SegmentSize) -> String {
        match &self.what {
            What::Pack(pack) => pack.pack.number.to_string(),
            What::Wal(object) => object.ledger_name(size),
        }
    }

    /// When it was read, if what was read then is what should be there now.
    fn known(&self, ledger: &Ledger, size: SegmentSize) -> Option<u64> {
        let verified = ledger.objects.get(&self.ledger_name(size))?;
        let same = verified.size == self.size()
            && self.expected().is_none_or(|expected| expected == verified.sha256);
        (same && verified.at != 0).then_some(verified.at)
    }
}

/// Lists what is there, and reports packs that are not or have another size.
pub(super) async fn list<'a>(
    cluster: &Cluster,
    catalog: &'a Catalog,
    notes: &mut Notes<'_>,
) -> Result<Units<'a>, Error> {
    let mut groups = packs(cluster, catalog, notes).await?;
    let segment_size = catalog.segment_size();
    for timeline in catalog.coverage.timelines.keys() {
        for object in cluster.wal_objects(*timeline, segment_size).await? {
            let name = LedgerName::of_wal(&object, segment_size);
            let unit = Unit { what: What::Wal(object), read_at: None, chosen: false };
            match groups.last_mut() {
                Some(group) if group.name == name => group.units.push(unit),
                _ => groups.push(Group { name, units: vec![unit] }),
            }
        }
    }
    Ok(Units { groups, segment_size })
}

/// Every pack once, whoever uses it.
async fn packs<'a>(
    cluster: &Cluster,
    catalog: &'a Catalog,
    notes: &mut Notes<'_>,
) -> Result<Vec<Group<'a>>, Error> {
    let uses = catalog.backups.records.iter().flat_map(|record| &record.packs);
    let mut writers: BTreeMap<&BackupId, BTreeMap<&PackName, &PackUse>> = BTreeMap::new();
    for pack in uses {
        writers.entry(&pack.pack.backup).or_default().insert(&pack.pack, pack);
    }
    let mut groups = Vec::new();
    for (writer, packs) in writers {
        let sizes: BTreeMap<u32, u64> = cluster.pack_sizes(writer).await?.into_iter().collect();
        let mut units = Vec::new();
        for (name, pack) in packs {
            let fault = match sizes.get(&name.number) {
                Some(size) if *size == pack.size => None,
                Some(size) => Some(format!("it has {size} bytes, not {}", pack.size)),
                None => Some("it is missing".to_owned()),
            };
            match fault {
                None => units.push(Unit { what: What::Pack(pack), read_at: None, chosen: false }),
                Some(what) => notes.find(cluster.pack_key(name)?, what, users(catalog, name)),
            }
        }
        groups.push(Group { name: LedgerName::Packs(writer.clone()), units });
    }
    Ok(groups)
}

/// The backups that need a pack.
pub(super) fn users(catalog: &Catalog, name: &PackName) -> About {
    let uses = |record: &&repository::Record| record.packs.iter().any(|pack| pack.pack == *name);
    About::Backups(catalog.backups.records.iter().filter(uses).map(|record| record.id.clone()).collect())
}

/// Decides what is read, and forgets what the ledger knows of objects that are not there any more.
pub(super) async fn choose(
    cluster: &Cluster,
    units: &mut Units<'_>,
    reading: Reading,
    notes: &mut Notes<'_>,
) -> Result<(), Error> {
    let size = units.segment_size;
    for group in &mut units.groups {
        let ledger = ledger(cluster, &group.name).await?;
        group.units.iter_mut().for_each(|unit| unit.read_at = unit.known(&ledger, size));
    }
    let mut all: Vec<&mut Unit> = units.groups.iter_mut().flat_map(|group| &mut group.units).collect();
    decide(&mut all, reading);
    for unit in &all {
        match (unit.chosen, unit.read_at) {
            (true, _) => notes.expect(unit.size()),
            (false, read_at) => {
                notes.looked_at(unit.size());
                let Some(at) = read_at else { continue };
                notes.report.remembered.objects += 1;
                notes.report.remembered.bytes += unit.size();
                let at = i64::try_from(at).ok().and_then(|at| chrono::DateTime::from_timestamp(at, 0));
                let since = &mut notes.report.remembered_since;
                *since = (*since).into_iter().chain(at).min();
            }
        }
    }
    if reading != Reading::Nothing {
        let there: BTreeSet<&LedgerName> = units.groups.iter().map(|group| &group.name).collect();
        for name in cluster.ledgers().await?.iter().filter(|name| !there.contains(name)) {
            if let Err(error) = cluster.delete_ledger(name).await {
                tracing::debug!("cannot forget {name:?}: {error}");
            }
        }
    }
    Ok(())
}

/// All that is new, and of what is old the share that was not read for the longest time. At least that share of the bytes,
/// so that after 1/share verifications everything has been read again, however large the objects are.
fn decide(units: &mut [&mut Unit], reading: Reading) {
    let share = match reading {
        Reading::Nothing => return,
        Reading::All => 100,
        Reading::Share(percent) => percent.min(100),
    };
    let old: u64 = units.iter().filter(|unit| unit.read_at.is_some()).map(|unit| unit.size()).sum();
    let quota = u128::from(old) * u128::from(share);
    units.sort_by_key(|unit| unit.read_at);
    let mut taken = 0;
    for unit in units {
        let wanted = unit.read_at.is_none() || share == 100 || taken * 100 < quota;
        if unit.read_at.is_some() {
            taken += u128::from(unit.size());
        }
        unit.chosen = wanted;
    }
}

/// A document of the ledger; one that cannot be read counts as none.
pub(super) async fn ledger(cluster: &Cluster, name: &LedgerName) -> Result<Ledger, Error> {
    let ledger = cluster.ledger(name).await?;
    if let Some(reason) = &ledger.ignored {
        tracing::warn!("what was verified before is not known and is read again: {reason}");
    }
    Ok(ledger)
}

/// Stores a document of the ledger. That it cannot be stored costs time, not data, and is said once.
pub(super) async fn remember(
    cluster: &Cluster,
    name: &LedgerName,
    ledger: &mut Ledger,
    notes: &mut Notes<'_>,
) {
    if let Err(error) = cluster.put_ledger(name, ledger).await {
        let key = cluster.ledger_key(name).unwrap_or_default();
        let error = crate::chain(&error);
        if !std::mem::replace(&mut notes.forgetful, true) {
            tracing::warn!("what was read will be read again, as {key} cannot be written: {error}");
        }
    }
}

/// The time as the ledger has it. Never 0, which means that something has to be read again.
pub(super) fn seconds(clock: Clock) -> u64 {
    u64::try_from(clock().timestamp()).unwrap_or(0).max(1)
}

/// What is remembered of an object in which something was found: what it was, and that it has to be read again.
pub(super) fn doubted(before: Option<&Verified>) -> Option<Verified> {
    before.map(|before| Verified { at: 0, ..*before })
}

#[cfg(test)]
mod tests {
    use super::*;
    use pgformat::{Lsn, SegmentName, TimelineId};
    use proptest::prelude::*;
    use repository::wal::Range;

    fn unit(size: u64, read_at: Option<u64>) -> Unit<'static> {
        let name = SegmentName { timeline: TimelineId::FIRST, number: 1 };
        let range = Range { from: Lsn(1), to: Lsn(2) };
        let object = WalObject { name, range, whole: true, stored_bytes: size };
        Unit { what: What::Wal(object), read_at, chosen: false }
    }

    fn chosen(units: &[(u64, Option<u64>)], reading: Reading) -> Vec<bool> {
        let mut units: Vec<Unit> = units.iter().map(|(size, at)| unit(*size, *at)).collect();
        decide(&mut units.iter_mut().collect::<Vec<_>>(), reading);
        units.iter().map(|unit| unit.chosen).collect()
    }

    #[test]
    fn new_ones_are_read_and_the_longest_unread_of_the_old() {
        let units = [(10, Some(5)), (10, Some(3)), (10, None), (10, Some(4)), (10, Some(6))];
        assert_eq!(chosen(&units, Reading::Share(25)), [false, true, true, false, false]);
        assert_eq!(chosen(&units, Reading::Share(26)), [false, true, true, true, false]);
        assert_eq!(chosen(&units, Reading::Share(0)), [false, false, true, false, false]);
        assert_eq!(chosen(&units, Reading::All), [true; 5]);
        assert_eq!(chosen(&units, Reading::Nothing), [false; 5]);
    }

    proptest! {
        #[test]
        fn everything_is_read_again_within_one_over_share_runs(
            sizes in prop::collection::vec(0u64..1000, 1..40), share in 1u8..=100,
        ) {
            let mut units: Vec<(u64, Option<u64>)> = sizes.into_iter().map(|size| (size, Some(1))).collect();
            let runs = 100u64.div_ceil(u64::from(share));
            for run in 2..2 + runs {
                let now = chosen(&units, Reading::Share(share));
                let read = units.iter_mut().zip(now).filter(|(_, chosen)| *chosen);
                read.for_each(|(unit, _)| unit.1 = Some(run));
            }
            let left = units.iter().filter(|(size, at)| *size > 0 && *at == Some(1)).count();
            prop_assert_eq!(left, 0);
        }
    }
}
