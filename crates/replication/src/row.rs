//! Rows of the small result sets that replication commands answer with. All their values are text.

use std::str::FromStr;

use bytes::Bytes;
use fallible_iterator::FallibleIterator;
use postgres_protocol::message::backend::DataRowBody;

use crate::error::Error;

/// One row; null columns are `None`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Row(Vec<Option<Bytes>>);

impl Row {
    pub fn parse(body: &DataRowBody) -> Result<Row, Error> {
        let columns = body.ranges().map(|range| {
            // The iterator has checked that the range lies inside the row.
            Ok(range.map(|range| body.buffer_bytes().slice(range)))
        });
        columns.collect().map(Row).map_err(|error| Error::Protocol(format!("malformed row: {error}")))
    }

    /// The raw bytes of a column. Columns the server does not send are null.
    pub fn bytes(&self, index: usize) -> Option<&Bytes> {
        self.0.get(index).and_then(Option::as_ref)
    }

    /// A column as text.
    pub fn text(&self, index: usize, column: &str) -> Result<Option<&str>, Error> {
        self.bytes(index)
            .map(|bytes| std::str::from_utf8(bytes))
            .transpose()
            .map_err(|error| Error::Protocol(format!("column {column} is not text: {error}")))
    }

    /// A column as a value that may be null.
    pub fn optional<T: FromStr>(&self, index: usize, column: &str) -> Result<Option<T>, Error> {
        let Some(text) = self.text(index, column)? else {
            return Ok(None);
        };
        match text.parse() {
            Ok(value) => Ok(Some(value)),
            Err(_) => Err(Error::Protocol(format!("column {column} holds {:?}", clip(text)))),
        }
    }

    /// A column as a value that must be there.
    pub fn required<T: FromStr>(&self, index: usize, column: &str) -> Result<T, Error> {
        self.optional(index, column)?.ok_or_else(|| Error::Protocol(format!("column {column} is null")))
    }
}

/// The only row of an answer.
pub(crate) fn only(rows: Vec<Row>, command: &str) -> Result<Row, Error> {
    let count = rows.len();
    match <[Row; 1]>::try_from(rows) {
        Ok([row]) => Ok(row),
        Err(_) => Err(Error::Protocol(format!("{command} answered with {count} rows instead of one"))),
    }
}

fn clip(text: &str) -> &str {
    &text[..text.floor_char_boundary(80)]
}

#[cfg(test)]
impl Row {
    pub fn of(columns: &[Option<&str>]) -> Row {
        Row(columns.iter().map(|column| column.map(|text| Bytes::copy_from_slice(text.as_bytes()))).collect())
    }
}
