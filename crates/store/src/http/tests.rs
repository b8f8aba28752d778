//! What services must not get away with, over real sockets.

use std::sync::Mutex;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::*;

const GREETING: &str = "HTTP/1.1 200 OK\r\ncontent-length: 25\r\n\r\n{\"interface\":\"drydock/1\"}";

/// A service that gives these answers, one to a connection, and then only the last one; with the requests it got.
async fn service(answers: &[&'static str]) -> (HttpStore, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let (answers, asked) = (answers.to_vec(), Arc::new(Mutex::new(Vec::new())));
    let seen = asked.clone();
    tokio::spawn(async move {
        for turn in 0.. {
            let (mut socket, _) = listener.accept().await.unwrap();
            let mut request = vec![0; 4096];
            let len = socket.read(&mut request).await.unwrap();
            seen.lock().unwrap().push(String::from_utf8_lossy(&request[..len]).into_owned());
            let answer = answers.get(turn).or(answers.last()).unwrap();
            // Who has had enough of an answer closes the connection.
            drop(socket.write_all(answer.as_bytes()).await);
            drop(socket.shutdown().await);
        }
    });
    let options = HttpOptions { token: Some(Token::new("a token")), ..HttpOptions::default() };
    let mut store = HttpStore::new(&address, &options).unwrap();
    store.retry =
        store.retry.with_min_delay(Duration::from_millis(1)).with_max_delay(Duration::from_millis(2));
    (store, asked)
}

fn key() -> Key {
    Key::new("a/b c%2e").unwrap()
}

/// What reading bytes 2 to 5 gives, and how often it was tried.
async fn read(answers: &[&'static str], range: Option<Range<u64>>) -> (Result<Bytes, Error>, usize) {
    let (store, asked) = service(answers).await;
    let result = store.read(&key(), range).await;
    let tries = asked.lock().unwrap().len();
    (result, tries)
}

#[tokio::test]
async fn an_answer_that_is_cut_is_never_an_object() {
    for cut in [
        "",
        "HTTP/1.1 200",
        "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n",
        "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nabcd",
        "HTTP/1.1 200 OK\r\n\r\nabcde",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nabcde\r\n0\r\n\r\n",
    ] {
        let (result, tries) = read(&[cut], None).await;
        assert!(matches!(result, Err(Error::Unavailable { .. })), "{cut}: {result:?}");
        assert_eq!(tries, RETRIES_MAX + 1, "{cut}");
    }
    let whole = "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nabcde";
    let (result, tries) = read(&["", "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nab", whole], None).await;
    assert_eq!((result.unwrap(), tries), (Bytes::from_static(b"abcde"), 3));
}

#[tokio::test]
async fn an_answer_to_another_question_is_none() {
    for other in [
        "HTTP/1.1 206 Partial Content\r\ncontent-length: 2\r\ncontent-range: bytes 2-3/10\r\n\r\ncd",
        "HTTP/1.1 206 Partial Content\r\ncontent-length: 3\r\ncontent-range: bytes 0-2/10\r\n\r\nabc",
        "HTTP/1.1 206 Partial Content\r\ncontent-length: 3\r\n\r\ncde",
        "HTTP/1.1 206 Partial Content\r\ncontent-length: 3\r\ncontent-range: bytes 2-4/10\r\n\r\ncd",
    ] {
        let (result, _) = read(&[other], Some(2..5)).await;
        assert!(matches!(result, Err(Error::Unavailable { .. })), "{other}: {result:?}");
    }
    let whole = "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nabcde";
    let (result, tries) = read(&[whole], Some(2..5)).await;
    assert!(matches!(result, Err(Error::Unusable { .. })), "ranges are not honoured: {result:?}");
    assert_eq!(tries, 1);
    let end = "HTTP/1.1 206 Partial Content\r\ncontent-length: 1\r\ncontent-range: bytes 2-2/3\r\n\r\nc";
    assert_eq!(read(&[end], Some(2..5)).await.0.unwrap(), "c");
    let past = "HTTP/1.1 416 Range Not Satisfiable\r\ncontent-length: 0\r\ncontent-range: bytes */2\r\n\r\n";
    assert_eq!(read(&[past], Some(2..5)).await.0.unwrap(), "");
}

#[tokio::test]
async fn only_what_may_pass_is_tried_again() {
    let status = |line: &str| -> &'static str {
        Box::leak(format!("HTTP/1.1 {line}\r\ncontent-length: 0\r\nlocation: /x\r\n\r\n").into_boxed_str())
    };
    for (line, tries_expected) in [
        ("401 Unauthorized", 1),
        ("404 Not Found", 1),
        ("403 Forbidden", 1),
        ("302 Found", 1),
        ("500 Internal Server Error", 1),
        ("429 Too Many Requests", RETRIES_MAX + 1),
        ("503 Service Unavailable", RETRIES_MAX + 1),
    ] {
        let (result, tries) = read(&[status(line)], None).await;
        assert_eq!(tries, tries_expected, "{line}: {result:?}");
        assert!(result.is_err());
    }
}

#[tokio::test]
async fn a_listing_that_leads_nowhere_is_refused() {
    let page = |json: &str| -> &'static str {
        Box::leak(format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{json}", json.len()).into_boxed_str())
    };
    let one = page(r#"{"entries":[{"name":"a","size":1},{"name":"b"}],"more":true}"#);
    for bad in [
        one,
        page(r#"{"entries":[],"more":true}"#),
        page(r#"{"entries":[{"name":"../../etc/passwd","size":1}],"more":false}"#),
        page("hello"),
    ] {
        let (store, asked) = service(&[one, bad]).await;
        let result = store.list(&Directory::new("d").unwrap()).await;
        assert!(matches!(result, Err(Error::Unusable { .. })), "{result:?}");
        assert_eq!(asked.lock().unwrap().len(), 2);
        assert!(asked.lock().unwrap()[1].starts_with("GET /v1/list/d?after=b HTTP/1.1\r\n"));
    }
    let (store, _) = service(&[one, page(r#"{"entries":[{"name":"c","size":2}],"more":false}"#)]).await;
    let names: Vec<Entry> = store.list(&Directory::root()).await.unwrap();
    assert_eq!(names.iter().map(Entry::name).collect::<Vec<_>>(), ["a", "b", "c"]);
}

#[tokio::test]
async fn requests_are_escaped_and_carry_the_token() {
    let (store, asked) =
        service(&["HTTP/1.1 206 OK\r\ncontent-length: 1\r\ncontent-range: bytes 2-2/3\r\n\r\nc"]).await;
    store.read(&key(), Some(2..3)).await.unwrap();
    let asked = asked.lock().unwrap()[0].to_lowercase();
    assert!(asked.starts_with("get /v1/objects/a/b%20c%252e http/1.1\r\n"), "{asked}");
    assert!(asked.contains("\r\nauthorization: bearer a token\r\n"), "{asked}");
    assert!(asked.contains("\r\nrange: bytes=2-2\r\n"), "{asked}");
}

#[tokio::test]
async fn another_service_is_not_ours() {
    let (store, _) = service(&[GREETING]).await;
    store.greet().await.unwrap();
    for other in [
        "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello",
        "HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n",
        "HTTP/1.1 200 OK\r\ncontent-length: 25\r\n\r\n{\"interface\":\"drydock/2\"}",
    ] {
        let (store, asked) = service(&[other]).await;
        assert!(matches!(store.greet().await, Err(Error::Unusable { .. })), "{other}");
        assert_eq!(asked.lock().unwrap().len(), 1);
    }
}

#[tokio::test]
async fn nothing_is_written_and_nobody_is_asked() {
    let (store, asked) = service(&[GREETING]).await;
    let refused = |error: Error| matches!(error, Error::ReadOnly { .. }) && !error.is_transient();
    assert!(refused(store.create(&key(), Body::default()).await.unwrap_err()));
    assert!(refused(store.delete(&key()).await.unwrap_err()));
    assert!(refused(store.replace(&key(), None, Bytes::new()).await.unwrap_err()));
    assert!(asked.lock().unwrap().is_empty());
}

#[tokio::test]
async fn a_service_that_is_gone_is_tried_for_a_while() {
    let (store, _) = service(&[GREETING]).await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    let gone = HttpStore { base: Url::parse(&address).unwrap(), ..store };
    let error = gone.read(&key(), None).await.unwrap_err();
    let Error::Unavailable { source, .. } = &error else { panic!("{error:?}") };
    assert!(source.to_string().contains("Connection refused"), "{source}");
    assert!(source.to_string().contains(&address), "{source}");
}
