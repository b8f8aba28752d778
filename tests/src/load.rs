//! Clients that write and remember what they were told.

use std::io::{BufRead, BufReader, Write};
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use pgformat::Lsn;
use rustix::process::{Signal, kill_process};

use crate::Postgres;
use crate::process::{Process, pid};

/// A client whose server has died or answers knows it by then.
const ENDS_WITHIN: Duration = Duration::from_secs(120);
const POLL_EVERY: Duration = Duration::from_millis(5);

/// A row whose insertion the server confirmed.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Commit {
    /// Which client wrote it.
    pub client: u32,
    /// Its number for this client.
    pub n: u64,
    /// A position at or after its commit record; `None` when the server died before it could be asked.
    pub lsn: Option<Lsn>,
}

/// Clients that insert rows into the table `ledger (client, n)`, one transaction each, as fast as they are answered.
pub struct Load {
    stop: Arc<AtomicBool>,
    clients: Vec<Client>,
}

struct Client {
    /// The process id of its psql.
    psql: u32,
    thread: JoinHandle<Vec<Commit>>,
}

impl Load {
    /// Creates the table.
    #[track_caller]
    pub fn create_table(server: &Postgres) {
        server.sql("create table ledger (client int, n bigint, filler text, primary key (client, n))");
    }

    /// Starts `clients` clients. Clients number from `first`, so that a second load writes rows of its own.
    pub fn start(server: &Postgres, first: u32, clients: u32) -> Load {
        let stop = Arc::new(AtomicBool::new(false));
        let client = |number| {
            let mut psql = server.psql();
            // Without -q psql confirms each INSERT, and it does so only after the server confirmed the commit.
            psql.args(["-v", "QUIET=off", "-f", "-"]);
            psql.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
            let session = Process::spawn("psql", &mut psql);
            let stop = Arc::clone(&stop);
            Client { psql: session.id(), thread: std::thread::spawn(move || write(session, number, &stop)) }
        };
        Load { clients: (first..first + clients).map(client).collect(), stop }
    }

    /// Stops the clients and returns every commit they were told of. Clients whose server died have stopped already.
    ///
    /// # Panics
    ///
    /// Where a client is neither answered nor told that its server is gone.
    #[track_caller]
    pub fn stop(mut self) -> Vec<Commit> {
        self.stop.store(true, Ordering::Relaxed);
        let asked = Instant::now();
        let mut commits = Vec::new();
        for Client { psql, thread } in self.clients.drain(..) {
            while !thread.is_finished() && asked.elapsed() < ENDS_WITHIN {
                std::thread::sleep(POLL_EVERY);
            }
            if !thread.is_finished() {
                // The thread holds the process, so the id is still this psql's.
                let _gone = kill_process(pid(psql), Signal::KILL);
                panic!("psql (process {psql}) waited {ENDS_WITHIN:?} in vain for its server's answer");
            }
            commits.extend(thread.join().expect("a client of the load"));
        }
        commits
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

fn write(mut session: Process, client: u32, stop: &AtomicBool) -> Vec<Commit> {
    let mut input = session.child().stdin.take().expect("stdin is piped");
    let mut lines = BufReader::new(session.child().stdout.take().expect("stdout is piped")).lines();
    let mut next = move || lines.next().and_then(Result::ok);
    let mut commits = Vec::new();
    for n in 0.. {
        let insert = format!("insert into ledger values ({client}, {n}, repeat(md5('{client}/{n}'), 8));");
        let asked = writeln!(input, "{insert} select pg_current_wal_lsn();").is_ok();
        if !asked || stop.load(Ordering::Relaxed) || next().as_deref() != Some("INSERT 0 1") {
            break;
        }
        commits.push(Commit { client, n, lsn: next().and_then(|lsn| lsn.parse().ok()) });
    }
    commits
}
