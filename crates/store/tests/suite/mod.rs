//! What every store must do. Each store's tests run it against that store, which has to be empty.

use std::sync::Arc;

use bytes::Bytes;
use store::{Directory, Entry, Error, Key, Store};

pub fn key(name: &str) -> Key {
    Key::new(name).unwrap()
}

pub fn body(len: usize) -> Bytes {
    (0..len).map(|i| u8::try_from(i * 7 % 251).unwrap()).collect::<Vec<u8>>().into()
}

/// All of it.
pub async fn contract(store: Arc<dyn Store>) {
    creates_once(&*store).await;
    reads_ranges(&*store).await;
    lists_one_level_in_order(&*store).await;
    lists_more_than_a_page(&*store).await;
    deletes(&*store).await;
    replaces_by_version(&*store).await;
    one_of_many_creators_wins(store.clone()).await;
    one_of_many_replacers_wins(store.clone()).await;
    many_can_write_and_read_at_once(store.clone()).await;
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
    for range in [0..1, 10..10, 5000..6000] {
        assert!(store.read(&key("ranges/none"), Some(range)).await.unwrap_err().is_not_found());
    }
    for no_object in ["ranges", "ranges/a/below", "ranges/none"] {
        assert!(store.read(&key(no_object), None).await.unwrap_err().is_not_found(), "{no_object}");
        assert!(store.read(&key(no_object), Some(0..1)).await.unwrap_err().is_not_found(), "{no_object}");
        assert!(store.size(&key(no_object)).await.unwrap_err().is_not_found(), "{no_object}");
    }
    assert_eq!(store.size(&k).await.unwrap(), 1000);
    store.create(&key("ranges/empty"), Bytes::new().into()).await.unwrap();
    for range in [0..0, 0..10, 5..10] {
        assert_eq!(store.read(&key("ranges/empty"), Some(range)).await.unwrap(), Bytes::new());
    }
}

async fn lists_one_level_in_order(store: &dyn Store) {
    for name in ["list/b", "list/a", "list/c/1", "list/c/2", "list/c/d/3", "list/a0", "list/B", "list/c0"] {
        store.create(&key(name), body(3).into()).await.unwrap();
    }
    let object = |name: &str| Entry::Object { name: name.into(), size: 3 };
    let directory = |name: &str| Entry::Directory { name: name.into() };
    let list = async |name: &str| store.list(&Directory::new(name).unwrap()).await;
    assert_eq!(
        list("list").await.unwrap(),
        [object("B"), object("a"), object("a0"), object("b"), directory("c"), object("c0")]
    );
    assert_eq!(list("list/c").await.unwrap(), [object("1"), object("2"), directory("d")]);
    assert_eq!(list("nothing/here").await.unwrap(), []);
    assert!(list("").await.unwrap().contains(&directory("list")));
    assert_eq!(list("lis").await.unwrap(), [], "a directory is not a prefix of a name");
}

async fn lists_more_than_a_page(store: &dyn Store) {
    // Every third name is a directory, so that pages hold both.
    let expect: Vec<Entry> = (0..2100)
        .map(|i| match i % 3 {
            0 => Entry::Directory { name: format!("{i:05}") },
            _ => Entry::Object { name: format!("{i:05}"), size: 1 },
        })
        .collect();
    for chunk in expect.chunks(50) {
        let create = chunk.iter().map(|entry| {
            let name = match entry {
                Entry::Object { name, .. } => format!("many/{name}"),
                Entry::Directory { name } => format!("many/{name}/x"),
            };
            async move { store.create(&key(&name), body(1).into()).await.unwrap() }
        });
        futures::future::join_all(create).await;
    }
    assert_eq!(store.list(&Directory::new("many").unwrap()).await.unwrap(), expect);
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

async fn one_of_many_replacers_wins(store: Arc<dyn Store>) {
    let first = store.replace(&key("race/b"), None, body(100)).await.unwrap();
    let tasks: Vec<_> = (1..=16)
        .map(|i| {
            let (store, first) = (store.clone(), first.clone());
            tokio::spawn(async move { store.replace(&key("race/b"), Some(&first), body(i)).await.map(|_| i) })
        })
        .collect();
    let mut winners = Vec::new();
    for task in tasks {
        match task.await.unwrap() {
            Ok(winner) => winners.push(winner),
            Err(error) => assert!(matches!(error, Error::Changed { .. }), "{error:?}"),
        }
    }
    assert_eq!(winners.len(), 1);
    assert_eq!(store.read(&key("race/b"), None).await.unwrap(), body(winners[0]));
}

async fn many_can_write_and_read_at_once(store: Arc<dyn Store>) {
    let tasks: Vec<_> = (0..64)
        .map(|i| {
            let store = store.clone();
            tokio::spawn(async move {
                let k = key(&format!("crowd/{i}"));
                store.create(&k, body(i * 1000).into()).await.unwrap();
                assert_eq!(store.read(&k, None).await.unwrap(), body(i * 1000));
                assert_eq!(store.read(&k, Some(0..10)).await.unwrap(), body((i * 1000).min(10)));
                if i % 2 == 0 {
                    store.delete(&k).await.unwrap();
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    assert_eq!(store.list(&Directory::new("crowd").unwrap()).await.unwrap().len(), 32);
}

async fn takes_odd_keys_and_sizes(store: &dyn Store) {
    let names = [
        "odd/with space",
        "odd/per%cent",
        "odd/plus+&=?#",
        "odd/ümlaut",
        "odd/日本",
        "odd/a:b",
        "odd/~",
        "odd/'\"",
        "odd/<a>&amp;",
        "odd/ends with space ",
        "odd/a=b;c,d!e*f(g)h$i@j[k]l{m}n|o^p`q",
    ];
    for name in names {
        store.create(&key(name), Bytes::from(name.to_owned()).into()).await.unwrap();
        assert_eq!(store.read(&key(name), None).await.unwrap(), name.as_bytes());
    }
    let listed = store.list(&Directory::new("odd").unwrap()).await.unwrap();
    let mut names: Vec<String> = names.iter().map(|name| name["odd/".len()..].to_owned()).collect();
    names.sort();
    assert_eq!(listed.iter().map(|entry| entry.name().to_owned()).collect::<Vec<_>>(), names);
    for len in [0, 1, 4095, 4096, 1 << 20, 64 << 20] {
        let k = key(&format!("sizes/{len}"));
        let mut parts = store::Body::default();
        parts.push(body(len / 2));
        parts.push(body(len - len / 2));
        store.create(&k, parts.clone()).await.unwrap();
        assert_eq!(store.read(&k, None).await.unwrap(), parts.concat(), "{len}");
    }
}
