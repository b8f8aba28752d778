//! Whether a backup is to begin now. Pure.

use std::time::Duration;

use chrono::{DateTime, Utc};
use chrono_tz::Tz;

use super::calendar::{Calendar, Window};

/// Time to the next try after the first failure; it doubles up to [`RETRY_MAX`].
const RETRY_MIN: Duration = Duration::from_secs(30);
const RETRY_MAX: Duration = Duration::from_secs(1800);
/// Time to the next look while another backup runs.
const LOOK_AGAIN: Duration = Duration::from_secs(15);

/// What has failed since a backup was due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Failed {
    /// When the last one did.
    pub at: DateTime<Utc>,
    /// How many have.
    pub times: u32,
}

/// All that is decided from.
#[derive(Debug, Clone)]
pub struct Situation<'a> {
    /// When backups are due.
    pub calendar: &'a Calendar,
    /// So much later, that not all clusters begin at once.
    pub jitter: Duration,
    /// The hours in which one may begin, and in which zone.
    pub window: Option<(Window, Tz)>,
    /// When the newest backup began that there is.
    pub newest: Option<DateTime<Utc>>,
    /// Some backup of this cluster runs, wherever it does.
    pub running: bool,
    /// What has failed since.
    pub failed: Option<Failed>,
    /// What time it is.
    pub now: DateTime<Utc>,
}

/// What to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// Begin.
    Begin {
        /// Since when it is due.
        due: DateTime<Utc>,
    },
    /// Decide again then.
    Wait {
        /// When.
        until: DateTime<Utc>,
    },
}

/// Decides. What was due and did not come is made up for once, however often it was due.
pub fn decide(situation: &Situation<'_>) -> Decision {
    let now = situation.now;
    let jitter = chrono::Duration::from_std(situation.jitter).unwrap_or_default();
    let due = situation.calendar.last(now - jitter).map(|due| due + jitter);
    let next =
        situation.calendar.next(now - jitter).map_or(now + chrono::Duration::days(1), |next| next + jitter);
    // A backup from the future, made with a clock that was wrong, is no reason never to take one again.
    let newest = situation.newest.filter(|newest| *newest <= now);
    let Some(due) = due.filter(|due| newest.is_none_or(|newest| newest < *due)) else {
        return Decision::Wait { until: next };
    };
    if situation.running {
        return Decision::Wait { until: now + LOOK_AGAIN };
    }
    if let Some((window, zone)) = situation.window.filter(|(window, zone)| !window.holds(now, *zone)) {
        return Decision::Wait { until: window.opens(now, zone) };
    }
    match situation.failed.map(|failed| failed.at + pause(failed.times)) {
        Some(again) if now < again => Decision::Wait { until: again },
        _ => Decision::Begin { due },
    }
}

fn pause(times: u32) -> Duration {
    let doubled = 1u32.checked_shl(times.saturating_sub(1)).unwrap_or(u32::MAX);
    RETRY_MIN.saturating_mul(doubled).min(RETRY_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> DateTime<Utc> {
        format!("2026-05-{text}Z").parse().unwrap()
    }

    struct Case {
        calendar: Calendar,
        newest: Option<DateTime<Utc>>,
        running: bool,
        failed: Option<Failed>,
        window: Option<(Window, Tz)>,
        jitter: Duration,
    }

    impl Case {
        /// Every night at 02:00; the last backup was that of the second of May.
        fn nightly() -> Case {
            let calendar = Calendar::parse("0 2 * * *", Tz::UTC).unwrap();
            let newest = Some(at("02T02:00:00"));
            Case { calendar, newest, running: false, failed: None, window: None, jitter: Duration::ZERO }
        }

        fn at(&self, now: &str) -> Decision {
            decide(&Situation {
                calendar: &self.calendar,
                jitter: self.jitter,
                window: self.window,
                newest: self.newest,
                running: self.running,
                failed: self.failed,
                now: at(now),
            })
        }
    }

    fn wait(until: &str) -> Decision {
        Decision::Wait { until: at(until) }
    }

    fn begin(due: &str) -> Decision {
        Decision::Begin { due: at(due) }
    }

    #[test]
    fn on_time() {
        assert_eq!(Case::nightly().at("02T12:00:00"), wait("03T02:00:00"));
        assert_eq!(Case::nightly().at("03T02:00:00"), begin("03T02:00:00"));
        let by_hand = Case { newest: Some(at("03T02:00:01")), ..Case::nightly() };
        assert_eq!(by_hand.at("03T02:05:00"), wait("04T02:00:00"), "somebody else's counts");
        let too_early = Case { newest: Some(at("03T01:59:00")), ..Case::nightly() };
        assert_eq!(too_early.at("03T02:05:00"), begin("03T02:00:00"));
    }

    #[test]
    fn what_was_missed_is_made_up_for_once() {
        assert_eq!(Case::nightly().at("09T17:00:00"), begin("09T02:00:00"));
        let none = Case { newest: None, ..Case::nightly() };
        assert_eq!(none.at("09T17:00:00"), begin("09T02:00:00"), "the first one ever comes at once");
    }

    #[test]
    fn one_at_a_time() {
        let running = Case { running: true, ..Case::nightly() };
        assert_eq!(running.at("03T02:00:00"), wait("03T02:00:15"));
    }

    #[test]
    fn failures_are_tried_again_with_pauses() {
        let failed =
            |times| Case { failed: Some(Failed { at: at("03T02:00:00"), times }), ..Case::nightly() };
        assert_eq!(failed(1).at("03T02:00:10"), wait("03T02:00:30"));
        assert_eq!(failed(1).at("03T02:00:30"), begin("03T02:00:00"));
        assert_eq!(failed(3).at("03T02:00:30"), wait("03T02:02:00"));
        assert_eq!(failed(90).at("03T02:00:30"), wait("03T02:30:00"));
    }

    #[test]
    fn only_in_its_window() {
        let window = Window::parse("03:00-06:00").map(|window| (window, Tz::UTC));
        let case = Case { window, ..Case::nightly() };
        assert_eq!(case.at("03T02:00:00"), wait("03T03:00:00"));
        assert_eq!(case.at("03T04:00:00"), begin("03T02:00:00"));
        assert_eq!(case.at("03T07:00:00"), wait("04T03:00:00"));
    }

    #[test]
    fn not_all_at_once() {
        let newest = Some(at("02T02:10:05"));
        let case = Case { newest, jitter: Duration::from_secs(600), ..Case::nightly() };
        assert_eq!(case.at("03T02:05:00"), wait("03T02:10:00"));
        assert_eq!(case.at("03T02:10:00"), begin("03T02:10:00"));
    }

    #[test]
    fn clocks_that_jump() {
        let ahead = Case { newest: Some(at("20T02:00:00")), ..Case::nightly() };
        assert_eq!(ahead.at("03T02:00:00"), begin("03T02:00:00"), "a backup from the future does not count");
    }
}
