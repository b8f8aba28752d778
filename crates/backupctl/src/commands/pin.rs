//! `backupctl pin` and `backupctl unpin`

use backupd::target_time::{self, Written};
use backupd::{Exit, Failure, open};
use repository::BackupId;
use repository::pin::Pin;
use serde::Serialize;

use super::WhichBackup;
use crate::Context;
use crate::output::time;

#[derive(Debug, clap::Args)]
pub(crate) struct PinArguments {
    /// The backup: its name, `latest` or `oldest`
    backup: WhichBackup,
    /// Why, for whoever wonders later
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
    /// Until when it stays, whatever the policy says; for ever unless said
    #[arg(long, value_name = "TIME", value_parser = target_time::parse)]
    until: Option<Written>,
}

#[derive(Debug, clap::Args)]
pub(crate) struct UnpinArguments {
    /// The backup: its name, `latest` or `oldest`
    backup: WhichBackup,
}

#[derive(Debug, Serialize)]
struct Unpinned {
    /// The backup.
    backup: BackupId,
    /// Whether it was pinned.
    was_pinned: bool,
}

pub(crate) async fn pin(context: &Context, arguments: PinArguments) -> Result<Exit, Failure> {
    let now = backupd::now();
    let PinArguments { backup, reason, until } = arguments;
    let until = until.map(|written| written.at);
    if let Some(until) = until.filter(|until| *until <= now) {
        return Err(backupd::config::Error::new(format!(
            "the pin would end at {}, which is over: give a time that is to come",
            time(until)
        ))
        .into());
    }
    let cluster = open::or_create(&context.settings, now).await?;
    let backup = backup.find(&cluster.backups().await?)?;
    let pin = Pin { backup, reason, until, at: now };
    cluster.pin(&pin).await?;
    context.output.print(&pin, || {
        let until =
            pin.until.map_or_else(|| "until it is unpinned".to_owned(), |at| format!("until {}", time(at)));
        format!("backup {} stays {until}", pin.backup)
    })?;
    Ok(Exit::Done)
}

pub(crate) async fn unpin(context: &Context, arguments: UnpinArguments) -> Result<Exit, Failure> {
    let cluster = open::or_create(&context.settings, backupd::now()).await?;
    let backup = arguments.backup.find(&cluster.backups().await?)?;
    // A backup that is not there is an error, and no pin that is not there.
    cluster.record(&backup).await?;
    let unpinned = Unpinned { was_pinned: cluster.unpin(&backup).await?, backup };
    context.output.print(&unpinned, || match unpinned.was_pinned {
        true => format!("backup {} is no longer pinned", unpinned.backup),
        false => format!("backup {} was not pinned", unpinned.backup),
    })?;
    Ok(Exit::Done)
}
