//! The judgement of a server's certificate: the chain for `verify-ca`, the host name too for `verify-full`.

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{verify_server_cert_signed_by_trust_anchor, verify_server_name};
use rustls::crypto::{
    WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature_with_raw_key,
};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use std::time::Duration;

use crate::certificate;

/// What a certificate is verified against.
#[derive(Debug)]
pub(crate) struct Trust {
    pub roots: RootCertStore,
    /// The certificates of the root file as they are. A server that presents one of these is trusted, as in OpenSSL:
    /// the self-signed certificate that is its own root.
    pub pinned: Vec<CertificateDer<'static>>,
    pub check_name: bool,
}

/// Without trust, any certificate will do. The server must own its key even then: SCRAM binds the login to the
/// certificate, which protects nobody if another can present it.
#[derive(Debug)]
pub(crate) struct Verifier {
    trust: Option<Trust>,
    algorithms: WebPkiSupportedAlgorithms,
    host: String,
}

impl Verifier {
    pub fn new(trust: Option<Trust>, algorithms: WebPkiSupportedAlgorithms, host: String) -> Verifier {
        Verifier { trust, algorithms, host }
    }

    fn verify_chain(
        &self,
        trust: &Trust,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<(), Error> {
        if trust.pinned.iter().any(|pinned| pinned == leaf) {
            return match certificate::is_current(leaf, Duration::from_secs(now.as_secs())) {
                true => Ok(()),
                false => Err(CertificateError::Expired.into()),
            };
        }
        let parsed = ParsedCertificate::try_from(leaf)?;
        verify_server_cert_signed_by_trust_anchor(
            &parsed,
            &trust.roots,
            intermediates,
            now,
            self.algorithms.all,
        )
    }

    fn verify_name(&self, leaf: &CertificateDer<'_>, name: &ServerName<'_>) -> Result<(), Error> {
        let alternative =
            ParsedCertificate::try_from(leaf).and_then(|parsed| verify_server_name(&parsed, name));
        match alternative {
            Err(_) if certificate::common_name_matches(leaf, &self.host) => Ok(()),
            outcome => outcome,
        }
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        if let Some(trust) = &self.trust {
            self.verify_chain(trust, end_entity, intermediates, now)?;
            if trust.check_name {
                self.verify_name(end_entity, server_name)?;
            }
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, cert, dss, &self.algorithms)
    }

    /// The bare key is enough for this, and certificates of X.509 version 1, which `openssl x509 -req` makes unless
    /// told otherwise, cannot be parsed by the TLS library.
    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let key = certificate::public_key(cert).ok_or(CertificateError::BadEncoding)?;
        verify_tls13_signature_with_raw_key(message, &key, dss, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}
