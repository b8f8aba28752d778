//! Times as people write them on the command line.

use chrono::{DateTime, FixedOffset, NaiveDateTime, Utc};

/// What is expected, for messages.
pub(crate) const EXPECTED: &str = "expected a time such as \"2026-01-02 03:04:05\", with a fraction and an offset (+02:00, Z) if need be; UTC without one";

/// Reads a time: a date and a time of day, with `T` or a blank between, perhaps a fraction of a second, perhaps an offset.
pub(crate) fn parse(text: &str) -> Result<DateTime<Utc>, String> {
    read(text.trim()).ok_or_else(|| EXPECTED.to_owned())
}

fn read(text: &str) -> Option<DateTime<Utc>> {
    // Nothing of a date or a time of day is longer than these, so what follows is a fraction and an offset.
    let (date_and_time, rest) = text.split_at_checked("YYYY-MM-DD HH:MM:SS".len())?;
    let format = if date_and_time.as_bytes().get(10) == Some(&b'T') {
        "%Y-%m-%dT%H:%M:%S"
    } else {
        "%Y-%m-%d %H:%M:%S"
    };
    let time = NaiveDateTime::parse_from_str(date_and_time, format).ok()?;
    let (fraction, offset) = match rest.strip_prefix('.') {
        None => ("", rest),
        Some(rest) => rest.split_at(rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len())),
    };
    if rest.starts_with('.') && fraction.is_empty() || fraction.len() > 9 {
        return None;
    }
    let nanoseconds: i64 = if fraction.is_empty() { 0 } else { format!("{fraction:0<9}").parse().ok()? };
    let time = time + chrono::Duration::nanoseconds(nanoseconds);
    Some(time.and_local_timezone(offset_of(offset.trim_start())?).single()?.to_utc())
}

/// `Z`, `UTC`, nothing, or `±HH`, `±HHMM`, `±HH:MM`.
fn offset_of(text: &str) -> Option<FixedOffset> {
    if text.is_empty() || text.eq_ignore_ascii_case("z") || text.eq_ignore_ascii_case("utc") {
        return FixedOffset::east_opt(0);
    }
    let (sign, digits) = match text.split_at_checked(1)? {
        ("+", digits) => (1, digits),
        ("-", digits) => (-1, digits),
        _ => return None,
    };
    let (hours, minutes) = match (digits.split_once(':'), digits.len()) {
        (Some(parts), 5) => parts,
        (None, 4) => digits.split_at_checked(2)?,
        (None, 2) => (digits, "00"),
        _ => return None,
    };
    let number = |digits: &str| {
        let plain = digits.len() == 2 && digits.bytes().all(|digit| digit.is_ascii_digit());
        plain.then(|| digits.parse::<i32>().ok()).flatten()
    };
    let (hours, minutes) = (number(hours)?, number(minutes).filter(|minutes| *minutes < 60)?);
    FixedOffset::east_opt(sign * (hours * 3600 + minutes * 60))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_in_every_form() {
        for (text, expected) in [
            ("2026-01-02T03:04:05Z", "2026-01-02T03:04:05Z"),
            ("2026-01-02 03:04:05", "2026-01-02T03:04:05Z"),
            ("2026-01-02 03:04:05 UTC", "2026-01-02T03:04:05Z"),
            ("2026-01-02 03:04:05.678901", "2026-01-02T03:04:05.678901Z"),
            ("2026-01-02 03:04:05.5+02", "2026-01-02T01:04:05.500Z"),
            ("2026-01-02T03:04:05+05:30", "2026-01-01T21:34:05Z"),
            ("2026-01-02 03:04:05 -0330", "2026-01-02T06:34:05Z"),
            ("2026-01-02T03:04:05.123456789-05:30", "2026-01-02T08:34:05.123456789Z"),
        ] {
            assert_eq!(parse(text), Ok(expected.parse().unwrap()), "{text}");
        }
    }

    #[test]
    fn what_is_not_a_time() {
        for text in [
            "",
            "yesterday-ish",
            "2026-01-02",
            "2026-13-02 03:04:05",
            "2026-01-02 03:04",
            "2026-01-02 03:04:05.",
            "2026-01-02 03:04:05 CET",
            "2026-01-02 03:04:05+2",
            "2026-01-02 03:04:05+25:99",
            "2026-01-02 03:04:05é",
            "2026-01-02 03:04:0é",
            "2026-01-02 03:04:05.1234567890",
        ] {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}
