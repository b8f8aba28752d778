//! Which files of a data directory hold pages with checksums.

use crate::Major;

/// A file of a relation, known by its path.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct RelationFile {
    /// Object identifier of the tablespace.
    pub tablespace: u32,
    /// Object identifier of the database; zero for relations shared by all.
    pub database: u32,
    /// The number in the file's name.
    pub relfilenode: u32,
    /// Which of the relation's forks.
    pub fork: Fork,
    /// Which file of the fork, counted from 0: the name without `.N`, then `.1`, `.2`, …
    pub segment: u32,
    /// A temporary relation of one session: of no use to a restored cluster.
    pub temporary: bool,
}

/// The forks of a relation.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Fork {
    /// The data.
    Main,
    /// Free space map.
    Fsm,
    /// Visibility map.
    Vm,
    /// What an unlogged relation is reset to after a crash.
    Init,
}

/// Object identifier of `pg_default`, whose files are under `base/`.
pub const DEFAULT_TABLESPACE: u32 = 1663;
/// Object identifier of `pg_global`, whose files are under `global/`.
pub const GLOBAL_TABLESPACE: u32 = 1664;

impl RelationFile {
    /// `None` for a path, relative to the data directory, that is not a fork of a relation; such a file has no page
    /// checksums.
    pub fn parse(path: &str) -> Option<RelationFile> {
        let (tablespace, database, name) = split_directory(path)?;
        let (temporary, name) = strip_backend(name);
        let (name, segment) = match name.split_once('.') {
            Some((name, segment)) => (name, number(segment)?),
            None => (name, 0),
        };
        let (digits, fork) = match name.split_once('_') {
            Some((digits, suffix)) => (digits, Fork::from_suffix(suffix)?),
            None => (name, Fork::Main),
        };
        Some(RelationFile { tablespace, database, relfilenode: number(digits)?, fork, segment, temporary })
    }
}

impl Fork {
    fn from_suffix(suffix: &str) -> Option<Fork> {
        match suffix {
            "fsm" => Some(Fork::Fsm),
            "vm" => Some(Fork::Vm),
            "init" => Some(Fork::Init),
            _ => None,
        }
    }
}

fn split_directory(path: &str) -> Option<(u32, u32, &str)> {
    let mut parts = path.split('/');
    let place = match parts.next()? {
        "global" => (GLOBAL_TABLESPACE, 0, parts.next()?),
        "base" => (DEFAULT_TABLESPACE, number(parts.next()?)?, parts.next()?),
        "pg_tblspc" => {
            let tablespace = number(parts.next()?)?;
            let directory = parts.next()?;
            // Other directories are those of another major, left behind by pg_upgrade.
            Major::ALL.into_iter().find(|major| major.tablespace_directory() == directory)?;
            (tablespace, number(parts.next()?)?, parts.next()?)
        }
        _ => return None,
    };
    parts.next().is_none().then_some(place)
}

/// `t<backend>_<relfilenode>` is a temporary relation's name.
fn strip_backend(name: &str) -> (bool, &str) {
    let stripped = name
        .strip_prefix('t')
        .and_then(|rest| rest.split_once('_'))
        .filter(|(backend, _)| *backend == "0" || number(backend).is_some());
    stripped.map_or((false, name), |(_, rest)| (true, rest))
}

/// A positive number as PostgreSQL prints it: no sign, no leading zero.
fn number(text: &str) -> Option<u32> {
    let plain = text.bytes().all(|b| b.is_ascii_digit()) && !text.starts_with('0');
    plain.then(|| text.parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn file(tablespace: u32, database: u32, relfilenode: u32) -> RelationFile {
        RelationFile { tablespace, database, relfilenode, fork: Fork::Main, segment: 0, temporary: false }
    }

    #[test]
    fn knows_relations() {
        let parse = RelationFile::parse;
        assert_eq!(parse("base/5/16384"), Some(file(1663, 5, 16384)));
        assert_eq!(parse("global/1262"), Some(file(1664, 0, 1262)));
        assert_eq!(parse("base/5/16384.7"), Some(RelationFile { segment: 7, ..file(1663, 5, 16384) }));
        assert_eq!(parse("base/5/2619_fsm"), Some(RelationFile { fork: Fork::Fsm, ..file(1663, 5, 2619) }));
        assert_eq!(parse("base/5/2619_init"), Some(RelationFile { fork: Fork::Init, ..file(1663, 5, 2619) }));
        assert_eq!(
            parse("pg_tblspc/16500/PG_15_202209061/5/16384_vm.1"),
            Some(RelationFile { fork: Fork::Vm, segment: 1, ..file(16500, 5, 16384) })
        );
        for backend in [0, 3, 17] {
            assert_eq!(
                parse(&format!("base/5/t{backend}_16400_vm")),
                Some(RelationFile { fork: Fork::Vm, temporary: true, ..file(1663, 5, 16400) })
            );
        }
    }

    #[test]
    fn knows_what_is_none() {
        for path in [
            "",
            "base",
            "base/5",
            "base/5/",
            "base/5/PG_VERSION",
            "base/5/pg_filenode.map",
            "global/pg_control",
            "base/5/pg_internal.init",
            "base/5/16384.",
            "base/5/16384.0",
            "base/5/16384.01",
            "base/5/016384",
            "base/5/16384_",
            "base/5/16384_fsmx",
            "base/5/16384_fsm_vm",
            "base/5/t_16384",
            "base/5/tx_16384",
            "base/5/16384/1",
            "base/x/16384",
            "base/pgsql_tmp/pgsql_tmp1.0",
            "base/5/4294967296",
            "pg_wal/16384",
            "pg_tblspc/16500/PG_13_202007201/5/16384",
            "pg_tblspc/16500",
            "pg_xact/0000",
            "/base/5/16384",
            "base/5/1_000",
            "base/5/+1",
            "base/5/16384.1.2",
        ] {
            assert_eq!(RelationFile::parse(path), None, "{path}");
        }
    }

    proptest! {
        #[test]
        fn never_panics(path: String) {
            if let Some(file) = RelationFile::parse(&path) {
                prop_assert!(file.relfilenode > 0);
            }
        }

        #[test]
        fn nearly_right_never_panics(path in "(base|global|pg_tblspc)(/(PG_15_202209061|t?[0-9_]{1,12}(_fsm|_vm|_init)?(\\.[0-9]*)?)){1,4}") {
            if let Some(file) = RelationFile::parse(&path) {
                prop_assert!(path.contains(&file.relfilenode.to_string()));
            }
        }
    }
}
