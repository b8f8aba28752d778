//! Bandwidth, concurrency, time.

use std::num::NonZeroU64;
use std::time::{Duration, Instant};

use store::Store;
use store::s3::S3Options;

use crate::client::open;
use crate::proxy::{Fate, Proxy};
use crate::server::{Server, Writes};
use crate::suite::{body, key};

const MIB: usize = 1 << 20;

#[tokio::test]
async fn uploads_share_a_bandwidth_and_do_not_time_out() {
    let server = Server::start(Writes::Conditional).await;
    let store = open(S3Options {
        upload_rate: NonZeroU64::new(MIB as u64),
        // Less than the uploads take.
        request_timeout: Duration::from_secs(1),
        ..server.options()
    })
    .await;
    let begun = Instant::now();
    let (a, b, c) = (key("a"), key("b"), key("c"));
    let creates = [&a, &b, &c].map(|k| store.create(k, body(MIB).into()));
    for create in futures::future::join_all(creates).await {
        create.unwrap();
    }
    let took = begun.elapsed().as_secs_f64();
    assert!((2.8..4.5).contains(&took), "3 MiB at 1 MiB/s took {took} s");
    assert_eq!(server.stored("main/c").unwrap(), body(MIB));
}

#[tokio::test]
async fn downloads_have_a_bandwidth_of_their_own() {
    let server = Server::start(Writes::Conditional).await;
    let store = open(S3Options {
        download_rate: NonZeroU64::new(MIB as u64),
        request_timeout: Duration::from_secs(1),
        ..server.options()
    })
    .await;
    let begun = Instant::now();
    store.create(&key("a"), body(2 * MIB).into()).await.unwrap();
    assert!(begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());
    assert_eq!(store.read(&key("a"), None).await.unwrap(), body(2 * MIB));
    let took = begun.elapsed().as_secs_f64();
    assert!((1.8..3.5).contains(&took), "2 MiB at 1 MiB/s took {took} s");
}

#[tokio::test]
async fn no_more_requests_than_allowed_are_under_way() {
    let server = Server::start(Writes::Conditional).await;
    let proxy = Proxy::start(server.address).await;
    let options = S3Options { endpoint: Some(proxy.endpoint()), requests_max: 2, ..server.options() };
    let store = open(options).await;
    store.create(&key("a"), body(1).into()).await.unwrap();
    let time = Duration::from_millis(300);
    proxy.always("GET", Fate::Late(time));
    let begun = Instant::now();
    let a = key("a");
    for read in futures::future::join_all((0..6).map(|_| store.read(&a, None))).await {
        read.unwrap();
    }
    assert!(begun.elapsed() >= 3 * time, "six requests, two at once: {:?}", begun.elapsed());
}

#[tokio::test]
async fn a_server_that_does_not_answer_is_given_up() {
    let server = Server::start(Writes::Conditional).await;
    let proxy = Proxy::start(server.address).await;
    let store = open(S3Options {
        endpoint: Some(proxy.endpoint()),
        request_timeout: Duration::from_millis(300),
        retry_time: Duration::from_millis(400),
        ..server.options()
    })
    .await;
    proxy.always("GET", Fate::Silence);
    let begun = Instant::now();
    let error = store.read(&key("a"), None).await.unwrap_err();
    assert!(error.is_transient(), "{error:?}");
    assert!(
        crate::faults::said(&error).contains("did not answer within 0.3 s"),
        "{}",
        crate::faults::said(&error)
    );
    assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
}
