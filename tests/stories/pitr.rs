//! Point-in-time recovery: every kind of target, and recovery after recovery.

use std::time::Duration;

use e2e::{Lsn, Postgres, Restored, World};

/// A moment in the life of a table, right after a transaction committed.
struct Moment {
    /// Rows at this moment.
    rows: u32,
    /// The transaction.
    xid: String,
    /// Where its commit record starts, and the time in it.
    commit: (Lsn, String),
    /// The server's clock between this commit and the next.
    time: String,
    /// The name of a restore point between this commit and the next.
    name: String,
}

/// A server with a backup of 50 rows, and three moments after it: 150, 250 and 350 rows, all of it durable. The service
/// has stopped. The world comes last because it deletes the directory that the others live in.
struct History {
    primary: Postgres,
    backup: String,
    moments: Vec<Moment>,
    world: World,
}

impl History {
    fn new() -> History {
        let world = World::new();
        let primary = world.postgres();
        let service = world.start_backupd(&primary);
        primary.sql("create table t (n int); insert into t select generate_series(1, 50)");
        let backup = world.backup();
        let moments = (1..=3).map(|k| moment(&primary, 50 + 100 * k)).collect();
        // Nothing flushes a restore point by itself.
        primary.sql("checkpoint");
        service.wait_until_durable(&primary);
        service.stop();
        History { primary, backup, moments, world }
    }

    /// The same with the server gone: what is left is the repository.
    fn after_the_loss() -> History {
        let mut history = History::new();
        history.primary.destroy();
        history
    }

    fn restore(&self, target: &[&str]) -> Restored<'_> {
        self.world.restore(&[target, &["--target-action", "promote"]].concat())
    }

    #[track_caller]
    fn expect(&self, target: &[&str], rows: u32) {
        assert_eq!(
            self.restore(target).start_promoted().value("select count(*) from t"),
            rows.to_string(),
            "{target:?}"
        );
    }

    #[track_caller]
    fn expect_refusal(&self, target: &[&str], named: &[&str]) {
        let data = self.world.fresh("refused");
        self.world.try_restore(&data, target).fails(8, named);
        assert!(
            !data.exists() || data.read_dir().unwrap().next().is_none(),
            "a refusal leaves nothing behind"
        );
    }
}

fn moment(primary: &Postgres, rows: u32) -> Moment {
    let pause = || std::thread::sleep(Duration::from_millis(20));
    let from = primary.current_lsn();
    let insert = "insert into t select generate_series(1, 100)";
    let xid = primary.value(&format!("begin; {insert}; select pg_current_xact_id(); commit"));
    let commit = primary.commit_of(&xid, from, primary.current_lsn());
    pause();
    let (time, name) = (primary.now(), format!("at {rows} rows"));
    primary.sql(&format!("select pg_create_restore_point('{name}')"));
    pause();
    Moment { rows, xid, commit, time, name }
}

#[test]
fn newest() {
    let history = History::after_the_loss();
    history.expect(&[], 350);
}

#[test]
fn to_a_time() {
    let history = History::after_the_loss();
    for moment in &history.moments[..2] {
        history.expect(&["--target-time", &moment.time], moment.rows);
    }
}

#[test]
fn to_the_very_time_of_a_commit_with_and_without_it() {
    let history = History::after_the_loss();
    let Moment { rows, commit: (_, time), .. } = &history.moments[1];
    history.expect(&["--target-time", time], *rows);
    history.expect(&["--target-time", time, "--exclusive"], rows - 100);
}

#[test]
fn to_a_time_in_another_zone() {
    let history = History::after_the_loss();
    let sql = format!(
        "select to_char(timestamptz '{}' at time zone '+05:30', 'YYYY-MM-DD HH24:MI:SS.US') || '-05:30'",
        history.moments[0].time
    );
    // In SQL's POSIX notation the sign of an offset is turned round.
    let elsewhere = history.world.postgres().value(&sql);
    history.expect(&["--target-time", &elsewhere], history.moments[0].rows);
}

#[test]
fn to_an_lsn_with_and_without_it() {
    let history = History::after_the_loss();
    let Moment { rows, commit: (lsn, _), .. } = &history.moments[1];
    history.expect(&["--target-lsn", &lsn.to_string()], *rows);
    history.expect(&["--target-lsn", &lsn.to_string(), "--exclusive"], rows - 100);
}

#[test]
fn to_a_transaction_with_and_without_it() {
    let history = History::after_the_loss();
    let Moment { rows, xid, .. } = &history.moments[1];
    history.expect(&["--target-xid", xid], *rows);
    history.expect(&["--target-xid", xid, "--exclusive"], rows - 100);
}

#[test]
fn to_a_named_restore_point() {
    let history = History::after_the_loss();
    for moment in &history.moments {
        history.expect(&["--target-name", &moment.name], moment.rows);
    }
}

#[test]
fn to_the_end_of_the_backup() {
    let history = History::after_the_loss();
    history.expect(&["--target-immediate"], 50);
}

#[test]
fn pauses_at_the_target_until_told_to_go_on() {
    let history = History::after_the_loss();
    let Moment { rows, name, .. } = &history.moments[0];
    let node = history.world.restore(&["--target-name", name, "--target-action", "pause"]).start();
    node.wait_paused();
    assert_eq!(node.value("select count(*) from t"), rows.to_string());
    assert!(node.try_sql("insert into t values (0)").is_err(), "a paused node is read only");
    node.promote();
    node.sql("insert into t values (0)");
}

#[test]
fn shuts_down_at_the_target() {
    let history = History::after_the_loss();
    let Moment { name, .. } = &history.moments[0];
    let restored = history.world.restore(&["--target-name", name, "--target-action", "shutdown"]);
    restored.node().runs_until_shutdown();
}

#[test]
fn an_older_backup_reaches_the_newest_point_too() {
    let History { world, mut primary, backup, .. } = History::new();
    let service = world.start_backupd(&primary);
    let newer = world.backup();
    primary.sql("insert into t select generate_series(1, 5)");
    service.wait_until_durable(&primary);
    service.stop();
    primary.destroy();
    for id in [backup, newer] {
        let node = world.restore(&["--backup", &id, "--target-action", "promote"]).start_promoted();
        assert_eq!(node.value("select count(*) from t"), "355");
    }
}

#[test]
fn a_dry_run_prints_the_plan_and_does_nothing() {
    let History { world, backup, .. } = History::new();
    let data = world.fresh("untouched");
    let plan = world.try_restore(&data, &["--dry-run"]).success();
    assert!(plan.stdout.contains(&backup), "{plan:?}");
    assert!(!data.exists());
}

#[test]
fn targets_before_the_first_backup_are_refused() {
    let history = History::after_the_loss();
    let backup = history.world.json(&["show", &history.backup]);
    let stop = backup["stop_lsn"].as_str().unwrap();
    history.expect_refusal(&["--target-lsn", "0/1000000"], &["0/1000000", "reachable", stop]);
    history.expect_refusal(&["--target-time", "2001-02-03T04:05:06Z"], &["2001-02-03", "reachable"]);
    history.expect_refusal(&["--target-xid", "3"], &["3", "reachable"]);
}

#[test]
fn targets_after_the_newest_wal_are_refused() {
    let history = History::after_the_loss();
    history.expect_refusal(&["--target-lsn", "FF/0"], &["FF/0", "reachable"]);
    history.expect_refusal(&["--target-time", "2101-02-03T04:05:06Z"], &["2101-02-03", "reachable"]);
    history.expect_refusal(&["--target-xid", "4000000"], &["4000000", "reachable"]);
}

#[test]
fn unknown_names_are_refused() {
    let history = History::after_the_loss();
    history.expect_refusal(&["--target-name", "before lunch"], &["before lunch"]);
}

/// Two disasters in a row. Each recovery starts a timeline; afterwards every one of them can be restored.
#[test]
fn recovery_after_recovery() {
    let world = World::new();
    let mut first = world.postgres();
    let service = world.start_backupd(&first);
    first.sql("create table t (life int)");
    let live = |node: &Postgres, life: u32, rows: u32| {
        node.sql(&format!("insert into t select {life} from generate_series(1, {rows})"));
        std::thread::sleep(Duration::from_millis(20));
        let time = node.now();
        std::thread::sleep(Duration::from_millis(20));
        time
    };
    live(&first, 1, 100);
    let first_backup = world.backup();
    let before_mistake = live(&first, 1, 50);
    live(&first, 1, 7);
    service.wait_until_durable(&first);
    service.stop();
    first.destroy();

    // The first recovery: to 150 rows, on timeline 2.
    let mut second =
        world.restore(&["--target-time", &before_mistake, "--target-action", "promote"]).start_promoted();
    assert_eq!(lives(&second), "1:150");
    let service = world.start_backupd(&second);
    live(&second, 2, 20);
    let second_backup = world.backup();
    let before_mistake = live(&second, 2, 30);
    live(&second, 2, 8);
    service.wait_until_durable(&second);
    service.stop();
    second.destroy();

    // The second: to the 50 rows of the second life, on timeline 3.
    let mut third =
        world.restore(&["--target-time", &before_mistake, "--target-action", "promote"]).start_promoted();
    assert_eq!(lives(&third), "1:150 2:50");
    let service = world.start_backupd(&third);
    live(&third, 3, 9);
    world.backup();
    live(&third, 3, 1);
    service.wait_until_durable(&third);
    service.stop();
    third.destroy();

    let restored = |arguments: &[&str]| {
        let node = world.restore(&[arguments, &["--target-action", "promote"]].concat()).start_promoted();
        (node.timeline().get(), lives(&node))
    };
    assert_eq!(restored(&[]), (4, "1:150 2:50 3:10".into()));
    assert_eq!(restored(&["--target-timeline", "latest"]), (4, "1:150 2:50 3:10".into()));
    assert_eq!(restored(&["--target-timeline", "3"]), (4, "1:150 2:50 3:10".into()));
    assert_eq!(restored(&["--target-timeline", "2"]), (4, "1:150 2:58".into()));
    assert_eq!(restored(&["--target-timeline", "1"]), (4, "1:157".into()));
    // From an old backup: "current" stays on its timeline, "latest" follows all the forks from there.
    let from = |backup, timeline| restored(&["--backup", backup, "--target-timeline", timeline]).1;
    assert_eq!(from(&first_backup, "current"), "1:157");
    assert_eq!(from(&second_backup, "current"), "1:150 2:58");
    assert_eq!(from(&first_backup, "latest"), "1:150 2:50 3:10");
    assert_eq!(from(&first_backup, "2"), "1:150 2:58");
    assert_eq!(world.holes(), Vec::<serde_json::Value>::new());
}

/// How many rows each life left.
fn lives(node: &Postgres) -> String {
    node.value(
        "select string_agg(life || ':' || rows, ' ' order by life) \
         from (select life, count(*) rows from t group by life) as lives",
    )
}
