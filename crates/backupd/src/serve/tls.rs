//! The certificate we show, read again when its files change.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::ServerConfig;
use rustls::crypto::ring;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

use crate::config::{self, TlsFiles};

/// At most so often the files are looked at, and at all only when somebody connects.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// The certificate and its key.
#[derive(Debug)]
pub(super) struct Certificates {
    files: TlsFiles,
    loaded: Arc<ServerConfig>,
    seen: Stamp,
    looked_at: Instant,
}

/// What changes when a file does: inode, size and time of both files. Renewal puts new files in place of the old.
type Stamp = [Option<(u64, u64, i64, i64)>; 2];

impl Certificates {
    /// Reads both files.
    pub fn load(files: TlsFiles) -> Result<Certificates, config::Error> {
        let seen = stamp(&files);
        let loaded = read(&files).map_err(|error| {
            config::Error::new(format!(
                "the certificate {} with the key {} cannot be used: {error}",
                files.certificate.display(),
                files.key.display()
            ))
        })?;
        Ok(Certificates { files, loaded, seen, looked_at: Instant::now() })
    }

    /// The certificate to show now. One that cannot be used, as one that is only half renewed, is not shown: the one
    /// before is.
    pub fn current(&mut self) -> Arc<ServerConfig> {
        if self.looked_at.elapsed() >= LOOK_INTERVAL {
            self.looked_at = Instant::now();
            let now = stamp(&self.files);
            if now != self.seen {
                self.seen = now;
                match read(&self.files) {
                    Ok(loaded) => {
                        tracing::info!("the certificate was renewed");
                        self.loaded = loaded;
                    }
                    Err(error) => {
                        tracing::warn!("the new certificate is not used, but the one before: {error}")
                    }
                }
            }
        }
        self.loaded.clone()
    }
}

fn stamp(files: &TlsFiles) -> Stamp {
    [&files.certificate, &files.key].map(|path| {
        let data = fs::metadata(path).ok()?;
        Some((data.ino(), data.size(), data.mtime(), data.mtime_nsec()))
    })
}

fn read(files: &TlsFiles) -> io::Result<Arc<ServerConfig>> {
    let named =
        |path: &Path, error: &dyn std::fmt::Display| io::Error::other(format!("{}: {error}", path.display()));
    let (certificate, key) = (&files.certificate, &files.key);
    let text = fs::read(certificate).map_err(|error| named(certificate, &error))?;
    let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(&text)
        .collect::<Result<_, _>>()
        .map_err(|error| named(certificate, &error))?;
    replication::check_key_permissions(key)?;
    let text = fs::read(key).map_err(|error| named(key, &error))?;
    let key = PrivateKeyDer::from_pem_slice(&text).map_err(|error| named(key, &error))?;
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(io::Error::other)?
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .map_err(io::Error::other)?;
    Ok(Arc::new(config))
}
