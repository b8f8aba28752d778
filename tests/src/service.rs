//! `backupd run`, watched.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use pgformat::Lsn;
use rustix::process::Signal;

use crate::postgres::tail;
use crate::wait::{wait_for, wait_until};
use crate::{Postgres, Process, ROLE};

const STOPS_WITHIN: Duration = Duration::from_secs(60);
const CATCHES_UP_WITHIN: Duration = Duration::from_secs(180);
/// The role's password, and how private keys begin: no story makes the service say them.
const SECRETS: [&str; 2] = [ROLE.1, "AGE-SECRET-KEY-"];
const SAYS_WITHIN: Duration = Duration::from_secs(60);

/// The running service. What it logs at WARN or ERROR fails the test, unless the story announced it.
pub struct Service {
    process: Process,
    log: PathBuf,
    expected: Vec<String>,
}

impl Service {
    pub(crate) fn new(process: Process, log: &Path) -> Service {
        Service { process, log: log.to_owned(), expected: Vec::new() }
    }

    /// Announces warnings or errors that contain one of `words` (compared without case); they may come or not.
    pub fn expect(mut self, words: &[&str]) -> Service {
        self.expected.extend(words.iter().map(|word| word.to_lowercase()));
        self
    }

    /// Announces that anything may be logged, for stories where everything around the service breaks.
    pub fn expect_anything(self) -> Service {
        self.expect(&[""])
    }

    /// Stops the service as an init system does, and expects a clean end and a clean log.
    #[track_caller]
    pub fn stop(mut self) {
        self.process.terminate();
        let code = self.process.wait(STOPS_WITHIN);
        assert_eq!(code, 0, "backupd should end with 0 when it is asked to:\n{}", tail(&self.log));
        self.check_log();
    }

    /// Kills the service. It must have been running until now.
    #[track_caller]
    pub fn kill9(mut self) {
        self.still_runs();
        self.process.kill9();
        self.check_log();
    }

    /// Stops the service where it is, as a machine that stalls does.
    pub fn pause(&mut self) {
        self.process.signal(Signal::STOP);
    }

    /// Tells it to read its settings again.
    pub fn reload(&mut self) {
        self.process.signal(Signal::HUP);
    }

    /// Lets it go on.
    pub fn resume(&mut self) {
        self.process.signal(Signal::CONT);
    }

    /// Asserts that the service has not ended by itself.
    #[track_caller]
    pub fn still_runs(&mut self) {
        if let Some(code) = self.process.exited() {
            panic!("backupd ended by itself with exit code {code}:\n{}", tail(&self.log));
        }
    }

    /// Waits until the service has ended by itself; returns its exit code.
    #[track_caller]
    pub fn wait_for_end(mut self) -> i32 {
        let code = self.process.wait(SAYS_WITHIN);
        self.check_log();
        code
    }

    /// The exit code, when it has ended by itself.
    pub fn exited(&mut self) -> Option<i32> {
        self.process.exited()
    }

    /// The process id.
    pub fn id(&self) -> u32 {
        self.process.id()
    }

    /// The most memory the service has had until now, in bytes: its peak resident set.
    #[track_caller]
    pub fn memory_peak_bytes(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.id())).expect("the service runs");
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("a peak");
        let kib: u64 = peak.trim().trim_end_matches(" kB").parse().expect("a number");
        kib * 1024
    }

    /// Waits until all that `server` has written by now is acknowledged as durable.
    #[track_caller]
    pub fn wait_until_durable(&self, server: &Postgres) -> Lsn {
        let end = server.lsn("select pg_current_wal_flush_lsn()");
        self.wait_until_acknowledged(server, end)
    }

    /// Waits until the WAL up to `end` is acknowledged as durable.
    #[track_caller]
    pub fn wait_until_acknowledged(&self, server: &Postgres, end: Lsn) -> Lsn {
        let what = format!("backupd to acknowledge {end}:\n{}", tail(&self.log));
        wait_for(&what, CATCHES_UP_WITHIN, || acknowledged(server).filter(|&lsn| lsn >= end))
    }

    /// Waits until the log contains each of `words` (compared without case).
    #[track_caller]
    pub fn wait_until_it_says(&self, words: &[&str]) {
        let all = |log: &str| words.iter().all(|word| log.contains(&word.to_lowercase()));
        let what = format!("backupd to say {words:?}:\n{}", tail(&self.log));
        wait_until(&what, SAYS_WITHIN, || all(&self.log_text().to_lowercase()));
    }

    /// The port that the system has chosen for `monitor.listen`, where that names none.
    #[track_caller]
    pub fn monitor_port(&self) -> u16 {
        const SAYS: &str = "health and metrics are told";
        self.wait_until_it_says(&[SAYS]);
        let log = self.log_text();
        let line = log.lines().find(|line| line.contains(SAYS)).expect("it has said so");
        let address = line.split("listen=127.0.0.1:").nth(1).expect("an address");
        let digits: String = address.chars().take_while(char::is_ascii_digit).collect();
        digits.parse().expect("a port")
    }

    /// All it logged.
    pub fn log_text(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    #[track_caller]
    fn check_log(&self) {
        let log = self.log_text();
        for secret in SECRETS {
            assert!(!log.contains(secret), "backupd logged a secret, \"{secret}\"");
        }
        let unexpected: Vec<&str> =
            log.lines().filter(|line| alarming(line) && !self.expects(line)).collect();
        assert!(
            unexpected.is_empty(),
            "backupd logged what this story did not expect:\n{}",
            unexpected.join("\n")
        );
    }

    fn expects(&self, line: &str) -> bool {
        let line = line.to_lowercase();
        self.expected.iter().any(|word| line.contains(word))
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        self.process.kill9();
        if std::thread::panicking() {
            eprintln!("--- the end of {}\n{}", self.log.display(), tail(&self.log));
        } else {
            self.check_log();
        }
    }
}

/// How far the slot has been told that WAL is durable. The slot outlives the service, so this also answers after a
/// kill.
pub(crate) fn acknowledged(server: &Postgres) -> Option<Lsn> {
    let sql = "select restart_lsn from pg_replication_slots where slot_name = 'drydock'";
    server.try_sql(sql).ok()?.parse().ok()
}

fn alarming(line: &str) -> bool {
    // The level is one of the first words, after the time: "… WARN archive: …". Panics have no level.
    let level = line.split_whitespace().take(3).any(|word| matches!(word, "WARN" | "ERROR"));
    level || line.contains("panicked at")
}
