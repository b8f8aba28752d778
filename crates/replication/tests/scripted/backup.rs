//! BASE_BACKUP in both layouts.

use pgformat::{Lsn, TimelineId};
use replication::{BackupEvent, BaseBackup, BaseBackupOptions, Error, Tablespace};

use crate::server::*;

fn options() -> BaseBackupOptions {
    BaseBackupOptions {
        label: "test".to_owned(),
        fast_checkpoint: true,
        manifest: true,
        max_rate_kb: None,
        progress: true,
    }
}

/// Start position and tablespaces, as every version sends them.
fn header() -> Vec<Vec<u8>> {
    vec![
        description(),
        row(&[Some("0/2000028"), Some("1")]),
        complete("SELECT"),
        description(),
        row(&[Some("16385"), Some("/srv/fast"), Some("10")]),
        row(&[None, None, Some("2000")]),
        complete("SELECT"),
    ]
}

fn end() -> Vec<Vec<u8>> {
    vec![description(), row(&[Some("0/2000100"), Some("1")]), complete("SELECT")]
}

fn archive(tablespace: Option<u32>) -> BackupEvent {
    BackupEvent::Archive { tablespace }
}

fn expected_end() -> BackupEvent {
    BackupEvent::End { lsn: Lsn(0x200_0100), timeline: TimelineId::FIRST }
}

async fn events(backup: &mut BaseBackup) -> Vec<BackupEvent> {
    let mut events = Vec::new();
    while let Some(event) = backup.next().await.unwrap() {
        events.push(event);
    }
    events
}

#[tokio::test]
async fn version_14_sends_a_copy_for_each_archive() {
    let copies = [
        &[copy_out(), copy_data("fast tar"), copy_done()][..],
        &[copy_out(), copy_data("main "), copy_data("tar"), copy_done()],
        &[copy_out(), copy_data("{}"), copy_done()],
    ];
    let script = vec![
        expect("BASE_BACKUP LABEL 'test' PROGRESS FAST NOWAIT MANIFEST 'yes' "),
        send(&header()),
        send(&copies.concat()),
        send(&end()),
        send(&[complete("BASE_BACKUP"), ready()]),
    ];
    let (server, connection) = Server::logged_in("14.12", script).await;
    let mut backup = connection.base_backup(&options()).await.unwrap();
    assert_eq!(backup.start(), (Lsn(0x200_0028), TimelineId::FIRST));
    let fast = Tablespace { oid: Some(16385), location: Some("/srv/fast".to_owned()), size_kb: Some(10) };
    assert_eq!(backup.tablespaces(), [fast, Tablespace { oid: None, location: None, size_kb: Some(2000) }]);
    let data = |text: &'static str| BackupEvent::Data(text.into());
    let expected = [
        archive(Some(16385)),
        data("fast tar"),
        archive(None),
        data("main "),
        data("tar"),
        BackupEvent::Manifest,
        BackupEvent::ManifestData("{}".into()),
        expected_end(),
    ];
    assert_eq!(events(&mut backup).await, expected);
    assert_eq!(backup.next().await.unwrap(), None);
    server.done().await;
}

#[tokio::test]
async fn later_versions_send_messages_with_a_type() {
    let copy = [
        copy_out(),
        copy_data("n16385.tar\0/srv/fast\0"),
        copy_data("dfast"),
        copy_data([&b"p"[..], &5u64.to_be_bytes()].concat()),
        copy_data("nbase.tar\0\0"),
        copy_data("dmain"),
        copy_data("m"),
        copy_data("d{}"),
        copy_done(),
    ];
    let script = vec![
        expect("BASE_BACKUP (LABEL 'test', PROGRESS, "),
        send(&header()),
        send(&copy),
        send(&end()),
        send(&[complete("BASE_BACKUP"), ready()]),
    ];
    let (server, connection) = Server::logged_in("15.0", script).await;
    let mut backup = connection.base_backup(&options()).await.unwrap();
    let expected = [
        archive(Some(16385)),
        BackupEvent::Data("fast".into()),
        BackupEvent::Progress { bytes: 5 },
        archive(None),
        BackupEvent::Data("main".into()),
        BackupEvent::Manifest,
        BackupEvent::ManifestData("{}".into()),
        expected_end(),
    ];
    assert_eq!(events(&mut backup).await, expected);
    server.done().await;
}

/// The server may fail after it has told the end position; such a backup has not ended.
#[tokio::test]
async fn an_error_after_the_end_position_is_no_end() {
    for version in ["14.0", "18.0"] {
        let script = vec![
            expect("BASE_BACKUP"),
            send(&header()),
            send(&end()),
            send(&[error("ERROR", "XX001", "checksum verification failure", "perform_base_backup"), ready()]),
        ];
        let (server, connection) = Server::logged_in(version, script).await;
        let mut backup = connection.base_backup(&options()).await.unwrap();
        let failed = backup.next().await;
        assert!(matches!(failed, Err(Error::Server { ref code, .. }) if code == "XX001"), "{failed:?}");
        server.done().await;
    }
}

#[tokio::test]
async fn a_backup_that_breaks_off_is_no_backup() {
    let script = vec![
        expect("BASE_BACKUP"),
        send(&header()),
        send(&[
            copy_out(),
            copy_data("nbase.tar\0\0"),
            copy_data("dmain"),
            message(b'd', b"dcut")[..6].to_vec(),
        ]),
    ];
    let (server, connection) = Server::logged_in("17.0", script).await;
    let mut backup = connection.base_backup(&options()).await.unwrap();
    assert_eq!(backup.next().await.unwrap(), Some(archive(None)));
    assert_eq!(backup.next().await.unwrap(), Some(BackupEvent::Data("main".into())));
    assert!(matches!(backup.next().await, Err(Error::Lost { .. })));
    server.done().await;
}

#[tokio::test]
async fn nonsense_is_refused() {
    let out_of_order: [&[Vec<u8>]; 4] = [
        &[copy_out(), copy_data("dearly")],
        &[copy_out(), copy_data("?")],
        &[copy_done()],
        &[complete("BASE_BACKUP"), ready()],
    ];
    for messages in out_of_order {
        let script = vec![expect("BASE_BACKUP"), send(&header()), send(messages), Step::Hold];
        let (_server, connection) = Server::logged_in("16.1", script).await;
        let mut backup = connection.base_backup(&options()).await.unwrap();
        assert!(matches!(backup.next().await, Err(Error::Protocol(_))));
    }
    let script = vec![
        expect("BASE_BACKUP"),
        send(&header()),
        send(&[copy_out(), copy_done(), copy_out(), copy_done(), copy_out(), copy_done(), copy_out()]),
        Step::Hold,
    ];
    let (_server, connection) = Server::logged_in("14.1", script).await;
    let mut backup = connection.base_backup(&options()).await.unwrap();
    for _ in 0..3 {
        assert!(backup.next().await.unwrap().is_some());
    }
    assert!(matches!(backup.next().await, Err(Error::Protocol(_))), "a fourth copy for two tablespaces");
}

#[tokio::test]
async fn an_unknown_major_is_not_tried() {
    let (_server, connection) = Server::logged_in("19beta1", vec![Step::Hold]).await;
    let refused = connection.base_backup(&options()).await.unwrap_err();
    assert!(refused.to_string().contains("PostgreSQL 19 is not supported"), "{refused}");
}
