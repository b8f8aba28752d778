//! Must show 8: the segment in which a new timeline leaves its parent. Where the new timeline's copy is missing,
//! PostgreSQL quietly takes the parent's, whose WAL diverged.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use e2e::ledger::{self, Moment};
use e2e::{Cluster, Damage, Load, Loss, Lsn, Promotion, Return, Shape, TimelineId, World};
use serde_json::Value;

use super::{AFTER_A_FAILOVER, list, lsn, ranges, status};

const SEGMENT_BYTES: u64 = 16 << 20;
const STREAMS_WITHIN: Duration = Duration::from_secs(30);

/// A lagging standby was promoted: the old primary had written rows that it never got, in the segment of the fork.
fn lose_a_primary_that_was_ahead(cluster: &mut Cluster, before_the_loss: impl FnOnce(&Cluster)) -> Promotion {
    let lagging = cluster.standbys()[0];
    insert(cluster, "common");
    cluster.wait_until_has(lagging, cluster.primary().current_lsn());
    cluster.hold_back(lagging);
    insert(cluster, "diverged");
    before_the_loss(cluster);
    cluster.lose_primary(Loss::Kill9);
    let promotion = cluster.promote(lagging);
    insert(cluster, "surviving");
    promotion
}

fn insert(cluster: &Cluster, filler: &str) {
    cluster.primary().sql(&format!(
        "insert into ledger select 1, coalesce(max(n), 0) + 1, '{filler}' from ledger; \
         insert into ledger select 2, n, '{filler}' from generate_series((select coalesce(max(n), 0) + 1 from \
         ledger where client = 2), (select coalesce(max(n), 0) + 100 from ledger where client = 2)) n"
    ));
}

/// Name of the segment of a timeline that holds `lsn`, with PostgreSQL's default size.
fn segment(timeline: TimelineId, lsn: Lsn) -> String {
    let number = lsn.0 / SEGMENT_BYTES;
    let per_log = (1 << 32) / SEGMENT_BYTES;
    format!("{:08X}{:08X}{:08X}", timeline.get(), number / per_log, number % per_log)
}

/// PostgreSQL alone, with `cp` for a restore_command, opens with rows that exist on no surviving timeline.
#[test]
fn postgresql_alone_opens_with_the_parents_rows() {
    let world = World::new();
    let mut cluster = world.cluster(&Shape { standbys: 1, ..Shape::default() });
    Load::create_table(cluster.primary());
    let data = world.fresh("plain");
    let directory = data.to_str().unwrap();
    cluster.primary().run("pg_basebackup", &["-D", directory, "-c", "fast", "-X", "none"]);
    let promotion = lose_a_primary_that_was_ahead(&mut cluster, |_| {});
    cluster.primary().switch_segment();
    insert(&cluster, "surviving");
    cluster.primary().sql("checkpoint");

    let archive = world.directory("archive");
    let lost = segment(promotion.timeline, promotion.fork);
    let old = promotion_parent_directory(&cluster, promotion);
    copy_wal(&old, &archive, |name| name.len() == 24);
    let new = cluster.primary().data().join("pg_wal");
    copy_wal(&new, &archive, |name| {
        name.starts_with(&format!("{:08X}", promotion.timeline.get())) && name != lost
    });
    assert!(archive.join(segment(promotion.parent, promotion.fork)).exists());

    let node = world.adopt(&data);
    node.configure_auto(&[&format!("restore_command = 'cp {}/%f %p'", archive.display())]);
    fs::write(data.join("recovery.signal"), "").unwrap();
    let node = node.start();
    node.wait_promoted();
    let found = node.value("select string_agg(distinct filler, ' ' order by filler) from ledger");
    assert_eq!(found, "common diverged", "as if nothing had happened:\n{}", node.log_text());
}

fn promotion_parent_directory(cluster: &Cluster, promotion: Promotion) -> PathBuf {
    let old = cluster.nodes().find(|&node| node != promotion.node).expect("the old primary");
    cluster.server(old).data().join("pg_wal")
}

fn copy_wal(from: &Path, to: &Path, wanted: impl Fn(&str) -> bool) {
    for entry in fs::read_dir(from).unwrap().flatten() {
        let name = entry.file_name().into_string().unwrap();
        if entry.file_type().unwrap().is_file() && wanted(&name) {
            fs::copy(entry.path(), to.join(&name)).unwrap();
            let open = std::os::unix::fs::PermissionsExt::from_mode(0o644);
            fs::set_permissions(to.join(&name), open).unwrap();
        }
    }
}

/// The engine was ahead of the fork. It goes on by itself from the start of the fork segment, with the tail kept aside;
/// and where that segment is gone from the repository, nothing is restored past the fork.
#[test]
fn the_fork_segment() {
    let world = World::new();
    let mut cluster = world.cluster(&Shape { standbys: 1, ..Shape::default() });
    Load::create_table(cluster.primary());
    let service = world.start_backupd_for(&cluster).expect(AFTER_A_FAILOVER);
    world.backup();
    let mut tail = None;
    let promotion = lose_a_primary_that_was_ahead(&mut cluster, |cluster| {
        tail = Some(Moment::mark(cluster.primary(), "in the tail"));
        cluster.wait_until_durable();
    });
    let tail = tail.unwrap();
    let watch = cluster.watch_for_the_engine(promotion.at);
    let took = watch.join().unwrap().expect("the engine goes on by itself");
    assert!(took < STREAMS_WITHIN, "{took:?}");
    cluster.primary().switch_segment();
    insert(&cluster, "surviving");
    cluster.gather(Return::Clone);
    cluster.wait_until_durable();

    // What we had beyond the fork is kept and listed; the new timeline begins with the whole fork segment.
    let fork_segment = Lsn(promotion.fork.0 / SEGMENT_BYTES * SEGMENT_BYTES);
    let parent = ranges(&world, promotion.parent.get());
    assert!(parent.last().is_some_and(|(_, to)| *to >= tail.lsn), "{parent:?} {tail:?}");
    let wal = world.json(&["wal", "list"]);
    let left = &list(&wal, "timelines")[0];
    assert_eq!(lsn(left, "left_at"), promotion.fork, "{left:#}");
    assert!(left["tail_bytes"].as_u64().unwrap() > 0, "{left:#}");
    let table = world.backupctl(&["wal", "list"]).success().stdout;
    assert!(table.contains(&format!("a tail beyond {}", promotion.fork)), "{table}");
    let child = ranges(&world, promotion.timeline.get());
    assert_eq!(child.first().map(|(from, _)| *from), Some(fork_segment), "{child:?}");
    assert_eq!(list(&status(&world), "unexplained_gaps"), &[] as &[Value]);
    assert_eq!(world.holes(), Vec::<Value>::new());
    service.stop();
    let node = world.restore_newest();
    ledger::expect_same(&node, cluster.primary());
    drop(node);
    let to_the_tail = ["--target-name", &tail.name, "--target-timeline", &tail.timeline.to_string()];
    let node = world.restore(&[&to_the_tail[..], &["--target-action", "promote"]].concat()).start_promoted();
    assert_eq!(ledger::digest(&node), tail.digest, "the tail can be restored when it is asked for");
    drop(node);

    without_it(&world, promotion);
}

/// With the fork segment gone, a plan is refused, and so is what an older plan would fetch.
fn without_it(world: &World, promotion: Promotion) {
    let planned = world.restore(&["--target-action", "promote"]);
    let plan = planned.data().join("pg_wal/drydock/plan.json");
    let lost = segment(promotion.timeline, promotion.fork);
    let _hidden = hide(world, &lost);
    let refused = world.try_restore(&world.fresh("refused"), &[]).fails(8, &["timeline"]);
    eprintln!("{}", refused.stderr.trim());
    for name in [&lost, &segment(promotion.parent, promotion.fork)] {
        let path = world.directory("fetched").join(name);
        let fetch = ["wal", "fetch", "--plan", plan.to_str().unwrap(), name, path.to_str().unwrap()];
        let output = world.backupctl(&fetch);
        eprintln!("{}", output.stderr.trim());
        assert_eq!(output.code, 200, "recovery must stop, not take a turn: {output:?}");
        assert!(!path.exists());
    }
    planned.node().fails_to_start();
}

/// Takes away what the repository has of a segment, whole or in pieces.
fn hide(world: &World, segment: &str) -> Vec<Damage> {
    let objects = world.objects();
    let keys = objects.keys().into_iter().filter(|key| key.contains("/wal/") && key.contains(segment));
    let hidden: Vec<Damage> = keys.map(|key| objects.hide(&key)).collect();
    assert!(!hidden.is_empty(), "{segment} is not in the repository: {:#?}", objects.keys());
    hidden
}
