//! Two services on one repository and cluster: one archives, the other stands by and takes over.

use std::time::{Duration, Instant};

use e2e::{Load, Postgres, Service, World, wait_for, wait_until};

use crate::kill_service::expect_all_until;

/// Two of three are kills, and the third is a pause.
const ENDS: usize = 30;
const TAKES_OVER_WITHIN: Duration = Duration::from_secs(10);
/// Longer than a lease lasts while somebody waits for it.
const PAUSED: Duration = Duration::from_secs(6);
const LONGEST_REIGN: Duration = Duration::from_secs(2);
/// What is said of the one that is gone, and by the one that wakes up.
const TURNS: &[&str] = &["slot", "lease", "connection", "not archiving", "has not taken everything yet"];

/// The server's process that streams to a service.
fn streams(primary: &Postgres) -> Option<String> {
    let sql =
        "select pid from pg_stat_replication where application_name = 'drydock' and state = 'streaming'";
    primary.try_sql(sql).ok().filter(|pid| !pid.is_empty())
}

/// Waits until another connection than `before` streams; tells how long that took.
#[track_caller]
fn taken_over(primary: &Postgres, before: &str) -> Duration {
    let began = Instant::now();
    wait_until("a takeover", TAKES_OVER_WITHIN, || streams(primary).is_some_and(|pid| pid != before));
    began.elapsed()
}

/// A second service, which stands by.
fn stand_by(world: &World) -> Service {
    let service = world.launch_backupd().expect(TURNS);
    service.wait_until_it_says(&["standing by"]);
    service
}

fn times_it_lost(service: &Service) -> usize {
    service.log_text().matches("no longer holds the lease").count()
}

#[test]
fn twenty_kills_and_ten_pauses_of_the_active_one() {
    let world = World::new();
    let mut primary = world.postgres();
    Load::create_table(&primary);
    primary.pgbench_tables(1);
    let mut active = world.start_backupd(&primary).expect(TURNS);
    world.backup();
    let mut waiting = stand_by(&world);
    let load = Load::start(&primary, 1, 2);
    let _volume = primary.pgbench(1);
    let (mut killed, mut paused) = (Vec::new(), Vec::new());
    for end in 0..ENDS {
        world.doze(LONGEST_REIGN);
        let streaming = wait_for("somebody to stream", TAKES_OVER_WITHIN, || streams(&primary));
        let acknowledged = world.acknowledged(&primary);
        if end % 3 != 2 {
            active.kill9();
            killed.push(taken_over(&primary, &streaming));
            (active, waiting) = (waiting, stand_by(&world));
        } else {
            let lost = times_it_lost(&active);
            active.pause();
            let began = Instant::now();
            let took = taken_over(&primary, &streaming);
            paused.push(took);
            std::thread::sleep(PAUSED.saturating_sub(began.elapsed()));
            active.resume();
            wait_until("it to find that it has lost", TAKES_OVER_WITHIN, || times_it_lost(&active) > lost);
            (active, waiting) = (waiting, active);
        }
        assert!(world.acknowledged(&primary) >= acknowledged, "what was durable stays durable");
    }
    for (what, times) in [("killed", &mut killed), ("paused", &mut paused)] {
        times.sort();
        eprintln!(
            "takeover from a {what} one: median {:.2?}, worst {:.2?}",
            times[times.len() / 2],
            times[times.len() - 1]
        );
    }
    let commits = load.stop();
    active.wait_until_durable(&primary);
    let acknowledged = world.acknowledged(&primary);
    active.stop();
    waiting.kill9();
    primary.destroy();
    world.backupctl(&["verify", "--read", "--all"]).success();
    assert_eq!(world.holes(), Vec::<serde_json::Value>::new());
    expect_all_until(&world.restore_newest(), &commits, acknowledged);
}

#[test]
fn one_that_stops_hands_over_and_both_at_once_are_only_a_restart() {
    let world = World::new();
    let primary = world.postgres();
    Load::create_table(&primary);
    let active = world.start_backupd(&primary).expect(TURNS);
    let waiting = stand_by(&world);
    let streaming = streams(&primary).unwrap();
    active.stop();
    assert!(
        taken_over(&primary, &streaming) < Duration::from_secs(4),
        "a lease that is given back is there at once"
    );
    let other = stand_by(&world);
    waiting.kill9();
    other.kill9();
    let service = world.start_backupd(&primary).expect(TURNS);
    primary.sql("insert into ledger values (1, 1, 'x')");
    service.wait_until_durable(&primary);
    service.stop();
    assert_eq!(world.holes(), Vec::<serde_json::Value>::new());
}
