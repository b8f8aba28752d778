//! TLS, by a certificate of an authority of one's own.

use std::path::PathBuf;
use std::sync::Arc;

use store::s3::S3Options;
use store::{Error, Store};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};

use crate::client::open;
use crate::faults::said;
use crate::server::{Server, Writes};
use crate::suite::{body, key};

/// A server with a certificate for localhost, and the file with that certificate.
async fn server_with_tls() -> (Server, PathBuf) {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let certificate: CertificateDer = made.cert.der().clone();
    let secret = PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
    let provider = Arc::new(tokio_rustls::rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate], secret)
        .unwrap();
    let server = Server::with_tls(TlsAcceptor::from(Arc::new(config))).await;
    let file = server.directory.path().join("ca.pem");
    std::fs::write(&file, made.cert.pem()).unwrap();
    (server, file)
}

fn over_tls(server: &Server) -> S3Options {
    S3Options { endpoint: Some(format!("https://localhost:{}", server.address.port())), ..server.options() }
}

#[tokio::test]
async fn an_authority_of_ones_own_is_trusted_when_named() {
    let (server, file) = server_with_tls().await;
    let store = open(S3Options { ca_file: Some(file), ..over_tls(&server) }).await;
    store.create(&key("a"), body(300_000).into()).await.unwrap();
    assert_eq!(store.read(&key("a"), None).await.unwrap(), body(300_000));
}

#[tokio::test]
async fn another_authority_is_not() {
    let (server, _) = server_with_tls().await;
    let error = open(over_tls(&server)).await.create(&key("a"), body(1).into()).await.unwrap_err();
    assert!(matches!(error, Error::Refused { .. }), "{error:?}");
    assert_eq!(
        said(&error),
        format!(
            "cannot create a: the certificate of https://localhost:{} is not trusted (invalid peer certificate: UnknownIssuer); name the file with its authority's certificate as CA file",
            server.address.port()
        )
    );
}

#[tokio::test]
async fn a_certificate_for_another_name_is_not_trusted() {
    let (server, file) = server_with_tls().await;
    let endpoint = Some(format!("https://{}", server.address));
    let options = S3Options { ca_file: Some(file), endpoint, ..server.options() };
    let error = open(options).await.create(&key("a"), body(1).into()).await.unwrap_err();
    assert!(matches!(error, Error::Refused { .. }), "{error:?}");
    assert!(
        said(&error).contains("is not trusted (invalid peer certificate: certificate not valid for name"),
        "{}",
        said(&error)
    );
}

#[tokio::test]
async fn a_server_without_tls_is_said_to_have_none() {
    let server = Server::start(Writes::Conditional).await;
    let error = open(over_tls(&server)).await.create(&key("a"), body(1).into()).await.unwrap_err();
    assert!(matches!(error, Error::Refused { .. }), "{error:?}");
    assert_eq!(
        said(&error),
        format!(
            "cannot create a: https://localhost:{} does not speak TLS; check the endpoint's https://",
            server.address.port()
        )
    );
}

#[tokio::test]
async fn a_ca_file_that_is_none_is_named_at_once() {
    let server = Server::start(Writes::Conditional).await;
    for (text, reason) in [(None, "cannot be read"), (Some("hello"), "holds no certificates in PEM")] {
        let file = server.directory.path().join("none.pem");
        if let Some(text) = text {
            std::fs::write(&file, text).unwrap();
        }
        let options = store::Options {
            s3: S3Options { ca_file: Some(file), ..server.options() },
            ..store::Options::default()
        };
        let error = store::open_with("s3://backups", &options).await.unwrap_err().to_string();
        assert!(error.starts_with("ca_file: ") && error.contains(reason), "{error}");
    }
}
