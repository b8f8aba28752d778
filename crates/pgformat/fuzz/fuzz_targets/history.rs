//! Timeline histories, and the answers they give.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pgformat::{History, Lsn, TimelineId};

fuzz_target!(|input: (u32, u64, &[u8])| {
    let (timeline, lsn, bytes) = input;
    let Some(timeline) = TimelineId::new(timeline) else { return };
    let Ok(history) = History::parse(timeline, bytes) else { return };
    let path = history.path();
    assert_eq!(path.last(), Some(&(timeline, None)));
    assert!(path.is_sorted_by_key(|(timeline, end)| (*timeline, end.unwrap_or(Lsn(u64::MAX)))));
    let at = history.timeline_at(Lsn(lsn));
    assert!(history.fork_from(at).is_none_or(|end| Lsn(lsn) < end));
});
