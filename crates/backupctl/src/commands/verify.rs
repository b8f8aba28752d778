//! `backupctl verify`

use backupd::{Exit, Failure, open, stop};
use engine::catalog::Catalog;
use engine::verify::{self, Depth, Progress, Report};
use tokio::sync::watch;

use crate::Context;
use crate::output::size;
use crate::progress::{self, Shown};

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Read and hash everything, too
    #[arg(long)]
    read: bool,
}

pub(crate) async fn run(context: &Context, arguments: Arguments) -> Result<Exit, Failure> {
    let shutdown = stop::on_signals()?;
    let cluster = open::existing(&context.settings).await?;
    let catalog = Catalog::load(&cluster).await?;
    let depth = if arguments.read { Depth::Read } else { Depth::Quick };
    let (progress, watched) = watch::channel(Progress::default());
    let work = verify::verify(&cluster, &catalog, depth, context.settings.workers, &progress);
    let report = tokio::select! {
        report = progress::show(&context.output, watched, describe, work) => report?,
        () = shutdown.cancelled() => return Err(engine::Error::Stopped.into()),
    };
    context.output.print(&report, || text(&report, arguments.read))?;
    Ok(if report.findings.is_empty() { Exit::Done } else { Exit::Findings })
}

fn describe(progress: &Progress) -> Shown {
    let what = format!("verifying, {} objects", progress.objects);
    Shown { what, bytes: progress.bytes, bytes_total: progress.bytes_total }
}

fn text(report: &Report, read: bool) -> String {
    let mut text = String::new();
    for finding in &report.findings {
        text.push_str(&format!("{}: {}\n", finding.key, finding.what));
        if !finding.backups.is_empty() {
            let backups: Vec<String> = finding.backups.iter().map(ToString::to_string).collect();
            text.push_str(&format!("    cannot be restored: {}\n", backups.join(", ")));
        }
    }
    let depth = if read { "read" } else { "looked at, but not read (--read does)" };
    text.push_str(&format!(
        "{} findings; {} objects, {} {depth}\n",
        report.findings.len(),
        report.objects,
        size(report.bytes)
    ));
    text
}
