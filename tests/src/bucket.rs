//! A bucket of the test's own: an S3 server that can go away and come back.

use std::net::SocketAddr;
use std::sync::{Arc, mpsc};

use tempfile::TempDir;
use tokio::runtime::{Builder, Runtime};

use crate::Objects;
use crate::postgres::free_port;
use server::{BUCKET, Server, Setup};

/// The server that `store::s3` is tested with.
#[allow(dead_code, reason = "what it does beyond a bucket that is there or not is for the tests of `store`")]
#[path = "../../crates/store/tests/s3/server.rs"]
mod server;

/// Within the bucket, where the repository is.
const PREFIX: &str = "prefix";

/// An S3 server over HTTP on loopback, with one bucket. It keeps address and objects when it is stopped.
pub struct Bucket {
    address: SocketAddr,
    directory: Arc<TempDir>,
    running: Option<Running>,
}

/// The server's threads are its runtime's: with the runtime goes every connection.
struct Running {
    _server: Server,
    runtime: Runtime,
}

/// A server that takes connections and answers nothing; it goes on when this is dropped.
#[must_use]
pub struct Frozen(#[allow(dead_code, reason = "it is there to be dropped")] mpsc::Sender<()>);

impl Bucket {
    /// Starts a server whose bucket is empty.
    pub fn start() -> Bucket {
        // Not any port: one from the range of outgoing connections may be taken while the server is away.
        let address = SocketAddr::from(([127, 0, 0, 1], free_port()));
        let directory = Arc::new(tempfile::tempdir().expect("make a directory"));
        let mut bucket = Bucket { address, directory, running: None };
        bucket.start_again();
        bucket
    }

    /// Starts the server that was stopped, with the same address and objects.
    pub fn start_again(&mut self) {
        // One worker, so that whatever blocks it stops the server.
        let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let runtime = runtime.expect("start the server's threads");
        let (address, directory) = (self.address, Arc::clone(&self.directory));
        let setup = Setup { address, directory, ..Setup::default() };
        self.running = Some(Running { _server: runtime.block_on(Server::start_with(setup)), runtime });
    }

    /// Stops the server in the middle of whatever it does. Connections end, and new ones are refused.
    pub fn stop(&mut self) {
        self.running = None;
    }

    /// Has the server take connections and answer nothing.
    pub fn freeze(&self) -> Frozen {
        let (thaw, frozen) = mpsc::channel::<()>();
        let running = self.running.as_ref().expect("a server that runs");
        running.runtime.spawn(async move {
            // Nothing is ever sent: it ends when the sender is dropped.
            frozen.recv().unwrap_err();
        });
        Frozen(thaw)
    }

    /// What `DRYDOCK_REPOSITORY` is to be.
    pub fn address(&self) -> String {
        format!("s3://{BUCKET}/{PREFIX}")
    }

    /// What `DRYDOCK_S3_ENDPOINT` is to be.
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// A file of credentials that the server knows, as `~/.aws/credentials` is written.
    pub fn credentials(&self) -> String {
        let (key, secret) = Bucket::KEY;
        format!("[default]\naws_access_key_id = {key}\naws_secret_access_key = {secret}\n")
    }

    /// The access key that the server knows, and its secret.
    pub const KEY: (&str, &str) = ("KEY", "SECRET");

    /// The repository's objects, as they lie on the server's disk.
    pub fn objects(&self) -> Objects {
        Objects::new(&self.directory.path().join("data").join(BUCKET).join(PREFIX))
    }
}
