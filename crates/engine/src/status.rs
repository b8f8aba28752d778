//! Status: how things stand, from the repository and, where it can be reached, the server.

use repository::Record;
use repository::wal::Hole;

/// The first hole that no backup lies behind. Whoever wants to go on restoring past it needs a new base backup.
///
/// A backup lies behind a hole when it starts at its end or later, on the same timeline or a newer one.
pub fn hole_needs_backup<'a>(holes: &'a [Hole], records: &[Record]) -> Option<&'a Hole> {
    holes.iter().find(|hole| !records.iter().any(|record| is_behind(record, hole)))
}

fn is_behind(record: &Record, hole: &Hole) -> bool {
    record.timeline >= hole.timeline && record.start_lsn >= hole.to
}
