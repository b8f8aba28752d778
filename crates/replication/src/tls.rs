//! TLS as libpq does it: asked for inside the protocol, and verified as `sslmode` says.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;

use rustls::crypto::ring;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::certificate;
use crate::config::{ConnectConfig, Host, SslMode};
use crate::error::Error;
use crate::transport::Socket;
use crate::verifier::{Trust, Verifier};

/// The protocol's name in TLS, which keeps a server of another protocol from answering in PostgreSQL's place.
const ALPN: &[u8] = b"postgresql";

/// What one attempt to connect does about TLS.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Wish {
    /// Do not ask for it.
    Plain,
    /// Ask, and go on without if the server has none.
    IfOffered,
    /// Ask, and fail if the server has none.
    Required,
}

impl Wish {
    pub fn first(mode: SslMode) -> Wish {
        match mode {
            SslMode::Disable | SslMode::Allow => Wish::Plain,
            SslMode::Prefer => Wish::IfOffered,
            SslMode::Require | SslMode::VerifyCa | SslMode::VerifyFull => Wish::Required,
        }
    }

    /// What to try after a first attempt failed, if anything.
    pub fn after(mode: SslMode, encrypted: bool, error: &Error) -> Option<Wish> {
        let refused = matches!(error, Error::Authentication { .. } | Error::NotAuthorized { .. });
        let unencryptable = matches!(error, Error::Tls { .. });
        match mode {
            SslMode::Allow if !encrypted && refused => Some(Wish::Required),
            SslMode::Prefer if encrypted && (refused || unencryptable) => Some(Wish::Plain),
            _ => None,
        }
    }
}

/// How to encrypt connections to one server; `None` inside where the mode never does.
pub(crate) struct Encryption {
    target: String,
    tls: Option<(TlsConnector, ServerName<'static>)>,
}

impl Encryption {
    /// Reads the certificates that the configuration names.
    pub fn new(config: &ConnectConfig) -> Result<Encryption, Error> {
        let target = config.target();
        let tls = match &config.host {
            Host::Tcp(host) if config.tls.mode != SslMode::Disable => {
                let tls =
                    prepare(config, host).map_err(|source| Error::Tls { target: target.clone(), source })?;
                Some(tls)
            }
            _ => None,
        };
        Ok(Encryption { target, tls })
    }

    /// Asks the server for TLS if so wished, and shakes hands.
    pub async fn negotiate(&self, mut stream: TcpStream, wish: Wish) -> Result<Socket, Error> {
        let Some((connector, name)) = self.tls.as_ref().filter(|_| wish != Wish::Plain) else {
            return Ok(Socket::plain(stream));
        };
        let offered = offers_tls(&mut stream).await.map_err(|source| self.lost(source))?;
        match offered {
            Answer::Yes => {}
            Answer::No if wish == Wish::IfOffered => return Ok(Socket::plain(stream)),
            Answer::No => return Err(self.failed("the server does not offer TLS, but sslmode asks for it")),
            // CVE-2021-23222: whoever sits in between could slip the server's first words to us unencrypted.
            Answer::Stuffed => return Err(self.failed("the server sent plain text after agreeing to TLS")),
            Answer::Other(byte) => {
                let text = format!("the server answered the request for TLS with '{}'", byte.escape_ascii());
                return Err(self.failed(&text));
            }
        }
        let connected = connector.connect(name.clone(), stream).await;
        let stream = connected.map_err(|source| Error::Tls { target: self.target.clone(), source })?;
        let leaf = stream.get_ref().1.peer_certificates().and_then(<[_]>::first);
        let end_point = leaf.and_then(|leaf| certificate::end_point_hash(leaf));
        Ok(Socket { stream: Box::new(stream), encrypted: true, end_point })
    }

    fn failed(&self, text: &str) -> Error {
        Error::Tls { target: self.target.clone(), source: io::Error::other(text.to_owned()) }
    }

    fn lost(&self, source: io::Error) -> Error {
        Error::Unreachable { target: self.target.clone(), source }
    }
}

enum Answer {
    Yes,
    No,
    Stuffed,
    Other(u8),
}

/// Sends SSLRequest and reads the one byte that answers it. There is room for two, so that a byte too many is seen.
async fn offers_tls(stream: &mut TcpStream) -> io::Result<Answer> {
    let mut request = bytes::BytesMut::new();
    postgres_protocol::message::frontend::ssl_request(&mut request);
    stream.write_all(&request).await?;
    let mut answer = [0; 2];
    match stream.read(&mut answer).await? {
        0 => Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the server closed the connection")),
        1 if answer[0] == b'S' => Ok(Answer::Yes),
        1 if answer[0] == b'N' => Ok(Answer::No),
        2 if answer[0] == b'S' => Ok(Answer::Stuffed),
        _ => Ok(Answer::Other(answer[0])),
    }
}

fn prepare(config: &ConnectConfig, host: &str) -> io::Result<(TlsConnector, ServerName<'static>)> {
    let provider = Arc::new(ring::default_provider());
    let trust = trust(config)?;
    let name = match ServerName::try_from(host.to_owned()) {
        Ok(name) => name,
        Err(_) if config.tls.mode == SslMode::VerifyFull => {
            return Err(io::Error::other(format!(
                "no certificate can be checked against the host name \"{host}\""
            )));
        }
        // Nobody compares the name then, and an address is not sent to the server either.
        Err(_) => ServerName::IpAddress(std::net::Ipv4Addr::UNSPECIFIED.into()),
    };
    let verifier =
        Arc::new(Verifier::new(trust, provider.signature_verification_algorithms, host.to_owned()));
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(io::Error::other)?
        .dangerous()
        .with_custom_certificate_verifier(verifier);
    let mut client = match identity(config)? {
        Some((chain, key)) => builder.with_client_auth_cert(chain, key).map_err(io::Error::other)?,
        None => builder.with_no_client_auth(),
    };
    client.alpn_protocols = vec![ALPN.to_vec()];
    Ok((TlsConnector::from(Arc::new(client)), name))
}

/// The roots to verify against; `None` means that anybody is believed, which `require` and weaker do when they have no
/// root certificate.
fn trust(config: &ConnectConfig) -> io::Result<Option<Trust>> {
    let mode = config.tls.mode;
    let verifies = matches!(mode, SslMode::VerifyCa | SslMode::VerifyFull);
    let check_name = mode == SslMode::VerifyFull;
    match config.tls.root_cert.as_deref() {
        Some(path) if path == Path::new("system") => {
            if !check_name {
                let text =
                    format!("sslmode={mode} is too weak for the system's certificates; use verify-full");
                return Err(io::Error::other(text));
            }
            Ok(Some(Trust { roots: system_roots()?, pinned: Vec::new(), check_name }))
        }
        Some(path) if verifies || path.exists() => {
            let pinned = certificates(path)?;
            Ok(Some(Trust { roots: root_store(&pinned, path)?, pinned, check_name }))
        }
        None if verifies => {
            let text =
                format!("sslmode={mode} needs a root certificate; set sslrootcert to a file or to system");
            Err(io::Error::other(text))
        }
        _ => Ok(None),
    }
}

fn root_store(certificates: &[CertificateDer<'static>], path: &Path) -> io::Result<RootCertStore> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates {
        roots.add(certificate.clone()).map_err(|error| named(path, error))?;
    }
    Ok(roots)
}

fn system_roots() -> io::Result<RootCertStore> {
    let mut roots = RootCertStore::empty();
    let found = rustls_native_certs::load_native_certs();
    // Machines carry the odd certificate that cannot be parsed; only having none at all is an error.
    let (added, _ignored) = roots.add_parsable_certificates(found.certs);
    match added {
        0 => Err(io::Error::other("the system has no trusted certificates")),
        _ => Ok(roots),
    }
}

type Identity = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

/// The client certificate and its key. Unlike libpq we do not go on without when a named file is missing.
fn identity(config: &ConnectConfig) -> io::Result<Option<Identity>> {
    match (config.tls.cert.as_deref(), config.tls.key.as_deref()) {
        (None, None) => Ok(None),
        (Some(cert), Some(key)) => {
            let chain = certificates(cert)?;
            check_key_permissions(key)?;
            let key = PrivateKeyDer::from_pem_file(key).map_err(|error| named(key, error))?;
            Ok(Some((chain, key)))
        }
        (Some(_), None) => Err(io::Error::other("sslcert is set but sslkey is not")),
        (None, Some(_)) => Err(io::Error::other("sslkey is set but sslcert is not")),
    }
}

/// libpq's rule: nobody but us may read a key of ours; a key of root's may be read by its group.
pub fn check_key_permissions(path: &Path) -> io::Result<()> {
    let metadata = fs::metadata(path).map_err(|error| named(path, error))?;
    let us = rustix::process::geteuid().as_raw();
    let forbidden = if metadata.uid() == 0 && us != 0 { 0o037 } else { 0o077 };
    if !metadata.is_file() {
        return Err(named(path, "it is not a plain file"));
    }
    if metadata.uid() != us && metadata.uid() != 0 {
        return Err(named(path, "the key must belong to the user we run as, or to root"));
    }
    if metadata.mode() & forbidden != 0 {
        return Err(named(path, "others can read the key; its permissions should be u=rw (0600) or less"));
    }
    Ok(())
}

fn certificates(path: &Path) -> io::Result<Vec<CertificateDer<'static>>> {
    let read = CertificateDer::pem_file_iter(path).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    let certificates = read.map_err(|error| named(path, error))?;
    match certificates.is_empty() {
        true => Err(named(path, "it holds no certificate")),
        false => Ok(certificates),
    }
}

fn named(path: &Path, error: impl std::fmt::Display) -> io::Error {
    io::Error::other(format!("{}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused() -> Error {
        Error::NotAuthorized { message: String::new(), user: String::new(), replication: true }
    }

    fn unencryptable() -> Error {
        Error::Tls { target: String::new(), source: io::Error::other("x") }
    }

    #[test]
    fn modes_fall_back_as_in_libpq() {
        assert_eq!(Wish::after(SslMode::Prefer, true, &refused()), Some(Wish::Plain));
        assert_eq!(Wish::after(SslMode::Prefer, true, &unencryptable()), Some(Wish::Plain));
        assert_eq!(Wish::after(SslMode::Prefer, false, &refused()), None);
        assert_eq!(Wish::after(SslMode::Allow, false, &refused()), Some(Wish::Required));
        for mode in [SslMode::Disable, SslMode::Require, SslMode::VerifyCa, SslMode::VerifyFull] {
            assert_eq!(Wish::after(mode, mode != SslMode::Disable, &refused()), None);
            assert_eq!(Wish::after(mode, mode != SslMode::Disable, &unencryptable()), None);
        }
    }

    #[test]
    fn roots_are_asked_for_as_in_libpq() {
        let mut config = ConnectConfig::new("db", "u");
        let outcome = |mode, root: Option<&str>| {
            config.tls.mode = mode;
            config.tls.root_cert = root.map(Into::into);
            trust(&config).map(|trust| trust.is_some()).map_err(|error| error.to_string())
        };
        let mut outcome = outcome;
        for mode in [SslMode::Allow, SslMode::Prefer, SslMode::Require] {
            assert_eq!(outcome(mode, None), Ok(false));
            assert_eq!(outcome(mode, Some("/nowhere/root.crt")), Ok(false));
            assert!(outcome(mode, Some("system")).unwrap_err().contains("too weak"));
        }
        for mode in [SslMode::VerifyCa, SslMode::VerifyFull] {
            assert!(outcome(mode, None).unwrap_err().contains("needs a root certificate"));
            assert!(outcome(mode, Some("/nowhere/root.crt")).is_err());
        }
    }
}
