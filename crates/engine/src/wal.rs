//! Looking into archived WAL along a path through timelines.

use chrono::{DateTime, Utc};
use pgformat::wal::{Decoder, Expect, WalEvent};
use pgformat::{Lsn, Major, SegmentName, SegmentSize, TimelineId};
use repository::Cluster;
use repository::wal::WalFacts;

use crate::Error;
use crate::archive::wal_time;
use crate::catalog::{Catalog, Step};

/// Archived WAL along a path.
pub(crate) struct WalPath<'a> {
    cluster: &'a Cluster,
    path: &'a [Step],
    size: SegmentSize,
    system_identifier: u64,
    major: Major,
}

/// The end of a transaction, or a named restore point, as a target sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Event {
    /// Start of its record.
    pub(crate) lsn: Lsn,
    /// End of its record.
    pub(crate) end: Lsn,
    pub(crate) time: DateTime<Utc>,
    pub(crate) what: What,
}

/// What an event is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum What {
    Transaction(u32),
    RestorePoint(String),
}

impl<'a> WalPath<'a> {
    pub(crate) fn new(
        cluster: &'a Cluster,
        catalog: &Catalog,
        path: &'a [Step],
    ) -> Result<WalPath<'a>, Error> {
        let identity = &catalog.identity;
        let major = Major::new(identity.postgresql_major).map_err(|unknown| Error::Unsuitable {
            reason: format!(
                "the repository holds a PostgreSQL that this version of Drydock does not know: {unknown}"
            ),
            hint: "use a version of Drydock that supports it".to_owned(),
        })?;
        Ok(WalPath {
            cluster,
            path,
            size: identity.segment_size(),
            system_identifier: identity.system_identifier,
            major,
        })
    }

    /// The segment of this number that recovery along the path reads: of the newest timeline that has begun by then.
    pub(crate) fn segment(&self, number: u64) -> SegmentName {
        let mut timeline = self.path.first().map_or(TimelineId::FIRST, |step| step.timeline);
        for pair in self.path.windows(2) {
            if pair[0].end.is_some_and(|fork| self.size.number(fork) <= number) {
                timeline = pair[1].timeline;
            }
        }
        SegmentName { timeline, number }
    }

    /// What a segment holds of transactions and restore points; `None` where nothing of it is there. Reads headers only.
    pub(crate) async fn facts(&self, number: u64) -> Result<Option<WalFacts>, Error> {
        let name = self.segment(number);
        if let Some(header) = self.cluster.segment_header(name, self.size).await? {
            return Ok(Some(header.facts));
        }
        let mut facts: Option<WalFacts> = None;
        for (range, _) in self.cluster.pieces(name, self.size).await? {
            if let Some(header) = self.cluster.piece_header(name, self.size, range).await? {
                facts.get_or_insert_default().merge(&header.facts);
            }
        }
        Ok(facts)
    }

    /// The WAL there is of a segment, from its start.
    async fn bytes(&self, number: u64) -> Result<Vec<u8>, Error> {
        let name = self.segment(number);
        match self.cluster.read_segment(name, self.size).await {
            Ok((_, bytes)) => Ok(bytes.into()),
            Err(error) if error.is_not_found() => Ok(self.cluster.read_pieces(name, self.size).await?),
            Err(error) => Err(error.into()),
        }
    }

    /// Reads from the start of a segment on, as WAL of `name`'s timeline.
    fn decoder(&self, name: SegmentName, from: u64) -> Decoder {
        let expect = Expect {
            system_identifier: self.system_identifier,
            timeline: name.timeline,
            major: self.major,
            segment_size: self.size,
        };
        Decoder::new(expect, self.size.start(from))
    }

    /// The events whose records end in a segment. A record may begin in the one before, which is read too where it is there.
    pub(crate) async fn events(&self, number: u64) -> Result<Vec<Event>, Error> {
        let before = match number.checked_sub(1) {
            Some(before) => self.bytes(before).await?,
            None => Vec::new(),
        };
        let joins = before.len() == self.size.len();
        let first = if joins { number - 1 } else { number };
        let name = self.segment(number);
        let mut decoder = self.decoder(name, first);
        let mut events = Vec::new();
        let mut note = |event: WalEvent| events.extend(event_of(event));
        let own = self.bytes(number).await?;
        let parts = if joins { vec![before, own] } else { vec![own] };
        for part in parts {
            decoder.push(&part, &mut note).map_err(|error| {
                let key = self
                    .cluster
                    .segment_key(name, self.size)
                    .unwrap_or_else(|_unnamed| name.file_name(self.size));
                Error::Repository(repository::Error::Damaged { key, reason: error.to_string() })
            })?;
        }
        events.retain(|event| event.end > self.size.start(number));
        Ok(events)
    }

    /// End of the last whole record at or before the end of this segment.
    pub(crate) async fn last_record_end(&self, number: u64) -> Result<Lsn, Error> {
        let name = self.segment(number);
        let mut decoder = self.decoder(name, number);
        // A damaged record ends what can be replayed, which is all that is asked here.
        drop(decoder.push(&self.bytes(number).await?, &mut |_| {}));
        Ok(decoder.last_record_end())
    }
}

fn event_of(event: WalEvent) -> Option<Event> {
    match event {
        WalEvent::Transaction(end) => Some(Event {
            lsn: end.lsn,
            end: end.end,
            time: wal_time(end.time_micros),
            what: What::Transaction(end.xid),
        }),
        WalEvent::RestorePoint { lsn, end, time_micros, name } => {
            Some(Event { lsn, end, time: wal_time(time_micros), what: What::RestorePoint(name) })
        }
        _ => None,
    }
}
