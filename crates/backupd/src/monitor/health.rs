//! Whether the service does its work. Pure.

use serde::Serialize;

use super::snapshot::Snapshot;

/// Whether the service does its work.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub(super) struct Health {
    /// WAL is archived, or another service does so and this one stands by.
    pub ready: bool,
    /// `starting`, `standing_by` or `leading`.
    pub phase: &'static str,
    /// Why it is not ready.
    pub reasons: Vec<String>,
}

/// Whether the service does its work.
pub(super) fn of(snapshot: &Snapshot) -> Health {
    let mut reasons = Vec::new();
    match (&snapshot.archive, snapshot.phase) {
        (Some(archive), _) => {
            if archive.server.is_none() {
                reasons.push("no WAL is streamed".to_owned());
            }
            reasons.extend(archive.problem.clone());
        }
        (None, "standing_by") => {}
        (None, _) => reasons.push("the repository is not open yet".to_owned()),
    }
    Health { ready: reasons.is_empty(), phase: snapshot.phase, reasons }
}

#[cfg(test)]
mod tests {
    use engine::archive::ArchiveStatus;

    use super::super::snapshot::{Observed, Phase};
    use super::*;

    fn health(phase: Phase) -> Health {
        let observed = Observed::new("c".to_owned());
        observed.enter(phase);
        of(&observed.snapshot(chrono::DateTime::UNIX_EPOCH))
    }

    fn leading(archive: ArchiveStatus) -> Phase {
        let (_, archive) = tokio::sync::watch::channel(archive);
        let (_, follow) = tokio::sync::watch::channel(engine::follow::FollowStatus::default());
        Phase::Leading { archive, follow }
    }

    #[test]
    fn ready_is_who_archives_or_stands_by() {
        assert!(!health(Phase::Starting).ready);
        assert!(health(Phase::StandingBy).ready);
        let idle = health(leading(ArchiveStatus::default()));
        assert_eq!(idle.reasons, ["no WAL is streamed"]);
        let problem = Some("the disk is full".to_owned());
        let full = health(leading(ArchiveStatus { problem, ..ArchiveStatus::default() }));
        assert!(!full.ready && full.reasons.contains(&"the disk is full".to_owned()), "{full:?}");
    }
}
