//! An S3 server inside the test: s3s-fs over real HTTP on loopback, which checks signatures, with what it lacks or does
//! not do on its own around it.

use std::collections::HashSet;
use std::fs;
use std::io::Write;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use async_trait::async_trait;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto::Builder;
use s3s::access::{S3Access, S3AccessContext};
use s3s::auth::SimpleAuth;
use s3s::config::{S3Config as ServerConfig, StaticConfigProvider};
use s3s::dto::*;
use s3s::service::{S3Service, S3ServiceBuilder};
use s3s::{S3, S3Error, S3ErrorCode, S3Request, S3Response, S3Result, s3_error};
use s3s_fs::FileSystem;
use tempfile::TempDir;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

pub const BUCKET: &str = "backups";

/// Whether writes can have conditions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Writes {
    /// As on AWS.
    Conditional,
    /// Conditions are ignored, as servers do that do not know them.
    Unconditional,
    /// Conditions are refused.
    NotImplemented,
}

/// What the server is told to do, and what it saw.
#[derive(Debug, Default)]
pub struct Behaviour {
    /// Operations that are forbidden.
    pub forbidden: HashSet<&'static str>,
    /// An access key whose credentials have expired.
    pub expired: Option<&'static str>,
    /// The region it insists on.
    pub region: Option<&'static str>,
    /// It answers a wrong region with a redirect, as AWS does.
    pub redirects: bool,
    /// Objects are kept from being deleted for this long.
    pub locked_for: Option<Duration>,
    /// Deleting a locked object only hides it, as on AWS.
    pub hides_locked: bool,
    /// No room is left.
    pub full: bool,
    /// Listings give this many names to a page.
    pub page: Option<i32>,
    /// The requests, by operation and key.
    pub seen: Vec<(String, String)>,
    /// The inputs of PutObject, without the bodies.
    pub puts: Vec<PutObjectInput>,
}

pub struct Server {
    pub address: SocketAddr,
    pub directory: Arc<TempDir>,
    behaviour: Arc<Mutex<Behaviour>>,
    task: JoinHandle<()>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// What a server is made of.
pub struct Setup {
    pub writes: Writes,
    /// Where it listens; port 0 is any.
    pub address: SocketAddr,
    /// Where its objects lie; a server that comes after another finds them there.
    pub directory: Arc<TempDir>,
    /// By how many seconds the clock of a client may differ.
    pub skew: u32,
    pub tls: Option<tokio_rustls::TlsAcceptor>,
}

impl Default for Setup {
    fn default() -> Setup {
        let directory = Arc::new(tempfile::tempdir().unwrap());
        let address = SocketAddr::from(([127, 0, 0, 1], 0));
        Setup { writes: Writes::Conditional, address, directory, skew: 900, tls: None }
    }
}

impl Server {
    pub async fn start(writes: Writes) -> Server {
        Server::start_with(Setup { writes, ..Setup::default() }).await
    }

    /// A server whose clock no client agrees with.
    pub async fn with_another_time() -> Server {
        Server::start_with(Setup { skew: 0, ..Setup::default() }).await
    }

    pub async fn with_tls(tls: tokio_rustls::TlsAcceptor) -> Server {
        Server::start_with(Setup { tls: Some(tls), ..Setup::default() }).await
    }

    pub async fn start_with(setup: Setup) -> Server {
        let Setup { writes, address, directory, skew, tls } = setup;
        fs::create_dir_all(directory.path().join("data").join(BUCKET)).unwrap();
        write_credentials(&directory.path().join("credentials"), "KEY", "SECRET");
        let behaviour = Arc::<Mutex<Behaviour>>::default();
        let files = FileSystem::new(directory.path().join("data")).unwrap();
        let mut builder = S3ServiceBuilder::new(Bucket {
            directory: directory.path().join("data").join(BUCKET),
            files,
            writes,
            behaviour: behaviour.clone(),
            one_at_a_time: tokio::sync::Mutex::default(),
        });
        let mut keys = SimpleAuth::new();
        for key in ["KEY", "OTHER"] {
            keys.register(key.to_owned(), "SECRET".into());
        }
        builder.set_auth(keys);
        builder.set_access(Gate(behaviour.clone()));
        let mut config = ServerConfig::default();
        config.presigned_url_max_skew_time_secs = skew;
        builder.set_config(Arc::new(StaticConfigProvider::new(Arc::new(config))));
        let listener = TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap();
        let task = tokio::spawn(serve(listener, builder.build(), tls));
        Server { address, directory, behaviour, task }
    }

    pub fn behaviour(&self) -> MutexGuard<'_, Behaviour> {
        self.behaviour.lock().unwrap()
    }

    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    pub fn credentials(&self) -> PathBuf {
        self.directory.path().join("credentials")
    }

    /// The bytes that lie there under this key, whatever a client says.
    pub fn stored(&self, key: &str) -> Option<Vec<u8>> {
        fs::read(self.directory.path().join("data").join(BUCKET).join(key)).ok()
    }

    /// Puts something there that is none of ours.
    pub fn plant(&self, key: &str, bytes: &[u8]) {
        let path = self.directory.path().join("data").join(BUCKET).join(key);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }

    /// How many requests of this operation came for this key.
    pub fn count(&self, operation: &str, key: &str) -> usize {
        self.behaviour().seen.iter().filter(|(op, of)| op == operation && of == key).count()
    }
}

pub fn write_credentials(path: &Path, key: &str, secret: &str) {
    let mut file = fs::File::create(path).unwrap();
    write!(file, "[default]\naws_access_key_id = {key}\naws_secret_access_key = {secret}\n").unwrap();
}

async fn serve(listener: TcpListener, service: S3Service, tls: Option<tokio_rustls::TlsAcceptor>) {
    loop {
        let Ok((socket, _)) = listener.accept().await else { return };
        let (service, tls) = (service.clone(), tls.clone());
        tokio::spawn(async move {
            match tls {
                None => answer(socket, service).await,
                Some(tls) => {
                    if let Ok(socket) = tls.accept(socket).await {
                        answer(socket, service).await;
                    }
                }
            }
        });
    }
}

async fn answer(socket: impl AsyncRead + AsyncWrite + Unpin + Send + 'static, service: S3Service) {
    // A client that goes away is what these tests are about.
    drop(Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(socket), service).await);
}

/// Lets requests in, or not.
struct Gate(Arc<Mutex<Behaviour>>);

#[async_trait]
impl S3Access for Gate {
    async fn check(&self, context: &mut S3AccessContext<'_>) -> S3Result<()> {
        let Some(credentials) = context.credentials() else {
            return Err(s3_error!(AccessDenied, "anonymous"));
        };
        let mut behaviour = self.0.lock().unwrap();
        let operation = context.s3_op().name();
        let key = context.s3_path().get_object_key().unwrap_or_default().to_owned();
        behaviour.seen.push((operation.to_owned(), key));
        if behaviour.expired == Some(credentials.access_key.as_str()) {
            return Err(s3_error!(ExpiredToken, "The provided token has expired."));
        }
        if context.s3_path().get_bucket_name() != Some(BUCKET) {
            // s3s-fs would make the bucket of an object that is put.
            return Err(s3_error!(NoSuchBucket, "The specified bucket does not exist"));
        }
        if behaviour.forbidden.contains(operation) {
            return Err(s3_error!(AccessDenied, "Access Denied"));
        }
        let signed = context.headers().get("authorization").unwrap().to_str().unwrap().to_owned();
        match behaviour.region {
            Some(region) if !signed.contains(&format!("/{region}/s3/")) => {
                Err(wrong_region(region, behaviour.redirects))
            }
            _ => Ok(()),
        }
    }
}

fn wrong_region(region: &str, redirects: bool) -> S3Error {
    if redirects {
        let mut error = s3_error!(PermanentRedirect, "The bucket must be addressed using another endpoint.");
        let headers = [("x-amz-bucket-region".parse().unwrap(), region.parse().unwrap())];
        error.set_headers(headers.into_iter().collect());
        return error;
    }
    s3_error!(
        AuthorizationHeaderMalformed,
        "The authorization header is malformed; the region 'us-east-1' is wrong; expecting '{region}'"
    )
}

/// s3s-fs, whose conditions hold: it looks and writes in two steps that others can come between. And its directories are
/// no objects.
struct Bucket {
    directory: PathBuf,
    files: FileSystem,
    writes: Writes,
    behaviour: Arc<Mutex<Behaviour>>,
    one_at_a_time: tokio::sync::Mutex<()>,
}

impl Bucket {
    fn is_object(&self, key: &str) -> bool {
        self.directory.join(key).is_file()
    }
}

#[async_trait]
impl S3 for Bucket {
    async fn put_object(
        &self,
        mut request: S3Request<PutObjectInput>,
    ) -> S3Result<S3Response<PutObjectOutput>> {
        let conditional = request.input.if_none_match.is_some() || request.input.if_match.is_some();
        if conditional && self.writes == Writes::NotImplemented {
            return Err(s3_error!(
                NotImplemented,
                "A header you provided implies functionality that is not implemented"
            ));
        }
        if self.writes == Writes::Unconditional {
            request.input.if_none_match = None;
            request.input.if_match = None;
        }
        if self.behaviour.lock().unwrap().full {
            let mut error = S3Error::new(S3ErrorCode::from_bytes(b"QuotaExceeded").unwrap());
            error.set_status_code(http::StatusCode::FORBIDDEN);
            return Err(error);
        }
        let seen = PutObjectInput {
            bucket: request.input.bucket.clone(),
            key: request.input.key.clone(),
            storage_class: request.input.storage_class.take(),
            tagging: request.input.tagging.clone(),
            server_side_encryption: request.input.server_side_encryption.clone(),
            ssekms_key_id: request.input.ssekms_key_id.clone(),
            object_lock_mode: request.input.object_lock_mode.clone(),
            object_lock_retain_until_date: request.input.object_lock_retain_until_date.clone(),
            checksum_crc32c: request.input.checksum_crc32c.clone(),
            content_length: request.input.content_length,
            ..PutObjectInput::default()
        };
        self.behaviour.lock().unwrap().puts.push(seen);
        let _one = self.one_at_a_time.lock().await;
        self.files.put_object(request).await
    }

    async fn get_object(&self, request: S3Request<GetObjectInput>) -> S3Result<S3Response<GetObjectOutput>> {
        if !self.is_object(&request.input.key) {
            return Err(s3_error!(NoSuchKey, "The specified key does not exist."));
        }
        self.files.get_object(request).await
    }

    async fn head_object(
        &self,
        request: S3Request<HeadObjectInput>,
    ) -> S3Result<S3Response<HeadObjectOutput>> {
        if !self.is_object(&request.input.key) {
            return Err(s3_error!(NoSuchKey, "The specified key does not exist."));
        }
        let mut response = self.files.head_object(request).await?;
        let locked_for = self.behaviour.lock().unwrap().locked_for;
        response.output.object_lock_retain_until_date =
            locked_for.map(|time| Timestamp::from(std::time::SystemTime::now() + time));
        Ok(response)
    }

    async fn list_objects_v2(
        &self,
        mut request: S3Request<ListObjectsV2Input>,
    ) -> S3Result<S3Response<ListObjectsV2Output>> {
        if let Some(page) = self.behaviour.lock().unwrap().page {
            request.input.max_keys = Some(page);
        }
        self.files.list_objects_v2(request).await
    }

    async fn delete_object(
        &self,
        request: S3Request<DeleteObjectInput>,
    ) -> S3Result<S3Response<DeleteObjectOutput>> {
        let refuses = {
            let behaviour = self.behaviour.lock().unwrap();
            behaviour.locked_for.is_some() && !behaviour.hides_locked
        };
        if refuses {
            return Err(s3_error!(AccessDenied, "Access Denied because object protected by object lock."));
        }
        self.files.delete_object(request).await
    }
}
