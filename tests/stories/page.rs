//! The status page in a real browser: how it looks, what it says when somebody points at a moment, and that what it says is so.
//!
//! The pictures of README are made here: `E2E_PICTURES=docs/images`.

use std::time::Duration;

use e2e::{Browser, Loss, Options, Return, Service, Shape, World, wait_until};

const MENDS_WITHIN: Duration = Duration::from_secs(120);
const DESKTOP: (u32, u32) = (1100, 1150);
const PHONE: (u32, u32) = (390, 844);
const TOKEN: &str = "0123456789abcdef0123";

#[track_caller]
fn open(world: &World, service: &Service, size: (u32, u32)) -> Browser {
    let browser = Browser::open(world, size);
    browser.go(&format!("http://127.0.0.1:{}/", service.monitor_port()));
    browser
}

/// Types a moment as a person would pick it, and asks how to get there.
#[track_caller]
fn ask_for(browser: &Browser, moment: &str) {
    let moment = &moment[.."YYYY-MM-DDTHH:MM:SS".len()];
    browser.run(&format!("document.getElementById('moment').value = '{moment}'"));
    browser.click("#point button");
}

/// Time goes on to another second, so that a moment of whole seconds lies between what was before and what comes.
fn next_second() {
    std::thread::sleep(Duration::from_millis(2100));
}

/// A moment of whole seconds with nothing written just before or after it.
fn quiet_moment(server: &e2e::Postgres) -> String {
    next_second();
    let moment = server.now();
    next_second();
    moment
}

#[test]
fn a_healthy_cluster() {
    let world = World::new();
    let primary = world.postgres();
    world.set("DRYDOCK_MONITOR_LISTEN", "127.0.0.1:0");
    world.set("BACKUP_SCHEDULE", "0 2 * * *");
    let service = world.start_backupd(&primary);
    let browser = open(&world, &service, DESKTOP);
    browser.wait_until_it_says("#state", "archiving from");
    primary.pgbench_tables(1);
    primary.sql("create table t (n int); insert into t values (1)");
    // The one that was due before anybody was there.
    wait_until("a backup by the clock", MENDS_WITHIN, || world.backups().len() == 1);
    world.backup();
    primary.sql("insert into t values (2)");
    let moment = quiet_moment(&primary);
    primary.sql("insert into t values (3)");
    world.backup();
    world.backupctl(&["verify", "--read"]).success();
    service.wait_until_durable(&primary);

    // It comes by itself: nobody has loaded the page again.
    wait_until("the backups on the timeline", MENDS_WITHIN, || browser.count("[data-backup]") >= 2);
    browser.wait_until_it_says("#facts", "Verified");
    browser.wait_until_it_says("#facts", "nothing found");
    browser.wait_until_it_says("#facts", "Next backup");
    assert!(browser.text("#reach").contains("Any moment from"), "{}", browser.text("#reach"));
    assert_eq!(browser.count("#findings p"), 0);

    ask_for(&browser, &moment);
    browser.wait_until_it_says("#verdict", "can be restored, from backup");
    let command = browser.text("#line");
    browser.picture("status-healthy");
    let node = world.restore_as_told(&command);
    assert_eq!(node.start().value("select string_agg(n::text, ',' order by n) from t"), "1,2");

    // Clicking on the drawing asks the same for where it was clicked.
    browser.click("#timeline");
    browser.wait_until_it_says("#verdict", "restored");
    browser.run("document.getElementById('moment').value = '2001-01-01T00:00:00'");
    browser.click("#point button");
    browser.wait_until_it_says("#verdict", "cannot be restored");

    // What goes wrong is said, and where the page itself has no answer, too.
    service.stop();
    browser.wait_until_it_says("#state", "does not answer");
}

#[test]
fn a_cluster_with_a_hole() {
    let world = World::new();
    let settings =
        ["min_wal_size = 2MB", "max_wal_size = 4MB", "wal_keep_size = 0"].map(str::to_owned).to_vec();
    let primary = world.postgres_with(&Options { segment_mib: 1, settings, ..Options::default() });
    world.set("DRYDOCK_MONITOR_LISTEN", "127.0.0.1:0");
    let service = world.start_backupd(&primary);
    primary.sql("create table t (n int); insert into t values (1)");
    world.backup();
    let durable = service.wait_until_durable(&primary);
    service.stop();
    primary.sql("select pg_drop_replication_slot('drydock')");
    let segment = primary.value(&format!("select pg_walfile_name('{durable}')"));
    next_second();
    let within = primary.now();
    wait_until("the server to recycle the WAL", MENDS_WITHIN, || {
        primary.switch_segment();
        primary.sql("insert into t values (2); checkpoint");
        !primary.data().join("pg_wal").join(&segment).exists()
    });
    next_second();
    let service = world.start_backupd(&primary).expect_anything();
    wait_until("a new backup", MENDS_WITHIN, || world.backups().len() == 2);

    let browser = open(&world, &service, DESKTOP);
    wait_until("the hole on the timeline", MENDS_WITHIN, || browser.count("[data-hole]") == 1);
    browser.wait_until_it_says("#findings", "hole: WAL of timeline 1");
    browser.wait_until_it_says("#reach", "has a hole from");
    ask_for(&browser, &within);
    browser.wait_until_it_says("#verdict", "cannot be restored");
    browser.wait_until_it_says("#verdict", "hole");
    browser.picture("status-hole");
    service.stop();
}

#[test]
fn a_cluster_after_a_failover() {
    let world = World::new();
    let mut cluster = world.cluster(&Shape { standbys: 2, ..Shape::default() });
    world.set("DRYDOCK_MONITOR_LISTEN", "127.0.0.1:0");
    world.set("DRYDOCK_API_TOKEN", TOKEN);
    let service = world.start_backupd_for(&cluster).expect_anything();
    let browser = open(&world, &service, PHONE);
    // With a token configured, the page asks for it.
    wait_until("the page to ask for a token", MENDS_WITHIN, || !browser.text("#login").is_empty());
    browser.type_into("#token", "not the right token");
    browser.click("#login button");
    browser.wait_until_it_says("#refused", "not the right one");
    browser.type_into("#token", TOKEN);
    browser.click("#login button");
    browser.wait_until_it_says("#state", "archiving from");

    cluster.primary().sql("create table t (n int); insert into t values (1)");
    world.backup();
    cluster.primary().sql("insert into t values (2)");
    let before = quiet_moment(cluster.primary());
    cluster.primary().sql("insert into t values (3)");
    cluster.wait_until_durable();
    cluster.lose_primary(Loss::Kill9);
    cluster.promote(cluster.most_advanced());
    cluster.gather(Return::Clone);
    cluster.primary().sql("insert into t values (4)");
    wait_until("the new primary to be streamed from", MENDS_WITHIN, || {
        cluster.engine_streams_from(cluster.primary_node())
    });
    cluster.wait_until_durable();
    world.backup();
    wait_until("both timelines and the fork", MENDS_WITHIN, || {
        browser.count("#timeline .fork") == 1 && browser.count("[data-backup]") == 2
    });
    browser.wait_until_it_says("#state", "timeline 2");
    browser.wait_until_it_says("#nodes", "streamed from");
    ask_for(&browser, &before);
    browser.wait_until_it_says("#verdict", "can be restored, from backup");
    browser.wait_until_it_says("#verdict", "along timeline 1 → 2");
    // Nothing is wider than a phone.
    assert_eq!(browser.run("return document.documentElement.scrollWidth <= window.innerWidth"), true);
    browser.picture("status-failover");
    let command = browser.text("#line");
    let node = world.restore_as_told(&command);
    assert_eq!(node.start().value("select string_agg(n::text, ',' order by n) from t"), "1,2");
    service.stop();
}
