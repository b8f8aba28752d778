//! How a bucket is reached and written to.

use std::collections::BTreeMap;
use std::num::NonZeroU64;
use std::path::Path;

use store::s3::{Encryption, Lock, LockMode, S3Options, Selector};

use super::setting::Setting;
use super::{Error, Resolver, parse, setting};

/// Settings that recovery needs again to reach the bucket; none is a secret.
const FOR_RECOVERY: [&Setting; 7] = [
    &setting::S3_REGION,
    &setting::S3_ENDPOINT,
    &setting::S3_PATH_STYLE,
    &setting::S3_CA_FILE,
    &setting::S3_PROFILE,
    &setting::S3_CREDENTIALS_FILE,
    &setting::S3_DOWNLOAD_RATE,
];
/// What the SDK takes credentials from.
const CREDENTIAL_VARIABLES: [&str; 13] = [
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "AWS_PROFILE",
    "AWS_CONFIG_FILE",
    "AWS_SHARED_CREDENTIALS_FILE",
    "AWS_WEB_IDENTITY_TOKEN_FILE",
    "AWS_ROLE_ARN",
    "AWS_ROLE_SESSION_NAME",
    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
    "AWS_CONTAINER_CREDENTIALS_FULL_URI",
    "AWS_CONTAINER_AUTHORIZATION_TOKEN",
    "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE",
];
/// And the region.
const REGION_VARIABLES: [&str; 2] = ["AWS_REGION", "AWS_DEFAULT_REGION"];
/// Where packs lie, which are nearly all of what is stored.
const PACKS: &str = "packs";
/// A lock cannot be taken back, so a slip of the hand must not lock for a century.
const LOCK_DAYS_MAX: u32 = 3650;

impl Resolver<'_> {
    pub(super) fn s3(&self) -> Result<S3Options, Error> {
        let storage_class = self.text(&setting::S3_STORAGE_CLASS)?;
        let defaults = S3Options::default();
        Ok(S3Options {
            region: self.text(&setting::S3_REGION)?,
            endpoint: self.parse(&setting::S3_ENDPOINT, "a URL such as https://minio:9000", endpoint)?,
            path_style: self.parse(&setting::S3_PATH_STYLE, "true or false", |text| text.parse().ok())?,
            ca_file: self.path(&setting::S3_CA_FILE)?,
            profile: self.text(&setting::S3_PROFILE)?,
            credentials_file: self.path(&setting::S3_CREDENTIALS_FILE)?,
            encryption: self
                .parse(&setting::S3_ENCRYPTION, "bucket, sse-s3, sse-kms or sse-kms:KEY", encryption)?
                .unwrap_or_default(),
            storage_class: storage_class.map(|class| (class, Selector::below(PACKS))),
            tags: self.parse(&setting::S3_TAGS, "NAME=VALUE, with commas between", tags)?.unwrap_or_default(),
            lock: self.lock()?,
            upload_rate: self.rate(&setting::S3_UPLOAD_RATE)?,
            download_rate: self.rate(&setting::S3_DOWNLOAD_RATE)?,
            requests_max: self.count(&setting::S3_REQUESTS, 256)?.unwrap_or(defaults.requests_max),
            connect_timeout: self.duration(&setting::S3_CONNECT_TIMEOUT)?.unwrap_or(defaults.connect_timeout),
            request_timeout: self.duration(&setting::S3_REQUEST_TIMEOUT)?.unwrap_or(defaults.request_timeout),
            ..defaults
        })
    }

    /// By variable, what recovery needs again; files by their whole names.
    pub(super) fn s3_for_recovery(&self) -> Result<BTreeMap<String, String>, Error> {
        let mut carried = BTreeMap::new();
        for setting in FOR_RECOVERY {
            let Some(text) = self.text(setting)? else { continue };
            let is_file = setting.key.ends_with("_file");
            let absolute = || Some(std::path::absolute(Path::new(&text)).ok()?.to_str()?.to_owned());
            let text = if is_file { absolute().unwrap_or_else(|| text.clone()) } else { text };
            if let Some(variable) = setting.variables.first() {
                carried.insert((*variable).to_owned(), text);
            }
        }
        Ok(carried)
    }

    /// Variables that are set for AWS and that a bucket is reached with, as no setting of ours says it.
    pub(super) fn s3_variables(&self) -> Result<Vec<&'static str>, Error> {
        let needed = |setting, variables: &'static [&'static str]| {
            Ok(if self.text(setting)?.is_none() { variables } else { &[] })
        };
        let credentials = needed(&setting::S3_CREDENTIALS_FILE, &CREDENTIAL_VARIABLES)?;
        let region = needed(&setting::S3_REGION, &REGION_VARIABLES)?;
        let is_set = |name: &str| self.environment.get(name).is_some_and(|text| !text.is_empty());
        Ok(credentials.iter().chain(region).copied().filter(|name| is_set(name)).collect())
    }

    fn rate(&self, setting: &Setting) -> Result<Option<NonZeroU64>, Error> {
        self.parse(setting, "a size for each second, such as 20MB", |text| {
            NonZeroU64::new(parse::bytes(text)?)
        })
    }

    fn lock(&self) -> Result<Option<Lock>, Error> {
        let mode = |text: &str| match text {
            "governance" => Some(LockMode::Governance),
            "compliance" => Some(LockMode::Compliance),
            _ => None,
        };
        let mode = self.parse(&setting::S3_LOCK_MODE, "governance or compliance", mode)?;
        let days = |text: &str| text.parse().ok().filter(|days| (1..=LOCK_DAYS_MAX).contains(days));
        let days = self.parse(&setting::S3_LOCK_DAYS, "a number of days from 1 to 3650", days)?;
        match (mode, days) {
            (None, None) => Ok(None),
            // Pieces are replaced by segments, and state changes: to lock what is short-lived would only keep rubbish.
            (mode, Some(days)) => Ok(Some(Lock {
                mode: mode.unwrap_or(LockMode::Governance),
                days,
                objects: Selector::below(PACKS),
            })),
            (Some(_), None) => Err(Error("s3.lock_mode is set but s3.lock_days is not".to_owned())),
        }
    }
}

fn endpoint(text: &str) -> Option<String> {
    let url = url::Url::parse(text).ok()?;
    let plain = matches!(url.scheme(), "http" | "https") && url.has_host();
    // What stands before an @ would be a secret in every message.
    (plain && url.username().is_empty() && url.password().is_none()).then(|| text.to_owned())
}

fn encryption(text: &str) -> Option<Encryption> {
    match text.split_once(':') {
        None if text == "bucket" => Some(Encryption::Bucket),
        None if text == "sse-s3" => Some(Encryption::Server),
        None if text == "sse-kms" => Some(Encryption::Kms(None)),
        Some(("sse-kms", key)) if !key.is_empty() => Some(Encryption::Kms(Some(key.to_owned()))),
        _ => None,
    }
}

fn tags(text: &str) -> Option<Vec<(String, String)>> {
    let tag = |tag: &str| {
        let (name, value) = tag.split_once('=')?;
        let name = name.trim();
        (!name.is_empty()).then(|| (name.to_owned(), value.trim().to_owned()))
    };
    text.split(',').map(tag).collect()
}
