//! Reading and hashing what was chosen, and remembering what was whole.

use std::collections::BTreeSet;
use std::time::Duration;

use bytes::BytesMut;
use futures::StreamExt;
use futures::stream::FuturesOrdered;
use pgformat::SegmentSize;
use repository::codec::Checksum;
use repository::ledger::{Ledger, Verified};
use repository::pack::PACK_BYTES;
use repository::record::PackUse;
use repository::wal::{Range, WalObject};
use repository::{Cluster, Error as RepositoryError};
use sha2::{Digest, Sha256};
use tokio::time::Instant;

use super::notes::{About, Notes};
use super::pace::Pace;
use super::units::{self, Group, Unit, Units, What};
use super::{Reading, Request};
use crate::Error;
use crate::catalog::Catalog;

/// Memory for what is being read, however many workers there are.
const BYTES_IN_FLIGHT_MAX: u64 = 96 << 20;
/// Bytes of a WAL object besides the WAL at most; nothing longer is read into memory.
const WAL_HEADER_BYTES_MAX: u64 = 16 << 20;
/// What was read is remembered at least so often, so that a verification that is killed has not read in vain.
const REMEMBER_EVERY: Duration = Duration::from_secs(60);

/// Reads all units that were chosen.
pub(super) async fn read(
    cluster: &Cluster,
    units: &Units<'_>,
    catalog: &Catalog,
    request: &Request,
    pace: &Pace,
    notes: &mut Notes<'_>,
) -> Result<(), Error> {
    if request.reading == Reading::Nothing {
        return Ok(());
    }
    let size = units.segment_size;
    // A segment is there as it is stored, and as it was written. Packs are hashed in parts, but may be as large.
    let unit_bytes_max = (2 * size.bytes()).max(PACK_BYTES);
    let room = usize::try_from(BYTES_IN_FLIGHT_MAX / unit_bytes_max).unwrap_or(1);
    let reader = Reader { cluster, catalog, size, pace, at_once: request.workers.min(room).max(1), request };
    for group in &units.groups {
        reader.group(group, notes).await?;
    }
    Ok(())
}

struct Reader<'a> {
    cluster: &'a Cluster,
    catalog: &'a Catalog,
    size: SegmentSize,
    pace: &'a Pace,
    at_once: usize,
    request: &'a Request,
}

impl Reader<'_> {
    async fn group(&self, group: &Group<'_>, notes: &mut Notes<'_>) -> Result<(), Error> {
        // One that is ignored was spoken of when it was decided what to read.
        let mut ledger = self.cluster.ledger(&group.name).await?;
        let known = ledger.objects.len();
        let there: BTreeSet<String> = group.units.iter().map(|unit| unit.ledger_name(self.size)).collect();
        ledger.objects.retain(|name, _| there.contains(name));
        let mut changed = ledger.objects.len() != known;
        let mut remembered = Instant::now();
        let chosen: Vec<&Unit> = group.units.iter().filter(|unit| unit.chosen).collect();
        let mut waiting = chosen.into_iter();
        // Not `buffered`: the compiler cannot see that a stream of borrowing futures may change threads.
        let mut reads: FuturesOrdered<_> =
            waiting.by_ref().take(self.at_once).map(|unit| self.one(unit)).collect();
        while let Some((unit, result)) = reads.next().await {
            reads.extend(waiting.next().map(|unit| self.one(unit)));
            self.note(group, unit, result, &mut ledger, notes)?;
            changed = true;
            if remembered.elapsed() >= REMEMBER_EVERY {
                units::remember(self.cluster, &group.name, &mut ledger, notes).await;
                remembered = Instant::now();
            }
        }
        if changed {
            units::remember(self.cluster, &group.name, &mut ledger, notes).await;
        }
        Ok(())
    }

    async fn one<'u>(&self, unit: &'u Unit<'u>) -> (&'u Unit<'u>, Result<Checksum, RepositoryError>) {
        (unit, self.unit(unit).await)
    }

    fn key(&self, unit: &Unit<'_>) -> Result<String, Error> {
        Ok(match &unit.what {
            What::Pack(pack) => self.cluster.pack_key(&pack.pack)?,
            What::Wal(object) => self.cluster.wal_key(object, self.size)?,
        })
    }

    /// Reads one unit; gives the checksum of its stored bytes when they are whole.
    async fn unit(&self, unit: &Unit<'_>) -> Result<Checksum, RepositoryError> {
        match &unit.what {
            What::Pack(pack) => self.pack(pack).await,
            What::Wal(object) => self.wal(object).await,
        }
    }

    async fn pack(&self, pack: &PackUse) -> Result<Checksum, RepositoryError> {
        let mut hasher = Sha256::new();
        for part in parts(pack.size, self.pace.part_bytes()) {
            self.pace.wait(part.end - part.start).await;
            let bytes = self.cluster.read_pack(&pack.pack, part, &pack.pack.backup).await?;
            hasher = off_thread(move || hasher.chain_update(&bytes)).await?;
        }
        let found = Checksum(hasher.finalize().into());
        if found == pack.sha256 {
            return Ok(found);
        }
        let reason = format!("its checksum is {found}, not {}", pack.sha256);
        Err(RepositoryError::Damaged { key: self.cluster.pack_key(&pack.pack)?, reason })
    }

    async fn wal(&self, object: &WalObject) -> Result<Checksum, RepositoryError> {
        if object.stored_bytes > 2 * self.size.bytes() + WAL_HEADER_BYTES_MAX {
            let reason = format!("it has {} bytes, more than a segment can take", object.stored_bytes);
            return Err(RepositoryError::Damaged { key: self.cluster.wal_key(object, self.size)?, reason });
        }
        let mut stored = BytesMut::with_capacity(usize::try_from(object.stored_bytes).unwrap_or(0));
        for part in parts(object.stored_bytes, self.pace.part_bytes()) {
            self.pace.wait(part.end - part.start).await;
            stored.extend_from_slice(&self.cluster.read_wal_part(object, self.size, part).await?);
        }
        self.cluster.check_wal(object, self.size, stored.freeze()).await
    }

    /// Takes down what came of one unit.
    fn note(
        &self,
        group: &Group<'_>,
        unit: &Unit<'_>,
        result: Result<Checksum, RepositoryError>,
        ledger: &mut Ledger,
        notes: &mut Notes<'_>,
    ) -> Result<(), Error> {
        let (key, name) = (self.key(unit)?, unit.ledger_name(self.size));
        notes.has_read(unit.size());
        if let (Err(error), What::Wal(object)) = (&result, &unit.what)
            && error.is_not_found()
        {
            // A piece became part of a whole segment since it was listed, or WAL expired: that remains to be seen.
            notes.vanished.push(*object);
            ledger.objects.remove(&name);
            return Ok(());
        }
        let before = ledger.objects.get(&name).copied();
        let found = notes.found.len();
        let whole = notes.judge(&key, result, || self.about(group, unit))?;
        let Some(sha256) = whole else {
            if notes.found.len() > found {
                self.doubt(ledger, name);
            }
            return Ok(());
        };
        notes.report.read.objects += 1;
        notes.report.read.bytes += unit.size();
        if let (What::Wal(_), Some(before)) = (&unit.what, before)
            && before.sha256 != sha256
        {
            let what = "its stored bytes are not those an earlier verification read, though they still hold the same WAL; its storage changes bytes";
            notes.find(key, what, About::Nothing);
            self.doubt(ledger, name);
            return Ok(());
        }
        let at = units::seconds(self.request.clock);
        ledger.objects.insert(name, Verified { size: unit.size(), sha256, at });
        Ok(())
    }

    /// What was found is found again by the next verification, until it is mended.
    fn doubt(&self, ledger: &mut Ledger, name: String) {
        if let Some(doubted) = units::doubted(ledger.objects.get(&name)) {
            ledger.objects.insert(name, doubted);
        }
    }

    /// Recovery asks for whole segments, so where WAL is damaged nothing of its segment can be read.
    fn about(&self, group: &Group<'_>, unit: &Unit<'_>) -> About {
        match &unit.what {
            What::Pack(pack) => units::users(self.catalog, &pack.pack),
            What::Wal(object) if is_spare(object, group) => About::Nothing,
            What::Wal(object) => {
                let (from, to) = (object.name.start(self.size), object.name.end(self.size));
                About::Wal(object.name.timeline, Range { from, to })
            }
        }
    }
}

/// Whether other objects hold the WAL of this piece: the whole segment, beside which pieces are what a crash left, or
/// other pieces.
fn is_spare(piece: &WalObject, group: &Group<'_>) -> bool {
    let others = group.units.iter().filter_map(|unit| match &unit.what {
        What::Wal(other) if other.name == piece.name && other != piece => Some(other.range),
        _ => None,
    });
    // Pieces lie in the order of their starts.
    let mut at = piece.range.from;
    for other in others.filter(|_| !piece.whole) {
        if other.from <= at {
            at = at.max(other.to);
        }
    }
    at >= piece.range.to
}

/// The ranges in which an object of this size is read.
fn parts(size: u64, part: u64) -> impl Iterator<Item = std::ops::Range<u64>> {
    let starts = (0..).map(move |number: u64| number * part);
    starts.take_while(move |start| *start < size).map(move |start| start..size.min(start + part))
}

async fn off_thread<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, RepositoryError> {
    tokio::task::spawn_blocking(work).await.map_err(|cause| {
        let (action, key) = ("hash", "a pack".to_owned());
        store::Error::Unavailable { action, key, source: std::io::Error::other(cause) }.into()
    })
}

#[cfg(test)]
mod tests {
    use super::parts;

    #[test]
    fn parts_are_the_whole() {
        assert_eq!(parts(0, 4).count(), 0);
        assert_eq!(parts(10, 4).collect::<Vec<_>>(), [0..4, 4..8, 8..10]);
        assert_eq!(parts(8, 4).collect::<Vec<_>>(), [0..4, 4..8]);
    }
}
