//! What is asked of the server, and with which attributes.

use s3s::dto::{ObjectLockMode, PutObjectInput, ServerSideEncryption, StorageClass};
use store::s3::{Encryption, Lock, LockMode, S3Options, Selector, Usage};
use store::{Directory, Key, Store};

use crate::client::open;
use crate::server::{Server, Writes};
use crate::suite::{body, key};

fn put_of(server: &Server, name: &str) -> PutObjectInput {
    let puts = &mut server.behaviour().puts;
    let index = puts.iter().position(|put| put.key == format!("main/{name}")).unwrap();
    puts.remove(index)
}

#[tokio::test]
async fn requests_and_bytes_are_counted() {
    let server = Server::start(Writes::Conditional).await;
    let store = server.store().await;
    assert_eq!(store.usage(), Usage::default());
    assert_eq!(server.behaviour().seen.len(), 0, "opening asks nothing");
    store.create(&key("d/a"), body(1000).into()).await.unwrap();
    let probe = 2 * 72;
    let after_create = Usage { puts: 3, bytes_up: 1000 + probe, ..Usage::default() };
    assert_eq!(store.usage(), after_create, "two requests find out about conditions");
    store.create(&key("d/b"), body(500).into()).await.unwrap();
    store.read(&key("d/a"), None).await.unwrap();
    store.read(&key("d/a"), Some(10..20)).await.unwrap();
    store.read(&key("d/a"), Some(10..10)).await.unwrap();
    store.delete(&key("d/a")).await.unwrap();
    server.behaviour().page = Some(1);
    store.create(&key("d/c"), body(1).into()).await.unwrap();
    store.list(&Directory::new("d").unwrap()).await.unwrap();
    let expect =
        Usage { puts: 5, gets: 2, heads: 1, lists: 2, deletes: 1, bytes_up: 1501 + probe, bytes_down: 1010 };
    assert_eq!(store.usage(), expect);
    assert_eq!(server.behaviour().seen.len() as u64, 5 + 2 + 1 + 2 + 1, "and the server saw as many");
}

#[tokio::test]
async fn objects_carry_what_was_asked_for() {
    let server = Server::start(Writes::Conditional).await;
    let options = S3Options {
        encryption: Encryption::Kms(Some("arn:aws:kms:key/1".to_owned())),
        storage_class: Some(("STANDARD_IA".to_owned(), Selector::below("packs"))),
        tags: vec![("team".to_owned(), "data & more".to_owned()), ("tier".to_owned(), "1".to_owned())],
        lock: Some(Lock {
            mode: LockMode::Compliance,
            days: 30,
            objects: Selector::new(|key, _| !key.contains("state")),
        }),
        ..server.options()
    };
    let store = open(options).await;
    for name in ["c/packs/1", "c/state/lease"] {
        store.create(&Key::new(name).unwrap(), body(9).into()).await.unwrap();
    }
    let pack = put_of(&server, "c/packs/1");
    assert_eq!(pack.server_side_encryption.unwrap().as_str(), ServerSideEncryption::AWS_KMS);
    assert_eq!(pack.ssekms_key_id.as_deref(), Some("arn:aws:kms:key/1"));
    assert_eq!(pack.storage_class.unwrap().as_str(), StorageClass::STANDARD_IA);
    assert_eq!(pack.tagging.as_deref(), Some("team=data+%26+more&tier=1"));
    assert_eq!(pack.object_lock_mode.unwrap().as_str(), ObjectLockMode::COMPLIANCE);
    let until: time::OffsetDateTime = pack.object_lock_retain_until_date.unwrap().into();
    let days = (until - time::OffsetDateTime::now_utc()).as_seconds_f64() / 86_400.0;
    assert!((29.99..=30.0).contains(&days), "{days}");
    let lease = put_of(&server, "c/state/lease");
    assert!(lease.storage_class.is_none() && lease.object_lock_mode.is_none());
    assert!(lease.tagging.is_some() && lease.server_side_encryption.is_some());
}

#[tokio::test]
async fn nothing_is_asked_for_by_default() {
    let server = Server::start(Writes::Conditional).await;
    server.store().await.create(&key("packs/1"), body(9).into()).await.unwrap();
    let put = put_of(&server, "packs/1");
    assert!(put.server_side_encryption.is_none() && put.storage_class.is_none() && put.tagging.is_none());
    assert!(put.object_lock_mode.is_none());
    assert_eq!(put.content_length, Some(9));
    assert!(put.checksum_crc32c.is_some(), "the server can compare what it gets");
}

#[tokio::test]
async fn server_side_encryption_with_its_own_keys() {
    let server = Server::start(Writes::Conditional).await;
    let store = open(S3Options { encryption: Encryption::Server, ..server.options() }).await;
    store.create(&key("a"), body(9).into()).await.unwrap();
    let put = put_of(&server, "a");
    assert_eq!(put.server_side_encryption.unwrap().as_str(), ServerSideEncryption::AES256);
    assert!(put.ssekms_key_id.is_none());
}

#[tokio::test]
async fn a_body_that_changes_in_storage_is_noticed() {
    let server = Server::start(Writes::Conditional).await;
    let store = open(S3Options { retry_time: std::time::Duration::ZERO, ..server.options() }).await;
    store.create(&key("a"), body(1000).into()).await.unwrap();
    let mut bytes = body(1000).to_vec();
    bytes[500] ^= 1;
    server.plant("main/a", &bytes);
    let error = store.read(&key("a"), None).await.unwrap_err();
    assert!(matches!(error, store::Error::Corrupt { .. }), "{error:?}");
    assert!(
        crate::faults::said(&error).starts_with("a has changed in the storage: "),
        "{}",
        crate::faults::said(&error)
    );
}
