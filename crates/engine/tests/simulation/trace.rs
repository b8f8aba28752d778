//! What happened, for whoever has to find out why a seed failed.

use std::sync::{Arc, Mutex};

use tokio::time::Instant;

/// Lines shown; what happened long before a failure seldom explains it.
const LINES_SHOWN: usize = 60;

#[derive(Clone)]
pub struct Trace {
    began: Instant,
    lines: Arc<Mutex<Vec<String>>>,
    all: bool,
}

impl Trace {
    pub fn new() -> Trace {
        let all = std::env::var_os("DRYDOCK_SIMULATION_TRACE").is_some();
        Trace { began: Instant::now(), lines: Arc::default(), all }
    }

    pub fn note(&self, line: impl FnOnce() -> String) {
        let line = format!("{:>12.3} {}", self.began.elapsed().as_secs_f64(), line());
        if self.all {
            eprintln!("{line}");
        }
        self.lines.lock().unwrap().push(line);
    }

    pub fn text(&self) -> String {
        let lines = self.lines.lock().unwrap();
        lines[lines.len().saturating_sub(LINES_SHOWN)..].iter().map(|line| format!("    {line}\n")).collect()
    }
}
