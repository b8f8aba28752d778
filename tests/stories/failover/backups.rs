//! Backups of a cluster: from the standby that is needed least, and once more from another node when a failover ends one.

use std::time::Duration;

use e2e::{Load, Loss, Shape, World, wait_until};

use super::{list, status};

const SLOTS_WITHIN: Duration = Duration::from_secs(30);
const COPIES_WITHIN: Duration = Duration::from_secs(60);

/// The address of the node that the newest backup was copied from.
fn source(world: &World) -> String {
    let newest = world.json(&["show", "latest"]);
    newest["source"].as_str().unwrap_or_else(|| panic!("no source in {newest:#}")).to_owned()
}

#[test]
fn a_standby_is_copied_and_the_copy_restores() {
    let world = World::new();
    let cluster = world.cluster(&Shape { standbys: 2, cascade: true, ..Shape::default() });
    Load::create_table(cluster.primary());
    cluster.primary().pgbench_tables(1);
    let service = world.start_backupd_for(&cluster);
    world.backup();
    let primary = format!("127.0.0.1:{}", cluster.port(cluster.primary_node()));
    assert_eq!(source(&world), primary, "unless asked for something else");

    world.set("DRYDOCK_BACKUP_SOURCE", "prefer-standby");
    cluster.primary().sql("insert into ledger values (1, 1, 'x')");
    for standby in cluster.standbys() {
        cluster.wait_until_has(standby, cluster.primary().current_lsn());
    }
    world.backup();
    // Of the two, one streams from the primary, and the other one from that.
    let direct =
        cluster.standbys().into_iter().find(|node| cluster.upstream(*node) == cluster.primary_node());
    assert_eq!(source(&world), format!("127.0.0.1:{}", cluster.port(direct.unwrap())));
    cluster.primary().sql("insert into ledger values (1, 2, 'x')");
    cluster.wait_until_durable();
    service.stop();
    let restored = world.restore(&["--target-action", "promote"]).verify().start_promoted();
    assert_eq!(restored.value("select count(*) from ledger"), "2");
}

#[test]
fn a_failover_in_the_middle_begins_it_anew_from_the_new_primary() {
    let world = World::new();
    let mut cluster = world.cluster(&Shape::default());
    Load::create_table(cluster.primary());
    cluster.primary().pgbench_tables(2);
    let service = world.start_backupd_for(&cluster).expect_anything();
    world.set("DRYDOCK_BACKUP_MAX_RATE", "2MB");
    let mut backup = world.spawn_backupctl(&["backup"]);
    wait_until("the backup to copy", COPIES_WITHIN, || {
        let running = status(&world);
        !list(&running, "running_backups").is_empty()
            && cluster
                .primary()
                .value("select count(*) from pg_stat_progress_basebackup where backup_streamed > 0")
                == "1"
    });
    cluster.lose_primary(Loss::Kill9);
    world.unset("DRYDOCK_BACKUP_MAX_RATE");
    let promoted = cluster.promote(cluster.most_advanced()).node;
    cluster.primary().wait_streaming("drydock");
    assert_eq!(backup.wait(Duration::from_secs(180)), 0, "it begins anew");
    assert_eq!(source(&world), format!("127.0.0.1:{}", cluster.port(promoted)));
    assert_eq!(world.backups().len(), 1, "of the first attempt nothing is listed");
    cluster.primary().sql("insert into ledger values (1, 1, 'x')");
    cluster.wait_until_durable();
    service.stop();
    assert_eq!(world.restore_newest().value("select count(*) from ledger"), "1");
}

/// repmgr's table, as its version 5 has it.
const REPMGR: &str = "create schema repmgr; create table repmgr.nodes (node_id int primary key, upstream_node_id int, \
    active boolean not null default true, node_name text not null, type text not null, location text not null default 'default', \
    priority int not null default 100, conninfo text not null, repluser varchar(63) not null, slot_name text, \
    config_file text not null)";

#[test]
fn repmgr_says_which_nodes_there_are_and_one_that_leaves_loses_our_slot() {
    let world = World::new();
    let cluster = world.cluster(&Shape { standbys: 2, ..Shape::default() });
    let primary = cluster.primary();
    primary.sql(REPMGR);
    primary.sql("grant usage on schema repmgr to drydock; grant select on repmgr.nodes to drydock");
    for node in cluster.nodes() {
        let kind = if node == cluster.primary_node() { "primary" } else { "standby" };
        primary.sql(&format!(
            "insert into repmgr.nodes (node_id, node_name, type, priority, conninfo, repluser, config_file) values \
             ({node}, 'n{node}', '{kind}', {}, 'user=x password=''a b'' host=127.0.0.1 port={} dbname=r', 'x', '/f')",
            100 - node,
            cluster.port(node)
        ));
    }
    // One address is configured, and PostDock's variable names the database.
    world.point_at_addresses(&format!("127.0.0.1:{}", cluster.port(cluster.primary_node())));
    world.set("REPLICATION_DB", "postgres");
    let service = world.launch_backupd();
    primary.wait_streaming("drydock");
    let slot = "select count(*) from pg_replication_slots where slot_name = 'drydock'";
    for node in cluster.nodes() {
        wait_until("a slot on each node", SLOTS_WITHIN, || cluster.server(node).value(slot) == "1");
    }
    let seen = status(&world);
    let of = |node: usize| {
        let name = format!("127.0.0.1:{}", cluster.port(node));
        list(&seen, "nodes")
            .iter()
            .find(|one| one["node"] == name)
            .cloned()
            .unwrap_or_else(|| panic!("{seen:#}"))
    };
    for node in cluster.standbys() {
        let shown = of(node);
        assert_eq!(shown["origin"], "repmgr", "{shown:#}");
        assert_eq!(shown["priority"], 100 - node, "{shown:#}");
        assert_eq!(shown["slot_state"], "kept", "{shown:#}");
        assert_eq!(shown["role"], "standby", "{shown:#}");
    }
    let followed = of(cluster.primary_node());
    assert!(followed["followed"] == true && followed["streaming_since"].is_string(), "{followed:#}");
    let table = world.backupctl(&["status"]).success().stdout;
    assert!(table.contains("streaming from it") && table.contains("Slot keeps"), "{table}");

    let gone = cluster.standbys()[0];
    primary.sql(&format!("delete from repmgr.nodes where node_id = {gone}"));
    wait_until("the slot to go", Duration::from_secs(150), || cluster.server(gone).value(slot) == "0");
    service.wait_until_it_says(&["has left the cluster"]);
    service.stop();
}
