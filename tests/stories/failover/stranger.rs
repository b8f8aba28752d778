//! Must show 4: another cluster answers at a configured address.

use std::time::{Duration, Instant};

use e2e::ledger::{self, Clients};
use e2e::{Load, Loss, Postgres, Return, Shape, World, wait_until};

/// Longer than the engine waits for a primary before it takes from a standby what there is.
const QUIET_FOR: Duration = Duration::from_secs(8);
const WATCHED_FOR: Duration = Duration::from_secs(6);

/// It is among the configured addresses, beside the cluster.
#[test]
fn another_cluster_at_a_configured_address() {
    let world = World::new();
    let cluster = world.cluster(&Shape { standbys: 1, ..Shape::default() });
    let stranger = stranger(&world);
    Load::create_table(cluster.primary());
    // An empty repository could not tell which of the two is meant.
    world.start_backupd_for(&cluster).stop();
    world.point_at_addresses(&format!("127.0.0.1:{},{}", stranger.port(), cluster.addresses()));
    let service = world.launch_backupd().expect_anything();
    cluster.primary().wait_streaming("drydock");
    world.backup();
    service.wait_until_it_says(&["system identifier", &stranger.port().to_string()]);
    let mut clients = Clients::new(1);
    clients.start(cluster.primary());
    expect_left_alone(&stranger);
    clients.stop();
    cluster.wait_until_durable();
    service.stop();
    ledger::expect_same(&world.restore_newest(), cluster.primary());
}

/// It answers where the primary was, and nobody else is a primary.
#[test]
fn another_cluster_in_the_place_of_the_primary() {
    let world = World::new();
    let mut cluster = world.cluster(&Shape { standbys: 1, proxied: true, ..Shape::default() });
    let stranger = stranger(&world);
    Load::create_table(cluster.primary());
    let service = world.start_backupd_for(&cluster).expect_anything();
    world.backup();
    let mut clients = Clients::new(1);
    clients.start(cluster.primary());
    std::thread::sleep(Duration::from_millis(500));
    let old = cluster.primary_node();
    cluster.lose_primary(Loss::Kill9);
    clients.stop();
    let before = settled_keys(&world);
    cluster.proxy(old).retarget(stranger.port());
    expect_left_alone(&stranger);
    assert_eq!(data_keys(&world), before, "nothing is written of a stranger");
    service.wait_until_it_says(&["system identifier", &cluster.port(old).to_string()]);

    cluster.promote(cluster.standbys()[0]);
    clients.start(cluster.primary());
    cluster.primary().wait_streaming("drydock");
    clients.stop();
    cluster.wait_until_durable();
    expect_left_alone(&stranger);
    cluster.proxy(old).retarget(cluster.server(old).port());
    cluster.gather(Return::Clone);
    service.stop();
    ledger::expect_same(&world.restore_newest(), cluster.primary());
}

/// Another system with the same role, rows and WAL positions of its own.
fn stranger(world: &World) -> Postgres {
    let server = world.postgres();
    Load::create_table(&server);
    server.sql("insert into ledger select 1000, n, 'stranger' from generate_series(1, 1000) n");
    server.switch_segment();
    server
}

/// Watches that the product neither streams from a server nor leaves a slot on it.
#[track_caller]
fn expect_left_alone(server: &Postgres) {
    let began = Instant::now();
    while began.elapsed() < WATCHED_FOR {
        let sql =
            "select (select count(*) from pg_stat_replication) + (select count(*) from pg_replication_slots)";
        assert_eq!(server.value(sql), "0", "the engine streams from a stranger, or keeps a slot there");
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// What the repository has of data, once it has taken from the standby what the primary left.
fn settled_keys(world: &World) -> Vec<String> {
    let mut keys = data_keys(world);
    wait_until("the repository to be quiet", Duration::from_secs(60), || {
        std::thread::sleep(QUIET_FOR);
        let before = std::mem::replace(&mut keys, data_keys(world));
        before == keys
    });
    keys
}

/// What the repository has of data; its own state changes all the time.
fn data_keys(world: &World) -> Vec<String> {
    world.objects().keys().into_iter().filter(|key| !key.contains("/state/")).collect()
}
