//! `backupctl key …`

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use backupd::{Exit, Failure, open};
use repository::crypt::{Identities, Recipient, Recipients};
use repository::{Cluster, Repository};
use serde::Serialize;
use zeroize::Zeroizing;

use crate::Context;
use crate::output::Output;

#[derive(Debug, clap::Subcommand)]
pub(crate) enum KeyVerb {
    /// Make an identity: a secret that reads what is encrypted to its recipient
    New(NewArguments),
    /// List the recipients of the repository
    List,
    /// Encrypt to a recipient, too, from now on
    Add(AddArguments),
    /// Encrypt to a recipient no more; what was written before stays readable to it
    Remove(RemoveArguments),
}

#[derive(Debug, clap::Args)]
pub(crate) struct NewArguments {
    /// Where to put it, readable for nobody else; it must not exist [default: standard output]
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

#[derive(Debug, clap::Args)]
pub(crate) struct AddArguments {
    /// As `key new` prints it: age1…
    recipient: String,
    /// Let it read the backups there are, too; needs an identity that reads them. WAL stays as it is
    #[arg(long)]
    rewrap: bool,
}

#[derive(Debug, clap::Args)]
pub(crate) struct RemoveArguments {
    /// As `key list` shows it
    recipient: String,
    /// Even the last one: nothing is encrypted from then on
    #[arg(long)]
    plain: bool,
}

/// A new identity, but for the secret.
#[derive(Debug, Serialize)]
struct NewKey<'a> {
    /// Its public half.
    recipient: String,
    /// Where it is.
    file: &'a Path,
}

/// Makes an identity. Needs neither repository nor configuration.
pub(crate) fn make(arguments: &NewArguments, output: &Output) -> Result<Exit, Failure> {
    let identity = Identities::generate();
    let recipient = identity.recipients().first().map(ToString::to_string).unwrap_or_default();
    let text = Zeroizing::new(format!(
        "# created: {}\n# public key: {recipient}\n{}\n",
        backupd::now().format("%Y-%m-%dT%H:%M:%SZ"),
        &*identity.secret_text()
    ));
    match &arguments.out {
        None => {
            let mut stdout = std::io::stdout().lock();
            let written = stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush());
            written.map_err(Failure::system("write the identity"))?;
            output.note(&format!("recipient: {recipient}"));
        }
        Some(path) => {
            write_new(path, text.as_bytes()).map_err(|source| Failure::Destination {
                reason: format!("the identity cannot be written to {}: {source}", path.display()),
                hint: "name a file that does not exist, in a directory that does".to_owned(),
            })?;
            let document = NewKey { recipient, file: path };
            output.print(&document, || document.recipient.clone())?;
            output.note(&format!(
                "keep {} where the repository is not, and a copy of it elsewhere: without it nothing can be restored",
                path.display()
            ));
        }
    }
    Ok(Exit::Done)
}

/// Durably, for whoever encrypts to a key that is lost in a crash loses everything.
fn write_new(path: &Path, text: &[u8]) -> std::io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(text)?;
    file.sync_all()?;
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(directory)?.sync_all()
}

/// To whom the repository is encrypted.
#[derive(Debug, Serialize)]
struct KeyList {
    /// Each of them; none when nothing is encrypted.
    recipients: Vec<String>,
}

pub(crate) async fn run(context: &Context, verb: KeyVerb) -> Result<Exit, Failure> {
    let repository = open::repository(&context.settings).await?;
    match verb {
        // Run before, without a configuration.
        KeyVerb::New(_) => return Ok(Exit::Failed),
        KeyVerb::List => {}
        KeyVerb::Add(arguments) => add(context, &repository, &arguments).await?,
        KeyVerb::Remove(arguments) => remove(context, &repository, &arguments).await?,
    }
    let list = KeyList { recipients: open::repository(&context.settings).await?.recipients().texts() };
    context.output.print(&list, || text(&list))?;
    Ok(Exit::Done)
}

fn text(list: &KeyList) -> String {
    match list.recipients.as_slice() {
        [] => "no recipients: what is written is not encrypted".to_owned(),
        recipients => recipients.join("\n"),
    }
}

async fn add(context: &Context, repository: &Repository, arguments: &AddArguments) -> Result<(), Failure> {
    let recipient: Recipient = arguments.recipient.parse()?;
    if repository.add_recipient(&recipient).await? {
        let before =
            if repository.recipients().is_empty() { "is not encrypted" } else { "stays unreadable to it" };
        context.output.note(&format!("what was written before {before}"));
        note_restart(context, repository);
    }
    if arguments.rewrap {
        let repository = open::repository(&context.settings).await?;
        let mut files = 0;
        for name in repository.cluster_names().await? {
            if Cluster::check_name(&name).is_err() {
                continue;
            }
            let cluster = repository.cluster(&name)?;
            for id in cluster.backup_directories().await? {
                files += cluster.rewrap(&id).await?;
            }
        }
        context
            .output
            .note(&format!("stored {files} keys of backups anew; WAL that is there stays as it is"));
    }
    Ok(())
}

async fn remove(
    context: &Context,
    repository: &Repository,
    arguments: &RemoveArguments,
) -> Result<(), Failure> {
    let recipient: Recipient = arguments.recipient.parse()?;
    repository.remove_recipient(&recipient, arguments.plain).await?;
    context.output.note("what was written before stays readable to it");
    if repository.recipients() == &Recipients::new([recipient])? {
        context.output.note("from now on nothing is encrypted");
    }
    note_restart(context, repository);
    Ok(())
}

/// Who runs already goes on as it began.
fn note_restart(context: &Context, repository: &Repository) {
    context.output.note(&format!(
        "start `backupd run` for {} anew: it goes on with the recipients there were when it started",
        repository.address()
    ));
    if context.settings.encryption.recipients.is_some() {
        context
            .output
            .note("change DRYDOCK_RECIPIENTS (encryption.recipients), too, or nothing will be written");
    }
}
