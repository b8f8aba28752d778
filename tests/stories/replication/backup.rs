//! A base backup, unpacked with tar and checked by PostgreSQL's own tools.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use e2e::{Postgres, World};
use replication::{BackupEvent, BaseBackupOptions, Connection, Error};

use super::{config, run};

fn options() -> BaseBackupOptions {
    BaseBackupOptions {
        label: "it's a backup".to_owned(),
        fast_checkpoint: true,
        manifest: true,
        max_rate_kb: None,
        progress: true,
    }
}

/// Takes a base backup into `directory`: `base.tar`, `<oid>.tar`, `backup_manifest`. Returns the archives in order.
async fn back_up(server: &Postgres, directory: &Path) -> Vec<Option<u32>> {
    let connection = Connection::connect(&config(server)).await.unwrap();
    let mut backup = connection.base_backup(&options()).await.unwrap();
    let (start, timeline) = backup.start();
    assert_eq!(backup.tablespaces().last().unwrap().oid, None);
    assert!(backup.tablespaces().iter().all(|tablespace| tablespace.size_kb.is_some()));
    let mut archives = Vec::new();
    let mut file = None;
    loop {
        match backup.next().await.unwrap().expect("an end") {
            BackupEvent::Archive { tablespace } => {
                archives.push(tablespace);
                file = Some(File::create(directory.join(archive_name(tablespace))).unwrap());
            }
            BackupEvent::Manifest => file = Some(File::create(directory.join("backup_manifest")).unwrap()),
            BackupEvent::Data(data) | BackupEvent::ManifestData(data) => {
                file.as_mut().unwrap().write_all(&data).unwrap();
            }
            BackupEvent::Progress { bytes } => assert!(bytes > 0),
            BackupEvent::End { lsn, timeline: end_timeline } => {
                assert!(lsn > start && end_timeline == timeline);
                break;
            }
        }
    }
    assert_eq!(backup.next().await.unwrap(), None);
    archives
}

fn archive_name(tablespace: Option<u32>) -> String {
    tablespace.map_or("base.tar".to_owned(), |oid| format!("{oid}.tar"))
}

fn unpack(archive: &Path, directory: &Path) {
    fs::create_dir_all(directory).unwrap();
    let status = Command::new("tar").arg("-xf").arg(archive).arg("-C").arg(directory).status().unwrap();
    assert!(status.success(), "tar -xf {}", archive.display());
}

#[test]
fn a_backup_with_a_tablespace_is_whole() {
    let world = World::new();
    let server = world.postgres();
    let location = world.directory("fast");
    server.sql(&format!("create tablespace fast location '{}'", location.display()));
    server.sql("create table t tablespace fast as select repeat('x', 500) from generate_series(1, 20000)");
    let oid: u32 = server.value("select oid from pg_tablespace where spcname = 'fast'").parse().unwrap();

    let directory = tempfile::tempdir().unwrap();
    let file = |name: &str| -> PathBuf { directory.path().join(name) };
    let archives = run(back_up(&server, directory.path()));
    assert_eq!(archives, [Some(oid), None]);

    let data = file("data");
    unpack(&file("base.tar"), &data);
    let link = data.join("pg_tblspc").join(oid.to_string());
    // The link comes along unless it was left to a tablespace_map.
    drop(fs::remove_file(&link));
    unpack(&file(&archive_name(Some(oid))), &link);
    fs::copy(file("backup_manifest"), data.join("backup_manifest")).unwrap();
    let label = fs::read_to_string(data.join("backup_label")).unwrap();
    assert!(label.contains("LABEL: it's a backup"), "{label}");
    Command::new("chmod").args(["-R", "a+rX"]).arg(directory.path()).status().unwrap();
    let verified = world.run(server.tool("pg_verifybackup").arg("--no-parse-wal").arg(&data)).success();
    assert!(verified.stdout.contains("backup successfully verified"), "{verified:?}");
}

#[test]
fn the_rate_can_be_limited() {
    let world = World::new();
    let server = world.postgres();
    run(async {
        let connection = Connection::connect(&config(&server)).await.unwrap();
        let limited = BaseBackupOptions { max_rate_kb: Some(1 << 20), manifest: false, ..options() };
        let mut backup = connection.base_backup(&limited).await.unwrap();
        let mut last = None;
        while let Some(event) = backup.next().await.unwrap() {
            assert!(event != BackupEvent::Manifest, "none was asked for");
            last = Some(event);
        }
        assert!(matches!(last, Some(BackupEvent::End { .. })));

        let connection = Connection::connect(&config(&server)).await.unwrap();
        let absurd = BaseBackupOptions { max_rate_kb: Some(1), ..options() };
        let refused = connection.base_backup(&absurd).await.err().unwrap();
        assert!(matches!(refused, Error::Server { .. }), "{refused:?}");
    });
}
