//! The harness itself, so that a failing story is the product's fault.

use std::time::Duration;

use e2e::ledger::{self, Clients, Moment, Told};
use e2e::{Cluster, Link, Load, Loss, Options, Proxy, Return, Shape, Shutdown, World, wait_until};

#[test]
fn clients_remember_what_they_were_told() {
    let world = World::new();
    let mut server = world.postgres();
    Load::create_table(&server);
    let before = server.current_lsn();
    let load = Load::start(&server, 1, 2);
    wait_until("both clients to write", Duration::from_secs(20), || {
        server.value("select count(*) from ledger group by client having count(*) > 20").lines().count() == 2
    });
    server.kill9();
    let commits = load.stop();
    server.start_again();

    let stored: usize = server.value("select count(*) from ledger").parse().unwrap();
    let unconfirmed = stored - commits.len();
    assert!(unconfirmed <= 2, "each client was told of all its commits but for the last: {unconfirmed}");
    assert!(
        commits.iter().filter_map(|commit| commit.lsn).all(|lsn| lsn > before && lsn <= server.current_lsn())
    );
}

#[test]
fn a_killed_server_leaves_no_process() {
    let world = World::new();
    let mut server = world.postgres();
    let data = server.data().to_owned();
    server.destroy();
    assert!(!data.exists());
    let command_lines = std::fs::read_dir("/proc").unwrap().flatten();
    let left: Vec<String> = command_lines
        .filter_map(|entry| std::fs::read_to_string(entry.path().join("cmdline")).ok())
        .filter(|line| line.contains(data.to_str().unwrap()))
        .collect();
    assert_eq!(left, Vec::<String>::new());
}

/// A connection that is let in at the moment of the kill has a process that nobody had seen before.
#[test]
fn a_server_killed_while_clients_come_leaves_no_process() {
    let world = World::new();
    let mut server = world.postgres();
    server.pgbench_tables(1);
    for _ in 0..10 {
        let clients: Vec<_> =
            (0..4).map(|_| server.spawn("pgbench", &["-n", "-C", "-S", "-T", "60", "postgres"])).collect();
        std::thread::sleep(Duration::from_millis(300));
        server.kill9();
        let data = server.data().to_str().unwrap();
        let processes = std::fs::read_dir("/proc").unwrap().flatten().map(|entry| entry.path());
        let at_home = |path: &std::path::Path| {
            std::fs::read_link(path.join("cwd")).is_ok_and(|cwd| cwd.to_str() == Some(data))
        };
        let left: Vec<_> = processes.filter(|path| at_home(path)).collect();
        assert!(left.is_empty(), "{left:?}");
        drop(clients);
        server.start_again();
    }
}

#[test]
fn servers_come_in_the_shapes_asked_for() {
    let world = World::new();
    let options =
        Options { segment_mib: 1, checksums: false, fsync: true, settings: vec!["work_mem = 5MB".into()] };
    let mut server = world.postgres_with(&options);
    let shown = |name| server.value(&format!("show {name}"));
    let values = ["wal_segment_size", "data_checksums", "fsync", "work_mem"].map(shown);
    assert_eq!(values, ["1MB", "off", "on", "5MB"]);
    server.stop(Shutdown::Fast);
    assert!(server.try_sql("select 1").is_err());
}

#[test]
fn commit_records_are_found_in_the_wal() {
    let world = World::new();
    let server = world.postgres();
    server.sql("create table t (n int)");
    let from = server.current_lsn();
    let xid = server.value("begin; insert into t values (1); select pg_current_xact_id(); commit");
    let to = server.current_lsn();
    let (lsn, time) = server.commit_of(&xid, from, to);
    assert!(from < lsn && lsn < to, "{from} {lsn} {to}");
    assert!(time <= server.now() && time.len() == server.now().len(), "{time} {}", server.now());
}

/// Everything the stories of failovers do to a cluster, without the product.
#[test]
fn a_cluster_fails_over_in_every_way() {
    let world = World::new();
    let mut cluster = world.cluster(&Shape { standbys: 3, cascade: true, proxied: true, ..Shape::default() });
    Load::create_table(cluster.primary());
    let mut clients = Clients::new(2);
    let mut moments = Vec::new();

    let mut begin = |cluster: &Cluster, clients: &mut Clients| {
        clients.start(cluster.primary());
        std::thread::sleep(Duration::from_millis(300));
        let moment = Moment::mark(cluster.primary(), &format!("m{}", moments.len()));
        cluster.standbys().into_iter().for_each(|node| cluster.wait_until_has(node, moment.lsn));
        moments.push(moment);
    };
    for (loss, how) in [(Loss::Kill9, Return::Rewind), (Loss::Immediate, Return::Clone)] {
        begin(&cluster, &mut clients);
        cluster.lose_primary(loss);
        cluster.promote(cluster.most_advanced());
        cluster.gather(how);
    }

    // A clean switchover loses nothing.
    begin(&cluster, &mut clients);
    let before = cluster.primary_node();
    cluster.switch_over(cluster.standbys()[0]);
    clients.stop();
    let stored = ledger::keys(cluster.primary());
    let timeline = cluster.promotions().last().unwrap().parent;
    let told = clients.told().iter().filter(|told| told.timeline == timeline);
    assert!(told.clone().count() > 20, "{}", told.count());
    told.for_each(|told| assert!(stored.contains(&(told.commit.client, told.commit.n)), "{told:?}"));
    cluster.gather(Return::Rewind);
    assert_eq!(cluster.server(before).value("select pg_is_in_recovery()"), "t");

    // A standby that lagged takes over: the others went too far and have to be mended.
    begin(&cluster, &mut clients);
    let lagging = cluster.standbys()[1];
    cluster.hold_back(lagging);
    std::thread::sleep(Duration::from_millis(300));
    cluster.lose_primary(Loss::Kill9);
    let promotion = cluster.promote(lagging);
    clients.stop();
    let lost = clients.told().iter().filter(|told| {
        told.timeline == promotion.parent && told.commit.lsn.is_some_and(|lsn| lsn > promotion.fork)
    });
    assert!(lost.count() > 10, "what the standby lacked is lost");
    cluster.gather(Return::Rewind);

    expect_survivors(&cluster, clients.told());
    for moment in &moments {
        assert!(cluster.left_at(moment.timeline).is_some_and(|fork| moment.lsn <= fork), "{moment:?}");
    }
    for node in cluster.standbys() {
        cluster.wait_until_has(node, cluster.primary().current_lsn());
        ledger::expect_same(cluster.server(node), cluster.primary());
    }
}

/// Two failovers with less than five seconds between them.
#[test]
fn a_cluster_fails_over_twice_in_a_row() {
    let world = World::new();
    let mut cluster = world.cluster(&Shape { standbys: 3, ..Shape::default() });
    Load::create_table(cluster.primary());
    let mut clients = Clients::new(2);
    clients.start(cluster.primary());
    std::thread::sleep(Duration::from_millis(300));
    cluster.lose_primary(Loss::Kill9);
    let first = cluster.promote(cluster.most_advanced());
    let second = cluster.standbys()[0];
    cluster.follow(second, cluster.primary_node());
    cluster.wait_until_follows(second);
    clients.start(cluster.primary());
    std::thread::sleep(Duration::from_millis(300));
    cluster.lose_primary(Loss::Kill9);
    let second = cluster.promote(second);
    assert!(second.at - first.at < Duration::from_secs(5), "{:?}", second.at - first.at);
    assert_eq!((second.parent, second.timeline.get()), (first.timeline, 3));
    cluster.gather(Return::Clone);
    clients.stop();
    expect_survivors(&cluster, clients.told());
}

/// Asserts that the primary has every commit that was confirmed on a timeline before the cluster left it.
#[track_caller]
pub(crate) fn expect_survivors(cluster: &Cluster, told: &[Told]) {
    let stored = ledger::keys(cluster.primary());
    let survives = |told: &&Told| {
        let fork = cluster.left_at(told.timeline);
        told.commit.lsn.is_some_and(|lsn| fork.is_none_or(|fork| lsn <= fork))
    };
    let lost: Vec<&Told> = told
        .iter()
        .filter(survives)
        .filter(|told| !stored.contains(&(told.commit.client, told.commit.n)))
        .collect();
    assert!(lost.is_empty(), "the cluster itself has lost {lost:?}");
}

#[test]
fn a_proxy_cuts_the_product_off_alone() {
    let world = World::new();
    let server = world.postgres();
    let proxy = Proxy::to(server.port());
    let through = || {
        let conninfo = server.conninfo().replace(&server.port().to_string(), &proxy.port().to_string());
        let conninfo = format!("{conninfo} dbname=postgres connect_timeout=2");
        world.run(server.tool("psql").args(["-X", "-A", "-t", "-c", "select 1", &conninfo])).code
    };
    assert_eq!(through(), 0);
    proxy.set(Link::Refuses);
    assert_ne!(through(), 0);
    proxy.set(Link::Silent);
    assert_ne!(through(), 0);
    assert_eq!(server.value("select 1"), "1", "others still reach it");
    proxy.set(Link::Up);
    assert_eq!(through(), 0);
    let other = world.postgres();
    other.sql("alter role drydock connection limit 0");
    proxy.retarget(other.port());
    assert_ne!(through(), 0);
}
