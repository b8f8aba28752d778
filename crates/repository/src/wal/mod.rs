//! WAL in the repository: segments, pieces of the segment that is still being written, history files, holes.

mod coverage;
mod durable;
mod hole;
mod object;

pub use coverage::{Coverage, Range, TimelineCoverage, WalObject};
pub use durable::{Durable, Frontier, Stored};
pub use hole::Hole;
pub use object::{EncodedWal, RestorePoint, Transactions, WalChunk, WalFacts, WalHeader, WalStream};
