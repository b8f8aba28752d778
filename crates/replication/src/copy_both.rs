//! The messages inside the two-way copy of START_REPLICATION. Pure.

use std::time::{SystemTime, UNIX_EPOCH};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use pgformat::Lsn;
use postgres_protocol::message::frontend::CopyData;

use crate::error::Error;

/// Start, end and clock, which precede WAL.
const WAL_HEADER_BYTES: usize = 24;
/// End, clock and a flag.
const KEEPALIVE_BYTES: usize = 17;
/// Tag, three positions, clock and a flag.
const STATUS_BYTES: usize = 34;

/// Microseconds from 1970 to 2000, where PostgreSQL's clock starts.
const POSTGRES_EPOCH_MICROSECONDS: i64 = 946_684_800_000_000;

/// What the server says while it streams.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Payload {
    Wal { start: Lsn, server_end: Lsn, data: Bytes },
    Keepalive { server_end: Lsn, reply_requested: bool },
}

/// Reads one CopyData from the server.
pub(crate) fn parse(mut payload: Bytes) -> Result<Payload, Error> {
    match payload.try_get_u8() {
        Ok(b'w') if payload.len() >= WAL_HEADER_BYTES => {
            let (start, server_end) = (Lsn(payload.get_u64()), Lsn(payload.get_u64()));
            let _clock = payload.get_i64();
            let bytes = u64::try_from(payload.len()).unwrap_or(u64::MAX);
            if start.0.checked_add(bytes).is_none() {
                return Err(Error::Protocol(format!(
                    "WAL at {start} reaches past the end of the address space"
                )));
            }
            Ok(Payload::Wal { start, server_end, data: payload })
        }
        Ok(b'k') if payload.len() >= KEEPALIVE_BYTES => {
            let server_end = Lsn(payload.get_u64());
            let _clock = payload.get_i64();
            Ok(Payload::Keepalive { server_end, reply_requested: payload.get_u8() != 0 })
        }
        Ok(tag) => {
            let (tag, bytes) = (tag.escape_ascii(), payload.len());
            Err(Error::Protocol(format!("replication message '{tag}' with {bytes} bytes is not understood")))
        }
        Err(_) => Err(Error::Protocol("empty replication message".to_owned())),
    }
}

/// How far we are, as the server wants to know it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct StatusUpdate {
    /// WAL received up to here.
    pub written: Lsn,
    /// WAL durable up to here. The server lets go of what lies before, and commits that wait for us return.
    pub flushed: Lsn,
    /// WAL applied up to here; we apply nothing, so [`Lsn::INVALID`] unless `remote_apply` should be satisfied.
    pub applied: Lsn,
    /// Ask the server for a keepalive at once.
    pub reply_requested: bool,
}

/// Appends the message to `output`.
pub(crate) fn write_status(
    status: &StatusUpdate,
    now: SystemTime,
    output: &mut BytesMut,
) -> Result<(), Error> {
    let mut body = BytesMut::with_capacity(STATUS_BYTES);
    body.put_u8(b'r');
    body.put_u64(status.written.0);
    body.put_u64(status.flushed.0);
    body.put_u64(status.applied.0);
    body.put_i64(postgres_clock(now));
    body.put_u8(u8::from(status.reply_requested));
    CopyData::new(body).map_err(|error| Error::Protocol(error.to_string()))?.write(output);
    Ok(())
}

/// Microseconds since 2000. The server only shows it, so a clock before 1970 is not worth an error.
fn postgres_clock(now: SystemTime) -> i64 {
    let since_1970 = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_micros();
    i64::try_from(since_1970).unwrap_or(i64::MAX).saturating_sub(POSTGRES_EPOCH_MICROSECONDS)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_status_update_is_as_documented() {
        let status =
            StatusUpdate { written: Lsn(3), flushed: Lsn(2), applied: Lsn(1), reply_requested: true };
        let mut output = BytesMut::new();
        let a_second_after_2000 = UNIX_EPOCH + std::time::Duration::from_secs(946_684_801);
        write_status(&status, a_second_after_2000, &mut output).unwrap();
        let mut expected = vec![b'd', 0, 0, 0, 38, b'r'];
        for number in [3u64, 2, 1, 1_000_000] {
            expected.extend(number.to_be_bytes());
        }
        expected.push(1);
        assert_eq!(output, expected);
    }

    fn wal(start: u64, end: u64, data: &[u8]) -> Bytes {
        [&b"w"[..], &start.to_be_bytes(), &end.to_be_bytes(), &[0; 8], data].concat().into()
    }

    proptest! {
        #[test]
        fn wal_round_trips(start in 0..u64::MAX / 2, end: u64, data: Vec<u8>) {
            let expected = Payload::Wal { start: Lsn(start), server_end: Lsn(end), data: data.clone().into() };
            prop_assert_eq!(parse(wal(start, end, &data)).unwrap(), expected);
        }

        #[test]
        fn never_panics(bytes: Vec<u8>) {
            drop(parse(bytes.into()));
        }

        #[test]
        fn no_body_of_a_known_kind_panics(tag in prop::sample::select(vec![b'w', b'k']), body: Vec<u8>) {
            drop(parse([&[tag][..], &body].concat().into()));
        }
    }
}
