//! Whom to tell what has happened.

use std::time::Duration;

use replication::Secret;

use super::{Error, Resolver, Setting, setting};
use crate::events::Outlets;

/// Whom to tell what.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct EventSettings {
    /// Whom.
    pub outlets: Outlets,
    /// An archive that has been behind for longer is told of.
    pub lag_limit: Option<Duration>,
}

impl Resolver<'_> {
    pub(super) fn events(&self) -> Result<EventSettings, Error> {
        Ok(EventSettings {
            outlets: Outlets {
                command: self.text(&setting::EVENTS_COMMAND)?,
                webhook: self.url(&setting::EVENTS_WEBHOOK)?,
                ping: self.url(&setting::EVENTS_PING)?,
            },
            lag_limit: self.duration(&setting::EVENTS_LAG_LIMIT)?,
        })
    }

    /// A URL may hold a token, so it is never shown.
    fn url(&self, setting: &Setting) -> Result<Option<Secret>, Error> {
        let is_http = |text: &str| {
            let parsed = url::Url::parse(text).ok()?;
            matches!(parsed.scheme(), "http" | "https").then(|| Secret::new(text))
        };
        self.parse(setting, "a URL that begins with https:// or http://", is_http)
    }
}
