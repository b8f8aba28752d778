//! What is small and looked at every time: records, lists of files, maps, history files, holes.

use std::collections::{BTreeMap, BTreeSet};

use pgformat::{History, TimelineId};
use repository::codec::Checksum;
use repository::files::FileKind;
use repository::ledger::{LedgerName, Verified};
use repository::pack::PackName;
use repository::wal::Range;
use repository::{Cluster, Error as RepositoryError, Record};

use super::notes::{About, Notes};
use super::pace::Pace;
use super::{Reading, Request, units};
use crate::Error;
use crate::catalog::Catalog;

pub(super) async fn look(
    cluster: &Cluster,
    catalog: &Catalog,
    request: &Request,
    pace: &Pace,
    notes: &mut Notes<'_>,
) -> Result<(), Error> {
    let maps = |record: &Record| record.maps.iter().map(|map| map.size).sum::<u64>() + record.files.size;
    notes.expect(catalog.backups.records.iter().map(maps).sum());
    for (id, error) in &catalog.backups.unreadable {
        notes.looked_at(0);
        notes.find(cluster.record_key(id)?, said(error), About::Backups(vec![id.clone()]));
    }
    for record in &catalog.backups.records {
        notes.looked_at(0);
        if record.corrupt_pages_total > 0 {
            let pages = record.corrupt_pages_total;
            let what = format!("{pages} pages were corrupt on the server when it was taken");
            notes.find(cluster.record_key(&record.id)?, what, About::Nothing);
        }
        list_and_maps(cluster, record, pace, notes).await?;
    }
    histories(cluster, catalog, request, notes).await?;
    holes(cluster, catalog, notes).await
}

/// What is wrong, without the object's name in front, which a finding has already.
fn said(error: &RepositoryError) -> String {
    match error {
        RepositoryError::Damaged { reason, .. } => reason.clone(),
        error => error.to_string(),
    }
}

/// The list of files and the maps of one backup, and that they fit together and with the record.
async fn list_and_maps(
    cluster: &Cluster,
    record: &Record,
    pace: &Pace,
    notes: &mut Notes<'_>,
) -> Result<(), Error> {
    let about = || About::Backups(vec![record.id.clone()]);
    pace.wait(record.files.size).await;
    notes.has_read(record.files.size);
    let keys = cluster.check_keys(record).await;
    notes.judge(&cluster.record_key(&record.id)?, keys, about)?;
    let listed = list_of_files(cluster, record).await;
    let closed =
        matches!(listed, Err(RepositoryError::NoIdentity { .. } | RepositoryError::WrongIdentity { .. }));
    if closed && !cluster.has_identity() {
        return closed_documents(cluster, record, pace, notes).await;
    }
    let listed = notes.judge(&cluster.files_key(&record.id)?, listed, about)?;
    let mut mapped = Some(0u64);
    let packs: BTreeMap<&PackName, u64> = record.packs.iter().map(|pack| (&pack.pack, pack.size)).collect();
    for (number, summary) in (0u32..).zip(&record.maps) {
        pace.wait(summary.size).await;
        notes.has_read(summary.size);
        let key = cluster.map_key(&record.id, number)?;
        let map = cluster.map(record, number).await;
        let Some(map) = notes.judge(&key, map, about)? else {
            mapped = None;
            continue;
        };
        let extents = map.files.iter().flat_map(|file| &file.extents);
        let bytes: u64 = extents.map(|extent| u64::from(extent.len)).sum();
        mapped = mapped.map(|mapped| mapped + bytes);
        let outside = map.packs.iter().find(|pack| {
            let size = packs.get(&pack.pack).copied().unwrap_or(0);
            pack.frames.iter().any(|frame| frame.range().end > size)
        });
        if let Some(pack) = outside {
            let what = format!("it refers to frames of pack {} that the pack does not have", pack.pack);
            notes.find(key, what, about());
        }
    }
    // What could not be read was reported, and its bytes cannot be compared.
    if let (Some(listed), Some(mapped)) = (listed, mapped)
        && listed != mapped
    {
        let what = format!("its files have {listed} bytes, but its maps {mapped}");
        notes.find(cluster.record_key(&record.id)?, what, about());
    }
    Ok(())
}

/// Whether documents nobody here can open are whole. Whether they fit together can not be told.
async fn closed_documents(
    cluster: &Cluster,
    record: &Record,
    pace: &Pace,
    notes: &mut Notes<'_>,
) -> Result<(), Error> {
    let maps = record.maps.iter().map(|map| map.size).sum();
    pace.wait(maps).await;
    notes.has_read(maps);
    let about = || About::Backups(vec![record.id.clone()]);
    let whole = cluster.check_documents(record).await;
    notes.judge(&cluster.files_key(&record.id)?, whole, about).map(drop)
}

/// Bytes of all files in the list.
async fn list_of_files(cluster: &Cluster, record: &Record) -> Result<u64, RepositoryError> {
    let mut list = cluster.files(record).await?;
    let mut bytes = 0;
    while let Some(entry) = list.next()? {
        if let FileKind::File { size, .. } = entry.kind {
            bytes += size;
        }
    }
    Ok(bytes)
}

/// History files are PostgreSQL's, without a seal of ours. What can be compared is compared: with what an earlier verification
/// read, with each other, and with where the timeline's WAL begins.
async fn histories(
    cluster: &Cluster,
    catalog: &Catalog,
    request: &Request,
    notes: &mut Notes<'_>,
) -> Result<(), Error> {
    for (timeline, reason) in &catalog.unreadable_histories {
        notes.looked_at(0);
        notes.find(cluster.history_key(*timeline)?, reason.clone(), About::History(*timeline));
    }
    let mut ledger = units::ledger(cluster, &LedgerName::Histories).await?;
    let mut known = BTreeMap::new();
    for history in catalog.histories.values().filter(|history| history.timeline != TimelineId::FIRST) {
        let (timeline, key) = (history.timeline, cluster.history_key(history.timeline)?);
        let read = cluster.history(timeline).await;
        let Some(Some(bytes)) = notes.judge(&key, read, || About::History(timeline))? else { continue };
        notes.looked_at(bytes.len() as u64);
        let sha256 = Checksum::of(&bytes);
        let name = timeline.history_name();
        let before = ledger.objects.get(&name);
        let fault = match before {
            Some(before) if before.sha256 != sha256 => {
                Some("it is not what an earlier verification read".to_owned())
            }
            _ => implausible(catalog, history),
        };
        match fault {
            Some(what) => {
                notes.find(key, what, About::History(timeline));
                known.extend(before.map(|before| (name, *before)));
            }
            None => {
                let at = units::seconds(request.clock);
                known.insert(name, Verified { size: bytes.len() as u64, sha256, at });
            }
        }
    }
    let names = |objects: &BTreeMap<String, Verified>| objects.keys().cloned().collect::<BTreeSet<_>>();
    if request.reading != Reading::Nothing && names(&known) != names(&ledger.objects) {
        ledger.objects = known;
        units::remember(cluster, &LedgerName::Histories, &mut ledger, notes).await;
    }
    Ok(())
}

/// What cannot be so: every line is repeated by the histories of later timelines, and a timeline's WAL begins with the segment
/// of its fork.
fn implausible(catalog: &Catalog, history: &History) -> Option<String> {
    let last = history.entries.last()?;
    let parent = catalog.histories.get(&last.timeline);
    let lines = |history: &History| {
        history.entries.iter().map(|entry| (entry.timeline, entry.end)).collect::<Vec<_>>()
    };
    if let Some(parent) = parent {
        let (own, parents) = (lines(history), lines(parent));
        if !own.starts_with(&parents) || own.len() != parents.len() + 1 {
            return Some(format!("it does not go on from the history of timeline {}", last.timeline));
        }
    }
    let covered = catalog.coverage.timelines.get(&history.timeline)?;
    let Range { from, .. } = covered.bounds()?;
    // Older WAL may have been removed, so it may begin later, never earlier.
    (from < catalog.segment_size().floor(last.end)).then(|| {
        format!("it says that the timeline forked off at {}, but its WAL begins at {from}", last.end)
    })
}

/// Holes are findings as long as they are there: nobody restores through one.
async fn holes(cluster: &Cluster, catalog: &Catalog, notes: &mut Notes<'_>) -> Result<(), Error> {
    for hole in catalog.coverage.timelines.values().flat_map(|covered| &covered.holes) {
        notes.looked_at(0);
        let key = cluster.hole_key(hole)?;
        let about = || About::Wal(hole.timeline, Range { from: hole.from, to: hole.to });
        let read = cluster.hole(hole.timeline, hole.from, hole.to).await;
        if read.as_ref().is_err_and(|error| error.is_not_found()) {
            // Expired since it was listed.
            continue;
        }
        if notes.judge(&key, read, about)?.is_some() {
            let what = format!("WAL is missing from {} to {}: {}", hole.from, hole.to, hole.cause);
            notes.find(key, what, about());
        }
    }
    Ok(())
}
