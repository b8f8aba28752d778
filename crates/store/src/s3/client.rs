//! The connection to the server: made from the configuration, tried again, held within its limits.

use std::fs;
use std::path::Path;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use aws_config::BehaviorVersion;
use aws_config::profile::ProfileFileCredentialsProvider;
use aws_config::provider_config::ProviderConfig;
use aws_config::retry::RetryConfig;
use aws_config::stalled_stream_protection::StalledStreamProtectionConfig;
use aws_config::timeout::TimeoutConfig;
use aws_runtime::env_config::file::{EnvConfigFileKind, EnvConfigFiles};
use aws_sdk_s3::Client;
use aws_sdk_s3::config::{Region, SharedHttpClient};
use aws_smithy_http_client::tls::rustls_provider::CryptoMode;
use aws_smithy_http_client::tls::{Provider, TlsContext, TrustStore};
use rand::Rng;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep};

use super::config::S3Config;
use super::errors::{Fault, Kind};
use super::limit::{Bandwidth, Progress, patience, while_moving};
use super::usage::{Counters, Request};
use crate::OpenError;

/// How often a request is sent at most.
const ATTEMPTS_MAX: u32 = 6;
/// The pause after the first attempt is at most this, and twice that after each further one.
const PAUSE_MIN: Duration = Duration::from_millis(200);
/// No pause is longer.
const PAUSE_MAX: Duration = Duration::from_secs(5);
/// More requests at once than this would only wait for each other elsewhere.
const REQUESTS_MAX: usize = 1_000;
/// A connection that nobody used for this long is given up before the server does, which would cost a request.
const IDLE_MAX: Duration = Duration::from_secs(15);
/// Where AWS keeps a bucket of which nothing else is known, and what most other servers call where they are.
const REGION_DEFAULT: &str = "us-east-1";

/// The server, and everything that its requests share.
#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) config: S3Config,
    pub(crate) counters: Arc<Counters>,
    pub(crate) upload: Option<Arc<Bandwidth>>,
    pub(crate) download: Option<Arc<Bandwidth>>,
    http: SharedHttpClient,
    client: RwLock<Numbered>,
    places: Semaphore,
}

/// A client, and how many were there before it.
#[derive(Debug, Clone)]
struct Numbered {
    number: u64,
    client: Client,
}

/// Why a request was given up.
#[derive(Debug)]
pub(crate) struct Failed {
    pub(crate) fault: Fault,
    /// One of its attempts may have taken effect.
    pub(crate) undecided: bool,
}

impl Connection {
    pub(crate) async fn open(config: S3Config) -> Result<Connection, OpenError> {
        let http = http_client(&config)?;
        let client = sdk_client(&config, &http).await;
        let options = &config.options;
        Ok(Connection {
            counters: Arc::default(),
            upload: options.upload_rate.map(|rate| Arc::new(Bandwidth::new(rate))),
            download: options.download_rate.map(|rate| Arc::new(Bandwidth::new(rate))),
            client: RwLock::new(Numbered { number: 0, client }),
            places: Semaphore::new(options.requests_max.clamp(1, REQUESTS_MAX)),
            http,
            config,
        })
    }

    /// Makes a request, again where its failure may pass. `bytes` is the size of its body.
    ///
    /// This is the only loop: the SDK's own is switched off, because it would not say whether an attempt that is
    /// followed by another may have taken effect.
    pub(crate) async fn request<T, R>(
        &self,
        request: Request,
        bytes: u64,
        mut attempt: impl FnMut(Client, Arc<Progress>) -> R,
    ) -> Result<T, Failed>
    where
        R: Future<Output = Result<T, Fault>>,
    {
        let begun = Instant::now();
        let mut undecided = false;
        let (mut renewed, mut corrected) = (false, false);
        let mut attempts = 0;
        loop {
            let current = self.current();
            let fault = match self.once(request, bytes, &current.client, &mut attempt).await {
                Ok(done) => return Ok(done),
                Err(fault) => fault,
            };
            undecided |= fault.undecided;
            attempts += 1;
            if fault.kind == Kind::Expired && !renewed {
                renewed = true;
                self.renew(current.number).await;
                continue;
            }
            if fault.kind == Kind::Skewed && !corrected {
                corrected = true;
                continue;
            }
            let pause = pause(attempts);
            let over = attempts >= ATTEMPTS_MAX || begun.elapsed() + pause > self.config.options.retry_time;
            if !matches!(fault.kind, Kind::Passing | Kind::Changed) || over {
                return Err(Failed { fault, undecided });
            }
            tracing::debug!(?request, attempts, ?fault, "a request is tried again");
            sleep(pause).await;
        }
    }

    async fn once<T, R>(
        &self,
        request: Request,
        bytes: u64,
        client: &Client,
        attempt: &mut impl FnMut(Client, Arc<Progress>) -> R,
    ) -> Result<T, Fault>
    where
        R: Future<Output = Result<T, Fault>>,
    {
        // The semaphore is never closed; without a place the limit would be broken, but nothing lost.
        let _place = self.places.acquire().await.ok();
        self.counters.count(request);
        let progress = Arc::new(Progress::new());
        let patience = patience(self.config.options.request_timeout, bytes);
        let work = attempt(client.clone(), progress.clone());
        while_moving(&progress, patience, work).await.unwrap_or_else(|| {
            let place = self.config.place();
            Err(Fault::lost(format!("{place} did not answer within {} s", patience.as_secs_f32())))
        })
    }

    fn current(&self) -> Numbered {
        // A panic elsewhere cannot leave the client half changed.
        self.client.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Credentials that the server calls expired are fetched anew, through the whole chain, by a client that has none.
    async fn renew(&self, expired: u64) {
        if self.current().number != expired {
            return;
        }
        let client = sdk_client(&self.config, &self.http).await;
        let mut current = self.client.write().unwrap_or_else(PoisonError::into_inner);
        if current.number == expired {
            *current = Numbered { number: expired + 1, client };
            tracing::info!("the storage's credentials have expired and are fetched anew");
        }
    }
}

/// Between nothing and a bound that doubles, so that those who were refused together do not come back together.
fn pause(attempts: u32) -> Duration {
    let most = PAUSE_MIN.saturating_mul(1 << attempts.saturating_sub(1).min(16)).min(PAUSE_MAX);
    most.mul_f64(rand::rng().random_range(0.5..=1.0))
}

async fn sdk_client(config: &S3Config, http: &SharedHttpClient) -> Client {
    let options = &config.options;
    let mut loader = aws_config::defaults(BehaviorVersion::v2026_01_12())
        .http_client(http.clone())
        .retry_config(RetryConfig::disabled())
        // Ours knows when we hold a request back ourselves.
        .stalled_stream_protection(StalledStreamProtectionConfig::disabled())
        .timeout_config(TimeoutConfig::builder().connect_timeout(options.connect_timeout).build());
    if let Some(profile) = &options.profile {
        loader = loader.profile_name(profile);
    }
    match &options.region {
        Some(region) => loader = loader.region(Region::new(region.clone())),
        // Only AWS can be asked where we are, and elsewhere the question takes its time to fail.
        None if options.endpoint.is_some() => loader = loader.region(Region::new(REGION_DEFAULT)),
        None => {}
    }
    if let Some(endpoint) = &options.endpoint {
        loader = loader.endpoint_url(endpoint);
    }
    if let Some(file) = &options.credentials_file {
        loader = loader.credentials_provider(from_file(file, options.profile.as_deref(), http));
    }
    let shared = loader.load().await;
    let mut builder = aws_sdk_s3::config::Builder::from(&shared).force_path_style(config.path_style());
    if shared.region().is_none() {
        builder = builder.region(Region::new(REGION_DEFAULT));
    }
    Client::from_conf(builder.build())
}

fn from_file(file: &Path, profile: Option<&str>, http: &SharedHttpClient) -> ProfileFileCredentialsProvider {
    let provider = ProviderConfig::without_region().with_http_client(http.clone());
    let files = EnvConfigFiles::builder().with_file(EnvConfigFileKind::Credentials, file).build();
    let mut builder = ProfileFileCredentialsProvider::builder().configure(&provider).profile_files(files);
    if let Some(profile) = profile {
        builder = builder.profile_name(profile);
    }
    builder.build()
}

fn http_client(config: &S3Config) -> Result<SharedHttpClient, OpenError> {
    // The SDK takes it for granted that the system trusts somebody; a container may trust nobody.
    let native = !rustls_native_certs::load_native_certs().certs.is_empty();
    let mut trusted = TrustStore::empty().with_native_roots(native);
    if let Some(file) = &config.options.ca_file {
        trusted.add_pem_certificate(certificates(file)?);
    }
    let tls = TlsContext::builder()
        .with_trust_store(trusted)
        .build()
        .map_err(|error| OpenError::Option { name: "ca_file", reason: error.to_string() })?;
    Ok(aws_smithy_http_client::Builder::new()
        .tls_provider(Provider::rustls(CryptoMode::Ring))
        .tls_context(tls)
        .pool_idle_timeout(IDLE_MAX)
        .build_https())
}

/// The file's bytes, once they are known to be certificates: the SDK would panic.
fn certificates(file: &Path) -> Result<Vec<u8>, OpenError> {
    let bad = |reason: String| OpenError::Option { name: "ca_file", reason };
    let pem = fs::read(file).map_err(|error| bad(format!("{} cannot be read: {error}", file.display())))?;
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
    let mut roots = rustls::RootCertStore::empty();
    let good =
        found.is_ok_and(|found| !found.is_empty() && found.into_iter().all(|one| roots.add(one).is_ok()));
    if good { Ok(pem) } else { Err(bad(format!("{} holds no certificates in PEM", file.display()))) }
}
