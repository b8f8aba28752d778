//! `backupd`: the service.

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
    /// Archive WAL until told to stop by SIGTERM or SIGINT
    Run,
}

fn long_help() -> String {
    format!("{}\n\n{}", setting::help(), exit::HELP)
}

/// One thread receives and decides; these compress, and wait for the repository. More would each keep memory of their own.
const BLOCKING_THREADS_MAX: usize = 6;

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
        Verb::Run => run(&settings),
    };
    match ended {
        Ok(()) => Exit::Done.into(),
        Err(failure) => {
            failure.print(Some(&settings));
            failure.exit().into()
        }
    }
}

fn run(settings: &config::Settings) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .max_blocking_threads(BLOCKING_THREADS_MAX)
        .enable_all()
        .build()
        .map_err(Failure::system("start"))?;
    runtime.block_on(async { service::run(settings, stop::on_signals()?).await })
}
