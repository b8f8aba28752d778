//! Cutting the server's byte stream into messages. Pure: bytes in, messages out, "need more" is an ordinary answer.
//!
//! `postgres-protocol` parses nearly all of them. It lacks CopyBothResponse, and it neither limits a message's length
//! nor hands out CopyData without a detour, so those are done here.

use bytes::{Buf, Bytes, BytesMut};
use postgres_protocol::message::backend::{self, Header, Message};

use crate::error::Error;

/// Longest CopyData accepted, in bytes. PostgreSQL sends at most 128 KiB of WAL and 32 KiB of a backup at once.
pub(crate) const COPY_DATA_BYTES_MAX: usize = 64 << 20;

/// Longest other message accepted, in bytes.
pub(crate) const MESSAGE_BYTES_MAX: usize = 1 << 20;

/// Tag and length, which precede every message.
const HEADER_BYTES: usize = 5;

const COPY_BOTH_RESPONSE_TAG: u8 = b'W';

/// A message from the server.
pub(crate) enum Frame {
    /// The connection is now a stream in both directions.
    CopyBoth,
    /// A piece of whatever is being copied.
    CopyData(Bytes),
    /// Anything else.
    Message(Message),
}

/// Takes the first message off `buffer`; `None` when it has not arrived in full.
///
/// Nothing is allocated for a length the server merely claims.
pub(crate) fn parse(buffer: &mut BytesMut) -> Result<Option<Frame>, Error> {
    let malformed = |error: std::io::Error| Error::Protocol(format!("malformed message: {error}"));
    let Some(header) = Header::parse(buffer).map_err(malformed)? else {
        return Ok(None);
    };
    // The length counts itself but not the tag, and the parser has refused lengths under four.
    let body_bytes = usize::try_from(header.len()).unwrap_or(usize::MAX).saturating_sub(4);
    check_length(header.tag(), body_bytes)?;
    if buffer.len() < HEADER_BYTES + body_bytes {
        return Ok(None);
    }
    match header.tag() {
        backend::COPY_DATA_TAG => {
            buffer.advance(HEADER_BYTES);
            Ok(Some(Frame::CopyData(buffer.split_to(body_bytes).freeze())))
        }
        COPY_BOTH_RESPONSE_TAG => {
            // The body says that columns are binary or text; replication has none.
            buffer.advance(HEADER_BYTES + body_bytes);
            Ok(Some(Frame::CopyBoth))
        }
        _ => Ok(Message::parse(buffer).map_err(malformed)?.map(Frame::Message)),
    }
}

fn check_length(tag: u8, bytes: usize) -> Result<(), Error> {
    let bytes_max = if tag == backend::COPY_DATA_TAG { COPY_DATA_BYTES_MAX } else { MESSAGE_BYTES_MAX };
    if bytes > bytes_max {
        let tag = tag.escape_ascii();
        return Err(Error::Protocol(format!(
            "message '{tag}' of {bytes} bytes; at most {bytes_max} are accepted"
        )));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn message(tag: u8, body: &[u8]) -> Vec<u8> {
        let length = i32::try_from(body.len() + 4).unwrap();
        [&[tag][..], &length.to_be_bytes(), body].concat()
    }

    #[test]
    fn waits_for_the_whole_message() {
        let bytes = message(b'd', b"wal");
        for cut in 0..bytes.len() {
            let mut buffer = BytesMut::from(&bytes[..cut]);
            assert!(parse(&mut buffer).unwrap().is_none());
            assert_eq!(buffer.len(), cut);
        }
        let mut buffer = BytesMut::from(&bytes[..]);
        assert!(matches!(parse(&mut buffer), Ok(Some(Frame::CopyData(data))) if data == "wal"));
        assert!(buffer.is_empty());
    }

    #[test]
    fn knows_copy_both() {
        let mut buffer = BytesMut::from(&message(b'W', &[0, 0, 0])[..]);
        assert!(matches!(parse(&mut buffer), Ok(Some(Frame::CopyBoth))));
    }

    #[test]
    fn refuses_lengths_before_their_bytes_arrive() {
        for (tag, length) in
            [(b'd', i32::MAX), (b'd', 3), (b'd', -1), (b'T', (1 << 20) + 5), (b'Z', i32::MIN)]
        {
            let mut buffer = BytesMut::from(&[&[tag][..], &length.to_be_bytes()].concat()[..]);
            assert!(matches!(parse(&mut buffer), Err(Error::Protocol(_))), "{tag} {length}");
        }
    }

    proptest! {
        #[test]
        fn never_panics(bytes: Vec<u8>) {
            let mut buffer = BytesMut::from(&bytes[..]);
            while let Ok(Some(_)) = parse(&mut buffer) {}
        }

        #[test]
        fn no_body_of_any_kind_panics(tag: u8, body: Vec<u8>) {
            let mut buffer = BytesMut::from(&message(tag, &body)[..]);
            drop(parse(&mut buffer));
        }

        /// However the network cuts the stream, the same messages come out.
        #[test]
        fn cuts_do_not_matter(bodies: Vec<Vec<u8>>, cut in 1usize..40) {
            let stream: Vec<u8> = bodies.iter().flat_map(|body| message(b'd', body)).collect();
            let (mut buffer, mut seen) = (BytesMut::new(), Vec::new());
            for chunk in stream.chunks(cut) {
                buffer.extend_from_slice(chunk);
                while let Some(Frame::CopyData(data)) = parse(&mut buffer).unwrap() {
                    seen.push(data.to_vec());
                }
            }
            prop_assert_eq!(seen, bodies);
        }
    }
}
