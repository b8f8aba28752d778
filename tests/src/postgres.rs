//! PostgreSQL servers of the test's own.

use std::fmt::Write as _;
use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use pgformat::{Lsn, TimelineId};
use rustix::process::{Signal, kill_process};

use crate::person::Person;
use crate::process::{Output, Process, pid};
use crate::wait::{wait_for, wait_until};
use crate::{ROLE, tools};

const INITDB_WITHIN: Duration = Duration::from_secs(120);
const STARTS_WITHIN: Duration = Duration::from_secs(180);
const STOPS_WITHIN: Duration = Duration::from_secs(90);
const DIES_WITHIN: Duration = Duration::from_secs(20);
const SQL_WITHIN: Duration = Duration::from_secs(180);
const TOOL_WITHIN: Duration = Duration::from_secs(300);

/// Separates columns in what psql prints; no test stores one.
const COLUMN: char = '\u{1f}';

/// Below the range from which the kernel picks ports for outgoing connections, so that none of those can take a port
/// between our looking at it and the server's listening on it.
const PORTS: std::ops::Range<u16> = 15_000..32_000;

/// What a new cluster is made with.
#[derive(Debug, Clone)]
pub struct Options {
    /// Segment size in MiB; PostgreSQL's default is 16.
    pub segment_mib: u32,
    /// Whether pages carry checksums.
    pub checksums: bool,
    /// Off for speed: a killed process loses nothing that the kernel has, only a machine would. On where the test is
    /// about what a commit promises.
    pub fsync: bool,
    /// Lines for postgresql.conf.
    pub settings: Vec<String>,
}

impl Default for Options {
    fn default() -> Options {
        Options { segment_mib: 16, checksums: true, fsync: false, settings: Vec::new() }
    }
}

/// How to stop a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shutdown {
    /// Ends sessions and writes a checkpoint: `pg_ctl stop -m fast`.
    Fast,
    /// Leaves crash recovery to the next start: `pg_ctl stop -m immediate`.
    Immediate,
}

/// A server: a data directory, and the postmaster while it runs.
///
/// Port and socket are given on the command line and never in the data directory, so that a restored copy can run
/// beside its original.
pub struct Postgres {
    person: Person,
    home: PathBuf,
    data: PathBuf,
    sockets: PathBuf,
    log: PathBuf,
    port: u16,
    environment: Vec<(String, String)>,
    postmaster: Option<Process>,
}

impl Postgres {
    /// The server's major version.
    fn major(&self) -> u32 {
        let printed = Output::of(self.tool("postgres").arg("--version"), "", INITDB_WITHIN).success();
        let version = printed.stdout.split_whitespace().nth(2).unwrap_or_default();
        let digits = version.split(|c: char| !c.is_ascii_digit()).next().unwrap_or_default();
        digits.parse().unwrap_or_else(|_| panic!("not a version of PostgreSQL: {version:?}"))
    }

    /// Makes a cluster in `data` and does not start it.
    pub(crate) fn create(home: &Path, data: &Path, options: &Options) -> Postgres {
        let server = Postgres::at(home, data);
        let mut initdb = server.tool("initdb");
        initdb.arg("-D").arg(data).args(["-U", "postgres", "-E", "UTF8", "--locale=C", "--no-sync"]);
        initdb.arg(format!("--wal-segsize={}", options.segment_mib));
        match options.checksums {
            true => drop(initdb.arg("--data-checksums")),
            // Since PostgreSQL 18, checksums are what one gets without asking.
            false if server.major() >= 18 => drop(initdb.arg("--no-data-checksums")),
            false => {}
        }
        Output::of(&mut initdb, "", INITDB_WITHIN).success();
        server.allow_connections("scram-sha-256");
        server.configure(&["shared_buffers = 32MB", "max_connections = 50", "wal_level = replica"]);
        server.configure(&["log_line_prefix = '%m [%p] %a '", "log_checkpoints = off"]);
        server.configure(&[if options.fsync { "fsync = on" } else { "fsync = off" }]);
        server.configure(&options.settings.iter().map(String::as_str).collect::<Vec<_>>());
        server
    }

    /// A directory that holds a cluster already, such as a restored one.
    pub(crate) fn at(home: &Path, data: &Path) -> Postgres {
        let name = data.file_name().and_then(|name| name.to_str()).expect("a data directory has a name");
        let person = Person::unprivileged();
        // Socket paths are limited to 107 bytes, so the directory is short and at the top.
        let sockets = home.join(format!("s{name}"));
        fs::create_dir_all(&sockets).expect("make the directory of the socket");
        person.own(&sockets);
        let log = home.join(format!("{name}.log"));
        let port = free_port();
        Postgres {
            person,
            home: home.to_owned(),
            data: data.to_owned(),
            sockets,
            log,
            port,
            environment: Vec::new(),
            postmaster: None,
        }
    }

    // ---- running

    /// Starts the server and waits until it answers queries.
    #[track_caller]
    pub fn start(mut self) -> Postgres {
        self.start_again();
        self
    }

    /// Starts a server that was stopped and waits until it answers queries.
    #[track_caller]
    pub fn start_again(&mut self) {
        self.launch();
        let start = Instant::now();
        while self.try_sql("select 1").is_err() {
            if let Some(code) = self.postmaster.as_mut().and_then(Process::exited) {
                panic!("the server ended with exit code {code}:\n{}", self.log_tail());
            }
            assert!(start.elapsed() < STARTS_WITHIN, "the server does not start:\n{}", self.log_tail());
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Starts the server, expects it to end by itself, and returns what it logged.
    #[track_caller]
    pub fn fails_to_start(&mut self) -> String {
        drop(fs::remove_file(&self.log));
        self.launch();
        let code = self.postmaster.as_mut().expect("it was started").wait(STARTS_WITHIN);
        self.postmaster = None;
        assert!(code != 0, "the server should not have started:\n{}", self.log_tail());
        self.log_text()
    }

    /// Starts the server and waits until it has ended by itself without a complaint, as after `shutdown` at the end of
    /// recovery.
    #[track_caller]
    pub fn runs_until_shutdown(&mut self) {
        self.launch();
        // Since PostgreSQL 12, the target action `shutdown` ends the postmaster with exit code 0 or 3 by version.
        let code = self.postmaster.as_mut().expect("it was started").wait(STARTS_WITHIN);
        self.postmaster = None;
        assert!(matches!(code, 0 | 3), "the server ended with {code}:\n{}", self.log_tail());
    }

    fn launch(&mut self) {
        let mut command = self.tool("postgres");
        command.arg("-D").arg(&self.data).args(["-p", &self.port.to_string()]);
        command.arg("-k").arg(&self.sockets).args(["-c", "listen_addresses=127.0.0.1"]);
        command.args(["-c", "logging_collector=off", "-c", "log_destination=stderr"]);
        command.envs(self.environment.iter().map(|(variable, value)| (variable, value)));
        self.postmaster = Some(Process::spawn_logged("postgres", &mut command, &self.log));
    }

    /// Stops the server.
    #[track_caller]
    pub fn stop(&mut self, how: Shutdown) {
        if let Some(mut postmaster) = self.postmaster.take() {
            postmaster.signal(match how {
                Shutdown::Fast => Signal::INT,
                Shutdown::Immediate => Signal::QUIT,
            });
            postmaster.wait(STOPS_WITHIN);
        }
    }

    /// Kills the postmaster and every process it started, as a power cut would.
    pub fn kill9(&mut self) {
        let Some(mut postmaster) = self.postmaster.take() else { return };
        // Stopped, it starts no process that we would not see; one that was missed may wait for ever on a lock that
        // a killed one held, and its client with it.
        postmaster.signal(Signal::STOP);
        wait_until("the postmaster to stand still", DIES_WITHIN, || stands_still(postmaster.id()));
        let children = children_of(postmaster.id());
        // The postmaster first: it would take a killed child for a crash and start over.
        postmaster.kill9();
        for child in &children {
            // One that saw its postmaster go may be gone already, and then there is nothing to kill.
            let _gone = kill_process(pid(child.id), Signal::KILL);
        }
        wait_until("the killed server's processes to be gone", DIES_WITHIN, || {
            children.iter().all(|child| child_at(child.id).is_none_or(|now| now.started != child.started))
        });
    }

    /// Kills the server and deletes its data directory, as a lost disk would.
    pub fn destroy(&mut self) {
        self.kill9();
        fs::remove_dir_all(&self.data)
            .unwrap_or_else(|error| panic!("delete {}: {error}", self.data.display()));
    }

    /// Whether it was started and has neither been stopped nor killed.
    pub fn is_started(&self) -> bool {
        self.postmaster.is_some()
    }

    // ---- configuration

    /// Sets a variable of the server's environment, and so of `restore_command`'s, from its next start.
    pub fn set(&mut self, variable: &str, value: &str) {
        self.environment.push((variable.to_owned(), value.to_owned()));
    }

    /// Appends lines to postgresql.conf.
    pub fn configure(&self, lines: &[&str]) {
        append(&self.data.join("postgresql.conf"), lines);
    }

    /// Appends lines to postgresql.auto.conf, which has the last word.
    pub fn configure_auto(&self, lines: &[&str]) {
        append(&self.data.join("postgresql.auto.conf"), lines);
    }

    /// Writes a pg_hba.conf that trusts the socket and asks for `method` on TCP, for SQL and replication alike.
    pub fn allow_connections(&self, method: &str) {
        self.hba(&[
            "local all all trust",
            "local replication all trust",
            &format!("host all all 127.0.0.1/32 {method}"),
            &format!("host replication all 127.0.0.1/32 {method}"),
        ]);
    }

    /// Replaces pg_hba.conf. A running server needs [`Postgres::reload`].
    pub fn hba(&self, lines: &[&str]) {
        let path = self.data.join("pg_hba.conf");
        fs::write(&path, lines.join("\n") + "\n").expect("write pg_hba.conf");
    }

    /// Has the server read its configuration again.
    #[track_caller]
    pub fn reload(&self) {
        self.sql("select pg_reload_conf()");
        // The signal is answered soon, not at once.
        std::thread::sleep(Duration::from_millis(200));
    }

    /// Makes the role the product logs in with, with the rights README asks for.
    #[track_caller]
    pub fn create_role(&self) {
        let (name, password) = ROLE;
        self.sql(&format!(
            "create role {name} login replication password '{password}'; grant pg_monitor to {name}"
        ));
    }

    // ---- asking

    /// Runs SQL as superuser, statement by statement.
    #[track_caller]
    pub fn sql(&self, sql: &str) {
        self.value(sql);
    }

    /// Runs SQL and returns what psql prints: for one column of one row, the bare value.
    #[track_caller]
    pub fn value(&self, sql: &str) -> String {
        self.try_sql(sql).unwrap_or_else(|output| panic!("{sql}: {output:?}\n{}", self.log_tail()))
    }

    /// The same where an error is an answer.
    pub fn try_sql(&self, sql: &str) -> Result<String, Box<Output>> {
        let mut psql = self.psql();
        psql.args(["-v", "ON_ERROR_STOP=1", "-f", "-"]);
        let output = Output::of(&mut psql, sql, SQL_WITHIN);
        if output.code == 0 {
            Ok(output.stdout.trim_end_matches('\n').to_owned())
        } else {
            Err(Box::new(output))
        }
    }

    /// All rows.
    #[track_caller]
    pub fn rows(&self, sql: &str) -> Vec<Vec<String>> {
        let row = |line: &str| line.split(COLUMN).map(str::to_owned).collect();
        self.value(sql).lines().map(row).collect()
    }

    /// The only column of the only row as an LSN.
    #[track_caller]
    pub fn lsn(&self, sql: &str) -> Lsn {
        self.value(sql).parse().unwrap_or_else(|error| panic!("{sql}: {error}"))
    }

    /// The end of the WAL written so far.
    #[track_caller]
    pub fn current_lsn(&self) -> Lsn {
        self.lsn("select pg_current_wal_insert_lsn()")
    }

    /// The timeline the server writes.
    #[track_caller]
    pub fn timeline(&self) -> TimelineId {
        let sql = "select ('x' || left(pg_walfile_name(pg_current_wal_lsn()), 8))::bit(32)::int";
        self.value(sql).parse().expect("a timeline")
    }

    /// The server's clock, in RFC 3339 with microseconds.
    #[track_caller]
    pub fn now(&self) -> String {
        self.value(r#"select to_char(clock_timestamp() at time zone 'utc', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"')"#)
    }

    /// Start address and time (RFC 3339) of the commit record of transaction `xid`, as pg_waldump reads them between
    /// `from` and `to`.
    #[track_caller]
    pub fn commit_of(&self, xid: &str, from: Lsn, to: Lsn) -> (Lsn, String) {
        let mut waldump = self.tool("pg_waldump");
        waldump.arg("-p").arg(self.data.join("pg_wal")).args(["-t", &self.timeline().to_string()]);
        waldump.args(["-r", "Transaction", "-x", xid, "-s", &from.to_string(), "-e", &to.to_string()]);
        let dump = Output::of(&mut waldump, "", TOOL_WITHIN).success().stdout;
        let commit = dump.lines().find(|line| line.contains("COMMIT")).expect("a commit record");
        let after = |word: &str| commit.split_once(word).unwrap_or_else(|| panic!("{word} in {commit}")).1;
        let lsn = after("lsn: ").split(',').next().and_then(|lsn| lsn.parse().ok()).expect("an LSN");
        let time: Vec<&str> = after("COMMIT ").split_whitespace().take(2).collect();
        (lsn, time.join("T") + "Z")
    }

    /// Writes WAL until the current segment is finished.
    #[track_caller]
    pub fn switch_segment(&self) {
        self.sql("select pg_logical_emit_message(false, 'e2e', 'x'); select pg_switch_wal()");
    }

    /// Waits until recovery has ended and the server accepts writes.
    #[track_caller]
    pub fn wait_promoted(&self) {
        let what = format!("the end of recovery:\n{}", self.log_tail());
        wait_until(&what, STARTS_WITHIN, || self.value("select pg_is_in_recovery()") == "f");
    }

    /// Waits until recovery has paused at its target.
    #[track_caller]
    pub fn wait_paused(&self) {
        wait_until("recovery to pause at its target", STARTS_WITHIN, || {
            self.value("select case when pg_is_in_recovery() then pg_get_wal_replay_pause_state() end")
                == "paused"
        });
    }

    /// Ends recovery.
    #[track_caller]
    pub fn promote(&self) {
        assert_eq!(self.value("select pg_promote(true, 60)"), "t");
        self.wait_promoted();
    }

    // ---- surroundings

    /// The data directory.
    pub fn data(&self) -> &Path {
        &self.data
    }

    /// The directory of the unix socket.
    pub fn sockets(&self) -> &Path {
        &self.sockets
    }

    /// The TCP port on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// A connection string for the product's role over TCP.
    pub fn conninfo(&self) -> String {
        let (user, password) = ROLE;
        let quoted = password.replace('\\', "\\\\").replace('\'', "\\'");
        format!("host=127.0.0.1 port={} user={user} password='{quoted}'", self.port)
    }

    /// All the server logged.
    pub fn log_text(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    fn log_tail(&self) -> String {
        tail(&self.log)
    }

    // ---- PostgreSQL's own programs

    /// One of PostgreSQL's programs, as the server's user.
    pub fn tool(&self, program: &str) -> Command {
        self.person.command(&tools::postgresql(program), &self.home)
    }

    /// Runs one of PostgreSQL's programs against this server, and expects success.
    #[track_caller]
    pub fn run(&self, program: &str, arguments: &[&str]) -> Output {
        let mut command = self.tool(program);
        command.env("PGHOST", &self.sockets).env("PGPORT", self.port.to_string()).env("PGUSER", "postgres");
        Output::of(command.args(arguments), "", TOOL_WITHIN).success()
    }

    /// Starts one of PostgreSQL's programs against this server and leaves it running, its output in the world's logs.
    pub fn spawn(&self, program: &str, arguments: &[&str]) -> Process {
        let mut command = self.tool(program);
        command.env("PGHOST", &self.sockets).env("PGPORT", self.port.to_string()).env("PGUSER", "postgres");
        Process::spawn_logged(program, command.args(arguments), &self.home.join(format!("{program}.log")))
    }

    /// psql as superuser over the socket, printing bare values.
    pub(crate) fn psql(&self) -> Command {
        let mut command = self.tool("psql");
        command
            .args(["-X", "-A", "-t", "-q", "-U", "postgres", "-d", "postgres"])
            .arg("-h")
            .arg(&self.sockets);
        command.args(["-p", &self.port.to_string(), "-F", &COLUMN.to_string()]);
        command
    }

    /// A streaming standby of this server, made by pg_basebackup and started.
    #[track_caller]
    pub fn standby(&self, name: &str) -> Postgres {
        let standby = Postgres::at(&self.home, &self.home.join(name));
        let directory = standby.data.to_str().expect("a plain path");
        self.run("pg_basebackup", &["-D", directory, "-R", "-c", "fast", "-X", "stream", "--no-sync"]);
        standby.start()
    }

    /// Creates pgbench's tables; `scale` times about 15 MB.
    #[track_caller]
    pub fn pgbench_tables(&self, scale: u32) {
        self.run("pgbench", &["-i", "-q", "-s", &scale.to_string(), "postgres"]);
    }

    /// pgbench's load from `clients` connections, until the process is dropped.
    pub fn pgbench(&self, clients: u32) -> Process {
        self.spawn("pgbench", &["-n", "-c", &clients.to_string(), "-T", "1800", "postgres"])
    }

    /// Waits until a slot or walsender of `application` streams from here.
    #[track_caller]
    pub fn wait_streaming(&self, application: &str) {
        let sql = format!(
            "select count(*) from pg_stat_replication where application_name = '{application}' and state = 'streaming'"
        );
        wait_for(&format!("{application} to stream"), STARTS_WITHIN, || {
            self.try_sql(&sql).is_ok_and(|count| count == "1").then_some(())
        });
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- the end of {}\n{}", self.log.display(), tail(&self.log));
        }
        self.kill9();
    }
}

/// The last lines of a log, for messages.
pub(crate) fn tail(log: &Path) -> String {
    const LINES: usize = 40;
    let text = fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(LINES)..].join("\n")
}

fn append(path: &Path, lines: &[&str]) {
    let mut text = fs::read_to_string(path).unwrap_or_default();
    for line in lines {
        writeln!(text, "{line}").expect("write to a string");
    }
    let mode = fs::metadata(path).map(|metadata| metadata.permissions().mode()).unwrap_or(0o600);
    fs::write(path, text).unwrap_or_else(|error| panic!("write {}: {error}", path.display()));
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("keep the file's mode");
    Person::unprivileged().own(path);
}

/// A port on 127.0.0.1 that nobody listens on.
pub(crate) fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let width = PORTS.end - PORTS.start;
    // Different test processes start in different places, in case two run at once.
    let offset = u16::try_from(std::process::id() % u32::from(width)).expect("less than the width");
    (0..width)
        .map(|_| {
            PORTS.start + offset.wrapping_mul(211).wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed)) % width
        })
        .find(|&port| TcpListener::bind(("127.0.0.1", port)).is_ok())
        .expect("a free port on 127.0.0.1")
}

/// A process, told from a later one with the same id by when it started.
struct Child {
    id: u32,
    parent: u32,
    started: String,
}

fn children_of(parent: u32) -> Vec<Child> {
    let processes = fs::read_dir("/proc").expect("list /proc").flatten();
    let ids = processes.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    ids.filter_map(child_at).filter(|child| child.parent == parent).collect()
}

fn child_at(id: u32) -> Option<Child> {
    // State, parent, … and, nineteen after the state, the start time.
    let fields = stat_of(id)?;
    let zombie = fields.first()? == "Z";
    (!zombie).then_some(())?;
    Some(Child { id, parent: fields.get(1)?.parse().ok()?, started: fields.get(19)?.clone() })
}

/// Whether a process obeys SIGSTOP already, or has ended.
fn stands_still(id: u32) -> bool {
    stat_of(id).is_none_or(|fields| fields.first().is_none_or(|state| matches!(state.as_str(), "T" | "Z")))
}

/// What `/proc/ID/stat` says from the state on; see proc(5).
fn stat_of(id: u32) -> Option<Vec<String>> {
    let stat = fs::read_to_string(format!("/proc/{id}/stat")).ok()?;
    // The second field is the name in parentheses and may hold anything, so fields count from the last parenthesis.
    Some(stat.rsplit_once(')')?.1.split_whitespace().map(str::to_owned).collect())
}
