//! The server: it accepts one connection, and then alternates between waiting for words and sending bytes.

use std::time::Duration;

use bytes::{BufMut, BytesMut};
use replication::{ConnectConfig, Connection, SslMode};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio::time::timeout;

/// One act of the server's.
pub enum Step {
    /// Reads until these bytes were received.
    Expect(Vec<u8>),
    /// Sends these bytes.
    Send(Vec<u8>),
    /// Waits, so that what is sent before and after arrives separately.
    Pause,
    /// Reads for as long as the client stays.
    Hold,
}

pub fn expect(words: impl AsRef<[u8]>) -> Step {
    Step::Expect(words.as_ref().to_vec())
}

pub fn send(messages: &[Vec<u8>]) -> Step {
    Step::Send(messages.concat())
}

/// A running script, and how to reach it.
pub struct Server {
    pub config: ConnectConfig,
    task: JoinHandle<()>,
}

impl Server {
    pub async fn play(steps: Vec<Step>) -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut config = ConnectConfig::new("127.0.0.1", "rep");
        config.port = listener.local_addr().unwrap().port();
        config.tls.mode = SslMode::Disable;
        config.connect_timeout = Duration::from_secs(5);
        let task = tokio::spawn(async move {
            let (stream, _) = listener.accept().await.unwrap();
            act(stream, steps).await;
        });
        Server { config, task }
    }

    /// A server of this version that lets everybody in, and then plays the script.
    pub async fn logged_in(version: &str, steps: Vec<Step>) -> (Server, Connection) {
        let welcome = send(&[authentication(0, &[]), parameter("server_version", version), ready()]);
        let mut script = vec![expect("replication\0true\0"), welcome];
        script.extend(steps);
        let server = Server::play(script).await;
        let connection = Connection::connect(&server.config).await.unwrap();
        (server, connection)
    }

    /// The script was played to its end.
    pub async fn done(self) {
        timeout(Duration::from_secs(10), self.task).await.expect("the script ends").unwrap();
    }
}

async fn act(mut stream: TcpStream, steps: Vec<Step>) {
    let mut seen = Vec::new();
    for step in steps {
        match step {
            Step::Send(bytes) => stream.write_all(&bytes).await.unwrap(),
            Step::Pause => tokio::time::sleep(Duration::from_millis(15)).await,
            Step::Hold => while matches!(stream.read(&mut [0; 1024]).await, Ok(1..)) {},
            Step::Expect(words) => loop {
                if let Some(at) = seen.windows(words.len()).position(|window| window == words) {
                    seen.drain(..at + words.len());
                    break;
                }
                let mut received = [0; 4096];
                let read = timeout(Duration::from_secs(5), stream.read(&mut received)).await;
                let got = read.map_or(0, Result::unwrap);
                seen.extend_from_slice(&received[..got]);
                let (words, seen) = (words.escape_ascii(), seen.escape_ascii());
                assert!(got > 0, "the client left or is silent; expected {words} after {seen}");
            },
        }
    }
}

pub fn message(tag: u8, body: &[u8]) -> Vec<u8> {
    let mut bytes = BytesMut::new();
    bytes.put_u8(tag);
    bytes.put_u32(u32::try_from(body.len()).unwrap() + 4);
    bytes.put_slice(body);
    bytes.to_vec()
}

pub fn authentication(kind: u32, body: &[u8]) -> Vec<u8> {
    message(b'R', &[&kind.to_be_bytes(), body].concat())
}

pub fn parameter(name: &str, value: &str) -> Vec<u8> {
    message(b'S', format!("{name}\0{value}\0").as_bytes())
}

pub fn ready() -> Vec<u8> {
    message(b'Z', b"I")
}

pub fn complete(tag: &str) -> Vec<u8> {
    message(b'C', format!("{tag}\0").as_bytes())
}

/// Nobody reads the columns' description.
pub fn description() -> Vec<u8> {
    message(b'T', &[0, 0])
}

pub fn row(columns: &[Option<&str>]) -> Vec<u8> {
    let mut body = BytesMut::new();
    body.put_u16(u16::try_from(columns.len()).unwrap());
    for column in columns {
        match column {
            None => body.put_i32(-1),
            Some(text) => {
                body.put_i32(i32::try_from(text.len()).unwrap());
                body.put_slice(text.as_bytes());
            }
        }
    }
    message(b'D', &body)
}

pub fn copy_out() -> Vec<u8> {
    message(b'H', &[0, 0, 0])
}

pub fn copy_both() -> Vec<u8> {
    message(b'W', &[0, 0, 0])
}

pub fn copy_data(body: impl AsRef<[u8]>) -> Vec<u8> {
    message(b'd', body.as_ref())
}

pub fn copy_done() -> Vec<u8> {
    message(b'c', &[])
}

pub fn error(severity: &str, code: &str, text: &str, routine: &str) -> Vec<u8> {
    let fields = [("S", "GETARNT"), ("V", severity), ("C", code), ("M", text), ("R", routine)];
    let body: String = fields.iter().map(|(tag, value)| format!("{tag}{value}\0")).collect();
    message(b'E', format!("{body}\0").as_bytes())
}
