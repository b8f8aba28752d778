//! What of the service's state is news: a pure comparison from look to look, and the task that looks.

use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::{Events, Kind};
use crate::config::{EventSettings, Live};
use crate::monitor::{Observed, View};

const LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// Nothing is archived for so long before anybody is told: a restart takes less.
const AWAY_FOR: Duration = Duration::from_secs(60);

/// Looks until `shutdown`, and hands over what is news.
pub(crate) async fn watch(
    observed: Arc<Observed>,
    events: Events,
    mut settings: Live,
    shutdown: CancellationToken,
) {
    let mut news = News::default();
    let mut ticks = tokio::time::interval(LOOK_INTERVAL);
    loop {
        tokio::select! {
            () = shutdown.cancelled() => return,
            _ = ticks.tick() => {}
        }
        let EventSettings { outlets, lag_limit } = settings.now().events.clone();
        if outlets.is_empty() {
            // Nobody is told, and so nobody need look.
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = settings.changed() => continue,
            }
        }
        news.lag_limit = lag_limit;
        let now = crate::now();
        for (kind, text, details) in news.look(&observed.view(now), now) {
            events.tell(kind, text, details);
        }
    }
}

/// What was seen before.
#[derive(Debug, Default)]
struct News {
    lag_limit: Option<Duration>,
    timeline: Option<u32>,
    is_over: bool,
    /// Since when nothing is archived, and whether somebody has been told.
    away: Option<(DateTime<Utc>, bool)>,
}

type Told = (Kind, String, Value);

impl News {
    fn look(&mut self, view: &View, now: DateTime<Utc>) -> Vec<Told> {
        let told = [self.failover(view), self.lag(view), self.archiving(view, now)];
        told.into_iter().flatten().collect()
    }

    fn failover(&mut self, view: &View) -> Option<Told> {
        let (server, timeline) = view.server.as_ref()?;
        let before = self.timeline.replace(*timeline).filter(|before| before < timeline)?;
        let text = format!("WAL comes from {server} now, on timeline {timeline} instead of {before}");
        Some((
            Kind::FailoverFollowed,
            text,
            json!({ "node": server, "timeline": timeline, "from_timeline": before }),
        ))
    }

    fn lag(&mut self, view: &View) -> Option<Told> {
        let limit = self.lag_limit?.as_secs_f64();
        let behind = view.behind_seconds.unwrap_or(0.0);
        let is_over = behind > limit;
        if is_over == std::mem::replace(&mut self.is_over, is_over) {
            return None;
        }
        let details = json!({ "behind_seconds": behind, "limit_seconds": limit });
        Some(match is_over {
            true => (Kind::LagOverLimit, format!("the archive has been behind for {behind:.0} s"), details),
            false => (Kind::LagUnderLimit, "the archive is no longer behind".to_owned(), details),
        })
    }

    fn archiving(&mut self, view: &View, now: DateTime<Utc>) -> Option<Told> {
        let Some(problem) = &view.trouble else {
            let (since, was_told) = self.away.take()?;
            let seconds = now.signed_duration_since(since).num_seconds();
            let text = format!("WAL is archived again, after {seconds} s");
            return was_told.then(|| (Kind::ArchivingAgain, text, json!({ "seconds": seconds })));
        };
        let (since, was_told) = self.away.unwrap_or((now, false));
        let is_long = now.signed_duration_since(since).to_std().is_ok_and(|away| away >= AWAY_FOR);
        self.away = Some((since, was_told || is_long));
        let text = format!("no WAL has been archived since {}: {problem}", since.to_rfc3339());
        (is_long && !was_told)
            .then(|| (Kind::NotArchiving, text, json!({ "since": since, "problem": problem })))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(seconds, 0).unwrap()
    }

    fn streaming(timeline: u32) -> View {
        View { server: Some(("db:5432".to_owned(), timeline)), behind_seconds: Some(0.0), trouble: None }
    }

    fn kinds(told: Vec<Told>) -> Vec<Kind> {
        told.into_iter().map(|(kind, _, _)| kind).collect()
    }

    #[test]
    fn a_failover_is_news_once() {
        let mut news = News::default();
        assert!(news.look(&streaming(1), at(0)).is_empty(), "the first timeline is no news");
        assert!(news.look(&streaming(1), at(1)).is_empty());
        assert_eq!(kinds(news.look(&streaming(3), at(2))), [Kind::FailoverFollowed]);
        assert!(news.look(&streaming(3), at(3)).is_empty());
    }

    #[test]
    fn lag_is_news_when_it_comes_and_goes() {
        let mut news = News { lag_limit: Some(Duration::from_secs(30)), ..News::default() };
        let behind = |seconds| View { behind_seconds: Some(seconds), ..streaming(1) };
        let told: Vec<Kind> = [0.0, 29.0, 31.0, 40.0, 0.0, 1.0]
            .into_iter()
            .flat_map(|lag| kinds(news.look(&behind(lag), at(0))))
            .collect();
        assert_eq!(told, [Kind::LagOverLimit, Kind::LagUnderLimit]);
    }

    #[test]
    fn a_restart_is_no_news_and_an_outage_is() {
        let mut news = News::default();
        let away = View { server: None, behind_seconds: None, trouble: Some("refused".to_owned()) };
        assert!(news.look(&away, at(0)).is_empty());
        assert!(news.look(&away, at(59)).is_empty());
        assert!(news.look(&streaming(1), at(59)).is_empty(), "nobody had been told");
        assert!(news.look(&away, at(100)).is_empty());
        assert_eq!(kinds(news.look(&away, at(160))), [Kind::NotArchiving]);
        assert!(news.look(&away, at(170)).is_empty(), "once");
        assert_eq!(kinds(news.look(&streaming(1), at(180))), [Kind::ArchivingAgain]);
    }
}
