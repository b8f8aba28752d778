//! A drill: a restore that is made to see that it can be, replayed and checked by PostgreSQL itself, timed and thrown away.

mod check;
mod postgres;
mod scratch;

use std::path::PathBuf;
use std::time::Instant;

use pgformat::{Lsn, TimelineId};
use repository::{BackupId, Cluster};
use serde::Serialize;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

pub use scratch::Place;

use self::postgres::{Failure, Server};
use self::scratch::Scratch;
use crate::Error;
use crate::catalog::Catalog;
use crate::fetch::{Access, IdentitySource};
use crate::restore::{self, Action, Destination, Plan, Target, TimelineChoice};
use crate::verify::{Finding, Severity};
use crate::wal::WalPath;

/// Room for the WAL that is being replayed: PostgreSQL removes it as it goes, but not at once.
const WAL_ROOM_BYTES_MAX: u64 = 2 << 30;

/// What is asked for.
#[derive(Debug, Clone)]
pub struct Request {
    /// Which backup; `None` chooses the newest.
    pub backup: Option<BackupId>,
    /// Only until the backup is consistent, instead of to the newest WAL.
    pub immediate: bool,
    /// Where.
    pub place: Place,
    /// What makes the directory's name new.
    pub token: String,
    /// Where PostgreSQL's programs of the right major version are.
    pub bindir: PathBuf,
    /// As [`Destination::program`].
    pub program: String,
    /// As [`Destination::access`].
    pub access: Access,
    /// As [`Destination::identity`].
    pub identity: Option<IdentitySource>,
    /// Roles to try until one can say who is superuser.
    pub roles: Vec<String>,
    /// Settings of PostgreSQL besides ours.
    pub settings: Vec<(String, String)>,
    /// Frames that are read at once, and connections that check.
    pub workers: usize,
}

/// A part of a drill.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum StepName {
    /// The files.
    Restore,
    /// The WAL.
    Replay,
    /// pg_amcheck.
    Check,
}

/// What came of a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// Done, and nothing found.
    Passed,
    /// Something was found.
    Failed,
    /// Not done; [`Step::note`] says why.
    Skipped,
}

/// A step, done.
#[derive(Debug, Clone, Serialize)]
pub struct Step {
    /// Which.
    pub step: StepName,
    /// What came of it.
    pub outcome: Outcome,
    /// How long it took.
    pub seconds: f64,
    /// What else there is to say.
    pub note: Option<String>,
}

/// A drill, done.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// The backup.
    pub backup: BackupId,
    /// Bytes of its files.
    pub size_bytes: u64,
    /// Bytes of WAL to replay, at most.
    pub wal_bytes: u64,
    /// The timeline it was recovered to.
    pub timeline: TimelineId,
    /// Where durable WAL ends.
    pub end_lsn: Lsn,
    /// The end of the last record that was replayed.
    pub replayed_lsn: Option<Lsn>,
    /// In order.
    pub steps: Vec<Step>,
    /// What does not hold.
    pub findings: Vec<Finding>,
    /// Directories that drills had left which were killed, and that were removed.
    pub cleaned: Vec<PathBuf>,
}

/// How far a drill is.
#[derive(Debug, Clone, Copy, Default)]
pub struct Progress {
    /// The step.
    pub step: Option<StepName>,
    /// Of a restore.
    pub restore: restore::Progress,
}

/// Drills. Whatever happens, the server is stopped and the directory removed before this returns; if we are killed, the next
/// drill does both.
pub async fn run(
    cluster: &Cluster,
    catalog: &Catalog,
    request: &Request,
    progress: &watch::Sender<Progress>,
    shutdown: &CancellationToken,
) -> Result<Report, Error> {
    let cleaned = scratch::clean(&request.place)?;
    let plan = restore::plan(cluster, catalog, &wanted(request)).await?;
    has_room(&plan, &request.place)?;
    let scratch = Scratch::make(&request.place, &request.token)?;
    let mut drill = Drill {
        report: Report {
            backup: plan.backup.clone(),
            size_bytes: plan.size_bytes,
            wal_bytes: plan.wal_bytes,
            timeline: plan.target_timeline,
            end_lsn: plan.end_lsn,
            replayed_lsn: None,
            steps: Vec::new(),
            findings: Vec::new(),
            cleaned,
        },
        request,
        shutdown,
        progress,
    };
    if drill.restore(cluster, &plan, &scratch).await? {
        // The server ends before its directory goes: it is declared later.
        let mut server = Server::start(&scratch, &request.bindir, &request.settings)?;
        if let Some(superuser) = drill.replay(&mut server).await? {
            drill.compare_end(cluster, catalog).await?;
            drill.check(&server, &superuser).await?;
        }
    }
    Ok(drill.report)
}

fn wanted(request: &Request) -> restore::Request {
    restore::Request {
        backup: request.backup.clone(),
        target: if request.immediate { Target::Immediate } else { Target::Newest },
        exclusive: false,
        timeline: if request.immediate { TimelineChoice::Current } else { TimelineChoice::Latest },
        action: Some(Action::Promote),
        standby: false,
    }
}

/// A disk that fills up in the middle may be somebody else's, too.
fn has_room(plan: &Plan, place: &Place) -> Result<(), Error> {
    let need = plan.size_bytes + plan.wal_bytes.min(WAL_ROOM_BYTES_MAX);
    let directory = place.parent();
    let found = rustix::fs::statvfs(directory)
        .map_err(|errno| Error::file("look at the file system of", directory)(errno.into()))?;
    let free = found.f_bavail.saturating_mul(found.f_frsize);
    if free >= need {
        return Ok(());
    }
    Err(Error::Destination {
        reason: format!(
            "{} has {} MB free, and restoring backup {} there takes {} MB",
            directory.display(),
            free >> 20,
            plan.backup,
            need.div_ceil(1 << 20)
        ),
        hint: "choose a directory with more room with --scratch".to_owned(),
    })
}

struct Drill<'a> {
    report: Report,
    request: &'a Request,
    shutdown: &'a CancellationToken,
    progress: &'a watch::Sender<Progress>,
}

impl Drill<'_> {
    fn begin(&self, step: StepName) -> Instant {
        self.progress.send_modify(|progress| progress.step = Some(step));
        Instant::now()
    }

    fn end(&mut self, step: StepName, begun: Instant, outcome: Outcome, note: Option<String>) {
        self.report.steps.push(Step { step, outcome, seconds: begun.elapsed().as_secs_f64(), note });
    }

    fn find(&mut self, key: String, what: String) {
        let backups = vec![self.report.backup.clone()];
        let finding = Finding { key, severity: Severity::Critical, what, backups, lost: Vec::new() };
        self.report.findings.push(finding);
    }

    /// Whether there is something to start.
    async fn restore(&mut self, cluster: &Cluster, plan: &Plan, scratch: &Scratch) -> Result<bool, Error> {
        let begun = self.begin(StepName::Restore);
        let moved = |space: &repository::record::Tablespace| {
            let now = scratch.path("tablespaces").join(space.oid.to_string());
            (PathBuf::from(&space.location), now)
        };
        let destination = Destination {
            data_dir: scratch.path("data"),
            tablespaces: plan
                .tablespaces
                .iter()
                .filter(|space| space.location.starts_with('/'))
                .map(moved)
                .collect(),
            program: self.request.program.clone(),
            access: self.request.access.clone(),
            identity: self.request.identity.clone(),
            workers: self.request.workers,
        };
        let (sender, mut watched) = watch::channel(restore::Progress::default());
        let work = restore::apply(cluster, plan, &destination, &sender, self.shutdown);
        tokio::pin!(work);
        let result = loop {
            tokio::select! {
                result = &mut work => break result,
                Ok(()) = watched.changed() => {
                    let now = *watched.borrow_and_update();
                    self.progress.send_modify(|progress| progress.restore = now);
                }
            }
        };
        match result {
            Ok(()) => {
                self.end(StepName::Restore, begun, Outcome::Passed, None);
                Ok(true)
            }
            Err(Error::Repository(error)) if error.is_damage() => {
                self.end(StepName::Restore, begun, Outcome::Failed, None);
                self.find(format!("backup {}", plan.backup), error.to_string());
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }

    /// Waits for the end of recovery; gives the superuser's name.
    async fn replay(&mut self, server: &mut Server) -> Result<Option<String>, Error> {
        let begun = self.begin(StepName::Replay);
        let (client, superuser) = match server.ready(&self.request.roles, self.shutdown).await {
            Ok(ready) => ready,
            Err(Failure::Error(error)) => return Err(error),
            Err(Failure::Recovery(what)) => {
                self.end(StepName::Replay, begun, Outcome::Failed, None);
                let what = format!("PostgreSQL did not get through recovery: {what}");
                self.find(format!("recovery from backup {}", self.report.backup), what);
                return Ok(None);
            }
        };
        let row = client.query_one("select pg_last_wal_replay_lsn()::text", &[]).await;
        let replayed: Option<String> = row.ok().and_then(|row| row.get(0));
        self.report.replayed_lsn = replayed.and_then(|lsn| lsn.parse().ok());
        self.end(StepName::Replay, begun, Outcome::Passed, None);
        Ok(Some(superuser))
    }

    /// PostgreSQL ends recovery where it can read no more, without a complaint. Whether that is where the WAL ends, only we know.
    async fn compare_end(&mut self, cluster: &Cluster, catalog: &Catalog) -> Result<(), Error> {
        let Report { timeline, end_lsn, replayed_lsn, .. } = self.report;
        let (Some(replayed), false) = (replayed_lsn, self.request.immediate) else { return Ok(()) };
        let Some(path) = catalog.path(timeline) else { return Ok(()) };
        let size = catalog.segment_size();
        let last = size.number(Lsn(end_lsn.0.saturating_sub(1)));
        let end = WalPath::new(cluster, catalog, &path)?.last_record_end(last).await?;
        // Where no record begins in the last segment, its start is given.
        if end > size.start(last) && replayed < end {
            let key = format!("recovery from backup {}", self.report.backup);
            let what =
                format!("PostgreSQL replayed up to {replayed}, but there are whole records up to {end}");
            self.find(key, what);
        }
        Ok(())
    }

    async fn check(&mut self, server: &Server, superuser: &str) -> Result<(), Error> {
        let begun = self.begin(StepName::Check);
        let request = self.request;
        let checked =
            check::run(&request.bindir, server.sockets(), superuser, request.workers, self.shutdown).await?;
        match checked {
            check::Checked::Whole => self.end(StepName::Check, begun, Outcome::Passed, None),
            check::Checked::Impossible(why) => {
                self.end(StepName::Check, begun, Outcome::Skipped, Some(why));
            }
            check::Checked::Corrupt(what) => {
                self.end(StepName::Check, begun, Outcome::Failed, None);
                self.find(format!("pg_amcheck of backup {}", self.report.backup), what);
            }
        }
        Ok(())
    }
}
