//! What PostgreSQL writes: bytes in, values out.
//!
//! A backup is only as good as one's reading of what is in it. This crate reads the files and streams a backup is made
//! of, from the address of a byte of WAL ([`Lsn`]) to the records in it ([`wal::Decoder`]), and does nothing else: no
//! file is opened here, nothing waits, and every function can be called on any bytes.
//!
//! Three rules hold throughout:
//!
//! - **Nothing is believed that can be checked.** Checksums, lengths and cross-references are verified before a value
//!   is returned. Whatever the bytes, the answer is a value or an error, never a panic.
//! - **What differs between versions stands in one table**, in [`version`]. A version that is not there is refused.
//! - **Nothing grows with a number read from the input**, only with the input itself.
//!
//! ```
//! use pgformat::{History, Lsn, SegmentName, SegmentSize, TimelineId};
//!
//! // A standby was promoted at 0/3000148 and now writes timeline 2. Which segment holds a byte depends on which side of
//! // the fork it is.
//! let second = TimelineId::new(2).unwrap();
//! let history = History::parse(second, b"1\t0/3000148\tno recovery target specified\n")?;
//! let segment = |lsn| {
//!     SegmentName::containing(history.timeline_at(lsn), lsn, SegmentSize::DEFAULT).file_name(SegmentSize::DEFAULT)
//! };
//! assert_eq!(segment(Lsn(0x300_0147)), "000000010000000000000003");
//! assert_eq!(segment(Lsn(0x300_0148)), "000000020000000000000003");
//! # Ok::<(), pgformat::history::HistoryError>(())
//! ```

mod bytes;

pub mod backup_label;
pub mod control;
pub mod history;
pub mod lsn;
pub mod manifest;
pub mod page;
pub mod relation;
pub mod segment;
pub mod tablespace_map;
pub mod timeline;
pub mod version;
pub mod wal;
pub mod wal_level;

pub use backup_label::BackupLabel;
pub use control::{ClusterState, ControlFile};
pub use history::{History, HistoryEntry};
pub use lsn::Lsn;
pub use manifest::{ManifestFile, ManifestParser, ManifestSummary, WalRange};
pub use relation::{Fork, RelationFile};
pub use segment::{SegmentName, SegmentSize};
pub use tablespace_map::TablespaceMapEntry;
pub use timeline::TimelineId;
pub use version::{Major, UnknownMajor};
pub use wal_level::WalLevel;
