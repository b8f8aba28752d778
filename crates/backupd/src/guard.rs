//! Takes a base backup by itself when a hole in the WAL has none behind it.

use std::time::Duration;

use chrono::{DateTime, Utc};
use engine::archive::ArchiveStatus;
use engine::backup::{BackupRequest, Progress};
use engine::status;
use repository::wal::Hole;
use tokio::sync::watch;

use crate::api::Lead;
use crate::config::{Live, Settings};
use crate::{Failure, source};

/// Time to the next try after a failure; it doubles up to [`RETRY_MAX`].
const RETRY_MIN: Duration = Duration::from_secs(5);
const RETRY_MAX: Duration = Duration::from_secs(300);
/// Holes are found when a session begins, and then we look. This is for one that somebody else has found.
const LOOK_INTERVAL: Duration = Duration::from_secs(600);

/// Looks whenever streaming begins. One backup at a time: the gate is held while it is taken.
pub(crate) async fn run(settings: Live, lead: Lead, mut archive: watch::Receiver<ArchiveStatus>) {
    let shutdown = &lead.over;
    let mut told = None;
    let mut looked_at = None;
    let mut delay = RETRY_MIN;
    loop {
        let next_session = archive.wait_for(|status| status.server.is_some() && status.since != looked_at);
        tokio::select! {
            () = shutdown.cancelled() => return,
            session = next_session => match session {
                Ok(status) => looked_at = status.since,
                // Archiving has ended, and the service with it.
                Err(_closed) => return,
            },
            () = tokio::time::sleep(LOOK_INTERVAL) => {}
        }
        while let Err(error) = look(&settings.now(), &lead, &archive, &mut told).await {
            if shutdown.is_cancelled() {
                return;
            }
            lead.events.backup_failed(&engine::chain(&error));
            let hint = error.hint(Some(&settings.now())).unwrap_or_default();
            tracing::warn!(
                hint,
                retry_seconds = delay.as_secs(),
                "the base backup that a hole in the WAL needs cannot be taken yet: {}",
                engine::chain(&error)
            );
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = tokio::time::sleep(delay) => delay = (delay * 2).min(RETRY_MAX),
            }
        }
        delay = RETRY_MIN;
    }
}

async fn look(
    settings: &Settings,
    lead: &Lead,
    archive: &watch::Receiver<ArchiveStatus>,
    told: &mut Option<Hole>,
) -> Result<(), Failure> {
    let Lead { cluster, gate, events, over, .. } = lead;
    let Some(size) = archive.borrow().server.as_ref().map(|server| server.segment_size) else {
        // Without a server there is nothing to back up; the next session brings us here again.
        return Ok(());
    };
    let coverage = cluster.coverage(size).await?;
    let holes: Vec<Hole> = coverage.timelines.into_values().flat_map(|timeline| timeline.holes).collect();
    if holes.is_empty() {
        return Ok(());
    }
    // A backup that is being taken may be what the hole needs, and is known once it is over.
    let _held = gate.lock().await;
    let records = cluster.backups().await?.records;
    let Some(hole) = status::hole_needs_backup(&holes, &records) else { return Ok(()) };
    if told.as_ref() != Some(hole) {
        events.hole_found(hole);
        *told = Some(hole.clone());
    }
    tracing::info!(
        timeline = %hole.timeline, from = %hole.from, to = %hole.to,
        "taking a base backup, because no backup lies behind this hole in the WAL"
    );
    let request = BackupRequest { note: Some(note(hole)) };
    let (progress, _) = watch::channel(Progress::default());
    let record = source::back_up(settings, cluster, &request, &progress, over).await?;
    events.backup_finished(&record);
    tracing::info!(backup = %record.id, "the hole in the WAL has a base backup behind it now");
    Ok(())
}

fn note(hole: &Hole) -> String {
    let since: DateTime<Utc> = hole.since;
    format!(
        "taken by itself: WAL of timeline {} from {} to {} is missing since {}",
        hole.timeline,
        hole.from,
        hole.to,
        since.format("%Y-%m-%d %H:%M:%S UTC")
    )
}
