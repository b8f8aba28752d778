//! What many seeds came to.

use std::fmt::Write as _;
use std::io::Write as _;
use std::time::Duration;

use super::run::Outcome;

/// What comes in a few seeds of a thousand, so that a thousand may do without.
const RARE: [&str; 2] = ["stale listing", "WAL asked for that was gone"];

#[derive(Default)]
pub struct Summary {
    seeds: u64,
    synchronous: u64,
    faults: Vec<(&'static str, u64)>,
    happened: Vec<(&'static str, u64)>,
    simulated: Duration,
    wal_bytes: u64,
    sent_bytes: u64,
    /// Seed, violation, and what came before it.
    pub failed: Vec<(u64, String, String)>,
}

impl Summary {
    pub fn add(&mut self, seed: u64, outcome: &Outcome) {
        self.seeds += 1;
        self.synchronous += u64::from(outcome.synchronous);
        self.simulated += outcome.simulated;
        self.wal_bytes += outcome.wal_bytes;
        self.sent_bytes += outcome.server.sent_bytes;
        let mut faults = outcome.faults.by_kind().to_vec();
        faults.push(("calls", outcome.faults.calls));
        add(&mut self.faults, &faults);
        let server = &outcome.server;
        let happened = [
            ("kills", outcome.kills),
            ("stops", outcome.stops),
            ("exits", outcome.exits),
            ("restores read from afar", outcome.restores),
            ("connections", server.connections),
            ("streams", server.streams),
            ("status updates", server.status_updates),
            ("server restarts", server.restarts),
            ("broken connections", server.broken),
            ("wal_sender_timeouts", server.timed_out),
            ("WAL asked for that was gone", server.removed_asked_for),
        ];
        add(&mut self.happened, &happened);
        if let Some(violation) = &outcome.violation {
            self.failed.push((seed, violation.clone(), outcome.trace.clone()));
        }
    }

    fn text(&self) -> String {
        let list = |counts: &[(&str, u64)]| {
            counts.iter().map(|(name, count)| format!("{name} {count}")).collect::<Vec<_>>().join(", ")
        };
        let mib = |bytes: u64| bytes >> 20;
        format!(
            "simulation: {} seeds ({} synchronous), {} failed, {:.0} simulated hours, {} MiB of WAL, {} MiB streamed\n  \
             faults: {}\n  events: {}\n",
            self.seeds,
            self.synchronous,
            self.failed.len(),
            self.simulated.as_secs_f64() / 3600.0,
            mib(self.wal_bytes),
            mib(self.sent_bytes),
            list(&self.faults),
            list(&self.happened)
        )
    }

    pub fn print(&self) {
        std::io::stderr().write_all(self.text().as_bytes()).unwrap();
    }

    pub fn failures(&self) -> String {
        let mut text = String::new();
        for (seed, violation, trace) in self.failed.iter().take(5) {
            writeln!(
                text,
                "seed {seed}: {violation}\n{trace}  run it again: DRYDOCK_SIMULATION_SEED={seed} cargo test -p engine --test simulation acknowledged\n  \
                 keep it: echo '{seed} what it showed' >> crates/engine/tests/simulation/seeds.txt"
            )
            .unwrap();
        }
        for (seed, violation, _) in self.failed.iter().skip(5) {
            writeln!(text, "seed {seed}: {violation}").unwrap();
        }
        text
    }

    /// A simulation in which some kind of trouble never comes proves nothing about it.
    pub fn assert_something_happened(&self) {
        let all = self.faults.iter().chain(&self.happened);
        let never = all.filter(|(name, count)| *count == 0 && !RARE.contains(name));
        let never: Vec<&str> = never.map(|(name, _)| *name).collect();
        assert!(never.is_empty(), "never happened: {never:?}");
    }
}

fn add(all: &mut Vec<(&'static str, u64)>, more: &[(&'static str, u64)]) {
    if all.is_empty() {
        all.extend(more.iter().map(|(name, _)| (*name, 0)));
    }
    for ((_, sum), (_, count)) in all.iter_mut().zip(more) {
        *sum += count;
    }
}
