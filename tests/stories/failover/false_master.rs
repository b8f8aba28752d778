//! Must show 3: the old primary, cut off, goes on committing after a standby was promoted. It is not followed.

use std::time::{Duration, Instant};

use e2e::ledger::{self, Clients};
use e2e::{Link, Load, Return, Shape, Shutdown, World, wait_until};

use super::{list, ranges, status};

/// How long the false master commits.
const COMMITS_FOR: Duration = Duration::from_secs(60);
/// How long it is the only node that can be reached.
const ALONE_FOR: Duration = Duration::from_secs(8);
const RAISES_WITHIN: Duration = Duration::from_secs(20);

#[test]
fn a_false_master_is_not_followed() {
    let world = World::new();
    let mut cluster = world.cluster(&Shape { proxied: true, ..Shape::default() });
    Load::create_table(cluster.primary());
    let service = world.start_backupd_for(&cluster).expect_anything();
    world.backup();
    let old = cluster.primary_node();
    let mut truth = Clients::new(1);
    truth.start(cluster.primary());
    std::thread::sleep(Duration::from_secs(1));
    truth.stop();

    // It is cut off from everybody but a client that does not notice.
    for node in cluster.standbys() {
        cluster.wait_until_has(node, cluster.primary().current_lsn());
        cluster.hold_back(node);
    }
    cluster.proxy(old).set(Link::Refuses);
    let mut lies = Clients::numbered(1, 1000);
    lies.start(cluster.primary());
    let began = Instant::now();
    let promotion = cluster.promote(cluster.most_advanced());
    cluster.gather(Return::Rewind);
    truth.start(cluster.primary());
    cluster.primary().wait_streaming("drydock");
    std::thread::sleep(COMMITS_FOR.saturating_sub(began.elapsed()));
    truth.stop();
    cluster.wait_until_durable();
    let durable = ranges(&world, promotion.parent.get());

    // The truth goes away, and the lie comes back first.
    for node in cluster.nodes() {
        cluster.proxy(node).set(if node == old { Link::Up } else { Link::Refuses });
    }
    let alone = Instant::now();
    while alone.elapsed() < ALONE_FOR {
        assert!(!cluster.engine_streams_from(old), "the engine follows the false master");
        std::thread::sleep(Duration::from_millis(100));
    }

    // All of them can be reached: the truth is followed, and a person is told of the other one.
    for node in cluster.nodes() {
        cluster.proxy(node).set(Link::Up);
    }
    truth.start(cluster.primary());
    cluster.primary().wait_streaming("drydock");
    let address = cluster.port(old).to_string();
    let named = |text: &str| text.contains(&address);
    wait_until("an alarm in the log", RAISES_WITHIN, || {
        let log = service.log_text();
        log.lines().any(|line| (line.contains(" WARN ") || line.contains("ERROR ")) && named(line))
    });
    wait_until("an alarm in the status", RAISES_WITHIN, || {
        list(&status(&world), "findings").iter().any(|finding| finding.as_str().is_some_and(named))
    });
    assert_eq!(world.backupctl(&["status"]).code, 10);

    truth.stop();
    lies.stop();
    assert!(lies.told().len() > 100, "the false master did not commit much: {}", lies.told().len());
    cluster.wait_until_durable();
    assert!(!cluster.engine_streams_from(old));
    assert_eq!(ranges(&world, promotion.parent.get()), durable, "nothing was taken from the false master");
    service.stop();
    cluster.stop(old, Shutdown::Fast);
    ledger::expect_same(&world.restore_newest(), cluster.primary());
}
