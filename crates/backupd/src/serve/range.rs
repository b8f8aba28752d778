//! The part of an object that a request asks for. Pure.

use std::ops::Range;

/// What `Range` asks for, before the size of the object is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Asked {
    /// From here up to and including there, or the end.
    From(u64, Option<u64>),
    /// So many bytes at the end.
    Last(u64),
}

/// Reads the header's value. One that is not understood, or asks for several parts, counts as none, as HTTP has it.
pub(super) fn parse(text: &str) -> Option<Asked> {
    let (first, last) = text.strip_prefix("bytes=")?.split_once('-')?;
    let number = |text: &str| {
        let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        digits.then(|| text.parse::<u64>().ok()).flatten()
    };
    match (first, last) {
        ("", last) => Some(Asked::Last(number(last)?)),
        (first, "") => Some(Asked::From(number(first)?, None)),
        (first, last) => {
            let (first, last) = (number(first)?, number(last)?);
            (first <= last).then_some(Asked::From(first, Some(last)))
        }
    }
}

impl Asked {
    /// The part that an object of this size has of it; `None` when it has nothing.
    pub fn of(self, size: u64) -> Option<Range<u64>> {
        let range = match self {
            Asked::From(first, last) => first..last.map_or(size, |last| last.saturating_add(1).min(size)),
            Asked::Last(count) => size.saturating_sub(count)..size,
        };
        (!range.is_empty()).then_some(range)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges() {
        let of = |text: &str, size| parse(text).map(|asked| asked.of(size));
        assert_eq!(of("bytes=0-9", 100), Some(Some(0..10)));
        assert_eq!(of("bytes=90-200", 100), Some(Some(90..100)));
        assert_eq!(of("bytes=0-18446744073709551615", 100), Some(Some(0..100)));
        assert_eq!(of("bytes=7-", 10), Some(Some(7..10)));
        assert_eq!(of("bytes=-3", 10), Some(Some(7..10)));
        assert_eq!(of("bytes=-30", 10), Some(Some(0..10)));
        for nothing in ["bytes=10-", "bytes=10-11", "bytes=-0"] {
            assert_eq!(of(nothing, 10), Some(None), "{nothing}");
        }
        assert_eq!(of("bytes=0-0", 0), Some(None));
        for not_understood in [
            "",
            "bytes",
            "bytes=",
            "bytes=-",
            "bytes=a-b",
            "bytes=5-4",
            "bytes=0-1,3-4",
            "bytes=+1-2",
            "rows=1-2",
        ] {
            assert_eq!(parse(not_understood), None, "{not_understood}");
        }
    }
}
