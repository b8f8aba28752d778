//! The test that defines us: whatever happened, all that was acknowledged can be restored.
//!
//! The real archive streams from a made-up server, over connections in memory, into storage that fails, in simulated time. It is killed
//! and started again at random. What was acknowledged is looked at from below, all the time. See docs/adr/0014-simulation.md.
//!
//! ```sh
//! cargo test -p engine --test simulation                               # 1,000 seeds and those that once failed
//! DRYDOCK_SIMULATION_SEEDS=100000 cargo test -p engine --test simulation acknowledged   # a soak
//! DRYDOCK_SIMULATION_SEED=4711 cargo test -p engine --test simulation acknowledged      # one, again
//! ```
//!
//! `DRYDOCK_SIMULATION_TRACE=1` prints what happens while it happens.

#![allow(clippy::unwrap_used, reason = "a test may stop at the first surprise, helpers included")]
#![allow(clippy::panic, reason = "a client that says what no client says is such a surprise")]

#[path = "simulation/peer.rs"]
mod peer;
#[path = "simulation/run.rs"]
mod run;
#[path = "simulation/script.rs"]
mod script;
#[path = "simulation/server.rs"]
mod server;
#[path = "simulation/stores.rs"]
mod stores;
#[path = "simulation/summary.rs"]
mod summary;
#[path = "simulation/trace.rs"]
mod trace;
#[path = "simulation/witness.rs"]
mod witness;

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use run::{Mutant, Outcome};
use summary::Summary;

/// Seeds in an ordinary run.
const SEEDS: u64 = 1_000;
/// How often a seed is run that is asked for.
const AGAIN: usize = 10;
/// A violation that is not found within so many seeds is one the simulation is blind to.
const MUTANT_SEEDS: u64 = 20;

/// Seeds that once failed, so that what they showed stays mended.
const KEPT: &str = include_str!("simulation/seeds.txt");

fn from_environment(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap())
}

fn kept() -> Vec<u64> {
    let seed = |line: &str| line.split_whitespace().next().map(|word| word.parse().unwrap());
    KEPT.lines().filter(|line| !line.starts_with('#')).filter_map(seed).collect()
}

/// Runs seeds on all cores.
fn run_all(seeds: &[u64]) -> Summary {
    let (next, summary) = (AtomicU64::new(0), Mutex::new(Summary::default()));
    let threads = std::thread::available_parallelism().map_or(2, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while let Some(seed) =
                    seeds.get(usize::try_from(next.fetch_add(1, Ordering::Relaxed)).unwrap())
                {
                    let outcome = run::run(*seed, Mutant::None);
                    summary.lock().unwrap().add(*seed, &outcome);
                }
            });
        }
    });
    summary.into_inner().unwrap()
}

#[test]
fn whatever_is_acknowledged_can_be_restored() {
    let seeds: Vec<u64> = match from_environment("DRYDOCK_SIMULATION_SEED") {
        // Two things at one moment may come in either order, so once may not be enough.
        Some(seed) => vec![seed; AGAIN],
        None => {
            let count = from_environment("DRYDOCK_SIMULATION_SEEDS").unwrap_or(SEEDS);
            let first = from_environment("DRYDOCK_SIMULATION_FIRST").unwrap_or(1);
            kept().into_iter().chain(first..first + count).collect()
        }
    };
    let summary = run_all(&seeds);
    // Written past the harness, which keeps to itself what a test prints that passes.
    summary.print();
    assert!(summary.failed.is_empty(), "{}", summary.failures());
    if seeds.len() as u64 >= SEEDS {
        summary.assert_something_happened();
    }
}

fn caught(mutant: Mutant) -> (u64, Outcome) {
    let found =
        (1..=MUTANT_SEEDS).map(|seed| (seed, run::run(seed, mutant))).find(|(_, o)| o.violation.is_some());
    found.unwrap_or_else(|| panic!("{mutant:?} was not noticed in {MUTANT_SEEDS} seeds"))
}

#[test]
fn a_store_that_lies_about_durability_is_caught() {
    let (seed, outcome) = caught(Mutant::LyingStore);
    let violation = outcome.violation.unwrap();
    println!("caught by seed {seed}: {violation}");
    assert!(violation.contains("acknowledged"), "{violation}");
}

#[test]
fn an_acknowledgement_ahead_of_durability_is_caught() {
    let (seed, outcome) = caught(Mutant::EarlyAcknowledgement);
    let violation = outcome.violation.unwrap();
    println!("caught by seed {seed}: {violation}");
    assert!(violation.contains("acknowledged"), "{violation}");
}
