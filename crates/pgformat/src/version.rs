//! The PostgreSQL majors we know, and everything that differs between them.
//!
//! A difference that is not in this table does not exist for the project: code asks a question of [`Major`] instead of
//! comparing numbers. What is not in the table is refused, because a wrong guess about a layout is found at restore.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// What is true of one major. Its catalog version is part of tablespace paths and tells apart the majors that share a
/// layout of `pg_control`.
#[derive(PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Facts {
    number: u16,
    control_version: u32,
    catalog_version: u32,
    wal_magic: u16,
    control_checksum_offset: usize,
    manifest_version: u32,
    custom_resource_managers: bool,
    dropped_statistics_bytes: Option<usize>,
    base_backup_parenthesised: bool,
    read_replication_slot: bool,
}

// 15, 17 and 18 were checked against servers; 14 and 16 are read from their sources.
const TABLE: [Facts; 5] = [
    Facts {
        number: 14,
        control_version: 1300,
        catalog_version: 202_107_181,
        wal_magic: 0xD10D,
        control_checksum_offset: 288,
        manifest_version: 1,
        custom_resource_managers: false,
        dropped_statistics_bytes: None,
        base_backup_parenthesised: false,
        read_replication_slot: false,
    },
    Facts {
        number: 15,
        control_version: 1300,
        catalog_version: 202_209_061,
        wal_magic: 0xD110,
        control_checksum_offset: 288,
        manifest_version: 1,
        custom_resource_managers: true,
        dropped_statistics_bytes: Some(12),
        base_backup_parenthesised: true,
        read_replication_slot: true,
    },
    Facts {
        number: 16,
        control_version: 1300,
        catalog_version: 202_307_071,
        wal_magic: 0xD113,
        control_checksum_offset: 288,
        manifest_version: 1,
        custom_resource_managers: true,
        dropped_statistics_bytes: Some(12),
        base_backup_parenthesised: true,
        read_replication_slot: true,
    },
    Facts {
        number: 17,
        control_version: 1700,
        catalog_version: 202_406_281,
        wal_magic: 0xD116,
        control_checksum_offset: 288,
        manifest_version: 2,
        custom_resource_managers: true,
        dropped_statistics_bytes: Some(12),
        base_backup_parenthesised: true,
        read_replication_slot: true,
    },
    Facts {
        number: 18,
        control_version: 1800,
        catalog_version: 202_506_291,
        wal_magic: 0xD118,
        control_checksum_offset: 292,
        manifest_version: 2,
        custom_resource_managers: true,
        dropped_statistics_bytes: Some(16),
        base_backup_parenthesised: true,
        read_replication_slot: true,
    },
];

/// A supported major version of PostgreSQL.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Major(&'static Facts);

impl Major {
    /// Every supported major, oldest first.
    pub const ALL: [Major; 5] =
        [Major(&TABLE[0]), Major(&TABLE[1]), Major(&TABLE[2]), Major(&TABLE[3]), Major(&TABLE[4])];

    /// The major with this number, such as 15.
    pub fn new(number: u16) -> Result<Major, UnknownMajor> {
        Major::find(|facts| facts.number == number).ok_or(UnknownMajor::Number(number.into()))
    }

    /// The major of a server that reports this `server_version_num`, such as 150018.
    pub fn from_version_num(version: u32) -> Result<Major, UnknownMajor> {
        let number = version / 10_000;
        Major::find(|facts| u32::from(facts.number) == number).ok_or(UnknownMajor::Number(number))
    }

    /// The major whose `pg_control` carries these two versions. Both are needed: 14, 15 and 16 share the first.
    pub fn from_control_version(control_version: u32, catalog_version: u32) -> Result<Major, UnknownMajor> {
        Major::find(|facts| {
            facts.control_version == control_version && facts.catalog_version == catalog_version
        })
        .ok_or(UnknownMajor::Control { control_version, catalog_version })
    }

    /// The number, such as 15.
    pub fn number(self) -> u16 {
        self.0.number
    }

    /// `PG_CONTROL_VERSION`: the layout of `pg_control`.
    pub fn control_version(self) -> u32 {
        self.0.control_version
    }

    /// `CATALOG_VERSION_NO`: the layout of the system catalogs.
    pub fn catalog_version(self) -> u32 {
        self.0.catalog_version
    }

    /// `XLOG_PAGE_MAGIC`: the first two bytes of every WAL page.
    pub fn wal_magic(self) -> u16 {
        self.0.wal_magic
    }

    /// The directory that this major keeps in every tablespace, such as `PG_15_202209061`.
    pub fn tablespace_directory(self) -> String {
        format!("PG_{}_{}", self.0.number, self.0.catalog_version)
    }

    /// Whether `BASE_BACKUP` takes its options in parentheses and sends everything in a single CopyOut stream. Before
    /// that, options are bare words and every tablespace has a stream of its own.
    pub fn base_backup_parenthesised(self) -> bool {
        self.0.base_backup_parenthesised
    }

    /// Whether the replication protocol has `READ_REPLICATION_SLOT`.
    pub fn has_read_replication_slot(self) -> bool {
        self.0.read_replication_slot
    }

    /// The version of the backup manifest this server writes. From 2 on it names the system identifier.
    pub fn manifest_version(self) -> u32 {
        self.0.manifest_version
    }

    /// Whether extensions may register resource managers of their own, numbered 128 to 255.
    pub fn has_custom_resource_managers(self) -> bool {
        self.0.custom_resource_managers
    }

    /// Size of one dropped-statistics entry in a commit or abort record; `None` where such records have none.
    pub(crate) fn dropped_statistics_bytes(self) -> Option<usize> {
        self.0.dropped_statistics_bytes
    }

    /// Where in `pg_control` its CRC stands, which is also how many bytes it covers.
    pub(crate) fn control_checksum_offset(self) -> usize {
        self.0.control_checksum_offset
    }

    fn find(wanted: impl Fn(&Facts) -> bool) -> Option<Major> {
        Major::ALL.into_iter().find(|major| wanted(major.0))
    }
}

/// Nothing is known of this version, and nothing is guessed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UnknownMajor {
    /// No such number in the table.
    #[error("PostgreSQL {0} is not supported; majors 14 to 18 are")]
    Number(u32),
    /// No major writes a `pg_control` with these versions.
    #[error(
        "pg_control version {control_version} with catalog version {catalog_version} belongs to no supported \
         PostgreSQL; majors 14 to 18 are supported"
    )]
    Control {
        /// `pg_control_version` of the file.
        control_version: u32,
        /// `catalog_version_no` of the file.
        catalog_version: u32,
    },
}

impl fmt::Display for Major {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0.number, f)
    }
}

impl fmt::Debug for Major {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for Major {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u16(self.0.number)
    }
}

impl<'de> Deserialize<'de> for Major {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Major, D::Error> {
        Major::new(u16::deserialize(deserializer)?).map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_of_a_major_leads_to_it() {
        for major in Major::ALL {
            assert_eq!(Major::new(major.number()), Ok(major));
            assert_eq!(Major::from_version_num(u32::from(major.number()) * 10_000 + 9), Ok(major));
            assert_eq!(
                Major::from_control_version(major.control_version(), major.catalog_version()),
                Ok(major)
            );
            let json = serde_json::to_string(&major).unwrap();
            assert_eq!(json, major.to_string());
            assert_eq!(serde_json::from_str::<Major>(&json).unwrap(), major);
        }
        assert!(Major::ALL.is_sorted());
    }

    #[test]
    fn the_unknown_is_refused_with_a_sentence() {
        for (version, number) in [(90_624, 9), (130_016, 13), (190_000, 19), (0, 0), (u32::MAX, 429_496)] {
            assert_eq!(Major::from_version_num(version), Err(UnknownMajor::Number(number)));
        }
        assert!(
            Major::from_control_version(1300, 202_007_201).is_err(),
            "13 shares its control version with 14"
        );
        assert_eq!(
            Major::new(13).unwrap_err().to_string(),
            "PostgreSQL 13 is not supported; majors 14 to 18 are"
        );
        assert!(serde_json::from_str::<Major>("19").is_err());
    }
}
