//! Another service's repository, read over HTTP.
//!
//! A node that is to be restored has an address and a token, and no other way to the repository. So this store reads
//! and never writes. What it is told is not believed before it is counted: an answer that is cut, that is shorter or
//! longer than its header says, or that is another range than the one asked for, is an error and never an object.
//!
//! What may pass (a service that is being restarted, a connection that was cut) is tried again here, for all reading
//! is harmless to repeat and a restore is not to begin anew for a moment's absence.
//!
//! The connection is made directly, whatever proxies the environment names.

mod answer;
mod options;
#[cfg(test)]
mod tests;
mod tls;

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use backon::{ExponentialBuilder, Retryable};
use bytes::Bytes;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use reqwest::header::{AUTHORIZATION, HeaderMap, HeaderValue, RANGE};
use reqwest::{Client, Method, RequestBuilder, Response, StatusCode};
use serde::Deserialize;
use tokio::sync::Semaphore;
use url::Url;

use self::answer::Wanted;
pub use self::options::{HttpOptions, Token, parse_address};
use crate::{Body, Directory, Entry, Error, Key, OpenError, Store, Version, memory};

/// The version of the interface that is spoken, and the word that tells a service of ours from any other.
pub const INTERFACE: &str = "drydock/1";

/// Time to connect and agree on keys.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// A service that sends nothing for so long is taken for gone.
const SILENCE_MAX: Duration = Duration::from_secs(30);
/// One request and its answer: 64 MiB in this time is 110 kB/s, and who is slower than that does not finish a restore.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(600);
/// Shorter than a service keeps a connection that is idle, so that we seldom send into one that is being closed.
const IDLE_MAX: Duration = Duration::from_secs(15);
/// Requests at once from one process. Further ones wait here, where they hold neither a connection nor memory.
const REQUESTS_MAX: usize = 8;
/// Waits between tries, which double: about half a minute for all of them, in which a service is restarted.
const RETRY_MIN: Duration = Duration::from_millis(200);
const RETRY_MAX: Duration = Duration::from_secs(5);
const RETRIES_MAX: usize = 9;
/// Pages of a listing. A directory of ours has some thousands of entries, and a page has a thousand.
const PAGES_MAX: usize = 10_000;

/// What is escaped in a part of a key: all that could mean something in a URL.
const ESCAPED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~').remove(b'/');

/// A repository served by `backupd run`, read only.
#[derive(Debug, Clone)]
pub struct HttpStore {
    client: Client,
    base: Url,
    requests: Arc<Semaphore>,
    retry: ExponentialBuilder,
    /// Whether it was said that the service is away. Of many requests that wait for it, one says so.
    away: Arc<AtomicBool>,
}

/// A page of a listing as the service sends it.
#[derive(Debug, Deserialize)]
struct Page {
    entries: Vec<PageEntry>,
    /// Whether names follow after the last one here.
    more: bool,
}

#[derive(Debug, Deserialize)]
struct PageEntry {
    name: String,
    /// Absent for a directory.
    size: Option<u64>,
}

/// What the service says of itself.
#[derive(Debug, Deserialize)]
struct Greeting {
    interface: String,
}

/// TLS as every part of the program has it: that trusts the authorities in `ca_file`, or the system's where there is no file.
pub fn tls_config(ca_file: Option<&Path>) -> Result<rustls::ClientConfig, OpenError> {
    tls::config(ca_file)
}

impl HttpStore {
    /// Opens the repository at `address`, and sees that a service of ours answers there and takes the token.
    pub async fn open(address: &str, options: &HttpOptions) -> Result<HttpStore, OpenError> {
        let store = HttpStore::new(address, options)?;
        store.greet().await?;
        Ok(store)
    }

    fn new(address: &str, options: &HttpOptions) -> Result<HttpStore, OpenError> {
        let base = options.check(address)?;
        let token = options.token.as_ref().ok_or_else(|| OpenError::NoToken(address.to_owned()))?;
        let mut bearer = HeaderValue::try_from(format!("Bearer {}", token.expose()))
            .map_err(|_unprintable| OpenError::Token)?;
        bearer.set_sensitive(true);
        let client = Client::builder()
            .tls_backend_preconfigured(tls::config(options.ca_file.as_deref())?)
            .default_headers(HeaderMap::from_iter([(AUTHORIZATION, bearer)]))
            // The token is for this service, not for whomever it or the environment names.
            .redirect(reqwest::redirect::Policy::none())
            .no_proxy()
            .retry(reqwest::retry::never())
            .connect_timeout(CONNECT_TIMEOUT)
            .read_timeout(SILENCE_MAX)
            .timeout(REQUEST_TIMEOUT)
            .pool_idle_timeout(IDLE_MAX)
            .pool_max_idle_per_host(REQUESTS_MAX)
            .build()
            .map_err(|error| OpenError::Tls { source: std::io::Error::other(error) })?;
        let retry = ExponentialBuilder::default()
            .with_min_delay(RETRY_MIN)
            .with_max_delay(RETRY_MAX)
            .with_max_times(RETRIES_MAX)
            .with_jitter();
        Ok(HttpStore {
            client,
            base,
            requests: Arc::new(Semaphore::new(REQUESTS_MAX)),
            retry,
            away: Arc::default(),
        })
    }

    async fn greet(&self) -> Result<(), Error> {
        let ask = Ask { action: "open", name: "the repository", method: Method::GET, path: "/v1/repository" };
        let said = self.retried(|| self.document::<Greeting>(&ask, None)).await;
        match said {
            Ok(greeting) if greeting.interface == INTERFACE => Ok(()),
            Ok(greeting) => Err(self.unusable(format!(
                "it speaks {}, and we speak {INTERFACE}; use programs of the same version",
                greeting.interface
            ))),
            Err(Error::NotFound { .. }) => Err(self.unusable("what answers there is no service of ours")),
            Err(error) => Err(error),
        }
    }

    /// Tries again what may pass, as often as [`RETRIES_MAX`] says.
    async fn retried<T, F: Future<Output = Result<T, Error>>>(
        &self,
        call: impl FnMut() -> F,
    ) -> Result<T, Error> {
        let say = |error: &Error, _wait: Duration| {
            if !self.away.swap(true, Ordering::Relaxed) {
                let cause = std::error::Error::source(error).map(ToString::to_string).unwrap_or_default();
                tracing::warn!("{error}, trying again for half a minute: {cause}");
            }
        };
        let result = call.retry(self.retry).when(Error::is_transient).notify(say).await;
        if result.is_ok() {
            self.away.store(false, Ordering::Relaxed);
        }
        result
    }

    fn url(&self, path: &str) -> Url {
        let mut url = self.base.clone();
        url.set_path(path);
        url
    }

    fn request(&self, ask: &Ask<'_>) -> RequestBuilder {
        self.client.request(ask.method.clone(), self.url(ask.path))
    }

    /// Sends a request; what comes back has one of these statuses.
    async fn send(
        &self,
        ask: &Ask<'_>,
        request: RequestBuilder,
        good: &[StatusCode],
    ) -> Result<Response, Error> {
        let response = request.send().await.map_err(|error| self.failed(ask, &error))?;
        match response.status() {
            status if good.contains(&status) => Ok(response),
            StatusCode::NOT_FOUND => Err(Error::NotFound { key: ask.name.to_owned() }),
            StatusCode::UNAUTHORIZED => Err(Error::Unauthorized { address: self.address() }),
            StatusCode::REQUEST_TIMEOUT
            | StatusCode::TOO_MANY_REQUESTS
            | StatusCode::BAD_GATEWAY
            | StatusCode::SERVICE_UNAVAILABLE
            | StatusCode::GATEWAY_TIMEOUT => {
                Err(self.unavailable(ask, format!("answers {}", response.status())))
            }
            StatusCode::INTERNAL_SERVER_ERROR => {
                Err(self.unusable(format!("it cannot read {} itself, and its log says why", ask.name)))
            }
            status => Err(self.unusable(format!("it answers {status}, so it is no service of ours"))),
        }
    }

    /// Reads the part of an object that `range` names; once.
    async fn read_once(&self, key: &Key, range: Option<Range<u64>>) -> Result<Bytes, Error> {
        let path = object_path(key);
        let ask = Ask { action: "read", name: key.as_str(), method: Method::GET, path: &path };
        // Only closing the semaphore makes this fail, and nobody does.
        let _turn = self.requests.acquire().await;
        let Some(range) = range else {
            let response = self.send(&ask, self.request(&ask), &[StatusCode::OK]).await?;
            return self.body(&ask, response, &Wanted::Whole).await;
        };
        let last = range.end.saturating_sub(1);
        let request = self.request(&ask).header(RANGE, format!("bytes={}-{last}", range.start));
        let good = [StatusCode::PARTIAL_CONTENT, StatusCode::RANGE_NOT_SATISFIABLE];
        let response = self.send(&ask, request, &good).await?;
        if response.status() == StatusCode::RANGE_NOT_SATISFIABLE {
            return Ok(Bytes::new());
        }
        self.body(&ask, response, &Wanted::Range(range)).await
    }

    async fn size_once(&self, key: &Key) -> Result<u64, Error> {
        let path = object_path(key);
        let ask = Ask { action: "look at", name: key.as_str(), method: Method::HEAD, path: &path };
        let _turn = self.requests.acquire().await;
        let response = self.send(&ask, self.request(&ask), &[StatusCode::OK]).await?;
        answer::length(response.headers()).map_err(|reason| self.unavailable(&ask, reason))
    }

    async fn page(&self, directory: &Directory, after: Option<&str>) -> Result<Page, Error> {
        let path = format!("/v1/list/{}", utf8_percent_encode(directory.as_str(), ESCAPED));
        let name = if directory.as_str().is_empty() { "the repository" } else { directory.as_str() };
        let ask = Ask { action: "list", name, method: Method::GET, path: &path };
        let page: Page = self.retried(|| self.document(&ask, after)).await?;
        answer::check_names(page.entries.iter().map(|entry| entry.name.as_str()), after, page.more)
            .map_err(|reason| self.unusable(format!("{reason} in its listing of {name}")))?;
        Ok(page)
    }

    async fn document<T: for<'de> Deserialize<'de>>(
        &self,
        ask: &Ask<'_>,
        after: Option<&str>,
    ) -> Result<T, Error> {
        let _turn = self.requests.acquire().await;
        let mut url = self.url(ask.path);
        if let Some(after) = after {
            url.query_pairs_mut().append_pair("after", after);
        }
        let request = self.client.request(ask.method.clone(), url);
        let response = self.send(ask, request, &[StatusCode::OK]).await?;
        let bytes = self.body(ask, response, &Wanted::Document).await?;
        serde_json::from_slice(&bytes)
            .map_err(|_other| self.unusable("what answers there is no service of ours"))
    }

    async fn body(&self, ask: &Ask<'_>, mut response: Response, wanted: &Wanted) -> Result<Bytes, Error> {
        let mut body = answer::Counted::begin(response.headers(), wanted)
            .map_err(|reason| self.unavailable(ask, reason))?;
        while let Some(chunk) = response.chunk().await.map_err(|error| self.failed(ask, &error))? {
            body.push(&chunk).map_err(|reason| self.unavailable(ask, reason))?;
        }
        body.end().map_err(|reason| self.unavailable(ask, reason))
    }

    fn failed(&self, ask: &Ask<'_>, error: &reqwest::Error) -> Error {
        match tls::refusal(error) {
            Some(source) => Error::Untrusted { address: self.address(), source },
            None => self.unavailable(ask, format!("does not answer: {}", answer::root_cause(error))),
        }
    }

    fn unavailable(&self, ask: &Ask<'_>, what: impl std::fmt::Display) -> Error {
        let source = std::io::Error::other(format!("{} {what}", self.address()));
        Error::Unavailable { action: ask.action, key: ask.name.to_owned(), source }
    }

    fn unusable(&self, reason: impl Into<String>) -> Error {
        Error::Unusable { address: self.address(), reason: reason.into() }
    }

    fn read_only(&self) -> Error {
        Error::ReadOnly { address: self.address() }
    }
}

/// A request, and how messages name it.
struct Ask<'a> {
    action: &'static str,
    name: &'a str,
    method: Method,
    path: &'a str,
}

fn object_path(key: &Key) -> String {
    format!("/v1/objects/{}", utf8_percent_encode(key.as_str(), ESCAPED))
}

#[async_trait]
impl Store for HttpStore {
    async fn create(&self, _key: &Key, _body: Body) -> Result<(), Error> {
        Err(self.read_only())
    }

    async fn read(&self, key: &Key, range: Option<Range<u64>>) -> Result<Bytes, Error> {
        if range.as_ref().is_some_and(Range::is_empty) {
            // No range of HTTP is empty, but whether the object is there is a question all the same.
            return self.size(key).await.map(|_size| Bytes::new());
        }
        self.retried(|| self.read_once(key, range.clone())).await
    }

    async fn size(&self, key: &Key) -> Result<u64, Error> {
        self.retried(|| self.size_once(key)).await
    }

    async fn list(&self, directory: &Directory) -> Result<Vec<Entry>, Error> {
        let mut entries: Vec<Entry> = Vec::new();
        for _ in 0..PAGES_MAX {
            let page = self.page(directory, entries.last().map(Entry::name)).await?;
            entries.extend(page.entries.into_iter().map(|PageEntry { name, size }| match size {
                Some(size) => Entry::Object { name, size },
                None => Entry::Directory { name },
            }));
            if !page.more {
                return Ok(entries);
            }
        }
        Err(self.unusable(format!("its listing of {} does not end", directory.as_str())))
    }

    async fn delete(&self, _key: &Key) -> Result<(), Error> {
        Err(self.read_only())
    }

    async fn read_version(&self, key: &Key) -> Result<Option<(Bytes, Version)>, Error> {
        match self.read(key, None).await {
            Err(Error::NotFound { .. }) => Ok(None),
            bytes => bytes.map(|bytes| Some((bytes.clone(), memory::version(&bytes)))),
        }
    }

    async fn replace(&self, _key: &Key, _expected: Option<&Version>, _body: Bytes) -> Result<Version, Error> {
        Err(self.read_only())
    }

    fn address(&self) -> String {
        self.base.as_str().trim_end_matches('/').to_owned()
    }
}
