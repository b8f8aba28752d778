//! What is needed to reach a bucket and to store in it. Pure values; nothing here talks to anybody.

use std::fmt;
use std::num::NonZeroU64;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::Directory;

/// Requests under way at once. Enough to keep a 10 Gbit/s line busy with packs, few enough for any server.
const REQUESTS_MAX_DEFAULT: usize = 16;
/// Servers of other regions answer a connection within a fraction of this.
const CONNECT_TIMEOUT_DEFAULT: Duration = Duration::from_secs(10);
/// S3 itself gives up on a silent connection after 20 s, other servers after a minute.
const REQUEST_TIMEOUT_DEFAULT: Duration = Duration::from_secs(60);
/// What is shorter than this is hidden from the caller; what is longer is the caller's to wait for.
const RETRY_TIME_DEFAULT: Duration = Duration::from_secs(30);
/// A bucket's name has at most this many bytes.
const BUCKET_BYTES_MAX: usize = 63;

/// A bucket, a prefix in it, and how to use them.
#[derive(Debug, Clone)]
pub struct S3Config {
    /// Name of the bucket.
    pub bucket: String,
    /// Below which names everything lies.
    pub prefix: Directory,
    /// Everything that has a default.
    pub options: S3Options,
}

/// How to reach a bucket and how to store in it. The defaults suit AWS.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct S3Options {
    /// Region; else what the environment or the profile says, else `us-east-1`.
    pub region: Option<String>,
    /// URL of a server other than AWS.
    pub endpoint: Option<String>,
    /// Whether the bucket stands in the path of a URL and not in its host name; by default it does with an endpoint.
    pub path_style: Option<bool>,
    /// Certificates in PEM to trust besides those of the system.
    pub ca_file: Option<PathBuf>,
    /// Profile in the files of the AWS command line.
    pub profile: Option<String>,
    /// File with credentials, in the form of `~/.aws/credentials`. Without one they come from the environment, the profile,
    /// a web identity, or the metadata service of the container or machine, whichever is first.
    pub credentials_file: Option<PathBuf>,
    /// How the server encrypts what it stores.
    pub encryption: Encryption,
    /// Storage class, and the objects that get it.
    pub storage_class: Option<(String, Selector)>,
    /// Tags of each object, by name and value.
    pub tags: Vec<(String, String)>,
    /// For how long objects cannot be deleted.
    pub lock: Option<Lock>,
    /// Bytes per second that are sent at most, by all requests together.
    pub upload_rate: Option<NonZeroU64>,
    /// Bytes per second that are received at most, by all requests together.
    pub download_rate: Option<NonZeroU64>,
    /// Requests under way at once.
    pub requests_max: usize,
    /// How long a connection may take to be made.
    pub connect_timeout: Duration,
    /// How long a request may stand still. One that moves, however slowly, goes on.
    pub request_timeout: Duration,
    /// For how long a call tries again what failed and may pass.
    pub retry_time: Duration,
}

/// How the server encrypts what it stores.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Encryption {
    /// As the bucket says.
    #[default]
    Bucket,
    /// SSE-S3: with the server's own keys.
    Server,
    /// SSE-KMS: with a key of the key service; with the account's own key where none is named.
    Kms(Option<String>),
}

/// Object Lock: for how long objects cannot be deleted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lock {
    /// Who may shorten it.
    pub mode: LockMode,
    /// Days from when the object is created.
    pub days: u32,
    /// The objects that are locked.
    pub objects: Selector,
}

/// Who may shorten a lock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LockMode {
    /// Those with a right of their own for it.
    Governance,
    /// Nobody.
    Compliance,
}

/// Chooses objects by their key and size. The key is the whole one, without the prefix.
#[derive(Clone)]
pub struct Selector(Arc<Choose>);

impl PartialEq for Selector {
    /// Whether both are copies of one; what two closures choose cannot be compared.
    fn eq(&self, other: &Selector) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for Selector {}

type Choose = dyn Fn(&str, u64) -> bool + Send + Sync;

impl Selector {
    /// Those for which `choose` says so; it gets key and size in bytes.
    pub fn new(choose: impl Fn(&str, u64) -> bool + Send + Sync + 'static) -> Selector {
        Selector(Arc::new(choose))
    }

    /// All objects.
    pub fn all() -> Selector {
        Selector::new(|_, _| true)
    }

    /// Objects that lie in a directory of this name, at any depth.
    pub fn below(directory: &str) -> Selector {
        let name = directory.to_owned();
        Selector::new(move |key, _| key.split('/').rev().skip(1).any(|part| part == name))
    }

    pub(crate) fn chooses(&self, key: &str, size: u64) -> bool {
        (self.0)(key, size)
    }
}

impl fmt::Debug for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Selector")
    }
}

impl Default for S3Options {
    fn default() -> S3Options {
        S3Options {
            region: None,
            endpoint: None,
            path_style: None,
            ca_file: None,
            profile: None,
            credentials_file: None,
            encryption: Encryption::default(),
            storage_class: None,
            tags: Vec::new(),
            lock: None,
            upload_rate: None,
            download_rate: None,
            requests_max: REQUESTS_MAX_DEFAULT,
            connect_timeout: CONNECT_TIMEOUT_DEFAULT,
            request_timeout: REQUEST_TIMEOUT_DEFAULT,
            retry_time: RETRY_TIME_DEFAULT,
        }
    }
}

impl S3Config {
    /// Reads `s3://bucket/prefix`; `None` if it is none.
    pub fn parse(address: &str, options: S3Options) -> Option<S3Config> {
        let rest = address.strip_prefix("s3://")?;
        let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_');
        let named = !bucket.is_empty() && bucket.len() <= BUCKET_BYTES_MAX && bucket.chars().all(plain);
        // What follows these in a URL has a meaning elsewhere, and would be a part of every name here.
        let prefix = Some(prefix).filter(|prefix| named && !prefix.contains(['?', '#']))?;
        let prefix = Directory::new(prefix.strip_suffix('/').unwrap_or(prefix)).ok()?;
        Some(S3Config { bucket: bucket.to_owned(), prefix, options })
    }

    /// The address, as it was given.
    pub(crate) fn address(&self) -> String {
        match self.prefix.as_str() {
            "" => format!("s3://{}", self.bucket),
            prefix => format!("s3://{}/{prefix}", self.bucket),
        }
    }

    /// What the server calls the object or directory `name`.
    pub(crate) fn object(&self, name: &str) -> String {
        match self.prefix.as_str() {
            "" => name.to_owned(),
            prefix => format!("{prefix}/{name}"),
        }
    }

    pub(crate) fn path_style(&self) -> bool {
        self.options.path_style.unwrap_or(self.options.endpoint.is_some())
    }

    /// Where the bucket is, for messages.
    pub(crate) fn place(&self) -> String {
        self.options.endpoint.clone().unwrap_or_else(|| "AWS".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_an_address() {
        for (address, bucket, prefix) in [
            ("s3://backups", "backups", ""),
            ("s3://backups/", "backups", ""),
            ("s3://backups/main", "backups", "main"),
            ("s3://my.bucket-1/a/b c/", "my.bucket-1", "a/b c"),
        ] {
            let config = S3Config::parse(address, S3Options::default()).unwrap();
            assert_eq!((config.bucket.as_str(), config.prefix.as_str()), (bucket, prefix), "{address}");
        }
    }

    #[test]
    fn refuses_what_is_no_address() {
        for address in [
            "s3://",
            "s3:///prefix",
            "s3://user@bucket",
            "s3://bucket:9000/x",
            "s3://b/p?region=x",
            "s3://b/../c",
            "s3://b//c",
            "s3://b/.hidden",
            "file:///x",
            "S3://bucket",
        ] {
            assert!(S3Config::parse(address, S3Options::default()).is_none(), "{address}");
        }
    }

    #[test]
    fn a_selector_looks_at_directories_only() {
        let packs = Selector::below("packs");
        assert!(packs.chooses("main/backups/1/packs/7", 1));
        assert!(packs.chooses("packs/7", 1));
        assert!(!packs.chooses("main/backups/1/packs", 1));
        assert!(!packs.chooses("main/backups/packs-2/7", 1));
        assert!(Selector::new(|_, size| size >= 10).chooses("x", 10));
    }
}
