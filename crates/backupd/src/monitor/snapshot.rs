//! What the parts of the service say of themselves, at one moment.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use chrono::{DateTime, Utc};
use engine::archive::ArchiveStatus;
use engine::follow::FollowStatus;
use tokio::sync::watch;

use super::behind::Behind;
use super::figures::Figures;

/// What the service is at.
#[derive(Debug, Clone, Default)]
pub(crate) enum Phase {
    /// It opens the repository.
    #[default]
    Starting,
    /// Another service archives, and this one waits.
    StandingBy,
    /// It archives.
    Leading {
        /// How that goes.
        archive: watch::Receiver<ArchiveStatus>,
        /// How following several nodes goes.
        follow: watch::Receiver<FollowStatus>,
    },
}

/// Where the parts of the service say what they are at.
#[derive(Debug)]
pub(crate) struct Observed {
    cluster: String,
    inner: Mutex<Inner>,
    /// Something has changed in the repository.
    hint: AtomicBool,
}

#[derive(Debug, Default)]
struct Inner {
    phase: Phase,
    figures: Option<Arc<Figures>>,
    behind: Behind,
}

/// All of it at one moment.
#[derive(Debug, Clone)]
pub(crate) struct Snapshot {
    pub cluster: String,
    /// `starting`, `standing_by` or `leading`.
    pub phase: &'static str,
    pub archive: Option<ArchiveStatus>,
    pub follow: Option<FollowStatus>,
    pub figures: Option<Arc<Figures>>,
    /// For how long the archive has been behind the server; zero when it is not.
    pub behind_seconds: Option<f64>,
    pub now: DateTime<Utc>,
}

/// What news is made of.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct View {
    /// From whom WAL comes, and on which timeline.
    pub server: Option<(String, u32)>,
    /// For how long the archive has been behind.
    pub behind_seconds: Option<f64>,
    /// What keeps WAL from being archived, if anything does.
    pub trouble: Option<String>,
}

/// What there is to say in a line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Summary {
    /// The repository is open, and whatever is wrong now is waited for.
    pub has_started: bool,
    pub text: String,
}

impl Observed {
    pub fn new(cluster: String) -> Observed {
        Observed { cluster, inner: Mutex::default(), hint: AtomicBool::new(false) }
    }

    /// The service is at something else from now on.
    pub fn enter(&self, phase: Phase) {
        let mut inner = self.lock();
        (inner.phase, inner.behind) = (phase, Behind::default());
    }

    pub(super) fn keep(&self, figures: Figures) {
        self.lock().figures = Some(Arc::new(figures));
    }

    /// Something has changed in the repository, which is worth a look soon.
    pub fn hint(&self) {
        self.hint.store(true, Ordering::Relaxed);
    }

    pub(super) fn take_hint(&self) -> bool {
        self.hint.swap(false, Ordering::Relaxed)
    }

    /// Notes how far the server and the archive are; to be called now and then.
    pub(super) fn note_level(&self, now: DateTime<Utc>) {
        let mut inner = self.lock();
        let Inner { phase, behind, .. } = &mut *inner;
        if let Phase::Leading { archive, .. } = phase {
            behind.look(&archive.borrow(), now);
        }
    }

    /// What there is to say in a line.
    pub fn summary(&self, now: DateTime<Utc>) -> Summary {
        let snapshot = self.snapshot(now);
        Summary { has_started: snapshot.phase != "starting", text: snapshot.line() }
    }

    /// What news is made of.
    pub fn view(&self, now: DateTime<Utc>) -> View {
        let snapshot = self.snapshot(now);
        let server = snapshot.archive.as_ref().and_then(|archive| archive.server.as_ref());
        let trouble = match (&snapshot.archive, snapshot.phase) {
            (Some(archive), _) if server.is_none() || archive.problem.is_some() => Some(snapshot.line()),
            (None, "starting") => Some(snapshot.line()),
            _ => None,
        };
        View {
            server: server.map(|server| (server.target.clone(), server.timeline.get())),
            behind_seconds: snapshot.behind_seconds,
            trouble,
        }
    }

    /// All of it.
    pub fn snapshot(&self, now: DateTime<Utc>) -> Snapshot {
        self.note_level(now);
        let inner = self.lock();
        let (phase, archive, follow) = match &inner.phase {
            Phase::Starting => ("starting", None, None),
            Phase::StandingBy => ("standing_by", None, None),
            Phase::Leading { archive, follow } => {
                ("leading", Some(archive.borrow().clone()), Some(follow.borrow().clone()))
            }
        };
        let seconds = |since: DateTime<Utc>| now.signed_duration_since(since).as_seconds_f64().max(0.0);
        let behind = archive.is_some().then(|| inner.behind.since().map_or(0.0, seconds));
        Snapshot {
            cluster: self.cluster.clone(),
            phase,
            archive,
            follow,
            figures: inner.figures.clone(),
            behind_seconds: behind,
            now,
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Inner> {
        // Nothing is left half done by whoever panicked.
        self.inner.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

impl Snapshot {
    /// What the service is at, in a line.
    fn line(&self) -> String {
        let Some(archive) = &self.archive else {
            return match self.phase {
                "standing_by" => "standing by: another service archives".to_owned(),
                _ => "opening the repository".to_owned(),
            };
        };
        match (&archive.problem, &archive.server) {
            (Some(problem), _) => problem.clone(),
            (None, Some(server)) => format!("archiving from {}, timeline {}", server.target, server.timeline),
            (None, None) => "waiting for a server to stream from".to_owned(),
        }
    }
}
