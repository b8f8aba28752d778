//! The files of a base backup, as servers wrote them.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test may stop at the first surprise, helpers included"
)]

mod support;

use pgformat::control::ControlError;
use pgformat::manifest::ManifestError;
use pgformat::page::{self, PageHeader, PageState};
use pgformat::{
    BackupLabel, ClusterState, ControlFile, History, Lsn, Major, ManifestFile, ManifestParser,
    ManifestSummary, SegmentName, SegmentSize, TimelineId, WalLevel, tablespace_map,
};
use proptest::prelude::*;
use support::{fixture, majors, text};

const BLOCK: usize = 8192;

fn control(major: Major) -> ControlFile {
    ControlFile::parse(&fixture(major, "pg_control")).unwrap()
}

#[test]
fn the_control_file_says_what_pg_controldata_says() {
    for major in majors() {
        for (file, dump) in
            [("pg_control", "controldata.txt"), ("pg_control_standby", "controldata_standby.txt")]
        {
            let control = ControlFile::parse(&fixture(major, file)).unwrap();
            let dump = text(major, dump);
            let said = |line: &str| {
                let prefix = format!("{line}:");
                dump.lines().find_map(|text| text.strip_prefix(&prefix)).unwrap().trim().to_owned()
            };
            assert_eq!(control.major, major);
            assert_eq!(control.system_identifier.to_string(), said("Database system identifier"));
            assert_eq!(control.pg_control_version.to_string(), said("pg_control version number"));
            assert_eq!(control.catalog_version.to_string(), said("Catalog version number"));
            assert_eq!(control.checkpoint.to_string(), said("Latest checkpoint location"));
            assert_eq!(control.redo.to_string(), said("Latest checkpoint's REDO location"));
            assert_eq!(control.timeline.to_string(), said("Latest checkpoint's TimeLineID"));
            assert_eq!(control.min_recovery_point.to_string(), said("Minimum recovery ending location"));
            let timeline = control.min_recovery_timeline.map_or(0, TimelineId::get);
            assert_eq!(timeline.to_string(), said("Min recovery ending loc's timeline"));
            assert_eq!(control.backup_start.to_string(), said("Backup start location"));
            assert_eq!(control.backup_end.to_string(), said("Backup end location"));
            assert_eq!(control.block_size.to_string(), said("Database block size"));
            assert_eq!(
                control.relation_segment_blocks.to_string(),
                said("Blocks per segment of large relation")
            );
            assert_eq!(control.wal_block_size.to_string(), said("WAL block size"));
            assert_eq!(control.segment_size.bytes().to_string(), said("Bytes per WAL segment"));
            assert_eq!(u8::from(control.data_checksums).to_string(), said("Data page checksum version"));
            let (state, wal_level) = match file {
                "pg_control" => (ClusterState::InProduction, WalLevel::Replica),
                _ => (ClusterState::InArchiveRecovery, WalLevel::Logical),
            };
            assert_eq!((control.state, control.wal_level), (state, wal_level));
        }
        let standby = ControlFile::parse(&fixture(major, "pg_control_standby")).unwrap();
        assert!(!standby.min_recovery_point.is_invalid(), "else the offset is not tested");
    }
}

#[test]
fn damage_of_a_control_file_is_noticed() {
    for major in majors() {
        let whole = fixture(major, "pg_control");
        let covered = whole.iter().rposition(|&byte| byte != 0).unwrap() - 3;
        for at in 0..covered + 4 {
            let mut damaged = whole.clone();
            damaged[at] ^= 0x10;
            let error = ControlFile::parse(&damaged).unwrap_err();
            match at {
                8..16 => assert!(matches!(error, ControlError::Version(_)), "{error}"),
                _ => assert!(matches!(error, ControlError::Checksum { .. }), "{at}: {error}"),
            }
            assert!(matches!(
                ControlFile::parse(&whole[..at]),
                Err(ControlError::Truncated { length }) if length == at
            ));
        }
        let mut swapped = whole.clone();
        swapped[8..12].reverse();
        assert_eq!(ControlFile::parse(&swapped), Err(ControlError::ByteOrder));
    }
}

#[test]
fn the_label_names_the_checkpoint_of_the_control_file() {
    for major in majors() {
        let label = BackupLabel::parse(&fixture(major, "backup_label")).unwrap();
        let control = control(major);
        assert_eq!(label.label, "a label");
        assert_eq!(label.method, "streamed");
        assert!(!label.from_standby);
        assert_eq!((label.start_lsn, label.checkpoint), (control.redo, control.checkpoint));
        assert_eq!(label.timeline, control.timeline);
        let segment = SegmentName::containing(label.timeline, label.start_lsn, control.segment_size);
        assert_eq!(label.start_segment, segment.file_name(control.segment_size));
    }
}

#[test]
fn the_tablespace_map_is_written_back_as_it_was() {
    for major in majors() {
        let bytes = fixture(major, "tablespace_map");
        let entries = tablespace_map::parse(&bytes).unwrap();
        assert_eq!(entries.len(), 1);
        assert!(entries[0].path.ends_with("/table\\spa\nce"), "{:?}", entries[0].path);
        assert_eq!(tablespace_map::format(&entries), bytes);
    }
}

#[test]
fn a_promotion_is_in_the_history() {
    for major in majors() {
        let second = TimelineId::new(2).unwrap();
        let history = History::parse(second, &fixture(major, "00000002.history")).unwrap();
        assert_eq!(history.entries.len(), 1);
        assert_eq!(history.entries[0].reason, "no recovery target specified");
        let fork = history.fork_from(TimelineId::FIRST).unwrap();
        assert_eq!(history.path(), [(TimelineId::FIRST, Some(fork)), (second, None)]);
    }
}

fn parse_manifest(bytes: &[u8], piece: usize) -> (Vec<ManifestFile>, Result<ManifestSummary, ManifestError>) {
    let mut files = Vec::new();
    let mut parser = ManifestParser::new();
    let pushed = bytes.chunks(piece).try_for_each(|bytes| parser.push(bytes, &mut |file| files.push(file)));
    (files, pushed.and_then(|()| parser.finish()))
}

#[test]
fn a_manifest_lists_the_files_with_their_checksums() {
    for major in majors() {
        let bytes = fixture(major, "backup_manifest");
        let (files, summary) = parse_manifest(&bytes, bytes.len());
        let (summary, control) = (summary.unwrap(), control(major));
        assert_eq!(summary.version, major.manifest_version());
        let identified = (summary.version > 1).then_some(control.system_identifier);
        assert_eq!(summary.system_identifier, identified);
        assert_eq!(summary.files, files.len() as u64);
        assert!(files.len() > 900);
        assert_eq!(summary.wal_ranges.len(), 1);
        assert_eq!(summary.wal_ranges[0].timeline, TimelineId::FIRST);
        assert_eq!(summary.wal_ranges[0].start, control.redo);
        assert!(summary.wal_ranges[0].end > control.checkpoint);
        for (path, name) in [
            ("backup_label", "backup_label"),
            ("tablespace_map", "tablespace_map"),
            ("global/pg_control", "pg_control"),
        ] {
            let contents = fixture(major, name);
            let file = files.iter().find(|file| file.path_text() == Some(path)).unwrap();
            assert_eq!(file.size, contents.len() as u64, "{path}");
            assert_eq!(file.crc32c, Some(crc32c::crc32c(&contents)), "{path}");
        }
        for piece in [1, 7, 100, 4096] {
            assert_eq!(parse_manifest(&bytes, piece), (files.clone(), Ok(summary.clone())));
        }
    }
}

#[test]
fn a_manifest_that_is_not_whole_is_refused() {
    let bytes = fixture(Major::new(15).unwrap(), "backup_manifest");
    let lines: Vec<usize> =
        bytes.iter().enumerate().filter(|(_, byte)| **byte == b'\n').map(|(at, _)| at).collect();
    for end in lines.iter().take(lines.len() - 1).chain([&(bytes.len() - 2)]) {
        let (_, result) = parse_manifest(&bytes[..=*end], 4096);
        assert!(matches!(result, Err(ManifestError::Truncated { .. })), "{result:?}");
    }
    let longer = [&bytes[..], b"more\n"].concat();
    assert!(matches!(parse_manifest(&longer, 4096).1, Err(ManifestError::Syntax { .. })));
    let endless = vec![b' '; 1 << 20];
    assert_eq!(parse_manifest(&endless, 4096).1, Err(ManifestError::LineTooLong { line: 1 }));
}

#[test]
fn pages_carry_their_checksums() {
    for major in majors() {
        for name in ["table", "table_fsm", "table_vm"] {
            let bytes = fixture(major, name);
            let (mut valid, mut number) = (0, 0);
            for page in bytes.chunks(BLOCK) {
                let header = PageHeader::parse(page).unwrap();
                match page::verify(page, number, Lsn(u64::MAX)) {
                    PageState::Valid => {
                        valid += 1;
                        assert_eq!((usize::from(header.size), header.version), (BLOCK, 4));
                        assert!(matches!(
                            page::verify(page, number + 1, Lsn(u64::MAX)),
                            PageState::Corrupt { .. }
                        ));
                    }
                    state => assert_eq!(state, PageState::New),
                }
                number += 1;
            }
            assert!(valid > 0, "{name} of {major} has {number} pages");
        }
    }
}

#[test]
fn a_damaged_page_is_torn_or_corrupt_by_its_lsn() {
    let mut page = fixture(Major::new(15).unwrap(), "table")[..BLOCK].to_vec();
    let header = PageHeader::parse(&page).unwrap();
    let expected = header.checksum;
    page[4000] ^= 1;
    assert_eq!(page::verify(&page, 0, header.lsn), PageState::Torn { lsn: header.lsn });
    let PageState::Corrupt { expected: computed, found, lsn } = page::verify(&page, 0, Lsn(header.lsn.0 + 1))
    else {
        panic!("a page below the start of the backup is not mended");
    };
    assert_eq!((found, lsn), (expected, header.lsn));
    assert_ne!(computed, found);
    assert_eq!(page::verify(&[0; BLOCK], 0, Lsn(1)), PageState::New);
}

proptest! {
    #[test]
    fn control_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..400), head in 0usize..5) {
        let mut bytes = bytes;
        let major = Major::ALL[head];
        if let Some(place) = bytes.get_mut(8..16) {
            place[..4].copy_from_slice(&major.control_version().to_le_bytes());
            place[4..].copy_from_slice(&major.catalog_version().to_le_bytes());
        }
        // With the checksum made to fit, the fields themselves are what is tried.
        for covered in [288, 292] {
            if bytes.len() >= covered + 4 {
                let checksum = crc32c::crc32c(&bytes[..covered]);
                bytes[covered..covered + 4].copy_from_slice(&checksum.to_le_bytes());
            }
            drop(ControlFile::parse(&bytes));
        }
    }

    #[test]
    fn manifest_never_panics(bytes: Vec<u8>, piece in 1usize..20) {
        prop_assert!(parse_manifest(&bytes, piece).1.is_err());
    }

    #[test]
    fn damage_of_a_manifest_is_noticed(at: prop::sample::Index, bit in 0u8..8) {
        let mut bytes = fixture(Major::new(17).unwrap(), "backup_manifest");
        let at = at.index(bytes.len());
        bytes[at] ^= 1 << bit;
        let (_, result) = parse_manifest(&bytes, 4096);
        // Hexadecimal digits of the checksum itself may change case; the white space at the very end is free.
        let harmless = bit == 5 || at == bytes.len() - 1;
        prop_assert!(result.is_err() || harmless, "byte {at}");
    }

    #[test]
    fn page_never_panics(page: Vec<u8>, block: u32, start: u64) {
        let state = page::verify(&page, block, Lsn(start));
        let corrupt = matches!(state, PageState::Corrupt { .. });
        prop_assert!(corrupt || page.len() >= PageHeader::LENGTH);
    }
}

/// The checksum of a page has 16 bits, so about one flip in 65,535 meets the same sum: of every
/// bit of a page, one is expected to go unnoticed, and more than eight would be a fault.
#[test]
fn a_flipped_bit_of_a_page_changes_its_checksum() {
    let mut page = fixture(Major::new(18).unwrap(), "table")[..BLOCK].to_vec();
    let mut unnoticed = Vec::new();
    for at in 0..BLOCK {
        for bit in 0..8 {
            page[at] ^= 1 << bit;
            if page::verify(&page, 0, Lsn(u64::MAX)) == PageState::Valid {
                unnoticed.push((at, bit));
            }
            page[at] ^= 1 << bit;
        }
    }
    assert!(unnoticed.len() <= 8, "bytes and bits: {unnoticed:?}");
}

#[test]
fn segment_size_of_the_fixtures_is_one_mebibyte() {
    for major in majors() {
        assert_eq!(Some(control(major).segment_size), SegmentSize::new(1 << 20));
    }
}
