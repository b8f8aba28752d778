//! Values as people write them.

use std::time::Duration;

/// A time such as `1s`, `250ms`, `10min`, `1h`, or a number of seconds.
pub(super) fn duration(text: &str) -> Option<Duration> {
    let (number, unit) = split_unit(text)?;
    let seconds = match unit {
        "ms" => 0.001,
        "" | "s" => 1.0,
        "m" | "min" => 60.0,
        "h" => 3600.0,
        "d" => 86400.0,
        _ => return None,
    };
    Duration::try_from_secs_f64(number * seconds).ok()
}

/// A size such as `50MB` or `64kB`, in bytes.
pub(super) fn bytes(text: &str) -> Option<u64> {
    let (number, unit) = split_unit(text)?;
    let factor: u64 = match unit {
        "B" => 1,
        "kB" | "KB" => 1 << 10,
        "MB" => 1 << 20,
        "GB" => 1 << 30,
        _ => return None,
    };
    let bytes = number * factor as f64;
    // Far from where a float stops counting bytes exactly.
    (0.0..1e15).contains(&bytes).then(|| format!("{bytes:.0}").parse().ok()).flatten()
}

fn split_unit(text: &str) -> Option<(f64, &str)> {
    let text = text.trim();
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    Some((number.parse().ok()?, unit.trim()))
}

/// Splits `host`, `host:port`, `[::1]:port` or `::1`; a socket directory has no port.
pub(super) fn host_and_port(text: &str) -> Option<(String, Option<&str>)> {
    if text.starts_with('/') {
        return Some((text.to_owned(), None));
    }
    if let Some(rest) = text.strip_prefix('[') {
        let (host, rest) = rest.split_once(']')?;
        return match rest {
            "" => Some((host.to_owned(), None)),
            _ => Some((host.to_owned(), Some(rest.strip_prefix(':')?))),
        };
    }
    match text.split_once(':') {
        // More than one colon is an IPv6 address without a port.
        Some((host, port)) if !port.contains(':') && !host.is_empty() => Some((host.to_owned(), Some(port))),
        _ => Some((text.to_owned(), None)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        for (text, millis) in
            [("1s", 1000), ("250ms", 250), ("20", 20_000), ("1.5 h", 5_400_000), ("10min", 600_000)]
        {
            assert_eq!(duration(text), Some(Duration::from_millis(millis)), "{text}");
        }
        for text in ["", "s", "1 week", "-1s", "1e9999", "nan", "99999999999999999999d"] {
            assert_eq!(duration(text), None, "{text}");
        }
    }

    #[test]
    fn sizes() {
        for (text, size) in [("50MB", 50 << 20), ("64 kB", 64 << 10), ("1.5GB", 3 << 29), ("7B", 7)] {
            assert_eq!(bytes(text), Some(size), "{text}");
        }
        for text in ["", "50", "MB", "-1MB", "1TB", "99999999GB"] {
            assert_eq!(bytes(text), None, "{text}");
        }
    }

    #[test]
    fn hosts() {
        let split = |text| host_and_port(text).map(|(host, port)| (host, port.map(str::to_owned)));
        let expect = |host: &str, port: Option<&str>| Some((host.to_owned(), port.map(str::to_owned)));
        assert_eq!(split("db"), expect("db", None));
        assert_eq!(split("db:5433"), expect("db", Some("5433")));
        assert_eq!(split("::1"), expect("::1", None));
        assert_eq!(split("[::1]:5433"), expect("::1", Some("5433")));
        assert_eq!(split("[::1]"), expect("::1", None));
        assert_eq!(split("/run/pg:1"), expect("/run/pg:1", None));
        assert_eq!(split("[::1"), None);
    }
}
