//! The service is killed at any moment, and nothing it acknowledged is lost.

use std::collections::HashSet;
use std::time::Duration;

use e2e::{Commit, Load, Lsn, Postgres, World};

const KILLS: usize = 30;
const LONGEST_LIFE: Duration = Duration::from_millis(1500);

/// What a service that took over from a killed one may have to say: that the server has not noticed yet.
pub(crate) const AFTER_A_KILL: &[&str] = &["slot"];

#[test]
fn thirty_times_under_load() {
    let world = World::new();
    Killed::again_and_again(&world, KILLS, || {}).expect_restored(&world);
}

/// What was acknowledged by a service that was killed again and again, of a server that is lost.
pub(crate) struct Killed {
    commits: Vec<Commit>,
    acknowledged: Lsn,
}

impl Killed {
    /// Kills the service at random moments, under load, looks at what that left, and loses the server at the end.
    #[track_caller]
    pub(crate) fn again_and_again(world: &World, kills: usize, mut look: impl FnMut()) -> Killed {
        let mut primary = world.postgres();
        Load::create_table(&primary);
        primary.pgbench_tables(1);
        let service = world.start_backupd(&primary);
        world.backup();
        service.kill9();

        let load = Load::start(&primary, 1, 3);
        let _volume = primary.pgbench(2);
        for _ in 0..kills {
            let before = world.acknowledged(&primary);
            let service = world.launch_backupd().expect(AFTER_A_KILL);
            world.doze(LONGEST_LIFE);
            service.kill9();
            look();
            assert!(world.acknowledged(&primary) >= before, "what was durable stays durable");
        }

        // It can still catch up with everything, under load.
        let service = world.start_backupd(&primary).expect(AFTER_A_KILL);
        service.wait_until_durable(&primary);
        world.doze(LONGEST_LIFE);
        service.kill9();
        let acknowledged = world.acknowledged(&primary);
        let commits = load.stop();
        primary.destroy();
        Killed { commits, acknowledged }
    }

    /// Whatever was acknowledged is restored, without a hole.
    #[track_caller]
    pub(crate) fn expect_restored(&self, world: &World) {
        self.expect_in(&world.restore_newest());
        assert_eq!(world.holes(), Vec::<serde_json::Value>::new());
    }

    /// Whatever was acknowledged is on this node.
    #[track_caller]
    pub(crate) fn expect_in(&self, node: &Postgres) {
        expect_all_until(node, &self.commits, self.acknowledged);
    }
}

#[test]
fn it_goes_on_where_another_service_stopped() {
    let world = World::new();
    let mut primary = world.postgres();
    Load::create_table(&primary);
    let service = world.start_backupd(&primary);
    world.backup();
    service.stop();
    // Several segments pass while nobody listens; the slot keeps them.
    for _ in 0..4 {
        primary.sql("insert into ledger select 1, coalesce(max(n), 0) + 1, 'x' from ledger");
        primary.switch_segment();
    }
    let service = world.start_backupd(&primary);
    service.wait_until_durable(&primary);
    service.stop();
    primary.destroy();
    let node = world.restore_newest();
    assert_eq!(node.value("select max(n) from ledger"), "4");
    assert_eq!(world.holes(), Vec::<serde_json::Value>::new());
}

#[test]
fn the_server_may_go_away_and_come_back() {
    let world = World::new();
    let mut primary = world.postgres();
    Load::create_table(&primary);
    let mut service = world.start_backupd(&primary).expect_anything();
    world.backup();
    for n in 1..=3 {
        primary.sql(&format!("insert into ledger values (1, {n}, 'x')"));
        primary.kill9();
        world.doze(Duration::from_secs(2));
        primary.start_again();
        service.still_runs();
        service.wait_until_durable(&primary);
    }
    primary.destroy();
    assert_eq!(world.restore_newest().value("select max(n) from ledger"), "3");
}

/// Asserts that `node` holds every commit that was durable at `acknowledged`, and tells which are not there.
#[track_caller]
pub(crate) fn expect_all_until(node: &Postgres, commits: &[Commit], acknowledged: Lsn) {
    let stored: HashSet<(String, String)> = node
        .rows("select client, n from ledger")
        .into_iter()
        .map(|row| <[String; 2]>::try_from(row).expect("two columns").into())
        .collect();
    let durable = commits.iter().filter(|commit| commit.lsn.is_some_and(|lsn| lsn <= acknowledged));
    let (mut count, mut lost) = (0, Vec::new());
    for commit in durable {
        count += 1;
        if !stored.contains(&(commit.client.to_string(), commit.n.to_string())) {
            lost.push(commit);
        }
    }
    assert!(lost.is_empty(), "{} of {count} commits up to {acknowledged} are lost: {lost:?}", lost.len());
    assert!(count > 100, "the story proves little with {count} commits");
}
