//! `backupctl completions` and `backupctl manual`

use std::io::Write;
use std::path::PathBuf;

use backupd::{Exit, Failure};
use clap::Command;
use clap_complete::Shell;

#[derive(Debug, clap::Args)]
pub(crate) struct CompletionArguments {
    /// Which shell
    shell: Shell,
}

#[derive(Debug, clap::Args)]
pub(crate) struct ManualArguments {
    /// Write a page for each command here, instead of printing the first
    #[arg(long, value_name = "DIR")]
    directory: Option<PathBuf>,
}

pub(crate) fn completions(arguments: &CompletionArguments, mut command: Command) -> Result<Exit, Failure> {
    let mut text = Vec::new();
    clap_complete::generate(arguments.shell, &mut command, "backupctl", &mut text);
    print(&text)
}

pub(crate) fn manual(arguments: &ManualArguments, command: Command) -> Result<Exit, Failure> {
    if let Some(directory) = &arguments.directory {
        clap_mangen::generate_to(command, directory).map_err(Failure::system("write the manual pages"))?;
        return Ok(Exit::Done);
    }
    let mut text = Vec::new();
    clap_mangen::Man::new(command).render(&mut text).map_err(Failure::system("make the manual page"))?;
    print(&text)
}

fn print(text: &[u8]) -> Result<Exit, Failure> {
    std::io::stdout().lock().write_all(text).map_err(Failure::system("write the result"))?;
    Ok(Exit::Done)
}
