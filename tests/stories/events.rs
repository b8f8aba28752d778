//! Somebody who does not look is told, and nothing waits for him.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use e2e::{World, wait_until};
use serde_json::Value;

const TOLD_WITHIN: Duration = Duration::from_secs(60);

/// A server of HTTP on loopback that hands on the first line and the body of each request, and answers it when `answers`.
fn listen(answers: bool) -> (u16, mpsc::Receiver<(String, String)>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("bind a port");
    let port = listener.local_addr().expect("an address").port();
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        let mut held = Vec::new();
        for socket in listener.incoming() {
            let mut socket = socket.expect("a connection");
            let mut text = String::new();
            let mut buffer = [0; 4096];
            let whole = |text: &str| {
                let (head, body) = text.split_once("\r\n\r\n")?;
                let length = head
                    .lines()
                    .find_map(|line| line.to_lowercase().strip_prefix("content-length:").map(str::to_owned));
                let length = length.map_or(Some(0), |length| length.trim().parse().ok())?;
                (body.len() >= length)
                    .then(|| (head.lines().next().unwrap_or_default().to_owned(), body.to_owned()))
            };
            while whole(&text).is_none() {
                let length = socket.read(&mut buffer).expect("read a request");
                assert!(length > 0, "a request ends early: {text}");
                text.push_str(&String::from_utf8_lossy(&buffer[..length]));
            }
            if sender.send(whole(&text).expect("just looked")).is_err() {
                return;
            }
            match answers {
                true => {
                    socket.write_all(b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n").expect("answer")
                }
                // Whoever waits for this one waits for long.
                false => held.push(socket),
            }
        }
    });
    (port, receiver)
}

#[test]
fn somebody_is_told() {
    let world = World::new();
    let primary = world.postgres();
    let (port, requests) = listen(true);
    let file = world.path().join("told");
    world.set("DRYDOCK_EVENTS_WEBHOOK", &format!("http://127.0.0.1:{port}/hook?token=secret"));
    world.set("DRYDOCK_EVENTS_PING", &format!("http://127.0.0.1:{port}/ping"));
    world.set("DRYDOCK_EVENTS_COMMAND", &format!("cat >> {}; echo >> {}", file.display(), file.display()));
    world.set("BACKUP_SCHEDULE", "0 0 1 1 *");
    let service = world.start_backupd(&primary);
    let (hook, body) = requests.recv_timeout(TOLD_WITHIN).expect("a request");
    assert!(hook.starts_with("POST /hook?token=secret"), "{hook}");
    let event: Value = serde_json::from_str(&body).expect("JSON");
    assert_eq!(
        (&event["event"], &event["cluster"]),
        (&Value::from("backup_finished"), &Value::from(World::CLUSTER))
    );
    assert_eq!(event["backup"], Value::from(world.backups()[0].clone()));
    let (ping, _) = requests.recv_timeout(TOLD_WITHIN).expect("a request");
    assert!(ping.starts_with("GET /ping"), "{ping}");
    wait_until("the command to be run", TOLD_WITHIN, || {
        let told = std::fs::read_to_string(&file).unwrap_or_default();
        told.lines()
            .next()
            .and_then(|line| serde_json::from_str::<Value>(line).ok())
            .is_some_and(|told| told == event)
    });
    assert!(!service.log_text().contains("token=secret"), "a URL may hold a token");
    service.stop();
}

#[test]
fn a_webhook_that_hangs_holds_up_nothing() {
    let world = World::new();
    let primary = world.postgres();
    let (port, requests) = listen(false);
    world.set("DRYDOCK_EVENTS_WEBHOOK", &format!("http://127.0.0.1:{port}/"));
    world.set("DRYDOCK_EVENTS_COMMAND", "sleep 1000");
    world.set("BACKUP_SCHEDULE", "0 0 1 1 *");
    let service = world.start_backupd(&primary).expect(&["command for events", "webhook"]);
    primary.sql("create table t (n int)");
    wait_until("the backup", TOLD_WITHIN, || {
        world.backupctl(&["list"]).code == 0 && world.backups().len() == 1
    });
    for _ in 0..20 {
        primary.sql("insert into t select generate_series(1, 10000)");
    }
    service.wait_until_durable(&primary);
    requests.recv_timeout(TOLD_WITHIN).expect("the command has been given up, and the webhook is tried");
    primary.switch_segment();
    service.wait_until_durable(&primary);
    // It stops at once, whoever hangs.
    service.stop();
}
