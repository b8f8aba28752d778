//! The stories that Drydock has to live through, on real PostgreSQL. `cargo test -p e2e pitr::` runs one area.

//X mod bad_input;
//X mod connect;
//X mod damage;
//X mod format;
//X mod full_disk;
mod harness;
//X mod hole;
//X mod kill_backup;
//X mod kill_service;
//X mod least_privilege;
mod pitr;
mod shapes;
//X mod synchronous;
