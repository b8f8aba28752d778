//! Times as people write them.

use chrono::{DateTime, Days, FixedOffset, NaiveDateTime, NaiveTime, Utc};

/// What is expected, for messages.
pub const EXPECTED: &str = "expected a time such as \"2026-01-02 03:04:05\", with a fraction and an offset (+02:00, Z) if need be, UTC without one; or \"yesterday 14:00\", \"today 09:30\", \"-2h\"";

/// A time as somebody has written it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Written {
    /// What it says.
    pub at: DateTime<Utc>,
    /// The words, where what they say depends on when they are said.
    pub relative: Option<String>,
}

/// Reads a time: a date and a time of day, with `T` or a blank between, perhaps a fraction of a second, perhaps an offset; or one
/// that is counted from now.
pub fn parse(text: &str) -> Result<Written, String> {
    parse_at(text.trim(), Utc::now())
}

fn parse_at(text: &str, now: DateTime<Utc>) -> Result<Written, String> {
    if let Some(at) = read(text) {
        return Ok(Written { at, relative: None });
    }
    let at = since_now(text, now).or_else(|| on_a_day(text, now)).ok_or_else(|| EXPECTED.to_owned())?;
    Ok(Written { at, relative: Some(text.to_owned()) })
}

/// `now`, `-2h`, `-90min`, `3d ago`.
fn since_now(text: &str, now: DateTime<Utc>) -> Option<DateTime<Utc>> {
    if text.eq_ignore_ascii_case("now") {
        return Some(now);
    }
    let ago = text.strip_prefix('-').or_else(|| text.strip_suffix("ago"))?.trim();
    let (number, unit) = ago.split_at(ago.find(|c: char| !c.is_ascii_digit())?);
    let number: i64 = number.parse().ok()?;
    let seconds = match unit.trim() {
        "s" => 1,
        "m" | "min" => 60,
        "h" => 3600,
        "d" => 86_400,
        "w" => 7 * 86_400,
        _ => return None,
    };
    now.checked_sub_signed(chrono::Duration::try_seconds(number.checked_mul(seconds)?)?)
}

/// `yesterday 14:00`, `today 09:30:15`, perhaps with an offset, in which the day is meant then, too.
fn on_a_day(text: &str, now: DateTime<Utc>) -> Option<DateTime<Utc>> {
    let mut words = text.split_whitespace();
    let days = match words.next()?.to_ascii_lowercase().as_str() {
        "today" => 0,
        "yesterday" => 1,
        _ => return None,
    };
    let (time, offset) = (words.next()?, offset_of(words.next().unwrap_or_default())?);
    let time =
        ["%H:%M:%S", "%H:%M"].iter().find_map(|format| NaiveTime::parse_from_str(time, format).ok())?;
    if words.next().is_some() {
        return None;
    }
    let day = now.with_timezone(&offset).date_naive().checked_sub_days(Days::new(days))?;
    Some(day.and_time(time).and_local_timezone(offset).single()?.to_utc())
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
            let written = Written { at: expected.parse().unwrap(), relative: None };
            assert_eq!(parse(text), Ok(written), "{text}");
        }
    }

    #[test]
    fn times_counted_from_now() {
        let now = "2026-11-23T05:30:00Z".parse().unwrap();
        for (text, expected) in [
            ("now", "2026-11-23T05:30:00Z"),
            ("-2h", "2026-11-23T03:30:00Z"),
            ("-90min", "2026-11-23T04:00:00Z"),
            ("90 min ago", "2026-11-23T04:00:00Z"),
            ("-1w", "2026-11-16T05:30:00Z"),
            ("yesterday 14:00", "2026-11-22T14:00:00Z"),
            ("Today 04:05:06", "2026-11-23T04:05:06Z"),
            // There it is already the 23rd where here it is the 22nd, and the other way round.
            ("today 01:00 +02:00", "2026-11-22T23:00:00Z"),
            ("today 23:00 -06:00", "2026-11-23T05:00:00Z"),
        ] {
            let written = Written { at: expected.parse().unwrap(), relative: Some(text.to_owned()) };
            assert_eq!(parse_at(text, now), Ok(written), "{text}");
        }
        for text in [
            "-2",
            "-2 years",
            "2h",
            "-99999999999999999999h",
            "yesterday",
            "yesterday 25:00",
            "tomorrow 14:00",
            "today 1:00 x y",
        ] {
            assert!(parse_at(text, now).is_err(), "{text}");
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
