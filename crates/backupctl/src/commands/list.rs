//! `backupctl list`

use backupd::view::{self, BackupView, List, WalView};
use backupd::{Exit, Failure, open};
use chrono::{DateTime, Utc};
use engine::catalog::Catalog;
use engine::status::Window;
use repository::pin::Pin;
use repository::wal::Hole;

use crate::Context;
use crate::output::{duration, lines, size, table, time};

pub(crate) async fn run(context: &Context) -> Result<Exit, Failure> {
    let cluster = open::existing(&context.settings).await?;
    let catalog = Catalog::load(&cluster).await?;
    let list = view::list(&cluster, &catalog).await?;
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
    let mut rows =
        table(&["Backup", "Finished", ">Age", ">Took", ">Timeline", ">Size", ">Stored", ">Shared", "Note"]);
    let now = backupd::now();
    for backup in &list.backups {
        rows.add_row([
            backup.id.to_string(),
            time(backup.finished_at),
            between(backup.finished_at, now),
            between(backup.started_at, backup.finished_at),
            backup.timeline.to_string(),
            size(backup.size_bytes),
            size(backup.stored_bytes),
            size(backup.shared_bytes),
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

fn between(from: DateTime<Utc>, to: DateTime<Utc>) -> String {
    duration(to.signed_duration_since(from).to_std().unwrap_or_default())
}

fn note(backup: &BackupView) -> String {
    let pinned = match backup.pin.as_ref().filter(|pin| pin.holds(backupd::now())) {
        Some(Pin { until: Some(until), .. }) => format!("pinned until {} ", time(*until)),
        Some(_) => "pinned ".to_owned(),
        None => String::new(),
    };
    let corrupt = match backup.corrupt_pages_total {
        0 => String::new(),
        pages => format!("{pages} CORRUPT PAGES "),
    };
    format!("{pinned}{corrupt}{}", backup.note.as_deref().unwrap_or_default())
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

/// Where it cannot be told when the last transaction ended.
pub(super) const UNREADABLE: &str = "a time that only an identity can tell";

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
                window.to.map_or_else(|| UNREADABLE.to_owned(), time),
                window.to_lsn,
                window.timeline
            )
        })
        .collect()
}
