//! Cutting files into jobs: large files into chunks, small ones bundled until there are enough for a frame.

use bytes::{Bytes, BytesMut};
use pgformat::{Lsn, RelationFile};
use repository::codec::{FRAME_BYTES_MAX, Fingerprint};

use super::parent::ParentFile;
use super::work::{FileFacts, Job, PageCheck, Part};

/// A file shorter than this shares its frame with others.
const SMALL_BYTES: usize = FRAME_BYTES_MAX / 2;
/// PostgreSQL cuts relations into files of 1 GiB, unless it was built otherwise, which no package is.
pub(super) const RELATION_FILE_BYTES: u64 = 1 << 30;

/// How pages are to be verified; `None` where pages carry no checksums.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pages {
    pub(super) block_size: u32,
    pub(super) backup_start: Lsn,
}

/// Cuts files into jobs.
pub(super) struct Splitter {
    pages: Option<Pages>,
    file: Option<Open>,
    bundle: BytesMut,
    parts: Vec<Part>,
    checks: Vec<(PageCheck, std::ops::Range<usize>)>,
}

/// The file that is being read.
struct Open {
    facts: FileFacts,
    relation: Option<RelationFile>,
    parent: Option<ParentFile>,
    buffer: BytesMut,
    /// Bytes that have gone into chunks.
    cut: u64,
}

impl Splitter {
    pub(super) fn new(pages: Option<Pages>) -> Splitter {
        Splitter { pages, file: None, bundle: BytesMut::new(), parts: Vec::new(), checks: Vec::new() }
    }

    /// A file begins.
    pub(super) fn begin(&mut self, path: String, mode: u32, mtime: i64, parent: Option<ParentFile>) {
        let relation = RelationFile::parse(&path).filter(|relation| !relation.temporary);
        let facts = FileFacts { path, mode, mtime, size: 0, crc32c: 0 };
        self.file = Some(Open { facts, relation, parent, buffer: BytesMut::new(), cut: 0 });
    }

    /// Bytes of the file; gives the chunks they complete.
    pub(super) fn push(&mut self, mut data: &[u8], jobs: &mut Vec<Job>) {
        let Some(file) = &mut self.file else { return };
        file.facts.crc32c = crc32c::crc32c_append(file.facts.crc32c, data);
        file.facts.size += data.len() as u64;
        while !data.is_empty() {
            // A file that was cut once is large; others grow as they must, so that small files stay small.
            if file.buffer.is_empty() && file.cut > 0 {
                file.buffer.reserve(FRAME_BYTES_MAX);
            }
            let (now, rest) = data.split_at(data.len().min(FRAME_BYTES_MAX - file.buffer.len()));
            file.buffer.extend_from_slice(now);
            data = rest;
            if file.buffer.len() == FRAME_BYTES_MAX {
                jobs.push(file.chunk(self.pages));
            }
        }
    }

    /// The file is complete.
    pub(super) fn end(&mut self, jobs: &mut Vec<Job>) -> Option<FileFacts> {
        let mut file = self.file.take()?;
        let facts = file.facts.clone();
        if facts.size == 0 {
            jobs.push(Job::Empty(file.facts));
        } else if file.cut == 0 && file.buffer.len() < SMALL_BYTES {
            self.bundle_up(file, jobs);
        } else {
            if !file.buffer.is_empty() {
                jobs.push(file.chunk(self.pages));
            }
            jobs.push(Job::EndOfFile(file.facts));
        }
        Some(facts)
    }

    fn bundle_up(&mut self, file: Open, jobs: &mut Vec<Job>) {
        let check = file.check(self.pages);
        let fingerprint = Fingerprint::of(&file.buffer);
        let len = u32::try_from(file.buffer.len()).unwrap_or(u32::MAX);
        let place = file.parent.as_ref().and_then(|parent| parent.place(0, len));
        if let Some(place) = place.filter(|place| place.known_fingerprint() == fingerprint) {
            jobs.push(Job::Known { facts: file.facts, place, bytes: file.buffer.freeze(), check });
            return;
        }
        if self.bundle.len() + file.buffer.len() > FRAME_BYTES_MAX {
            self.finish(jobs);
        }
        let at = self.bundle.len();
        self.bundle.extend_from_slice(&file.buffer);
        self.checks.extend(check.map(|check| (check, at..self.bundle.len())));
        self.parts.push(Part { facts: file.facts, at: u32::try_from(at).unwrap_or(u32::MAX), fingerprint });
    }

    /// Whatever small files wait go into a bundle.
    pub(super) fn finish(&mut self, jobs: &mut Vec<Job>) {
        if !self.parts.is_empty() {
            let bytes = std::mem::take(&mut self.bundle).freeze();
            let (parts, checks) = (std::mem::take(&mut self.parts), std::mem::take(&mut self.checks));
            jobs.push(Job::Bundle { bytes, parts, checks });
        }
    }
}

impl Open {
    fn chunk(&mut self, pages: Option<Pages>) -> Job {
        let check = self.check(pages);
        let bytes: Bytes = std::mem::take(&mut self.buffer).freeze();
        let len = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
        let parent = self.parent.as_ref().and_then(|parent| parent.place(self.cut, len));
        self.cut += u64::from(len);
        Job::Chunk { bytes, check, parent }
    }

    fn check(&self, pages: Option<Pages>) -> Option<PageCheck> {
        let (pages, relation) = (pages?, self.relation?);
        let block_size = u64::from(pages.block_size);
        let in_file = self.cut / block_size;
        let in_relation = u64::from(relation.segment) * (RELATION_FILE_BYTES / block_size) + in_file;
        Some(PageCheck {
            path: self.facts.path.clone(),
            first_block: u32::try_from(in_relation).ok()?,
            first_in_file: u32::try_from(in_file).ok()?,
            block_size: usize::try_from(pages.block_size).ok()?,
            backup_start: pages.backup_start,
        })
    }
}
