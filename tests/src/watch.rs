//! The last resort against a story that never ends: every wait has a limit, but a harness may have bugs too.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, Once};
use std::time::{Duration, Instant};

/// How many minutes a story may take; `E2E_STORY_MINUTES` says something else.
const MINUTES: u64 = 30;
const LOOKS_EVERY: Duration = Duration::from_secs(5);

static RUNNING: Mutex<BTreeMap<PathBuf, Running>> = Mutex::new(BTreeMap::new());
static WATCHER: Once = Once::new();

struct Running {
    story: String,
    since: Instant,
}

/// A story that is watched until this is dropped.
pub(crate) struct Watched(PathBuf);

impl Watched {
    /// Has the whole run end, with a sentence, when this thread's story takes too long in `directory`.
    pub(crate) fn story(directory: &Path) -> Watched {
        WATCHER.call_once(|| drop(std::thread::spawn(watch)));
        let story = std::thread::current().name().unwrap_or("a story").to_owned();
        let running = Running { story, since: Instant::now() };
        RUNNING.lock().expect("nobody panics here").insert(directory.to_owned(), running);
        Watched(directory.to_owned())
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        RUNNING.lock().expect("nobody panics here").remove(&self.0);
    }
}

fn watch() {
    let chosen = std::env::var("E2E_STORY_MINUTES").ok().and_then(|minutes| minutes.parse().ok());
    let limit = Duration::from_secs(60 * chosen.unwrap_or(MINUTES));
    loop {
        std::thread::sleep(LOOKS_EVERY);
        let running = RUNNING.lock().expect("nobody panics here");
        if let Some((directory, Running { story, .. })) =
            running.iter().find(|(_, one)| one.since.elapsed() > limit)
        {
            // Past the capture of the test runner, which shows what a test printed only when it has ended.
            let said = writeln!(
                std::io::stderr(),
                "test {story} ... FAILED: it still runs after {limit:?}. The run ends here, so that this can be looked at: \
                 its servers go on in {}",
                directory.display()
            );
            drop(said);
            std::process::exit(101);
        }
    }
}
