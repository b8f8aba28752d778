//! Requests to the service, as small as they come.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use serde_json::Value;

const ANSWERS_WITHIN: Duration = Duration::from_secs(30);

/// An answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// The status.
    pub status: u16,
    /// What was answered.
    pub body: String,
}

impl Answer {
    /// The body as JSON.
    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("should be JSON: {error}: {self:?}"))
    }
}

/// Asks a port of this machine; `None` when nobody answers.
pub fn get(port: u16, path: &str) -> Option<Answer> {
    request(port, "GET", path, None, None)
}

/// Sends a request of HTTP/1.0, whose answers come in one piece, with a token and a JSON document where there are any.
pub fn request(
    port: u16,
    method: &str,
    path: &str,
    token: Option<&str>,
    document: Option<&str>,
) -> Option<Answer> {
    let mut head = format!("{method} {path} HTTP/1.0\r\nHost: drydock\r\nConnection: close\r\n");
    if let Some(token) = token {
        head.push_str(&format!("Authorization: Bearer {token}\r\n"));
    }
    if let Some(document) = document {
        head.push_str(&format!("Content-Type: application/json\r\nContent-Length: {}\r\n", document.len()));
    }
    let mut socket = TcpStream::connect(("127.0.0.1", port)).ok()?;
    socket.set_read_timeout(Some(ANSWERS_WITHIN)).ok()?;
    write!(socket, "{head}\r\n{}", document.unwrap_or_default()).ok()?;
    let mut answer = String::new();
    socket.read_to_string(&mut answer).ok()?;
    let status = answer.split(' ').nth(1)?.parse().ok()?;
    Some(Answer { status, body: answer.split_once("\r\n\r\n")?.1.to_owned() })
}
