//! Credentials that expire under way.

use store::s3::{S3Options, Usage};
use store::{Error, Store};

use crate::client::open;
use crate::faults::said;
use crate::log;
use crate::server::{Server, Writes, write_credentials};
use crate::suite::{body, key};

#[tokio::test]
async fn expired_credentials_are_fetched_anew() {
    let server = Server::start(Writes::Conditional).await;
    let store = server.store().await;
    store.create(&key("a"), body(1).into()).await.unwrap();
    let log = log::start();
    server.behaviour().expired = Some("KEY");
    write_credentials(&server.credentials(), "OTHER", "SECRET");
    store.create(&key("b"), body(1).into()).await.unwrap();
    assert_eq!(store.read(&key("b"), None).await.unwrap(), body(1));
    assert_eq!(log.text().matches("have expired and are fetched anew").count(), 1, "{}", log.text());
    assert!(!log.text().contains("SECRET") && !format!("{store:?}").contains("SECRET"));
}

#[tokio::test]
async fn many_requests_at_once_fetch_them_once() {
    let server = Server::start(Writes::Conditional).await;
    let store = server.store().await;
    store.create(&key("a"), body(1).into()).await.unwrap();
    let log = log::start();
    server.behaviour().expired = Some("KEY");
    write_credentials(&server.credentials(), "OTHER", "SECRET");
    let a = key("a");
    let reads = (0..16).map(|_| store.read(&a, None));
    for read in futures::future::join_all(reads).await {
        assert_eq!(read.unwrap(), body(1));
    }
    assert_eq!(log.text().matches("have expired and are fetched anew").count(), 1, "{}", log.text());
}

#[tokio::test]
async fn credentials_that_stay_expired_are_said_to_be() {
    let server = Server::start(Writes::Conditional).await;
    let store = server.store().await;
    server.behaviour().expired = Some("KEY");
    for _ in 0..2 {
        let error = store.create(&key("a"), body(1).into()).await.unwrap_err();
        assert!(matches!(error, Error::Denied { .. }), "{error:?}");
        assert_eq!(
            said(&error),
            "no permission to create a: the credentials have expired (ExpiredToken); provide new ones"
        );
    }
    // Somebody does, and nothing has to be started again.
    write_credentials(&server.credentials(), "OTHER", "SECRET");
    store.create(&key("a"), body(1).into()).await.unwrap();
}

#[tokio::test]
async fn a_file_without_credentials_is_said_to_be() {
    let server = Server::start(Writes::Conditional).await;
    std::fs::write(server.credentials(), "[default]\n").unwrap();
    let error = server.store().await.create(&key("a"), body(1).into()).await.unwrap_err();
    assert!(matches!(error, Error::Denied { .. }), "{error:?}");
    assert!(said(&error).contains("no permission to create a: "), "{}", said(&error));
    assert!(said(&error).contains("credentials"), "{}", said(&error));
}

#[tokio::test]
async fn without_a_file_the_whole_chain_is_there_and_nothing_is_asked_yet() {
    let server = Server::start(Writes::Conditional).await;
    let store = open(S3Options { credentials_file: None, ..server.options() }).await;
    assert_eq!(store.usage(), Usage::default());
    assert_eq!(server.behaviour().seen.len(), 0);
}
