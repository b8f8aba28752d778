//! What a person is told when the server refuses, and whether the same may succeed later.

use std::time::Duration;

use store::s3::{Lock, LockMode, S3Options, Selector};
use store::{Directory, Error, Key, Store};

use crate::client::open;
use crate::faults::said;
use crate::server::{BUCKET, Server, Writes, write_credentials};
use crate::suite::{body, key};

async fn create(store: &dyn Store) -> Error {
    store.create(&key("a"), body(1).into()).await.unwrap_err()
}

#[track_caller]
fn denied(error: &Error, sentence: &str) {
    assert!(matches!(error, Error::Denied { .. }) && !error.is_transient(), "{error:?}");
    assert_eq!(said(error), sentence);
}

#[track_caller]
fn refused(error: &Error, sentence: &str) {
    assert!(matches!(error, Error::Refused { .. }) && !error.is_transient(), "{error:?}");
    assert_eq!(said(error), sentence);
}

#[tokio::test]
async fn no_bucket() {
    let server = Server::start(Writes::Conditional).await;
    let options = store::Options { s3: server.options(), ..store::Options::default() };
    let store = store::open_with("s3://elsewhere/main", &options).await.unwrap();
    let why = format!(
        "there is no bucket \"elsewhere\" at {}; create it, or correct the address of the repository",
        server.endpoint()
    );
    refused(&create(&*store).await, &format!("cannot create a: {why}"));
    refused(
        &store.list(&Directory::root()).await.unwrap_err(),
        &format!("cannot list s3://elsewhere/main: {why}"),
    );
}

#[tokio::test]
async fn a_key_that_nobody_knows() {
    let server = Server::start(Writes::Conditional).await;
    write_credentials(&server.credentials(), "NOBODY", "SECRET");
    denied(
        &create(&server.store().await).await,
        &format!(
            "no permission to create a: {} does not know the access key (NotSignedUp); check the credentials, and that they are for this server",
            server.endpoint()
        ),
    );
}

#[tokio::test]
async fn a_wrong_secret() {
    let server = Server::start(Writes::Conditional).await;
    write_credentials(&server.credentials(), "KEY", "WRONG");
    denied(
        &create(&server.store().await).await,
        "no permission to create a: the secret key does not belong to the access key (SignatureDoesNotMatch); check the credentials",
    );
}

#[tokio::test]
async fn no_right_to_put_get_list_or_delete() {
    let server = Server::start(Writes::Conditional).await;
    let store = server.store().await;
    store.create(&key("there"), body(1).into()).await.unwrap();
    server.behaviour().forbidden = ["PutObject", "GetObject", "ListObjectsV2", "DeleteObject"].into();
    let lack = |right| {
        format!(
            "the credentials lack the right {right} on bucket \"{BUCKET}\" (the server answered 403: AccessDenied: Access Denied)"
        )
    };
    denied(&create(&store).await, &format!("no permission to create a: {}", lack("s3:PutObject")));
    denied(
        &store.read(&key("there"), None).await.unwrap_err(),
        &format!("no permission to read there: {}", lack("s3:GetObject")),
    );
    denied(
        &store.list(&Directory::new("dir").unwrap()).await.unwrap_err(),
        &format!("no permission to list dir: {}", lack("s3:ListBucket")),
    );
    denied(
        &store.delete(&key("there")).await.unwrap_err(),
        &format!("no permission to delete there: {}", lack("s3:DeleteObject")),
    );
    // No right to write at all is found out by the first request.
    let store = server.store().await;
    denied(&create(&store).await, &format!("no permission to create a: {}", lack("s3:PutObject")));
    server.behaviour().forbidden.clear();
    store.create(&key("a"), body(1).into()).await.unwrap();
}

#[tokio::test]
async fn another_region() {
    let server = Server::start(Writes::Conditional).await;
    server.behaviour().region = Some("eu-west-1");
    refused(
        &create(&server.store().await).await,
        &format!(
            "cannot create a: bucket \"{BUCKET}\" is in another region; set its region (the server answered 400: AuthorizationHeaderMalformed: The authorization header is malformed; the region 'us-east-1' is wrong; expecting 'eu-west-1')"
        ),
    );
    server.behaviour().redirects = true;
    refused(
        &create(&server.store().await).await,
        &format!("cannot create a: bucket \"{BUCKET}\" is in region eu-west-1; set that as the region"),
    );
    let options = S3Options { region: Some("eu-west-1".to_owned()), ..server.options() };
    open(options).await.create(&key("a"), body(1).into()).await.unwrap();
}

#[tokio::test]
async fn a_wrong_clock() {
    let server = Server::with_another_time().await;
    refused(
        &create(&server.store().await).await,
        &format!(
            "cannot create a: the clock of this machine and that of {} differ by more than the server accepts; set this machine's clock",
            server.endpoint()
        ),
    );
}

#[tokio::test]
async fn no_room() {
    let server = Server::start(Writes::Conditional).await;
    let store = server.store().await;
    server.behaviour().full = true;
    let error = create(&store).await;
    assert!(matches!(error, Error::Full { .. }) && error.is_transient(), "{error:?}");
    assert_eq!(said(&error), "no space left to create a: the server answered 403: QuotaExceeded");
    server.behaviour().full = false;
    store.create(&key("a"), body(1).into()).await.unwrap();
}

#[tokio::test]
async fn a_locked_object_says_until_when() {
    let server = Server::start(Writes::Conditional).await;
    let store = server.store().await;
    store.create(&key("a"), body(1).into()).await.unwrap();
    server.behaviour().locked_for = Some(Duration::from_secs(3600));
    let error = store.delete(&key("a")).await.unwrap_err();
    let Error::Locked { key: named, until } = &error else { panic!("{error:?}") };
    assert_eq!(said(&error), format!("a is locked until {until}"));
    assert_eq!(named, "a");
    assert!(until.starts_with("20") && until.contains('T') && until.ends_with('Z'), "{until}");
    assert!(!error.is_transient());
    server.behaviour().locked_for = None;
    store.delete(&key("a")).await.unwrap();
}

#[tokio::test]
async fn an_object_that_we_lock_is_not_hidden_before_its_time() {
    let server = Server::start(Writes::Conditional).await;
    let lock = Lock { mode: LockMode::Governance, days: 7, objects: Selector::below("packs") };
    let store = open(S3Options { lock: Some(lock), ..server.options() }).await;
    for name in ["packs/1", "pieces/1"] {
        store.create(&Key::new(name).unwrap(), body(1).into()).await.unwrap();
    }
    {
        let mut behaviour = server.behaviour();
        (behaviour.locked_for, behaviour.hides_locked) = (Some(Duration::from_secs(3600)), true);
    }
    let error = store.delete(&key("packs/1")).await.unwrap_err();
    assert!(matches!(error, Error::Locked { .. }), "{error:?}");
    assert_eq!(server.count("DeleteObject", "main/packs/1"), 0);
    store.delete(&key("pieces/1")).await.unwrap();
    assert!(server.stored("main/pieces/1").is_none());
}

#[tokio::test]
async fn an_address_that_is_none() {
    for address in ["s3://", "s3:bucket", "s3://bucket:1/x", "s3://bucket/x?region=y"] {
        let error = store::open(address).await.unwrap_err();
        assert_eq!(
            error.to_string(),
            format!(
                "repository address \"{address}\" is not understood; use an absolute directory such as file:///var/backups, s3://bucket/prefix, or a service such as https://backup:8443"
            )
        );
    }
}
