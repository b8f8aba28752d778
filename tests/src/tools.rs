//! Where PostgreSQL's programs are.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

const INSTALLED: &str = "/usr/lib/postgresql";

/// The path of one of PostgreSQL's programs: from `$PG_BINDIR`, else from the newest version Debian installed.
///
/// # Panics
///
/// Where there is none. A test suite that skips what it cannot run is green on the day nothing works.
pub(crate) fn postgresql(program: &str) -> PathBuf {
    static DIRECTORY: OnceLock<PathBuf> = OnceLock::new();
    let directory = DIRECTORY.get_or_init(|| {
        let chosen = std::env::var_os("PG_BINDIR").map(PathBuf::from);
        chosen.or_else(newest_installed).unwrap_or_else(|| {
            panic!(
                "no PostgreSQL under {INSTALLED}: run `make setup`, which installs Debian's package `postgresql`, \
                 or set PG_BINDIR to the directory that holds initdb and postgres"
            )
        })
    });
    found(directory.join(program))
}

fn newest_installed() -> Option<PathBuf> {
    let version = |directory: PathBuf| {
        let number: u32 = directory.file_name()?.to_str()?.parse().ok()?;
        directory.join("bin/initdb").exists().then(|| (number, directory.join("bin")))
    };
    let versions = fs::read_dir(INSTALLED).ok()?.flatten().map(|entry| entry.path());
    versions.filter_map(version).max().map(|(_, directory)| directory)
}

/// The path of a program the tests need besides PostgreSQL, with the package that brings it.
pub(crate) fn other(program: &str, package: &str) -> PathBuf {
    let paths = std::env::var_os("PATH").unwrap_or_default();
    // What the system has comes first: whom the tests run as may not be let into the caller's own directories.
    ["/usr/bin", "/usr/sbin", "/bin", "/sbin"]
        .map(PathBuf::from)
        .into_iter()
        .chain(std::env::split_paths(&paths))
        .map(|directory| directory.join(program))
        .find(|path| path.exists())
        .unwrap_or_else(|| panic!("no `{program}` on the PATH: install Debian's package `{package}`"))
}

/// A binary of the product, built beside this test.
pub(crate) fn product(program: &str) -> PathBuf {
    let test = std::env::current_exe().expect("the path of this test");
    let mut directories = test.ancestors().skip(1).take(2).map(|directory| directory.join(program));
    directories.find(|path| path.is_file()).unwrap_or_else(|| {
        panic!(
            "no {program} in {}: run `make test`, or first `cargo build -p backupd -p backupctl` with the same profile",
            test.parent().and_then(Path::parent).unwrap_or(&test).display()
        )
    })
}

fn found(path: PathBuf) -> PathBuf {
    assert!(
        path.exists(),
        "{} does not exist: run `make setup`, which installs Debian's package `postgresql` with its tools",
        path.display()
    );
    path
}
