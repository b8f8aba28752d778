//! A network that fails. Of each call: it is never half done, success means that it was done, and our own bytes are never
//! somebody else's.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bytes::Bytes;
use store::s3::{S3Options, S3Store};
use store::{Body, Directory, Error, Key, Store};
use tokio::net::TcpSocket;

use crate::client::open;
use crate::proxy::{Fate, Proxy};
use crate::server::{Server, Writes};
use crate::suite::{body, key};

/// Longer than anything here takes, on a busy machine too, unless it is meant to stand still.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(2);
/// More than two pieces of 64 KiB, so that there are offsets inside a body.
const BODY_BYTES: usize = 200_000;

/// Every way of failing once. Offsets are in the head, at its end, at both ends and in the middle of the body, and in
/// the head and the body of the answer.
const FATES: &[Fate] = &[
    Fate::ResetAtOnce,
    Fate::ResetInHead(0),
    Fate::ResetInHead(1),
    Fate::ResetInHead(300),
    Fate::ResetInBody(0),
    Fate::ResetInBody(1),
    Fate::ResetInBody(65_536),
    Fate::ResetInBody(BODY_BYTES - 1),
    Fate::ResetInBody(BODY_BYTES),
    Fate::ResetBeforeAnswer,
    Fate::ResetInAnswer(1),
    Fate::ResetInAnswer(60),
    Fate::ResetInAnswer(150),
    Fate::Silence,
    Fate::Lost,
    Fate::Late(Duration::from_secs(3)),
    Fate::SlowDown,
    Fate::DoneAndCalledError,
];

struct World {
    server: Server,
    proxy: Proxy,
    store: S3Store,
}

fn impatient(server: &Server, endpoint: String) -> S3Options {
    S3Options {
        endpoint: Some(endpoint),
        connect_timeout: Duration::from_millis(500),
        request_timeout: REQUEST_TIMEOUT,
        ..server.options()
    }
}

impl World {
    async fn start(writes: Writes) -> World {
        let server = Server::start(writes).await;
        let proxy = Proxy::start(server.address).await;
        let store = open(impatient(&server, proxy.endpoint())).await;
        // What is found out once is found out.
        let first = store.replace(&key("first"), None, body(1)).await.unwrap();
        store.replace(&key("first"), Some(&first), body(2)).await.unwrap();
        World { server, proxy, store }
    }

    fn stored(&self, key: &Key) -> Option<Vec<u8>> {
        self.server.stored(&format!("main/{key}"))
    }
}

fn big() -> Body {
    let all = body(BODY_BYTES);
    let mut parts = Body::default();
    parts.push(all.slice(..70_000));
    parts.push(all.slice(70_000..));
    parts
}

/// Runs a test for every fate, each in a world of its own, all at once.
async fn for_every_fate(fates: &[Fate], writes: Writes, test: impl AsyncFn(World, Fate)) {
    let tests = fates.iter().map(async |fate| test(World::start(writes).await, *fate).await);
    futures::future::join_all(tests).await;
}

#[tokio::test]
async fn create_survives_one_fault() {
    create_survives_faults(1, Writes::Conditional).await;
}

#[tokio::test]
async fn create_survives_three_faults() {
    create_survives_faults(3, Writes::Conditional).await;
}

#[tokio::test]
async fn create_survives_faults_where_conditions_are_ignored() {
    create_survives_faults(1, Writes::Unconditional).await;
}

async fn create_survives_faults(times: usize, writes: Writes) {
    for_every_fate(FATES, writes, async |world, fate| {
        let k = key("create/a");
        world.proxy.next("PUT", &vec![fate; times]);
        world.store.create(&k, big()).await.unwrap_or_else(|error| panic!("{fate:?}: {error:?}"));
        assert!(world.proxy.met() >= 1, "{fate:?} did not happen");
        assert_eq!(world.stored(&k).unwrap(), body(BODY_BYTES), "{fate:?}");
        // Whoever comes second is told so, even now.
        let again = world.store.create(&k, big()).await.unwrap_err();
        assert!(matches!(again, Error::Exists { .. }), "{fate:?}: {again:?}");
    })
    .await;
}

#[tokio::test]
async fn create_under_a_lasting_fault_is_done_or_may_be_tried_again() {
    for_every_fate(FATES, Writes::Conditional, async |world, fate| {
        let k = key("create/a");
        world.proxy.always("PUT", fate);
        let result = world.store.create(&k, big()).await;
        assert!(world.proxy.met() >= 1, "{fate:?} did not happen");
        let there = world.stored(&k);
        match &result {
            Ok(()) => assert_eq!(there.as_deref(), Some(&body(BODY_BYTES)[..]), "{fate:?}"),
            Err(error) => assert!(error.is_transient(), "{fate:?}: {error:?}"),
        }
        assert!(there.is_none_or(|there| there == body(BODY_BYTES)), "{fate:?} left half of it");
        let done = matches!(
            fate,
            Fate::ResetBeforeAnswer | Fate::ResetInAnswer(_) | Fate::Silence | Fate::DoneAndCalledError
        );
        assert!(result.is_ok() || !done, "{fate:?}: what was done is found: {result:?}");
        world.proxy.next("PUT", &[]);
        match world.store.create(&k, big()).await {
            Ok(()) => assert!(result.is_err(), "{fate:?}"),
            // One of the earlier requests arrived after all, and the caller compares, as it always does.
            Err(Error::Exists { .. }) => {}
            Err(error) => panic!("{fate:?}: {error:?}"),
        }
        assert_eq!(world.stored(&k).unwrap(), body(BODY_BYTES), "{fate:?}");
    })
    .await;
}

#[tokio::test]
async fn create_under_a_fault_never_takes_anothers_object_for_ours() {
    for writes in [Writes::Conditional, Writes::Unconditional] {
        for_every_fate(FATES, writes, async |world, fate| {
            let k = key("create/a");
            let theirs = Bytes::from(vec![9; BODY_BYTES]);
            world.store.create(&k, theirs.clone().into()).await.unwrap();
            world.proxy.next("PUT", &[fate]);
            let error = world.store.create(&k, big()).await.unwrap_err();
            assert!(matches!(error, Error::Exists { .. }), "{fate:?}: {error:?}");
            assert_eq!(world.stored(&k).unwrap(), theirs, "{fate:?}");
        })
        .await;
    }
}

#[tokio::test]
async fn replace_survives_one_fault() {
    for writes in [Writes::Conditional, Writes::Unconditional] {
        for_every_fate(FATES, writes, async |world, fate| {
            let k = key("state/a");
            let first = world.store.replace(&k, None, body(10)).await.unwrap();
            world.proxy.next("PUT", &[fate]);
            let ours = world.store.replace(&k, Some(&first), body(BODY_BYTES)).await;
            let ours = ours.unwrap_or_else(|error| panic!("{fate:?}: {error:?}"));
            let there = world.store.read_version(&k).await.unwrap().unwrap();
            assert_eq!(there, (body(BODY_BYTES), ours), "{fate:?}");
            world.proxy.next("PUT", &[fate]);
            let late = world.store.replace(&k, Some(&first), body(20)).await.unwrap_err();
            assert!(matches!(late, Error::Changed { .. }), "{fate:?}: {late:?}");
        })
        .await;
    }
}

#[tokio::test]
async fn what_was_to_be_replaced_and_is_gone_has_changed() {
    for writes in [Writes::Conditional, Writes::Unconditional] {
        let world = World::start(writes).await;
        let k = key("state/gone");
        let version = world.store.replace(&k, None, body(1)).await.unwrap();
        world.store.delete(&k).await.unwrap();
        let error = world.store.replace(&k, Some(&version), body(2)).await.unwrap_err();
        assert!(matches!(error, Error::Changed { .. }), "{error:?}");
    }
}

#[tokio::test]
async fn reading_listing_and_deleting_survive_faults() {
    let fates = [
        Fate::ResetAtOnce,
        Fate::ResetInHead(100),
        Fate::ResetBeforeAnswer,
        Fate::ResetInAnswer(50),
        Fate::ResetInAnswer(1_000),
        Fate::ResetInAnswer(BODY_BYTES),
        Fate::Silence,
        Fate::Lost,
        Fate::SlowDown,
        Fate::DoneAndCalledError,
    ];
    for_every_fate(&fates, Writes::Conditional, async |World { server, proxy, store }, fate| {
        store.create(&key("a/b"), big()).await.unwrap();
        store.create(&key("deleted"), body(1).into()).await.unwrap();
        proxy.next("GET", &[fate]);
        assert_eq!(store.read(&key("a/b"), None).await.unwrap(), body(BODY_BYTES), "{fate:?}");
        proxy.next("GET", &[fate]);
        let part = store.read(&key("a/b"), Some(1_000..150_000)).await.unwrap();
        assert_eq!(part, body(BODY_BYTES).slice(1_000..150_000), "{fate:?}");
        proxy.next("GET", &[fate]);
        assert_eq!(store.list(&Directory::root()).await.unwrap().len(), 3, "{fate:?}");
        proxy.next("GET", &[fate]);
        assert!(store.read(&key("none"), None).await.unwrap_err().is_not_found(), "{fate:?}");
        proxy.next("DELETE", &[fate]);
        store.delete(&key("deleted")).await.unwrap();
        assert_eq!(proxy.met(), 1, "{fate:?} did not happen");
        assert_eq!(server.stored("main/deleted"), None, "{fate:?}");
    })
    .await;
}

#[tokio::test]
async fn a_storm_of_slow_down_is_waited_out_within_bounds() {
    let world = World::start(Writes::Conditional).await;
    world.proxy.next("PUT", &[Fate::SlowDown; 5]);
    world.store.create(&key("a"), body(10).into()).await.unwrap();
    assert_eq!(world.proxy.met(), 5);

    world.proxy.always("PUT", Fate::SlowDown);
    let error = world.store.create(&key("b"), body(10).into()).await.unwrap_err();
    assert_eq!(world.proxy.met(), 6, "six attempts and no more");
    assert!(error.is_transient());
    assert_eq!(said(&error), "cannot create b: the server answered 503: SlowDown: Reduce your request rate.");
}

/// An address where nobody listens, and that nobody else is given while the socket lives.
fn nobody() -> (TcpSocket, SocketAddr) {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
    let address = socket.local_addr().unwrap();
    (socket, address)
}

#[tokio::test]
async fn a_server_that_is_away_for_a_while_is_waited_for() {
    let server = Server::start(Writes::Conditional).await;
    let (socket, address) = nobody();
    let store = open(impatient(&server, format!("http://{address}"))).await;
    let upstream = server.address;
    let back = tokio::spawn(async move {
        tokio::time::sleep(Duration::from_millis(700)).await;
        Proxy::start_on(socket.listen(64).unwrap(), upstream)
    });
    let begun = Instant::now();
    store.create(&key("b"), body(10).into()).await.unwrap();
    assert!(begun.elapsed() >= Duration::from_millis(600), "it was away: {:?}", begun.elapsed());
    assert_eq!(back.await.unwrap().address, address);
    assert_eq!(server.stored("main/b").unwrap(), body(10));
}

#[tokio::test]
async fn a_server_that_is_gone_is_said_to_be() {
    let server = Server::start(Writes::Conditional).await;
    let (_socket, address) = nobody();
    let endpoint = format!("http://{address}");
    let options = S3Options { retry_time: Duration::from_secs(1), ..impatient(&server, endpoint.clone()) };
    let store = open(options).await;
    let begun = Instant::now();
    for error in [
        store.create(&key("b"), body(10).into()).await.unwrap_err(),
        store.read(&key("b"), None).await.unwrap_err(),
        store.list(&Directory::root()).await.unwrap_err(),
        store.delete(&key("b")).await.unwrap_err(),
    ] {
        assert!(error.is_transient());
        assert!(said(&error).contains(&format!("{endpoint} cannot be reached: ")), "{}", said(&error));
        assert!(said(&error).contains("Connection refused"), "{}", said(&error));
    }
    assert!(begun.elapsed() < Duration::from_secs(8), "each gave up after its second: {:?}", begun.elapsed());
}

#[tokio::test]
async fn a_call_that_is_cancelled_leaves_nothing_or_the_whole() {
    let world = World::start(Writes::Conditional).await;
    for delay in [1, 5, 10, 20, 40] {
        let k = key(&format!("cancelled/{delay}"));
        let create = world.store.create(&k, big());
        let ended = tokio::time::timeout(Duration::from_millis(delay), create).await.is_ok();
        tokio::time::sleep(Duration::from_millis(200)).await;
        let there = world.stored(&k);
        assert!(there.is_some() || !ended);
        assert!(there.is_none_or(|there| there == body(BODY_BYTES)));
    }
}

/// An error and its cause, as a person reads it.
pub fn said(error: &Error) -> String {
    let cause = std::error::Error::source(error).map(|cause| format!(": {cause}")).unwrap_or_default();
    format!("{error}{cause}")
}
