//! The repository can be read without us.

use std::fs;

use e2e::{Kind, Options, World};

#[test]
fn zstd_alone_turns_a_segment_object_into_the_servers_wal_file() {
    let world = World::new();
    let mut primary =
        world.postgres_with(&Options { settings: vec!["wal_keep_size = 1GB".into()], ..Options::default() });
    let service = world.start_backupd(&primary);
    primary.pgbench_tables(2);
    primary.switch_segment();
    service.wait_until_durable(&primary);
    service.stop();

    let keys = world.objects().of(Kind::Segment);
    assert!(keys.len() >= 2, "{keys:?}");
    for key in keys {
        let segment = key.rsplit('/').next().unwrap().trim_end_matches(".zst");
        let plain = world.fresh("plain");
        let mut zstd = world.program("zstd", "zstd");
        world.run(zstd.args(["-d", "-q"]).arg(world.objects().path(&key)).arg("-o").arg(&plain)).success();
        assert!(
            fs::read(&plain).unwrap() == fs::read(primary.data().join("pg_wal").join(segment)).unwrap(),
            "{key}"
        );
    }
    primary.kill9();
}

#[test]
fn fetched_wal_is_the_servers_wal() {
    let world = World::new();
    let primary =
        world.postgres_with(&Options { settings: vec!["wal_keep_size = 1GB".into()], ..Options::default() });
    let service = world.start_backupd(&primary);
    primary.sql("create table t (n int)");
    primary.switch_segment();
    primary.sql("insert into t values (1)");
    let end = service.wait_until_durable(&primary);
    service.stop();

    let fetch = |segment: &str| {
        let target = world.directory("wal").join(segment);
        world.backupctl(&["wal", "fetch", segment, target.to_str().unwrap()]).success();
        (fs::read(target).unwrap(), fs::read(primary.data().join("pg_wal").join(segment)).unwrap())
    };
    let finished = world.objects().last(Kind::Segment);
    let (fetched, original) = fetch(finished.rsplit('/').next().unwrap().trim_end_matches(".zst"));
    assert!(fetched == original);

    // The unfinished one comes from its pieces, and after them zeros.
    let piece = world.objects().last(Kind::Piece);
    let (fetched, original) = fetch(piece.split('/').nth(4).unwrap());
    let written = usize::try_from(end.0 % (16 << 20)).unwrap();
    assert_eq!(fetched.len(), original.len());
    assert!(fetched[..written] == original[..written]);
    assert!(world.objects().of(Kind::Piece).iter().all(|key| key.contains(piece.split('/').nth(4).unwrap())));
}

/// docs/format.md is enough to write a reader in another language: tests/scripts/extract.py is one.
#[test]
fn a_short_script_lists_a_backup_and_extracts_a_file() {
    let world = World::new();
    let primary = world.postgres();
    primary.pgbench_tables(1);
    primary.sql(
        "create table quiet as select n, repeat('x', 100) filler from generate_series(1, 5000) n; checkpoint",
    );
    let path = primary.value("select pg_relation_filepath('quiet')");
    let service = world.start_backupd(&primary);
    world.backup();
    // The second backup refers to what the first one stored.
    let backup = world.backup();
    service.wait_until_durable(&primary);
    service.stop();

    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/extract.py");
    // The product's user may not be able to read the checkout.
    let installed = world.write_private("extract.py", &fs::read_to_string(script).unwrap());
    let repository = world.objects().path("");
    let run = |arguments: &[&str]| {
        let mut python = world.program("python3", "python3");
        python.arg(&installed).arg("--repository").arg(&repository).args(["--cluster", World::CLUSTER]);
        world.run(python.args(arguments)).success()
    };
    let listed = run(&["list", &backup]).stdout;
    for file in ["PG_VERSION", "global/pg_control", "backup_label", &path] {
        assert!(listed.lines().any(|line| line.ends_with(file)), "{file} in:\n{listed}");
    }
    let extracted = world.directory("extracted").join("file");
    run(&["extract", &backup, &path, extracted.to_str().unwrap()]);
    assert!(fs::read(extracted).unwrap() == fs::read(primary.data().join(&path)).unwrap());

    let segment = world.objects().last(Kind::Segment);
    let plain = world.directory("extracted").join("segment");
    let described = run(&["segment", &segment, plain.to_str().unwrap()]).stdout;
    assert!(
        described.contains(&primary.value("select system_identifier from pg_control_system()")),
        "{described}"
    );
    assert_eq!(fs::metadata(plain).unwrap().len(), 16 << 20);
}
