//! What PostgreSQL writes: bytes in, values out.

pub mod lsn;
pub mod segment;
pub mod timeline;

pub use lsn::Lsn;
pub use segment::{SegmentName, SegmentSize};
pub use timeline::TimelineId;
