//! What was logged by the test that runs on this thread.

use std::io;
use std::sync::{Arc, Mutex};

use tracing::subscriber::DefaultGuard;
use tracing_subscriber::fmt::MakeWriter;

/// The log from [`start`] until it is dropped.
pub struct Log {
    lines: Lines,
    _guard: DefaultGuard,
}

#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

/// Begins to keep what is logged on this thread, which is all that a test without other threads does.
pub fn start() -> Log {
    let lines = Lines::default();
    let subscriber = tracing_subscriber::fmt()
        .with_writer(lines.clone())
        .with_ansi(false)
        .with_max_level(tracing::Level::INFO)
        .finish();
    Log { lines, _guard: tracing::subscriber::set_default(subscriber) }
}

impl Log {
    /// The lines of WARN and ERROR that are ours.
    pub fn warnings(&self) -> Vec<String> {
        let ours =
            |line: &&str| (line.contains(" WARN ") || line.contains("ERROR ")) && line.contains(" store::");
        self.text().lines().filter(ours).map(str::to_owned).collect()
    }

    /// Everything.
    pub fn text(&self) -> String {
        String::from_utf8(self.lines.0.lock().unwrap().clone()).unwrap()
    }
}

impl io::Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl MakeWriter<'_> for Lines {
    type Writer = Lines;

    fn make_writer(&self) -> Lines {
        self.clone()
    }
}
