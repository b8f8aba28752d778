//! Where a repository is.

use std::fmt;
use std::path::{Path, PathBuf};

/// The address of a repository, checked: a directory, a bucket, or a service that serves its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Address {
    text: String,
    place: Place,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Place {
    Directory(PathBuf),
    Bucket,
    Service,
}

const EXPECTED: &str = "the address of a repository, such as file:///var/backups, an absolute directory, \
                        s3://bucket/prefix, or https://backup:8443";

impl Address {
    /// Reads an address; fails with what is expected.
    pub fn parse(text: &str) -> Result<Address, &'static str> {
        let directory = || {
            if text.starts_with('/') {
                return Some(PathBuf::from(text));
            }
            url::Url::parse(text).ok().filter(|url| url.scheme() == "file")?.to_file_path().ok()
        };
        let bucket =
            || store::s3::S3Config::parse(text, store::s3::S3Options::default()).map(|_config| Place::Bucket);
        let service = || store::http::parse_address(text).map(|_url| Place::Service);
        let place = directory().map(Place::Directory).or_else(bucket).or_else(service).ok_or(EXPECTED)?;
        Ok(Address { text: text.to_owned(), place })
    }

    /// As it was written.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The directory on this machine, where it is one.
    pub fn directory(&self) -> Option<&Path> {
        match &self.place {
            Place::Directory(directory) => Some(directory),
            Place::Bucket | Place::Service => None,
        }
    }

    /// Whether the other one names the same place, as far as their text tells.
    pub fn is_same_place(&self, other: &Address) -> bool {
        match (self.directory(), other.directory()) {
            (Some(directory), Some(other)) => directory.components().eq(other.components()),
            (None, None) => self.text.trim_end_matches('/') == other.text.trim_end_matches('/'),
            _ => false,
        }
    }

    /// Whether it is a bucket.
    pub fn is_bucket(&self) -> bool {
        self.place == Place::Bucket
    }

    /// Whether it can only be read, by whomever.
    pub fn is_read_only(&self) -> bool {
        self.place == Place::Service
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}
