//! The server of a drill: nobody reaches it but us, it reaches nobody, and it ends when we do.

use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tokio_postgres::{Client, NoTls};
use tokio_util::sync::CancellationToken;

use super::scratch::Scratch;
use crate::Error;

/// A drill that replays for longer than a day would run into the next night's.
const REPLAY_LIMIT: Duration = Duration::from_secs(24 * 3600);
/// How long a server may take to end when it is told to end at once.
const STOP_LIMIT: Duration = Duration::from_secs(30);
/// Time between two looks whether the server is ready.
const POLL_INTERVAL: Duration = Duration::from_millis(100);
/// How much of the server's log is shown.
const LOG_BYTES_MAX: u64 = 4096;
/// The port, which is only part of the socket's name.
const PORT: u16 = 5432;

/// What the server is started with. It is thrown away, so it need not be durable. Recovery runs without hot standby, because
/// that would make it stop where the cluster's limits were raised.
const SETTINGS: &[(&str, &str)] = &[
    ("listen_addresses", ""),
    ("unix_socket_permissions", "0700"),
    ("hot_standby", "off"),
    ("fsync", "off"),
    ("full_page_writes", "off"),
    ("autovacuum", "off"),
    ("logging_collector", "off"),
    ("log_destination", "stderr"),
    ("ssl", "off"),
    // It must not reach out: no archive, no primary, no subscription's publisher, no jobs of extensions.
    ("archive_mode", "off"),
    ("primary_conninfo", ""),
    ("primary_slot_name", ""),
    ("synchronous_standby_names", ""),
    ("max_logical_replication_workers", "0"),
    ("shared_preload_libraries", ""),
    ("session_preload_libraries", ""),
    ("local_preload_libraries", ""),
    // What replay needs as much of as the cluster had; the memory for it is small.
    ("max_prepared_transactions", "1000"),
    ("max_replication_slots", "200"),
];

/// A running server.
#[derive(Debug)]
pub(super) struct Server {
    child: Child,
    sockets: PathBuf,
    log: PathBuf,
}

/// Why there is no server to ask.
pub(super) enum Failure {
    /// Recovery did not get through. What it logged last.
    Recovery(String),
    /// Something else.
    Error(Error),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Failure {
        Failure::Error(error)
    }
}

impl Server {
    /// Starts a server on the data directory of a drill.
    pub(super) fn start(
        scratch: &Scratch,
        bindir: &Path,
        settings: &[(String, String)],
    ) -> Result<Server, Error> {
        let (log, sockets) = (scratch.path("log"), scratch.path("s"));
        let conf = |name: &str, text: &str| {
            let path = scratch.path(name);
            fs::write(&path, text).map_err(Error::file("write", &path)).map(|()| path)
        };
        let output = File::create(&log).map_err(Error::file("create", &log))?;
        let again = output.try_clone().map_err(Error::file("open", &log))?;
        let program = bindir.join("postgres");
        let mut command = Command::new(&program);
        command.arg("-D").arg(scratch.path("data")).arg("-k").arg(&sockets).args(["-p", &PORT.to_string()]);
        // The cluster's own configuration is for another machine, and on Debian not in the backup at all.
        for (name, path) in [
            ("config_file", conf("postgresql.conf", "")?),
            ("hba_file", conf("pg_hba.conf", "local all all trust\n")?),
            ("ident_file", conf("pg_ident.conf", "")?),
        ] {
            command.arg("-c").arg(format!("{name}={}", path.display()));
        }
        let fixed = SETTINGS.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        for (name, value) in fixed.chain(settings.iter().cloned()) {
            command.arg("-c").arg(format!("{name}={value}"));
        }
        // A group of its own: Ctrl-C is for us, and we stop the server.
        command.stdin(Stdio::null()).stdout(output).stderr(again).process_group(0);
        command.env("LC_ALL", "C").env("TZ", "UTC");
        let child = command.spawn().map_err(Error::file("start", &program))?;
        Ok(Server { child, sockets, log })
    }

    /// Waits until recovery is over and the server answers; gives a connection of a superuser, and its name.
    pub(super) async fn ready(
        &mut self,
        roles: &[String],
        shutdown: &CancellationToken,
    ) -> Result<(Client, String), Failure> {
        let begun = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().map_err(Error::file("wait for", &self.log))? {
                return Err(Failure::Recovery(format!(
                    "PostgreSQL ended with {status}:\n{}",
                    self.log_tail()
                )));
            }
            if let Some(found) = self.superuser(roles).await? {
                return Ok(found);
            }
            if begun.elapsed() > REPLAY_LIMIT {
                let reason = format!("recovery was not over after {} hours", REPLAY_LIMIT.as_secs() / 3600);
                return Err(Failure::Recovery(reason));
            }
            tokio::select! {
                () = tokio::time::sleep(POLL_INTERVAL) => {}
                () = shutdown.cancelled() => return Err(Error::Stopped.into()),
            }
        }
    }

    /// A superuser's connection; `None` while recovery goes on. The role that made the cluster may have any name, and any role
    /// can say which it is.
    async fn superuser(&self, roles: &[String]) -> Result<Option<(Client, String)>, Failure> {
        for role in roles {
            let Some(client) = self.connect(role).await? else { continue };
            let sql = "select rolname, rolname = current_user from pg_roles \
                       where rolsuper and rolcanlogin order by rolname = current_user desc, oid limit 1";
            let Ok(row) = client.query_one(sql, &[]).await else { continue };
            let (name, is_this): (String, bool) = (row.get(0), row.get(1));
            match if is_this { Some(client) } else { self.connect(&name).await? } {
                Some(client) => return Ok(Some((client, name))),
                None => continue,
            }
        }
        Ok(None)
    }

    async fn connect(&self, role: &str) -> Result<Option<Client>, Failure> {
        let mut config = tokio_postgres::Config::new();
        config.host_path(&self.sockets).port(PORT).user(role).dbname("template1");
        config.application_name("drydock drill").connect_timeout(Duration::from_secs(10));
        match config.connect(NoTls).await {
            Ok((client, connection)) => {
                // It ends with its client; what it fails with, the client's queries fail with too.
                tokio::spawn(async move { drop(connection.await) });
                Ok(Some(client))
            }
            // Not listening yet, still in recovery, or there is no such role.
            Err(error) => {
                tracing::trace!("no connection as {role} yet: {error}");
                Ok(None)
            }
        }
    }

    /// Where the socket is.
    pub(super) fn sockets(&self) -> &Path {
        &self.sockets
    }

    /// The last lines of the log.
    pub(super) fn log_tail(&self) -> String {
        let read = || {
            let mut log = File::open(&self.log)?;
            let length = log.metadata()?.len();
            log.seek(SeekFrom::Start(length.saturating_sub(LOG_BYTES_MAX)))?;
            let mut bytes = Vec::new();
            log.read_to_end(&mut bytes)?;
            std::io::Result::Ok(bytes)
        };
        let text = String::from_utf8_lossy(&read().unwrap_or_default()).into_owned();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(10)..].join("\n")
    }
}

impl Drop for Server {
    /// Its data goes anyway, so it need not end in order. It is ours to reap, so its id cannot be another's.
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(Some(_))) {
            return;
        }
        signal(self.child.id(), Signal::QUIT);
        let begun = Instant::now();
        while matches!(self.child.try_wait(), Ok(None)) && begun.elapsed() < STOP_LIMIT {
            std::thread::sleep(Duration::from_millis(20));
        }
        if matches!(self.child.try_wait(), Ok(None)) {
            tracing::warn!("the drill's server does not end, and is killed");
            drop(self.child.kill());
            drop(self.child.wait());
        }
    }
}

fn signal(id: u32, signal: Signal) {
    let Some(pid) = i32::try_from(id).ok().and_then(Pid::from_raw) else { return };
    if let Err(error) = kill_process(pid, signal) {
        // It has ended by itself.
        tracing::debug!("no signal to {id}: {error}");
    }
}

/// Ends the server that a killed drill left in this directory. Whether the process of that id is still this server is seen from
/// where it works: a postmaster never leaves its data directory.
pub(super) fn stop_left(scratch: &Path) {
    let Ok(data) = fs::canonicalize(scratch.join("data")) else { return };
    let id = fs::read_to_string(data.join("postmaster.pid"))
        .ok()
        .and_then(|text| text.lines().next()?.trim().parse::<u32>().ok());
    let Some(id) = id else { return };
    let works_here = || fs::read_link(format!("/proc/{id}/cwd")).is_ok_and(|at| at == data);
    let begun = Instant::now();
    for end in [Signal::QUIT, Signal::KILL] {
        if works_here() {
            tracing::warn!("a drill that was killed left its server running, process {id}; it is stopped");
            signal(id, end);
        }
        while works_here() && begun.elapsed() < STOP_LIMIT {
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}
