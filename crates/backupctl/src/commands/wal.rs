//! `backupctl wal …`

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use backupd::config::{self, Flags};
use backupd::view::{self, WalView};
use backupd::{Exit, Failure, open};
use engine::catalog::Catalog;
use engine::fetch::{self, Access, Ahead, Fetched, PLAN_PATH, RecoveryPlan};
use engine::status;
use repository::Cluster;
use repository::wal::Hole;
use serde::Serialize;

use super::list;
use crate::Context;
use crate::output::{lines, size, table};

#[derive(Debug, clap::Subcommand)]
pub(crate) enum WalVerb {
    /// List archived WAL by timeline: ranges, holes, gaps
    List,
    /// Put an archived WAL file at a path; what restore_command runs
    ///
    /// Exits with 0 when the file is there, with 1 when it is not in the archive, and with 200 when that could not be found
    /// out, which stops recovery where 1 would end it.
    Fetch(FetchArguments),
    /// Take a recovery's settings out of the data directory; recovery_end_command runs this
    #[command(hide = true)]
    End,
    /// Fetch WAL ahead of recovery; `wal fetch` runs this by itself
    #[command(hide = true)]
    Prefetch(PrefetchArguments),
}

#[derive(Debug, clap::Args)]
pub(crate) struct FetchArguments {
    /// The plan that a restore left beside the data [default: pg_wal/drydock/plan.json, where it is there]
    #[arg(long, value_name = "FILE")]
    plan: Option<PathBuf>,
    /// Fetch nothing ahead of what is asked for
    #[arg(long)]
    no_prefetch: bool,
    /// Name of a segment or a history file: restore_command's %f
    segment: String,
    /// Where to put it: restore_command's %p
    path: PathBuf,
}

#[derive(Debug, clap::Args)]
pub(crate) struct PrefetchArguments {
    /// The plan
    #[arg(long, value_name = "FILE")]
    plan: PathBuf,
    /// The segment that was asked for
    segment: String,
}

/// PostgreSQL stops recovery on exit codes above 125; below it takes the file for absent, ends recovery and promotes.
pub(crate) const COULD_NOT_FIND_OUT: u8 = 200;
/// "Not in the archive".
const NOT_IN_ARCHIVE: u8 = 1;

/// Whether these arguments are a `restore_command`'s, whatever else is wrong with them.
pub(crate) fn serves_recovery(arguments: &[OsString]) -> bool {
    let position = |word: &str| arguments.iter().skip(1).position(|argument| argument == word);
    matches!((position("wal"), position("fetch")), (Some(wal), Some(fetch)) if wal < fetch)
}

/// Runs the verbs that PostgreSQL calls, which have their own exit codes; `None` for the others.
pub(crate) fn run_for_recovery(verb: &WalVerb, flags: &Flags) -> Option<ExitCode> {
    let code = match verb {
        WalVerb::List => return None,
        WalVerb::Fetch(arguments) => on_one_thread(fetch_one(arguments, flags)),
        WalVerb::Prefetch(arguments) => on_one_thread(prefetch(arguments)),
        WalVerb::End => on_one_thread(async { Ok(engine::restore::forget(Path::new(".")).map(|()| 0)?) }),
    };
    Some(code.into())
}

/// A runtime that starts fast: this is called for every segment.
fn on_one_thread(work: impl Future<Output = Result<u8, Failure>>) -> u8 {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let result = runtime.map_err(Failure::system("start")).and_then(|runtime| runtime.block_on(work));
    result.unwrap_or_else(|failure| {
        failure.print(None);
        COULD_NOT_FIND_OUT
    })
}

async fn fetch_one(arguments: &FetchArguments, flags: &Flags) -> Result<u8, Failure> {
    let path = match &arguments.plan {
        Some(path) => Some(path.as_path()),
        None => Some(Path::new(PLAN_PATH)).filter(|path| path.exists()),
    };
    let plan = path.map(RecoveryPlan::read).transpose()?;
    let ahead = ahead();
    if let (Some(ahead), Some(plan), false) = (&ahead, &plan, arguments.no_prefetch)
        && ahead.take(plan, &arguments.segment, &arguments.path).await
    {
        if let Some(path) = path.filter(|_| ahead.is_wanted(plan, &arguments.segment)) {
            start_prefetch(path, &arguments.segment);
        }
        return Ok(0);
    }
    let cluster = match &plan {
        Some(plan) => open_planned(plan).await?,
        None => open::existing(&config::load(flags)?).await?,
    };
    let fetched = fetch::fetch(&cluster, plan.as_ref(), &arguments.segment, &arguments.path).await?;
    if let (Fetched::Delivered, Some(plan), Some(path), Some(ahead)) = (fetched, &plan, path, ahead)
        && !arguments.no_prefetch
        && ahead.is_wanted(plan, &arguments.segment)
    {
        start_prefetch(path, &arguments.segment);
    }
    Ok(match fetched {
        Fetched::Delivered => 0,
        Fetched::NotInArchive => NOT_IN_ARCHIVE,
    })
}

/// The plan says where the WAL is, so that recovery needs no configuration.
async fn open_planned(plan: &RecoveryPlan) -> Result<Cluster, Failure> {
    let flags = Flags {
        repository: Some(plan.repository.clone()),
        cluster: Some(plan.cluster.clone()),
        config: None,
    };
    let Access { token_file, ca_file, insecure, s3 } = &plan.access;
    let text = |path: &Option<PathBuf>| path.as_ref()?.to_str().map(str::to_owned);
    let access = [
        ("DRYDOCK_REPOSITORY_TOKEN_FILE", text(token_file)),
        ("DRYDOCK_REPOSITORY_CA_FILE", text(ca_file)),
        ("DRYDOCK_REPOSITORY_INSECURE", Some(insecure.to_string())),
    ];
    let access = access.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?)));
    let access = access.chain(s3.clone()).collect();
    let machine = config::Machine { cores: 1, read: |path| std::fs::read_to_string(path) };
    let mut settings = config::resolve(None, &access, &flags, machine)?;
    settings.encryption.identity = plan.identity.clone();
    open::existing(&settings).await
}

/// Goes on without us: recovery should not wait for what it has not asked for. That it fails, or is not started, costs
/// only time.
fn start_prefetch(plan: &Path, segment: &str) {
    let Ok(program) = super::this_program() else { return };
    let mut command = Command::new(program);
    command.args(["wal", "prefetch", "--plan"]).arg(plan).arg(segment);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    drop(command.spawn());
}

async fn prefetch(arguments: &PrefetchArguments) -> Result<u8, Failure> {
    let plan = RecoveryPlan::read(&arguments.plan)?;
    if let Some(ahead) = ahead() {
        ahead.run(&open_planned(&plan).await?, &plan, &arguments.segment).await?;
    }
    Ok(0)
}

/// Where segments are that were fetched ahead since the machine was started; `None` where that cannot be told.
fn ahead() -> Option<Ahead> {
    let start = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    Some(Ahead::of(start.trim()))
}

/// Archived WAL.
#[derive(Debug, Serialize)]
struct WalList {
    /// The cluster's name.
    cluster: String,
    /// Bytes in a segment.
    segment_size: u64,
    /// By timeline.
    timelines: Vec<WalView>,
    /// WAL that is known to be missing.
    holes: Vec<Hole>,
}

pub(crate) async fn run(context: &Context, verb: WalVerb) -> Result<Exit, Failure> {
    match verb {
        WalVerb::List => list_wal(context).await,
        // Run before, without a configuration.
        WalVerb::Fetch(_) | WalVerb::Prefetch(_) | WalVerb::End => Ok(Exit::Failed),
    }
}

async fn list_wal(context: &Context) -> Result<Exit, Failure> {
    let cluster = open::existing(&context.settings).await?;
    let catalog = Catalog::load(&cluster).await?;
    // What a crash left behind a gap is listed, too.
    let coverage = cluster.coverage(catalog.segment_size()).await?;
    let mut timelines = view::wal(&coverage);
    view::mark_tails(&mut timelines, &status::forks(&catalog));
    let list = WalList {
        cluster: cluster.name().to_owned(),
        segment_size: catalog.identity.segment_size,
        timelines,
        holes: view::holes(&coverage),
    };
    context.output.print(&list, || text(&list))?;
    Ok(Exit::Done)
}

fn text(list: &WalList) -> String {
    let mut rows = table(&[">Timeline", "Range", ">WAL", ""]);
    for timeline in &list.timelines {
        for range in &timeline.ranges {
            let tail = timeline.left_at.filter(|left_at| range.to > *left_at);
            let remark = tail.map_or_else(String::new, |left_at| {
                format!("a tail beyond {left_at}, where the cluster left it")
            });
            let bytes = size(range.to.since(range.from));
            rows.add_row([
                timeline.timeline.to_string(),
                format!("{}..{}", range.from, range.to),
                bytes,
                remark,
            ]);
        }
    }
    format!("{}\n{}", list::wal_and_holes(&list.timelines, &list.holes), lines(&rows))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_restore_command_is_recognised_whatever_is_wrong_with_it() {
        let recognised =
            |line: &str| serves_recovery(&line.split(' ').map(OsString::from).collect::<Vec<_>>());
        assert!(recognised("backupctl wal fetch"));
        assert!(recognised("backupctl --config x wal fetch --nonsense a b"));
        assert!(!recognised("backupctl wal list"));
        assert!(!recognised("backupctl fetch wal"));
        assert!(!recognised("wal fetch"));
    }
}
