//! systemd is told when the service has started, what it is at, and that it lives.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixDatagram;
use std::time::{Duration, Instant};

use e2e::World;

const TOLD_WITHIN: Duration = Duration::from_secs(30);

/// Receives what systemd would, until it has all of these words.
fn wait_for(socket: &UnixDatagram, words: &[&str]) -> String {
    let (began, mut all) = (Instant::now(), String::new());
    let mut buffer = [0; 4096];
    while !words.iter().all(|word| all.contains(word)) {
        assert!(began.elapsed() < TOLD_WITHIN, "not told {words:?}, but:\n{all}");
        if let Ok(length) = socket.recv(&mut buffer) {
            all.push_str(&String::from_utf8_lossy(&buffer[..length]));
            all.push('\n');
        }
    }
    all
}

#[test]
fn systemd_is_told() {
    let world = World::new();
    let primary = world.postgres();
    let path = world.path().join("notify");
    let socket = UnixDatagram::bind(&path).expect("bind a socket");
    std::fs::set_permissions(&path, Permissions::from_mode(0o777)).expect("open the socket");
    socket.set_read_timeout(Some(Duration::from_millis(200))).expect("a time limit");
    world.set("NOTIFY_SOCKET", path.to_str().expect("a plain path"));
    world.set("WATCHDOG_USEC", "1500000");
    let service = world.start_backupd(&primary);
    wait_for(&socket, &["READY=1", "STATUS=archiving from 127.0.0.1", "WATCHDOG=1"]);
    let lives = wait_for(&socket, &["WATCHDOG=1"]);
    assert!(!lives.contains("READY=1"), "once: {lives}");
    service.stop();
    wait_for(&socket, &["STOPPING=1"]);
}

/// A server that is away is no reason for systemd to start us again and again.
#[test]
fn started_without_a_server() {
    let world = World::new();
    let mut primary = world.postgres();
    // The repository and the cluster in it are there.
    world.start_backupd(&primary).stop();
    primary.kill9();
    let path = world.path().join("notify");
    let socket = UnixDatagram::bind(&path).expect("bind a socket");
    std::fs::set_permissions(&path, Permissions::from_mode(0o777)).expect("open the socket");
    socket.set_read_timeout(Some(Duration::from_millis(200))).expect("a time limit");
    world.set("NOTIFY_SOCKET", path.to_str().expect("a plain path"));
    let service = world.launch_backupd().expect_anything();
    wait_for(&socket, &["READY=1", "STATUS="]);
    service.stop();
}
