//! The harness of the end-to-end tests: real PostgreSQL, the real `backupd` and `backupctl`, real files, nothing mocked.
//!
//! A test makes a [`World`], which is a private directory with a repository in it, and tells a story with it:
//!
//! ```no_run
//! use e2e::World;
//!
//! let world = World::new();
//! let mut primary = world.postgres();
//! let service = world.start_backupd(&primary);
//! primary.sql("create table orders (id int)");
//! world.backup();
//! primary.sql("insert into orders select generate_series(1, 100)");
//! service.wait_until_durable(&primary);
//! primary.destroy();
//!
//! let restored = world.restore(&["--target-action", "promote"]).start();
//! assert_eq!(restored.value("select count(*) from orders"), "100");
//! ```
//!
//! What every test can rely on:
//!
//! - Everything that is started is killed when the story ends, well or badly, and everything that waits has a limit. A
//!   story that takes half an hour all the same (`E2E_STORY_MINUTES`) ends the run with a sentence that names it.
//! - PostgreSQL refuses to run as root. Tests run as root start servers, `backupd` and `backupctl` as the user
//!   `postgres` (or `nobody`), so the product is never tested with rights it will not have.
//! - The product logs in with the role that README describes: LOGIN, REPLICATION and `pg_monitor`, nothing else.
//! - A WARN or ERROR in the service's log fails the test unless the story announced it ([`Service::expect`]).
//! - Randomness comes from one seed, printed when a test fails. `E2E_SEED=…` repeats it; `E2E_KEEP=1` keeps the
//!   directory.

mod browser;
mod bucket;
mod cluster;
pub mod http;
pub mod ledger;
mod load;
mod objects;
mod person;
mod postgres;
mod process;
mod prometheus;
mod proxy;
mod service;
mod tmpfs;
mod tools;
mod wait;
mod watch;
mod world;

pub use browser::Browser;
pub use bucket::{Bucket, Frozen};
pub use cluster::{Cluster, Loss, Promotion, Return, Shape};
pub use http::Answer;
pub use load::{Commit, Load};
pub use objects::{Damage, Kind, Objects};
pub use pgformat::{Lsn, TimelineId};
pub use postgres::{Options, Postgres, Shutdown};
pub use process::{Output, Process};
pub use prometheus::Prometheus;
pub use proxy::{Link, Proxy};
pub use service::Service;
pub use tmpfs::Tmpfs;
pub use wait::{wait_for, wait_until};
pub use world::{ROLE, Restored, World};
