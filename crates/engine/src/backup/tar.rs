//! Reading tar archives as they come, in whatever pieces.

use bytes::{Buf, Bytes, BytesMut};
use tar::{EntryType, Header};

use crate::Error;

/// The size of a tar block.
const BLOCK: usize = 512;

/// A file, directory or link in an archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry {
    /// Relative to the root of the archive, without `./`.
    pub(super) path: String,
    pub(super) kind: EntryKind,
    pub(super) mode: u32,
    pub(super) mtime: i64,
}

/// What an entry is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum EntryKind {
    File { size: u64 },
    Directory,
    Link { target: String },
}

/// What an archive consists of, in order.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Item {
    Entry(Entry),
    /// Some bytes of the file whose entry came last.
    Data(Bytes),
    /// The file whose entry came last is complete.
    EndOfFile,
}

/// Follows one archive.
#[derive(Debug, Default)]
pub(super) struct Reader {
    header: BytesMut,
    /// Bytes of the current file that are still to come, and the padding behind it.
    data_left: u64,
    padding_left: u64,
    in_file: bool,
}

impl Reader {
    /// Takes the next bytes of the archive off `input` and gives what they are; `None` when all of `input` is used up.
    pub(super) fn next(&mut self, input: &mut Bytes) -> Result<Option<Item>, Error> {
        loop {
            if self.in_file {
                if self.data_left > 0 {
                    return Ok(take(input, &mut self.data_left).map(Item::Data));
                }
                self.in_file = false;
                return Ok(Some(Item::EndOfFile));
            }
            if self.padding_left > 0 {
                if take(input, &mut self.padding_left).is_none() {
                    return Ok(None);
                }
                continue;
            }
            let wanted = (BLOCK - self.header.len()).min(input.len());
            self.header.extend_from_slice(&input.split_to(wanted));
            if self.header.len() < BLOCK {
                return Ok(None);
            }
            let block = self.header.split();
            // Blocks of zeroes end an archive.
            if block.iter().any(|byte| *byte != 0) {
                return self.begin(&block).map(|entry| Some(Item::Entry(entry)));
            }
        }
    }

    fn begin(&mut self, block: &[u8]) -> Result<Entry, Error> {
        let entry = parse(block).map_err(Error::BadBackup)?;
        if let EntryKind::File { size } = entry.kind {
            self.in_file = true;
            self.data_left = size;
            self.padding_left = size.next_multiple_of(BLOCK as u64) - size;
        }
        Ok(entry)
    }

    /// Whether the archive may end here.
    pub(super) fn is_at_rest(&self) -> bool {
        !self.in_file && self.padding_left == 0 && self.header.is_empty()
    }
}

fn take(input: &mut Bytes, left: &mut u64) -> Option<Bytes> {
    let len = usize::try_from(*left).unwrap_or(usize::MAX).min(input.remaining());
    *left -= len as u64;
    (len > 0).then(|| input.split_to(len))
}

fn parse(block: &[u8]) -> Result<Entry, String> {
    let header = Header::from_byte_slice(block);
    let explain = |error: std::io::Error| format!("an entry of a tar archive cannot be read: {error}");
    let sum: u32 = block
        .iter()
        .enumerate()
        .map(|(at, byte)| if (148..156).contains(&at) { 32 } else { u32::from(*byte) })
        .sum();
    if header.cksum().map_err(explain)? != sum {
        return Err("an entry of a tar archive has a wrong checksum".to_owned());
    }
    let path = text(&header.path_bytes())?;
    let path = path.trim_start_matches("./").trim_end_matches('/').to_owned();
    let kind = match header.entry_type() {
        EntryType::Regular => EntryKind::File { size: header.entry_size().map_err(explain)? },
        EntryType::Directory => EntryKind::Directory,
        EntryType::Symlink => {
            let target = header.link_name_bytes().ok_or("a link in a tar archive points nowhere")?;
            EntryKind::Link { target: text(&target)? }
        }
        other => {
            return Err(format!("{path} is of a kind ({:?}) that a data directory does not have", other));
        }
    };
    if path.split('/').any(|part| part == ".." || part == ".") || path.starts_with('/') {
        return Err(format!("\"{path}\" is not a path below a data directory"));
    }
    let mtime = i64::try_from(header.mtime().map_err(explain)?).unwrap_or(0);
    Ok(Entry { path, kind, mode: header.mode().map_err(explain)? & 0o7777, mtime })
}

fn text(bytes: &[u8]) -> Result<String, String> {
    let text = String::from_utf8(bytes.to_vec());
    text.map_err(|error| {
        let name = String::from_utf8_lossy(error.as_bytes()).into_owned();
        format!(
            "the file name \"{name}\" is not UTF-8; rename or remove the file, PostgreSQL makes none like it"
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn archive(files: &[(String, Vec<u8>)]) -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        for (path, content) in files {
            let mut header = Header::new_ustar();
            header.set_size(content.len() as u64);
            header.set_mode(0o600);
            builder.append_data(&mut header, path, &content[..]).unwrap();
        }
        builder.into_inner().unwrap()
    }

    fn read(bytes: &[u8], cut: usize) -> Vec<(String, Vec<u8>)> {
        let mut reader = Reader::default();
        let mut files: Vec<(String, Vec<u8>)> = Vec::new();
        for chunk in bytes.chunks(cut) {
            let mut input = Bytes::copy_from_slice(chunk);
            while let Some(item) = reader.next(&mut input).unwrap() {
                match item {
                    Item::Entry(entry) => files.push((entry.path, Vec::new())),
                    Item::Data(data) => files.last_mut().unwrap().1.extend_from_slice(&data),
                    Item::EndOfFile => {}
                }
            }
        }
        assert!(reader.is_at_rest());
        files
    }

    proptest! {
        #[test]
        fn reads_what_tar_writes_however_it_is_cut(
            files in prop::collection::vec(("[a-z]{1,8}(/[a-z0-9_.]{1,8}x){0,3}", prop::collection::vec(any::<u8>(), 0..2000)), 0..8),
            cut in 1usize..3000,
        ) {
            prop_assert_eq!(read(&archive(&files), cut), files);
        }

        #[test]
        fn never_panics(bytes: Vec<u8>) {
            let mut reader = Reader::default();
            let mut input = Bytes::from(bytes);
            while let Ok(Some(_)) = reader.next(&mut input) {}
        }
    }

    #[test]
    fn refuses_paths_that_lead_out() {
        for path in ["../etc/passwd", "base/../../x"] {
            let mut header = Header::new_ustar();
            header.as_mut_bytes()[..path.len()].copy_from_slice(path.as_bytes());
            header.set_entry_type(EntryType::Regular);
            header.set_size(0);
            header.set_mode(0o600);
            header.set_mtime(0);
            header.set_cksum();
            assert!(parse(header.as_bytes()).is_err(), "{path}");
        }
    }
}
