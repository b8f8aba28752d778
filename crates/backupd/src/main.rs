//! `backupd`: the service.

use std::io::Write;
use std::process::ExitCode;

use backupd::config::{self, Flags, setting};
use backupd::{Exit, Failure, exit, logging, service, stop};
use clap::{Parser, Subcommand};

/// Drydock's service: streams the WAL of a PostgreSQL server into a repository, and never says that it has what it has
/// not.
#[derive(Debug, Parser)]
#[command(name = "backupd", version, after_help = exit::HELP, after_long_help = long_help())]
struct Arguments {
    #[command(flatten)]
    flags: Flags,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Archive WAL until told to stop by SIGTERM or SIGINT; SIGHUP has it read its settings again
    Run,
    /// See whether the configuration could be started with, and say what it comes to
    CheckConfig,
}

fn long_help() -> String {
    format!("{}\n\n{}", setting::help(), exit::HELP)
}

/// One thread receives and decides; these compress, and wait for the repository. More would each keep memory of their own.
const BLOCKING_THREADS_MAX: usize = 6;
/// As many calls may be under way to a repository that may lag, two writes, two copies and a listing, and none of them may
/// ever answer. Nobody else is to wait for a thread because of that.
const BLOCKING_THREADS_PER_LAGGING: usize = 5;

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let settings = match config::load(&arguments.flags) {
        Ok(settings) => settings,
        Err(error) => {
            let failure = Failure::from(error);
            failure.print(None);
            return failure.exit().into();
        }
    };
    logging::start(&settings.log);
    let ended = match arguments.verb {
        Verb::Run => run(&settings, arguments.flags),
        Verb::CheckConfig => check_config(&settings),
    };
    match ended {
        Ok(()) => Exit::Done.into(),
        Err(failure) => {
            failure.print(Some(&settings));
            failure.exit().into()
        }
    }
}

/// What only the service looks at is looked at, too; nothing is reached, made or listened on.
fn check_config(settings: &config::Settings) -> Result<(), Failure> {
    let text = service::describe(settings)?;
    let mut stdout = std::io::stdout().lock();
    stdout.write_all(text.as_bytes()).map_err(Failure::system("write the result"))
}

fn run(settings: &config::Settings, flags: Flags) -> Result<(), Failure> {
    let threads = BLOCKING_THREADS_MAX + BLOCKING_THREADS_PER_LAGGING * settings.further.later.len();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .max_blocking_threads(threads)
        .enable_all()
        .build()
        .map_err(Failure::system("start"))?;
    runtime
        .block_on(async { service::run(settings, move || config::load(&flags), stop::on_signals()?).await })
}
