//! WAL in the repository: segments, pieces of the segment that is still being written, history files, holes.

mod check;
mod coverage;
mod durable;
mod expired;
mod hole;
mod known;
mod object;

pub use coverage::{Coverage, Range, TimelineCoverage, WalObject};
pub use durable::{Durable, Frontier, Stored};
pub use expired::Expired;
pub use hole::Hole;
pub use known::{KnownWal, LabelledPiece};
pub use object::{EncodedWal, RestorePoint, Transactions, WalChunk, WalFacts, WalHeader, WalStream};
