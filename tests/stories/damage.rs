//! One flipped bit in each kind of object: a restore refuses and names the object, and verify finds it.

use e2e::{Kind, Objects, Postgres, World};

/// A repository that holds every kind of object: two backups that share frames, finished segments and pieces.
fn repository() -> (World, Postgres, String) {
    let world = World::new();
    let mut primary = world.postgres();
    primary.pgbench_tables(1);
    let service = world.start_backupd(&primary);
    world.backup();
    primary.sql("update pgbench_accounts set abalance = aid where aid % 7 = 0");
    let backup = world.backup();
    primary.switch_segment();
    // A commit in a segment that is not finished is durable as a piece.
    primary.sql("create table last_words (n int); insert into last_words values (1)");
    service.wait_until_durable(&primary);
    service.stop();
    primary.kill9();
    (world, primary, backup)
}

/// First, last, and a few bytes in between.
fn offsets(world: &World, objects: &Objects, key: &str) -> Vec<usize> {
    let length = objects.read(key).len();
    let mut offsets = vec![0, length - 1];
    offsets.extend((0..3).map(|_| world.random(0..length)));
    offsets
}

/// The length of the skippable frame that starts a pack.
fn head_bytes(objects: &Objects, key: &str) -> usize {
    let length = objects.read(key)[4..8].try_into().expect("four bytes");
    8 + u32::from_le_bytes(length) as usize
}

/// The object of this kind that restoring `backup` to the newest point reads.
fn victim(objects: &Objects, kind: Kind, backup: &str) -> String {
    let needed = |key: &String| match kind {
        Kind::Segment | Kind::Piece => true,
        _ => key.contains(backup),
    };
    objects.of(kind).into_iter().rfind(needed).unwrap_or_else(|| panic!("no {kind:?}: {:#?}", objects.keys()))
}

#[test]
fn verify_finds_a_flipped_bit_in_every_kind_of_object() {
    let (world, _primary, backup) = repository();
    let objects = world.objects();
    world.backupctl(&["verify", "--read"]).success();
    for kind in Kind::ALL {
        let key = victim(&objects, kind, &backup);
        for offset in offsets(&world, &objects, &key) {
            let damage = objects.flip(&key, offset);
            let verified = world.backupctl(&["verify", "--read", "--all"]);
            assert_eq!(verified.code, 10, "{kind:?} {key} damaged at {offset}: {verified:?}");
            assert!(verified.stdout.contains(&key), "should name {key}: {verified:?}");
            drop(damage);
        }
    }
    world.backupctl(&["verify", "--read", "--all"]).success();
}

#[test]
fn restore_refuses_damaged_parts_of_a_backup_and_names_them() {
    let (world, _primary, backup) = repository();
    let objects = world.objects();
    for kind in [Kind::Record, Kind::Files, Kind::Map, Kind::Pack] {
        let key = victim(&objects, kind, &backup);
        for offset in offsets(&world, &objects, &key) {
            if kind == Kind::Pack && offset < head_bytes(&objects, &key) {
                // The head of a pack is for people. A restore reads frames and nothing else of it.
                continue;
            }
            let _damage = objects.flip(&key, offset);
            let data = world.fresh("restored");
            world.try_restore(&data, &["--backup", &backup]).fails(7, &[&key]);
            // Whatever had been written by then, it is not a cluster anybody could start.
            assert!(!data.join("global/pg_control").exists(), "{key} damaged at {offset}");
        }
    }
    world.restore(&["--backup", &backup]).verify();
}

#[test]
fn damaged_wal_is_never_handed_out() {
    let (world, _primary, _) = repository();
    let objects = world.objects();
    for kind in [Kind::Segment, Kind::Piece] {
        let key = objects.last(kind);
        let segment = key.split('/').nth(4).unwrap().trim_end_matches(".zst");
        for offset in offsets(&world, &objects, &key) {
            let _damage = objects.flip(&key, offset);
            let target = world.directory("wal").join(segment);
            let fetched = world.backupctl(&["wal", "fetch", segment, target.to_str().unwrap()]);
            fetched.fails(200, &[&key]);
            assert!(!target.exists(), "{key} damaged at {offset}");
        }
    }
}

/// Recovery that meets damaged WAL must stop. If it ended, the server would open without what came after.
#[test]
fn recovery_stops_at_damaged_wal() {
    let (world, _primary, backup) = repository();
    let objects = world.objects();
    for kind in [Kind::Segment, Kind::Piece] {
        let restored = world.restore(&["--backup", &backup, "--target-action", "promote"]);
        let key = objects.last(kind);
        let _damage = objects.flip(&key, objects.read(&key).len() / 2);
        let log = restored.node().fails_to_start();
        assert!(log.contains(&key), "PostgreSQL's log should name {key}:\n{log}");
        assert!(!log.contains("archive recovery complete"), "{log}");
    }
}

#[test]
fn missing_objects_are_named() {
    let (world, _primary, backup) = repository();
    let objects = world.objects();
    for kind in [Kind::Files, Kind::Map, Kind::Pack] {
        let key = victim(&objects, kind, &backup);
        let _damage = objects.hide(&key);
        world.try_restore(&world.fresh("restored"), &["--backup", &backup]).fails(7, &[&key]);
        let verified = world.backupctl(&["verify"]);
        assert!(verified.code == 10 && verified.stdout.contains(&key), "should name {key}: {verified:?}");
    }
    {
        let key = victim(&objects, Kind::Record, &backup);
        let _damage = objects.hide(&key);
        world.try_restore(&world.fresh("restored"), &["--backup", &backup]).fails(8, &[&backup]);
        assert!(!world.backups().contains(&backup), "without its record it is no backup");
    }
    // A segment missing in the middle is a hole: what lies behind it cannot be reached from this backup.
    let key = first_segment_needed(&world, &objects, &backup);
    let segment = key.rsplit('/').next().unwrap().trim_end_matches(".zst").to_owned();
    let _damage = objects.hide(&key);
    let refused = world.try_restore(&world.fresh("restored"), &["--backup", &backup]);
    assert!(matches!(refused.code, 7 | 8), "{refused:?}");
    refused.names(&[&segment]);
    let verified = world.backupctl(&["verify"]);
    assert!(verified.code == 10 && verified.stdout.contains(&segment), "should name {segment}: {verified:?}");
}

fn first_segment_needed(world: &World, objects: &Objects, backup: &str) -> String {
    let shown = world.json(&["show", backup]);
    let start: e2e::Lsn = shown["start_lsn"].as_str().unwrap().parse().unwrap();
    let number = start.0 >> 24;
    let name = format!("{:08X}{:08X}{:08X}", 1, number >> 8, number & 0xFF);
    objects
        .of(Kind::Segment)
        .into_iter()
        .find(|key| key.contains(&name))
        .expect("the segment of the backup's start")
}
