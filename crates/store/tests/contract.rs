//! What every store must do, run against each of them.

#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::sync::Arc;

use bytes::Bytes;
use store::file::FileStore;
use store::memory::MemoryStore;
use store::{Directory, Entry, Error, Key, Store};

fn key(name: &str) -> Key {
    Key::new(name).unwrap()
}

fn body(len: usize) -> Bytes {
    (0..len).map(|i| u8::try_from(i * 7 % 251).unwrap()).collect::<Vec<u8>>().into()
}

async fn contract(store: Arc<dyn Store>) {
    creates_once(&*store).await;
    reads_ranges(&*store).await;
    lists_one_level_in_order(&*store).await;
    deletes(&*store).await;
    replaces_by_version(&*store).await;
    one_of_many_creators_wins(store.clone()).await;
    takes_odd_keys_and_sizes(&*store).await;
}

async fn creates_once(store: &dyn Store) {
    let k = key("once/a");
    store.create(&k, body(10).into()).await.unwrap();
    assert!(matches!(store.create(&k, body(10).into()).await, Err(Error::Exists { .. })));
    assert!(matches!(store.create(&k, body(11).into()).await, Err(Error::Exists { .. })));
    assert_eq!(store.read(&k, None).await.unwrap(), body(10), "the first one stays");
    assert!(matches!(store.read(&key("once/b"), None).await, Err(Error::NotFound { .. })));
}

async fn reads_ranges(store: &dyn Store) {
    let (k, all) = (key("ranges/a"), body(1000));
    store.create(&k, all.clone().into()).await.unwrap();
    for (start, end, expect) in [
        (0, 1000, 0..1000),
        (0, 1, 0..1),
        (999, 1000, 999..1000),
        (10, 10, 10..10),
        (990, 2000, 990..1000),
        (1000, 1001, 0..0),
        (5000, 6000, 0..0),
    ] {
        assert_eq!(store.read(&k, Some(start..end)).await.unwrap(), all.slice(expect), "{start}..{end}");
    }
    assert!(store.read(&key("ranges/none"), Some(0..1)).await.unwrap_err().is_not_found());
}

async fn lists_one_level_in_order(store: &dyn Store) {
    for name in ["list/b", "list/a", "list/c/1", "list/c/2", "list/c/d/3", "list/a0", "list/B"] {
        store.create(&key(name), body(3).into()).await.unwrap();
    }
    let object = |name: &str| Entry::Object { name: name.into(), size: 3 };
    let directory = |name: &str| Entry::Directory { name: name.into() };
    let list = async |name: &str| store.list(&Directory::new(name).unwrap()).await;
    assert_eq!(
        list("list").await.unwrap(),
        [object("B"), object("a"), object("a0"), object("b"), directory("c")]
    );
    assert_eq!(list("list/c").await.unwrap(), [object("1"), object("2"), directory("d")]);
    assert_eq!(list("nothing/here").await.unwrap(), []);
    assert!(list("").await.unwrap().contains(&directory("list")));

    for i in 0..1500 {
        store.create(&key(&format!("many/{i:05}")), body(1).into()).await.unwrap();
    }
    let names: Vec<String> =
        list("many").await.unwrap().iter().map(|entry| entry.name().to_owned()).collect();
    assert_eq!(names, (0..1500).map(|i| format!("{i:05}")).collect::<Vec<_>>());
}

async fn deletes(store: &dyn Store) {
    let k = key("delete/deep/er/a");
    store.create(&k, body(3).into()).await.unwrap();
    store.delete(&k).await.unwrap();
    store.delete(&k).await.unwrap();
    assert!(store.read(&k, None).await.unwrap_err().is_not_found());
    assert_eq!(store.list(&Directory::new("delete").unwrap()).await.unwrap(), []);
    store.create(&k, body(4).into()).await.unwrap();
    assert_eq!(store.read(&k, None).await.unwrap(), body(4), "a name can be used again");
}

async fn replaces_by_version(store: &dyn Store) {
    let k = key("state/lease");
    assert!(store.read_version(&k).await.unwrap().is_none());
    let first = store.replace(&k, None, body(1)).await.unwrap();
    assert!(matches!(store.replace(&k, None, body(2)).await, Err(Error::Changed { .. })));
    let (bytes, read) = store.read_version(&k).await.unwrap().unwrap();
    assert_eq!((bytes, &read), (body(1), &first));
    let second = store.replace(&k, Some(&first), body(2)).await.unwrap();
    assert!(matches!(store.replace(&k, Some(&first), body(3)).await, Err(Error::Changed { .. })));
    assert_eq!(store.read_version(&k).await.unwrap().unwrap(), (body(2), second));
}

async fn one_of_many_creators_wins(store: Arc<dyn Store>) {
    let tasks: Vec<_> = (1..=16)
        .map(|i| {
            let store = store.clone();
            tokio::spawn(async move { store.create(&key("race/a"), body(i).into()).await.map(|()| i) })
        })
        .collect();
    let mut winners = Vec::new();
    for task in tasks {
        match task.await.unwrap() {
            Ok(winner) => winners.push(winner),
            Err(error) => assert!(matches!(error, Error::Exists { .. }), "{error:?}"),
        }
    }
    assert_eq!(winners.len(), 1);
    assert_eq!(store.read(&key("race/a"), None).await.unwrap(), body(winners[0]));
}

async fn takes_odd_keys_and_sizes(store: &dyn Store) {
    for name in [
        "odd/with space",
        "odd/per%cent",
        "odd/plus+&=?#",
        "odd/ümlaut",
        "odd/日本",
        "odd/a:b",
        "odd/~",
        "odd/'\"",
    ] {
        store.create(&key(name), Bytes::from(name.to_owned()).into()).await.unwrap();
        assert_eq!(store.read(&key(name), None).await.unwrap(), name.as_bytes());
    }
    assert_eq!(store.list(&Directory::new("odd").unwrap()).await.unwrap().len(), 8);
    for len in [0, 1, 4095, 4096, 1 << 20, 64 << 20] {
        let k = key(&format!("sizes/{len}"));
        let mut parts = store::Body::default();
        parts.push(body(len / 2));
        parts.push(body(len - len / 2));
        store.create(&k, parts.clone()).await.unwrap();
        assert_eq!(store.read(&k, None).await.unwrap(), parts.concat(), "{len}");
    }
}

#[tokio::test]
async fn memory_keeps_the_contract() {
    contract(Arc::new(MemoryStore::default())).await;
}

#[tokio::test]
async fn file_keeps_the_contract() {
    let root = tempfile::tempdir().unwrap();
    contract(Arc::new(FileStore::open(root.path()).await.unwrap())).await;
}

#[tokio::test]
async fn file_objects_are_for_their_owner_only() {
    use std::os::unix::fs::PermissionsExt;
    let root = tempfile::tempdir().unwrap();
    let store = FileStore::open(root.path()).await.unwrap();
    store.create(&key("a/b"), body(1).into()).await.unwrap();
    store.replace(&key("a/c"), None, body(1)).await.unwrap();
    let mode = |name: &str| std::fs::metadata(root.path().join(name)).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode("a"), mode("a/b"), mode("a/c")), (0o700, 0o600, 0o600));
}
