//! `store::s3` against a server inside the test.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test stops at the first surprise")]

mod client;
mod contract;
mod credentials;
mod faults;
mod limits;
mod log;
mod proxy;
mod requests;
mod sentences;
mod server;
#[path = "../suite/mod.rs"]
mod suite;
mod tls;
