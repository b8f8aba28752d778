//! A network that fails: a TCP proxy between client and server that takes one request to a connection.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use socket2::SockRef;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio::time::sleep;

/// What happens to one request.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Fate {
    /// It goes through.
    Pass,
    /// The connection is reset before anything was read.
    ResetAtOnce,
    /// The connection is reset after this many bytes of the request's head.
    ResetInHead(usize),
    /// The head and this many bytes of the body reach the server, then both connections are reset.
    ResetInBody(usize),
    /// All of it reaches the server and is done; the connection is reset before the answer.
    ResetBeforeAnswer,
    /// The connection is reset after this many bytes of the answer.
    ResetInAnswer(usize),
    /// It is done, and nobody ever answers.
    Silence,
    /// Nobody answers, and it is not done.
    Lost,
    /// It is done after this time; the client may have gone.
    Late(Duration),
    /// The server has too much to do, and says so without doing it.
    SlowDown,
    /// It is done, and the answer says that it was not.
    DoneAndCalledError,
}

pub struct Proxy {
    pub address: SocketAddr,
    script: Arc<Mutex<Script>>,
    task: JoinHandle<()>,
}

#[derive(Debug, Default)]
struct Script {
    /// Requests of this method only have a fate.
    method: String,
    next: VecDeque<Fate>,
    then: Option<Fate>,
    /// How many requests had one.
    met: usize,
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Proxy {
    pub async fn start(server: SocketAddr) -> Proxy {
        Proxy::start_on(TcpListener::bind("127.0.0.1:0").await.unwrap(), server)
    }

    pub fn start_on(listener: TcpListener, server: SocketAddr) -> Proxy {
        let address = listener.local_addr().unwrap();
        let script = Arc::<Mutex<Script>>::default();
        let task = tokio::spawn(accept(listener, server, script.clone()));
        Proxy { address, script, task }
    }

    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The next requests of this method have these fates; those after them go through.
    pub fn next(&self, method: &str, fates: &[Fate]) {
        *self.script.lock().unwrap() =
            Script { method: method.to_owned(), next: fates.iter().copied().collect(), then: None, met: 0 };
    }

    /// All requests of this method have this fate.
    pub fn always(&self, method: &str, fate: Fate) {
        *self.script.lock().unwrap() =
            Script { method: method.to_owned(), next: VecDeque::new(), then: Some(fate), met: 0 };
    }

    /// How many requests had a fate other than to pass.
    pub fn met(&self) -> usize {
        self.script.lock().unwrap().met
    }
}

fn fate(script: &Mutex<Script>, head: &[u8]) -> Fate {
    let mut script = script.lock().unwrap();
    if !head.starts_with(script.method.as_bytes()) {
        return Fate::Pass;
    }
    let fate = script.next.pop_front().or(script.then).unwrap_or(Fate::Pass);
    script.met += usize::from(fate != Fate::Pass);
    fate
}

async fn accept(listener: TcpListener, server: SocketAddr, script: Arc<Mutex<Script>>) {
    loop {
        let Ok((client, _)) = listener.accept().await else { return };
        let script = script.clone();
        // What a broken connection does to the proxy itself is of no interest.
        tokio::spawn(async move { drop(relay(client, server, &script).await) });
    }
}

fn reset(socket: &TcpStream) {
    SockRef::from(socket).set_linger(Some(Duration::ZERO)).unwrap();
}

async fn relay(mut client: TcpStream, server: SocketAddr, script: &Mutex<Script>) -> std::io::Result<()> {
    let mut first = [0; 16];
    let peeked = client.peek(&mut first).await?;
    let fate = fate(script, &first[..peeked]);
    if fate == Fate::ResetAtOnce {
        reset(&client);
        return Ok(());
    }
    let (mut head, mut body) = read_head(&mut client).await?;
    if let Fate::ResetInHead(bytes) = fate {
        let mut upstream = TcpStream::connect(server).await?;
        upstream.write_all(&head[..bytes.min(head.len())]).await?;
        reset(&upstream);
        reset(&client);
        return Ok(());
    }
    let length = body_length(&head);
    // One request to a connection, so that each has a fate of its own. The header is not signed.
    head.truncate(head.len() - 2);
    head.extend_from_slice(b"connection: close\r\n\r\n");
    let mut upstream = TcpStream::connect(server).await?;
    if let Fate::ResetInBody(bytes) = fate {
        upstream.write_all(&head).await?;
        while body.len() < bytes.min(length) {
            read_more(&mut client, &mut body).await?;
        }
        upstream.write_all(&body[..bytes.min(body.len())]).await?;
        upstream.flush().await?;
        sleep(Duration::from_millis(20)).await;
        reset(&upstream);
        reset(&client);
        return Ok(());
    }
    while body.len() < length {
        read_more(&mut client, &mut body).await?;
    }
    if fate == Fate::SlowDown {
        return client.write_all(&error(503, "SlowDown", "Reduce your request rate.")).await;
    }
    if fate == Fate::Lost {
        return wait_for_end(&mut client).await;
    }
    if let Fate::Late(time) = fate {
        sleep(time).await;
    }
    upstream.write_all(&head).await?;
    upstream.write_all(&body).await?;
    let mut answer = Vec::new();
    upstream.read_to_end(&mut answer).await?;
    match fate {
        Fate::ResetBeforeAnswer => reset(&client),
        Fate::ResetInAnswer(bytes) => {
            client.write_all(&answer[..bytes.min(answer.len())]).await?;
            client.flush().await?;
            // Or the reset would overtake what was sent.
            sleep(Duration::from_millis(20)).await;
            reset(&client);
        }
        Fate::Silence => return wait_for_end(&mut client).await,
        Fate::DoneAndCalledError => {
            client.write_all(&error(500, "InternalError", "We encountered an internal error.")).await?;
        }
        _ => client.write_all(&answer).await?,
    }
    Ok(())
}

async fn wait_for_end(client: &mut TcpStream) -> std::io::Result<()> {
    let mut rest = Vec::new();
    client.read_to_end(&mut rest).await.map(drop)
}

fn error(status: u16, code: &str, message: &str) -> Vec<u8> {
    let body = format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?><Error><Code>{code}</Code><Message>{message}</Message></Error>"
    );
    let length = body.len();
    format!(
        "HTTP/1.1 {status} Error\r\ncontent-type: application/xml\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{body}"
    )
    .into_bytes()
}

/// The head with its empty line, and what has come of the body.
async fn read_head(client: &mut TcpStream) -> std::io::Result<(Vec<u8>, Vec<u8>)> {
    let mut bytes = Vec::new();
    loop {
        if let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
            let body = bytes.split_off(end + 4);
            return Ok((bytes, body));
        }
        read_more(client, &mut bytes).await?;
    }
}

async fn read_more(client: &mut TcpStream, bytes: &mut Vec<u8>) -> std::io::Result<()> {
    match client.read_buf(bytes).await? {
        0 => Err(std::io::ErrorKind::UnexpectedEof.into()),
        _ => Ok(()),
    }
}

fn body_length(head: &[u8]) -> usize {
    let head = String::from_utf8_lossy(head).to_ascii_lowercase();
    let length = head.lines().find_map(|line| line.strip_prefix("content-length:"));
    length.map_or(0, |length| length.trim().parse().unwrap())
}
