//! Copies between repositories: the same objects, byte for byte, under the same names.
//!
//! WAL goes before the backups that need it, and a backup's record goes last of all its objects, so that what the other
//! repository lists can be restored from it at any moment. Nothing is ever removed or replaced there.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures::{StreamExt, TryStreamExt};
use serde::Deserialize;
use store::{Body, Directory, Entry, Key, Store};

use crate::cluster::Identity;
use crate::layout::{self, Layout};
use crate::{BackupId, Cluster, Error, document};

/// Objects that are copied at once. Each is in memory as a whole, and a pack has 32 MiB.
const IN_FLIGHT_MAX: usize = 2;
/// Levels of names below a cluster; more means that somebody else keeps files there.
const DEPTH_MAX: usize = 8;

/// One object to be copied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Missing {
    /// Its name.
    pub key: Key,
    /// Bytes.
    pub size: u64,
}

/// A backup to be copied: its objects, then its record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MissingBackup {
    /// Which.
    pub id: BackupId,
    /// What is missing of it, without the record.
    pub objects: Vec<Missing>,
    record: Option<Missing>,
}

/// What one repository lacks of another.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct CopyPlan {
    /// `repository.json` and `cluster.json`.
    heads: Vec<Missing>,
    /// WAL, oldest first.
    pub wal: Vec<Missing>,
    /// Backups, oldest first.
    pub backups: Vec<MissingBackup>,
    /// Objects that are in both and have other sizes: they are left as they are, and one of them is damaged or foreign.
    pub differing: Vec<Key>,
}

impl CopyPlan {
    /// How many objects, and how many bytes.
    pub fn totals(&self) -> (u64, u64) {
        totals(self.objects())
    }

    /// Whether nothing is lacking.
    pub fn is_empty(&self) -> bool {
        self.objects().next().is_none()
    }

    /// Takes the backups out into a plan of their own: WAL comes first wherever somebody waits for it.
    pub fn split_backups(&mut self) -> CopyPlan {
        CopyPlan { backups: std::mem::take(&mut self.backups), ..CopyPlan::default() }
    }

    fn objects(&self) -> impl Iterator<Item = &Missing> {
        let backups = self.backups.iter().flat_map(|backup| backup.objects.iter().chain(&backup.record));
        self.heads.iter().chain(&self.wal).chain(backups)
    }
}

impl MissingBackup {
    /// How many objects, and how many bytes.
    pub fn totals(&self) -> (u64, u64) {
        totals(self.objects.iter().chain(&self.record))
    }

    /// Whether the backup itself is lacking, and not only objects of one that runs or died.
    pub fn is_listed(&self) -> bool {
        self.record.is_some()
    }
}

fn totals<'a>(objects: impl Iterator<Item = &'a Missing>) -> (u64, u64) {
    objects.fold((0, 0), |(count, bytes), object| (count + 1, bytes + object.size))
}

/// What a copy did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Copied {
    /// Objects.
    pub objects: u64,
    /// Bytes.
    pub bytes: u64,
    /// Objects that were gone when they were to be read: pieces that became a segment, backups that expired.
    pub gone: u64,
}

#[derive(Deserialize)]
struct RootHead {
    id: String,
    #[serde(default)]
    recipients: Vec<String>,
}

/// Makes the documents at the head of several repositories one, byte for byte: who lacks them gets those of the first that
/// has them, and where only their content has changed (recipients were added), the first one's count.
/// [`Error::OtherRepository`] and [`Error::OtherCluster`] when they cannot hold the same objects.
pub async fn settle_heads(stores: &[Arc<dyn Store>], cluster: &str) -> Result<(), Error> {
    settle(stores, &layout::repository()?, |from, to, here, there| {
        let key = layout::repository()?;
        let (here, there): (RootHead, RootHead) =
            (document::open("repository", &key, here)?, document::open("repository", &key, there)?);
        same_root(from, to, &here, &there)?;
        Ok(here.id == there.id)
    })
    .await?;
    let key = Layout::new(cluster)?.identity()?;
    settle(stores, &key, |_, _, here, there| {
        let (here, there): (Identity, Identity) =
            (document::open("cluster", &key, here)?, document::open("cluster", &key, there)?);
        there.compare(cluster, &here)?;
        Ok(false)
    })
    .await
}

/// `replaces` says of two documents that differ whether the first is to take the place of the other.
async fn settle(
    stores: &[Arc<dyn Store>],
    key: &Key,
    replaces: impl Fn(&Arc<dyn Store>, &Arc<dyn Store>, &[u8], &[u8]) -> Result<bool, Error>,
) -> Result<(), Error> {
    let mut found = Vec::new();
    for store in stores {
        found.push(store.read_version(key).await?);
    }
    let Some((from, head)) =
        stores.iter().zip(&found).find_map(|(store, found)| Some((store, found.as_ref()?.0.clone())))
    else {
        return Ok(());
    };
    for (to, found) in stores.iter().zip(&found) {
        let done = match found {
            None => to.create(key, Body::from(head.clone())).await,
            Some((there, _)) if *there == head => Ok(()),
            Some((there, version)) if replaces(from, to, &head, there)? => {
                to.replace(key, Some(version), head.clone()).await.map(drop)
            }
            Some(_) => Ok(()),
        };
        match done {
            // Somebody else settles it at this moment; the next to open them looks again.
            Ok(()) | Err(store::Error::Exists { .. } | store::Error::Changed { .. }) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// What is encrypted is bound to the repository it was written for.
fn same_root(
    from: &Arc<dyn Store>,
    to: &Arc<dyn Store>,
    here: &RootHead,
    there: &RootHead,
) -> Result<(), Error> {
    let plain = here.recipients.is_empty() && there.recipients.is_empty();
    if here.id == there.id || plain {
        return Ok(());
    }
    Err(Error::OtherRepository { from: from.address(), to: to.address() })
}

impl Cluster {
    /// What `to` lacks of this cluster. [`Error::OtherRepository`] when the two can not hold the same objects.
    pub async fn plan_copy(&self, to: &Arc<dyn Store>) -> Result<CopyPlan, Error> {
        self.compare_heads(to).await?;
        let name = self.name();
        let root = Directory::new(name).map_err(|invalid| Error::ClusterName(invalid.0))?;
        let (here, there) = (tree(&self.store, &root).await?, tree(to, &root).await?);
        let mut plan = CopyPlan::default();
        for key in [layout::repository()?, self.layout.identity()?] {
            if let (Some(_), Some(bytes)) = (absent(to, &key).await?, read(&self.store, &key).await?) {
                plan.heads.push(Missing { key, size: bytes.len() as u64 });
            }
        }
        for (key, size) in here {
            match there.get(&key) {
                Some(found) if *found == size => {}
                Some(_) => plan.differing.push(key),
                None => plan.add(&self.layout, Missing { key, size })?,
            }
        }
        plan.backups.sort_by(|a, b| a.id.cmp(&b.id));
        Ok(plan)
    }

    /// Documents at the head say what all others are, so they must agree before anything is copied.
    async fn compare_heads(&self, to: &Arc<dyn Store>) -> Result<(), Error> {
        let key = layout::repository()?;
        if let (Some(here), Some(there)) = (read(&self.store, &key).await?, read(to, &key).await?) {
            let here: RootHead = document::open("repository", &key, &here)?;
            let there: RootHead = document::open("repository", &key, &there)?;
            same_root(&self.store, to, &here, &there)?;
        }
        let other = Cluster::new(to.clone(), Layout::new(self.name())?, self.access.clone());
        match (self.identity().await?, other.identity().await?) {
            (Some(here), Some(there)) => there.compare(self.name(), &here),
            _ => Ok(()),
        }
    }

    /// Copies what the plan names. `progress` is told the size of each object that is durable there.
    pub async fn copy(
        &self,
        to: &Arc<dyn Store>,
        plan: &CopyPlan,
        progress: impl Fn(u64),
    ) -> Result<Copied, Error> {
        let mut copied = Copied::default();
        self.copy_all(to, &plan.heads, &progress, &mut copied).await?;
        self.copy_all(to, &plan.wal, &progress, &mut copied).await?;
        for backup in &plan.backups {
            let gone = copied.gone;
            self.copy_all(to, &backup.objects, &progress, &mut copied).await?;
            // A backup that lost something meanwhile has expired; its record must not arrive without it.
            if copied.gone == gone {
                if backup.record.is_some() {
                    self.see_objects(to, &backup.id).await?;
                }
                self.copy_all(to, backup.record.as_slice(), &progress, &mut copied).await?;
            }
        }
        Ok(copied)
    }

    /// Sees that the objects of a backup are there before its record is: a service that writes there may have taken them for
    /// what a dead backup left.
    async fn see_objects(&self, to: &Arc<dyn Store>, id: &BackupId) -> Result<(), Error> {
        let (directory, record) = (self.layout.backup(id)?, self.layout.record(id)?);
        let here = tree_below(&self.store, vec![directory.clone()]).await?;
        let there = tree_below(to, vec![directory]).await?;
        match here.keys().find(|key| **key != record && !there.contains_key(*key)) {
            None => Ok(()),
            Some(key) => Err(store::Error::Unavailable {
                action: "copy",
                key: key.to_string(),
                source: std::io::Error::other(format!(
                    "it was removed from {} while the backup was being copied; copy again",
                    to.address()
                )),
            }
            .into()),
        }
    }

    async fn copy_all(
        &self,
        to: &Arc<dyn Store>,
        objects: &[Missing],
        progress: &impl Fn(u64),
        copied: &mut Copied,
    ) -> Result<(), Error> {
        // Owned, as a future that borrows from its stream's items cannot be sent to another thread.
        let work = futures::stream::iter(objects.iter().cloned()).map(|object| {
            let (from, to) = (self.store.clone(), to.clone());
            async move { copy_one(&from, &to, &object).await }
        });
        let mut done = work.buffered(IN_FLIGHT_MAX);
        while let Some(size) = done.try_next().await? {
            match size {
                Some(size) => {
                    copied.objects += 1;
                    copied.bytes += size;
                    progress(size);
                }
                None => copied.gone += 1,
            }
        }
        Ok(())
    }
}

impl CopyPlan {
    fn add(&mut self, layout: &Layout, missing: Missing) -> Result<(), Error> {
        let below = |directory: &Directory| {
            let prefix = format!("{}/", directory.as_str());
            missing.key.as_str().strip_prefix(&prefix).map(str::to_owned)
        };
        if below(&layout.wal()?).is_some() {
            self.wal.push(missing);
        } else if let Some(rest) = below(&layout.backups()?) {
            let Some((id, name)) = rest.split_once('/') else { return Ok(()) };
            let Ok(id) = id.parse::<BackupId>() else { return Ok(()) };
            let is_record = name == "record.json";
            let backup = match self.backups.iter_mut().find(|backup| backup.id == id) {
                Some(backup) => backup,
                None => {
                    self.backups.push(MissingBackup { id, objects: Vec::new(), record: None });
                    let last = self.backups.len() - 1;
                    &mut self.backups[last]
                }
            };
            if is_record { backup.record = Some(missing) } else { backup.objects.push(missing) }
        }
        Ok(())
    }
}

/// Its size, or `None` when it was gone.
async fn copy_one(
    from: &Arc<dyn Store>,
    to: &Arc<dyn Store>,
    object: &Missing,
) -> Result<Option<u64>, Error> {
    let Some(bytes) = read(from, &object.key).await? else { return Ok(None) };
    let size = bytes.len() as u64;
    match to.create(&object.key, Body::from(bytes.clone())).await {
        // The service wrote it there meanwhile, or an earlier copy did and died before it could say so.
        Err(store::Error::Exists { .. }) if to.read(&object.key, None).await? == bytes => Ok(Some(size)),
        Err(store::Error::Exists { .. }) => Err(Error::Differs { key: object.key.to_string() }),
        result => Ok(result.map(|()| Some(size))?),
    }
}

async fn read(store: &Arc<dyn Store>, key: &Key) -> Result<Option<bytes::Bytes>, Error> {
    match store.read(key, None).await {
        Err(store::Error::NotFound { .. }) => Ok(None),
        bytes => Ok(Some(bytes?)),
    }
}

/// `Some` when it is not there.
async fn absent(store: &Arc<dyn Store>, key: &Key) -> Result<Option<()>, Error> {
    Ok(if read(store, key).await?.is_none() { Some(()) } else { None })
}

/// Every object below a cluster but its state and its head, by name.
async fn tree(store: &Arc<dyn Store>, root: &Directory) -> Result<BTreeMap<Key, u64>, Error> {
    let invalid = |invalid: store::InvalidKey| Error::ClusterName(invalid.0);
    let level = vec![root.directory("wal").map_err(invalid)?, root.directory("backups").map_err(invalid)?];
    tree_below(store, level).await
}

async fn tree_below(store: &Arc<dyn Store>, mut level: Vec<Directory>) -> Result<BTreeMap<Key, u64>, Error> {
    let invalid = |invalid: store::InvalidKey| Error::ClusterName(invalid.0);
    let mut objects = BTreeMap::new();
    for _ in 0..DEPTH_MAX {
        let mut deeper = Vec::new();
        for directory in level {
            for entry in store.list(&directory).await? {
                match entry {
                    Entry::Object { name, size } => {
                        objects.insert(directory.key(&name).map_err(invalid)?, size);
                    }
                    Entry::Directory { name } => deeper.push(directory.directory(&name).map_err(invalid)?),
                }
            }
        }
        level = deeper;
    }
    Ok(objects)
}

#[cfg(test)]
mod tests {
    use chrono::Utc;
    use store::memory::MemoryStore;

    use super::*;
    use crate::Repository;

    async fn source(names: &[&str]) -> (Arc<dyn Store>, Cluster) {
        let store: Arc<dyn Store> = Arc::new(MemoryStore::default());
        let cluster =
            Repository::open_or_create(store.clone(), Utc::now()).await.unwrap().cluster("c").unwrap();
        for name in names {
            put(&store, name, name).await;
        }
        (store, cluster)
    }

    async fn put(store: &Arc<dyn Store>, name: &str, content: &str) {
        let key = Key::new(format!("c/{name}")).unwrap();
        store.create(&key, bytes::Bytes::from(content.to_owned()).into()).await.unwrap();
    }

    const B: &str = "backups/20260102T030405Z";

    #[tokio::test]
    async fn the_record_comes_last_and_state_stays() {
        let names = [&format!("{B}/record.json"), &format!("{B}/packs/0"), "wal/00000001/x", "state/verify"];
        let (_, cluster) = source(&names.map(|name: &str| name)).await;
        let to: Arc<dyn Store> = Arc::new(MemoryStore::default());
        let plan = cluster.plan_copy(&to).await.unwrap();
        let order: Vec<&str> = plan.objects().map(|missing| missing.key.as_str()).collect();
        assert_eq!(
            order,
            ["repository.json", "c/wal/00000001/x", &format!("c/{B}/packs/0"), &format!("c/{B}/record.json")]
        );
        let copied = cluster.copy(&to, &plan, drop).await.unwrap();
        assert_eq!((copied.objects, copied.gone), (4, 0));
        assert_eq!(cluster.plan_copy(&to).await.unwrap(), CopyPlan::default());
    }

    #[tokio::test]
    async fn a_record_does_not_come_without_its_packs() {
        let (from, cluster) = source(&[&format!("{B}/record.json"), &format!("{B}/packs/0")]).await;
        let to: Arc<dyn Store> = Arc::new(MemoryStore::default());
        let plan = cluster.plan_copy(&to).await.unwrap();
        from.delete(&Key::new(format!("c/{B}/packs/0")).unwrap()).await.unwrap();
        cluster.copy(&to, &plan, drop).await.unwrap();
        let record = Key::new(format!("c/{B}/record.json")).unwrap();
        assert!(to.read(&record, None).await.unwrap_err().is_not_found());
    }

    #[tokio::test]
    async fn heads_are_those_of_the_first_that_has_them() {
        let (first, _) = source(&[]).await;
        let [second, third]: [Arc<dyn Store>; 2] =
            [Arc::new(MemoryStore::default()), Arc::new(MemoryStore::default())];
        let key = layout::repository().unwrap();
        let stores = [second.clone(), first.clone(), third.clone()];
        settle_heads(&stores, "c").await.unwrap();
        let head = first.read(&key, None).await.unwrap();
        for store in &stores {
            assert_eq!(store.read(&key, None).await.unwrap(), head);
        }
        // A recipient is added in one place, and reaches the others.
        let recipient = crate::crypt::Identities::generate().recipients().remove(0);
        Repository::open(second.clone()).await.unwrap().add_recipient(&recipient).await.unwrap();
        settle_heads(&stores, "c").await.unwrap();
        let head = second.read(&key, None).await.unwrap();
        assert_eq!(third.read(&key, None).await.unwrap(), head);
        // What is encrypted does not go where something else is.
        let (foreign, _) = source(&[]).await;
        let refused = settle_heads(&[second, foreign], "c").await.unwrap_err();
        assert!(matches!(refused, Error::OtherRepository { .. }), "{refused}");
    }

    #[tokio::test]
    async fn what_differs_is_named_and_left() {
        let (_, cluster) = source(&["wal/00000001/x"]).await;
        let to: Arc<dyn Store> = Arc::new(MemoryStore::default());
        put(&to, "wal/00000001/x", "something else altogether").await;
        let plan = cluster.plan_copy(&to).await.unwrap();
        assert_eq!(plan.differing, [Key::new("c/wal/00000001/x").unwrap()]);
        assert!(plan.wal.is_empty());
    }
}
