//! Several repositories with the same: either alone is enough, and one that was away catches up.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use e2e::{Bucket, Load, Postgres, World, wait_until};

use crate::kill_service::{Killed, expect_all_until};

const FILLS_WITHIN: Duration = Duration::from_secs(120);
/// A look for backups of others is half a minute away, a retry at most a minute.
const CATCHES_UP_WITHIN: Duration = Duration::from_secs(150);
const COPIES_WITHIN: Duration = Duration::from_secs(120);

fn url(directory: &Path) -> String {
    format!("file://{}", directory.display())
}

/// Every object of the cluster but its state, with its bytes' number.
fn objects(directory: &Path) -> BTreeSet<(String, u64)> {
    let (mut found, mut directories) = (BTreeSet::new(), vec![directory.to_owned()]);
    while let Some(inside) = directories.pop() {
        for entry in fs::read_dir(&inside).into_iter().flatten().flatten() {
            let path = entry.path();
            let key = path.strip_prefix(directory).unwrap().to_str().unwrap().to_owned();
            let is_hidden = key.starts_with('.') || key.contains("/state");
            match entry.metadata() {
                Ok(metadata) if metadata.is_dir() => directories.push(path),
                Ok(metadata) if !is_hidden => drop(found.insert((key, metadata.len()))),
                _ => {}
            }
        }
    }
    found
}

/// A world with a first repository, and `further` ones named by `variable`.
fn world_with(variable: &str) -> (World, PathBuf, PathBuf) {
    let world = World::new();
    let (first, second) = (world.directory("first"), world.directory("second"));
    world.put_repository_at(&first);
    world.set(variable, &url(&second));
    (world, first, second)
}

/// Restores from this directory alone.
fn restore_from(world: &World, directory: &Path) -> Postgres {
    world.unset("DRYDOCK_REPOSITORY_ALSO");
    world.unset("DRYDOCK_REPOSITORY_LATER");
    world.put_repository_at(directory);
    world.backupctl(&["verify", "--read", "--all"]).success();
    world.restore_newest()
}

fn set_writable(directory: &Path, writable: bool) {
    let mode = if writable { 0o700 } else { 0o500 };
    let mut directories = vec![directory.to_owned()];
    while let Some(inside) = directories.pop() {
        let entries = fs::read_dir(&inside).unwrap().map(|entry| entry.unwrap());
        directories.extend(entries.filter(|e| e.file_type().unwrap().is_dir()).map(|e| e.path()));
        fs::set_permissions(&inside, fs::Permissions::from_mode(mode)).unwrap();
    }
}

#[test]
fn either_of_two_is_enough() {
    let (world, first, second) = world_with("DRYDOCK_REPOSITORY_ALSO");
    let mut primary = world.postgres();
    primary.sql("create table t as select generate_series(1, 1000) n");
    let service = world.start_backupd(&primary);
    world.backup();
    for _ in 0..3 {
        primary.sql("insert into t select generate_series(1, 1000)");
        primary.switch_segment();
    }
    world.backup();
    primary.sql("insert into t select generate_series(1, 1000)");
    service.wait_until_durable(&primary);
    service.stop();
    assert_eq!(objects(&first), objects(&second));
    let status = world.json(&["status", "--copies"]);
    let lacks: Vec<_> =
        status["repositories"].as_array().unwrap().iter().map(|r| &r["lacks_objects"]).collect();
    assert_eq!(lacks, [0, 0], "{status:#}");
    primary.destroy();

    // Each of them when the other is gone; the first says where else to look.
    let kept = first.with_extension("kept");
    fs::rename(&first, &kept).unwrap();
    let list = world.backupctl(&["list"]).fails(6, &["there is no repository", "--repository"]);
    assert!(list.stderr.contains(&url(&second)), "{list:?}");
    world.backupctl(&["--repository", &url(&second), "list"]).success();
    assert_eq!(restore_from(&world, &second).value("select count(*) from t"), "5000");
    fs::rename(&second, second.with_extension("gone")).unwrap();
    assert_eq!(restore_from(&world, &kept).value("select count(*) from t"), "5000");
}

#[test]
fn nothing_is_acknowledged_that_only_one_has() {
    let world = World::new();
    let (first, disk) = (world.directory("first"), world.small_file_system(24));
    let second = disk.path().join("repository");
    world.put_repository_at(&first);
    world.set("DRYDOCK_REPOSITORY_ALSO", &url(&second));
    let mut primary = world.postgres();
    Load::create_table(&primary);
    primary.sql("create table filler (body text)");
    let mut service = world.start_backupd(&primary).expect_anything();
    world.backup();

    let load = Load::start(&primary, 1, 2);
    let start = Instant::now();
    while !service.log_text().contains("no space left") {
        assert!(start.elapsed() < FILLS_WITHIN, "the disk does not run full");
        primary.sql(
            "insert into filler select string_agg(md5(random()::text), '') from generate_series(1, 20000) k group by k % 500",
        );
    }
    service.wait_until_it_says(&[&format!("in {}", url(&second))]);
    let acknowledged = world.acknowledged(&primary);
    primary.sql("insert into filler select repeat('x', 1000) from generate_series(1, 1000)");
    std::thread::sleep(Duration::from_secs(3));
    assert_eq!(world.acknowledged(&primary), acknowledged, "only one repository takes WAL");
    service.still_runs();

    // Room returns, and nobody has to do anything.
    disk.grow(400);
    let commits = load.stop();
    let acknowledged = service.wait_until_durable(&primary);
    service.stop();
    primary.destroy();
    assert_eq!(objects(&first), objects(&second));
    expect_all_until(&restore_from(&world, &second), &commits, acknowledged);
}

#[test]
fn one_that_may_lag_catches_up() {
    let (world, first, second) = world_with("DRYDOCK_REPOSITORY_LATER");
    let mut primary = world.postgres();
    primary.sql("create table t as select generate_series(1, 1000) n");
    let mut service = world.start_backupd(&primary).expect(&["fallen behind"]);
    world.backup();
    // A removal that it missed stays missed: a piece of a segment that is whole now may be there for longer.
    let has_all = || objects(&first).is_subset(&objects(&second));
    wait_until("the other to have the backup", CATCHES_UP_WITHIN, has_all);

    set_writable(&second, false);
    for _ in 0..3 {
        primary.sql("insert into t select generate_series(1, 1000)");
        primary.switch_segment();
        service.wait_until_durable(&primary);
    }
    world.backup();
    service.wait_until_it_says(&["fallen behind"]);
    service.still_runs();
    assert!(!has_all());
    set_writable(&second, true);
    wait_until("the other to catch up", CATCHES_UP_WITHIN, has_all);
    service.wait_until_it_says(&["has caught up"]);
    let log = service.log_text();
    assert_eq!(log.matches("fallen behind").count(), 1, "{log}");
    service.stop();
    primary.destroy();
    fs::rename(&first, first.with_extension("gone")).unwrap();
    assert_eq!(restore_from(&world, &second).value("select count(*) from t"), "4000");
}

#[test]
fn an_encrypted_one_with_a_bucket_that_may_lag_and_a_bucket_that_must_not() {
    let (world, mut bucket) = (World::new(), Bucket::start());
    world.put_repository_in(&bucket);
    let (first, identity) = (world.directory("first"), world.directory("keys").join("identity"));
    let recipient = world.backupctl(&["key", "new", "--out", identity.to_str().unwrap()]).success();
    world.set("DRYDOCK_RECIPIENTS", recipient.stdout.trim());
    world.put_repository_at(&first);
    let (also, later) = (format!("{}-also", bucket.address()), bucket.address());
    world.set("DRYDOCK_REPOSITORY_ALSO", &also);
    world.set("DRYDOCK_REPOSITORY_LATER", &later);
    let mut primary = world.postgres();
    primary.sql("create table t as select generate_series(1, 1000) n");
    let mut service = world.start_backupd(&primary).expect(&["fallen behind", "repository"]);
    world.backup();
    let has_all = || objects(&first).is_subset(&objects(&bucket.objects().path("")));
    wait_until("the bucket to have the backup", CATCHES_UP_WITHIN, has_all);
    world.backupctl(&["check"]).success();

    // Both are away. Nothing is acknowledged, as one of them must have everything.
    bucket.stop();
    let acknowledged = world.acknowledged(&primary);
    primary.sql("insert into t select generate_series(1, 1000)");
    primary.switch_segment();
    service.wait_until_it_says(&[&also]);
    let check = world.backupctl(&["--output", "json", "check"]);
    let of_further = |check: &serde_json::Value| check["name"] == "further_repository";
    let found = check.json();
    let further = found["checks"].as_array().unwrap().iter().filter(|check| of_further(check));
    let verdicts: Vec<_> = further.map(|check| check["verdict"].clone()).collect();
    assert_eq!((check.code, verdicts), (10, vec!["failed".into(), "warning".into()]), "{check:?}");
    assert_eq!(world.acknowledged(&primary), acknowledged);
    service.still_runs();
    bucket.start_again();
    service.wait_until_durable(&primary);
    let has_all = || objects(&first).is_subset(&objects(&bucket.objects().path("")));
    wait_until("the bucket to catch up", CATCHES_UP_WITHIN, has_all);
    world.backup();
    wait_until("the bucket to have the second backup", CATCHES_UP_WITHIN, has_all);
    service.stop();
    primary.destroy();

    fs::rename(&first, first.with_extension("gone")).unwrap();
    world.set("DRYDOCK_IDENTITY_FILE", identity.to_str().unwrap());
    for address in [also, later] {
        world.unset("DRYDOCK_REPOSITORY_ALSO");
        world.unset("DRYDOCK_REPOSITORY_LATER");
        world.set("DRYDOCK_REPOSITORY", &address);
        world.backupctl(&["verify", "--read", "--all"]).success();
        assert_eq!(world.restore_newest().value("select count(*) from t"), "2000");
    }
}

#[test]
fn one_that_may_lag_and_cannot_be_opened_keeps_nobody_from_starting() {
    let (world, first, second) = world_with("DRYDOCK_REPOSITORY_LATER");
    fs::remove_dir(&second).unwrap();
    fs::write(&second, "a file where a directory should be").unwrap();
    let primary = world.postgres();
    let service = world.start_backupd(&primary).expect(&["fallen behind"]);
    world.backup();
    service.wait_until_it_says(&["fallen behind"]);
    let status = world.backupctl(&["status", "--copies"]);
    assert_eq!(status.code, 10, "{status:?}");
    fs::remove_file(&second).unwrap();
    fs::rename(world.directory("empty"), &second).unwrap();
    wait_until("it to be filled", CATCHES_UP_WITHIN, || objects(&first) == objects(&second));
    service.stop();
}

#[test]
fn a_lost_one_comes_back_from_the_other() {
    let (world, first, second) = world_with("DRYDOCK_REPOSITORY_ALSO");
    let mut primary = world.postgres();
    primary.sql("create table t as select generate_series(1, 1000) n");
    let service = world.start_backupd(&primary);
    world.backup();
    for _ in 0..2 {
        primary.sql("insert into t select generate_series(1, 1000)");
        primary.switch_segment();
    }
    service.wait_until_durable(&primary);
    service.stop();
    let lost = |directory: &Path| fs::remove_dir_all(directory.join(World::CLUSTER)).unwrap();
    for directory in [&first, &second] {
        lost(directory);
        fs::remove_file(directory.join("repository.json")).unwrap();
        // Nothing is removed while one of them has a backup that the first has not.
        let service = world.start_backupd(&primary).expect(&["lacks what"]);
        primary.sql("insert into t select generate_series(1, 1000)");
        service.wait_until_durable(&primary);
        wait_until("both to have the same", CATCHES_UP_WITHIN, || objects(&first) == objects(&second));
        service.stop();
        assert_eq!(world.holes(), Vec::<serde_json::Value>::new());
    }
    primary.destroy();
    assert_eq!(restore_from(&world, &first).value("select count(*) from t"), "5000");
    assert_eq!(restore_from(&world, &second).value("select count(*) from t"), "5000");
}

#[test]
fn a_copy_is_a_repository() {
    let world = World::new();
    let mut primary = world.postgres();
    primary.pgbench_tables(2);
    let service = world.start_backupd(&primary);
    world.backup();
    primary.sql("update pgbench_accounts set filler = md5(random()::text)");
    world.backup();
    service.wait_until_durable(&primary);
    service.stop();
    let expected = primary.value("select md5(string_agg(filler, '' order by aid)) from pgbench_accounts");
    primary.destroy();

    let to = world.directory("copies").join("to");
    let address = url(&to);
    let planned = world.json(&["copy", &address, "--dry-run"]);
    assert!(planned["objects"].as_u64().unwrap() > 5, "{planned:#}");
    assert!(!to.exists(), "a dry run writes nothing");

    // Killed at any moment: what is listed is whole.
    let (mut killed, mut rounds) = (0, 0);
    while killed < 5 {
        rounds += 1;
        assert!(rounds <= 50, "only {killed} of {rounds} kills came in time");
        let mut copy = world.spawn_backupctl(&["copy", &address]);
        world.doze(Duration::from_millis(300));
        let finished = copy.exited();
        copy.kill9();
        assert!(matches!(finished, None | Some(0)), "a copy failed by itself: {finished:?}");
        killed += usize::from(finished.is_none());
        if to.join("repository.json").exists() && to.join("main/cluster.json").exists() {
            let list = world.json(&["--repository", &address, "list"]);
            // Until there is a backup, there is nothing to restore, and the WAL may not be all there.
            if !list["backups"].as_array().unwrap().is_empty() {
                world.backupctl(&["--repository", &address, "verify", "--read", "--all"]).success();
            }
        }
        if finished.is_some() {
            fs::remove_dir_all(&to).unwrap();
        }
    }
    let mut copy = world.spawn_backupctl(&["copy", &address]);
    assert_eq!(copy.wait(COPIES_WITHIN), 0);
    assert_eq!(world.json(&["copy", &address])["objects"], 0);
    let (from, copied) = (objects(world.objects().path("").as_path()), objects(&to));
    assert_eq!(from, copied);

    // An object that is another one is named, and left.
    let (key, size) = copied.iter().find(|(key, _)| key.contains("/packs/")).unwrap();
    fs::OpenOptions::new().write(true).open(to.join(key)).unwrap().set_len(size - 1).unwrap();
    let found = world.backupctl(&["copy", &address]);
    assert!(found.code == 10 && found.stdout.contains(key), "{found:?}");
    fs::remove_file(to.join(key)).unwrap();
    world.backupctl(&["copy", &address]).success();

    world.backupctl(&["copy", &url(&world.objects().path(""))]).fails(3, &["same repository"]);
    world.backupctl(&["copy", "https://127.0.0.1:1"]).fails(6, &["only be read"]);
    let elsewhere = url(&world.directory("elsewhere"));
    world.backupctl(&["copy", &elsewhere, "--from", &address]).success();
    let node = restore_from(&world, &to);
    assert_eq!(node.value("select md5(string_agg(filler, '' order by aid)) from pgbench_accounts"), expected);
}

#[test]
fn killed_between_the_writes_to_two() {
    const KILLS: usize = 12;
    let (world, first, second) = world_with("DRYDOCK_REPOSITORY_ALSO");
    let mut torn = 0;
    let look = || torn += usize::from(objects(&first) != objects(&second));
    let killed = Killed::again_and_again(&world, KILLS, look);
    eprintln!("{torn} of {KILLS} kills fell between two writes");
    assert_eq!(world.holes(), Vec::<serde_json::Value>::new());
    for directory in [&first, &second] {
        killed.expect_in(&restore_from(&world, directory));
        assert_eq!(world.holes(), Vec::<serde_json::Value>::new());
    }
}

/// A repository that may lag expires by what it has itself, and whatever it lists can be restored.
#[test]
fn one_that_may_lag_expires_too() {
    let (world, first, second) = world_with("DRYDOCK_REPOSITORY_LATER");
    let primary = world.postgres();
    let service = world.start_backupd(&primary);
    primary.sql("create table t (n int)");
    for _ in 0..4 {
        primary.sql("insert into t select generate_series(1, 1000)");
        world.backup();
        primary.switch_segment();
    }
    service.wait_until_durable(&primary);
    wait_until("the second to have all", CATCHES_UP_WITHIN, || objects(&first) == objects(&second));
    service.stop();
    world.set("DRYDOCK_RETENTION_BACKUPS", "2");
    let service = world.start_backupd(&primary);
    let records =
        |directory: &Path| objects(directory).iter().filter(|(key, _)| key.ends_with("record.json")).count();
    wait_until("both to expire", CATCHES_UP_WITHIN, || records(&first) == 2 && records(&second) == 2);
    service.wait_until_durable(&primary);
    wait_until("both to have the same", CATCHES_UP_WITHIN, || objects(&first) == objects(&second));
    service.stop();
    let node = restore_from(&world, &second);
    assert_eq!(node.value("select count(*) from t"), "4000");
}
