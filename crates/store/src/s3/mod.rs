//! Objects in a bucket of Amazon S3, or of any server that speaks its protocol.
//!
//! **How an object becomes durable**: one PutObject with its whole body, its CRC-32C, and `If-None-Match: *`. The server
//! answers when it has stored all of it, and refuses a body that does not match its checksum. Whatever happens before
//! the answer leaves nothing, or the whole object.
//!
//! **An answer that does not come** leaves open what happened. The request is sent again, and if its condition then
//! fails, or no attempt gets an answer, we look: if what is there is byte for byte what we were to write, it was
//! written. So our own bytes are never [`Error::Exists`](crate::Error::Exists).
//!
//! **A server without conditional writes** is found out by the first write, which is to create an object that is there
//! (`.probe`, which stays), and is named in a warning. From then on we look before we write. Within one [`S3Store`] that is
//! as good; between two processes there is a moment in which both may find nothing and both write, and the later
//! one's object stays. So on such a server one service at a time may write to a cluster.
//!
//! Listings are consistent with what was written before, as S3 has promised since 2020.

mod client;
mod conditional;
mod config;
mod errors;
mod limit;
mod store;
mod upload;
mod usage;

pub use config::{Encryption, Lock, LockMode, S3Config, S3Options, Selector};
pub use store::S3Store;
pub use usage::Usage;
