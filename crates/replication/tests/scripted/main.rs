//! The client against a server that plays a script. This covers what no real server at hand does: the layout of
//! PostgreSQL 14, servers that break off, lie, or fail in the wrong moment.

#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests may stop at the first surprise too")]

mod backup;
mod hostile;
mod login;
mod server;
mod stream;
