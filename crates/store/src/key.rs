//! Names of objects.

use std::fmt;

/// The name of an object: parts joined by `/`.
///
/// Parts are not empty, not `.` or `..`, do not start with `.`, hold no control character and no backslash, and have
/// at most 255 bytes; the whole has at most 1,000. So a key is a relative path that stays below its root on any
/// file system, and a valid S3 key.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key(String);

/// A prefix of keys that ends at a `/`; the empty one is the root.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Directory(String);

/// The text cannot be a key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("\"{0}\" cannot be the name of an object")]
pub struct InvalidKey(pub String);

const PART_BYTES_MAX: usize = 255;
const KEY_BYTES_MAX: usize = 1_000;

fn valid(text: &str) -> bool {
    text.len() <= KEY_BYTES_MAX && text.split('/').all(is_part)
}

/// Whether this can stand between two slashes of a key.
pub(crate) fn is_part(part: &str) -> bool {
    !part.is_empty()
        && !part.starts_with('.')
        && part.len() <= PART_BYTES_MAX
        && !part.chars().any(|c| c.is_control() || matches!(c, '\\' | '/'))
}

impl Key {
    /// Checks the invariants above.
    pub fn new(text: impl Into<String>) -> Result<Key, InvalidKey> {
        let text = text.into();
        if valid(&text) { Ok(Key(text)) } else { Err(InvalidKey(text)) }
    }

    /// The whole name.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The last part.
    pub fn name(&self) -> &str {
        self.0.rsplit('/').next().unwrap_or(&self.0)
    }
}

impl Directory {
    /// All keys.
    pub fn root() -> Directory {
        Directory::default()
    }

    /// Checks that keys can lie below it.
    pub fn new(text: impl Into<String>) -> Result<Directory, InvalidKey> {
        let text = text.into();
        if text.is_empty() || valid(&text) { Ok(Directory(text)) } else { Err(InvalidKey(text)) }
    }

    /// The whole name without a `/` at its end; empty for the root.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The key `name` (one part or several) in this directory.
    pub fn key(&self, name: &str) -> Result<Key, InvalidKey> {
        Key::new(self.join(name))
    }

    /// A directory below this one.
    pub fn directory(&self, name: &str) -> Result<Directory, InvalidKey> {
        Directory::new(self.join(name))
    }

    fn join(&self, name: &str) -> String {
        if self.0.is_empty() { name.to_owned() } else { format!("{}/{name}", self.0) }
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Directory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn refuses_what_could_leave_the_root() {
        for text in
            ["", "/", "/a", "a/", "a//b", ".", "..", "a/../b", "a/./b", ".hidden", "a\\b", "a\nb", "a\0b"]
        {
            assert!(Key::new(text).is_err(), "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn a_valid_key_is_a_path_below_its_root(text: String) {
            if let Ok(key) = Key::new(text) {
                let path = std::path::Path::new(key.as_str());
                prop_assert!(path.components().all(|part| matches!(part, std::path::Component::Normal(_))));
            }
        }
    }
}
