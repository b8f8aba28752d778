//! `backupctl expire`

use backupd::{Exit, Failure, open};
use engine::expire::{self, Applied, Plan};
use repository::Cluster;
use serde::Serialize;

use crate::Context;
use crate::output::{lines, size, table, time};

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Show what would go, what stays and why, and remove nothing
    #[arg(long)]
    dry_run: bool,
}

/// What was decided, and done.
#[derive(Debug, Serialize)]
struct Expired {
    /// Where.
    repository: String,
    /// Nothing was removed, as it was only asked what would be.
    dry_run: bool,
    /// What stays and what goes, and why.
    #[serde(flatten)]
    plan: Plan,
    /// What was removed.
    removed: Applied,
}

pub(crate) async fn run(context: &Context, arguments: Arguments) -> Result<Exit, Failure> {
    let settings = &context.settings;
    let cluster = match arguments.dry_run {
        true => open::existing(settings).await?,
        // To remove, all that have the same must be there.
        false => open::or_create(settings, backupd::now()).await?,
    };
    let expired = expire(context, &cluster, arguments.dry_run).await?;
    context.output.print(&expired, || text(&expired))?;
    Ok(Exit::Done)
}

async fn expire(context: &Context, cluster: &Cluster, dry_run: bool) -> Result<Expired, Failure> {
    let (now, dead_after) = (backupd::now(), context.settings.dead_after);
    let facts = expire::facts(cluster).await?;
    let plan = expire::plan(&facts, &context.settings.retention, now, dead_after);
    let removed = match dry_run {
        true => Applied::default(),
        false => expire::apply(cluster, &plan, now, dead_after).await?,
    };
    Ok(Expired { repository: cluster.address(), dry_run, plan, removed })
}

fn text(expired: &Expired) -> String {
    let mut text = String::new();
    if let Some(reason) = &expired.plan.nothing_because {
        text.push_str(&format!("Nothing goes: {reason}.\n\n"));
    }
    text.push_str(&backups(&expired.plan));
    text.push('\n');
    text.push_str(&wal(&expired.plan));
    for hole in &expired.plan.holes {
        text.push_str(&format!(
            "hole: timeline {} from {} to {} is forgotten: nothing that stays lies before it\n",
            hole.timeline, hole.from, hole.to
        ));
    }
    text.push('\n');
    text.push_str(&summary(expired));
    text
}

fn fate(keep: bool) -> &'static str {
    if keep { "stays" } else { "GOES" }
}

fn backups(plan: &Plan) -> String {
    if plan.backups.is_empty() {
        return "No backups.\n".to_owned();
    }
    let mut rows = table(&["Backup", "Finished", "Fate", "Restores", "Because"]);
    for backup in &plan.backups {
        let restores = match (backup.keep, backup.recovers_onwards) {
            (false, _) => "",
            (true, true) => "to any moment behind it",
            (true, false) => "to its own moment",
        };
        rows.add_row([
            backup.id.to_string(),
            time(backup.finished_at),
            fate(backup.keep).to_owned(),
            restores.to_owned(),
            backup.reasons.join("; "),
        ]);
    }
    lines(&rows)
}

fn wal(plan: &Plan) -> String {
    if plan.wal.is_empty() {
        return "No WAL.\n".to_owned();
    }
    let mut rows = table(&["WAL", "From..to", ">Bytes", "Fate", "Because"]);
    for wal in &plan.wal {
        rows.add_row([
            format!("timeline {}", wal.timeline),
            format!("{}..{}", wal.from, wal.to),
            size(wal.to.since(wal.from)),
            fate(wal.keep).to_owned(),
            wal.reason.clone(),
        ]);
    }
    lines(&rows)
}

fn summary(expired: &Expired) -> String {
    if expired.dry_run {
        let going = expired.plan.going().count();
        return format!(
            "Nothing was removed. {going} backups would go, and with them {} of packs that no other backup uses.\n",
            size(expired.plan.pack_bytes)
        );
    }
    let Applied { backups, wal_objects, wal_bytes, backup_bytes } = expired.removed;
    format!(
        "Removed {backups} backups and {wal_objects} objects of WAL: {} of backups and {} of WAL are free.\n",
        size(backup_bytes),
        size(wal_bytes)
    )
}
