//! `backupctl verify`

use std::path::PathBuf;

use backupd::{Exit, Failure, open, stop};
use engine::verify::{self, Finding, LostTargets, Progress, Reading, Report, Request, Severity};
use tokio::sync::watch;

use super::WhichBackup;
use super::drill;
use crate::Context;
use crate::output::{size, time};
use crate::progress::{self, Shown};

/// Of what was read before, this many percent are read again: in a nightly run, everything within ten days, which is sooner than
/// most people remove backups, for a tenth of the reading.
const SHARE_DEFAULT: &str = "10";
/// As with pg_basebackup: less would never end.
const MAX_RATE_MIN_KB: u64 = 32;

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Read and hash packs and WAL, too: all that no verification has read, and a share of the rest
    #[arg(long)]
    read: bool,
    /// How much of what was read before is read again, the longest unread first
    #[arg(long, value_name = "PERCENT", requires = "read", default_value = SHARE_DEFAULT, value_parser = clap::value_parser!(u8).range(0..=100))]
    share: u8,
    /// Read everything, whenever it was read last
    #[arg(long, requires = "read", conflicts_with = "share")]
    all: bool,
    /// Read no faster than this: kilobytes per second, or with the suffix M megabytes
    #[arg(long, value_name = "RATE", requires = "read", value_parser = max_rate)]
    max_rate: Option<u64>,
    /// Restore a backup into a scratch directory, replay its WAL, run pg_amcheck, and throw it away
    #[arg(long, conflicts_with_all = ["read"])]
    restore: bool,
    #[command(flatten)]
    drill: DrillArguments,
}

#[derive(Debug, clap::Args)]
pub(crate) struct DrillArguments {
    /// With --restore: which backup: its name, latest or oldest [default: the newest]
    #[arg(long, requires = "restore")]
    pub(crate) backup: Option<WhichBackup>,
    /// With --restore: replay only until the backup is consistent
    #[arg(long, requires = "restore")]
    pub(crate) immediate: bool,
    /// With --restore: where, a directory that is empty or not there [default: a new one for temporary files]
    #[arg(long, value_name = "DIR", requires = "restore")]
    pub(crate) scratch: Option<PathBuf>,
    /// With --restore: where PostgreSQL's programs are [default: where packages put this major version]
    #[arg(long, value_name = "DIR", env = "PG_BINDIR")]
    pub(crate) pg_bindir: Option<PathBuf>,
    /// With --restore: a setting for PostgreSQL, such as shared_buffers=1GB; may be given several times
    #[arg(long, value_name = "NAME=VALUE", requires = "restore", value_parser = drill::setting)]
    pub(crate) set: Vec<(String, String)>,
}

/// A rate as pg_basebackup takes it, in bytes per second.
fn max_rate(text: &str) -> Result<u64, String> {
    let (number, factor) = match text.trim() {
        megabytes if megabytes.ends_with('M') => (megabytes.trim_end_matches('M'), 1024),
        kilobytes => (kilobytes.strip_suffix('k').unwrap_or(kilobytes), 1),
    };
    let kilobytes = number.parse().ok().and_then(|number: u64| number.checked_mul(factor));
    let bytes = kilobytes.filter(|kb| *kb >= MAX_RATE_MIN_KB).and_then(|kb| kb.checked_mul(1024));
    bytes.ok_or_else(|| {
        format!("expected kilobytes per second, at least {MAX_RATE_MIN_KB}, or megabytes as in 50M")
    })
}

pub(crate) async fn run(context: &Context, arguments: Arguments) -> Result<Exit, Failure> {
    if arguments.restore {
        return drill::run(context, arguments.drill).await;
    }
    let shutdown = stop::on_signals()?;
    let cluster = match open::existing(&context.settings).await {
        // What can be said must be said: it is a finding, and the worst.
        Err(Failure::Engine(engine::Error::Repository(repository::Error::Damaged { key, reason }))) => {
            let backups = open::backup_names(&context.settings).await?;
            return print(context, &verify::nothing_opens(key, &reason, backups));
        }
        cluster => cluster?,
    };
    let request = Request {
        reading: match (arguments.read, arguments.all) {
            (false, _) => Reading::Nothing,
            (true, false) => Reading::Share(arguments.share),
            (true, true) => Reading::All,
        },
        workers: context.settings.workers,
        max_rate: arguments.max_rate,
        clock: backupd::now,
    };
    let (progress, watched) = watch::channel(Progress::default());
    let work = verify::verify(&cluster, &request, &progress);
    let report = tokio::select! {
        report = progress::show(&context.output, watched, describe, work) => report?,
        () = shutdown.cancelled() => return Err(engine::Error::Stopped.into()),
    };
    print(context, &report)
}

fn print(context: &Context, report: &Report) -> Result<Exit, Failure> {
    context.output.print(report, || text(report))?;
    Ok(match (report.findings.is_empty(), report.unread.is_empty()) {
        (false, _) => Exit::Findings,
        (true, false) => Exit::Repository,
        (true, true) => Exit::Done,
    })
}

fn describe(progress: &Progress) -> Shown {
    let what = format!("verifying, {} objects", progress.objects);
    Shown { what, bytes: progress.bytes, bytes_total: progress.bytes_total }
}

fn text(report: &Report) -> String {
    let mut text = findings(&report.findings);
    for unread in &report.unread {
        text.push_str(&format!("not known: {} could not be read: {}\n", unread.key, unread.why));
    }
    let unread = match report.unread.len() {
        0 => String::new(),
        unread => format!(", {unread} objects that could not be read"),
    };
    text.push_str(&format!(
        "{} findings{unread}; {} objects, {}, looked at\n",
        report.findings.len(),
        report.objects,
        size(report.bytes)
    ));
    let (read, remembered) = (report.read, report.remembered);
    text.push_str(&format!(
        "packs and WAL: {} objects, {}, read now; {} objects, {}, read before{}\n",
        read.objects,
        size(read.bytes),
        remembered.objects,
        size(remembered.bytes),
        report.remembered_since.map_or_else(String::new, |since| format!(", since {}", time(since)))
    ));
    text
}

/// Findings, and what each costs.
pub(super) fn findings(findings: &[Finding]) -> String {
    let mut text = String::new();
    for finding in findings {
        let severity = match finding.severity {
            Severity::Critical => "CRITICAL",
            Severity::Serious => "SERIOUS ",
            Severity::Warning => "warning ",
        };
        text.push_str(&format!("{severity}  {}: {}\n", finding.key, finding.what));
        if !finding.backups.is_empty() {
            let backups: Vec<String> = finding.backups.iter().map(ToString::to_string).collect();
            text.push_str(&format!("          cannot be restored: {}\n", backups.join(", ")));
        }
        for lost in &finding.lost {
            text.push_str(&format!("          cannot be recovered to: {}\n", range(lost)));
        }
    }
    text
}

fn range(lost: &LostTargets) -> String {
    let LostTargets { timeline, from_lsn, to_lsn, from_time, to_time } = lost;
    let times = match (from_time, to_time) {
        (None, None) => String::new(),
        (Some(from), None) => format!(", after {}", time(*from)),
        (None, Some(to)) => format!(", before {}", time(*to)),
        (Some(from), Some(to)) => format!(", between {} and {}", time(*from), time(*to)),
    };
    format!("timeline {timeline} from {from_lsn} to {to_lsn}{times}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_those_of_pg_basebackup() {
        for (text, rate) in [("32", 32 << 10), ("100k", 100 << 10), ("50M", 50 << 20)] {
            assert_eq!(max_rate(text), Ok(rate), "{text}");
        }
        for text in ["", "31", "M", "-1", "1G", "50MB", "99999999999999999999M"] {
            assert!(max_rate(text).is_err(), "{text}");
        }
    }
}
