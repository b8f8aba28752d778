//! `backupctl verify --restore`

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use backupd::config::Settings;
use backupd::{Exit, Failure, open, stop};
use engine::catalog::Catalog;
use engine::drill::{self, Outcome, Place, Progress, Report, Request, StepName};
use tokio::sync::watch;

use super::restore;
use super::verify::{self, DrillArguments};
use crate::Context;
use crate::output::{duration, facts, size};
use crate::progress::{self, Shown};

pub(super) fn setting(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("expected NAME=VALUE")?;
    Ok((name.trim().to_owned(), value.to_owned()))
}

pub(super) async fn run(context: &Context, arguments: DrillArguments) -> Result<Exit, Failure> {
    let shutdown = stop::on_signals()?;
    let place = match arguments.scratch {
        Some(path) => {
            Place::Into(std::path::absolute(path).map_err(Failure::system("find the scratch directory"))?)
        }
        None => Place::Below(std::env::temp_dir()),
    };
    let (Place::Into(directory) | Place::Below(directory)) = &place;
    restore::refuse_root(directory)?;
    let cluster = open::existing(&context.settings).await?;
    let mut catalog = Catalog::load(&cluster).await?;
    let backup = arguments.backup.map(|which| which.find(&catalog.backups)).transpose()?;
    if let Some(position) = catalog.backups.unreadable.iter().position(|(id, _)| Some(id) == backup.as_ref())
    {
        return Err(catalog.backups.unreadable.swap_remove(position).1.into());
    }
    let request = Request {
        backup,
        immediate: arguments.immediate,
        place,
        token: format!("{}-{}", backupd::now().format("%Y%m%dT%H%M%S"), std::process::id()),
        bindir: programs(arguments.pg_bindir, catalog.identity.postgresql_major)?,
        program: restore::program(context)?,
        access: restore::access(context)?,
        identity: restore::identity(context)?,
        roles: roles(&context.settings),
        settings: arguments.set,
        workers: context.settings.workers,
    };
    let (progress, watched) = watch::channel(Progress::default());
    let work = drill::run(&cluster, &catalog, &request, &progress, &shutdown);
    let report = progress::show(&context.output, watched, describe, work).await?;
    context.output.print(&report, || text(&report))?;
    Ok(if report.findings.is_empty() { Exit::Done } else { Exit::Findings })
}

/// Roles that are likely to exist, as whom one can ask who is superuser.
fn roles(settings: &Settings) -> Vec<String> {
    let mut roles = vec!["postgres".to_owned()];
    if let Ok(server) = settings.server() {
        roles.extend([server.sql.user.clone(), server.replication.user.clone()]);
    }
    roles.extend(std::env::var("USER").ok());
    roles
}

/// The directory of PostgreSQL's programs of this major version.
fn programs(chosen: Option<PathBuf>, major: u16) -> Result<PathBuf, Failure> {
    let packaged = || {
        let directories = [format!("/usr/lib/postgresql/{major}/bin"), format!("/usr/pgsql-{major}/bin")];
        directories.map(PathBuf::from).into_iter().chain(asked()).find(|path| version(path) == Some(major))
    };
    match chosen {
        Some(path) if version(&path) == Some(major) => Ok(path),
        Some(path) => Err(Failure::Destination {
            reason: format!("{} does not hold the programs of PostgreSQL {major}", path.display()),
            hint: format!("the backup is of PostgreSQL {major}; give its directory with --pg-bindir"),
        }),
        None => packaged().ok_or_else(|| Failure::Destination {
            reason: format!(
                "PostgreSQL {major} is not installed here, and the backup cannot be tried without"
            ),
            hint: format!("install PostgreSQL {major}, or say with --pg-bindir where its programs are"),
        }),
    }
}

fn asked() -> Option<PathBuf> {
    let output = Command::new("pg_config").arg("--bindir").output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| PathBuf::from(text.trim()))
}

/// The major version of the server in this directory, from `postgres (PostgreSQL) 15.18 (Debian …)`.
fn version(directory: &Path) -> Option<u16> {
    let output = Command::new(directory.join("postgres")).arg("--version").output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    let number = text.split_whitespace().nth(2)?;
    number.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}

fn describe(progress: &Progress) -> Shown {
    match progress.step {
        None => Shown { what: "planning".to_owned(), ..Shown::default() },
        Some(StepName::Restore) => Shown {
            what: "restoring".to_owned(),
            bytes: progress.restore.bytes,
            bytes_total: progress.restore.bytes_total,
        },
        Some(StepName::Replay) => Shown { what: "replaying WAL".to_owned(), ..Shown::default() },
        Some(StepName::Check) => Shown { what: "checking with pg_amcheck".to_owned(), ..Shown::default() },
    }
}

fn text(report: &Report) -> String {
    let mut rows = vec![
        ("Backup", format!("{}, {}", report.backup, size(report.size_bytes))),
        ("WAL", format!("at most {}, durable up to {}", size(report.wal_bytes), report.end_lsn)),
    ];
    if let Some(lsn) = report.replayed_lsn {
        rows.push(("Replayed", format!("up to {lsn} on timeline {}", report.timeline)));
    }
    for step in &report.steps {
        let name = match step.step {
            StepName::Restore => "Restore",
            StepName::Replay => "Replay",
            StepName::Check => "Check",
        };
        let took = duration(Duration::from_secs_f64(step.seconds));
        let outcome = match step.outcome {
            Outcome::Passed => format!("passed in {took}"),
            Outcome::Failed => format!("FAILED after {took}"),
            Outcome::Skipped => "skipped".to_owned(),
        };
        let note = step.note.as_ref().map_or_else(String::new, |note| format!(": {note}"));
        rows.push((name, format!("{outcome}{note}")));
    }
    for path in &report.cleaned {
        rows.push(("Removed", format!("{}, left by a drill that was killed", path.display())));
    }
    let mut text = facts(&rows);
    text.push_str(&verify::findings(&report.findings));
    text.push_str(&format!("{} findings\n", report.findings.len()));
    text
}

#[cfg(test)]
mod tests {
    use super::setting;

    #[test]
    fn settings_are_names_and_values() {
        assert_eq!(setting("a=b=c"), Ok(("a".into(), "b=c".into())));
        assert!(setting("a").is_err());
    }
}
