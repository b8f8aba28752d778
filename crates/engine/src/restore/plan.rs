//! Deciding how to get to a target.

use pgformat::Lsn;
use repository::wal::Hole;
use repository::{Cluster, Record};

use super::locate::{self, Sought};
use super::{Plan, PlanStep, Request, Stop, Target, TimelineChoice};
use crate::Error;
use crate::catalog::{Catalog, Reach, Step};
use crate::wal::WalPath;

/// Plans a restore: chooses a backup and a path, and finds the target in the WAL wherever that can be done. A target that cannot be reached is
/// refused here.
pub async fn plan(cluster: &Cluster, catalog: &Catalog, request: &Request) -> Result<Plan, Error> {
    for (timeline, range) in &catalog.unacknowledged {
        tracing::warn!(
            %timeline, from = %range.from, to = %range.to,
            "WAL is left aside: what comes before it never arrived, and no server was told that it is durable"
        );
    }
    let candidates = candidates(catalog, request)?;
    let mut first_reason = None;
    for record in candidates {
        match consider(cluster, catalog, request, record).await? {
            Ok(plan) => return Ok(plan),
            // The newest backup's reason is the one that says most; older ones fail for the same or worse.
            Err(reason) => {
                tracing::debug!(backup = %record.id, "not from this backup: {reason}");
                if !matches!(first_reason, Some(Rejected { decisive: true, .. })) {
                    first_reason = Some(reason);
                }
            }
        }
    }
    let reason =
        first_reason.map_or_else(|| "no backup can be used".to_owned(), |rejected| rejected.to_string());
    let range = reachable_range(cluster, catalog, request).await?;
    Err(Error::Unreachable { reason: format!("{reason}; {range}") })
}

/// Why not from a backup.
#[derive(Debug)]
struct Rejected {
    reason: String,
    /// Older backups cannot do better, so this is what the person should read.
    decisive: bool,
}

impl std::fmt::Display for Rejected {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.reason)
    }
}

fn rejected(decisive: bool, reason: String) -> Rejected {
    Rejected { reason, decisive }
}

/// The backups that may be used, best first: the newest needs the least replay.
fn candidates<'a>(catalog: &'a Catalog, request: &Request) -> Result<Vec<&'a Record>, Error> {
    let records = &catalog.backups.records;
    let Some(wanted) = &request.backup else {
        if records.is_empty() {
            return Err(Error::Unreachable { reason: "there is no backup to restore from".to_owned() });
        }
        return Ok(records.iter().rev().collect());
    };
    if let Some((_, error)) = catalog.backups.unreadable.iter().find(|(id, _)| id == wanted) {
        return Err(Error::Unreachable { reason: format!("backup {wanted} cannot be used: {error}") });
    }
    let found = records.iter().find(|record| record.id == *wanted);
    found.map(|record| vec![record]).ok_or_else(|| repository::Error::NoBackup(wanted.to_string()).into())
}

/// The path that the request means for this backup.
fn path_for(catalog: &Catalog, request: &Request, record: &Record) -> Result<Vec<Step>, Rejected> {
    let timeline = match request.timeline {
        TimelineChoice::Current => record.timeline,
        TimelineChoice::Number(timeline) => timeline,
        TimelineChoice::Latest => {
            let with_wal =
                catalog.coverage.timelines.iter().rev().find(|(_, covered)| !covered.ranges.is_empty());
            with_wal.map_or(record.timeline, |(timeline, _)| *timeline)
        }
    };
    let path = catalog.path(timeline).ok_or_else(|| {
        rejected(true, format!("the history of timeline {timeline} is not in the repository"))
    })?;
    let step = path.iter().find(|step| step.timeline == record.timeline);
    match step {
        None => Err(rejected(
            false,
            format!(
                "backup {} is on timeline {}, which timeline {timeline} does not descend from",
                record.id, record.timeline
            ),
        )),
        Some(Step { end: Some(end), .. }) if *end < record.stop_lsn => Err(rejected(
            false,
            format!(
                "backup {} ends at {}, after timeline {timeline} forked off at {end}",
                record.id, record.stop_lsn
            ),
        )),
        Some(_) => Ok(path),
    }
}

async fn consider(
    cluster: &Cluster,
    catalog: &Catalog,
    request: &Request,
    record: &Record,
) -> Result<Result<Plan, Rejected>, Error> {
    let path = match path_for(catalog, request, record) {
        Ok(path) => path,
        Err(reason) => return Ok(Err(reason)),
    };
    let reach = catalog.reach(&path, record.timeline, record.start_lsn);
    if reach.lsn < record.stop_lsn {
        return Ok(Err(rejected(false, format!("{}: {}", record.id, gap_reason(catalog, reach)))));
    }
    let stops_at = match stop(cluster, catalog, request, record, &path, reach).await? {
        Ok(stop) => stop,
        Err(reason) => return Ok(Err(reason)),
    };
    see_that_it_opens(cluster, catalog, record, &path).await?;
    Ok(Ok(assemble(catalog, request, record, path, reach, stops_at)))
}

/// Without an identity that opens the backup and its WAL there is nothing to plan.
async fn see_that_it_opens(
    cluster: &Cluster,
    catalog: &Catalog,
    record: &Record,
    path: &[Step],
) -> Result<(), Error> {
    cluster.frame_keys(record).await?;
    if record.encrypted_to.is_some() {
        let wal = WalPath::new(cluster, catalog, path)?;
        wal.facts(catalog.segment_size().number(record.start_lsn)).await?;
    }
    Ok(())
}

/// The hole that a path ends at.
fn hole_at(catalog: &Catalog, reach: Reach) -> Option<&Hole> {
    let covered = catalog.coverage.timelines.get(&reach.timeline)?;
    covered.holes.iter().find(|hole| hole.from <= reach.lsn && reach.lsn < hole.to)
}

fn gap_reason(catalog: &Catalog, reach: Reach) -> String {
    match hole_at(catalog, reach) {
        Some(hole) => format!(
            "timeline {} has a hole from {} to {}, found {}: {}",
            hole.timeline,
            hole.from,
            hole.to,
            hole.since.format("%Y-%m-%d %H:%M:%S UTC"),
            hole.cause
        ),
        None => {
            let size = catalog.segment_size();
            let missing = pgformat::SegmentName::containing(reach.timeline, reach.lsn, size).file_name(size);
            format!(
                "WAL of timeline {} ends at {}, in or before segment {missing}",
                reach.timeline, reach.lsn
            )
        }
    }
}

/// Where recovery from this backup stops, or why the target is out of its reach.
async fn stop(
    cluster: &Cluster,
    catalog: &Catalog,
    request: &Request,
    record: &Record,
    path: &[Step],
    reach: Reach,
) -> Result<Result<Option<Stop>, Rejected>, Error> {
    let size = catalog.segment_size();
    let wal = WalPath::new(cluster, catalog, path)?;
    match &request.target {
        Target::Immediate => Ok(Ok(Some(Stop { lsn: record.stop_lsn, time: None }))),
        Target::Newest => {
            let last = path.last().and_then(|step| catalog.coverage.timelines.get(&step.timeline));
            let newest = last.and_then(|covered| covered.bounds()).map(|bounds| bounds.to);
            if reach.complete && Some(reach.lsn) == newest {
                return Ok(Ok(None));
            }
            Ok(Err(rejected(
                false,
                format!(
                    "from backup {} the newest WAL cannot be reached: {}",
                    record.id,
                    gap_reason(catalog, reach)
                ),
            )))
        }
        Target::Lsn(lsn) if *lsn < record.stop_lsn => Ok(Err(rejected(
            false,
            format!("{lsn} lies before the end of backup {} at {}", record.id, record.stop_lsn),
        ))),
        // PostgreSQL stops at the first record that begins at the target or behind it; there must be one.
        Target::Lsn(lsn) => {
            let end = wal.last_record_end(size.number(Lsn(reach.lsn.0.saturating_sub(1)))).await?;
            if end.max(size.floor(reach.lsn)) > *lsn {
                return Ok(Ok(Some(Stop { lsn: *lsn, time: None })));
            }
            Ok(Err(rejected(
                true,
                format!("{lsn} lies after the newest WAL: {}", gap_reason(catalog, reach)),
            )))
        }
        Target::Time(time) => {
            let before = locate::latest_before(&wal, size, record.start_lsn, record.stop_lsn).await?;
            if before.map_or(record.started_at > *time, |before| before > *time) {
                let reason = format!("{} lies before the end of backup {}", show(*time), record.id);
                return Ok(Err(rejected(false, reason)));
            }
            find(&wal, request, record, reach, size, || {
                let hole = hole_at(catalog, reach).map_or_else(String::new, |_| {
                    format!(", as far as it can be reached: {}", gap_reason(catalog, reach))
                });
                format!("no transaction in the WAL ended after {}{hole}", show(*time))
            })
            .await
        }
        Target::Xid(xid) => {
            find(&wal, request, record, reach, size, || {
                format!("transaction {xid} does not end in the WAL after backup {}", record.id)
            })
            .await
        }
        Target::Name(name) => {
            find(&wal, request, record, reach, size, || {
                format!("there is no restore point \"{name}\" in the WAL after backup {}", record.id)
            })
            .await
        }
    }
}

async fn find(
    wal: &WalPath<'_>,
    request: &Request,
    record: &Record,
    reach: Reach,
    size: pgformat::SegmentSize,
    missing: impl FnOnce() -> String,
) -> Result<Result<Option<Stop>, Rejected>, Error> {
    let sought = Sought { target: &request.target, exclusive: request.exclusive };
    let found = locate::find(wal, &sought, size, record.stop_lsn, reach.lsn).await?;
    match found {
        Some(event) => Ok(Ok(Some(Stop { lsn: event.lsn, time: Some(event.time) }))),
        // Of a time, older backups see the same end; of a name or transaction, they see more.
        None => Ok(Err(rejected(matches!(request.target, Target::Time(_)), missing()))),
    }
}

fn show(time: chrono::DateTime<chrono::Utc>) -> String {
    time.format("%Y-%m-%d %H:%M:%S%.6f UTC").to_string()
}

fn assemble(
    catalog: &Catalog,
    request: &Request,
    record: &Record,
    path: Vec<Step>,
    reach: Reach,
    stops_at: Option<Stop>,
) -> Plan {
    let from = path.iter().position(|step| step.timeline == record.timeline).unwrap_or(0);
    let durable = |step: &Step| {
        let covered = catalog.coverage.timelines.get(&step.timeline).and_then(|covered| covered.bounds());
        let end = covered.map_or(Lsn::INVALID, |bounds| bounds.to);
        if step.timeline == reach.timeline { reach.lsn } else { step.end.map_or(end, |fork| fork.min(end)) }
    };
    let last = stops_at.as_ref().map_or(reach.lsn, |stop| stop.lsn);
    Plan {
        backup: record.id.clone(),
        backup_finished_at: record.finished_at,
        target: request.target.clone(),
        exclusive: request.exclusive,
        timelines: path[from..]
            .iter()
            .map(|step| PlanStep { timeline: step.timeline, end: step.end, durable: durable(step) })
            .collect(),
        target_timeline: path.last().map_or(record.timeline, |step| step.timeline),
        start_lsn: record.start_lsn,
        consistent_lsn: record.stop_lsn,
        end_lsn: reach.lsn,
        stops_at,
        action: request.action,
        standby: request.standby,
        file_count: record.file_count,
        size_bytes: record.size_bytes,
        wal_bytes: last.since(record.start_lsn),
        tablespaces: record.tablespaces.clone(),
        segment_size: catalog.segment_size(),
        record: Box::new(record.clone()),
    }
}

/// A sentence on what can be reached.
async fn reachable_range(cluster: &Cluster, catalog: &Catalog, request: &Request) -> Result<String, Error> {
    let size = catalog.segment_size();
    for record in &catalog.backups.records {
        let Ok(path) = path_for(catalog, request, record) else { continue };
        let reach = catalog.reach(&path, record.timeline, record.start_lsn);
        if reach.lsn < record.stop_lsn {
            continue;
        }
        let wal = WalPath::new(cluster, catalog, &path)?;
        let newest = locate::latest_before(&wal, size, record.stop_lsn, reach.lsn).await?;
        let until = newest
            .map_or_else(String::new, |time| format!(" (the last transaction ended at {})", show(time)));
        return Ok(format!(
            "reachable on timeline {} is everything from {} ({}, the end of backup {}) to {}{until}",
            reach.timeline,
            record.stop_lsn,
            show(record.finished_at),
            record.id,
            reach.lsn,
        ));
    }
    Ok("no backup leads to any target on this timeline".to_owned())
}
