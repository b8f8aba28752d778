//! The server's manifest: compare every file with it, and store it as it is, or without the files left out.

use std::collections::HashMap;

use pgformat::{ManifestFile, ManifestParser};
use sha2::{Digest, Sha256};

use super::work::FileFacts;
use crate::Error;

/// What came, to be compared with what the manifest says was sent.
///
/// Sixteen bytes a file beside the path's hash keep a million files small.
#[derive(Default)]
pub(super) struct Received {
    files: HashMap<u64, (u64, u32)>,
}

fn hash(path: &[u8]) -> u64 {
    use std::hash::{DefaultHasher, Hash, Hasher};
    let mut hasher = DefaultHasher::new();
    path.hash(&mut hasher);
    hasher.finish()
}

impl Received {
    pub(super) fn add(&mut self, facts: &FileFacts) {
        self.files.insert(hash(facts.path.as_bytes()), (facts.size, facts.crc32c));
    }

    fn compare(&mut self, file: &ManifestFile, left_out: &[String]) -> Result<(), String> {
        let name = || String::from_utf8_lossy(&file.path).into_owned();
        let Some((size, crc32c)) = self.files.remove(&hash(&file.path)) else {
            let known = left_out.iter().any(|path| path.as_bytes() == file.path);
            return if known {
                Ok(())
            } else {
                Err(format!("the manifest names {}, which did not come", name()))
            };
        };
        if size != file.size {
            return Err(format!("{} came with {size} bytes, but the manifest says {}", name(), file.size));
        }
        match file.crc32c {
            Some(expected) if expected != crc32c => Err(format!(
                "{} came with checksum {crc32c:08x}, but the manifest says {expected:08x}",
                name()
            )),
            _ => Ok(()),
        }
    }
}

/// Reads the manifest as it comes.
pub(super) struct Manifest {
    parser: ManifestParser,
    received: Received,
    left_out: Vec<String>,
    filter: Option<Filter>,
    wrong: Option<String>,
}

impl Manifest {
    pub(super) fn new(received: Received, left_out: Vec<String>) -> Manifest {
        let filter = (!left_out.is_empty()).then(Filter::default);
        Manifest { parser: ManifestParser::new(), received, left_out, filter, wrong: None }
    }

    /// Takes the next bytes and gives those to be stored.
    pub(super) fn push(&mut self, bytes: &[u8]) -> Result<Vec<u8>, Error> {
        let (received, left_out, wrong) = (&mut self.received, &self.left_out, &mut self.wrong);
        let mut compare = |file: ManifestFile| {
            if let Err(reason) = received.compare(&file, left_out) {
                wrong.get_or_insert(reason);
            }
        };
        self.parser.push(bytes, &mut compare).map_err(|error| Error::BadBackup(error.to_string()))?;
        match self.wrong.take() {
            Some(reason) => Err(Error::BadBackup(reason)),
            None => {
                Ok(self.filter.as_mut().map_or_else(|| bytes.to_vec(), |filter| filter.push(bytes, left_out)))
            }
        }
    }

    /// The manifest is complete. Gives the WAL it says is needed.
    pub(super) fn finish(self) -> Result<Vec<pgformat::WalRange>, Error> {
        let summary = self.parser.finish().map_err(|error| Error::BadBackup(error.to_string()))?;
        if !self.received.files.is_empty() {
            return Err(Error::BadBackup(format!(
                "{} files came that the manifest does not name",
                self.received.files.len()
            )));
        }
        Ok(summary.wal_ranges)
    }
}

/// Takes lines of left out files from a manifest and seals it anew. The server writes a file to a line.
#[derive(Default)]
struct Filter {
    line: Vec<u8>,
    /// Held back until it is known whether its comma stays.
    held: Option<Vec<u8>>,
    hasher: Sha256,
}

impl Filter {
    fn push(&mut self, bytes: &[u8], left_out: &[String]) -> Vec<u8> {
        let mut out = Vec::with_capacity(bytes.len());
        for byte in bytes {
            self.line.push(*byte);
            if *byte == b'\n' {
                let line = std::mem::take(&mut self.line);
                self.take_line(line, left_out, &mut out);
            }
        }
        out
    }

    fn take_line(&mut self, line: Vec<u8>, left_out: &[String], out: &mut Vec<u8>) {
        if line.starts_with(b"\"Manifest-Checksum\"") {
            self.release(false, out);
            let sum = hex::encode(self.hasher.clone().finalize());
            out.extend_from_slice(format!("\"Manifest-Checksum\": \"{sum}\"}}\n").as_bytes());
            return;
        }
        let names = |path: &String| {
            let name = format!("{{ \"Path\": {}, ", serde_json::Value::String(path.clone()));
            line.starts_with(name.as_bytes())
        };
        if left_out.iter().any(names) {
            return;
        }
        self.release(line.starts_with(b"]"), out);
        self.held = Some(line);
    }

    fn release(&mut self, ends_list: bool, out: &mut Vec<u8>) {
        let Some(mut line) = self.held.take() else { return };
        if ends_list && line.ends_with(b",\n") {
            line.truncate(line.len() - 2);
            line.push(b'\n');
        }
        self.hasher.update(&line);
        out.extend_from_slice(&line);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manifest(files: &[&str]) -> Vec<u8> {
        let files: Vec<String> =
            files.iter().map(|path| format!("{{ \"Path\": \"{path}\", \"Size\": 0, \"Last-Modified\": \"2026-01-01 00:00:00 GMT\", \"Checksum-Algorithm\": \"CRC32C\", \"Checksum\": \"00000000\" }}")).collect();
        let body = format!(
            "{{ \"PostgreSQL-Backup-Manifest-Version\": 1,\n\"Files\": [\n{}\n],\n\"WAL-Ranges\": [\n{{ \"Timeline\": 1, \"Start-LSN\": \"0/2000028\", \"End-LSN\": \"0/2000100\" }}\n],\n",
            files.join(",\n")
        );
        let sum = hex::encode(Sha256::digest(&body));
        format!("{body}\"Manifest-Checksum\": \"{sum}\"}}\n").into_bytes()
    }

    fn filtered(files: &[&str], left_out: &[&str], cut: usize) -> Vec<u8> {
        let mut received = Received::default();
        for path in files.iter().filter(|path| !left_out.contains(path)) {
            received.add(&FileFacts { path: (*path).to_owned(), mode: 0, mtime: 0, size: 0, crc32c: 0 });
        }
        let mut reader = Manifest::new(received, left_out.iter().map(|path| (*path).to_owned()).collect());
        let stored = manifest(files).chunks(cut).flat_map(|bytes| reader.push(bytes).unwrap()).collect();
        reader.finish().unwrap();
        stored
    }

    #[test]
    fn files_left_out_are_taken_from_the_manifest_and_it_is_sealed_anew() {
        for (files, left_out, rest) in [
            (vec!["a", "b", "c"], vec!["b"], vec!["a", "c"]),
            (vec!["a", "b", "c"], vec!["c"], vec!["a", "b"]),
            (vec!["a", "b", "c"], vec!["a"], vec!["b", "c"]),
            (vec!["a", "b"], vec![], vec!["a", "b"]),
        ] {
            for cut in [1, 7, 10_000] {
                assert_eq!(
                    filtered(&files, &left_out, cut),
                    manifest(&rest),
                    "{files:?} without {left_out:?}"
                );
            }
        }
    }

    #[test]
    fn what_differs_is_named() {
        let push = |received: Received| {
            Manifest::new(received, Vec::new()).push(&manifest(&["base/1/1259"])).unwrap_err().to_string()
        };
        let with = |size, crc32c| {
            let mut received = Received::default();
            received.add(&FileFacts { path: "base/1/1259".into(), mode: 0, mtime: 0, size, crc32c });
            received
        };
        assert!(push(Received::default()).contains("base/1/1259"));
        assert!(push(with(1, 0)).contains("1 bytes"));
        assert!(push(with(0, 7)).contains("00000007"));
    }
}
