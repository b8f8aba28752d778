//! The network between the product and one server, which can be cut without the server noticing.

use std::collections::BTreeMap;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::postgres::free_port;

const POLL_EVERY: Duration = Duration::from_millis(20);
const BUFFER_BYTES: usize = 64 << 10;

/// What happens to connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Link {
    /// They get through.
    Up,
    /// They are closed, and new ones at once, as by a firewall that rejects.
    Refuses,
    /// They stay open and nothing gets through, as by a cable that was pulled.
    Silent,
}

/// A TCP relay on 127.0.0.1.
pub struct Proxy {
    port: u16,
    path: Arc<Path>,
    accepts: Option<JoinHandle<()>>,
}

/// What the threads of a proxy share.
struct Path {
    state: Mutex<State>,
    ended: AtomicBool,
}

struct State {
    link: Link,
    /// The port of the server.
    target: u16,
    /// Both ends of every connection, by number.
    open: BTreeMap<u64, [TcpStream; 2]>,
    next: u64,
}

impl Proxy {
    /// Relays to `target` on 127.0.0.1 from a port of its own.
    pub fn to(target: u16) -> Proxy {
        let port = free_port();
        let listener = TcpListener::bind(("127.0.0.1", port)).expect("listen on a free port");
        let state = Mutex::new(State { link: Link::Up, target, open: BTreeMap::new(), next: 0 });
        let path = Arc::new(Path { state, ended: AtomicBool::new(false) });
        let shared = Arc::clone(&path);
        Proxy { port, path, accepts: Some(std::thread::spawn(move || accept(&listener, &shared))) }
    }

    /// The port to connect to.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Changes what happens to connections, those that are open included.
    pub fn set(&self, link: Link) {
        let mut state = self.path.state();
        state.link = link;
        if link == Link::Refuses {
            state.close();
        }
    }

    /// Leads to another server from now on. Connections to the old one are closed.
    pub fn retarget(&self, target: u16) {
        let mut state = self.path.state();
        state.target = target;
        state.close();
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.path.ended.store(true, Ordering::Relaxed);
        self.path.state().close();
        // Whoever waits in `accept` sees that it has ended.
        drop(TcpStream::connect(("127.0.0.1", self.port)));
        if let Some(thread) = self.accepts.take() {
            drop(thread.join());
        }
    }
}

impl Path {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no thread of a proxy panics here")
    }

    fn ended(&self) -> bool {
        self.ended.load(Ordering::Relaxed)
    }

    /// Waits while the link is silent.
    fn wait_while_silent(&self) {
        while !self.ended() && self.state().link == Link::Silent {
            std::thread::sleep(POLL_EVERY);
        }
    }
}

impl State {
    fn close(&mut self) {
        for stream in std::mem::take(&mut self.open).into_values().flatten() {
            // One that has ended by itself is closed already.
            drop(stream.shutdown(Shutdown::Both));
        }
    }
}

fn accept(listener: &TcpListener, path: &Arc<Path>) {
    for client in listener.incoming() {
        if path.ended() {
            return;
        }
        let Ok(client) = client else { continue };
        if path.state().link != Link::Refuses {
            let path = Arc::clone(path);
            // It ends with its connection; nobody needs to wait for it.
            std::thread::spawn(move || drop(relay(client, &path)));
        }
    }
}

fn relay(client: TcpStream, path: &Arc<Path>) -> io::Result<()> {
    path.wait_while_silent();
    let (number, server) = connect(&client, path)?;
    let (from_client, to_server) = (client.try_clone()?, server.try_clone()?);
    let shared = Arc::clone(path);
    let there = std::thread::spawn(move || copy(from_client, to_server, &shared));
    copy(server, client, path);
    drop(there.join());
    path.state().open.remove(&number);
    Ok(())
}

fn connect(client: &TcpStream, path: &Path) -> io::Result<(u64, TcpStream)> {
    let mut state = path.state();
    if state.link == Link::Refuses || path.ended() {
        return Err(ErrorKind::ConnectionRefused.into());
    }
    let server = TcpStream::connect(("127.0.0.1", state.target))?;
    server.set_nodelay(true)?;
    client.set_nodelay(true)?;
    let number = state.next;
    state.next += 1;
    state.open.insert(number, [client.try_clone()?, server.try_clone()?]);
    Ok((number, server))
}

fn copy(mut from: TcpStream, mut to: TcpStream, path: &Path) {
    let mut buffer = vec![0; BUFFER_BYTES];
    loop {
        let read = from.read(&mut buffer);
        // The end of a connection does not get through a cut cable either.
        path.wait_while_silent();
        match read {
            Ok(0) => break,
            Ok(count) if to.write_all(&buffer[..count]).is_ok() => {}
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Ok(_) | Err(_) => break,
        }
    }
    drop(to.shutdown(Shutdown::Both));
    drop(from.shutdown(Shutdown::Both));
}
