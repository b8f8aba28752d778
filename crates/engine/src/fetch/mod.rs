//! Fetch: what `restore_command` runs.
//!
//! PostgreSQL takes "not in the archive" as the end of WAL and promotes; where a timeline's first segment is missing it quietly
//! takes its parent's, whose WAL diverged. So the plan of the restore lies beside the data, and nothing is handed
//! out that is not on its path, nor is anything said to be absent that the plan counts on.

mod ahead;

pub use ahead::Ahead;

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use pgformat::{Lsn, SegmentName, SegmentSize, TimelineId};
use repository::{Cluster, Error as RepositoryError};
use serde::{Deserialize, Serialize};

use crate::Error;
use crate::restore::Plan;

/// The plan, relative to the data directory, where PostgreSQL runs `restore_command`. Base backups leave out what is in
/// pg_wal, and pg_verifybackup does not look there.
pub const PLAN_PATH: &str = "pg_wal/drydock/plan.json";
/// Segments that were fetched ahead.
pub const PREFETCH_PATH: &str = "pg_wal/drydock/prefetch";

/// How the repository is reached, where its address does not say it all. Where secrets are, never a secret itself.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Access {
    /// The file with the token that the service asks for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token_file: Option<PathBuf>,
    /// PEM file of the authorities that may vouch for the service.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_file: Option<PathBuf>,
    /// The service may be asked without TLS.
    #[serde(default)]
    pub insecure: bool,
    /// By environment variable, the settings of a bucket.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub s3: BTreeMap<String, String>,
}

/// What a recovery may read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecoveryPlan {
    format: u32,
    /// Where the repository is.
    pub repository: String,
    /// What it takes to reach it.
    #[serde(default)]
    pub access: Access,
    /// The cluster's name in it.
    pub cluster: String,
    #[serde(with = "repository::decimal")]
    system_identifier: u64,
    segment_size: u64,
    backup: String,
    /// It follows its cluster, beyond what the plan knew.
    standby: bool,
    timelines: Vec<RecoveryStep>,
    /// Where the identity is that opens the WAL.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub identity: Option<IdentitySource>,
}

/// Where an identity comes from. A reference, and never the secret: plans and settings may hold it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum IdentitySource {
    /// A file.
    File(PathBuf),
    /// A command for the shell, whose standard output is such a file.
    Command(String),
}

/// A timeline on the way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct RecoveryStep {
    timeline: TimelineId,
    /// Where the next one forks off.
    end: Option<Lsn>,
    /// How far the plan counts on its WAL.
    durable: Lsn,
}

/// Whether it was there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fetched {
    /// It lies at the path asked for, whole.
    Delivered,
    /// It is not in the archive, and recovery may take that for what it means.
    NotInArchive,
}

/// What the plan says about a segment.
#[derive(Debug, PartialEq, Eq)]
enum Permit {
    /// Hand it out; it must reach this far.
    Serve { must_reach: Lsn },
    /// Hand it out if it is there.
    ServeIfThere,
    /// Beyond the plan.
    NotInArchive,
    /// Handing it out, or saying that it is not there, would let recovery take a wrong turn.
    Refuse(String),
}

impl RecoveryPlan {
    pub(crate) fn new(
        cluster: &Cluster,
        plan: &Plan,
        access: &Access,
        identity: Option<IdentitySource>,
    ) -> RecoveryPlan {
        let step = |step: &crate::restore::PlanStep| RecoveryStep {
            timeline: step.timeline,
            end: step.end,
            durable: step.durable,
        };
        RecoveryPlan {
            format: repository::FORMAT,
            repository: cluster.address(),
            access: access.clone(),
            cluster: cluster.name().to_owned(),
            system_identifier: plan.record.system_identifier,
            segment_size: plan.segment_size.bytes(),
            backup: plan.backup.to_string(),
            standby: plan.standby,
            timelines: plan.timelines.iter().map(step).collect(),
            identity,
        }
    }

    pub(crate) fn encode(&self) -> Result<String, Error> {
        let text = serde_json::to_string_pretty(self);
        text.map_err(|source| RepositoryError::Encode { what: "the recovery plan", source }.into())
    }

    /// Reads the plan that a restore left beside the data.
    pub fn read(path: &Path) -> Result<RecoveryPlan, Error> {
        let text = fs::read(path).map_err(Error::file("read", path))?;
        let damaged = |reason: String| RepositoryError::Damaged { key: path.display().to_string(), reason };
        let plan: RecoveryPlan = serde_json::from_slice(&text).map_err(|error| damaged(error.to_string()))?;
        if plan.format != repository::FORMAT || SegmentSize::new(plan.segment_size).is_none() {
            return Err(damaged("it was written by another version".to_owned()).into());
        }
        Ok(plan)
    }

    fn segment_size(&self) -> SegmentSize {
        SegmentSize::new(self.segment_size).unwrap_or(SegmentSize::DEFAULT)
    }

    fn permit(&self, name: SegmentName) -> Permit {
        let size = self.segment_size();
        let Some(position) = self.timelines.iter().position(|step| step.timeline == name.timeline) else {
            let newest = self.timelines.last().map(|step| step.timeline);
            return match newest {
                Some(newest) if name.timeline < newest => {
                    Permit::Refuse(format!("timeline {} is not on the way of this restore", name.timeline))
                }
                _ if self.standby => Permit::ServeIfThere,
                _ => Permit::NotInArchive,
            };
        };
        let step = &self.timelines[position];
        if step.end.is_some_and(|fork| size.number(fork) <= name.number) {
            return Permit::Refuse(format!(
                "timeline {} was left at {}, before this segment ends; the next timeline's copy of it is missing",
                step.timeline,
                step.end.unwrap_or_default()
            ));
        }
        if name.start(size) < step.durable {
            return Permit::Serve { must_reach: name.end(size).min(step.durable) };
        }
        match step.end {
            Some(_) => {
                Permit::Refuse(format!("the plan did not find this segment of timeline {}", step.timeline))
            }
            None if self.standby => Permit::ServeIfThere,
            None => Permit::NotInArchive,
        }
    }

    /// The segment that comes after this one on the way.
    fn after(&self, name: SegmentName) -> SegmentName {
        let size = self.segment_size();
        let number = name.number.saturating_add(1);
        let mut begun = self
            .timelines
            .windows(2)
            .filter(|pair| pair[0].end.is_some_and(|fork| size.number(fork) <= number));
        let timeline = begun.next_back().map_or(name.timeline, |pair| pair[1].timeline);
        SegmentName { timeline: timeline.max(name.timeline), number }
    }
}

/// Puts a WAL file at `path`. Without a plan, whatever the repository has is handed out.
pub async fn fetch(
    cluster: &Cluster,
    plan: Option<&RecoveryPlan>,
    file_name: &str,
    path: &Path,
) -> Result<Fetched, Error> {
    if let Some(digits) = file_name.strip_suffix(".history") {
        return fetch_history(cluster, digits, path).await;
    }
    let size = match plan {
        Some(plan) => plan.segment_size(),
        None => cluster.require_identity().await?.segment_size(),
    };
    // PostgreSQL also asks for names of other kinds, such as .backup files, which are never archived.
    let Some(name) = SegmentName::parse(file_name, size) else { return Ok(Fetched::NotInArchive) };
    let permit = plan.map_or(Permit::ServeIfThere, |plan| plan.permit(name));
    let must_reach = match permit {
        Permit::NotInArchive => return Ok(Fetched::NotInArchive),
        Permit::Refuse(reason) => return Err(refused(cluster, name, size, &reason)?),
        Permit::Serve { must_reach } => Some(must_reach),
        Permit::ServeIfThere => None,
    };
    let bytes = cluster.read_available(name, size).await?;
    if bytes.is_empty() {
        return match must_reach {
            Some(_) => Err(refused(cluster, name, size, "the plan of this restore counts on it")?),
            None => Ok(Fetched::NotInArchive),
        };
    }
    let reached = name.start(size).advance(bytes.len() as u64);
    if must_reach.is_some_and(|must| reached < must) {
        let reason = format!("it ends at {reached}, and the plan of this restore counts on more");
        return Err(refused(cluster, name, size, &reason)?);
    }
    deliver(bytes, size, path)?;
    Ok(Fetched::Delivered)
}

fn refused(cluster: &Cluster, name: SegmentName, size: SegmentSize, reason: &str) -> Result<Error, Error> {
    let key = cluster.segment_key(name, size)?;
    Ok(RepositoryError::Missing { key, needed_by: format!("this recovery ({reason})") }.into())
}

async fn fetch_history(cluster: &Cluster, digits: &str, path: &Path) -> Result<Fetched, Error> {
    let number = (digits.len() == 8).then(|| u32::from_str_radix(digits, 16).ok()).flatten();
    let Some(timeline) = number.and_then(TimelineId::new) else { return Ok(Fetched::NotInArchive) };
    match cluster.history(timeline).await? {
        Some(content) => {
            write_beside(path, |file| file.write_all(&content))?;
            Ok(Fetched::Delivered)
        }
        None => Ok(Fetched::NotInArchive),
    }
}

/// PostgreSQL wants a file of the whole size; what is not there yet is zeroes, where it finds the end of WAL.
fn deliver(bytes: bytes::Bytes, size: SegmentSize, path: &Path) -> Result<(), Error> {
    write_beside(path, |file| {
        file.write_all(&bytes)?;
        file.set_len(size.bytes())
    })
}

/// Writes under another name first: a file that is cut short must not be taken for a segment.
fn write_beside(path: &Path, write: impl FnOnce(&mut File) -> std::io::Result<()>) -> Result<(), Error> {
    let mut name = path.as_os_str().to_owned();
    name.push(".drydock");
    let beside = PathBuf::from(name);
    let open = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&beside);
    let mut file = open.map_err(Error::file("create", &beside))?;
    write(&mut file).map_err(Error::file("write", &beside))?;
    fs::rename(&beside, path).map_err(Error::file("put in place", path))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MB: u64 = 1 << 20;

    fn timeline(number: u32) -> TimelineId {
        TimelineId::new(number).unwrap()
    }

    /// Timeline 1 to 40 MB, then timeline 3, durable to 100 MB; segments of 16 MB. Timeline 2 is not on the way.
    fn plan(standby: bool) -> RecoveryPlan {
        let step = |number, end: Option<u64>, durable: u64| RecoveryStep {
            timeline: timeline(number),
            end: end.map(Lsn),
            durable: Lsn(durable),
        };
        RecoveryPlan {
            format: 1,
            repository: "memory:".into(),
            access: Access { token_file: Some("/run/token".into()), ..Access::default() },
            cluster: "c".into(),
            system_identifier: 1,
            segment_size: 16 * MB,
            backup: "b".into(),
            standby,
            timelines: vec![step(1, Some(40 * MB), 40 * MB), step(3, None, 100 * MB)],
            identity: None,
        }
    }

    fn permit(standby: bool, number: u32, segment: u64) -> Permit {
        plan(standby).permit(SegmentName { timeline: timeline(number), number: segment })
    }

    #[test]
    fn only_what_is_on_the_way_is_handed_out() {
        let serve = |lsn: u64| Permit::Serve { must_reach: Lsn(lsn) };
        assert_eq!(permit(false, 1, 0), serve(16 * MB));
        assert_eq!(permit(false, 1, 1), serve(32 * MB));
        assert!(matches!(permit(false, 1, 2), Permit::Refuse(_)), "the parent's copy of the fork segment");
        assert!(matches!(permit(false, 1, 3), Permit::Refuse(_)), "the parent's WAL past the fork");
        assert_eq!(permit(false, 3, 2), serve(48 * MB));
        assert_eq!(permit(false, 3, 6), serve(100 * MB), "the last one is not whole");
        assert_eq!(permit(false, 3, 7), Permit::NotInArchive);
        assert!(matches!(permit(false, 2, 2), Permit::Refuse(_)), "a timeline that is not on the way");
        assert_eq!(permit(false, 4, 7), Permit::NotInArchive, "a probe for a newer timeline");
    }

    #[test]
    fn a_standby_goes_beyond_the_plan() {
        assert_eq!(permit(true, 3, 7), Permit::ServeIfThere);
        assert_eq!(permit(true, 4, 7), Permit::ServeIfThere);
        assert!(matches!(permit(true, 1, 2), Permit::Refuse(_)), "but not off it");
    }

    #[test]
    fn what_comes_next_crosses_the_fork() {
        let after =
            |number, segment| plan(false).after(SegmentName { timeline: timeline(number), number: segment });
        assert_eq!(after(1, 0), SegmentName { timeline: timeline(1), number: 1 });
        assert_eq!(after(1, 1), SegmentName { timeline: timeline(3), number: 2 });
        assert_eq!(after(3, 2), SegmentName { timeline: timeline(3), number: 3 });
    }

    #[test]
    fn a_plan_is_read_as_it_was_written() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("plan.json");
        fs::write(&path, plan(true).encode().unwrap()).unwrap();
        assert_eq!(RecoveryPlan::read(&path).unwrap(), plan(true));
        let older = plan(true).encode().unwrap().replace("access", "forgotten");
        fs::write(&path, older).unwrap();
        assert_eq!(RecoveryPlan::read(&path).unwrap().access, Access::default());
        fs::write(&path, plan(true).encode().unwrap().replace("\"format\": 1", "\"format\": 2")).unwrap();
        assert!(RecoveryPlan::read(&path).is_err());
    }
}
