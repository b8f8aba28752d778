//! What servers of each major wrote, frozen in `tests/fixtures`; `make.sh` there says how.

use std::fs;
use std::path::PathBuf;

use pgformat::Major;

/// The majors there are fixtures of. 14 and 16 could not be had; their entries in the table are read from source.
pub fn majors() -> impl Iterator<Item = Major> {
    [15, 17, 18].into_iter().map(|number| Major::new(number).unwrap())
}

/// A file a server of this major wrote.
pub fn fixture(major: Major, name: &str) -> Vec<u8> {
    let path = directory(major).join(name);
    match fs::read(&path) {
        Ok(bytes) => bytes,
        Err(_) => unpack(path.with_added_extension("zst")),
    }
}

/// As [`fixture`], of text.
pub fn text(major: Major, name: &str) -> String {
    String::from_utf8(fixture(major, name)).unwrap()
}

/// Names and contents of the segments in a directory of fixtures, in order.
#[allow(dead_code, reason = "not every test reads WAL")]
pub fn segments(major: Major, name: &str) -> Vec<(String, Vec<u8>)> {
    let entries = fs::read_dir(directory(major).join(name)).unwrap();
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths
        .into_iter()
        .map(|path| (path.file_stem().unwrap().to_str().unwrap().to_owned(), unpack(path)))
        .collect()
}

fn directory(major: Major) -> PathBuf {
    [env!("CARGO_MANIFEST_DIR"), "tests", "fixtures", &major.to_string()].iter().collect()
}

fn unpack(path: PathBuf) -> Vec<u8> {
    let packed = fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    zstd::decode_all(packed.as_slice()).unwrap()
}
