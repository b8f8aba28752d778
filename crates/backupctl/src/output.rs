//! How results look: tables and sizes for people, JSON for programs.

use std::io::{self, Write};
use std::time::Duration;

use backupd::Failure;
use chrono::{DateTime, Utc};
use clap::ValueEnum;
use comfy_table::{Attribute, Cell, CellAlignment, ContentArrangement, Table, presets};
use serde::Serialize;

/// How results look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// For people
    Table,
    /// One JSON document: sizes in bytes, times in RFC 3339, LSNs as X/Y
    Json,
}

/// Where results go.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Output {
    pub format: Format,
    /// No progress.
    pub quiet: bool,
}

impl Output {
    /// Prints a result in the form that was asked for.
    pub fn print<T: Serialize>(&self, document: &T, table: impl FnOnce() -> String) -> Result<(), Failure> {
        let text = match self.format {
            Format::Table => table(),
            Format::Json => serde_json::to_string_pretty(document)
                .map_err(io::Error::from)
                .map_err(Failure::system("write the result"))?,
        };
        let mut stdout = io::stdout().lock();
        let written = writeln!(stdout, "{}", text.trim_end()).and_then(|()| stdout.flush());
        match written {
            // Whoever read it has read enough, as `head` does.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
            written => written.map_err(Failure::system("write the result")),
        }
    }

    /// Says something to the person, beside the result.
    pub fn note(&self, text: &str) {
        if !self.quiet {
            // The result and the exit code do not depend on it.
            drop(writeln!(io::stderr(), "{text}"));
        }
    }
}

/// A table with these headings; those that start with `>` head columns of numbers.
pub(crate) fn table(headings: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
    table.set_header(
        headings
            .iter()
            .map(|heading| Cell::new(heading.trim_start_matches('>')).add_attribute(Attribute::Bold)),
    );
    for (column, heading) in table.column_iter_mut().zip(headings) {
        column.set_padding((0, 2));
        if heading.starts_with('>') {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table
}

/// Rows of a name and a value.
pub(crate) fn facts(rows: &[(&str, String)]) -> String {
    let width = rows.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    rows.iter().map(|(name, value)| format!("{name:<width$}  {value}\n")).collect()
}

/// Lines of a table without the blanks at their ends.
pub(crate) fn lines(table: &Table) -> String {
    table.lines().map(|line| format!("{}\n", line.trim_end())).collect()
}

/// A size for people.
pub(crate) fn size(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["B", "kB", "MB", "GB", "TB"];
    let mut value = bytes as f64;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    if unit == 0 || value >= 100.0 {
        format!("{value:.0} {}", UNITS[unit])
    } else {
        format!("{value:.1} {}", UNITS[unit])
    }
}

/// A time for people.
pub(crate) fn time(time: DateTime<Utc>) -> String {
    time.format("%Y-%m-%d %H:%M:%S UTC").to_string()
}

/// How long ago, for people.
pub(crate) fn age(now: DateTime<Utc>, then: DateTime<Utc>) -> String {
    now.signed_duration_since(then)
        .to_std()
        .map_or_else(|_ahead| "just now".to_owned(), |age| format!("{} ago", duration(age)))
}

/// How long, for people.
pub(crate) fn duration(duration: Duration) -> String {
    let seconds = duration.as_secs();
    match seconds {
        0..10 => format!("{:.1} s", duration.as_secs_f64()),
        10..120 => format!("{seconds} s"),
        120..7200 => format!("{} min", seconds / 60),
        7200..172_800 => format!("{} h", seconds / 3600),
        _ => format!("{} days", seconds / 86400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_short() {
        for (bytes, text) in
            [(0, "0 B"), (1023, "1023 B"), (1024, "1.0 kB"), (16 << 20, "16.0 MB"), (300 << 30, "300 GB")]
        {
            assert_eq!(size(bytes), text);
        }
    }

    #[test]
    fn ages_are_short() {
        let at = |seconds: i64| DateTime::from_timestamp(1_000_000 + seconds, 0).unwrap();
        for (seconds, text) in
            [(3, "3.0 s ago"), (90, "90 s ago"), (600, "10 min ago"), (86400, "24 h ago"), (-5, "just now")]
        {
            assert_eq!(age(at(seconds), at(0)), text);
        }
    }

    #[test]
    fn columns_line_up() {
        let mut table = table(&["name", ">size"]);
        table.add_row(["a", "1 B"]).add_row(["bcdef", "100 B"]);
        assert_eq!(lines(&table).lines().skip(1).collect::<Vec<_>>(), ["a        1 B", "bcdef  100 B"]);
    }
}
