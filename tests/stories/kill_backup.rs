//! A backup and a restore are killed at any moment: what is listed is whole, what is half done cannot start, and the
//! next run succeeds.

use std::path::Path;
use std::time::{Duration, Instant};

use e2e::{Postgres, Service, World};

const KILLS: usize = 20;
/// Kills that come too late prove nothing and are repeated, but not for ever.
const ROUNDS_MAX: usize = 10 * KILLS;
const RUNS_WITHIN: Duration = Duration::from_secs(120);

fn world_with_data() -> (World, Postgres, Service) {
    let world = World::new();
    let primary = world.postgres();
    primary.pgbench_tables(4);
    let service = world.start_backupd(&primary);
    (world, primary, service)
}

/// How long the whole thing takes, so that the kills fall anywhere in it.
fn timed(act: impl FnOnce()) -> Duration {
    let start = Instant::now();
    act();
    start.elapsed()
}

#[test]
fn a_killed_backup_is_no_backup() {
    let (world, mut primary, service) = world_with_data();
    let duration = timed(|| drop(world.backup()));
    let (mut killed, mut rounds, mut listed) = (0, 0, world.backups());
    while killed < KILLS {
        rounds += 1;
        assert!(rounds <= ROUNDS_MAX, "only {killed} of {rounds} kills came in time");
        // New data each time, so that there is something to store.
        primary.sql("update pgbench_accounts set filler = md5(random()::text) where aid % 10 = 0");
        let mut backup = world.spawn_backupctl(&["backup"]);
        world.doze(duration);
        let finished = backup.exited();
        backup.kill9();
        assert!(matches!(finished, None | Some(0)), "a backup failed by itself: {finished:?}");
        killed += usize::from(finished.is_none());

        let now = world.backups();
        let new: Vec<&String> = now.iter().filter(|id| !listed.contains(id)).collect();
        assert!(new.len() <= 1 && listed.iter().all(|id| now.contains(id)), "{listed:?} became {now:?}");
        // One that was published just before the kill counts, and so it must be whole.
        for id in new {
            world.backupctl(&["show", id]).success();
        }
        listed = now;
    }
    world.backupctl(&["verify", "--read"]).success();

    let last = world.backup();
    assert_eq!(world.backups().last(), Some(&last));
    world.backupctl(&["verify", "--read"]).success();
    let expected = primary.value("select md5(string_agg(filler, '' order by aid)) from pgbench_accounts");
    service.wait_until_durable(&primary);
    service.stop();
    primary.destroy();
    let node = world.restore(&["--target-action", "promote"]).verify().start_promoted();
    assert_eq!(node.value("select md5(string_agg(filler, '' order by aid)) from pgbench_accounts"), expected);
}

#[test]
fn a_killed_restore_does_not_start() {
    let (world, primary, service) = world_with_data();
    world.backup();
    service.wait_until_durable(&primary);
    let data = world.fresh("restored");
    let arguments = ["restore", "--data-dir", data.to_str().unwrap(), "--target-action", "promote"];
    let elsewhere = world.fresh("restored");
    let duration = timed(|| drop(world.try_restore(&elsewhere, &[]).success()));

    let (mut killed, mut rounds) = (0, 0);
    while killed < KILLS {
        rounds += 1;
        assert!(rounds <= ROUNDS_MAX, "only {killed} of {rounds} kills came in time");
        let mut restore = world.spawn_backupctl(&arguments);
        world.doze(duration);
        let finished = restore.exited();
        restore.kill9();
        assert!(matches!(finished, None | Some(0)), "a restore failed by itself: {finished:?}");
        killed += usize::from(finished.is_none());
        if is_complete(&world, &data) {
            // It lived long enough. The next one starts afresh; others go on in what the killed one left.
            std::fs::remove_dir_all(&data).unwrap();
        } else {
            assert_does_not_start(&world, &data);
        }
    }

    if !is_complete(&world, &data) {
        let mut again = world.spawn_backupctl(&arguments);
        assert_eq!(again.wait(RUNS_WITHIN), 0, "the same restore again succeeds");
    }
    let node = world.adopt(&data).start();
    node.wait_promoted();
    assert_eq!(node.value("select count(*) from pgbench_accounts"), "400000");
    service.stop();
}

/// Whether the restore reached its end. pg_control is put in place last, so where it is, all else must be.
fn is_complete(world: &World, data: &Path) -> bool {
    let complete = data.join("global/pg_control").exists();
    if complete {
        let mut verify = world.adopt(data).tool("pg_verifybackup");
        world.run(verify.arg("--no-parse-wal").arg(data)).success();
    }
    complete
}

fn assert_does_not_start(world: &World, data: &Path) {
    if data.exists() {
        world.adopt(data).fails_to_start();
    }
}
