//! Where a repository is.

use std::fmt;
use std::path::{Path, PathBuf};

/// The address of a repository, checked: a directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Address {
    text: String,
    directory: PathBuf,
}

const EXPECTED: &str = "the address of a repository, such as file:///var/backups, or an absolute directory";

impl Address {
    /// Reads an address; fails with what is expected.
    pub fn parse(text: &str) -> Result<Address, &'static str> {
        let directory = if text.starts_with('/') {
            Some(PathBuf::from(text))
        } else {
            let url = url::Url::parse(text).ok().filter(|url| url.scheme() == "file");
            url.and_then(|url| url.to_file_path().ok())
        };
        let directory = directory.ok_or(EXPECTED)?;
        Ok(Address { text: text.to_owned(), directory })
    }

    /// As it was written.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The directory on this machine.
    pub fn directory(&self) -> &Path {
        &self.directory
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}
