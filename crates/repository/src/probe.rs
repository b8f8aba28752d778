//! Looking before using: whether a name can be used, and whether the repository takes and gives what we write.

use bytes::Bytes;
use store::Body;

use crate::layout::Layout;
use crate::{Cluster, Error};

impl Cluster {
    /// Whether `name` can be the name of a cluster: [`Error::ClusterName`] when it can not.
    pub fn check_name(name: &str) -> Result<(), Error> {
        Layout::new(name).map(drop)
    }

    /// Writes an object, reads it back and removes it. It lies under `state/`, where nothing that counts lies.
    pub async fn probe(&self) -> Result<(), Error> {
        let unique = format!("{}/state/probe/{:032x}", self.name(), rand::random::<u128>());
        let key = store::Key::new(unique).map_err(|invalid| Error::ClusterName(invalid.0))?;
        let content = Bytes::from_static(
            b"written to see whether the repository can be written, and left by a crash\n",
        );
        self.store.create(&key, Body::from(content.clone())).await?;
        let read = self.store.read(&key, None).await;
        self.store.delete(&key).await?;
        if read? == content {
            Ok(())
        } else {
            Err(Error::damaged(&key, "it is not what was written a moment ago"))
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::Repository;

    #[tokio::test]
    async fn leaves_nothing() {
        let store = Arc::new(store::memory::MemoryStore::default());
        let repository = Repository::open_or_create(store.clone(), chrono::Utc::now()).await.unwrap();
        repository.cluster("a").unwrap().probe().await.unwrap();
        assert_eq!(repository.cluster_names().await.unwrap(), Vec::<String>::new());
        assert!(Cluster::check_name("../elsewhere").is_err());
    }
}
