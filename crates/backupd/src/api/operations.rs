//! What was begun over HTTP, and what became of it. It is forgotten with the process; the repository is what lasts.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};

use chrono::{DateTime, Utc};
use serde::Serialize;
use serde_json::Value;

/// So many are remembered; those that ended first are forgotten first.
const REMEMBERED_MAX: usize = 64;

/// What is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Kind {
    Backup,
    Expire,
    Verify,
}

/// How far something is, in bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub(super) struct Progress {
    pub bytes: u64,
    pub bytes_total: u64,
}

/// Where an operation says how far it is.
pub(super) type Watch = Box<dyn Fn() -> Progress + Send>;

/// Something that was begun, as it stands.
#[derive(Debug, Clone, Serialize)]
pub(super) struct View {
    /// Its number since the service was started.
    id: u64,
    kind: Kind,
    /// `running`, `done` or `failed`.
    state: &'static str,
    started_at: DateTime<Utc>,
    finished_at: Option<DateTime<Utc>>,
    progress: Progress,
    /// What it came to; null until it is done.
    result: Option<Value>,
    /// Why it failed.
    problem: Option<String>,
}

struct Operation {
    view: View,
    watch: Watch,
}

impl Operation {
    fn view(&self) -> View {
        let progress = if self.view.finished_at.is_none() { (self.watch)() } else { self.view.progress };
        View { progress, ..self.view.clone() }
    }
}

/// All that are remembered.
#[derive(Default)]
pub(super) struct Operations {
    inner: Mutex<(u64, BTreeMap<u64, Operation>)>,
}

impl fmt::Debug for Operations {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.all()).finish()
    }
}

impl Operations {
    /// Something begins.
    pub fn begin(&self, kind: Kind, watch: Watch, now: DateTime<Utc>) -> View {
        let mut inner = self.lock();
        let (last, all) = &mut *inner;
        *last += 1;
        let view = View {
            id: *last,
            kind,
            state: "running",
            started_at: now,
            finished_at: None,
            progress: Progress::default(),
            result: None,
            problem: None,
        };
        all.insert(*last, Operation { view: view.clone(), watch });
        if all.len() > REMEMBERED_MAX {
            let oldest = all.iter().find(|(_, one)| one.view.finished_at.is_some()).map(|(id, _)| *id);
            oldest.map(|id| all.remove(&id));
        }
        view
    }

    /// It is over.
    pub fn end(&self, id: u64, came_to: Result<Value, String>, now: DateTime<Utc>) {
        if let Some(operation) = self.lock().1.get_mut(&id) {
            let progress = (operation.watch)();
            let view = &mut operation.view;
            (view.progress, view.finished_at) = (progress, Some(now));
            match came_to {
                Ok(result) => (view.state, view.result) = ("done", Some(result)),
                Err(problem) => (view.state, view.problem) = ("failed", Some(problem)),
            }
        }
    }

    /// One of them.
    pub fn one(&self, id: u64) -> Option<View> {
        self.lock().1.get(&id).map(Operation::view)
    }

    /// All of them, oldest first.
    pub fn all(&self) -> Vec<View> {
        self.lock().1.values().map(Operation::view).collect()
    }

    /// Whether one of a kind runs.
    pub fn runs(&self, kind: Kind) -> bool {
        self.lock().1.values().any(|one| one.view.kind == kind && one.view.finished_at.is_none())
    }

    fn lock(&self) -> MutexGuard<'_, (u64, BTreeMap<u64, Operation>)> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl View {
    pub fn id(&self) -> u64 {
        self.id
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_ended_first_is_forgotten_first_and_what_runs_is_not() {
        let (operations, now) = (Operations::default(), DateTime::UNIX_EPOCH);
        let begin = || operations.begin(Kind::Verify, Box::new(Progress::default), now).id();
        let running = begin();
        for _ in 0..REMEMBERED_MAX {
            let id = begin();
            operations.end(id, Ok(Value::Null), now);
        }
        assert_eq!(operations.all().len(), REMEMBERED_MAX);
        assert!(operations.one(running).is_some() && operations.one(running + 1).is_none());
        assert!(operations.runs(Kind::Verify) && !operations.runs(Kind::Backup));
    }
}
