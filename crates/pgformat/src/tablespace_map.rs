//! `tablespace_map`: where each tablespace's directory lies, one line each: object identifier, space, path.
//!
//! Recovery makes the symbolic links in `pg_tblspc` from this file. A backslash, carriage return or line feed in a path
//! is written after a backslash, as itself; a path can hold any of them.

/// One tablespace.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TablespaceMapEntry {
    /// Object identifier of the tablespace, and its name in `pg_tblspc`.
    pub oid: u32,
    /// Where the link leads.
    pub path: String,
}

/// The bytes are not a `tablespace_map`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TablespaceMapError {
    /// A line without identifier, space and path.
    #[error("entry {entry} of tablespace_map is not an object identifier and a path: \"{text}\"")]
    Syntax {
        /// Counted from 1.
        entry: usize,
        /// What stands there.
        text: String,
    },
    /// The last line has no end: the file is cut short.
    #[error("tablespace_map ends within a line")]
    Truncated,
}

/// Reads the file by the rules of PostgreSQL's `read_tablespace_map`.
pub fn parse(bytes: &[u8]) -> Result<Vec<TablespaceMapEntry>, TablespaceMapError> {
    let mut entries = Vec::new();
    let mut line = Vec::new();
    let mut escaped = false;
    for &byte in bytes {
        match byte {
            // An empty line is passed over, so that CR LF ends a line once.
            b'\n' | b'\r' if !escaped => {
                if !line.is_empty() {
                    entries.push(parse_line(&line, entries.len() + 1)?);
                    line.clear();
                }
            }
            b'\\' if !escaped => escaped = true,
            _ => {
                line.push(byte);
                escaped = false;
            }
        }
    }
    if escaped || !line.is_empty() { Err(TablespaceMapError::Truncated) } else { Ok(entries) }
}

/// Writes the file as PostgreSQL's `do_pg_backup_start` does.
pub fn format(entries: &[TablespaceMapEntry]) -> Vec<u8> {
    let mut text = Vec::new();
    for entry in entries {
        text.extend_from_slice(entry.oid.to_string().as_bytes());
        text.push(b' ');
        for byte in entry.path.bytes() {
            if matches!(byte, b'\n' | b'\r' | b'\\') {
                text.push(b'\\');
            }
            text.push(byte);
        }
        text.push(b'\n');
    }
    text
}

fn parse_line(line: &[u8], entry: usize) -> Result<TablespaceMapEntry, TablespaceMapError> {
    let parsed = std::str::from_utf8(line).ok().and_then(|text| {
        let (oid, path) = text.split_once(' ')?;
        let digits = oid.bytes().all(|b| b.is_ascii_digit());
        let oid = digits.then(|| oid.parse().ok()).flatten().filter(|&oid| oid != 0)?;
        (!path.is_empty()).then(|| TablespaceMapEntry { oid, path: path.to_owned() })
    });
    parsed.ok_or_else(|| syntax_error(line, entry))
}

fn syntax_error(line: &[u8], entry: usize) -> TablespaceMapError {
    /// Enough to recognise the line by; the file may be anything.
    const TEXT_CHARS_MAX: usize = 80;
    let text = String::from_utf8_lossy(line).chars().take(TEXT_CHARS_MAX).collect();
    TablespaceMapError::Syntax { entry, text }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn entry(oid: u32, path: &str) -> TablespaceMapEntry {
        TablespaceMapEntry { oid, path: path.into() }
    }

    #[test]
    fn reads_what_postgresql_writes() {
        assert_eq!(parse(b""), Ok(vec![]));
        assert_eq!(
            parse(b"16384 /srv/a b\r\n16385 /odd\\\npath\\\\x\n"),
            Ok(vec![entry(16384, "/srv/a b"), entry(16385, "/odd\npath\\x")])
        );
    }

    #[test]
    fn refuses_what_it_refuses() {
        for bytes in [&b"16384 /srv"[..], b"16384 /srv\n\\", b"1"] {
            assert_eq!(parse(bytes), Err(TablespaceMapError::Truncated), "{bytes:?}");
        }
        for bytes in [&b"16384\n"[..], b"x /srv\n", b"16384 \n", b" /srv\n", b"0 /srv\n", b"1 \xff\n"] {
            assert!(matches!(parse(bytes), Err(TablespaceMapError::Syntax { entry: 1, .. })), "{bytes:?}");
        }
    }

    proptest! {
        #[test]
        fn round_trips(entries in prop::collection::vec((1u32.., "[a\\\\\n\r /é]{1,9}"), 0..4)) {
            let entries: Vec<_> = entries.iter().map(|(oid, path)| entry(*oid, path)).collect();
            prop_assert_eq!(parse(&format(&entries)), Ok(entries));
        }

        #[test]
        fn never_panics(bytes: Vec<u8>) {
            drop(parse(&bytes));
        }

        #[test]
        fn damage_never_panics(at in 0usize..20, byte: u8) {
            let mut bytes = b"16384 /a\\\nb\n16385 /c\n".to_vec();
            bytes[at] = byte;
            drop(parse(&bytes));
        }
    }
}
