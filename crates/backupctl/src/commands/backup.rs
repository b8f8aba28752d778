//! `backupctl backup`

use backupd::config::Settings;
use backupd::view::BackupView;
use backupd::{Exit, Failure, open, schedule, source, stop};
use engine::backup::{BackupRequest, Phase, Progress};
use repository::pin::Pin;
use repository::state::Heartbeat;
use tokio::sync::watch;

use crate::Context;
use crate::output::{self, size, time};
use crate::progress::{self, Shown};

/// With less room than a few segments take, the archive is as good as full.
const ARCHIVE_BYTES_MIN: u64 = 48 << 20;

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Words to keep with the backup
    #[arg(long, value_name = "TEXT")]
    note: Option<String>,
    /// Keep it whatever the retention settings say, until it is unpinned
    #[arg(long)]
    pin: bool,
}

pub(crate) async fn run(context: &Context, arguments: Arguments) -> Result<Exit, Failure> {
    context.settings.server()?;
    let shutdown = stop::on_signals()?;
    let cluster = open::or_create(&context.settings, backupd::now()).await?;
    if let Some(Heartbeat { id, runner, started_at, .. }) = schedule::running(&cluster).await? {
        return Err(Failure::Busy { id, runner, since: time(started_at) });
    }
    let request = BackupRequest { note: arguments.note };
    let (progress, watched) = watch::channel(Progress::default());
    let work = source::back_up(&context.settings, &cluster, &request, &progress, &shutdown);
    let record = progress::show(&context.output, watched, describe, work).await;
    let record = record.map_err(|error| explain(error, &context.settings))?;

    if arguments.pin {
        let pin =
            Pin { backup: record.id.clone(), reason: record.note.clone(), until: None, at: backupd::now() };
        cluster.pin(&pin).await?;
    }
    let view = BackupView::from(&record);
    context.output.print(&view, || summary(&view))?;
    if record.corrupt_pages_total == 0 {
        return Ok(Exit::Done);
    }
    context.output.note(&format!(
        "warning: the backup is published, but {} of the server's pages are corrupt; `backupctl show {}` lists them",
        record.corrupt_pages_total, record.id
    ));
    Ok(Exit::Findings)
}

/// WAL that does not arrive in a repository without room has an explanation that the engine, which does not see who archives,
/// cannot give.
fn explain(failure: Failure, settings: &Settings) -> Failure {
    let is_full = || {
        let space = settings.repository.directory().and_then(backupd::space);
        space.is_some_and(|space| space.free_bytes < ARCHIVE_BYTES_MIN)
    };
    match failure {
        Failure::Engine(engine::Error::WalNotArchived { .. }) if is_full() => store::Error::Full {
            action: "archive WAL into",
            key: settings.repository.to_string(),
            source: std::io::ErrorKind::StorageFull.into(),
        }
        .into(),
        failure => failure,
    }
}

fn describe(progress: &Progress) -> Shown {
    let what = match progress.phase {
        Phase::Preparing => "looking at server and repository",
        Phase::Checkpoint => "waiting for the server's checkpoint",
        Phase::Copying => "copying",
        Phase::WaitingForWal => "waiting for the backup's WAL to be durable",
        Phase::Published => "published",
    };
    let id = progress.id.as_ref().map_or_else(String::new, |id| format!("backup {id}: "));
    let counts = progress.phase == Phase::Copying;
    Shown {
        what: format!("{id}{what}"),
        bytes: if counts { progress.bytes } else { 0 },
        bytes_total: if counts { progress.bytes_total } else { 0 },
    }
}

fn summary(view: &BackupView) -> String {
    let took = view.finished_at.signed_duration_since(view.started_at).to_std().unwrap_or_default();
    format!(
        "backup {} is published: {} of files in {}, {} stored, {} shared with earlier backups",
        view.id,
        size(view.size_bytes),
        output::duration(took),
        size(view.stored_bytes),
        size(view.shared_bytes)
    )
}
