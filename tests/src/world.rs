//! A test's own world: a directory, a repository, servers, and the product's environment.

use std::collections::BTreeMap;
use std::fs;
use std::ops::Range;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use pgformat::Lsn;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::Value;
use tempfile::TempDir;

use crate::person::Person;
use crate::postgres::tail;
use crate::process::{Output, Process};
use crate::service::acknowledged;
use crate::wait::wait_until;
use crate::watch::Watched;
use crate::{Bucket, Cluster, Objects, Options, Postgres, Service, Shape, Tmpfs, tools};

/// Name and password of the role the product logs in with.
pub const ROLE: (&str, &str) = ("drydock", "correct horse");

const COMMAND_WITHIN: Duration = Duration::from_secs(300);
const STREAMS_WITHIN: Duration = Duration::from_secs(60);

/// A directory of the test's own, with a repository, and all that is needed to run the product against a server.
pub struct World {
    directory: TempDir,
    seed: u64,
    random: Mutex<StdRng>,
    environment: Mutex<BTreeMap<String, String>>,
    next: AtomicU32,
    person: Person,
    _watched: Watched,
}

impl World {
    /// The cluster's name in the repository.
    pub const CLUSTER: &str = "main";

    /// An empty world. Its seed is `$E2E_SEED`, or chosen afresh.
    pub fn new() -> World {
        let seed =
            std::env::var("E2E_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or_else(rand::random);
        let mut directory = tempfile::Builder::new().prefix("drydock-").tempdir().expect("make a directory");
        directory.disable_cleanup(std::env::var_os("E2E_KEEP").is_some());
        eprintln!("E2E_SEED={seed} in {}", directory.path().display());
        let world = World {
            _watched: Watched::story(directory.path()),
            directory,
            seed,
            random: Mutex::new(StdRng::seed_from_u64(seed)),
            environment: Mutex::default(),
            next: AtomicU32::new(1),
            person: Person::unprivileged(),
        };
        fs::set_permissions(world.path(), fs::Permissions::from_mode(0o755)).expect("open the directory");
        world.person.own(world.path());
        for program in ["backupd", "backupctl"] {
            world.install(program);
        }
        world.set("DRYDOCK_CLUSTER", World::CLUSTER);
        world.put_repository_at(&world.path().join("repository"));
        world
    }

    // ---- servers

    /// A running server with PostgreSQL's defaults and the product's role.
    #[track_caller]
    pub fn postgres(&self) -> Postgres {
        self.postgres_with(&Options::default())
    }

    /// A running server made with these options, and the product's role.
    #[track_caller]
    pub fn postgres_with(&self, options: &Options) -> Postgres {
        let server = Postgres::create(self.path(), &self.fresh("node"), options).start();
        server.create_role();
        server
    }

    /// A running cluster; see [`Shape`].
    #[track_caller]
    pub fn cluster(&self, shape: &Shape) -> Cluster {
        Cluster::create(self.path(), shape)
    }

    /// A server of a data directory that exists; it is not started.
    pub fn adopt(&self, data: &Path) -> Postgres {
        Postgres::at(self.path(), data)
    }

    // ---- the service

    /// Starts `backupd run` for this server and waits until it streams.
    #[track_caller]
    pub fn start_backupd(&self, server: &Postgres) -> Service {
        self.point_at(server);
        let service = self.launch_backupd();
        server.wait_streaming("drydock");
        service
    }

    /// Starts `backupd run` for this cluster and waits until it streams from the primary.
    #[track_caller]
    pub fn start_backupd_for(&self, cluster: &Cluster) -> Service {
        self.point_at_addresses(&cluster.addresses());
        let mut service = self.launch_backupd();
        wait_until("the product to stream from the primary", STREAMS_WITHIN, || {
            service.still_runs();
            cluster.engine_streams_from(cluster.primary_node())
        });
        // It connects first, and has written nothing then.
        service.wait_until_it_says(&["session: streaming"]);
        service
    }

    /// Starts `backupd run` in the environment as it is, and waits for nothing.
    #[track_caller]
    pub fn launch_backupd(&self) -> Service {
        let log = self.fresh("backupd").with_extension("log");
        let mut command = self.command("backupd");
        Service::new(Process::spawn_logged("backupd", command.arg("run"), &log), &log)
    }

    /// How far the server was told that its WAL is durable; it also answers when the service is dead.
    #[track_caller]
    pub fn acknowledged(&self, server: &Postgres) -> Lsn {
        acknowledged(server).expect("the slot `drydock` exists and has a position")
    }

    // ---- backupctl

    /// Runs `backupctl` with these arguments.
    #[track_caller]
    pub fn backupctl(&self, arguments: &[&str]) -> Output {
        Output::of(self.command("backupctl").args(arguments), "", COMMAND_WITHIN)
    }

    /// Runs `backupd` with these arguments, which do not make it stay.
    #[track_caller]
    pub fn backupd(&self, arguments: &[&str]) -> Output {
        Output::of(self.command("backupd").args(arguments), "", COMMAND_WITHIN)
    }

    /// Runs `backupctl --output json`, expects success, and returns what it printed.
    #[track_caller]
    pub fn json(&self, arguments: &[&str]) -> Value {
        self.backupctl(&[&["--output", "json"], arguments].concat()).success().json()
    }

    /// Starts `backupctl` and lets it run.
    pub fn spawn_backupctl(&self, arguments: &[&str]) -> Process {
        let log = self.fresh("backupctl").with_extension("log");
        Process::spawn_logged("backupctl", self.command("backupctl").args(arguments), &log)
    }

    /// Takes a backup and returns its id.
    #[track_caller]
    pub fn backup(&self) -> String {
        text(&self.json(&["backup"]), "id")
    }

    /// The ids of all backups listed, oldest first.
    #[track_caller]
    pub fn backups(&self) -> Vec<String> {
        self.list("backups").iter().map(|backup| text(backup, "id")).collect()
    }

    /// All holes in the WAL.
    #[track_caller]
    pub fn holes(&self) -> Vec<Value> {
        self.list("holes")
    }

    #[track_caller]
    fn list(&self, part: &str) -> Vec<Value> {
        let list = self.json(&["list"]);
        list[part].as_array().unwrap_or_else(|| panic!("no \"{part}\" in {list:#}")).clone()
    }

    /// Restores into a fresh directory with these arguments, and expects success.
    #[track_caller]
    pub fn restore(&self, arguments: &[&str]) -> Restored<'_> {
        let data = self.fresh("restored");
        self.try_restore(&data, arguments).success();
        Restored { world: self, data }
    }

    /// Restores to the newest point and starts a node there, open for writing.
    #[track_caller]
    pub fn restore_newest(&self) -> Postgres {
        self.restore(&["--target-action", "promote"]).start_promoted()
    }

    /// Restores into `data` with these arguments.
    #[track_caller]
    pub fn try_restore(&self, data: &Path, arguments: &[&str]) -> Output {
        let data = data.to_str().expect("a plain path");
        self.backupctl(&[&["restore", "--data-dir", data], arguments].concat())
    }

    /// Restores by a command line as the product prints it, in which `DIR` stands for the data directory.
    #[track_caller]
    pub fn restore_as_told(&self, line: &str) -> Restored<'_> {
        let data = self.fresh("restored");
        let script = line.replacen("DIR", data.to_str().expect("a plain path"), 1);
        let mut shell = self.person.command(Path::new("/bin/sh"), self.path());
        shell.envs(self.environment.lock().expect("no test panics here").iter());
        shell.env("PATH", format!("{}:/usr/bin:/bin", self.path().display()));
        Output::of(shell.args(["-c", &script]), "", COMMAND_WITHIN).success();
        Restored { world: self, data }
    }

    // ---- the environment of the product

    /// Sets a variable for every `backupd` and `backupctl` started from now on.
    pub fn set(&self, variable: &str, value: &str) {
        self.environment.lock().expect("no test panics here").insert(variable.to_owned(), value.to_owned());
    }

    /// Removes a variable; returns what it was.
    pub fn unset(&self, variable: &str) -> Option<String> {
        self.environment.lock().expect("no test panics here").remove(variable)
    }

    /// Points the product at this server, as its role.
    pub fn point_at(&self, server: &Postgres) {
        self.set("REPLICATION_PORT", &server.port().to_string());
        self.log_in_to("127.0.0.1");
    }

    /// Points the product at all of these addresses, `host:port,…`, as its role.
    pub fn point_at_addresses(&self, addresses: &str) {
        self.unset("REPLICATION_PORT");
        self.log_in_to(addresses);
    }

    fn log_in_to(&self, host: &str) {
        self.set("REPLICATION_HOST", host);
        self.set("REPLICATION_USER", ROLE.0);
        self.set("REPLICATION_PASSWORD", ROLE.1);
        self.set("POSTGRES_DB", "postgres");
    }

    /// Puts the repository into `directory`, which the product makes when it is not there.
    pub fn put_repository_at(&self, directory: &Path) {
        self.set("DRYDOCK_REPOSITORY", &format!("file://{}", directory.display()));
    }

    /// Puts the repository into a bucket, with the credentials in a file.
    pub fn put_repository_in(&self, bucket: &Bucket) {
        let credentials = self.write_private("credentials", &bucket.credentials());
        self.set("DRYDOCK_REPOSITORY", &bucket.address());
        self.set("DRYDOCK_S3_ENDPOINT", &bucket.endpoint());
        self.set("DRYDOCK_S3_CREDENTIALS_FILE", credentials.to_str().expect("a plain path"));
    }

    /// The repository's objects.
    pub fn objects(&self) -> Objects {
        let environment = self.environment.lock().expect("no test panics here");
        let url = environment.get("DRYDOCK_REPOSITORY").expect("the repository is set");
        Objects::new(Path::new(url.trim_start_matches("file://")))
    }

    // ---- files and chance

    /// The directory of this world.
    pub fn path(&self) -> &Path {
        self.directory.path()
    }

    /// A path in this world at which nothing exists yet.
    pub fn fresh(&self, name: &str) -> PathBuf {
        self.path().join(format!("{name}{}", self.next.fetch_add(1, Ordering::Relaxed)))
    }

    /// A fresh empty directory that belongs to the product's user.
    pub fn directory(&self, name: &str) -> PathBuf {
        let path = self.fresh(name);
        fs::create_dir(&path).expect("make a directory");
        self.person.own(&path);
        path
    }

    /// A file of the product's user, readable for nobody else.
    pub fn write_private(&self, name: &str, text: &str) -> PathBuf {
        let path = self.fresh(name);
        fs::write(&path, text).expect("write a file");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("close the file to others");
        self.person.own(&path);
        path
    }

    /// A file system of `mib` MiB.
    #[track_caller]
    pub fn small_file_system(&self, mib: u32) -> Tmpfs {
        Tmpfs::mount(&self.fresh("small"), mib)
    }

    /// A program that is neither PostgreSQL's nor ours, as the product's user; `package` is what to install for it.
    pub fn program(&self, program: &str, package: &str) -> Command {
        self.person.command(&tools::other(program, package), self.path())
    }

    /// Runs a command to its end.
    #[track_caller]
    pub fn run(&self, command: &mut Command) -> Output {
        Output::of(command, "", COMMAND_WITHIN)
    }

    /// A number drawn from `range`.
    pub fn random(&self, range: Range<usize>) -> usize {
        self.random.lock().expect("no test panics here").random_range(range)
    }

    /// Sleeps a random while, up to `longest`.
    pub fn doze(&self, longest: Duration) {
        let share: f64 = self.random.lock().expect("no test panics here").random();
        std::thread::sleep(longest.mul_f64(share));
    }

    /// The seed everything random comes from.
    pub fn seed(&self) -> u64 {
        self.seed
    }

    fn command(&self, program: &str) -> Command {
        let mut command = self.person.command(&self.path().join(program), self.path());
        command.envs(self.environment.lock().expect("no test panics here").iter());
        command
    }

    /// Puts a binary where the product's user can run it; the checkout may be closed to that user.
    fn install(&self, program: &str) {
        let (built, installed) = (tools::product(program), self.path().join(program));
        let open = fs::metadata(&built).is_ok_and(|metadata| metadata.permissions().mode() & 0o5 == 0o5);
        if !(open && fs::hard_link(&built, &installed).is_ok()) {
            // Not `fs::copy`: another test's fork could hold our writing handle, and running the file would then
            // fail with "text file busy".
            let mut copy = Command::new(tools::other("install", "coreutils"));
            Output::of(copy.args(["-m", "755"]).arg(&built).arg(&installed), "", COMMAND_WITHIN).success();
        }
    }
}

impl Drop for World {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            return;
        }
        // Servers and services show their own logs. What ran beside them and ended does not.
        let entries = fs::read_dir(self.path()).into_iter().flatten().flatten().map(|entry| entry.path());
        let is_log = |path: &PathBuf| {
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            name.starts_with("backupctl") && name.ends_with(".log")
        };
        let modified = |path: &PathBuf| fs::metadata(path).and_then(|metadata| metadata.modified()).ok();
        if let Some(log) = entries.filter(is_log).max_by_key(modified) {
            eprintln!("--- the end of {}\n{}", log.display(), tail(&log));
        }
    }
}

impl Default for World {
    fn default() -> World {
        World::new()
    }
}

/// A restored directory that no server runs on yet.
pub struct Restored<'world> {
    world: &'world World,
    data: PathBuf,
}

impl Restored<'_> {
    /// The directory.
    pub fn data(&self) -> &Path {
        &self.data
    }

    /// Checks it with pg_verifybackup. WAL is left to recovery, which fetches it from the repository.
    #[track_caller]
    pub fn verify(self) -> Self {
        let mut command = self.node().tool("pg_verifybackup");
        Output::of(command.arg("--no-parse-wal").arg(&self.data), "", COMMAND_WITHIN).success();
        self
    }

    /// The node, not started.
    pub fn node(&self) -> Postgres {
        self.world.adopt(&self.data)
    }

    /// The node, started, answering queries at least for reading.
    #[track_caller]
    pub fn start(self) -> Postgres {
        self.node().start()
    }

    /// The node, started, once recovery has ended.
    #[track_caller]
    pub fn start_promoted(self) -> Postgres {
        let node = self.start();
        node.wait_promoted();
        node
    }
}

#[track_caller]
fn text(document: &Value, field: &str) -> String {
    document[field].as_str().unwrap_or_else(|| panic!("no \"{field}\" in {document:#}")).to_owned()
}
