//! Getting written bytes to the disk while others are still being written.
//!
//! Left alone, the kernel begins when a tenth of the memory is full of them, and most of a restore would lie before the final sync.
//! What this does changes nothing but when the disk works; durability is the final sync's business.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::thread::JoinHandle;

/// A file is synced whenever this much of it was written, in bytes. Smaller files are left to the final sync.
const STRIDE: u64 = 32 << 20;
/// Files that wait to be synced, at most; more are left to the final sync.
const WAITING_MAX: usize = 64;

/// Syncs files in the background.
#[derive(Debug)]
pub(super) struct Writeback {
    queue: Option<SyncSender<Arc<Path>>>,
    thread: Option<JoinHandle<()>>,
    written: BTreeMap<Arc<Path>, u64>,
}

impl Writeback {
    /// Starts the thread that does it. Without one everything is left to the final sync.
    pub(super) fn start() -> Writeback {
        let (queue, waiting) = sync_channel(WAITING_MAX);
        let thread = std::thread::Builder::new().name("writeback".to_owned()).spawn(move || run(&waiting));
        Writeback { queue: Some(queue), thread: thread.ok(), written: BTreeMap::new() }
    }

    /// So many bytes of a file were written.
    pub(super) fn wrote(&mut self, path: &Arc<Path>, bytes: u64) {
        let written = self.written.entry(path.clone()).or_default();
        *written += bytes;
        if *written < STRIDE {
            return;
        }
        self.written.remove(path);
        if let Some(queue) = &self.queue {
            // The disk is busy enough when the queue is full.
            match queue.try_send(path.clone()) {
                Ok(()) | Err(TrySendError::Full(_)) => {}
                Err(TrySendError::Disconnected(_)) => self.queue = None,
            }
        }
    }

    /// Another map's files follow.
    pub(super) fn forget_files(&mut self) {
        self.written.clear();
    }
}

impl Drop for Writeback {
    fn drop(&mut self) {
        self.queue = None;
        if let Some(thread) = self.thread.take() {
            // It does not panic, and what it did or did not do is made good by the final sync.
            drop(thread.join());
        }
    }
}

fn run(waiting: &Receiver<Arc<Path>>) {
    for path in waiting {
        // An error shows itself to the final sync, which reports it.
        drop(File::open(&path).and_then(|file| file.sync_data()));
    }
}
