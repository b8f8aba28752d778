//! Timeline numbers.

use std::fmt;
use std::num::NonZeroU32;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A timeline: one line of history of a cluster. Never zero; a new cluster starts on 1.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct TimelineId(NonZeroU32);

impl TimelineId {
    /// The timeline of a new cluster.
    pub const FIRST: TimelineId = TimelineId(NonZeroU32::MIN);

    /// `None` for zero, which PostgreSQL uses for "no timeline".
    pub fn new(number: u32) -> Option<TimelineId> {
        NonZeroU32::new(number).map(TimelineId)
    }

    /// The number.
    pub fn get(self) -> u32 {
        self.0.get()
    }

    /// The file name of this timeline's history, such as `00000002.history`. Timeline 1 has none.
    pub fn history_name(self) -> String {
        format!("{:08X}.history", self.get())
    }
}

impl fmt::Display for TimelineId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.get())
    }
}

impl fmt::Debug for TimelineId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.get())
    }
}

/// The text is not a timeline number.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("\"{0}\" is not a timeline; expected a number from 1 to 4294967295")]
pub struct ParseTimelineError(pub String);

impl FromStr for TimelineId {
    type Err = ParseTimelineError;

    fn from_str(text: &str) -> Result<TimelineId, ParseTimelineError> {
        let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
        digits
            .then(|| text.parse().ok().and_then(TimelineId::new))
            .flatten()
            .ok_or_else(|| ParseTimelineError(text.to_owned()))
    }
}
