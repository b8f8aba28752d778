//! The repository served over HTTP: every store's contract through it, and what must not get through.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test stops at the first surprise")]

#[path = "../../store/tests/suite/mod.rs"]
mod suite;

use std::net::SocketAddr;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use backupd::config::{ServeSettings, TlsFiles};
use backupd::serve::{Limits, Serving};
use bytes::Bytes;
use store::file::FileStore;
use store::http::{HttpOptions, HttpStore, Token};
use store::memory::MemoryStore;
use store::{Body, Directory, Entry, Error, Key, OpenError, Store, Version};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;

const TOKEN: &str = "0123456789abcdef";

/// A store served on a port of its own, until it is dropped.
struct Served {
    address: SocketAddr,
    shutdown: CancellationToken,
}

impl Served {
    fn start(store: Arc<dyn Store>, limits: Limits, tls: Option<TlsFiles>) -> Served {
        let settings =
            ServeSettings { listen: "127.0.0.1:0".parse().unwrap(), token: Token::new(TOKEN), tls };
        let serving = Serving::bind(&settings, limits).unwrap();
        let (address, shutdown) = (serving.address(), CancellationToken::new());
        drop(serving.start(async move || Some(store), shutdown.clone()).unwrap());
        Served { address, shutdown }
    }

    async fn open(&self) -> HttpStore {
        let options = HttpOptions { token: Some(Token::new(TOKEN)), ..HttpOptions::default() };
        HttpStore::open(&format!("http://{}", self.address), &options).await.unwrap()
    }

    /// Sends bytes as they are, and returns all that comes until the connection ends.
    async fn raw(&self, request: &[u8]) -> String {
        let mut socket = TcpStream::connect(self.address).await.unwrap();
        socket.write_all(request).await.unwrap();
        let mut answer = Vec::new();
        // A service that has had enough may reset the connection.
        drop(tokio::time::timeout(Duration::from_secs(20), socket.read_to_end(&mut answer)).await.unwrap());
        String::from_utf8_lossy(&answer).into_owned()
    }

    async fn get(&self, target: &[u8], headers: &str) -> String {
        let head = format!(" HTTP/1.1\r\nhost: x\r\nconnection: close\r\nauthorization: Bearer {TOKEN}\r\n");
        self.raw(&[b"GET ", target, head.as_bytes(), headers.as_bytes(), b"\r\n"].concat()).await
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        self.shutdown.cancel();
    }
}

/// Writes beneath and reads through HTTP.
#[derive(Debug)]
struct Through {
    below: Arc<dyn Store>,
    http: HttpStore,
}

#[async_trait]
impl Store for Through {
    async fn create(&self, key: &Key, body: Body) -> Result<(), Error> {
        self.below.create(key, body).await
    }
    async fn read(&self, key: &Key, range: Option<Range<u64>>) -> Result<Bytes, Error> {
        self.http.read(key, range).await
    }
    async fn size(&self, key: &Key) -> Result<u64, Error> {
        self.http.size(key).await
    }
    async fn list(&self, directory: &Directory) -> Result<Vec<Entry>, Error> {
        self.http.list(directory).await
    }
    async fn delete(&self, key: &Key) -> Result<(), Error> {
        self.below.delete(key).await
    }
    async fn read_version(&self, key: &Key) -> Result<Option<(Bytes, Version)>, Error> {
        self.http.read_version(key).await
    }
    async fn replace(&self, key: &Key, expected: Option<&Version>, body: Bytes) -> Result<Version, Error> {
        self.below.replace(key, expected, body).await
    }
    fn address(&self) -> String {
        self.http.address()
    }
}

async fn keeps_the_contract(below: Arc<dyn Store>) {
    let served = Served::start(below.clone(), Limits::default(), None);
    let http = served.open().await;
    suite::contract(Arc::new(Through { below, http })).await;
}

#[tokio::test]
async fn http_over_memory_keeps_the_contract() {
    keeps_the_contract(Arc::new(MemoryStore::default())).await;
}

#[tokio::test]
async fn http_over_files_keeps_the_contract() {
    let root = tempfile::tempdir().unwrap();
    keeps_the_contract(Arc::new(FileStore::open(root.path()).await.unwrap())).await;
}

fn key(name: &str) -> Key {
    Key::new(name).unwrap()
}

async fn holding(objects: &[(&str, &'static [u8])]) -> Arc<MemoryStore> {
    let store = Arc::new(MemoryStore::default());
    for (name, bytes) in objects {
        store.create(&key(name), Bytes::from_static(bytes).into()).await.unwrap();
    }
    store
}

// ---- who is let in, and out to where

#[tokio::test]
async fn nothing_is_said_without_the_token() {
    let served = Served::start(holding(&[("a", b"secret")]).await, Limits::default(), None);
    let mut answers = Vec::new();
    for target in
        ["/v1/objects/a", "/v1/objects/none", "/v1/list/", "/v1/repository", "/nowhere", "/v1/objects/.."]
    {
        for method in ["GET", "HEAD", "POST", "DELETE"] {
            for authorization in [
                String::new(),
                "authorization: Bearer 0123456789abcdeX\r\n".into(),
                "authorization: Bearer\r\n".into(),
                "authorization: Bearer \r\n".into(),
                format!("authorization: Bearer {TOKEN}0\r\n"),
                format!("authorization: Basic {TOKEN}\r\n"),
                format!("authorization: {TOKEN}\r\n"),
                format!("x-token: {TOKEN}\r\n"),
            ] {
                let request = format!("{method} {target} HTTP/1.1\r\nhost: x\r\n{authorization}\r\n");
                let answer = served.raw(request.as_bytes()).await;
                let (head, body) = answer.split_once("\r\n\r\n").unwrap();
                assert!(head.starts_with("HTTP/1.1 401 Unauthorized"), "{request}{answer}");
                assert!(body.is_empty() || body == "a token is asked for\n", "{request}{answer}");
                let undated: Vec<&str> = head.lines().filter(|line| !line.starts_with("date:")).collect();
                answers.push(undated.join("\n"));
            }
        }
    }
    answers.dedup();
    assert_eq!(answers.len(), 1, "whatever is asked, the answer is one: {answers:#?}");
}

#[tokio::test]
async fn no_request_leads_out_of_the_repository() {
    let root = tempfile::tempdir().unwrap();
    let inside = root.path().join("repository");
    let store = FileStore::open(&inside).await.unwrap();
    store.create(&key("d/a"), Bytes::from_static(b"fine").into()).await.unwrap();
    store.replace(&key("d/state"), None, Bytes::from_static(b"fine")).await.unwrap();
    for hidden in [root.path().join("secret"), inside.join(".tmp/secret"), inside.join(".secret")] {
        std::fs::write(hidden, b"SECRET").unwrap();
    }
    assert!(inside.join(".lock").exists());
    let absolute = root.path().join("secret").display().to_string();
    let served = Served::start(Arc::new(store), Limits::default(), None);

    for name in ["d/a", "d%2fa", "%64/a"] {
        let answer = served.get(format!("/v1/objects/{name}").as_bytes(), "").await;
        assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("\r\n\r\nfine"), "{name}: {answer}");
    }
    let long = "x".repeat(2000);
    let mut names: Vec<Vec<u8>> = [
        "../secret",
        "d/../../secret",
        "%2e%2e/secret",
        "%2e%2e%2fsecret",
        "..%2fsecret",
        ".%2e/secret",
        "%252e%252e%252fsecret",
        "%252e%252e/secret",
        "..%5csecret",
        "..\\secret",
        "d\\..\\..\\secret",
        "//secret",
        "%2fsecret",
        "/etc/passwd",
        "%2fetc%2fpasswd",
        "",
        "d",
        "d/",
        "d//a",
        "./d/a",
        "d/./a",
        ".tmp/secret",
        ".tmp",
        ".lock",
        ".secret",
        "%2etmp/secret",
        "%2esecret",
        "d/.tmp/../../secret",
        "d/a%00",
        "%00",
        "d/a%00.zst",
        "d/a%0a",
        "%c0%ae%c0%ae/secret",
        "%ff%fe",
        "d/a%",
        "d/a%zz",
        "d/a?x=../secret#",
        &absolute,
        &format!("/{absolute}"),
        &absolute.replace('/', "%2f"),
        &long,
        &format!("d/{}", "y/".repeat(600)),
    ]
    .iter()
    .map(|name| name.as_bytes().to_vec())
    .collect();
    names.extend([b"d/a\xff".to_vec(), b"d/\x00a".to_vec(), b"\xc3\xbc".to_vec(), b"d/a\x01".to_vec()]);
    for place in ["/v1/objects/", "/v1/list/", "/", "http://x/v1/objects/", "//v1/objects/"] {
        for name in &names {
            let answer = served.get(&[place.as_bytes(), name].concat(), "").await;
            let shown = format!("{place}{}: {answer}", String::from_utf8_lossy(name));
            assert!(!answer.contains("SECRET") && !answer.contains("root:"), "{shown}");
            assert!(!answer.contains("secret") && !answer.contains(".tmp"), "{shown}");
            let harmless =
                name.starts_with(b"d/a?") || (place == "/v1/list/" && [&b""[..], b"d"].contains(&&name[..]));
            let refused = ["HTTP/1.1 400", "HTTP/1.1 404", "HTTP/1.1 414"]
                .iter()
                .any(|status| answer.starts_with(status));
            // A directory that nothing is in has an empty listing, whatever name it has.
            let empty = place == "/v1/list/" && answer.ends_with(r#"{"entries":[],"more":false}"#);
            assert!(refused || harmless || empty || answer.is_empty(), "{shown}");
        }
    }
    let listing = served.get(b"/v1/list/", "").await;
    assert!(listing.ends_with(r#"{"entries":[{"name":"d"}],"more":false}"#), "{listing}");
}

#[tokio::test]
async fn parts_of_objects() {
    let served =
        Served::start(holding(&[("a", b"0123456789"), ("none", b"")]).await, Limits::default(), None);
    for (range, status, described, body) in [
        ("bytes=0-3", 206, Some("bytes 0-3/10"), "0123"),
        ("bytes=7-", 206, Some("bytes 7-9/10"), "789"),
        ("bytes=-2", 206, Some("bytes 8-9/10"), "89"),
        ("bytes=5-99", 206, Some("bytes 5-9/10"), "56789"),
        ("bytes=10-11", 416, Some("bytes */10"), "the object ends before that\n"),
        ("bytes=0-1,4-5", 200, None, "0123456789"),
        ("lines=1-2", 200, None, "0123456789"),
    ] {
        let answer = served.get(b"/v1/objects/a", &format!("range: {range}\r\n")).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{range}: {answer}");
        assert!(answer.ends_with(&format!("\r\n\r\n{body}")), "{range}: {answer}");
        assert!(answer.contains(&format!("content-length: {}\r\n", body.len())), "{range}: {answer}");
        let said = answer.lines().find_map(|line| line.strip_prefix("content-range: "));
        assert_eq!(said, described, "{range}");
    }
    assert!(served.get(b"/v1/objects/none", "range: bytes=0-0\r\n").await.starts_with("HTTP/1.1 416"));
    assert!(served.get(b"/v1/objects/none", "").await.contains("content-length: 0\r\n"));
    assert!(served.get(b"/v1/objects/b", "range: bytes=0-0\r\n").await.starts_with("HTTP/1.1 404"));
    assert!(served.get(b"/v1/objects/a", "content-length: 3\r\n").await.starts_with("HTTP/1.1 400"));
    assert!(served.get(b"/v1/objects/a", "transfer-encoding: chunked\r\n").await.starts_with("HTTP/1.1 400"));
    let with = |method: &str| {
        format!(
            "{method} /v1/objects/a HTTP/1.1\r\nhost: x\r\nconnection: close\r\nauthorization: Bearer {TOKEN}\r\n\r\n"
        )
    };
    let head = served.raw(with("HEAD").as_bytes()).await;
    assert!(head.starts_with("HTTP/1.1 200") && head.ends_with("\r\n\r\n"), "{head}");
    assert!(head.contains("content-length: 10\r\n"), "{head}");
    for method in ["PUT", "POST", "DELETE", "PATCH", "OPTIONS"] {
        assert!(served.raw(with(method).as_bytes()).await.starts_with("HTTP/1.1 405"), "{method}");
    }
}

// ---- limits

/// A store whose objects are long, and that counts how much of them was read.
#[derive(Debug, Default)]
struct Long {
    read: std::sync::atomic::AtomicU64,
    /// From where on nothing can be read.
    broken_from: Option<u64>,
}

const LONG: u64 = 64 << 20;

#[async_trait]
impl Store for Long {
    async fn create(&self, key: &Key, _: Body) -> Result<(), Error> {
        Err(Error::Exists { key: key.to_string() })
    }
    async fn read(&self, key: &Key, range: Option<Range<u64>>) -> Result<Bytes, Error> {
        let range = range.expect("objects are read in parts");
        assert!(range.end - range.start <= Limits::default().read_bytes, "{range:?}");
        if self.broken_from.is_some_and(|broken| range.end > broken) {
            return Err(Error::NotFound { key: key.to_string() });
        }
        let len = range.end.min(LONG) - range.start;
        self.read.fetch_add(len, std::sync::atomic::Ordering::Relaxed);
        Ok(vec![7; usize::try_from(len).unwrap()].into())
    }
    async fn size(&self, _: &Key) -> Result<u64, Error> {
        Ok(LONG)
    }
    async fn list(&self, _: &Directory) -> Result<Vec<Entry>, Error> {
        Ok(Vec::new())
    }
    async fn delete(&self, _: &Key) -> Result<(), Error> {
        Ok(())
    }
    async fn read_version(&self, _: &Key) -> Result<Option<(Bytes, Version)>, Error> {
        Ok(None)
    }
    async fn replace(&self, key: &Key, _: Option<&Version>, _: Bytes) -> Result<Version, Error> {
        Err(Error::Changed { key: key.to_string() })
    }
    fn address(&self) -> String {
        "long:".to_owned()
    }
}

fn get_long() -> Vec<u8> {
    format!("GET /v1/objects/a HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {TOKEN}\r\n\r\n").into_bytes()
}

#[tokio::test]
async fn no_more_is_read_than_the_client_takes() {
    let store = Arc::new(Long::default());
    let limits = Limits { silence: Duration::from_millis(500), ..Limits::default() };
    let served = Served::start(store.clone(), limits, None);
    let mut socket = TcpStream::connect(served.address).await.unwrap();
    socket.write_all(&get_long()).await.unwrap();
    tokio::time::sleep(Duration::from_millis(300)).await;
    let read = store.read.load(std::sync::atomic::Ordering::Relaxed);
    assert!(read < LONG / 4, "{read} bytes were read for a client that takes none");
    // It is taken for gone then; what it can still get are the bytes on the way.
    tokio::time::sleep(Duration::from_millis(900)).await;
    let mut got = Vec::new();
    drop(socket.read_to_end(&mut got).await);
    assert!((got.len() as u64) < LONG / 4, "{}", got.len());
    assert_eq!(served.open().await.read(&key("a"), None).await.unwrap().len() as u64, LONG);
}

#[tokio::test]
async fn an_object_that_breaks_off_is_no_object() {
    let store = Arc::new(Long { broken_from: Some(LONG / 2), ..Long::default() });
    let served = Served::start(store, Limits::default(), None);
    let mut socket = TcpStream::connect(served.address).await.unwrap();
    socket.write_all(&get_long()).await.unwrap();
    let mut got = Vec::new();
    drop(socket.read_to_end(&mut got).await);
    assert!(got.starts_with(b"HTTP/1.1 200") && (got.len() as u64) < LONG, "the connection is cut");
}

#[tokio::test]
async fn turns_and_connections_are_limited_and_come_back() {
    let limits = Limits {
        requests: 1,
        connections: 3,
        turn_wait: Duration::from_millis(200),
        silence: Duration::from_millis(1500),
        ..Limits::default()
    };
    let served = Served::start(Arc::new(Long::default()), limits, None);
    let mut hog = TcpStream::connect(served.address).await.unwrap();
    hog.write_all(&get_long()).await.unwrap();
    tokio::time::sleep(Duration::from_millis(200)).await;
    let answer = served.get(b"/v1/repository", "").await;
    assert!(answer.starts_with("HTTP/1.1 503") && answer.contains("retry-after: 1\r\n"), "{answer}");
    // A client of ours waits for its turn, which comes when the hog is thrown out.
    let waited = Instant::now();
    assert_eq!(served.open().await.size(&key("a")).await.unwrap(), LONG);
    assert!(waited.elapsed() > Duration::from_millis(300), "{:?}", waited.elapsed());
}

#[tokio::test]
async fn slow_requests_are_cut_off() {
    let short = Duration::from_millis(300);
    let limits = Limits { connections: 2, request_head: short, handshake: short, ..Limits::default() };
    let certificate = Certificate::new();
    let plain = Served::start(holding(&[("a", b"x")]).await, limits, None);
    let tls = Served::start(holding(&[("a", b"x")]).await, limits, Some(certificate.files()));
    for served in [&plain, &tls] {
        // As many as may connect, each of them silent or half said.
        let mut slow = Vec::new();
        for said in ["", "GET /v1/repository HTTP/1.1\r\nhost:"] {
            let mut socket = TcpStream::connect(served.address).await.unwrap();
            socket.write_all(said.as_bytes()).await.unwrap();
            slow.push(socket);
        }
        let began = Instant::now();
        for mut socket in slow {
            drop(
                tokio::time::timeout(Duration::from_secs(5), socket.read_to_end(&mut Vec::new()))
                    .await
                    .unwrap(),
            );
        }
        assert!(began.elapsed() < Duration::from_secs(4));
    }
    assert!(plain.get(b"/v1/objects/a", "").await.starts_with("HTTP/1.1 200"));
    let long_head = format!("x-long: {}\r\n", "y".repeat(64 << 10));
    assert!(!plain.get(b"/v1/objects/a", &long_head).await.contains("HTTP/1.1 200"));
    assert!(!plain.get(b"/v1/objects/a", &"x: y\r\n".repeat(100)).await.contains("HTTP/1.1 200"));
}

// ---- TLS

/// An authority and what it signed.
struct Certificate {
    directory: tempfile::TempDir,
    authority: rcgen::CertifiedIssuer<'static, rcgen::KeyPair>,
}

impl Certificate {
    fn new() -> Certificate {
        let mut params = rcgen::CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let authority =
            rcgen::CertifiedIssuer::self_signed(params, rcgen::KeyPair::generate().unwrap()).unwrap();
        let certificate = Certificate { directory: tempfile::tempdir().unwrap(), authority };
        std::fs::write(certificate.path("ca.crt"), certificate.authority.pem()).unwrap();
        certificate.issue(false);
        certificate
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn files(&self) -> TlsFiles {
        TlsFiles { certificate: self.path("server.crt"), key: self.path("server.key") }
    }

    /// Puts a new certificate in place, as a renewal does.
    fn issue(&self, expired: bool) {
        let mut params = rcgen::CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
        if expired {
            params.not_before = rcgen::date_time_ymd(2020, 1, 1);
            params.not_after = rcgen::date_time_ymd(2020, 2, 1);
        }
        let key = rcgen::KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.authority).unwrap();
        put(&self.path("server.crt"), &certificate.pem(), 0o644);
        put(&self.path("server.key"), &key.serialize_pem(), 0o600);
    }

    async fn open(&self, served: &Served) -> Result<HttpStore, OpenError> {
        let options = HttpOptions {
            token: Some(Token::new(TOKEN)),
            ca_file: Some(self.path("ca.crt")),
            ..HttpOptions::default()
        };
        HttpStore::open(&format!("https://{}", served.address), &options).await
    }
}

fn put(path: &Path, text: &str, mode: u32) {
    use std::os::unix::fs::PermissionsExt;
    let beside = path.with_extension("new");
    std::fs::write(&beside, text).unwrap();
    std::fs::set_permissions(&beside, std::fs::Permissions::from_mode(mode)).unwrap();
    std::fs::rename(beside, path).unwrap();
}

fn is_untrusted(result: Result<HttpStore, OpenError>) -> bool {
    matches!(result, Err(OpenError::Store(Error::Untrusted { .. })))
}

#[tokio::test]
async fn a_certificate_is_believed_only_when_its_authority_is() {
    let (ours, other) = (Certificate::new(), Certificate::new());
    let store = holding(&[("a", b"x")]).await;
    let served = Served::start(store, Limits::default(), Some(ours.files()));
    assert_eq!(ours.open(&served).await.unwrap().read(&key("a"), None).await.unwrap(), "x");
    let began = Instant::now();
    assert!(is_untrusted(other.open(&served).await));
    assert!(began.elapsed() < Duration::from_secs(5), "it is not tried again");
    assert!(!served.get(b"/v1/objects/a", "").await.contains("200"), "nothing is served without TLS");
}

#[tokio::test]
async fn a_renewed_certificate_is_shown_without_a_restart() {
    let certificate = Certificate::new();
    certificate.issue(true);
    let served = Served::start(holding(&[]).await, Limits::default(), Some(certificate.files()));
    assert!(is_untrusted(certificate.open(&served).await), "it has expired");
    tokio::time::sleep(Duration::from_millis(1100)).await;
    certificate.issue(false);
    certificate.open(&served).await.unwrap();
    // One that is half renewed or cannot be used is not shown; the one before is.
    tokio::time::sleep(Duration::from_millis(1100)).await;
    put(&certificate.path("server.crt"), "nonsense", 0o644);
    certificate.open(&served).await.unwrap();
    tokio::time::sleep(Duration::from_millis(1100)).await;
    certificate.issue(false);
    certificate.open(&served).await.unwrap();
}

#[test]
fn what_cannot_be_served_is_told_at_the_start() {
    let certificate = Certificate::new();
    let settings = |tls| ServeSettings {
        listen: "127.0.0.1:0".parse().unwrap(),
        token: Token::new(TOKEN),
        tls: Some(tls),
    };
    let said = |tls| Serving::bind(&settings(tls), Limits::default()).unwrap_err().to_string();
    put(
        &certificate.path("open.key"),
        &std::fs::read_to_string(certificate.path("server.key")).unwrap(),
        0o644,
    );
    let open = said(TlsFiles { key: certificate.path("open.key"), ..certificate.files() });
    assert!(open.contains("others can read the key"), "{open}");
    let gone = said(TlsFiles { certificate: certificate.path("gone"), ..certificate.files() });
    assert!(gone.contains("gone") && gone.contains("No such file"), "{gone}");
    let other = Certificate::new();
    let mixed = said(TlsFiles { key: other.path("server.key"), ..certificate.files() });
    assert!(mixed.contains("cannot be used"), "{mixed}");
    let taken = Serving::bind(&settings(certificate.files()), Limits::default()).unwrap();
    let again = ServeSettings { listen: taken.address(), ..settings(certificate.files()) };
    let error = Serving::bind(&again, Limits::default()).unwrap_err().to_string();
    assert!(error.contains("cannot be listened on"), "{error}");
}
