//! The repository in a bucket: a node that has nothing else, storage that goes away, and a way there with something wrong.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use e2e::{Bucket, Kind, Load, Lsn, Postgres, Service, Shutdown, World, wait_until};

use crate::kill_service::{Killed, expect_all_until};

const KILLS: usize = 5;
/// How long the storage is away; `E2E_STORAGE_AWAY_SECONDS` says something else.
const AWAY: Duration = Duration::from_secs(40);
/// Long enough for requests to time out and be tried again.
const FROZEN: Duration = Duration::from_secs(12);
/// Whatever piles up, it is not in the service's memory.
const MEMORY_MAX: u64 = 150 << 20;
/// A command that asks a server that nobody answers for gives up within this.
const GIVES_UP_WITHIN: Duration = Duration::from_secs(45);

/// What is said while the storage is away, and right after.
/// The kernel may give up a connection from which nothing is read for minutes; then it is made again.
const STORAGE_IS_AWAY: &[&str] = &["repository", "backupd::guard", "dead backups", "not archiving"];

const REPOSITORY: i32 = 6;

fn in_a_bucket() -> (World, Bucket) {
    let (world, bucket) = (World::new(), Bucket::start());
    world.put_repository_in(&bucket);
    (world, bucket)
}

/// From here on, what is run knows nothing of the server that was.
fn become_a_fresh_node(world: &World) {
    for variable in
        ["REPLICATION_HOST", "REPLICATION_PORT", "REPLICATION_USER", "REPLICATION_PASSWORD", "POSTGRES_DB"]
    {
        world.unset(variable);
    }
}

fn rows(server: &Postgres) -> String {
    server.value("select count(*) || ' ' || md5(string_agg(t::text, ',' order by client, n)) from ledger t")
}

/// Whether the secret is there, which is a word in the name of its variable, too.
fn shows_the_secret(text: &str) -> bool {
    text.replace("AWS_SECRET_ACCESS_KEY", "").contains(Bucket::KEY.1)
}

fn path(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// Clients that write for a while.
fn write(server: &Postgres, first: u32, time: Duration) {
    let load = Load::start(server, first, 2);
    std::thread::sleep(time);
    assert!(!load.stop().is_empty(), "nothing was written");
}

#[test]
fn a_node_that_has_only_the_bucket() {
    let (world, bucket) = in_a_bucket();
    let mut primary = world.postgres();
    Load::create_table(&primary);
    let service = world.start_backupd(&primary);
    write(&primary, 1, Duration::from_millis(500));
    let backup = world.backup();
    write(&primary, 11, Duration::from_millis(500));
    primary.switch_segment();
    write(&primary, 21, Duration::from_millis(500));
    let (moment, then) = (primary.now(), rows(&primary));
    std::thread::sleep(Duration::from_millis(20));
    primary.sql("delete from ledger where client <> 1");
    let segment = primary.value("select pg_walfile_name(pg_current_wal_lsn())");
    let newest = rows(&primary);
    service.wait_until_durable(&primary);
    service.kill9();
    primary.destroy();

    become_a_fresh_node(&world);
    let objects = bucket.objects();
    let there = |kind| objects.of(kind).iter().any(|key| key.contains(&segment));
    assert!(there(Kind::Piece) && !there(Kind::Segment), "of the last segment there are only pieces");
    assert_eq!(world.backups(), [backup]);
    for verb in [&["show", "latest"][..], &["status"], &["wal", "list"], &["verify", "--read"]] {
        world.backupctl(verb).success();
    }
    let restored = world.restore(&["--target-time", &moment, "--target-action", "promote"]).verify();
    for file in ["postgresql.auto.conf", "pg_wal/drydock/plan.json"] {
        let text = fs::read_to_string(restored.data().join(file)).unwrap();
        assert!(!shows_the_secret(&text), "{file}: {text}");
    }
    assert_eq!(rows(&restored.start_promoted()), then);
    assert_eq!(rows(&world.restore_newest()), newest);
    assert_eq!(world.holes(), Vec::<serde_json::Value>::new());
}

#[test]
fn killed_at_any_moment() {
    let (world, _bucket) = in_a_bucket();
    let killed = Killed::again_and_again(&world, KILLS, || {});
    become_a_fresh_node(&world);
    killed.expect_restored(&world);
}

// ---- storage that goes away

/// What piled up where, at most.
#[derive(Debug, Default)]
struct Piles {
    pg_wal: u64,
    slot: u64,
    memory: u64,
}

impl Piles {
    fn look(&mut self, server: &Postgres, service: &Service) {
        let number = |sql| server.value(sql).parse::<u64>().unwrap();
        self.pg_wal = self.pg_wal.max(number("select sum(size) from pg_ls_waldir()"));
        self.slot = self.slot.max(number(
            "select (pg_current_wal_flush_lsn() - restart_lsn)::bigint from pg_replication_slots",
        ));
        self.memory = self.memory.max(service.memory_peak_bytes());
    }

    fn say(&self, when: &str) {
        let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
        eprintln!(
            "{when}: pg_wal {:.1} MiB, the slot keeps {:.1} MiB, backupd had at most {:.1} MiB of memory",
            mib(self.pg_wal),
            mib(self.slot),
            mib(self.memory)
        );
    }
}

#[test]
fn storage_that_goes_away_under_load_and_comes_back() {
    let seconds = std::env::var("E2E_STORAGE_AWAY_SECONDS").ok();
    let time = seconds.map_or(AWAY, |text| Duration::from_secs(text.parse().expect("a number of seconds")));
    let (world, mut bucket) = in_a_bucket();
    let mut primary = world.postgres();
    Load::create_table(&primary);
    let mut service = world.start_backupd(&primary).expect(STORAGE_IS_AWAY);
    world.backup();
    let load = Load::start(&primary, 1, 4);
    std::thread::sleep(Duration::from_secs(2));
    let mut before = Piles::default();
    before.look(&primary, &service);
    before.say("before");

    bucket.stop();
    let (begun, mut during) = (Instant::now(), Piles::default());
    service.wait_until_it_says(&["does not take WAL", "waits on the server", &bucket.endpoint()]);
    let stood = world.acknowledged(&primary);
    the_storage_is_said_to_be_away(&world, &bucket);
    while begun.elapsed() < time {
        std::thread::sleep(Duration::from_secs(1));
        during.look(&primary, &service);
        service.still_runs();
    }
    assert_eq!(world.acknowledged(&primary), stood, "nothing is durable in storage that is away");
    during.say(&format!("after {} s without storage", begun.elapsed().as_secs()));

    bucket.start_again();
    let back = Instant::now();
    service.wait_until_durable(&primary);
    eprintln!("it had caught up {:.1} s after the storage was back", back.elapsed().as_secs_f64());
    during.look(&primary, &service);
    assert!(during.memory < MEMORY_MAX, "backupd had {} bytes of memory", during.memory);
    world.backupctl(&["status"]).success();
    world.backup();

    everything_is_lost_but_the_bucket(&world, load, service, &mut primary);
}

#[track_caller]
fn the_storage_is_said_to_be_away(world: &World, bucket: &Bucket) {
    for verb in ["status", "backup"] {
        let asked = Instant::now();
        let said =
            world.backupctl(&[verb]).fails(REPOSITORY, &["cannot", "repository.json", &bucket.endpoint()]);
        let took = asked.elapsed();
        assert!(
            verb != "status" || said.stdout.contains("keeps WAL from"),
            "what waits on the server: {said:?}"
        );
        eprintln!("{verb} says after {:.1} s: {}", took.as_secs_f64(), said.stderr.trim());
        assert!(took < GIVES_UP_WITHIN, "{verb} took {took:?}");
    }
}

/// The service and the server go, under load, and all that was acknowledged comes back.
#[track_caller]
fn everything_is_lost_but_the_bucket(
    world: &World,
    load: Load,
    mut service: Service,
    primary: &mut Postgres,
) {
    service.still_runs();
    service.kill9();
    let acknowledged: Lsn = world.acknowledged(primary);
    let commits = load.stop();
    primary.destroy();
    become_a_fresh_node(world);
    let node = world.restore_newest();
    assert_eq!(world.holes(), Vec::<serde_json::Value>::new());
    expect_all_until(&node, &commits, acknowledged);
    let durable = commits.iter().filter(|commit| commit.lsn.is_some_and(|lsn| lsn <= acknowledged)).count();
    eprintln!("all {durable} commits that were acknowledged came back, of {} in all", commits.len());
}

#[test]
fn storage_that_takes_connections_and_answers_nothing() {
    let (world, bucket) = in_a_bucket();
    world.set("DRYDOCK_S3_REQUEST_TIMEOUT", "2s");
    let mut primary = world.postgres();
    Load::create_table(&primary);
    let service = world.start_backupd(&primary).expect(STORAGE_IS_AWAY);
    world.backup();
    let load = Load::start(&primary, 1, 3);
    std::thread::sleep(Duration::from_secs(1));
    let frozen = bucket.freeze();
    world.backupctl(&["status"]).fails(REPOSITORY, &["did not answer within", &bucket.endpoint()]);
    service.wait_until_it_says(&["does not take WAL", "did not answer within"]);
    std::thread::sleep(FROZEN);
    drop(frozen);
    service.wait_until_durable(&primary);
    world.backupctl(&["verify", "--read"]).success();
    everything_is_lost_but_the_bucket(&world, load, service, &mut primary);
}

// ---- what may be wrong

#[test]
fn what_is_wrong_with_the_way_there_is_one_sentence() {
    let (world, bucket) = in_a_bucket();
    let primary = world.postgres();
    let service = world.start_backupd(&primary);
    world.backup();
    service.stop();
    let data = world.fresh("refused");
    let fails = |code, named: &[&str]| {
        for verb in [&["list"][..], &["status"], &["restore", "--data-dir", path(&data)]] {
            let stderr = world.backupctl(verb).fails(code, named).stderr;
            assert!(stderr.lines().count() <= 2, "an error and a hint: {stderr}");
            assert!(!shows_the_secret(&stderr) && !stderr.contains("MISTAKE"), "{stderr}");
        }
        assert!(!data.exists(), "nothing was begun");
        // For recovery it is not the end of WAL.
        let fetched = world.fresh("wal");
        let fetch = ["wal", "fetch", "000000010000000000000001", path(&fetched)];
        assert_eq!(world.backupctl(&fetch).code, 200);
        if code == REPOSITORY {
            let mut service = world.launch_backupd().expect_anything();
            service.wait_until_it_says(named);
            wait_until("backupd to end", GIVES_UP_WITHIN, || service.exited() == Some(code));
        }
    };

    world.set("DRYDOCK_REPOSITORY", "s3://elsewhere/prefix");
    fails(REPOSITORY, &["there is no bucket \"elsewhere\"", &bucket.endpoint()]);
    world.set("DRYDOCK_REPOSITORY", &bucket.address());

    let right = world.unset("DRYDOCK_S3_CREDENTIALS_FILE").unwrap();
    let wrong = |text: &str| {
        world.set("DRYDOCK_S3_CREDENTIALS_FILE", path(&world.write_private("credentials", text)));
    };
    wrong(&bucket.credentials().replace(Bucket::KEY.1, "MISTAKE"));
    fails(REPOSITORY, &["the secret key does not belong to the access key", "check the credentials"]);
    wrong(&bucket.credentials().replace(Bucket::KEY.0, "NOBODY"));
    fails(REPOSITORY, &["does not know the access key", "check the credentials"]);
    wrong("");
    fails(REPOSITORY, &["there are no credentials in", "[default]"]);
    world.set("DRYDOCK_S3_CREDENTIALS_FILE", "/no/such/file");
    fails(REPOSITORY, &["/no/such/file"]);
    world.unset("DRYDOCK_S3_CREDENTIALS_FILE");
    world.set("AWS_EC2_METADATA_DISABLED", "true");
    fails(REPOSITORY, &["there are no credentials", "AWS_ACCESS_KEY_ID"]);
    world.set("DRYDOCK_S3_CREDENTIALS_FILE", &right);

    world.set("DRYDOCK_S3_ENDPOINT", "127.0.0.1:9000");
    fails(3, &["DRYDOCK_S3_ENDPOINT", "https://minio:9000"]);
    world.set("DRYDOCK_S3_ENDPOINT", &bucket.endpoint());
    world.backupctl(&["list"]).success();
}

#[test]
fn a_service_waits_for_an_endpoint_that_nobody_answers() {
    let (world, mut bucket) = in_a_bucket();
    let primary = world.postgres();
    bucket.stop();
    world.point_at(&primary);
    let mut service = world.launch_backupd().expect(STORAGE_IS_AWAY);
    world.backupctl(&["list"]).fails(REPOSITORY, &["repository.json", &bucket.endpoint(), "refused"]);
    service.wait_until_it_says(&["cannot be opened, trying again", &bucket.endpoint()]);
    service.still_runs();
    bucket.start_again();
    primary.wait_streaming("drydock");
    world.backup();
    service.stop();
}

#[test]
fn recovery_is_said_to_need_credentials_that_are_only_in_the_environment() {
    let (world, bucket) = in_a_bucket();
    world.unset("DRYDOCK_S3_CREDENTIALS_FILE");
    let credentials = [("AWS_ACCESS_KEY_ID", Bucket::KEY.0), ("AWS_SECRET_ACCESS_KEY", Bucket::KEY.1)];
    credentials.iter().for_each(|(variable, value)| world.set(variable, value));
    let mut primary = world.postgres();
    Load::create_table(&primary);
    let service = world.start_backupd(&primary);
    world.backup();
    write(&primary, 1, Duration::from_millis(300));
    service.wait_until_durable(&primary);
    service.stop();
    let expected = rows(&primary);
    primary.destroy();
    become_a_fresh_node(&world);

    let data = world.fresh("restored");
    let said = world.try_restore(&data, &[]).success().stdout;
    assert!(
        said.contains("AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY: start the server with the same"),
        "{said}"
    );
    assert!(!shows_the_secret(&said), "{said}");
    let mut node = world.adopt(&data);
    node.set("AWS_EC2_METADATA_DISABLED", "true");
    let log = node.fails_to_start();
    assert!(log.contains("there are no credentials"), "{log}");
    credentials.iter().for_each(|(variable, value)| node.set(variable, value));
    node.start_again();
    node.wait_promoted();
    assert_eq!(rows(&node), expected);
    node.stop(Shutdown::Fast);

    // With a file nothing is to be said.
    world.put_repository_in(&bucket);
    let dry = ["--output", "json", "restore", "--dry-run", "--data-dir", "/nowhere/to/be/found"];
    let report = world.backupctl(&dry).success().json();
    assert_eq!(report["environment"], serde_json::json!([]));
}
