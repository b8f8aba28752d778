//! Slots, WAL, and what happens at the end of a timeline.

use std::fs;
use std::time::Duration;

use e2e::{Lsn, Options, Postgres, Shutdown, World};
use pgformat::{SegmentName, SegmentSize, TimelineId};
use replication::{Connection, Error, SlotState, StatusUpdate, StreamEvent, WalStream};

use super::{config, run};

async fn connect(server: &Postgres) -> Connection {
    Connection::connect(&config(server)).await.unwrap()
}

/// Streams on `timeline` from `start`, with `slot`.
async fn stream(
    server: &Postgres,
    slot: Option<&str>,
    timeline: TimelineId,
    start: Lsn,
) -> Result<WalStream, Error> {
    connect(server).await.start_replication(slot, timeline, start).await
}

/// Receives WAL until it reaches `end`, acknowledging everything; checks that it has no gap.
async fn receive(stream: &mut WalStream, start: Lsn, end: Lsn) -> Vec<u8> {
    let mut wal = Vec::new();
    let position = |wal: &Vec<u8>| start.advance(wal.len() as u64);
    while position(&wal) < end {
        match stream.next().await.unwrap() {
            StreamEvent::Wal { start, data, .. } => {
                assert_eq!(start, position(&wal));
                wal.extend_from_slice(&data);
            }
            StreamEvent::Keepalive { reply_requested: false, .. } => {}
            StreamEvent::Keepalive { .. } => acknowledge(stream, position(&wal)).await,
            StreamEvent::EndOfTimeline { next, .. } => panic!("the timeline ended at {next:?}"),
        }
    }
    wal
}

/// Why the server does not stream from here. It consents first and looks at some things only then.
async fn refusal(server: &Postgres, slot: Option<&str>, timeline: TimelineId, start: Lsn) -> Error {
    let mut stream = match stream(server, slot, timeline, start).await {
        Err(error) => return error,
        Ok(stream) => stream,
    };
    loop {
        match stream.next().await {
            Err(error) => return error,
            Ok(StreamEvent::Keepalive { .. }) => {}
            Ok(_) => panic!("the server streams"),
        }
    }
}

async fn acknowledge(stream: &mut WalStream, position: Lsn) {
    let status =
        StatusUpdate { written: position, flushed: position, applied: position, reply_requested: false };
    stream.send_status(status).await.unwrap();
}

#[test]
fn slots() {
    let world = World::new();
    let settings = vec!["max_replication_slots = 1".to_owned()];
    let server = world.postgres_with(&Options { settings, ..Options::default() });
    run(async {
        let mut connection = connect(&server).await;
        assert_eq!(connection.read_slot("a").await.unwrap(), SlotState::Missing);
        assert!(matches!(connection.drop_slot("a").await, Err(Error::SlotMissing { .. })));
        connection.create_physical_slot("a", true).await.unwrap();
        let SlotState::Physical { restart_lsn: Some(restart), restart_timeline } =
            connection.read_slot("a").await.unwrap()
        else {
            panic!("the slot reserves WAL");
        };
        assert_eq!(restart_timeline, Some(TimelineId::FIRST));
        assert!(matches!(connection.create_physical_slot("a", true).await, Err(Error::SlotExists { .. })));
        assert!(matches!(connection.create_physical_slot("b", true).await, Err(Error::NoFreeSlot { .. })));

        let start = SegmentSize::DEFAULT.floor(restart);
        let missing = stream(&server, Some("b"), TimelineId::FIRST, start).await;
        assert!(matches!(missing, Err(Error::SlotMissing { .. })));
        let used = stream(&server, Some("a"), TimelineId::FIRST, start).await.unwrap();
        let refused = stream(&server, Some("a"), TimelineId::FIRST, start).await.err().unwrap();
        assert!(matches!(refused, Error::SlotInUse { .. }) && refused.is_transient(), "{refused:?}");
        assert!(matches!(connection.drop_slot("a").await, Err(Error::SlotInUse { .. })));

        let mut again = used.finish().await.unwrap();
        again.drop_slot("a").await.unwrap();
        again.create_physical_slot("a", false).await.unwrap();
        let reserves_nothing = SlotState::Physical { restart_lsn: None, restart_timeline: None };
        assert_eq!(again.read_slot("a").await.unwrap(), reserves_nothing);
    });
}

#[test]
fn wal_arrives_as_it_is_in_the_file() {
    let world = World::new();
    let server = world.postgres();
    let size = SegmentSize::DEFAULT;
    run(async {
        let mut connection = connect(&server).await;
        connection.create_physical_slot("drydock", true).await.unwrap();
        let start = size.floor(connection.identify_system().await.unwrap().flushed);
        let mut wal = stream(&server, Some("drydock"), TimelineId::FIRST, start).await.unwrap();
        server.sql("create table t as select repeat('x', 500) from generate_series(1, 40000)");
        server.switch_segment();
        let end = size.floor(server.current_lsn());
        let bytes = receive(&mut wal, start, end).await;
        let name = SegmentName::containing(TimelineId::FIRST, start, size).file_name(size);
        let file = fs::read(server.data().join("pg_wal").join(name)).unwrap();
        assert!(bytes[..size.len()] == file[..], "the first segment differs");

        acknowledge(&mut wal, end).await;
        e2e::wait_until("the slot to move", Duration::from_secs(10), || {
            server.lsn("select restart_lsn from pg_replication_slots where slot_name = 'drydock'") == end
        });
        // A status that asks for an answer gets one.
        let ask = StatusUpdate { written: end, flushed: end, applied: end, reply_requested: true };
        wal.send_status(ask).await.unwrap();
        while !matches!(wal.next().await.unwrap(), StreamEvent::Keepalive { .. }) {}
        let mut connection = wal.finish().await.unwrap();
        connection.drop_slot("drydock").await.unwrap();
    });
}

#[test]
fn a_standby_is_promoted_while_it_streams() {
    let world = World::new();
    let server = world.postgres();
    let standby = server.standby("standby");
    run(async {
        let mut connection = connect(&standby).await;
        let system = connection.identify_system().await.unwrap();
        let start = SegmentSize::DEFAULT.floor(system.flushed);
        let mut wal = connection.start_replication(None, system.timeline, start).await.unwrap();
        server.sql("create table t as select generate_series(1, 1000)");
        let end = server.current_lsn();
        receive(&mut wal, start, end).await;
        standby.promote();
        let (next, mut connection) = loop {
            match wal.next().await.unwrap() {
                StreamEvent::EndOfTimeline { next, connection } => break (next.unwrap(), connection),
                StreamEvent::Keepalive { reply_requested: true, .. } => acknowledge(&mut wal, end).await,
                _ => {}
            }
        };
        let (timeline, switch) = next;
        assert_eq!(timeline.get(), 2);
        assert!(switch >= end);
        let history = connection.timeline_history(timeline).await.unwrap();
        assert_eq!(history.name, "00000002.history");
        let text = String::from_utf8(history.content.to_vec()).unwrap();
        assert!(text.starts_with(&format!("1\t{switch}\t")), "{text}");

        // The same connection goes on, at the beginning of the segment that holds the switch.
        let start = SegmentSize::DEFAULT.floor(switch);
        let mut wal = connection.start_replication(None, timeline, start).await.unwrap();
        standby.sql("create table u as select generate_series(1, 1000)");
        receive(&mut wal, start, standby.current_lsn()).await;

        // The old timeline can still be had: to its end, or from its very end.
        let mut old = stream(&standby, None, TimelineId::FIRST, start).await.unwrap();
        let event = loop {
            match old.next().await.unwrap() {
                StreamEvent::Wal { .. } | StreamEvent::Keepalive { .. } => {}
                end => break end,
            }
        };
        assert!(matches!(event, StreamEvent::EndOfTimeline { next: Some(same), .. } if same == next));
        let mut nothing = stream(&standby, None, TimelineId::FIRST, switch).await.unwrap();
        let event = nothing.next().await.unwrap();
        assert!(matches!(event, StreamEvent::EndOfTimeline { next: Some(same), .. } if same == next));

        // What this server never had: the old timeline beyond the switch, and a timeline of nobody's.
        let diverged = refusal(&standby, None, TimelineId::FIRST, switch.advance(1 << 24)).await;
        assert!(matches!(diverged, Error::NotInHistory { .. }), "{diverged:?}");
        let unknown = refusal(&standby, None, TimelineId::new(7).unwrap(), switch).await;
        assert!(matches!(unknown, Error::NotInHistory { .. }), "{unknown:?}");
        let ahead = refusal(&standby, None, timeline, standby.current_lsn().advance(1 << 30)).await;
        assert!(matches!(ahead, Error::AheadOfServer { .. }), "{ahead:?}");
    });
}

#[test]
fn removed_wal_and_a_slot_cut_off() {
    let world = World::new();
    let settings = ["max_slot_wal_keep_size = '1MB'", "wal_keep_size = 0", "min_wal_size = '32MB'"];
    let settings = settings.map(str::to_owned).to_vec();
    let server = world.postgres_with(&Options { settings, ..Options::default() });
    run(async {
        let mut connection = connect(&server).await;
        connection.create_physical_slot("slow", true).await.unwrap();
        let start = SegmentSize::DEFAULT.floor(connection.identify_system().await.unwrap().flushed);
        for _ in 0..4 {
            server.switch_segment();
        }
        server.sql("checkpoint");
        e2e::wait_until("the slot to be cut off", Duration::from_secs(30), || {
            server.sql("checkpoint");
            server.value("select wal_status from pg_replication_slots") == "lost"
        });
        let slot = connection.read_slot("slow").await.unwrap();
        assert!(matches!(slot, SlotState::Physical { restart_lsn: None, .. }), "{slot:?}");
        let gone = refusal(&server, Some("slow"), TimelineId::FIRST, start).await;
        assert!(matches!(gone, Error::WalRemoved { .. } | Error::SlotInvalidated { .. }), "{gone:?}");
        assert!(!gone.is_transient());
    });
}

#[test]
fn the_server_stops_while_it_streams() {
    for how in [Shutdown::Fast, Shutdown::Immediate] {
        let world = World::new();
        let mut server = world.postgres();
        run(async {
            let mut connection = connect(&server).await;
            let system = connection.identify_system().await.unwrap();
            let start = SegmentSize::DEFAULT.floor(system.flushed);
            let mut wal = connection.start_replication(None, system.timeline, start).await.unwrap();
            receive(&mut wal, start, system.flushed).await;
            let stopping = tokio::task::spawn_blocking(move || {
                server.stop(how);
                server
            });
            let mut position = start;
            let error = loop {
                match wal.next().await {
                    Ok(StreamEvent::Wal { start, data, .. }) => position = start.advance(data.len() as u64),
                    // A server that shuts down waits until all of its WAL is confirmed.
                    Ok(_) => acknowledge(&mut wal, position).await,
                    Err(error) => break error,
                }
            };
            // In a hurry, the server just hangs up.
            let told = matches!(error, Error::Shutdown { .. });
            let hung_up = how == Shutdown::Immediate && matches!(error, Error::Lost { .. });
            assert!((told || hung_up) && error.is_transient(), "{how:?}: {error:?}");
            stopping.await.unwrap();
        });
    }
}
