//! `backup_manifest`: every file of a base backup with its size and checksum, and the WAL the backup needs.
//!
//! A manifest grows with the number of files, so it is read line by line as it arrives. The server writes one file to a
//! line and escapes line breaks, so no value spans lines. The last line carries a SHA-256 of all lines before it.

use serde::Deserialize;
use sha2::{Digest, Sha256};

use crate::{Lsn, TimelineId};

/// The longest line we accept. A path has at most some 1 024 bytes, six characters each when escaped.
pub const LINE_BYTES_MAX: usize = 64 << 10;

/// One file of the backup.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ManifestFile {
    /// Path relative to the data directory, with `/`. Bytes, for a file name need not be UTF-8.
    pub path: Vec<u8>,
    /// Size in bytes.
    pub size: u64,
    /// CRC-32C of the contents, equal to `crc32c::crc32c` of them; `None` when the manifest has another checksum or none.
    pub crc32c: Option<u32>,
}

impl ManifestFile {
    /// The path, where it is UTF-8.
    pub fn path_text(&self) -> Option<&str> {
        std::str::from_utf8(&self.path).ok()
    }
}

/// WAL the backup needs, on one timeline.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct WalRange {
    /// The timeline.
    pub timeline: TimelineId,
    /// First byte needed.
    pub start: Lsn,
    /// First byte no longer needed.
    pub end: Lsn,
}

/// What a manifest says besides its files.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ManifestSummary {
    /// 1, or from PostgreSQL 17 on 2.
    pub version: u32,
    /// The cluster; from version 2 on.
    pub system_identifier: Option<u64>,
    /// How many files were named.
    pub files: u64,
    /// WAL needed, in the order written.
    pub wal_ranges: Vec<WalRange>,
}

/// The bytes are not a whole, undamaged manifest.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ManifestError {
    /// Not what must stand there.
    #[error("line {line} of the backup manifest is not {expected}")]
    Syntax {
        /// Counted from 1.
        line: u64,
        /// What should stand there.
        expected: &'static str,
    },
    /// Longer than [`LINE_BYTES_MAX`].
    #[error("line {line} of the backup manifest is longer than {LINE_BYTES_MAX} bytes")]
    LineTooLong {
        /// Counted from 1.
        line: u64,
    },
    /// Neither 1 nor 2.
    #[error("backup manifest version {0} is unknown")]
    Version(u32),
    /// The last line is missing.
    #[error("the backup manifest ends after {lines} lines, before its checksum")]
    Truncated {
        /// Whole lines seen.
        lines: u64,
    },
    /// Damaged.
    #[error("the backup manifest fails its checksum")]
    Checksum,
}

/// Reads a manifest in whatever pieces it arrives.
pub struct ManifestParser {
    /// The beginning of a line whose end has not arrived.
    partial: Vec<u8>,
    hash: Sha256,
    expecting: Expecting,
    lines: u64,
    failed: Option<ManifestError>,
    summary: ManifestSummary,
}

/// What the next line must be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Expecting {
    Version,
    SystemIdentifier,
    FilesStart,
    File,
    WalRangesStart,
    WalRange,
    Checksum,
    Nothing,
}

impl Default for ManifestParser {
    fn default() -> ManifestParser {
        ManifestParser::new()
    }
}

impl ManifestParser {
    /// A parser that has seen nothing yet.
    pub fn new() -> ManifestParser {
        ManifestParser {
            partial: Vec::new(),
            hash: Sha256::new(),
            expecting: Expecting::Version,
            lines: 0,
            failed: None,
            summary: ManifestSummary {
                version: 0,
                system_identifier: None,
                files: 0,
                wal_ranges: Vec::new(),
            },
        }
    }

    /// Takes the next bytes. Files are handed over before the manifest's checksum is known to hold: only after
    /// [`finish`](ManifestParser::finish) may they be believed. After an error every further call returns it again.
    pub fn push(&mut self, bytes: &[u8], on_file: &mut dyn FnMut(ManifestFile)) -> Result<(), ManifestError> {
        let result = match &self.failed {
            Some(error) => Err(error.clone()),
            None => self.push_lines(bytes, on_file),
        };
        self.failed = result.clone().err();
        result
    }

    /// Call when all bytes were pushed: `Ok` means the manifest is whole and its checksum held.
    pub fn finish(self) -> Result<ManifestSummary, ManifestError> {
        match self.failed {
            Some(error) => Err(error),
            None if self.expecting == Expecting::Nothing => Ok(self.summary),
            None => Err(ManifestError::Truncated { lines: self.lines }),
        }
    }

    fn push_lines(
        &mut self,
        mut bytes: &[u8],
        on_file: &mut dyn FnMut(ManifestFile),
    ) -> Result<(), ManifestError> {
        while let Some(end) = bytes.iter().position(|&byte| byte == b'\n') {
            let (line, rest) = bytes.split_at(end + 1);
            bytes = rest;
            if self.partial.is_empty() {
                self.line(line, on_file)?;
            } else {
                let mut whole = std::mem::take(&mut self.partial);
                whole.extend_from_slice(line);
                self.line(&whole, on_file)?;
            }
        }
        if self.partial.len() + bytes.len() > LINE_BYTES_MAX {
            return Err(ManifestError::LineTooLong { line: self.lines + 1 });
        }
        self.partial.extend_from_slice(bytes);
        Ok(())
    }

    /// `line` ends with its line feed.
    fn line(&mut self, line: &[u8], on_file: &mut dyn FnMut(ManifestFile)) -> Result<(), ManifestError> {
        self.lines += 1;
        if line.len() > LINE_BYTES_MAX {
            return Err(ManifestError::LineTooLong { line: self.lines });
        }
        if self.expecting != Expecting::Checksum {
            self.hash.update(line);
        }
        let text = line.trim_ascii();
        let text = text.strip_suffix(b",").unwrap_or(text);
        self.expecting = match self.expecting {
            Expecting::Version => self.version(text)?,
            Expecting::SystemIdentifier => self.system_identifier(text)?,
            Expecting::FilesStart if text == b"\"Files\": [" => Expecting::File,
            Expecting::FilesStart => return Err(self.syntax("the beginning of the files")),
            Expecting::File if text == b"]" => Expecting::WalRangesStart,
            // An empty backup has an empty line for a file.
            Expecting::File | Expecting::WalRange if text.is_empty() => self.expecting,
            Expecting::File => {
                on_file(self.parse(text, FileLine::file, "a file")?);
                self.summary.files += 1;
                Expecting::File
            }
            Expecting::WalRangesStart if text == b"\"WAL-Ranges\": [" => Expecting::WalRange,
            Expecting::WalRangesStart => return Err(self.syntax("the beginning of the WAL ranges")),
            Expecting::WalRange if text == b"]" => Expecting::Checksum,
            Expecting::WalRange => self.wal_range(text)?,
            Expecting::Checksum => self.checksum(text)?,
            Expecting::Nothing => return Err(self.syntax("the end of the manifest")),
        };
        Ok(())
    }

    fn version(&mut self, text: &[u8]) -> Result<Expecting, ManifestError> {
        let expected = "the version of a backup manifest";
        let version = text
            .strip_prefix(b"{ \"PostgreSQL-Backup-Manifest-Version\": ")
            .and_then(decimal)
            .and_then(|version| u32::try_from(version).ok())
            .ok_or_else(|| self.syntax(expected))?;
        self.summary.version = version;
        match version {
            1 => Ok(Expecting::FilesStart),
            2 => Ok(Expecting::SystemIdentifier),
            _ => Err(ManifestError::Version(version)),
        }
    }

    fn system_identifier(&mut self, text: &[u8]) -> Result<Expecting, ManifestError> {
        let identifier = text
            .strip_prefix(b"\"System-Identifier\": ")
            .and_then(decimal)
            .ok_or_else(|| self.syntax("the system identifier"))?;
        self.summary.system_identifier = Some(identifier);
        Ok(Expecting::FilesStart)
    }

    fn wal_range(&mut self, text: &[u8]) -> Result<Expecting, ManifestError> {
        /// A range for every timeline a backup runs across; a server is promoted once or twice at most meanwhile.
        const WAL_RANGES_MAX: usize = 1_000;
        let range = self.parse(text, WalRangeLine::range, "a WAL range")?;
        if self.summary.wal_ranges.len() == WAL_RANGES_MAX {
            return Err(self.syntax("the end of the WAL ranges"));
        }
        self.summary.wal_ranges.push(range);
        Ok(Expecting::WalRange)
    }

    fn checksum(&mut self, text: &[u8]) -> Result<Expecting, ManifestError> {
        let digits = text
            .strip_prefix(b"\"Manifest-Checksum\": \"")
            .and_then(|rest| rest.strip_suffix(b"\"}"))
            .and_then(unhex)
            .ok_or_else(|| self.syntax("the manifest's checksum"))?;
        if digits.as_slice() == self.hash.finalize_reset().as_slice() {
            Ok(Expecting::Nothing)
        } else {
            Err(ManifestError::Checksum)
        }
    }

    fn parse<'a, L: Deserialize<'a>, V>(
        &self,
        text: &'a [u8],
        value: impl Fn(L) -> Option<V>,
        expected: &'static str,
    ) -> Result<V, ManifestError> {
        serde_json::from_slice(text).ok().and_then(value).ok_or_else(|| self.syntax(expected))
    }

    fn syntax(&self, expected: &'static str) -> ManifestError {
        ManifestError::Syntax { line: self.lines, expected }
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
struct FileLine {
    path: Option<String>,
    #[serde(rename = "Encoded-Path")]
    encoded_path: Option<String>,
    size: u64,
    #[serde(rename = "Last-Modified")]
    _last_modified: Option<serde::de::IgnoredAny>,
    #[serde(rename = "Checksum-Algorithm")]
    checksum_algorithm: Option<String>,
    checksum: Option<String>,
}

impl FileLine {
    fn file(self) -> Option<ManifestFile> {
        let path = match (self.path, self.encoded_path) {
            (Some(path), None) => path.into_bytes(),
            (None, Some(encoded)) => unhex(encoded.as_bytes())?,
            _ => return None,
        };
        let crc32c = match (self.checksum_algorithm.as_deref(), self.checksum) {
            // PostgreSQL prints the four bytes as they lie in memory, the lowest first.
            (Some("CRC32C"), Some(digits)) => {
                Some(u32::from_le_bytes(unhex(digits.as_bytes())?.try_into().ok()?))
            }
            (Some(_), Some(_)) | (None, None) => None,
            _ => return None,
        };
        (!path.is_empty()).then_some(ManifestFile { path, size: self.size, crc32c })
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
struct WalRangeLine {
    timeline: TimelineId,
    #[serde(rename = "Start-LSN")]
    start: Lsn,
    #[serde(rename = "End-LSN")]
    end: Lsn,
}

impl WalRangeLine {
    fn range(self) -> Option<WalRange> {
        let WalRangeLine { timeline, start, end } = self;
        (start <= end).then_some(WalRange { timeline, start, end })
    }
}

fn decimal(text: &[u8]) -> Option<u64> {
    let plain = !text.is_empty() && text.iter().all(u8::is_ascii_digit);
    plain.then(|| std::str::from_utf8(text).ok()?.parse().ok()).flatten()
}

fn unhex(text: &[u8]) -> Option<Vec<u8>> {
    let (pairs, odd) = text.as_chunks::<2>();
    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    let bytes = pairs.iter().map(|[high, low]| Some(digit(*high)? << 4 | digit(*low)?)).collect();
    if odd.is_empty() { bytes } else { None }
}
