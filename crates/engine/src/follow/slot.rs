//! Our slot on every node that may be promoted, so that the next primary still has the WAL we need.
//!
//! The slot on the node we stream from moves with what we acknowledge. Nothing moves the others but us: they are advanced
//! close behind what is durable, and never past what the node itself has.

use pgformat::{Lsn, SegmentSize};
use replication::sql::SqlClient;
use serde::Serialize;

use super::node::Observation;
use super::position::Known;

/// Our slot, as a node shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SlotSeen {
    /// Whether it is there.
    pub exists: bool,
    /// Somebody streams from it.
    pub active: bool,
    /// WAL is kept from here on.
    pub restart_lsn: Option<Lsn>,
    /// PostgreSQL's word for how safe that WAL is.
    pub wal_status: Option<String>,
    /// Bytes that may still be written before the slot may lose WAL; `None` without a limit.
    pub safe_wal_size: Option<i64>,
    /// There is room for another slot.
    pub has_room: bool,
}

/// How it stands with our slot on a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum SlotState {
    /// It keeps what we need.
    Kept,
    /// It is not there.
    Missing,
    /// It is not there, and there is no room for it.
    NoRoom,
    /// The server has removed WAL that it was to keep, or is about to.
    CutOff,
}

impl SlotSeen {
    /// How it stands with it.
    pub fn state(&self) -> SlotState {
        match self.wal_status.as_deref() {
            _ if !self.exists && !self.has_room => SlotState::NoRoom,
            _ if !self.exists => SlotState::Missing,
            Some("lost" | "unreserved") => SlotState::CutOff,
            _ => SlotState::Kept,
        }
    }
}

/// What is done about a slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    /// It is as it should be.
    Nothing,
    /// It is made.
    Create,
    /// It keeps nothing any more, and is made anew.
    Recreate,
    /// It is moved on.
    Advance(Lsn),
    /// There is no room for it.
    NoRoom,
}

/// What to do about the slot on a node that we do not stream from.
///
/// It may move up to the end of what is durable, as far as the node's own history has that, and stays a segment behind what
/// the node has: a promotion forks where the last whole record ends, and the fork's segment is needed from its start.
pub(super) fn step(node: &Observation, known: Option<Known>, size: SegmentSize) -> Step {
    let Some(slot) = &node.slot else { return Step::Nothing };
    match slot.state() {
        SlotState::NoRoom => return Step::NoRoom,
        SlotState::Missing => return Step::Create,
        SlotState::CutOff if slot.wal_status.as_deref() == Some("lost") && !slot.active => {
            return Step::Recreate;
        }
        SlotState::CutOff | SlotState::Kept => {}
    }
    let Some(known) = known else { return Step::Nothing };
    // What the node is going to need of us lies at the earliest of these.
    let durable = if node.timeline <= known.timeline {
        known.durable
    } else {
        match node.history.fork_from(known.timeline) {
            Some(fork) => fork.min(known.durable),
            // Another branch: what of it is needed, nobody can tell.
            None => return Step::Nothing,
        }
    };
    let keep = size.floor(durable.min(node.flushed));
    let to = Lsn(keep.0.saturating_sub(size.bytes()));
    match slot.restart_lsn {
        Some(restart) if !slot.active && restart < to => Step::Advance(to),
        _ => Step::Nothing,
    }
}

/// Takes a step.
pub(super) async fn take(client: &SqlClient, slot: &str, step: Step) -> Result<(), replication::Error> {
    match step {
        Step::Nothing | Step::NoRoom => {}
        Step::Create => create(client, slot).await?,
        Step::Recreate => {
            client.execute("select pg_drop_replication_slot($1)", &[&slot]).await?;
            create(client, slot).await?;
        }
        Step::Advance(to) => {
            let sql = "select pg_replication_slot_advance($1, $2::text::pg_lsn)";
            client.execute(sql, &[&slot, &to.to_string()]).await?;
        }
    }
    Ok(())
}

async fn create(client: &SqlClient, slot: &str) -> Result<(), replication::Error> {
    client.execute("select pg_create_physical_replication_slot($1, true)", &[&slot]).await.map(drop)
}

/// Removes our slot from a node that has left the cluster; whether it is gone. It stays while somebody streams through it.
pub(super) async fn drop_slot(client: &SqlClient, slot: &str) -> Result<bool, replication::Error> {
    let sql = "select pg_drop_replication_slot(slot_name) from pg_replication_slots where slot_name = $1 and not active";
    client.execute(sql, &[&slot]).await?;
    let left = client.query("select from pg_replication_slots where slot_name = $1", &[&slot]).await?;
    Ok(left.is_empty())
}

#[cfg(test)]
mod tests {
    use super::super::choose::tests::{node, timeline};
    use super::*;

    const MB: u64 = 1 << 20;
    const SIZE: SegmentSize = SegmentSize::DEFAULT;

    fn slot(restart: u64) -> Option<SlotSeen> {
        Some(SlotSeen {
            exists: true,
            active: false,
            restart_lsn: Some(Lsn(restart)),
            wal_status: Some("reserved".into()),
            safe_wal_size: None,
            has_room: true,
        })
    }

    fn known(number: u32, durable: u64) -> Option<Known> {
        Some(Known { timeline: timeline(number), durable: Lsn(durable) })
    }

    #[test]
    fn it_stays_a_segment_behind_what_is_needed() {
        let standby = |slot| Observation { slot, ..node(1, &[], 200 * MB) };
        assert_eq!(step(&standby(slot(0)), known(1, 100 * MB), SIZE), Step::Advance(Lsn(80 * MB)));
        assert_eq!(step(&standby(slot(80 * MB)), known(1, 100 * MB), SIZE), Step::Nothing);
        assert_eq!(
            step(&standby(slot(0)), known(1, 300 * MB), SIZE),
            Step::Advance(Lsn(176 * MB)),
            "it lags"
        );
        assert_eq!(step(&standby(slot(0)), None, SIZE), Step::Nothing);
        let promoted = Observation { slot: slot(0), ..node(2, &[(1, 90 * MB)], 200 * MB) };
        assert_eq!(step(&promoted, known(1, 150 * MB), SIZE), Step::Advance(Lsn(64 * MB)), "its fork");
        let stranger = Observation { slot: slot(0), ..node(3, &[(1, 90 * MB)], 200 * MB) };
        assert_eq!(step(&stranger, known(2, 150 * MB), SIZE), Step::Nothing);
        let behind = Observation { slot: slot(0), ..node(1, &[], 60 * MB) };
        assert_eq!(step(&behind, known(2, 150 * MB), SIZE), Step::Advance(Lsn(32 * MB)));
    }

    #[test]
    fn what_is_missing_is_made() {
        let with = |change: fn(&mut SlotSeen)| {
            let mut seen = slot(0).unwrap();
            change(&mut seen);
            step(&Observation { slot: Some(seen), ..node(1, &[], 200 * MB) }, known(1, 100 * MB), SIZE)
        };
        assert_eq!(with(|slot| slot.exists = false), Step::Create);
        assert_eq!(with(|slot| (slot.exists, slot.has_room) = (false, false)), Step::NoRoom);
        assert_eq!(with(|slot| slot.wal_status = Some("lost".into())), Step::Recreate);
        assert_eq!(with(|slot| slot.active = true), Step::Nothing);
    }
}
