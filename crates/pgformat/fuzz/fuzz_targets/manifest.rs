//! Backup manifests: the pieces they arrive in make no difference.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pgformat::manifest::ManifestError;
use pgformat::{ManifestFile, ManifestParser, ManifestSummary};

fn parse(bytes: &[u8], piece: usize) -> (Vec<ManifestFile>, Result<ManifestSummary, ManifestError>) {
    let mut files = Vec::new();
    let mut parser = ManifestParser::new();
    let pushed = bytes.chunks(piece).try_for_each(|bytes| parser.push(bytes, &mut |file| files.push(file)));
    (files, pushed.and_then(|()| parser.finish()))
}

fuzz_target!(|input: (u8, &[u8])| {
    let (piece, bytes) = input;
    assert_eq!(parse(bytes, usize::from(piece) + 1), parse(bytes, usize::MAX));
});
