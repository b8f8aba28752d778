//! Whether the server writes conditionally, found out once for each kind of condition.

use std::hash::{DefaultHasher, Hash, Hasher};

use bytes::Bytes;
use tokio::sync::{Mutex, MutexGuard, OnceCell};

use super::client::Failed;
use super::errors::Kind;
use super::store::{Condition, S3Store};
use crate::Body;

/// The object that is created again and again. No key starts with a dot, so it is never listed.
pub(crate) const PROBE: &str = ".probe";
const PROBE_TEXT: &[u8] = b"Its presence shows whether this server refuses to create what is there.\n";
/// A version that no object has.
const NO_VERSION: &str = "\"00000000000000000000000000000000\"";
/// How many keys can be looked at and written at the same time on a server without conditional writes.
const GATES: usize = 64;

/// What is known of the server's conditions.
#[derive(Debug)]
pub(crate) struct Conditional {
    creates: OnceCell<bool>,
    replaces: OnceCell<bool>,
    gates: Vec<Mutex<()>>,
}

impl Default for Conditional {
    fn default() -> Conditional {
        let gates = std::iter::repeat_with(Mutex::default).take(GATES).collect();
        Conditional { creates: OnceCell::new(), replaces: OnceCell::new(), gates }
    }
}

impl Conditional {
    /// Whether the server refuses to create what is there (`If-None-Match: *`).
    pub(crate) async fn creates(&self, store: &S3Store) -> Result<bool, Failed> {
        let known = self.creates.get_or_try_init(|| async {
            // The first request may create the object. Only the second is sure to meet it.
            let refuses =
                refuses(store, &Condition::Absent).await? || refuses(store, &Condition::Absent).await?;
            if !refuses {
                tell(store, "creates over what is there (If-None-Match)");
            }
            Ok(refuses)
        });
        known.await.copied()
    }

    /// Whether the server refuses to replace what has changed (`If-Match`).
    pub(crate) async fn replaces(&self, store: &S3Store) -> Result<bool, Failed> {
        let known = self.replaces.get_or_try_init(|| async {
            // The object has to be there, or no version would match for that reason.
            self.creates(store).await?;
            let refuses = refuses(store, &Condition::Version(NO_VERSION.to_owned())).await?;
            if !refuses {
                tell(store, "replaces what has changed (If-Match)");
            }
            Ok(refuses)
        });
        known.await.copied()
    }

    /// Held while we look at this object and write it.
    pub(crate) async fn gate(&self, key: &str) -> MutexGuard<'_, ()> {
        let mut hasher = DefaultHasher::new();
        key.hash(&mut hasher);
        let gate = usize::try_from(hasher.finish() % GATES as u64).unwrap_or(0);
        self.gates[gate].lock().await
    }
}

async fn refuses(store: &S3Store, condition: &Condition) -> Result<bool, Failed> {
    let body = Body::from(Bytes::from_static(PROBE_TEXT));
    match store.put(PROBE, &body, condition).await {
        Ok(_) => Ok(false),
        Err(failed) => match failed.fault.kind {
            Kind::Condition => Ok(true),
            Kind::Unsupported => Ok(false),
            _ => Err(failed),
        },
    }
}

fn tell(store: &S3Store, what: &str) {
    tracing::warn!(
        address = store.place(),
        "this server {what}, so we look before we write: see that only one service writes to this repository"
    );
}
