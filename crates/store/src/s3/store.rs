//! The requests that the calls of a [`Store`] are made of.

use std::ops::Range;
use std::sync::Arc;
use std::time::SystemTime;

use async_trait::async_trait;
use aws_sdk_s3::operation::put_object::builders::PutObjectFluentBuilder;
use aws_sdk_s3::primitives::{ByteStream, DateTime, DateTimeFormat, SdkBody};
use aws_sdk_s3::types::{ObjectLockMode, ServerSideEncryption, StorageClass};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::{Bytes, BytesMut};

use super::client::{Connection, Failed};
use super::conditional::Conditional;
use super::config::{Encryption, Lock, LockMode, S3Config};
use super::errors::{Fault, Kind, innermost};
use super::limit::{Progress, pass};
use super::upload::Upload;
use super::usage::{Request, Usage};
use crate::{Body, Directory, Entry, Error, Key, OpenError, Store, Version, key, memory};

/// Room that is made at once for a body, however long the server says it is.
const RECEIVE_BYTES_AT_ONCE_MAX: usize = 64 * 1024 * 1024;
/// Pages of up to 1,000 names in one listing. A directory of ours has some thousands of names at most.
const LIST_PAGES_MAX: usize = 10_000;
const DAY_SECONDS: i64 = 24 * 3600;

/// Objects in a bucket.
#[derive(Debug)]
pub struct S3Store {
    connection: Connection,
    conditional: Conditional,
}

/// On what condition an object is written.
#[derive(Debug, Clone)]
pub(crate) enum Condition {
    /// None: somebody has looked before.
    Looked,
    /// It is not there.
    Absent,
    /// It is there and has this ETag.
    Version(String),
}

/// What GetObject gave.
struct Got {
    bytes: Bytes,
    etag: Option<String>,
}

/// What HeadObject gave.
struct Seen {
    etag: Option<String>,
    locked_until: Option<DateTime>,
    size: u64,
}

impl S3Store {
    /// Makes the client. Nothing is asked of the server yet, which may be away.
    pub async fn open(config: S3Config) -> Result<S3Store, OpenError> {
        Ok(S3Store { connection: Connection::open(config).await?, conditional: Conditional::default() })
    }

    /// What was asked of the server since this was opened.
    pub fn usage(&self) -> Usage {
        self.connection.counters.read()
    }

    pub(crate) fn place(&self) -> String {
        self.config().place()
    }

    fn config(&self) -> &S3Config {
        &self.connection.config
    }

    /// Writes an object and gives its ETag.
    pub(crate) async fn put(
        &self,
        name: &str,
        body: &Body,
        condition: &Condition,
    ) -> Result<Option<String>, Failed> {
        let config = self.config();
        let object = config.object(name);
        let checksum = checksum(body);
        let attempt = |client: aws_sdk_s3::Client, progress: Arc<Progress>| {
            let counters = self.connection.counters.clone();
            let upload = Upload::new(body, self.connection.upload.clone(), progress, counters);
            let put = client
                .put_object()
                .bucket(&config.bucket)
                .key(&object)
                .checksum_crc32_c(&checksum)
                .content_length(i64::try_from(body.len()).unwrap_or(i64::MAX))
                .body(ByteStream::new(if body.is_empty() {
                    SdkBody::empty()
                } else {
                    SdkBody::from_body_1_x(upload)
                }));
            let put = on_condition(with_attributes(put, config, name, body.len()), condition);
            async move {
                let sent = put.send().await;
                sent.map(|done| done.e_tag).map_err(|error| Fault::from_sdk(config, Request::Put, error))
            }
        };
        self.connection.request(Request::Put, body.len(), attempt).await
    }

    async fn get(&self, name: &str, range: Option<&Range<u64>>) -> Result<Got, Failed> {
        let config = self.config();
        let object = config.object(name);
        // Of S3, the last byte is the last one that is wanted.
        let wanted = range.map(|range| format!("bytes={}-{}", range.start, range.end.saturating_sub(1)));
        let attempt = |client: aws_sdk_s3::Client, progress: Arc<Progress>| {
            let get = client.get_object().bucket(&config.bucket).key(&object).set_range(wanted.clone());
            async move {
                let sent = get.send().await;
                let answer = sent.map_err(|error| Fault::from_sdk(config, Request::Get, error))?;
                progress.moved();
                let partial = answer.content_range.is_some();
                let bytes = self.receive(answer.body, answer.content_length, &progress).await?;
                // Some servers do not know ranges and give everything.
                let bytes = memory::slice(&bytes, range.filter(|_| !partial).cloned());
                Ok(Got { bytes, etag: answer.e_tag })
            }
        };
        self.connection.request(Request::Get, 0, attempt).await
    }

    /// Reads a body to its end, where the SDK compares the checksum that the server gave for a whole object.
    async fn receive(
        &self,
        mut body: ByteStream,
        announced: Option<i64>,
        progress: &Progress,
    ) -> Result<Bytes, Fault> {
        let announced = announced.and_then(|announced| usize::try_from(announced).ok());
        let mut bytes = BytesMut::with_capacity(announced.unwrap_or(0).min(RECEIVE_BYTES_AT_ONCE_MAX));
        while let Some(chunk) = body.next().await {
            let chunk = chunk.map_err(|error| {
                let (place, cause) = (self.place(), innermost(&error));
                // The checksum is compared when all has come.
                let kind = if Some(bytes.len()) == announced { Kind::Changed } else { Kind::Passing };
                Fault::new(kind, format!("what {place} sent did not arrive whole: {cause}"))
            })?;
            progress.moved();
            self.connection.counters.received(chunk.len());
            pass(self.connection.download.as_deref(), chunk.len(), progress).await;
            bytes.extend_from_slice(&chunk);
        }
        Ok(bytes.freeze())
    }

    async fn head(&self, name: &str) -> Result<Option<Seen>, Failed> {
        let config = self.config();
        let object = config.object(name);
        let attempt = |client: aws_sdk_s3::Client, _| {
            let head = client.head_object().bucket(&config.bucket).key(&object);
            async move {
                let sent = head.send().await;
                let answer = sent.map_err(|error| Fault::from_sdk(config, Request::Head, error))?;
                let size = answer.content_length.and_then(|size| u64::try_from(size).ok()).unwrap_or(0);
                Ok(Seen { etag: answer.e_tag, locked_until: answer.object_lock_retain_until_date, size })
            }
        };
        match self.connection.request(Request::Head, 0, attempt).await {
            Err(failed) if failed.fault.kind == Kind::NotFound => Ok(None),
            seen => seen.map(Some),
        }
    }

    /// Creates an object; `Ok(None)` if the key is taken.
    async fn create_once(&self, name: &str, body: &Body) -> Result<Option<Version>, Failed> {
        if self.conditional.creates(self).await? {
            return self.write(name, body, &Condition::Absent).await;
        }
        let _gate = self.conditional.gate(name).await;
        match self.head(name).await? {
            Some(_) => Ok(None),
            None => self.write(name, body, &Condition::Looked).await,
        }
    }

    async fn replace_once(
        &self,
        name: &str,
        version: &Version,
        body: &Body,
    ) -> Result<Option<Version>, Failed> {
        if self.conditional.replaces(self).await? {
            return self.write(name, body, &Condition::Version(version.0.clone())).await;
        }
        let _gate = self.conditional.gate(name).await;
        let unchanged = self.head(name).await?.is_some_and(|seen| seen.etag.as_ref() == Some(&version.0));
        if unchanged { self.write(name, body, &Condition::Looked).await } else { Ok(None) }
    }

    /// Writes an object; `Ok(None)` if its condition does not hold. Where it was left open whether it was written, we
    /// look.
    async fn write(&self, name: &str, body: &Body, condition: &Condition) -> Result<Option<Version>, Failed> {
        let failed = match self.put(name, body, condition).await {
            Ok(Some(etag)) => return Ok(Some(Version(etag))),
            Ok(None) => return self.found(name).await,
            Err(failed) => failed,
        };
        let condition_fails = match failed.fault.kind {
            Kind::Condition => true,
            // What was to be replaced is gone.
            Kind::NotFound => matches!(condition, Condition::Version(_)),
            _ => false,
        };
        if !failed.undecided {
            return if condition_fails { Ok(None) } else { Err(failed) };
        }
        match self.get(name, None).await {
            Ok(there) if same(&there.bytes, body) => {
                tracing::debug!(name, "an object whose writing was left open was written");
                Ok(Some(Version(there.etag.unwrap_or_default())))
            }
            Ok(_) if condition_fails => Ok(None),
            // It holds what it held before.
            Ok(_) => Err(failed),
            Err(look) if look.fault.kind == Kind::NotFound => {
                Err(Failed { fault: failed.fault.left_open(), undecided: true })
            }
            Err(look) => Err(Failed { undecided: true, ..look }),
        }
    }

    /// The version of an object just written, where the server did not say.
    async fn found(&self, name: &str) -> Result<Option<Version>, Failed> {
        let seen = self.head(name).await?;
        Ok(Some(Version(seen.and_then(|seen| seen.etag).unwrap_or_default())))
    }

    async fn list_all(&self, directory: &Directory) -> Result<Vec<Entry>, Failed> {
        let prefix = match self.config().object(directory.as_str()).trim_end_matches('/') {
            "" => String::new(),
            name => format!("{name}/"),
        };
        let mut entries = Vec::new();
        let mut after = None;
        for _ in 0..LIST_PAGES_MAX {
            let mut page = self.list_page(&prefix, after.as_deref()).await?;
            entries.append(&mut page.entries);
            after = page.next;
            if after.is_none() {
                // The server orders a directory by its name with the slash.
                entries.sort_by(|a, b| a.name().cmp(b.name()));
                return Ok(entries);
            }
        }
        let text = format!("it has more than {LIST_PAGES_MAX} pages of names");
        Err(Failed { fault: Fault::new(Kind::Refused, text), undecided: false })
    }

    async fn list_page(&self, prefix: &str, after: Option<&str>) -> Result<Page, Failed> {
        let config = self.config();
        let attempt = |client: aws_sdk_s3::Client, _| {
            let list = client
                .list_objects_v2()
                .bucket(&config.bucket)
                .prefix(prefix)
                .delimiter("/")
                .set_continuation_token(after.map(str::to_owned));
            async move {
                let sent = list.send().await;
                let answer = sent.map_err(|error| Fault::from_sdk(config, Request::List, error))?;
                let more = answer.is_truncated.unwrap_or(false);
                if more && answer.next_continuation_token.is_none() {
                    let text = format!("{} broke off a listing without saying where", config.place());
                    return Err(Fault::new(Kind::Passing, text));
                }
                Ok(Page {
                    entries: entries(prefix, &answer),
                    next: answer.next_continuation_token.filter(|_| more),
                })
            }
        };
        self.connection.request(Request::List, 0, attempt).await
    }

    /// Until when the server keeps an object from being deleted, if it does.
    async fn locked_until(&self, name: &str) -> Result<Option<String>, Failed> {
        let until = self.head(name).await?.and_then(|seen| seen.locked_until);
        let until = until.filter(|until| *until > DateTime::from(SystemTime::now()));
        Ok(until
            .map(|until| until.fmt(DateTimeFormat::DateTime).unwrap_or_else(|_| until.secs().to_string())))
    }

    /// On a bucket with versions, deleting a locked object would only hide it, and the hidden one would cost what it cost
    /// before. So where objects are locked by us, we look first.
    async fn delete_once(&self, name: &str) -> Result<Option<String>, Failed> {
        let locks = self.config().options.lock.as_ref();
        if locks.is_some_and(|lock| lock.objects.chooses(name, 0))
            && let Some(until) = self.locked_until(name).await?
        {
            return Ok(Some(until));
        }
        let config = self.config();
        let object = config.object(name);
        let attempt = |client: aws_sdk_s3::Client, _| {
            let delete = client.delete_object().bucket(&config.bucket).key(&object);
            async move {
                let sent = delete.send().await;
                sent.map(drop).map_err(|error| Fault::from_sdk(config, Request::Delete, error))
            }
        };
        let failed = match self.connection.request(Request::Delete, 0, attempt).await {
            Ok(()) => return Ok(None),
            Err(failed) if failed.fault.kind == Kind::NotFound => return Ok(None),
            Err(failed) => failed,
        };
        // Servers say no more than that it is forbidden.
        match failed.fault.kind {
            Kind::Denied | Kind::Refused => match self.locked_until(name).await {
                Ok(Some(until)) => Ok(Some(until)),
                Ok(None) | Err(_) => Err(failed),
            },
            _ => Err(failed),
        }
    }
}

struct Page {
    entries: Vec<Entry>,
    next: Option<String>,
}

fn same(bytes: &Bytes, body: &Body) -> bool {
    let mut rest = &bytes[..];
    let all = body.chunks().iter().all(|chunk| match rest.split_at_checked(chunk.len()) {
        Some((head, tail)) => {
            rest = tail;
            head == chunk
        }
        None => false,
    });
    all && rest.is_empty()
}

/// CRC-32C of a body, as S3 writes it.
fn checksum(body: &Body) -> String {
    let sum = body.chunks().iter().fold(0, |sum, chunk| crc32c::crc32c_append(sum, chunk));
    BASE64.encode(sum.to_be_bytes())
}

fn on_condition(put: PutObjectFluentBuilder, condition: &Condition) -> PutObjectFluentBuilder {
    match condition {
        Condition::Looked => put,
        Condition::Absent => put.if_none_match("*"),
        Condition::Version(etag) => put.if_match(etag),
    }
}

fn with_attributes(
    put: PutObjectFluentBuilder,
    config: &S3Config,
    name: &str,
    size: u64,
) -> PutObjectFluentBuilder {
    let options = &config.options;
    let mut put = match &options.encryption {
        Encryption::Bucket => put,
        Encryption::Server => put.server_side_encryption(ServerSideEncryption::Aes256),
        Encryption::Kms(key) => {
            put.server_side_encryption(ServerSideEncryption::AwsKms).set_ssekms_key_id(key.clone())
        }
    };
    if let Some((class, objects)) = &options.storage_class
        && objects.chooses(name, size)
    {
        put = put.storage_class(StorageClass::from(class.as_str()));
    }
    if !options.tags.is_empty() {
        put = put.tagging(
            url::form_urlencoded::Serializer::new(String::new()).extend_pairs(&options.tags).finish(),
        );
    }
    match &options.lock {
        Some(lock) if lock.objects.chooses(name, size) => with_lock(put, lock),
        _ => put,
    }
}

fn with_lock(put: PutObjectFluentBuilder, lock: &Lock) -> PutObjectFluentBuilder {
    let mode = match lock.mode {
        LockMode::Governance => ObjectLockMode::Governance,
        LockMode::Compliance => ObjectLockMode::Compliance,
    };
    let now = DateTime::from(SystemTime::now()).secs();
    let until = DateTime::from_secs(now + i64::from(lock.days) * DAY_SECONDS);
    put.object_lock_mode(mode).object_lock_retain_until_date(until)
}

/// The entries of one page. What cannot be a key is not ours and is passed over.
fn entries(prefix: &str, page: &aws_sdk_s3::operation::list_objects_v2::ListObjectsV2Output) -> Vec<Entry> {
    let ours = |name: &&str| key::is_part(name);
    let objects = page.contents().iter().filter_map(|object| {
        let name = object.key()?.strip_prefix(prefix).filter(ours)?;
        let size = u64::try_from(object.size().unwrap_or(0)).unwrap_or(0);
        Some(Entry::Object { name: name.to_owned(), size })
    });
    let directories = page.common_prefixes().iter().filter_map(|directory| {
        let name = directory.prefix()?.strip_prefix(prefix)?.strip_suffix('/').filter(ours)?;
        Some(Entry::Directory { name: name.to_owned() })
    });
    objects.chain(directories).collect()
}

#[async_trait]
impl Store for S3Store {
    async fn create(&self, key: &Key, body: Body) -> Result<(), Error> {
        match self.create_once(key.as_str(), &body).await {
            Ok(Some(_)) => Ok(()),
            Ok(None) => Err(Error::Exists { key: key.to_string() }),
            Err(failed) => Err(failed.fault.into_error("create", key.as_str())),
        }
    }

    async fn read(&self, key: &Key, range: Option<Range<u64>>) -> Result<Bytes, Error> {
        let name = key.as_str();
        let failure = |failed: Failed| failed.fault.into_error("read", name);
        // A range of no bytes cannot be asked for.
        if range.as_ref().is_some_and(|range| range.start >= range.end) {
            let there = self.head(name).await.map_err(failure)?;
            return there.map(|_| Bytes::new()).ok_or_else(|| Error::NotFound { key: key.to_string() });
        }
        match self.get(name, range.as_ref()).await {
            Ok(got) => Ok(got.bytes),
            Err(failed) if failed.fault.kind == Kind::PastTheEnd => Ok(Bytes::new()),
            Err(failed) => Err(failure(failed)),
        }
    }

    async fn size(&self, key: &Key) -> Result<u64, Error> {
        let seen = self.head(key.as_str()).await;
        let seen = seen.map_err(|failed| failed.fault.into_error("look at", key.as_str()))?;
        seen.map(|seen| seen.size).ok_or_else(|| Error::NotFound { key: key.to_string() })
    }

    async fn list(&self, directory: &Directory) -> Result<Vec<Entry>, Error> {
        let name = match directory.as_str() {
            "" => self.address(),
            name => name.to_owned(),
        };
        self.list_all(directory).await.map_err(|failed| failed.fault.into_error("list", &name))
    }

    async fn delete(&self, key: &Key) -> Result<(), Error> {
        match self.delete_once(key.as_str()).await {
            Ok(None) => Ok(()),
            Ok(Some(until)) => Err(Error::Locked { key: key.to_string(), until }),
            Err(failed) => Err(failed.fault.into_error("delete", key.as_str())),
        }
    }

    async fn read_version(&self, key: &Key) -> Result<Option<(Bytes, Version)>, Error> {
        match self.get(key.as_str(), None).await {
            Ok(got) => Ok(Some((got.bytes, Version(got.etag.unwrap_or_default())))),
            Err(failed) if failed.fault.kind == Kind::NotFound => Ok(None),
            Err(failed) => Err(failed.fault.into_error("read", key.as_str())),
        }
    }

    async fn replace(&self, key: &Key, expected: Option<&Version>, body: Bytes) -> Result<Version, Error> {
        let (name, body) = (key.as_str(), Body::from(body));
        let replaced = match expected {
            None => self.create_once(name, &body).await,
            Some(version) => self.replace_once(name, version, &body).await,
        };
        match replaced {
            Ok(Some(version)) => Ok(version),
            Ok(None) => Err(Error::Changed { key: key.to_string() }),
            Err(failed) => Err(failed.fault.into_error("replace", name)),
        }
    }

    fn address(&self) -> String {
        self.config().address()
    }
}
