//! How a service is reached.

use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;

use url::{Host, Url};

use crate::OpenError;

/// What one needs beside the address.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HttpOptions {
    /// What the service asks for.
    pub token: Option<Token>,
    /// PEM file of the authorities that may vouch for the service, instead of the system's.
    pub ca_file: Option<PathBuf>,
    /// Allows `http://` to other machines, where anybody on the way reads token and data.
    pub insecure: bool,
}

/// A secret that lets its bearer read a repository. It prints nothing.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(String);

impl Token {
    /// Wraps it.
    pub fn new(text: impl Into<String>) -> Token {
        Token(text.into())
    }

    /// The secret itself.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(…)")
    }
}

/// Reads `https://host:port` or `http://host:port`, with nothing behind it. A password has no place in an address.
pub fn parse_address(text: &str) -> Option<Url> {
    let url = Url::parse(text).ok()?;
    let plain = url.username().is_empty()
        && url.password().is_none()
        && url.path() == "/"
        && url.query().is_none()
        && url.fragment().is_none();
    (matches!(url.scheme(), "http" | "https") && url.has_host() && plain).then_some(url)
}

/// Whether what is sent there never leaves this machine.
fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(Host::Domain(name)) => name == "localhost",
        Some(Host::Ipv4(address)) => IpAddr::from(address).is_loopback(),
        Some(Host::Ipv6(address)) => IpAddr::from(address).is_loopback(),
        None => false,
    }
}

impl HttpOptions {
    /// The address as a URL, when it may be used.
    pub(super) fn check(&self, address: &str) -> Result<Url, OpenError> {
        let url = parse_address(address).ok_or_else(|| OpenError::Address(address.to_owned()))?;
        if url.scheme() == "http" && !is_loopback(&url) && !self.insecure {
            return Err(OpenError::Insecure(address.to_owned()));
        }
        Ok(url)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses() {
        for good in ["https://backup:8443", "https://backup:8443/", "http://[::1]:1", "https://b"] {
            assert!(parse_address(good).is_some(), "{good}");
        }
        for bad in
            ["https://", "https://u:p@b", "https://b/x", "https://b?x", "https://b#x", "ftp://b", "b:1"]
        {
            assert!(parse_address(bad).is_none(), "{bad}");
        }
    }

    #[test]
    fn plain_http_stays_on_this_machine_unless_it_is_allowed() {
        let strict = HttpOptions::default();
        for local in ["http://localhost:1", "http://127.0.0.1:1", "http://[::1]:1", "https://backup"] {
            assert!(strict.check(local).is_ok(), "{local}");
        }
        for remote in ["http://backup:1", "http://10.0.0.1", "http://localhost.example.com", "http://[::]:1"]
        {
            assert!(matches!(strict.check(remote), Err(OpenError::Insecure(_))), "{remote}");
            assert!(HttpOptions { insecure: true, ..HttpOptions::default() }.check(remote).is_ok());
        }
    }

    #[test]
    fn a_token_prints_nothing() {
        let options = HttpOptions { token: Some(Token::new("hunter2")), ..HttpOptions::default() };
        assert!(!format!("{options:?}").contains("hunter2"));
    }
}
