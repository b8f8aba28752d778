//! `backupctl show BACKUP`

use backupd::{Exit, Failure, open};
use repository::Record;

use super::WhichBackup;
use crate::Context;
use crate::output::{facts, size, time};

/// Corrupt pages that a table lists; JSON has all that the record has.
const PAGES_SHOWN: usize = 20;

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Which: its name, latest or oldest
    backup: WhichBackup,
}

pub(crate) async fn run(context: &Context, arguments: Arguments) -> Result<Exit, Failure> {
    let cluster = open::existing(&context.settings).await?;
    cluster.require_identity().await?;
    let id = match &arguments.backup {
        WhichBackup::Named(_) => arguments.backup.find(&Default::default())?,
        WhichBackup::Latest | WhichBackup::Oldest => arguments.backup.find(&cluster.backups().await?)?,
    };
    let record = cluster.record(&id).await?;
    // The record itself is the document: docs/format.md says what its fields mean.
    context.output.print(&record, || text(&record))?;
    Ok(Exit::Done)
}

fn text(record: &Record) -> String {
    let version = record.postgresql_version;
    let mut rows = vec![
        ("Backup", record.id.to_string()),
        ("Note", record.note.clone().unwrap_or_else(|| "-".to_owned())),
        ("Started", time(record.started_at)),
        ("Finished", time(record.finished_at)),
        ("Server", format!("{}, PostgreSQL {}.{}", record.source, version / 10_000, version % 10_000)),
        ("System identifier", record.system_identifier.to_string()),
        ("Data checksums", if record.data_checksums { "on" } else { "off" }.to_owned()),
        ("Timeline", record.timeline.to_string()),
        ("Start LSN", record.start_lsn.to_string()),
        ("Stop LSN", format!("{} on timeline {}", record.stop_lsn, record.stop_timeline)),
        ("Parent", record.parent.as_ref().map_or_else(|| "-".to_owned(), ToString::to_string)),
        ("Files", format!("{} files and directories, {}", record.file_count, size(record.size_bytes))),
        (
            "Stored",
            format!(
                "{}, in {} maps and {} packs",
                size(record.stored_bytes),
                record.maps.len(),
                own_packs(record)
            ),
        ),
        (
            "Shared",
            format!(
                "{}, in {} packs of earlier backups",
                size(record.shared_bytes),
                record.packs.len() - own_packs(record)
            ),
        ),
    ];
    for space in &record.tablespaces {
        rows.push(("Tablespace", format!("{} in {}", space.oid, space.location)));
    }
    if record.corrupt_pages_total > 0 {
        rows.push(("CORRUPT PAGES", record.corrupt_pages_total.to_string()));
    }
    for page in record.corrupt_pages.iter().take(PAGES_SHOWN) {
        rows.push(("", format!("{} block {}", page.path, page.block)));
    }
    facts(&rows)
}

fn own_packs(record: &Record) -> usize {
    record.packs.iter().filter(|pack| pack.pack.backup == record.id).count()
}
