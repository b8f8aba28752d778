//! Synchronous mode: the server and its disk are gone, and every commit a client was told of is in the repository.

use std::time::Duration;

use e2e::{Commit, Load, Options, Service, World, wait_until};

const RUNS: usize = 10;
const LONGEST_LOAD: Duration = Duration::from_millis(1500);

#[test]
fn no_confirmed_commit_is_ever_lost() {
    for run in 1..=RUNS {
        let world = World::new();
        let told = lose_the_server(&world);
        let lost = missing(&world, &told);
        assert!(
            lost.is_empty(),
            "run {run}: {} of {} confirmed commits are lost: {lost:?}",
            lost.len(),
            told.len()
        );
        eprintln!("run {run}: all of {} confirmed commits are there", told.len());
    }
}

/// Loses a server under load; returns the commits that its clients were told of.
fn lose_the_server(world: &World) -> Vec<Commit> {
    let mut primary = world.postgres_with(&Options { fsync: true, ..Options::default() });
    Load::create_table(&primary);
    let service = world.start_backupd(&primary).expect_anything();
    world.backup();
    primary.sql("alter system set synchronous_standby_names = 'drydock'");
    primary.reload();
    wait_until("the service to be synchronous", Duration::from_secs(20), || {
        primary.value("select sync_state from pg_stat_replication where application_name = 'drydock'")
            == "sync"
    });
    let load = Load::start(&primary, 1, 4);
    // At least a commit's time for each client, and then a random while.
    std::thread::sleep(Duration::from_millis(300));
    world.doze(LONGEST_LOAD);
    lose_together(world, service, || primary.destroy());
    load.stop()
}

/// The machine of the service may go with the server's, before it or never.
fn lose_together(world: &World, service: Service, destroy: impl FnOnce()) {
    match world.random(0..3) {
        0 => {
            service.kill9();
            destroy();
        }
        1 => {
            destroy();
            service.kill9();
        }
        _ => {
            destroy();
            service.stop();
        }
    }
}

fn missing(world: &World, told: &[Commit]) -> Vec<Commit> {
    assert!(!told.is_empty(), "no client was told anything, so this run proves nothing");
    let node = world.restore_newest();
    let stored = node.rows("select client, n from ledger");
    let stored: std::collections::HashSet<Vec<String>> = stored.into_iter().collect();
    let there = |commit: &&Commit| stored.contains(&vec![commit.client.to_string(), commit.n.to_string()]);
    told.iter().filter(|commit| !there(commit)).cloned().collect()
}
