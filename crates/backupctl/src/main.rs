//! `backupctl`: one word a verb.
//!
//! Standard output carries results and nothing else: a table, or one JSON document. Progress, warnings and errors go to
//! standard error.

mod commands;
mod output;
mod progress;

use std::ffi::OsString;
use std::process::ExitCode;

use backupd::config::{self, Flags, Log, LogFormat, Settings, setting};
use backupd::{Exit, Failure, exit, logging};
use clap::{CommandFactory, Parser, Subcommand};

use crate::commands::key::{self, KeyVerb};
use crate::commands::wal::{self, WalVerb};
use crate::commands::{backup, check, copy, expire, list, manual, pin, restore, show, status, verify};
use crate::output::{Format, Output};

/// Back up and restore PostgreSQL clusters with Drydock.
#[derive(Debug, Parser)]
#[command(name = "backupctl", version, after_help = exit::HELP, after_long_help = long_help())]
struct Arguments {
    #[command(flatten)]
    flags: Flags,
    /// How results look
    #[arg(long, short, global = true, help_heading = "How", value_enum, default_value_t = Format::Table)]
    output: Format,
    /// Say less: no progress, only errors
    #[arg(long, short, global = true, help_heading = "How", conflicts_with = "verbose")]
    quiet: bool,
    /// Say more; twice for debugging, three times for everything
    #[arg(long, short, global = true, help_heading = "How", action = clap::ArgAction::Count)]
    verbose: u8,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Take a base backup; `backupd run` must be archiving
    Backup(backup::Arguments),
    /// List backups, WAL and holes, and from when to when one can restore
    List,
    /// Show all about a backup
    Show(show::Arguments),
    /// Restore a data directory to a point in time
    Restore(restore::Arguments),
    /// Show how things stand; fails with 10 when something is wrong
    Status(status::Arguments),
    /// Look at everything that could keep a backup or a restore from working
    Check,
    /// Remove what the retention settings do not ask for
    Expire(expire::Arguments),
    /// Keep a backup, whatever the retention settings say
    Pin(pin::PinArguments),
    /// Leave a backup to the retention settings again
    Unpin(pin::UnpinArguments),
    /// See whether what is stored is whole
    Verify(verify::Arguments),
    /// Copy to another repository what it lacks of this cluster; fails with 10 when the two have different objects
    Copy(copy::Arguments),
    /// Keys of an encrypted repository
    #[command(subcommand)]
    Key(KeyVerb),
    /// Archived WAL
    #[command(subcommand)]
    Wal(WalVerb),
    /// Print what makes a shell complete these commands
    Completions(manual::CompletionArguments),
    /// Print the manual page, or write those of all commands into a directory
    Manual(manual::ManualArguments),
}

fn long_help() -> String {
    format!("{}\n\n{}", setting::help(), exit::HELP)
}

/// What a command runs with.
struct Context {
    settings: Settings,
    output: Output,
}

fn main() -> ExitCode {
    let arguments: Vec<OsString> = std::env::args_os().collect();
    let for_recovery = wal::serves_recovery(&arguments);
    let arguments = match Arguments::try_parse_from(arguments) {
        Ok(arguments) => arguments,
        Err(error) => {
            // There is nowhere to report that this could not be printed.
            drop(error.print());
            return match (error.use_stderr(), for_recovery) {
                (false, _) => Exit::Done.into(),
                (true, true) => wal::COULD_NOT_FIND_OUT.into(),
                (true, false) => Exit::Usage.into(),
            };
        }
    };
    if let Verb::Wal(verb) = &arguments.verb
        && let Some(code) = wal::run_for_recovery(verb, &arguments.flags)
    {
        return code;
    }
    if let Verb::Key(KeyVerb::New(new)) = &arguments.verb {
        let output = Output { format: arguments.output, quiet: arguments.quiet };
        return match key::make(new, &output) {
            Ok(exit) => exit.into(),
            Err(failure) => failed(&failure, None),
        };
    }
    let printed = match &arguments.verb {
        Verb::Completions(shell) => Some(manual::completions(shell, Arguments::command())),
        Verb::Manual(manual) => Some(manual::manual(manual, Arguments::command())),
        _ => None,
    };
    match printed {
        Some(Ok(exit)) => return exit.into(),
        Some(Err(failure)) => return failed(&failure, None),
        None => {}
    }
    let settings = match config::load(&arguments.flags) {
        Ok(settings) => settings,
        Err(error) => return failed(&error.into(), None),
    };
    // What the service logs, and how, is another matter than what a command says.
    let filter = match (arguments.quiet, arguments.verbose) {
        (true, _) => "error",
        (false, 0) => "warn",
        (false, 1) => "info",
        (false, 2) => "debug",
        (false, _) => "trace",
    };
    logging::start(&Log { filter: filter.to_owned(), format: LogFormat::Text });
    let output = Output { format: arguments.output, quiet: arguments.quiet };
    let context = Context { settings, output };
    match run(&context, arguments.verb) {
        Ok(exit) => exit.into(),
        Err(failure) => failed(&failure, Some(&context.settings)),
    }
}

fn failed(failure: &Failure, settings: Option<&Settings>) -> ExitCode {
    failure.print(settings);
    failure.exit().into()
}

/// Threads for reading and writing the repository, beside those that work on bytes.
const BLOCKING_THREADS_BESIDE: usize = 2;

fn run(context: &Context, verb: Verb) -> Result<Exit, Failure> {
    // One thread reads and orders; work on bytes is done on the blocking threads, as many as there are workers.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .max_blocking_threads(context.settings.workers.max(1) + BLOCKING_THREADS_BESIDE)
        .enable_all()
        .build()
        .map_err(Failure::system("start"))?;
    runtime.block_on(async {
        match verb {
            Verb::Backup(arguments) => backup::run(context, arguments).await,
            Verb::List => list::run(context).await,
            Verb::Show(arguments) => show::run(context, arguments).await,
            Verb::Restore(arguments) => restore::run(context, arguments).await,
            Verb::Status(arguments) => status::run(context, arguments).await,
            Verb::Check => check::run(context).await,
            Verb::Expire(arguments) => expire::run(context, arguments).await,
            Verb::Pin(arguments) => pin::pin(context, arguments).await,
            Verb::Unpin(arguments) => pin::unpin(context, arguments).await,
            Verb::Verify(arguments) => verify::run(context, arguments).await,
            Verb::Copy(arguments) => copy::run(context, arguments).await,
            Verb::Key(verb) => key::run(context, verb).await,
            Verb::Wal(verb) => wal::run(context, verb).await,
            // They need no configuration, and are over by now.
            Verb::Completions(_) | Verb::Manual(_) => Ok(Exit::Done),
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn the_help_lists_exit_codes_and_settings() {
        let help = Arguments::command().render_long_help().to_string();
        for text in
            ["Exit codes:", "10  done, with findings", "REPLICATION_HOST", "DRYDOCK_REPOSITORY", "--output"]
        {
            assert!(help.contains(text), "{text}\n{help}");
        }
        assert!(Arguments::command().render_help().to_string().contains("Exit codes:"));
    }
}
