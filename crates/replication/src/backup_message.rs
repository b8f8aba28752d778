//! What PostgreSQL 15 and later send inside the one copy of BASE_BACKUP: messages with a type. Pure.

use bytes::{Buf, Bytes};

use crate::error::Error;

/// One CopyData of a base backup.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum BackupMessage {
    /// An archive begins: the main data directory's if there is no tablespace.
    Archive { tablespace: Option<u32> },
    /// The manifest begins.
    Manifest,
    /// A piece of what began last.
    Data(Bytes),
    /// So many bytes have been read on the server.
    Progress { bytes: u64 },
}

/// Reads one CopyData.
pub(crate) fn parse(mut payload: Bytes) -> Result<BackupMessage, Error> {
    match payload.try_get_u8() {
        Ok(b'd') => Ok(BackupMessage::Data(payload)),
        Ok(b'n') => archive(&payload),
        Ok(b'm') => Ok(BackupMessage::Manifest),
        Ok(b'p') => match payload.try_get_u64() {
            Ok(bytes) => Ok(BackupMessage::Progress { bytes }),
            Err(_) => Err(Error::Protocol("truncated progress message in base backup".to_owned())),
        },
        Ok(tag) => {
            Err(Error::Protocol(format!("base backup message '{}' is not understood", tag.escape_ascii())))
        }
        Err(_) => Err(Error::Protocol("empty message in base backup".to_owned())),
    }
}

/// The archive's file name, `base.tar` or `<oid>.tar`, then the tablespace's path, which the header had already.
fn archive(payload: &[u8]) -> Result<BackupMessage, Error> {
    let name = payload.split(|byte| *byte == 0).next().unwrap_or_default();
    let stem = name.strip_suffix(b".tar").and_then(|stem| std::str::from_utf8(stem).ok());
    let tablespace = match stem {
        Some("base") => Some(None),
        Some(oid) => oid.parse().ok().map(Some),
        None => None,
    };
    tablespace.map(|tablespace| BackupMessage::Archive { tablespace }).ok_or_else(|| {
        let name = name.get(..100).unwrap_or(name).escape_ascii();
        Error::Protocol(format!(
            "base backup holds an archive \"{name}\", which is neither base.tar nor <oid>.tar"
        ))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read(bytes: &[u8]) -> Option<BackupMessage> {
        parse(Bytes::copy_from_slice(bytes)).ok()
    }

    #[test]
    fn archives_are_named_by_tablespace() {
        assert_eq!(read(b"nbase.tar\0\0"), Some(BackupMessage::Archive { tablespace: None }));
        assert_eq!(read(b"n16384.tar\0/srv/t\0"), Some(BackupMessage::Archive { tablespace: Some(16384) }));
        for odd in
            [&b"n\0\0"[..], b"nbase.tar.gz\0\0", b"n-1.tar\0\0", b"n99999999999.tar\0\0", b"n", b"", b"x"]
        {
            assert_eq!(read(odd), None, "{odd:?}");
        }
    }

    #[test]
    fn other_messages() {
        assert_eq!(read(b"m"), Some(BackupMessage::Manifest));
        assert_eq!(read(b"dxyz"), Some(BackupMessage::Data("xyz".into())));
        assert_eq!(read(b"p\0\0\0\0\0\0\x01\0"), Some(BackupMessage::Progress { bytes: 256 }));
        assert_eq!(read(b"p\0"), None);
    }

    proptest! {
        #[test]
        fn never_panics(tag in prop::sample::select(b"ndmpx".to_vec()), body: Vec<u8>) {
            read(&[&[tag][..], &body].concat());
            read(&body);
        }
    }
}
