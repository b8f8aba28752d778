//! What was asked of the server, which is what it bills.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// The kinds of request that servers count, as price lists have them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Request {
    Put,
    Get,
    Head,
    List,
    Delete,
}

/// How many requests were sent, those that failed and were sent again included, and how many bytes of objects went
/// either way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Usage {
    /// PutObject.
    pub puts: u64,
    /// GetObject.
    pub gets: u64,
    /// HeadObject.
    pub heads: u64,
    /// ListObjectsV2: one for each page of up to 1,000 names.
    pub lists: u64,
    /// DeleteObject.
    pub deletes: u64,
    /// Bytes of bodies handed to the network.
    pub bytes_up: u64,
    /// Bytes of bodies received.
    pub bytes_down: u64,
}

#[derive(Debug, Default)]
pub(crate) struct Counters {
    puts: AtomicU64,
    gets: AtomicU64,
    heads: AtomicU64,
    lists: AtomicU64,
    deletes: AtomicU64,
    bytes_up: AtomicU64,
    bytes_down: AtomicU64,
}

impl Counters {
    pub(crate) fn count(&self, request: Request) {
        let counter = match request {
            Request::Put => &self.puts,
            Request::Get => &self.gets,
            Request::Head => &self.heads,
            Request::List => &self.lists,
            Request::Delete => &self.deletes,
        };
        counter.fetch_add(1, Relaxed);
    }

    pub(crate) fn sent(&self, bytes: usize) {
        self.bytes_up.fetch_add(bytes as u64, Relaxed);
    }

    pub(crate) fn received(&self, bytes: usize) {
        self.bytes_down.fetch_add(bytes as u64, Relaxed);
    }

    pub(crate) fn read(&self) -> Usage {
        Usage {
            puts: self.puts.load(Relaxed),
            gets: self.gets.load(Relaxed),
            heads: self.heads.load(Relaxed),
            lists: self.lists.load(Relaxed),
            deletes: self.deletes.load(Relaxed),
            bytes_up: self.bytes_up.load(Relaxed),
            bytes_down: self.bytes_down.load(Relaxed),
        }
    }
}
