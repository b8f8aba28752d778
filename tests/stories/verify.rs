//! Verify: single bytes damaged all over a repository are found, each with what it costs; what was read is remembered; and a
//! drill restores, replays and checks a backup and leaves nothing behind.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

use e2e::{Damage, Kind, Lsn, Objects, Options, Postgres, Shutdown, World, wait_until};
use serde_json::Value;

const MENDS_WITHIN: Duration = Duration::from_secs(120);
const DAMAGES: usize = 100;
const SEGMENT: u64 = 1 << 20;

fn small_segments() -> Options {
    let settings =
        ["min_wal_size = 2MB", "max_wal_size = 4MB", "wal_keep_size = 0"].map(str::to_owned).to_vec();
    Options { segment_mib: 1, settings, ..Options::default() }
}

/// A repository with every kind of object: four backups that share packs, segments, pieces, a hole, and a second timeline.
fn repository() -> (World, Postgres) {
    let world = World::new();
    let mut primary = world.postgres_with(&small_segments());
    let service = world.start_backupd(&primary);
    primary.pgbench_tables(1);
    world.backup();
    primary.sql("update pgbench_accounts set abalance = aid where aid % 50 = 0");
    world.backup();
    primary.sql("update pgbench_accounts set abalance = aid where aid % 60 = 0");
    let durable = service.wait_until_durable(&primary);
    service.stop();

    primary.sql("select pg_drop_replication_slot('drydock')");
    let segment = primary.value(&format!("select pg_walfile_name('{durable}')"));
    wait_until("the server to recycle the WAL", MENDS_WITHIN, || {
        primary.switch_segment();
        primary.sql("checkpoint");
        !primary.data().join("pg_wal").join(&segment).exists()
    });
    let service = world.start_backupd(&primary).expect_anything();
    wait_until("a backup behind the hole", MENDS_WITHIN, || world.backups().len() == 3);
    primary.sql("update pgbench_accounts set abalance = aid where aid % 70 = 0");
    service.wait_until_durable(&primary);
    service.stop();

    primary.stop(Shutdown::Fast);
    fs::write(primary.data().join("standby.signal"), "").unwrap();
    primary.start_again();
    primary.promote();
    let service = world.start_backupd(&primary).expect_anything();
    primary.sql("update pgbench_accounts set abalance = aid where aid % 80 = 0");
    service.wait_until_durable(&primary);
    world.backup();
    primary.sql("update pgbench_accounts set abalance = aid where aid % 90 = 0");
    primary.switch_segment();
    for n in 1..=3 {
        primary.sql(&format!("insert into pgbench_history values ({n})"));
        service.wait_until_durable(&primary);
    }
    service.stop();
    primary.kill9();
    (world, primary)
}

fn lsn(value: &Value) -> Lsn {
    value.as_str().and_then(|text| text.parse().ok()).unwrap_or_else(|| panic!("an LSN: {value}"))
}

fn texts(value: &Value) -> BTreeSet<String> {
    value.as_array().expect("a list").iter().map(|text| text.as_str().unwrap().to_owned()).collect()
}

/// What the repository holds, as it was before anything was damaged.
struct Known {
    /// The records, as `show` prints them.
    backups: Vec<Value>,
    hole: Value,
}

impl Known {
    fn look(world: &World) -> Known {
        let backups = world.backups().iter().map(|id| world.json(&["show", id])).collect();
        let verified = world.backupctl(&["--output", "json", "verify", "--read"]);
        assert_eq!(verified.code, 10, "{verified:?}");
        let findings = verified.json()["findings"].clone();
        let [hole] = &findings.as_array().unwrap()[..] else { panic!("the hole alone: {findings:#}") };
        assert_eq!(hole["severity"], "serious", "{hole:#}");
        Known { backups, hole: hole.clone() }
    }

    fn ids(&self, needed: impl Fn(&Value) -> bool) -> BTreeSet<String> {
        let needed = self.backups.iter().filter(|backup| needed(backup));
        needed.map(|backup| backup["id"].as_str().unwrap().to_owned()).collect()
    }

    /// Whether what a finding says it costs can be what damage to this object costs.
    #[track_caller]
    fn check(&self, kind: Kind, key: &str, finding: &Value) {
        let parts: Vec<&str> = key.split('/').collect();
        let (backups, lost) = (texts(&finding["backups"]), finding["lost"].as_array().unwrap());
        for lost in lost {
            assert!(lsn(&lost["from_lsn"]) < lsn(&lost["to_lsn"]), "{finding:#}");
            if let (Some(from), Some(to)) = (lost["from_time"].as_str(), lost["to_time"].as_str()) {
                assert!(from[..19] <= to[..19], "{finding:#}");
            }
        }
        let expected = match kind {
            Kind::Record | Kind::Files | Kind::Map => self.ids(|backup| backup["id"] == parts[2]),
            Kind::Pack => {
                let pack = format!("{}/{}", parts[2], parts[4]);
                let names = |backup: &Value| {
                    backup["packs"].as_array().unwrap().iter().any(|used| used["pack"] == pack.as_str())
                };
                self.ids(names)
            }
            Kind::Repository | Kind::Cluster => self.ids(|_| true),
            Kind::History => {
                assert!(!lost.is_empty() && lost.iter().all(|lost| lost["timeline"] == 2), "{finding:#}");
                self.ids(|backup| backup["timeline"] == 2)
            }
            Kind::Hole => {
                assert_eq!(finding["lost"], self.hole["lost"], "{finding:#}");
                BTreeSet::new()
            }
            Kind::Segment | Kind::Piece => return self.check_wal(&parts, finding, &backups),
        };
        assert!(!expected.is_empty() || kind == Kind::Hole, "{key} is needed by somebody");
        assert_eq!(backups, expected, "{finding:#}");
        assert_eq!(finding["severity"], if kind == Kind::Hole { "serious" } else { "critical" });
    }

    #[track_caller]
    fn check_wal(&self, parts: &[&str], finding: &Value, backups: &BTreeSet<String>) {
        let what = finding["what"].as_str().unwrap();
        if what.contains("still hold the same WAL") {
            assert_eq!(finding["severity"], "warning", "{finding:#}");
            return;
        }
        let name = parts[4].trim_end_matches(".zst");
        let number = |digits: &str| u64::from_str_radix(digits, 16).unwrap();
        let start = Lsn((number(&name[8..16]) << 32) + number(&name[16..24]) * SEGMENT);
        let (end, timeline) = (Lsn(start.0 + SEGMENT), number(&name[..8]));
        let floor = |at: Lsn| Lsn(at.0 / SEGMENT * SEGMENT);
        let needed = self.ids(|backup| {
            backup["timeline"] == timeline
                && floor(lsn(&backup["start_lsn"])) < end
                && start < lsn(&backup["stop_lsn"])
        });
        assert_eq!(*backups, needed, "{finding:#}");
        let leads_here = |backup: &Value| {
            backup["timeline"].as_u64() <= Some(timeline) && floor(lsn(&backup["start_lsn"])) < end
        };
        let lost: Vec<&Value> = finding["lost"].as_array().unwrap().iter().collect();
        if self.ids(leads_here).is_empty() {
            assert!(lost.is_empty() && finding["severity"] == "warning", "no backup leads here: {finding:#}");
            return;
        }
        let Some(own) = lost.iter().find(|lost| lost["timeline"] == timeline) else {
            panic!("recovery ends at {start}: {finding:#}")
        };
        assert_eq!(lsn(&own["from_lsn"]), start, "{finding:#}");
    }
}

/// Damages one byte in each of these objects, verifies, and mends them.
fn damage_and_verify(world: &World, known: &Known, objects: &Objects, victims: &[(Kind, String)]) {
    let damages: Vec<Damage> = victims.iter().map(|(_, key)| damage(world, objects, key)).collect();
    let verified = world.backupctl(&["--output", "json", "verify", "--read", "--all"]);
    assert_eq!(verified.code, 10, "{victims:?}: {verified:?}");
    let report = verified.json();
    let findings = report["findings"].as_array().unwrap();
    let order = |finding: &Value| match finding["severity"].as_str() {
        Some("critical") => 0,
        Some("serious") => 1,
        _ => 2,
    };
    assert!(findings.is_sorted_by_key(order), "the worst first: {report:#}");
    for ((kind, key), damage) in victims.iter().zip(&damages) {
        let found = findings.iter().find(|finding| finding["key"] == key.as_str());
        let found =
            found.unwrap_or_else(|| panic!("{kind:?} {key} damaged {damage:?} is not found: {report:#}"));
        known.check(*kind, key, found);
    }
    let others = findings.iter().filter(|finding| {
        !victims.iter().any(|(_, key)| finding["key"] == key.as_str()) && finding["key"] != known.hole["key"]
    });
    assert_eq!(others.count(), 0, "nothing else is damaged: {victims:?} {report:#}");
}

/// Changes a random byte to a random other one.
fn damage(world: &World, objects: &Objects, key: &str) -> Damage {
    let offset = world.random(0..objects.read(key).len());
    let mask = u8::try_from(world.random(1..256)).unwrap();
    objects.change(key, offset, mask)
}

/// Must show 7. WAL objects have a checksum of the plain WAL only, and zstd has bits that do not change it. That those flips are
/// found is owed to the ledger, which remembers the stored bytes; so is every flip in a history file, which has no seal of
/// ours. So everything is read once before it is damaged.
#[test]
fn verify_finds_a_hundred_damaged_bytes_and_what_each_costs() {
    let (world, _primary) = repository();
    let objects = world.objects();
    let known = Known::look(&world);
    let mut done = 0;
    let mut kinds = BTreeSet::new();
    let mut all = |victims: Vec<(Kind, String)>| {
        let victims: Vec<(Kind, String)> = victims.into_iter().take(DAMAGES - done).collect();
        if !victims.is_empty() {
            damage_and_verify(&world, &known, &objects, &victims);
        }
        done += victims.len();
        kinds.extend(victims.iter().map(|(kind, _)| format!("{kind:?}")));
        done < DAMAGES
    };
    let of = |kind: Kind, count: usize| {
        let mut keys = objects.of(kind);
        assert!(!keys.is_empty(), "no {kind:?}: {:#?}", objects.keys());
        let count = count.min(keys.len());
        (0..count).map(|_| (kind, keys.swap_remove(world.random(0..keys.len())))).collect::<Vec<_>>()
    };
    // Damage that hides other damage comes by itself: without its record, a backup's maps and packs are not looked for, and
    // nobody knows to where it led.
    while all([of(Kind::Files, 3), of(Kind::Map, 3), of(Kind::Pack, 4), of(Kind::Hole, 1)].concat())
        && all([of(Kind::Segment, 8), of(Kind::Piece, 3)].concat())
        && all(of(Kind::Record, 3))
        && all(of(Kind::History, 1))
        && all(of(Kind::Repository, 1))
        && all(of(Kind::Cluster, 1))
    {}
    assert_eq!((done, kinds.len()), (DAMAGES, 10), "{kinds:?}");
    let mended = world.backupctl(&["--output", "json", "verify", "--read", "--all"]).json();
    assert_eq!(mended["findings"].as_array().unwrap().len(), 1, "{mended:#}");
}

/// A small repository: one backup, some segments.
fn small() -> (World, Postgres, e2e::Service) {
    let world = World::new();
    let primary = world.postgres_with(&small_segments());
    let service = world.start_backupd(&primary);
    primary.pgbench_tables(1);
    world.backup();
    primary.switch_segment();
    service.wait_until_durable(&primary);
    (world, primary, service)
}

fn count(report: &Value, what: &str) -> u64 {
    report[what]["objects"].as_u64().unwrap_or_else(|| panic!("{what} in {report:#}"))
}

#[test]
fn what_was_read_is_remembered_and_a_share_of_it_read_again() {
    let (world, primary, service) = small();
    let first = world.json(&["verify", "--read"]);
    assert!(count(&first, "read") > 10 && count(&first, "remembered") == 0, "{first:#}");
    let again = world.json(&["verify", "--read"]);
    assert!((1..count(&first, "read") / 2).contains(&count(&again, "read")), "{again:#}");
    assert!(count(&again, "remembered") > 0 && again["remembered_since"].is_string(), "{again:#}");
    primary.switch_segment();
    service.wait_until_durable(&primary);
    service.stop();
    let new = world.json(&["verify", "--read", "--share", "0"]);
    assert!((1..4).contains(&count(&new, "read")), "what is new: {new:#}");
    assert_eq!(count(&world.json(&["verify"]), "read"), 0);

    // What is remembered is not looked at, until its turn comes or everything is asked for. What was found stays found.
    let objects = world.objects();
    let pack = objects.last(Kind::Pack);
    let mended = objects.change(&pack, objects.read(&pack).len() / 2, 1);
    world.json(&["verify", "--read", "--share", "0"]);
    for how in [&["--all"][..], &["--share", "0"]] {
        let found = world.backupctl(&[&["verify", "--read"], how].concat());
        assert!(found.code == 10 && found.stdout.contains(&pack), "{found:?}");
    }
    drop(mended);
    let quiet = world.json(&["verify", "--read", "--share", "0"]);
    assert_eq!(count(&quiet, "read"), 1, "what was doubted: {quiet:#}");

    // A ledger that is damaged costs time.
    let ledgers: Vec<String> =
        objects.keys().into_iter().filter(|key| key.contains("/state/verify/")).collect();
    assert!(ledgers.len() >= 2, "{ledgers:?}");
    ledgers.iter().for_each(|key| std::mem::forget(objects.change(key, 40, 1)));
    let output = world.backupctl(&["verify", "--read", "--share", "0"]).success();
    assert!(output.stderr.contains("is read again"), "{output:?}");
    assert_eq!(count(&world.json(&["verify", "--read", "--share", "0"]), "read"), 0);
}

#[test]
fn reading_keeps_to_the_rate() {
    let (world, _primary, service) = small();
    service.stop();
    let bytes: u64 = objects_bytes(&world.objects());
    let begun = Instant::now();
    let rate = (bytes / 1024 / 3).max(32).to_string();
    world.backupctl(&["verify", "--read", "--all", "--max-rate", &rate]).success();
    // The first second's worth is not waited for.
    assert!(begun.elapsed() > Duration::from_millis(1500), "{bytes} bytes in {:?}", begun.elapsed());
}

fn objects_bytes(objects: &Objects) -> u64 {
    [Kind::Pack, Kind::Segment]
        .iter()
        .flat_map(|kind| objects.of(*kind))
        .map(|key| objects.read(&key).len() as u64)
        .sum()
}

#[test]
fn a_segment_that_cannot_be_read_is_not_called_damaged() {
    let (world, _primary, service) = small();
    service.stop();
    let key = world.objects().last(Kind::Segment);
    let path = world.objects().path(&key);
    fs::set_permissions(&path, fs::Permissions::from_mode(0o000)).unwrap();
    let output = world.backupctl(&["--output", "json", "verify", "--read"]);
    assert_eq!(output.code, 6, "{output:?}");
    let report = output.json();
    assert!(report["findings"].as_array().unwrap().is_empty(), "{report:#}");
    let [unread] = &report["unread"].as_array().unwrap()[..] else { panic!("one object: {report:#}") };
    assert_eq!(unread["key"], key.as_str());
    assert!(unread["why"].as_str().unwrap().contains("no permission"), "{report:#}");
    assert!(count(&report, "read") > 10, "everything else was read: {report:#}");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    assert_eq!(count(&world.json(&["verify", "--read", "--share", "0"]), "read"), 1);
}

// ---- drills

fn steps(report: &Value) -> Vec<(String, String)> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let steps = report["steps"].as_array().unwrap_or_else(|| panic!("steps in {report:#}"));
    steps.iter().map(|step| (text(&step["step"]), text(&step["outcome"]))).collect()
}

fn processes_in(directory: &Path) -> usize {
    let at = |entry: fs::DirEntry| fs::read_link(entry.path().join("cwd")).ok();
    let found = fs::read_dir("/proc").unwrap().flatten().filter_map(at);
    found.filter(|at| at.starts_with(directory)).count()
}

const PASSED: [(&str, &str); 3] = [("restore", "passed"), ("replay", "passed"), ("check", "passed")];

#[track_caller]
fn assert_passed(report: &Value) {
    let passed = PASSED.map(|(step, outcome)| (step.to_owned(), outcome.to_owned()));
    assert_eq!(steps(report), passed, "{report:#}");
    assert!(report["findings"].as_array().unwrap().is_empty(), "{report:#}");
}

#[test]
fn a_drill_restores_replays_checks_and_leaves_nothing() {
    let (world, primary, service) = small();
    primary.sql("create table late as select 1 n");
    let durable = service.wait_until_durable(&primary);
    let scratch = world.fresh("scratch");
    let place = scratch.to_str().unwrap();
    let report = world.json(&["verify", "--restore", "--scratch", place]);
    assert_passed(&report);
    assert!(lsn(&report["replayed_lsn"]) <= lsn(&report["end_lsn"]), "{report:#}");
    assert!(lsn(&report["end_lsn"]) >= durable, "{report:#}");
    assert!(!scratch.exists() && processes_in(&scratch) == 0);
    // The cluster itself has noticed nothing.
    assert_eq!(primary.timeline().get(), 1);
    assert_passed(&world.json(&["verify", "--restore", "--immediate", "--scratch", place]));

    // Others' directories are left alone.
    let taken = world.directory("taken");
    fs::write(taken.join("precious"), "data").unwrap();
    let refused = world.backupctl(&["verify", "--restore", "--scratch", taken.to_str().unwrap()]);
    refused.fails(9, &["not empty", taken.to_str().unwrap()]);
    assert!(taken.join("precious").exists());
    let nowhere = world.backupctl(&["verify", "--restore", "--pg-bindir", "/nowhere"]);
    nowhere.fails(9, &["/nowhere", "PostgreSQL"]);
    service.stop();
}

/// Drills, expects that this step is the one that fails, and that what was found names `named`.
#[track_caller]
fn drill_fails(world: &World, step: &str, named: &str) {
    let scratch = world.fresh("scratch");
    let place = scratch.to_str().unwrap();
    let failed = world.backupctl(&["--output", "json", "verify", "--restore", "--scratch", place]);
    assert_eq!(failed.code, 10, "{failed:?}");
    let report = failed.json();
    let steps = steps(&report);
    assert_eq!(steps.last(), Some(&(step.to_owned(), "failed".to_owned())), "{report:#}");
    assert!(steps.iter().rev().skip(1).all(|(_, outcome)| outcome == "passed"), "{report:#}");
    let [finding] = &report["findings"].as_array().unwrap()[..] else { panic!("one: {report:#}") };
    assert!(finding["what"].as_str().unwrap().contains(named), "should name {named}: {report:#}");
    assert_eq!(finding["backups"].as_array().unwrap().len(), 1, "{report:#}");
    assert!(!scratch.exists() && processes_in(&scratch) == 0);
}

#[test]
fn a_drill_finds_what_keeps_a_restore_from_working() {
    let (world, primary, service) = small();
    let objects = world.objects();
    {
        let pack = objects.last(Kind::Pack);
        let _damage = objects.hide(&pack);
        drill_fails(&world, "restore", &pack);
    }
    {
        let segment = objects.last(Kind::Segment);
        let _damage = objects.flip(&segment, objects.read(&segment).len() / 2);
        drill_fails(&world, "replay", &segment);
    }
    // An index that does not have what its table has.
    primary.sql(
        "create function key(n int) returns int immutable language sql as 'select n';
         create table odd as select generate_series(1, 10) n;
         create index odd_key on odd (key(n));
         create or replace function key(n int) returns int immutable language sql as 'select -n'",
    );
    service.wait_until_durable(&primary);
    drill_fails(&world, "check", "odd_key");
    service.stop();
}

#[test]
fn a_drill_that_is_stopped_cleans_up_and_one_that_is_killed_is_cleaned_up_after() {
    let (world, _primary, service) = small();
    let scratch = world.fresh("scratch");
    let place = scratch.to_str().unwrap();
    let arguments = ["verify", "--restore", "--scratch", place];
    let started =
        || fs::read_to_string(scratch.join("data/postmaster.pid")).is_ok_and(|text| text.lines().count() > 1);

    let mut stopped = world.spawn_backupctl(&arguments);
    wait_until("the drill's server", MENDS_WITHIN, started);
    stopped.terminate();
    assert_eq!(stopped.wait(MENDS_WITHIN), 1);
    assert!(!scratch.exists() && processes_in(&scratch) == 0);

    let mut killed = world.spawn_backupctl(&arguments);
    wait_until("the drill's server", MENDS_WITHIN, started);
    killed.kill9();
    assert!(scratch.exists() && processes_in(&scratch) > 0, "its server runs on");
    let report = world.json(&arguments);
    assert_passed(&report);
    assert_eq!(texts(&report["cleaned"]), BTreeSet::from([place.to_owned()]));
    assert_eq!(processes_in(&scratch), 0);
    service.stop();
}
