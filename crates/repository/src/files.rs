//! The list of a backup's files: JSON, one to a line, compressed with zstd.

use std::io::{BufRead, BufReader, Read, Write};

use bytes::buf::Reader;
use bytes::{Buf, Bytes};
use serde::{Deserialize, Serialize};
use store::Key;

use crate::Error;

/// One file, directory or link.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileEntry {
    /// Relative to the data directory, with `/`; a tablespace's files are below `pg_tblspc/<oid>/`.
    pub path: String,
    /// What it is.
    #[serde(flatten)]
    pub kind: FileKind,
    /// Permission bits.
    pub mode: u32,
}

/// What a path is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum FileKind {
    /// A file.
    File {
        /// Bytes.
        size: u64,
        /// Seconds since 1970.
        mtime: i64,
        /// CRC-32C of its bytes, as PostgreSQL's manifest has it.
        crc32c: u32,
        /// The number of the map that says where its bytes are; an empty file is in none.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        map: Option<u32>,
    },
    /// A directory.
    Directory,
    /// A symbolic link. A tablespace's link is made from the record instead.
    Link {
        /// Where it points.
        target: String,
    },
}

#[derive(Serialize, Deserialize)]
struct Head {
    format: u32,
    kind: String,
}

/// A line longer than this is not one of ours.
const LINE_BYTES_MAX: u64 = 64 << 20;

/// Writes lines of JSON into one zstd stream; the first says the format and the kind.
pub(crate) struct LineWriter {
    encoder: zstd::Encoder<'static, Vec<u8>>,
}

impl LineWriter {
    pub(crate) fn new(kind: &str) -> std::io::Result<LineWriter> {
        let mut encoder = zstd::Encoder::new(Vec::new(), 3)?;
        encoder.include_checksum(true)?;
        let mut writer = LineWriter { encoder };
        writer.push(&Head { format: crate::FORMAT, kind: kind.to_owned() })?;
        Ok(writer)
    }

    pub(crate) fn push<T: Serialize>(&mut self, value: &T) -> std::io::Result<()> {
        serde_json::to_writer(&mut self.encoder, value)?;
        self.encoder.write_all(b"\n")
    }

    pub(crate) fn finish(self) -> std::io::Result<Vec<u8>> {
        self.encoder.finish()
    }
}

/// Reads what [`LineWriter`] wrote, a line at a time, so that no list has to fit in memory plain.
pub(crate) struct LineReader {
    lines: BufReader<zstd::Decoder<'static, BufReader<Reader<Bytes>>>>,
    line: Vec<u8>,
}

impl LineReader {
    /// The error says what is wrong with the object.
    pub(crate) fn new(kind: &str, bytes: Bytes) -> Result<LineReader, String> {
        let decoder = zstd::Decoder::new(bytes.reader()).map_err(|error| error.to_string())?;
        let mut reader = LineReader { lines: BufReader::new(decoder), line: Vec::new() };
        match reader.next::<Head>()? {
            Some(head) if head.format != crate::FORMAT => {
                Err(format!("it has the unknown format {}", head.format))
            }
            Some(head) if head.kind != kind => Err(format!("it is of kind {}, not {kind}", head.kind)),
            Some(_) => Ok(reader),
            None => Err("it is empty".to_owned()),
        }
    }

    pub(crate) fn next<T: for<'de> Deserialize<'de>>(&mut self) -> Result<Option<T>, String> {
        self.line.clear();
        let read = (&mut self.lines).take(LINE_BYTES_MAX).read_until(b'\n', &mut self.line);
        match read.map_err(|error| error.to_string())? {
            0 => Ok(None),
            _ => serde_json::from_slice(&self.line).map(Some).map_err(|error| error.to_string()),
        }
    }
}

/// Writes a list of files.
pub struct FileListWriter(LineWriter);

impl FileListWriter {
    /// An empty list.
    pub fn new() -> std::io::Result<FileListWriter> {
        LineWriter::new("files").map(FileListWriter)
    }

    /// Appends an entry; a directory comes before what is in it.
    pub fn push(&mut self, entry: &FileEntry) -> std::io::Result<()> {
        self.0.push(entry)
    }

    /// The bytes of the object.
    pub fn finish(self) -> std::io::Result<Vec<u8>> {
        self.0.finish()
    }
}

/// Reads a list of files, an entry at a time: no list has to fit in memory.
pub struct FileListReader {
    key: Key,
    lines: LineReader,
}

impl FileListReader {
    pub(crate) fn new(key: Key, bytes: Bytes) -> Result<FileListReader, Error> {
        let lines = LineReader::new("files", bytes).map_err(|reason| Error::damaged(&key, reason))?;
        Ok(FileListReader { key, lines })
    }

    /// The next entry.
    #[expect(
        clippy::should_implement_trait,
        reason = "an iterator of results hides which entry was the last good one"
    )]
    pub fn next(&mut self) -> Result<Option<FileEntry>, Error> {
        self.lines.next().map_err(|reason| Error::damaged(&self.key, reason))
    }
}
