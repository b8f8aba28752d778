//! Whether an answer is what was asked for. Pure: headers and bytes in, bytes or a reason out.

use std::ops::Range;

use bytes::{Bytes, BytesMut};
use reqwest::header::{CONTENT_LENGTH, CONTENT_RANGE, HeaderMap};

use crate::Key;

/// A page has at most a thousand names of 255 bytes, each of which may have to be escaped.
const DOCUMENT_BYTES_MAX: u64 = 4 << 20;
/// Larger than any object of ours: a whole segment of the largest size, and what compression adds.
const OBJECT_BYTES_MAX: u64 = 1 << 31;
/// Room made before anything came. Further room is made for bytes that are there, not for a number in a header.
const RESERVED_BYTES_MAX: u64 = 1 << 20;

/// What was asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Wanted {
    /// An object.
    Whole,
    /// The part of an object.
    Range(Range<u64>),
    /// JSON.
    Document,
}

/// A body, counted while it comes.
#[derive(Debug)]
pub(super) struct Counted {
    bytes: BytesMut,
    expected: u64,
}

impl Counted {
    /// What the header promises, when that is what was wanted.
    pub fn begin(headers: &HeaderMap, wanted: &Wanted) -> Result<Counted, String> {
        let expected = length(headers)?;
        let max = match wanted {
            Wanted::Whole => OBJECT_BYTES_MAX,
            Wanted::Document => DOCUMENT_BYTES_MAX,
            Wanted::Range(range) => check_range(headers, range, expected)?,
        };
        if expected > max {
            return Err(format!("announces {expected} bytes, more than the {max} there can be"));
        }
        let room = usize::try_from(expected.min(RESERVED_BYTES_MAX)).unwrap_or(0);
        Ok(Counted { bytes: BytesMut::with_capacity(room), expected })
    }

    /// The next bytes.
    pub fn push(&mut self, chunk: &Bytes) -> Result<(), String> {
        self.bytes.extend_from_slice(chunk);
        if self.bytes.len() as u64 > self.expected {
            return Err(format!("sends more than the {} bytes it announced", self.expected));
        }
        Ok(())
    }

    /// All bytes, when all came.
    pub fn end(self) -> Result<Bytes, String> {
        if self.bytes.len() as u64 != self.expected {
            return Err(format!("sent {} of {} bytes", self.bytes.len(), self.expected));
        }
        Ok(self.bytes.freeze())
    }
}

/// The length an answer announces. Without one, nobody could tell an answer that was cut from one that is whole.
pub(super) fn length(headers: &HeaderMap) -> Result<u64, String> {
    let text = headers.get(CONTENT_LENGTH).and_then(|value| value.to_str().ok());
    text.and_then(|text| text.parse().ok()).ok_or_else(|| "does not say how long its answer is".to_owned())
}

/// Checks that the part is the one that was asked for, up to the object's end; returns its length.
fn check_range(headers: &HeaderMap, wanted: &Range<u64>, length: u64) -> Result<u64, String> {
    let text = headers.get(CONTENT_RANGE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let other = || format!("was asked for bytes {} to {} and sends \"{text}\"", wanted.start, wanted.end);
    let (first, last, total) = content_range(text).ok_or_else(other)?;
    let end = last.checked_add(1).ok_or_else(other)?;
    if first != wanted.start || end != wanted.end.min(total) || end <= first || end - first != length {
        return Err(other());
    }
    Ok(length)
}

/// `bytes first-last/total`
fn content_range(text: &str) -> Option<(u64, u64, u64)> {
    let (range, total) = text.strip_prefix("bytes ")?.split_once('/')?;
    let (first, last) = range.split_once('-')?;
    Some((first.parse().ok()?, last.parse().ok()?, total.parse().ok()?))
}

/// Checks that names go on from `after`, in byte order, and can be names. A page that promises more must have some.
pub(super) fn check_names<'a>(
    names: impl Iterator<Item = &'a str>,
    after: Option<&'a str>,
    more: bool,
) -> Result<(), String> {
    let mut previous = after;
    let mut any = false;
    for name in names {
        if name.contains('/') || Key::new(name).is_err() {
            return Err(format!("the name {name:?}, which none can have, is"));
        }
        if previous.is_some_and(|previous| name <= previous) {
            return Err(format!("the name {name:?} is out of order"));
        }
        previous = Some(name);
        any = true;
    }
    if more && !any { Err("a page without names is".to_owned()) } else { Ok(()) }
}

/// What lies at the bottom of an error: those above say in more words that there was one.
pub(super) fn root_cause(error: &reqwest::Error) -> String {
    if error.is_timeout() {
        return "no answer came in time".to_owned();
    }
    let mut cause: &dyn std::error::Error = error;
    while let Some(deeper) = cause.source() {
        cause = deeper;
    }
    cause.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use reqwest::header::HeaderValue;

    fn headers(length: u64, range: &str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_LENGTH, HeaderValue::from(length));
        headers.insert(CONTENT_RANGE, HeaderValue::from_str(range).unwrap());
        headers
    }

    #[test]
    fn only_the_range_that_was_asked_for_will_do() {
        let begin = |length, range| Counted::begin(&headers(length, range), &Wanted::Range(10..20));
        assert!(begin(10, "bytes 10-19/100").is_ok());
        assert!(begin(5, "bytes 10-14/15").is_ok(), "the object ends before the range does");
        for (length, range) in [
            (5, "bytes 10-14/100"),
            (9, "bytes 10-19/100"),
            (10, "bytes 0-9/100"),
            (11, "bytes 10-20/100"),
            (10, "bytes 10-19/*"),
            (10, "bytes */100"),
            (10, ""),
            (0, "bytes 10-9/10"),
            (10, "bytes 10-18446744073709551615/100"),
        ] {
            assert!(begin(length, range).is_err(), "{length} {range}");
        }
    }

    #[test]
    fn a_body_is_as_long_as_announced() {
        let begin = || Counted::begin(&headers(3, ""), &Wanted::Whole).unwrap();
        let fed = |chunks: &[&'static str]| {
            let mut body = begin();
            chunks.iter().try_for_each(|chunk| body.push(&Bytes::from_static(chunk.as_bytes())))?;
            body.end()
        };
        assert_eq!(fed(&["a", "bc"]).unwrap(), "abc");
        assert!(fed(&["a"]).is_err() && fed(&["ab", "cd"]).is_err() && fed(&[]).is_err());
        assert!(Counted::begin(&HeaderMap::new(), &Wanted::Whole).is_err());
        assert!(Counted::begin(&headers(u64::MAX, ""), &Wanted::Whole).is_err());
    }

    #[test]
    fn listings_lead_on_and_hold_names() {
        let check = |names: &[&str], after, more| check_names(names.iter().copied(), after, more).is_ok();
        assert!(check(&["a", "b"], None, true) && check(&["b"], Some("a"), false) && check(&[], None, false));
        assert!(!check(&["a"], Some("a"), false) && !check(&["b", "a"], None, false));
        assert!(!check(&[".."], None, false) && !check(&["a/b"], None, false) && !check(&[""], None, false));
        assert!(!check(&[], Some("a"), true));
    }
}
