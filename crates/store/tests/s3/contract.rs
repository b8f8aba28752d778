//! The contract, on servers that write conditionally and on those that do not.

use std::sync::Arc;

use store::{Directory, Entry, Key, Store};

use crate::client::open;
use crate::log;
use crate::server::{BUCKET, Server, Writes};
use crate::suite;

#[tokio::test]
async fn s3_keeps_the_contract() {
    let log = log::start();
    let server = Server::start(Writes::Conditional).await;
    suite::contract(Arc::new(server.store().await)).await;
    assert_eq!(log.warnings(), [""; 0]);
    assert_eq!(server.count("PutObject", "main/.probe"), 3, "found out once for each condition");
    assert!(server.count("HeadObject", "main/once/a") == 0, "the server looks, not we");
}

#[tokio::test]
async fn s3_keeps_the_contract_where_conditions_are_ignored() {
    looks_before_it_writes(Writes::Unconditional).await;
}

#[tokio::test]
async fn s3_keeps_the_contract_where_conditions_are_refused() {
    looks_before_it_writes(Writes::NotImplemented).await;
}

async fn looks_before_it_writes(writes: Writes) {
    let log = log::start();
    let server = Server::start(writes).await;
    suite::contract(Arc::new(server.store().await)).await;
    let warnings = log.warnings();
    assert_eq!(warnings.len(), 2, "said once for each condition: {warnings:?}");
    assert!(
        warnings[0]
            .contains("this server creates over what is there (If-None-Match), so we look before we write")
    );
    assert!(
        warnings[1].contains("this server replaces what has changed (If-Match), so we look before we write")
    );
    assert!(warnings[0].contains("see that only one service writes to this repository"));
}

#[tokio::test]
async fn the_probe_is_found_by_the_next_who_opens() {
    let server = Server::start(Writes::Conditional).await;
    let create = async |name: &str| {
        let store = server.store().await;
        store.create(&Key::new(name).unwrap(), suite::body(1).into()).await.unwrap();
    };
    create("a").await;
    assert_eq!(server.count("PutObject", "main/.probe"), 2);
    create("b").await;
    assert_eq!(server.count("PutObject", "main/.probe"), 3, "one request is enough when the object is there");
    let listed = server.store().await.list(&Directory::root()).await.unwrap();
    assert_eq!(listed.iter().map(Entry::name).collect::<Vec<_>>(), ["a", "b"], "the probe is not listed");
}

#[tokio::test]
async fn pages_of_any_size_make_the_same_listing() {
    let server = Server::start(Writes::Conditional).await;
    let store = server.store().await;
    for name in ["d/a", "d/b/1", "d/b/2", "d/b0", "d/c", "d/e/1", "d/f"] {
        store.create(&Key::new(name).unwrap(), suite::body(1).into()).await.unwrap();
    }
    let directory = Directory::new("d").unwrap();
    let whole = store.list(&directory).await.unwrap();
    assert_eq!(whole.iter().map(Entry::name).collect::<Vec<_>>(), ["a", "b", "b0", "c", "e", "f"]);
    for page in 1..=7 {
        server.behaviour().page = Some(page);
        assert_eq!(store.list(&directory).await.unwrap(), whole, "{page} to a page");
    }
}

#[tokio::test]
async fn what_others_left_in_the_bucket_is_passed_over() {
    let server = Server::start(Writes::Conditional).await;
    for name in
        ["other/x", "maintenance/x", "main/.hidden", "main/dir/.part", "main/dir/back\\slash", "README"]
    {
        server.plant(name, b"not ours");
    }
    let store = server.store().await;
    store.create(&Key::new("dir/a").unwrap(), suite::body(3).into()).await.unwrap();
    let list = async |name: &str| store.list(&Directory::new(name).unwrap()).await.unwrap();
    assert_eq!(list("").await, [Entry::Directory { name: "dir".to_owned() }]);
    assert_eq!(list("dir").await, [Entry::Object { name: "a".to_owned(), size: 3 }]);
    assert_eq!(list("other").await, []);
}

#[tokio::test]
async fn the_whole_bucket_can_be_the_repository() {
    let server = Server::start(Writes::Conditional).await;
    let options = store::Options { s3: server.options(), ..store::Options::default() };
    let store = store::open_with(&format!("s3://{BUCKET}"), &options).await.unwrap();
    assert_eq!(store.address(), format!("s3://{BUCKET}"));
    store.create(&Key::new("a/b").unwrap(), suite::body(3).into()).await.unwrap();
    assert_eq!(server.stored("a/b").unwrap(), suite::body(3));
    assert_eq!(store.list(&Directory::root()).await.unwrap(), [Entry::Directory { name: "a".to_owned() }]);
}

#[tokio::test]
async fn two_prefixes_know_nothing_of_each_other() {
    let server = Server::start(Writes::Conditional).await;
    let (one, key) = (server.store().await, Key::new("a").unwrap());
    let options = store::Options { s3: server.options(), ..store::Options::default() };
    let two = store::open_with(&format!("s3://{BUCKET}/main2/deep"), &options).await.unwrap();
    one.create(&key, suite::body(1).into()).await.unwrap();
    two.create(&key, suite::body(2).into()).await.unwrap();
    two.delete(&key).await.unwrap();
    assert_eq!(one.read(&key, None).await.unwrap(), suite::body(1));
    assert_eq!(two.list(&Directory::root()).await.unwrap(), []);
    assert_eq!(open(server.options()).await.address(), format!("s3://{BUCKET}/main"));
}
