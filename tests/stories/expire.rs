//! What is kept can be restored, what goes goes whole, and whoever dies at it does no harm.

use std::time::Duration;

use e2e::{Postgres, World};
use serde_json::Value;

/// Lives with a number of backups, some rows and some segments apart.
struct Life {
    backups: Vec<String>,
    primary: Postgres,
    world: World,
}

/// Rows that each backup has more than the one before.
const STEP: usize = 100;
const SEGMENTS_BETWEEN: usize = 3;
const KILLS: usize = 12;
/// An expiry of a few dozen objects takes about so long.
const LONGEST_LIFE: Duration = Duration::from_millis(120);

impl Life {
    fn begin() -> (Life, e2e::Service) {
        let world = World::new();
        let options = e2e::Options { segment_mib: 1, ..e2e::Options::default() };
        let primary = world.postgres_with(&options);
        let service = world.start_backupd(&primary);
        primary.sql("create table t (n int)");
        (Life { backups: Vec::new(), primary, world }, service)
    }

    #[track_caller]
    fn back_up(&mut self, count: usize) {
        for _ in 0..count {
            self.primary.sql(&format!("insert into t select generate_series(1, {STEP})"));
            // A backup's name is a second.
            self.backups.push(self.world.backup());
            for _ in 0..SEGMENTS_BETWEEN {
                self.primary.switch_segment();
            }
        }
    }

    /// Each backup restores to its own moment.
    #[track_caller]
    fn expect_restorable(&self, id: &str) {
        let rows = STEP * (1 + self.backups.iter().position(|backup| backup == id).expect("one of ours"));
        let target = ["--backup", id, "--target-immediate", "--target-action", "promote"];
        let mut node = self.world.restore(&target).start_promoted();
        assert_eq!(node.value("select count(*) from t"), rows.to_string(), "{id}");
        node.destroy();
    }

    /// Nothing looks like a loss.
    #[track_caller]
    fn expect_whole(&self) {
        self.world.backupctl(&["verify", "--read", "--all"]).success();
        let status = self.world.json(&["status"]);
        assert_eq!(status["unexplained_gaps"], Value::Array(vec![]), "{status:#}");
        assert_eq!(status["holes"], Value::Array(vec![]), "{status:#}");
        assert_eq!(status["leftovers"]["backups"], Value::Array(vec![]), "{status:#}");
    }

    fn markers(&self) -> usize {
        self.world.objects().keys().iter().filter(|key| key.contains("/expired/")).count()
    }
}

#[test]
fn what_stays_can_be_restored() {
    let (mut life, service) = Life::begin();
    life.back_up(5);
    let pinned = life.backups[1].clone();
    life.world.json(&["pin", &pinned, "--reason", "for the auditors"]);
    service.wait_until_durable(&life.primary);

    // Without a policy nothing goes.
    let plan = life.world.json(&["expire"]);
    assert!(plan["nothing_because"].as_str().unwrap().contains("no retention"), "{plan:#}");
    life.world.set("DRYDOCK_RETENTION_BACKUPS", "2");
    let before = life.world.objects().keys();
    let dry = life.world.backupctl(&["expire", "--dry-run"]).success().stdout;
    for words in
        ["for the auditors", "one of the newest 2", "nothing in the policy asks for it", "GOES", "stays"]
    {
        assert!(dry.contains(words), "{words}:\n{dry}");
    }
    assert_eq!(life.world.objects().keys(), before, "a dry run removes nothing");

    let done = life.world.json(&["expire"]);
    assert_eq!(done["removed"]["backups"], 2, "{done:#}");
    assert!(done["removed"]["wal_bytes"].as_u64() > Some(0), "{done:#}");
    let stays = [&pinned, &life.backups[3], &life.backups[4]].map(String::clone);
    assert_eq!(life.world.backups(), stays);
    assert_eq!(life.markers(), 2, "before the pinned one's WAL, and between that and the rest");
    life.expect_whole();
    for id in &stays {
        life.expect_restorable(id);
    }
    // Behind the pinned one there is nothing.
    let plan = ["--backup", &pinned, "--target-lsn", &life.primary.current_lsn().to_string()];
    life.world.try_restore(&life.world.fresh("further"), &plan).fails(8, &["reachable"]);

    // The archive goes on, also after a restart.
    service.stop();
    life.world.set("DRYDOCK_RETENTION_MINIMUM", "2");
    let service = life.world.start_backupd(&life.primary);
    life.back_up(1);
    service.wait_until_durable(&life.primary);
    life.expect_whole();
    let mut node = life.world.restore_newest();
    assert_eq!(node.value("select count(*) from t"), (STEP * 6).to_string());
    node.destroy();

    life.world.json(&["unpin", &pinned]);
    let plan = life.world.json(&["expire", "--dry-run"]);
    assert!(plan["backups"][0]["reasons"].to_string().contains("or did lately"), "{plan:#}");
    // What lies under state/ may be lost without losing data.
    for key in life.world.objects().keys().iter().filter(|key| key.contains("/state/restores/")) {
        std::fs::remove_file(life.world.objects().path(key)).expect("remove a heartbeat");
    }
    life.world.json(&["expire"]);
    assert_eq!(life.markers(), 1, "before everything that stays");
    assert_eq!(life.world.backups().len(), 2);
    life.expect_whole();
    service.stop();
}

#[test]
fn killed_while_it_expires() {
    let (mut life, service) = Life::begin();
    life.back_up(3);
    life.world.json(&["pin", "oldest"]);
    life.world.set("DRYDOCK_RETENTION_BACKUPS", "2");
    for _ in 0..KILLS {
        life.back_up(1);
        let mut expire = life.world.spawn_backupctl(&["expire"]);
        life.world.doze(LONGEST_LIFE);
        expire.kill9();
        let status = life.world.json(&["status"]);
        assert_eq!(status["unexplained_gaps"], Value::Array(vec![]), "{status:#}");
    }
    life.world.json(&["expire"]);
    service.wait_until_durable(&life.primary);
    life.expect_whole();
    assert_eq!(life.world.backups().len(), 3);
    let (oldest, newest) = (life.backups[0].clone(), life.backups[life.backups.len() - 1].clone());
    life.expect_restorable(&oldest);
    life.expect_restorable(&newest);
    service.stop();
}

#[test]
fn retention_that_makes_no_sense() {
    let world = World::new();
    let refused = |settings: &[(&str, &str)], words: &[&str]| {
        settings.iter().for_each(|(name, value)| world.set(name, value));
        world.backupctl(&["expire", "--dry-run"]).fails(3, words);
        settings.iter().for_each(|(name, _)| drop(world.unset(name)));
    };
    refused(&[("BACKUP_RETENTION_DAYS", "0")], &["BACKUP_RETENTION_DAYS", "from 1"]);
    refused(&[("BACKUP_RETENTION_DAYS", "a month")], &["BACKUP_RETENTION_DAYS"]);
    refused(&[("DRYDOCK_RETENTION_WEEKLY", "4")], &["retention.days"]);
    refused(&[("BACKUP_RETENTION_DAYS", "7"), ("DRYDOCK_RETENTION_WAL_DAYS", "30")], &["retention.wal_days"]);
}

/// Of two repositories that have the same, one is away while the other one expires, and brings some of it back.
#[test]
fn what_another_repository_brings_back_is_no_loss() {
    let (mut life, service) = Life::begin();
    life.back_up(4);
    service.wait_until_durable(&life.primary);
    service.stop();
    let objects = life.world.objects();
    let wal: Vec<(String, Vec<u8>)> = objects
        .of(e2e::Kind::Segment)
        .into_iter()
        .map(|key| {
            let bytes = objects.read(&key);
            (key, bytes)
        })
        .collect();
    life.world.set("DRYDOCK_RETENTION_BACKUPS", "1");
    life.world.json(&["expire"]);
    let left = life.world.objects().of(e2e::Kind::Segment).len();
    assert!(left + 6 <= wal.len(), "{left} of {}", wal.len());
    // Two of what went come back, with a gap between them and behind.
    for (key, bytes) in [&wal[0], &wal[3]] {
        std::fs::write(objects.path(key), bytes).expect("bring a segment back");
    }
    let status = life.world.json(&["status"]);
    assert_eq!(status["unexplained_gaps"], Value::Array(vec![]), "{status:#}");
    let service = life.world.start_backupd(&life.primary);
    life.back_up(1);
    service.wait_until_durable(&life.primary);
    life.world.json(&["expire"]);
    life.expect_whole();
    assert!(!life.world.objects().keys().contains(&wal[0].0), "it is removed again");
    life.expect_restorable(&life.backups[4].clone());
    service.stop();
}
