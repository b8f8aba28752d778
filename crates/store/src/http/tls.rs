//! Whom we believe to be the service.

use std::io;
use std::path::Path;
use std::sync::Arc;

use rustls::crypto::ring;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;

use crate::OpenError;

/// TLS that trusts the authorities in `ca_file`, or the system's where there is no file.
pub(super) fn config(ca_file: Option<&Path>) -> Result<ClientConfig, OpenError> {
    let roots = match ca_file {
        Some(path) => authorities(path)
            .map_err(|source| OpenError::CaFile { path: path.display().to_string(), source })?,
        None => system_roots(),
    };
    let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| OpenError::Tls { source: io::Error::other(error) })?;
    Ok(builder.with_root_certificates(roots).with_no_client_auth())
}

fn authorities(path: &Path) -> io::Result<RootCertStore> {
    let mut roots = RootCertStore::empty();
    // Read first, as the error of a file that cannot be read is better from the system than from the parser.
    let text = std::fs::read(path)?;
    for certificate in CertificateDer::pem_slice_iter(&text) {
        roots.add(certificate.map_err(io::Error::other)?).map_err(io::Error::other)?;
    }
    if roots.is_empty() { Err(io::Error::other("there is no PEM certificate in it")) } else { Ok(roots) }
}

/// A system without any is one on which no certificate is trusted, and that is said when one is shown.
fn system_roots() -> RootCertStore {
    let mut roots = RootCertStore::empty();
    // Machines carry the odd certificate that cannot be parsed.
    let (_added, _ignored) = roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    roots
}

/// What TLS has against the other side, if that is what ended the connection. Trying again changes nothing about it.
pub(super) fn refusal(error: &reqwest::Error) -> Option<rustls::Error> {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(error) = cause {
        if let Some(refusal) = error.downcast_ref::<rustls::Error>() {
            return Some(refusal.clone());
        }
        // What an `io::Error` wraps is not among its sources.
        let wrapped = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        cause = match wrapped {
            Some(wrapped) => Some(wrapped),
            None => error.source(),
        };
    }
    None
}
