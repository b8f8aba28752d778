//! `backupctl restore`

use std::convert::Infallible;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use backupd::target_time::{self, Written};
use backupd::{Exit, Failure, open, stop};
use clap::ValueEnum;
use engine::catalog::Catalog;
use engine::fetch::{Access, IdentitySource};
use engine::restore::{self, Action, Destination, Plan, Progress, Request, Target, TimelineChoice};
use pgformat::{Lsn, TimelineId};
use serde::Serialize;
use tokio::sync::watch;

use super::WhichBackup;
use crate::Context;
use crate::output::{self, facts, size, time};
use crate::progress::{self, Shown};

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Where to: a directory that is empty or not there
    #[arg(long, value_name = "DIR")]
    data_dir: PathBuf,
    /// From which backup: its name, latest or oldest [default: the newest that reaches the target]
    #[arg(long)]
    backup: Option<WhichBackup>,
    #[command(flatten)]
    target: TargetArguments,
    /// Stop just before the target, not just after it
    #[arg(long, requires = "target")]
    exclusive: bool,
    /// Along which timeline: latest, current (the backup's), or a number
    #[arg(long, value_name = "TIMELINE", default_value = "latest", value_parser = timeline)]
    target_timeline: TimelineChoice,
    /// What the server does when it has reached the target [default: pause with a target, promote without]
    #[arg(long, value_enum, value_name = "ACTION")]
    target_action: Option<ActionArgument>,
    /// Put a tablespace into another directory than it was in; may be given several times
    #[arg(long, value_name = "OLD=NEW", value_parser = tablespace)]
    tablespace: Vec<(PathBuf, PathBuf)>,
    /// Make a standby, which follows its cluster, instead of recovering to a target
    #[arg(long, conflicts_with_all = ["target", "target_action"])]
    standby: bool,
    /// Print the plan and do nothing
    #[arg(long)]
    dry_run: bool,
}

/// Where recovery is to stop; without any of these, at the newest durable WAL.
#[derive(Debug, clap::Args)]
#[group(id = "target", multiple = false)]
struct TargetArguments {
    /// Stop at this time, UTC unless it has an offset: "2026-01-02 03:04:05.678+02", "yesterday 14:00", -2h
    #[arg(long, value_name = "TIME", value_parser = target_time::parse, allow_hyphen_values = true)]
    target_time: Option<Written>,
    /// Stop at this position in the WAL: 16/B374D848
    #[arg(long, value_name = "LSN")]
    target_lsn: Option<Lsn>,
    /// Stop at the end of this transaction
    #[arg(long, value_name = "XID")]
    target_xid: Option<u32>,
    /// Stop at this restore point, as made by pg_create_restore_point
    #[arg(long, value_name = "NAME")]
    target_name: Option<String>,
    /// Stop as soon as the backup is consistent
    #[arg(long)]
    target_immediate: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum ActionArgument {
    /// Wait, readable, for somebody to look and decide
    Pause,
    /// Become a primary on a new timeline
    Promote,
    /// Stop
    Shutdown,
}

fn timeline(text: &str) -> Result<TimelineChoice, String> {
    match text {
        "latest" => Ok(TimelineChoice::Latest),
        "current" => Ok(TimelineChoice::Current),
        number => number
            .parse()
            .ok()
            .and_then(TimelineId::new)
            .map(TimelineChoice::Number)
            .ok_or_else(|| "expected latest, current, or the number of a timeline".to_owned()),
    }
}

fn tablespace(text: &str) -> Result<(PathBuf, PathBuf), String> {
    match text.split_once('=') {
        Some((old, new)) if old.starts_with('/') && new.starts_with('/') => Ok((old.into(), new.into())),
        _ => Err("expected two absolute directories, as in /old/directory=/new/directory".to_owned()),
    }
}

impl TargetArguments {
    fn target(self) -> Target {
        let TargetArguments { target_time, target_lsn, target_xid, target_name, target_immediate } = self;
        let immediate = target_immediate.then_some(Target::Immediate);
        target_time
            .map(|written| Target::Time(written.at))
            .or(target_lsn.map(Target::Lsn))
            .or(target_xid.map(Target::Xid))
            .or(target_name.map(Target::Name))
            .or(immediate)
            .unwrap_or(Target::Newest)
    }
}

/// A restore, planned or done.
#[derive(Debug, Serialize)]
struct Report<'a> {
    /// Where to.
    data_dir: &'a Path,
    /// Nothing was done.
    dry_run: bool,
    /// How long it took; null when nothing was done.
    seconds: Option<f64>,
    /// Variables that PostgreSQL has to be started with, so that recovery reaches the repository.
    environment: &'a [&'static str],
    /// What was planned.
    plan: &'a Plan,
}

pub(crate) async fn run(context: &Context, arguments: Arguments) -> Result<Exit, Failure> {
    let shutdown = stop::on_signals()?;
    let data_dir =
        std::path::absolute(&arguments.data_dir).map_err(Failure::system("find the data directory"))?;
    if !arguments.dry_run {
        refuse_root(&data_dir)?;
    }
    let cluster = open::existing(&context.settings).await?;
    let mut catalog = Catalog::load(&cluster).await?;
    let backup = arguments.backup.map(|which| which.find(&catalog.backups)).transpose()?;
    if let Some(position) = catalog.backups.unreadable.iter().position(|(id, _)| Some(id) == backup.as_ref())
    {
        return Err(catalog.backups.unreadable.swap_remove(position).1.into());
    }
    if let Some(Written { at, relative: Some(words) }) = &arguments.target.target_time {
        context.output.note(&format!("\"{words}\" is understood as {}", time(*at)));
    }
    let target = arguments.target.target();
    let action = arguments.target_action.map(|action| match action {
        ActionArgument::Pause => Action::Pause,
        ActionArgument::Promote => Action::Promote,
        ActionArgument::Shutdown => Action::Shutdown,
    });
    let request = Request {
        backup,
        action,
        target,
        exclusive: arguments.exclusive,
        timeline: arguments.target_timeline,
        standby: arguments.standby,
    };
    let plan = restore::plan(&cluster, &catalog, &request).await?;
    let destination = Destination {
        data_dir: data_dir.clone(),
        tablespaces: arguments.tablespace,
        program: program(context)?,
        access: access(context)?,
        identity: identity(context)?,
        workers: context.settings.workers,
    };
    let environment = environment(context);
    if arguments.dry_run {
        restore::check(&plan, &destination)?;
        let report = Report { data_dir: &data_dir, dry_run: true, seconds: None, environment, plan: &plan };
        context.output.print(&report, || text(&report))?;
        return Ok(Exit::Done);
    }
    let begun = Instant::now();
    let (progress, watched) = watch::channel(Progress::default());
    let runner = backupd::runner();
    let protect = restore::protect(&cluster, &plan, &runner, backupd::now);
    let apply = restore::apply(&cluster, &plan, &destination, &progress, &shutdown);
    let work = protected(protect, apply);
    progress::show(&context.output, watched, describe, work).await?;
    let seconds = Some(begun.elapsed().as_secs_f64());
    let report = Report { data_dir: &data_dir, dry_run: false, seconds, environment, plan: &plan };
    context.output.print(&report, || text(&report))?;
    Ok(Exit::Done)
}

/// Restores, and says that it does, for as long as it takes.
async fn protected<T>(protect: impl Future<Output = ()>, restore: impl Future<Output = T>) -> T {
    let protect = async {
        protect.await;
        std::future::pending::<Infallible>().await
    };
    tokio::select! {
        restored = restore => restored,
        never = protect => match never {},
    }
}

/// What root restores belongs to root, and PostgreSQL does not run as root.
pub(super) fn refuse_root(data_dir: &Path) -> Result<(), Failure> {
    if !rustix::process::geteuid().is_root() {
        return Ok(());
    }
    Err(Failure::Destination {
        reason: format!(
            "cannot restore into {} as root, as PostgreSQL does not run as root",
            data_dir.display()
        ),
        hint: "run this as the user that runs PostgreSQL: runuser -u postgres -- backupctl restore …"
            .to_owned(),
    })
}

/// The command line of this program, quoted for a shell and for `restore_command`, where a per cent sign is doubled.
pub(super) fn program(context: &Context) -> Result<String, Failure> {
    let program = super::this_program().map_err(Failure::system("find this program"))?;
    let mut words = vec![quote(&program)?];
    if let Some(file) = &context.settings.file {
        let file = std::path::absolute(file).map_err(Failure::system("find the configuration file"))?;
        words.extend(["--config".to_owned(), quote(&file)?]);
    }
    Ok(words.join(" "))
}

/// What PostgreSQL's `restore_command` will need to reach the repository. It gets a token by the name of its file: a copy
/// would be one more place to guard, and the one in our environment ends with us.
pub(super) fn access(context: &Context) -> Result<Access, Failure> {
    let settings = &context.settings;
    let http = &settings.store.http;
    if !settings.repository.is_read_only() {
        return Ok(Access { s3: settings.s3_for_recovery.clone(), ..Access::default() });
    }
    let absolute = |path: &Option<PathBuf>| {
        path.as_ref()
            .map(std::path::absolute)
            .transpose()
            .map_err(Failure::system("find a file of the settings"))
    };
    let token_file = absolute(&settings.token_file)?.ok_or_else(|| Failure::Destination {
        reason: format!(
            "recovery will fetch WAL from {} long after this command has ended, and needs its token from a file",
            settings.repository
        ),
        hint: "write the token into a file that only this user can read, and set DRYDOCK_REPOSITORY_TOKEN_FILE to its \
               path instead of DRYDOCK_REPOSITORY_TOKEN"
            .to_owned(),
    })?;
    Ok(Access {
        token_file: Some(token_file),
        ca_file: absolute(&http.ca_file)?,
        insecure: http.insecure,
        ..Access::default()
    })
}

/// What of our environment recovery needs in its own. In a container the two are the same, so this is said and not
/// refused; without it recovery stops with an error, and loses nothing.
fn environment(context: &Context) -> &[&'static str] {
    let settings = &context.settings;
    if settings.repository.is_bucket() { &settings.s3_variables } else { &[] }
}

/// Where recovery, which runs elsewhere, finds the identity that we have found here.
pub(super) fn identity(context: &Context) -> Result<Option<IdentitySource>, Failure> {
    Ok(match &context.settings.encryption.identity {
        Some(IdentitySource::File(path)) => {
            let path = std::path::absolute(path).map_err(Failure::system("find the identity file"))?;
            Some(IdentitySource::File(path))
        }
        other => other.clone(),
    })
}

fn quote(path: &Path) -> Result<String, Failure> {
    let not_text = || Failure::Destination {
        reason: format!("{} cannot be put into restore_command", path.display()),
        hint: "use a path that is UTF-8 text".to_owned(),
    };
    let text = path.to_str().ok_or_else(not_text)?;
    Ok(format!("'{}'", text.replace('\'', "'\\''").replace('%', "%%")))
}

fn describe(progress: &Progress) -> Shown {
    let what = if progress.syncing { "making it durable" } else { "restoring" };
    Shown { what: what.to_owned(), bytes: progress.bytes, bytes_total: progress.bytes_total }
}

fn text(report: &Report) -> String {
    let plan = report.plan;
    let timelines: Vec<String> = plan.timelines.iter().map(|step| step.timeline.to_string()).collect();
    let mut rows = vec![
        ("Backup", format!("{}, finished {}", plan.backup, time(plan.backup_finished_at))),
        ("Files", format!("{}, {}", plan.file_count, size(plan.size_bytes))),
        ("Target", target(plan)),
        ("Timelines", timelines.join(" → ")),
        ("Replay", format!("from {}, at most {} of WAL", plan.start_lsn, size(plan.wal_bytes))),
        ("Consistent", format!("at {}", plan.consistent_lsn)),
        ("Stops", stops(plan)),
        ("WAL", format!("durable up to {}", plan.end_lsn)),
        ("Then", then(plan).to_owned()),
        ("Into", report.data_dir.display().to_string()),
    ];
    for space in &plan.tablespaces {
        rows.push(("Tablespace", format!("{} was in {}", space.oid, space.location)));
    }
    let mut text = facts(&rows);
    match report.seconds {
        None => text.push_str("\nNothing was done: this is the plan.\n"),
        Some(seconds) => {
            let took = output::duration(Duration::from_secs_f64(seconds));
            text.push_str(&format!("\nRestored in {took}. Start the server, which replays the WAL, with:\n"));
            text.push_str(&format!("    pg_ctl -D {} start\n", report.data_dir.display()));
        }
    }
    if !report.environment.is_empty() {
        let variables = report.environment.join(", ");
        text.push_str(&format!(
            "\nRecovery reads the bucket with what is set here as {variables}: start the server with the same set, or \
             name a file in DRYDOCK_S3_CREDENTIALS_FILE and the region in DRYDOCK_S3_REGION, and restore again.\n"
        ));
    }
    text
}

fn target(plan: &Plan) -> String {
    let place = match &plan.target {
        Target::Newest if plan.standby => return "none: a standby follows its cluster".to_owned(),
        Target::Newest => return "the newest durable WAL".to_owned(),
        Target::Time(at) => format!("time {}", at.format("%Y-%m-%d %H:%M:%S%.f UTC")),
        Target::Lsn(lsn) => format!("LSN {lsn}"),
        Target::Xid(xid) => format!("transaction {xid}"),
        Target::Name(name) => format!("restore point \"{name}\""),
        Target::Immediate => return "the end of the backup".to_owned(),
    };
    if plan.exclusive { format!("just before {place}") } else { place }
}

fn stops(plan: &Plan) -> String {
    match &plan.stops_at {
        _ if plan.standby => "not by itself".to_owned(),
        None => format!("at {}", plan.end_lsn),
        Some(stop) => {
            let at = stop
                .time
                .map_or_else(String::new, |at| format!(", {}", at.format("%Y-%m-%d %H:%M:%S%.f UTC")));
            format!("at the record {}{at}", stop.lsn)
        }
    }
}

fn then(plan: &Plan) -> &'static str {
    match plan.action {
        _ if plan.standby => "the server is a standby",
        // At the end of WAL PostgreSQL promotes, whatever the action says.
        _ if plan.target == Target::Newest => "the server becomes a primary, on a new timeline",
        Some(Action::Pause) | None => {
            "the server pauses, readable; pg_wal_replay_resume() or pg_promote() ends that"
        }
        Some(Action::Shutdown) => "the server stops",
        Some(Action::Promote) => "the server becomes a primary, on a new timeline",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_survive_the_shell_and_restore_command() {
        assert_eq!(quote(Path::new("/a b/it's 100%")).unwrap(), r"'/a b/it'\''s 100%%'");
    }

    #[test]
    fn timelines_and_tablespaces() {
        assert_eq!(timeline("latest"), Ok(TimelineChoice::Latest));
        assert_eq!(timeline("3"), Ok(TimelineChoice::Number(TimelineId::new(3).unwrap())));
        assert!(timeline("0").is_err() && timeline("newest").is_err());
        assert_eq!(tablespace("/a=/b"), Ok(("/a".into(), "/b".into())));
        assert!(tablespace("/a").is_err() && tablespace("a=/b").is_err());
    }
}
