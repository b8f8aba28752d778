//! What every store must do, run against those that need no server.

#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

mod suite;

use std::sync::Arc;

use store::Store;
use store::file::FileStore;
use store::memory::MemoryStore;
use store::mirror::MirrorStore;
use suite::{body, contract, key};

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

#[tokio::test]
async fn two_stores_kept_alike_keep_the_contract() {
    let root = tempfile::tempdir().unwrap();
    let file = Arc::new(FileStore::open(root.path()).await.unwrap());
    let memory = Arc::new(MemoryStore::default());
    let late = Arc::new(MemoryStore::default());
    contract(Arc::new(MirrorStore::new(file, vec![memory], vec![late]))).await;
}
