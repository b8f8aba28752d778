//! How the repository is served to others.

use std::net::SocketAddr;
use std::path::PathBuf;

use store::http::Token;

use super::sources::Value;
use super::{Error, Resolver, setting};

/// A token of fewer characters can be guessed. `openssl rand -hex 32` makes one of 64.
const TOKEN_CHARACTERS_MIN: usize = 16;

/// How the repository is served.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServeSettings {
    /// Where to listen.
    pub listen: SocketAddr,
    /// What to ask for.
    pub token: Token,
    /// What to encrypt with.
    pub tls: Option<TlsFiles>,
}

/// A certificate and its key, as PEM files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsFiles {
    /// The certificate, and those between it and its authority.
    pub certificate: PathBuf,
    /// Its key.
    pub key: PathBuf,
}

impl Resolver<'_> {
    pub(super) fn serve(&self) -> Result<Option<ServeSettings>, Error> {
        let expected = "an address and a port, such as 0.0.0.0:8443";
        let listen = self.parse(&setting::SERVE_LISTEN, expected, |text| text.parse().ok())?;
        let Some(listen): Option<SocketAddr> = listen else { return Ok(None) };
        let tls = match (self.path(&setting::SERVE_TLS_CERTIFICATE)?, self.path(&setting::SERVE_TLS_KEY)?) {
            (Some(certificate), Some(key)) => Some(TlsFiles { certificate, key }),
            (None, None) => None,
            (Some(_), None) => {
                return Err(Error("serve.tls_certificate is set but serve.tls_key is not".to_owned()));
            }
            (None, Some(_)) => {
                return Err(Error("serve.tls_key is set but serve.tls_certificate is not".to_owned()));
            }
        };
        if tls.is_none() && !listen.ip().is_loopback() && !self.truth(&setting::SERVE_INSECURE)? {
            return Err(Error(format!(
                "serve.listen is {listen}, which other machines reach, and there is no TLS: set serve.tls_certificate \
                 and serve.tls_key, or serve.insecure to true where the network is trusted"
            )));
        }
        Ok(Some(ServeSettings { listen, token: self.serve_token()?, tls }))
    }

    fn serve_token(&self) -> Result<Token, Error> {
        let Some(value) = self.sources.get(&setting::SERVE_TOKEN)? else {
            return Err(Error(
                "the repository is to be served and no token is set to ask for: set DRYDOCK_SERVE_TOKEN_FILE to a file \
                 with one, as `openssl rand -hex 32` makes it"
                    .to_owned(),
            ));
        };
        self::token(value)
    }

    /// What is asked for before anything is done over HTTP.
    pub(super) fn api_token(&self) -> Result<Option<Token>, Error> {
        self.sources.get(&setting::API_TOKEN)?.map(token).transpose()
    }
}

fn token(value: Value) -> Result<Token, Error> {
    let printable = value.text.bytes().all(|byte| byte.is_ascii_graphic());
    if value.text.len() < TOKEN_CHARACTERS_MIN || !printable {
        let expected = "a token of 16 or more letters and digits, as `openssl rand -hex 32` makes it";
        return Err(value.unexpected(expected));
    }
    Ok(Token::new(value.text))
}
