//! `backupctl copy`

use std::sync::Arc;
use std::time::{Duration, Instant};

use backupd::config::{Address, Settings};
use backupd::{Exit, Failure, open};
use repository::copy::{Copied, CopyPlan};
use repository::{BackupId, Cluster, Repository};
use serde::Serialize;
use store::Store;
use store::memory::MemoryStore;
use tokio::sync::watch;

use crate::Context;
use crate::output::{self, lines, size, table};
use crate::progress::{self, Shown};

/// How many of the names of differing objects a person is shown; JSON has all.
const SHOWN_MAX: usize = 10;

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// The repository to copy to, a directory or a bucket; it is made where there is none
    #[arg(value_name = "TO")]
    to: String,
    /// The repository to copy from [default: the configured one]
    #[arg(long, value_name = "ADDRESS")]
    from: Option<String>,
    /// Say what would be copied, and copy nothing
    #[arg(long)]
    dry_run: bool,
}

/// What was copied, or would be.
#[derive(Debug, Serialize)]
struct Report {
    from: String,
    to: String,
    /// Nothing was copied.
    dry_run: bool,
    /// All objects, `repository.json` and `cluster.json` among them.
    objects: u64,
    /// Bytes of those.
    bytes: u64,
    /// Objects that were gone when they were to be read: expired, or pieces of a segment that is whole now.
    gone: u64,
    /// How long it took.
    seconds: Option<f64>,
    /// Objects of WAL that were lacking.
    wal: Part,
    /// Backups that were lacking, or some of whose objects were.
    backups: Vec<BackupPart>,
    /// Objects that are in both with different sizes. They were left as they are.
    differing: Vec<String>,
}

#[derive(Debug, Serialize)]
struct Part {
    objects: u64,
    bytes: u64,
}

#[derive(Debug, Serialize)]
struct BackupPart {
    id: BackupId,
    /// It was not listed there, and is now. Otherwise only objects of one that runs or died.
    listed: bool,
    #[serde(flatten)]
    part: Part,
}

pub(crate) async fn run(context: &Context, arguments: Arguments) -> Result<Exit, Failure> {
    let settings = &context.settings;
    let from = arguments.from.as_deref().map(|text| address("--from", text)).transpose()?;
    let from = from.unwrap_or_else(|| settings.repository.clone());
    let to = address("TO", &arguments.to)?;
    if to.is_read_only() {
        return Err(store::Error::ReadOnly { address: to.to_string() }.into());
    }
    if from.is_same_place(&to) {
        return Err(wrong(format!("{from} and {to} are the same repository: expected another one")));
    }
    let cluster = source(settings, &from).await?;
    // Opening a directory makes it, which a dry run must not.
    let target: Arc<dyn Store> = if arguments.dry_run && open::is_missing(&to) {
        Arc::new(MemoryStore::default())
    } else {
        open::store_at(&to, settings).await?
    };
    let plan = cluster.plan_copy(&target).await?;
    let mut report = report(&from, &to, &plan);
    if arguments.dry_run {
        report.dry_run = true;
    } else {
        let begun = Instant::now();
        let copied = copy(context, &cluster, &target, &plan).await?;
        report.objects = copied.objects;
        report.bytes = copied.bytes;
        report.gone = copied.gone;
        report.seconds = Some(begun.elapsed().as_secs_f64());
    }
    context.output.print(&report, || text(&report))?;
    Ok(if report.differing.is_empty() { Exit::Done } else { Exit::Findings })
}

fn address(name: &str, text: &str) -> Result<Address, Failure> {
    Address::parse(text).map_err(|expected| wrong(format!("{name} is \"{text}\": expected {expected}")))
}

fn wrong(reason: String) -> Failure {
    backupd::config::Error::new(reason).into()
}

async fn source(settings: &Settings, from: &Address) -> Result<Cluster, Failure> {
    if open::is_missing(from) {
        return Err(repository::Error::NoRepository { address: from.to_string() }.into());
    }
    let cluster =
        Repository::open(open::store_at(from, settings).await?).await?.cluster(&settings.cluster)?;
    cluster.require_identity().await?;
    Ok(cluster)
}

async fn copy(
    context: &Context,
    cluster: &Cluster,
    target: &Arc<dyn Store>,
    plan: &CopyPlan,
) -> Result<Copied, Failure> {
    let (_, total) = plan.totals();
    let (done, watched) = watch::channel(0_u64);
    let describe = |bytes: &u64| Shown { what: "copying".to_owned(), bytes: *bytes, bytes_total: total };
    let work = cluster.copy(target, plan, |size| done.send_modify(|bytes| *bytes += size));
    Ok(progress::show(&context.output, watched, describe, work).await?)
}

fn report(from: &Address, to: &Address, plan: &CopyPlan) -> Report {
    let (objects, bytes) = plan.totals();
    let wal =
        Part { objects: plan.wal.len() as u64, bytes: plan.wal.iter().map(|missing| missing.size).sum() };
    let backups = plan.backups.iter().map(|backup| {
        let (objects, bytes) = backup.totals();
        let part = Part { objects, bytes };
        BackupPart { id: backup.id.clone(), listed: backup.is_listed(), part }
    });
    Report {
        from: from.to_string(),
        to: to.to_string(),
        dry_run: false,
        objects,
        bytes,
        gone: 0,
        seconds: None,
        wal,
        backups: backups.collect(),
        differing: plan.differing.iter().map(ToString::to_string).collect(),
    }
}

fn text(report: &Report) -> String {
    let mut text = String::new();
    if report.wal.objects > 0 || !report.backups.is_empty() {
        let mut rows = table(&["Lacking", ">Objects", ">Bytes"]);
        let mut add = |name: String, part: &Part| {
            rows.add_row([name, part.objects.to_string(), size(part.bytes)]);
        };
        add("WAL".to_owned(), &report.wal);
        for backup in &report.backups {
            let rest = if backup.listed { "" } else { ", not published" };
            add(format!("backup {}{rest}", backup.id), &backup.part);
        }
        text = format!("{}\n", lines(&rows));
    }
    for key in report.differing.iter().take(SHOWN_MAX) {
        text.push_str(&format!("DIFFERS: {key} has another size in each repository; verify both\n"));
    }
    if report.differing.len() > SHOWN_MAX {
        text.push_str(&format!("DIFFERS: and {} more\n", report.differing.len() - SHOWN_MAX));
    }
    let Report { objects, bytes, from, to, .. } = report;
    let copied = match (report.seconds, *objects) {
        (_, 0) => format!("{to} has all that {from} has"),
        (None, _) => format!("would copy {objects} objects, {}, from {from} to {to}", size(*bytes)),
        (Some(seconds), _) => {
            let took = output::duration(Duration::from_secs_f64(seconds));
            format!("copied {objects} objects, {}, from {from} to {to} in {took}", size(*bytes))
        }
    };
    text + &copied
}
