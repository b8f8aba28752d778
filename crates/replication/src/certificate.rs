//! What we read from a server's certificate ourselves, because the TLS library does not tell.

use std::time::Duration;

use rustls_pki_types::SubjectPublicKeyInfoDer;
use sha2::{Digest, Sha256, Sha384, Sha512};
use x509_cert::certificate::{CertificateInner, Raw};
use x509_cert::der::oid::ObjectIdentifier;
use x509_cert::der::{Decode, Encode};
use x509_cert::ext::pkix::SubjectAltName;
use x509_cert::ext::pkix::name::GeneralName;

/// Accepts what is off the standard in ways that do not matter here, such as long serial numbers.
type Certificate = CertificateInner<Raw>;

const SHA256_SIGNATURES: [&str; 4] = [
    "1.2.840.113549.1.1.4", // MD5 and SHA-1 count as SHA-256 (RFC 5929)
    "1.2.840.113549.1.1.5",
    "1.2.840.113549.1.1.11", // RSA
    "1.2.840.10045.4.3.2",   // ECDSA
];
const ECDSA_SHA1_SIGNATURE: &str = "1.2.840.10045.4.1";
const SHA384_SIGNATURES: [&str; 2] = ["1.2.840.113549.1.1.12", "1.2.840.10045.4.3.3"];
const SHA512_SIGNATURES: [&str; 2] = ["1.2.840.113549.1.1.13", "1.2.840.10045.4.3.4"];

/// The `tls-server-end-point` of RFC 5929: the certificate hashed with the hash function of its signature.
///
/// `None` where PostgreSQL has no answer either, as for Ed25519; such logins go on without channel binding.
pub(crate) fn end_point_hash(der: &[u8]) -> Option<Vec<u8>> {
    let certificate = Certificate::from_der(der).ok()?;
    let oid = certificate.signature_algorithm().oid.to_string();
    let oid = oid.as_str();
    if SHA256_SIGNATURES.contains(&oid) || oid == ECDSA_SHA1_SIGNATURE {
        Some(Sha256::digest(der).to_vec())
    } else if SHA384_SIGNATURES.contains(&oid) {
        Some(Sha384::digest(der).to_vec())
    } else if SHA512_SIGNATURES.contains(&oid) {
        Some(Sha512::digest(der).to_vec())
    } else {
        None
    }
}

/// The public key, to check signatures of certificates that the TLS library finds too old-fashioned to parse.
pub(crate) fn public_key(der: &[u8]) -> Option<SubjectPublicKeyInfoDer<'static>> {
    let certificate = Certificate::from_der(der).ok()?;
    let key = certificate.tbs_certificate().subject_public_key_info().to_der().ok()?;
    Some(SubjectPublicKeyInfoDer::from(key))
}

/// Whether the certificate is valid at `now`, counted from 1970.
pub(crate) fn is_current(der: &[u8], now: Duration) -> bool {
    Certificate::from_der(der).is_ok_and(|certificate| {
        let validity = certificate.tbs_certificate().validity();
        (validity.not_before.to_unix_duration()..=validity.not_after.to_unix_duration()).contains(&now)
    })
}

/// Whether the subject's common name is this host, which counts only where there are no alternative names of the
/// host's kind. The rule is libpq's; the TLS library has dropped it, but the certificates that PostgreSQL's manual tells
/// people to make have nothing but a common name.
pub(crate) fn common_name_matches(der: &[u8], host: &str) -> bool {
    let Ok(certificate) = Certificate::from_der(der) else {
        return false;
    };
    let body = certificate.tbs_certificate();
    let is_address = host.parse::<std::net::IpAddr>().is_ok();
    let names_hosts = match body.get_extension::<SubjectAltName>() {
        Ok(None) => false,
        Ok(Some((_, names))) => names.0.iter().any(|name| match name {
            GeneralName::DnsName(_) => !is_address,
            GeneralName::IpAddress(_) => is_address,
            _ => false,
        }),
        Err(_) => true,
    };
    !names_hosts && common_name(&certificate).is_some_and(|name| name_matches(&name, host))
}

const COMMON_NAME: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.4.3");

fn common_name(certificate: &Certificate) -> Option<String> {
    let subject = certificate.tbs_certificate().subject();
    let attribute = subject.iter().find(|attribute| attribute.oid == COMMON_NAME)?;
    std::str::from_utf8(attribute.value.value()).ok().map(str::to_owned)
}

/// libpq's comparison: without regard to case, and `*.` stands for exactly one label.
fn name_matches(pattern: &str, host: &str) -> bool {
    if pattern.eq_ignore_ascii_case(host) {
        return true;
    }
    let (Some(suffix), Some((label, rest))) = (pattern.strip_prefix("*."), host.split_once('.')) else {
        return false;
    };
    !label.is_empty() && rest.contains('.') && suffix.eq_ignore_ascii_case(rest)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn wildcards_stand_for_one_label() {
        assert!(name_matches("DB.example.org", "db.Example.org"));
        assert!(name_matches("*.example.org", "db.example.org"));
        assert!(!name_matches("*.example.org", "a.db.example.org"));
        assert!(!name_matches("*.example.org", "example.org"));
        assert!(!name_matches("*.org", "example.org"));
        assert!(!name_matches("*", "db"));
        assert!(!name_matches("*.example.org", ".example.org"));
    }

    proptest! {
        #[test]
        fn never_panics(bytes: Vec<u8>, host: String) {
            end_point_hash(&bytes);
            public_key(&bytes);
            common_name_matches(&bytes, &host);
            is_current(&bytes, Duration::ZERO);
            name_matches(&host, &host);
        }
    }
}
