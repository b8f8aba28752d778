//! For how long the archive has been behind the server. Pure.
//!
//! Under load the archive is never level with the server, and that is no fault. What counts is how old the oldest WAL is that is
//! not durable: each look remembers how far the server's WAL went then.

use std::collections::VecDeque;

use chrono::{DateTime, Utc};
use engine::archive::ArchiveStatus;
use pgformat::Lsn;

/// Looks that are remembered; beyond that, every second one is forgotten.
const LOOKS_MAX: usize = 1024;

/// What was seen that is not durable yet.
#[derive(Debug, Default)]
pub(super) struct Behind {
    /// When the server's WAL was first seen to go that far.
    looks: VecDeque<(DateTime<Utc>, Lsn)>,
    /// Since when there is no server.
    away_since: Option<DateTime<Utc>>,
}

impl Behind {
    /// Takes a look; to be called now and then.
    pub fn look(&mut self, archive: &ArchiveStatus, now: DateTime<Utc>) {
        self.away_since = archive.server.is_none().then(|| self.away_since.unwrap_or(now));
        let durable = archive.durable.map_or(Lsn::INVALID, |durable| durable.lsn());
        if archive.server.is_some() {
            self.saw(archive.server_end, now);
        }
        while self.looks.front().is_some_and(|(_, end)| *end <= durable) {
            self.looks.pop_front();
        }
    }

    fn saw(&mut self, end: Lsn, now: DateTime<Utc>) {
        if self.looks.back().is_none_or(|(_, last)| *last < end) {
            self.looks.push_back((now, end));
        }
        if self.looks.len() > LOOKS_MAX {
            // The oldest stays: it is what counts.
            let mut keep = false;
            self.looks.retain(|_| {
                keep = !keep;
                keep
            });
        }
    }

    /// Since when something waits to be durable, or the server is away.
    pub fn since(&self) -> Option<DateTime<Utc>> {
        let oldest = self.looks.front().map(|(at, _)| *at);
        oldest.into_iter().chain(self.away_since).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(seconds, 0).unwrap()
    }

    /// Looks each second; how far the server's WAL went, and how far it was durable.
    fn behind(looks: impl IntoIterator<Item = (u64, u64)>) -> Vec<i64> {
        let mut behind = Behind::default();
        let mut seen = Vec::new();
        for (second, (end, durable)) in (0..).zip(looks) {
            behind.saw(Lsn(end), at(second));
            while behind.looks.front().is_some_and(|(_, end)| *end <= Lsn(durable)) {
                behind.looks.pop_front();
            }
            seen.push(behind.since().map_or(0, |since| second - since.timestamp()));
        }
        seen
    }

    #[test]
    fn a_busy_server_is_a_second_ahead_for_ever_and_that_is_a_second() {
        assert_eq!(behind((1..100).map(|n| (n * 10, n * 10 - 5))).iter().max(), Some(&0));
        assert_eq!(behind((1..100u64).map(|n| (n * 10, (n * 10).saturating_sub(15)))).iter().max(), Some(&1));
    }

    #[test]
    fn what_stands_still_grows_old_until_it_is_durable() {
        assert_eq!(behind([(10, 10), (20, 10), (30, 10), (30, 10), (30, 20), (30, 30)]), [0, 0, 1, 2, 2, 0]);
    }

    #[test]
    fn the_oldest_is_remembered_however_long_it_takes() {
        let looks = (1..10_000).map(|n| (n * 10, 5));
        assert_eq!(behind(looks).last(), Some(&9_998));
    }

    #[test]
    fn a_server_that_is_away_counts() {
        let mut behind = Behind::default();
        behind.look(&ArchiveStatus::default(), at(5));
        behind.look(&ArchiveStatus::default(), at(9));
        assert_eq!(behind.since(), Some(at(5)));
    }
}
