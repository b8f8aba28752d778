//! Child processes with limits: run to the end, or kept and killed when dropped.

use std::fmt;
use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

/// Ends within this of being killed, or the machine is in trouble.
const DIES_WITHIN: Duration = Duration::from_secs(20);
const POLL_EVERY: Duration = Duration::from_millis(5);

/// A child that runs beside the test, and is killed with it.
pub struct Process {
    name: String,
    child: Child,
}

impl Process {
    pub(crate) fn spawn(name: &str, command: &mut Command) -> Process {
        let child = command.spawn().unwrap_or_else(|error| panic!("start {name} ({command:?}): {error}"));
        Process { name: name.to_owned(), child }
    }

    /// Starts `command` with both outputs appended to the file `log`.
    pub(crate) fn spawn_logged(name: &str, command: &mut Command, log: &Path) -> Process {
        let file = File::options().create(true).append(true).open(log);
        let file = file.unwrap_or_else(|error| panic!("open {}: {error}", log.display()));
        command.stdout(file.try_clone().expect("share the log")).stderr(file);
        Process::spawn(name, command)
    }

    /// The process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// The exit code, once it has ended. A process killed by a signal has 128 plus the signal, as in a shell.
    pub fn exited(&mut self) -> Option<i32> {
        let ended = self.child.try_wait().unwrap_or_else(|error| panic!("wait for {}: {error}", self.name));
        ended.map(code)
    }

    /// Waits for the end and returns the exit code.
    #[track_caller]
    pub fn wait(&mut self, limit: Duration) -> i32 {
        let start = Instant::now();
        loop {
            if let Some(code) = self.exited() {
                return code;
            }
            if start.elapsed() > limit {
                self.kill9();
                panic!("{} was still running after {limit:?}", self.name);
            }
            std::thread::sleep(POLL_EVERY);
        }
    }

    /// Asks it to end.
    pub fn terminate(&mut self) {
        self.signal(Signal::TERM);
    }

    /// Ends it without asking. One that has ended by itself is left in peace.
    pub fn kill9(&mut self) {
        self.signal(Signal::KILL);
        let start = Instant::now();
        while self.exited().is_none() && start.elapsed() < DIES_WITHIN {
            std::thread::sleep(POLL_EVERY);
        }
    }

    pub(crate) fn signal(&mut self, signal: Signal) {
        if self.exited().is_none() {
            // Only a process that is still ours to reap can hold this id, so the signal cannot go astray.
            kill_process(pid(self.child.id()), signal)
                .unwrap_or_else(|error| panic!("signal {}: {error}", self.name));
        }
    }

    pub(crate) fn child(&mut self) -> &mut Child {
        &mut self.child
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if let Ok(None) = self.child.try_wait() {
            drop(self.child.kill());
            drop(self.child.wait());
        }
    }
}

/// What a command that ran to its end left behind.
#[derive(Clone)]
pub struct Output {
    /// The command line.
    pub command: String,
    /// The exit code; 128 plus the signal's number when a signal ended it.
    pub code: i32,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

impl Output {
    /// Runs `command` to its end, feeding it `input`.
    #[track_caller]
    pub(crate) fn of(command: &mut Command, input: &str, limit: Duration) -> Output {
        let line = format!("{command:?}");
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut process = Process::spawn(&line, command);
        let stdin = process.child.stdin.take().expect("stdin is piped");
        let input = input.to_owned();
        let feeder = std::thread::spawn(move || {
            let mut stdin = stdin;
            // A command that ends without reading everything closes the pipe, and its exit code tells the rest.
            drop(stdin.write_all(input.as_bytes()));
        });
        let stdout = collect(process.child.stdout.take().expect("stdout is piped"));
        let stderr = collect(process.child.stderr.take().expect("stderr is piped"));
        let code = process.wait(limit);
        feeder.join().expect("feed the command");
        Output { command: line, code, stdout: text(stdout), stderr: text(stderr) }
    }

    /// The same, and asserts that it succeeded.
    #[track_caller]
    pub fn success(self) -> Output {
        assert!(self.code == 0, "should have succeeded: {self:?}");
        self
    }

    /// Asserts that it failed with this exit code, and that what it said is short and names each of `named`
    /// (compared without case).
    #[track_caller]
    pub fn fails(self, code: i32, named: &[&str]) -> Output {
        assert!(self.code == code, "should have exited with {code}: {self:?}");
        self.names(named)
    }

    /// Asserts that standard error is a short message that names each of `named` (compared without case).
    #[track_caller]
    pub fn names(self, named: &[&str]) -> Output {
        let said = self.stderr.to_lowercase();
        for name in named {
            assert!(said.contains(&name.to_lowercase()), "should name \"{name}\": {self:?}");
        }
        assert!(!said.contains("panicked at"), "a panic is never an answer: {self:?}");
        let lines = said.lines().filter(|line| !line.trim().is_empty()).count();
        assert!(
            (1..=6).contains(&lines),
            "should be one clear sentence and a hint, not {lines} lines: {self:?}"
        );
        self
    }

    /// Standard output as JSON.
    #[track_caller]
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.stdout)
            .unwrap_or_else(|error| panic!("should print JSON: {error}: {self:?}"))
    }
}

impl fmt::Debug for Output {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Output { command, code, stdout, stderr } = self;
        write!(f, "\n$ {command}\nexit code {code}\n--- stdout\n{stdout}\n--- stderr\n{stderr}\n---")
    }
}

pub(crate) fn pid(id: u32) -> Pid {
    i32::try_from(id).ok().and_then(Pid::from_raw).expect("a process id")
}

fn code(status: ExitStatus) -> i32 {
    status.code().or_else(|| status.signal().map(|signal| 128 + signal)).unwrap_or(-1)
}

fn collect(mut pipe: impl Read + Send + 'static) -> JoinHandle<Vec<u8>> {
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        pipe.read_to_end(&mut bytes).expect("read what the command says");
        bytes
    })
}

fn text(bytes: JoinHandle<Vec<u8>>) -> String {
    String::from_utf8_lossy(&bytes.join().expect("read what the command says")).into_owned()
}
