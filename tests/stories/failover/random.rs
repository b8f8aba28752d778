//! Failovers of every kind, at random and under load.

use std::time::Duration;

use e2e::{Options, Return, Shape, World};

use super::run::{Kind, Run};

/// How many failovers there are: `$E2E_FAILOVERS`, or as many as the suite has time for.
fn count() -> usize {
    std::env::var("E2E_FAILOVERS").ok().and_then(|count| count.parse().ok()).unwrap_or(6)
}

/// All kinds take turns, beginning with one that depends on the seed.
fn kind(world: &World, number: usize) -> Kind {
    let first = usize::try_from(world.seed() % 8).expect("below 8");
    Kind::ALL[(number + first) % Kind::ALL.len()]
}

fn shape(settings: &[&str]) -> Shape {
    let settings = settings.iter().map(|&line| line.to_owned()).collect();
    // Small segments, so that a timeline has several of them.
    let options = Options { segment_mib: 1, fsync: true, settings, ..Options::default() };
    Shape { standbys: 3, cascade: true, proxied: true, options, ..Shape::default() }
}

/// Must show 1: no hole, the newest restore equals the surviving primary, every timeline can be restored into.
#[test]
fn failovers() {
    let world = World::new();
    let mut run = Run::begin(&world, &shape(&[]));
    for number in 0..count() {
        run.round(kind(&world, number));
        if number % 5 == 4 {
            run.back_up();
        }
    }
    run.report();
    let wal = run.settle();
    assert_eq!(wal.holes, 0, "slots keep what is needed:\n{wal:#?}");
    let missed = run.restore_everything();
    assert!(missed.is_empty(), "cannot be restored: {missed:#?}");
}

/// Must show 2: without slots and with little WAL kept there are holes; each one is recorded and followed by a base
/// backup without a hand, and what status claims can be restored.
#[test]
fn holes_without_slots() {
    let world = World::new();
    world.set("USE_REPLICATION_SLOTS", "0");
    let little = ["wal_keep_size = 0", "min_wal_size = 2MB", "max_wal_size = 4MB"];
    // The standbys have slots of their own; the engine has none, on any node.
    let mut run = Run::begin(&world, &shape(&little));
    // What a node lacks after pg_rewind, nobody may have any more.
    run.returns = &[Return::Clone];
    // The suite has time for one.
    let rounds = if std::env::var_os("E2E_FAILOVERS").is_some() { count() } else { 1 };
    for number in 0..rounds {
        let kind = if number % 2 == 0 { Kind::EngineDownAndWalGone } else { kind(&world, number / 2) };
        run.round(kind);
        run.wait_until_holes_are_mended(Duration::from_secs(120));
    }
    run.report();
    let wal = run.settle();
    assert!(wal.holes > 0, "no WAL was lost, so this run proves nothing");
    let claimed = run.claimed();
    let missed = run.restore_everything();
    let broken: Vec<_> = missed.iter().filter(|moment| claimed.contain(moment)).collect();
    assert!(broken.is_empty(), "status claims more than a restore delivers: {broken:#?} of {claimed:#?}");
}
