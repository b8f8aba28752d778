//! What the clients of a cluster wrote, through all its failovers.

use std::collections::BTreeSet;

use pgformat::{Lsn, TimelineId};

use crate::load::{Commit, Load};
use crate::postgres::Postgres;

/// Everything about the ledger in one line; two ledgers with the same one have the same rows.
const DIGEST: &str =
    "select count(*) || ' rows, ' || md5(string_agg(t::text, ';' order by client, n)) from ledger t";

/// A commit that was confirmed, and on which timeline.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Told {
    /// The commit.
    pub commit: Commit,
    /// The timeline of the server that confirmed it.
    pub timeline: TimelineId,
}

/// The load of a cluster: it stops before a failover, or is torn off by it, and goes on against the new primary with
/// new clients.
pub struct Clients {
    at_once: u32,
    next: u32,
    running: Option<(Load, TimelineId)>,
    told: Vec<Told>,
}

impl Clients {
    /// So many clients at once; none runs yet.
    pub fn new(at_once: u32) -> Clients {
        Clients::numbered(at_once, 1)
    }

    /// The same with numbers from `first` on, where other clients write the same ledger.
    pub fn numbered(at_once: u32, first: u32) -> Clients {
        Clients { at_once, next: first, running: None, told: Vec::new() }
    }

    /// Starts new clients of `primary`; those of an earlier one stop.
    #[track_caller]
    pub fn start(&mut self, primary: &Postgres) {
        self.stop();
        self.running = Some((Load::start(primary, self.next, self.at_once), primary.timeline()));
        self.next += self.at_once;
    }

    /// Stops the clients, if they run.
    pub fn stop(&mut self) {
        let Some((load, timeline)) = self.running.take() else { return };
        self.told.extend(load.stop().into_iter().map(|commit| Told { commit, timeline }));
    }

    /// Every commit that a stopped client was told of.
    pub fn told(&self) -> &[Told] {
        &self.told
    }
}

/// All rows of the ledger in one line; two ledgers with the same one have the same rows.
#[track_caller]
pub fn digest(server: &Postgres) -> String {
    server.value(DIGEST)
}

/// The keys of all rows.
#[track_caller]
pub fn keys(server: &Postgres) -> BTreeSet<(u32, u64)> {
    let number = |row: &[String], column: usize| row[column].parse::<u64>().expect("a number");
    let key = |row: Vec<String>| (u32::try_from(number(&row, 0)).expect("a client"), number(&row, 1));
    server.rows("select client, n from ledger").into_iter().map(key).collect()
}

/// Asserts that two servers have the same rows, and says which one of them lacks.
#[track_caller]
pub fn expect_same(restored: &Postgres, original: &Postgres) {
    if digest(restored) == digest(original) {
        return;
    }
    let (found, expected) = (keys(restored), keys(original));
    let (lost, more): (Vec<_>, Vec<_>) =
        (expected.difference(&found).collect(), found.difference(&expected).collect());
    panic!("{} rows are lost: {lost:?}; {} should not be there: {more:?}", lost.len(), more.len());
}

/// A moment in the life of the ledger, to be restored to later.
#[derive(Debug, Clone)]
pub struct Moment {
    /// The name of a restore point.
    pub name: String,
    /// The timeline it is on.
    pub timeline: TimelineId,
    /// The end of its record.
    pub lsn: Lsn,
    /// The server's clock, in RFC 3339.
    pub time: String,
    /// The ledger at this moment, as [`digest`] tells it.
    pub digest: String,
}

impl Moment {
    /// Makes a restore point and remembers what the ledger holds there. Clients wait meanwhile.
    ///
    /// The lock is what makes it exact: whoever gets it sees every commit whose record was written before, and nobody
    /// writes another until it is given back.
    #[track_caller]
    pub fn mark(primary: &Postgres, name: &str) -> Moment {
        let time = r#"to_char(clock_timestamp() at time zone 'utc', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"')"#;
        let answer = primary.value(&format!(
            "begin; lock table ledger in exclusive mode; {DIGEST}; \
             select pg_create_restore_point('{name}'); select {time}; commit"
        ));
        let [digest, lsn, time] = <[&str; 3]>::try_from(answer.lines().collect::<Vec<_>>())
            .unwrap_or_else(|lines| panic!("not a moment: {lines:?}"));
        Moment {
            name: name.to_owned(),
            timeline: primary.timeline(),
            lsn: lsn.parse().expect("an LSN"),
            time: time.to_owned(),
            digest: digest.to_owned(),
        }
    }
}
