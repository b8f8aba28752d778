//! The stories that Drydock has to live through, on real PostgreSQL. `cargo test -p e2e pitr::` runs one area.

mod bad_input;
mod connect;
mod damage;
mod documents;
mod format;
mod full_disk;
mod harness;
mod hole;
mod kill_backup;
mod kill_service;
mod least_privilege;
mod pitr;
mod replication;
mod shapes;
mod synchronous;
