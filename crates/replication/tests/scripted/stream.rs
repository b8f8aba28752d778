//! START_REPLICATION, and the commands around it.

use std::time::Duration;

use pgformat::{Lsn, TimelineId};
use replication::{Connection, Error, SlotState, StatusUpdate, StreamEvent};
use tokio::time::timeout;

use crate::server::*;

fn wal(start: u64, data: &str) -> Vec<u8> {
    copy_data([&b"w"[..], &start.to_be_bytes(), &[0; 16], data.as_bytes()].concat())
}

fn keepalive(end: u64, reply: u8) -> Vec<u8> {
    copy_data([&b"k"[..], &end.to_be_bytes(), &[0; 8], &[reply]].concat())
}

async fn stream_after(connection: Connection) -> replication::WalStream {
    connection.start_replication(Some("s"), TimelineId::FIRST, Lsn(0x100)).await.unwrap()
}

const COMMAND: &str = "START_REPLICATION SLOT \"s\" PHYSICAL 0/100 TIMELINE 1\0";

#[tokio::test]
async fn a_timeline_ends_and_the_connection_goes_on() {
    let script = vec![
        expect(COMMAND),
        send(&[copy_both(), wal(0x100, "abc"), keepalive(0x103, 1)]),
        expect(
            message(
                b'd',
                &[&b"r"[..], &0x103u64.to_be_bytes(), &0x101u64.to_be_bytes(), &[0; 16], &[0]].concat(),
            )[..22]
                .as_ref(),
        ),
        send(&[copy_done()]),
        expect(copy_done()),
        send(&[description(), row(&[Some("2"), Some("0/103")]), complete("START_STREAMING")]),
        send(&[complete("START_REPLICATION"), ready()]),
        expect("SHOW wal_segment_size\0"),
        send(&[description(), row(&[Some("16MB")]), complete("SHOW"), ready()]),
    ];
    let (server, connection) = Server::logged_in("15.3", script).await;
    let mut stream = stream_after(connection).await;
    let StreamEvent::Wal { start, data, .. } = stream.next().await.unwrap() else { panic!("WAL first") };
    assert_eq!((start, &data[..]), (Lsn(0x100), &b"abc"[..]));
    let event = stream.next().await.unwrap();
    assert!(matches!(event, StreamEvent::Keepalive { server_end: Lsn(0x103), reply_requested: true }));
    let status = StatusUpdate { written: Lsn(0x103), flushed: Lsn(0x101), ..StatusUpdate::default() };
    stream.send_status(status).await.unwrap();
    let StreamEvent::EndOfTimeline { next, mut connection } = stream.next().await.unwrap() else {
        panic!("the end")
    };
    assert_eq!(next, TimelineId::new(2).map(|timeline| (timeline, Lsn(0x103))));
    assert!(matches!(stream.next().await, Err(Error::Protocol(_))), "nothing follows the end");
    assert_eq!(connection.show("wal_segment_size").await.unwrap(), "16MB");
    server.done().await;
}

#[tokio::test]
async fn a_timeline_asked_for_from_its_end_has_no_wal() {
    let script = vec![
        expect(COMMAND),
        send(&[description(), row(&[Some("3"), Some("0/100")]), complete("START_STREAMING"), ready()]),
    ];
    let (server, connection) = Server::logged_in("15.3", script).await;
    let event = stream_after(connection).await.next().await.unwrap();
    let StreamEvent::EndOfTimeline { next, .. } = event else { panic!("the end") };
    assert_eq!(next, TimelineId::new(3).map(|timeline| (timeline, Lsn(0x100))));
    server.done().await;
}

#[tokio::test]
async fn a_stream_can_be_ended_from_our_side() {
    let script = vec![
        expect(COMMAND),
        send(&[copy_both(), wal(0x100, "abc")]),
        expect(copy_done()),
        send(&[wal(0x103, "late"), copy_done(), complete("START_REPLICATION"), ready()]),
        expect("IDENTIFY_SYSTEM\0"),
        send(&[description(), row(&[Some("7300000000000000001"), Some("1"), Some("0/103"), None])]),
        send(&[complete("IDENTIFY_SYSTEM"), ready()]),
        expect(message(b'X', &[])),
    ];
    let (server, connection) = Server::logged_in("15.3", script).await;
    let mut stream = stream_after(connection).await;
    assert!(matches!(stream.next().await.unwrap(), StreamEvent::Wal { .. }));
    let mut connection = stream.finish().await.unwrap();
    let system = connection.identify_system().await.unwrap();
    assert_eq!((system.system_identifier, system.flushed), (7_300_000_000_000_000_001, Lsn(0x103)));
    connection.close().await;
    server.done().await;
}

#[tokio::test]
async fn a_shutdown_is_told_from_an_end_of_timeline() {
    let script = vec![expect(COMMAND), send(&[copy_both(), complete("COPY 0")])];
    let (server, connection) = Server::logged_in("15.3", script).await;
    assert!(matches!(stream_after(connection).await.next().await, Err(Error::Shutdown { .. })));
    server.done().await;
    let stop = error("FATAL", "57P01", "terminating connection", "ProcessInterrupts");
    let script = vec![expect(COMMAND), send(&[copy_both(), stop])];
    let (server, connection) = Server::logged_in("15.3", script).await;
    assert!(matches!(stream_after(connection).await.next().await, Err(Error::Shutdown { .. })));
    server.done().await;
}

/// `next` is dropped half-way through a message, as `select!` does all the time.
#[tokio::test]
async fn dropping_next_loses_nothing() {
    let (early, late) = (wal(0x100, "abcdef"), wal(0x106, "ghi"));
    let steps = early.iter().chain(&late).flat_map(|byte| [Step::Send(vec![*byte]), Step::Pause]);
    let mut script = vec![expect(COMMAND), send(&[copy_both()])];
    script.extend(steps.take(200));
    let (_server, connection) = Server::logged_in("15.3", script).await;
    let mut stream = stream_after(connection).await;
    let mut received = Vec::new();
    let mut dropped = 0;
    while received.len() < 9 {
        match timeout(Duration::from_millis(5), stream.next()).await {
            Err(_) => dropped += 1,
            Ok(Ok(StreamEvent::Wal { data, .. })) => received.extend_from_slice(&data),
            Ok(_) => panic!("only WAL was sent"),
        }
    }
    assert_eq!(received, b"abcdefghi");
    assert!(dropped > 10, "next was dropped {dropped} times");
}

/// Answers to a command that was given up must not be taken for answers to the next.
#[tokio::test]
async fn a_command_that_was_dropped_spoils_the_connection() {
    let (_server, mut connection) = Server::logged_in("15.3", vec![expect("SHOW a\0"), Step::Hold]).await;
    assert!(timeout(Duration::from_millis(50), connection.show("a")).await.is_err());
    assert!(matches!(connection.show("b").await, Err(Error::Protocol(_))));
}

#[tokio::test]
async fn an_error_leaves_the_connection_usable() {
    let missing = error("ERROR", "42704", "Slot fehlt", "ReplicationSlotAcquire");
    let script = vec![
        expect("DROP_REPLICATION_SLOT \"a\"\0"),
        send(&[missing, ready()]),
        expect("READ_REPLICATION_SLOT \"a\"\0"),
        send(&[description(), row(&[None, None, None]), complete("READ_REPLICATION_SLOT"), ready()]),
        expect("READ_REPLICATION_SLOT \"b\"\0"),
        send(&[description(), row(&[Some("physical"), Some("0/100"), Some("1")]), complete("x"), ready()]),
        expect("CREATE_REPLICATION_SLOT \"c\" PHYSICAL (RESERVE_WAL)\0"),
        send(&[description(), row(&[Some("c"), Some("0/100"), None, None]), complete("x"), ready()]),
    ];
    let (server, mut connection) = Server::logged_in("15.3", script).await;
    assert!(matches!(connection.drop_slot("a").await, Err(Error::SlotMissing { .. })));
    assert_eq!(connection.read_slot("a").await.unwrap(), SlotState::Missing);
    let there =
        SlotState::Physical { restart_lsn: Some(Lsn(0x100)), restart_timeline: Some(TimelineId::FIRST) };
    assert_eq!(connection.read_slot("b").await.unwrap(), there);
    connection.create_physical_slot("c", true).await.unwrap();
    server.done().await;
}

#[tokio::test]
async fn version_14_has_other_slot_commands() {
    let script = vec![
        expect("CREATE_REPLICATION_SLOT \"c\" PHYSICAL RESERVE_WAL\0"),
        send(&[description(), row(&[Some("c"), Some("0/100"), None, None]), complete("x"), ready()]),
    ];
    let (server, mut connection) = Server::logged_in("14.9", script).await;
    assert_eq!(connection.read_slot("c").await.unwrap(), SlotState::Unsupported);
    connection.create_physical_slot("c", true).await.unwrap();
    server.done().await;
}
