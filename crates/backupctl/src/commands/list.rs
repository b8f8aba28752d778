//! `backupctl list`

use backupd::{Exit, Failure, open};
use engine::catalog::Catalog;
use engine::status::{self, Window};
use repository::BackupId;
use repository::wal::Hole;
use serde::Serialize;

use super::view::{self, BackupView, WalView};
use crate::Context;
use crate::output::{lines, size, table, time};

/// What is in the repository.
#[derive(Debug, Serialize)]
struct List {
    /// The cluster's name.
    cluster: String,
    /// PostgreSQL's identifier of it, as decimal text.
    system_identifier: String,
    /// PostgreSQL's major version.
    postgresql_major: u16,
    /// Oldest first.
    backups: Vec<BackupView>,
    /// Backups whose records cannot be read; they cannot be restored.
    unreadable_backups: Vec<Unreadable>,
    /// By timeline.
    wal: Vec<WalView>,
    /// WAL that is known to be missing.
    holes: Vec<Hole>,
    /// From when to when one can restore along the newest timeline.
    windows: Vec<Window>,
}

/// A backup whose record cannot be read.
#[derive(Debug, Serialize)]
struct Unreadable {
    /// Its name.
    id: BackupId,
    /// What is wrong.
    reason: String,
}

pub(crate) async fn run(context: &Context) -> Result<Exit, Failure> {
    let cluster = open::existing(&context.settings).await?;
    let catalog = Catalog::load(&cluster).await?;
    let list = List {
        cluster: cluster.name().to_owned(),
        system_identifier: catalog.identity.system_identifier.to_string(),
        postgresql_major: catalog.identity.postgresql_major,
        backups: catalog.backups.records.iter().map(BackupView::from).collect(),
        unreadable_backups: catalog
            .backups
            .unreadable
            .iter()
            .map(|(id, error)| Unreadable { id: id.clone(), reason: error.to_string() })
            .collect(),
        wal: view::wal(&catalog.coverage),
        holes: view::holes(&catalog.coverage),
        windows: status::windows(&cluster, &catalog).await?,
    };
    context.output.print(&list, || text(&list))?;
    Ok(Exit::Done)
}

fn text(list: &List) -> String {
    let mut text = format!(
        "Cluster {} (PostgreSQL {}, system identifier {})\n\n",
        list.cluster, list.postgresql_major, list.system_identifier
    );
    text.push_str(&backups(list));
    text.push('\n');
    text.push_str(&wal_and_holes(&list.wal, &list.holes));
    text.push('\n');
    text.push_str(&windows(&list.windows));
    text
}

fn backups(list: &List) -> String {
    if list.backups.is_empty() && list.unreadable_backups.is_empty() {
        return "No backups.\n".to_owned();
    }
    let mut rows = table(&[
        "Backup",
        "Finished",
        ">Timeline",
        "Start..stop LSN",
        ">Size",
        ">Stored",
        ">Shared",
        "Parent",
        "Note",
    ]);
    for backup in &list.backups {
        rows.add_row([
            backup.id.to_string(),
            time(backup.finished_at),
            backup.timeline.to_string(),
            format!("{}..{}", backup.start_lsn, backup.stop_lsn),
            size(backup.size_bytes),
            size(backup.stored_bytes),
            size(backup.shared_bytes),
            backup.parent.as_ref().map_or_else(|| "-".to_owned(), BackupId::to_string),
            note(backup),
        ]);
    }
    let mut text = lines(&rows);
    for unreadable in &list.unreadable_backups {
        text.push_str(&format!(
            "{}  UNREADABLE, it cannot be restored: {}\n",
            unreadable.id, unreadable.reason
        ));
    }
    text
}

fn note(backup: &BackupView) -> String {
    let corrupt = match backup.corrupt_pages_total {
        0 => String::new(),
        pages => format!("{pages} CORRUPT PAGES "),
    };
    format!("{corrupt}{}", backup.note.as_deref().unwrap_or_default())
}

/// WAL by timeline, its holes and gaps.
pub(super) fn wal_and_holes(wal: &[WalView], holes: &[Hole]) -> String {
    if wal.is_empty() {
        return "No WAL.\n".to_owned();
    }
    let mut rows = table(&["WAL", "Oldest..newest", ">Segments", ">Pieces", ">Stored"]);
    for timeline in wal {
        let bounds = match (timeline.ranges.first(), timeline.ranges.last()) {
            (Some(first), Some(last)) => format!("{}..{}", first.from, last.to),
            _ => "none".to_owned(),
        };
        rows.add_row([
            format!("timeline {}", timeline.timeline),
            bounds,
            timeline.segments.to_string(),
            timeline.pieces.to_string(),
            size(timeline.stored_bytes),
        ]);
    }
    let mut text = lines(&rows);
    for hole in holes {
        text.push_str(&format!(
            "hole: WAL of timeline {} from {} to {} is missing since {}: {}\n",
            hole.timeline,
            hole.from,
            hole.to,
            time(hole.since),
            hole.cause
        ));
    }
    for (timeline, gap) in
        wal.iter().flat_map(|wal| wal.unexplained_gaps.iter().map(|gap| (wal.timeline, gap)))
    {
        text.push_str(&format!(
            "gap: WAL of timeline {timeline} from {} to {} is not there, and no hole explains it; run `backupctl verify`\n",
            gap.from, gap.to
        ));
    }
    text
}

fn windows(windows: &[Window]) -> String {
    if windows.is_empty() {
        return "Nothing can be restored: a backup and its WAL are needed.\n".to_owned();
    }
    windows
        .iter()
        .map(|window| {
            format!(
                "Restorable: from {} ({}, backup {}) to {} ({} on timeline {})\n",
                time(window.from),
                window.from_lsn,
                window.oldest_backup,
                time(window.to),
                window.to_lsn,
                window.timeline
            )
        })
        .collect()
}
