//! A small file system that can run full.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::person::Person;
use crate::process::Output;
use crate::tools;

const MOUNTS_WITHIN: Duration = Duration::from_secs(10);

/// A mounted tmpfs, unmounted when dropped.
pub struct Tmpfs {
    path: PathBuf,
}

impl Tmpfs {
    /// Mounts `mib` MiB at `path`.
    ///
    /// # Panics
    ///
    /// When not run as root, because only root can mount.
    #[track_caller]
    pub(crate) fn mount(path: &Path, mib: u32) -> Tmpfs {
        assert!(
            rustix::process::geteuid().is_root(),
            "this test mounts a small file system and fills it, which takes root: run `sudo -E make test`, \
             or leave it out with `cargo test -p e2e -- --skip full_disk`"
        );
        fs::create_dir_all(path).expect("make the mount point");
        let options = format!("size={mib}m,mode=0755{}", Person::unprivileged().mount_options());
        mount(&["-t", "tmpfs", "-o", &options, "tmpfs"], path);
        Tmpfs { path: path.to_owned() }
    }

    /// Where it is mounted.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Makes it `mib` MiB large.
    #[track_caller]
    pub fn grow(&self, mib: u32) {
        mount(&["-o", &format!("remount,size={mib}m")], &self.path);
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        let mut command = Command::new(tools::other("umount", "mount"));
        let ended = command.arg("-l").arg(&self.path).status();
        if !ended.is_ok_and(|status| status.success()) {
            eprintln!("{} is still mounted", self.path.display());
        }
    }
}

#[track_caller]
fn mount(arguments: &[&str], path: &Path) {
    let mut command = Command::new(tools::other("mount", "mount"));
    Output::of(command.args(arguments).arg(path), "", MOUNTS_WITHIN).success();
}
