//! The user that servers and the product run as.

use std::fs;
use std::os::unix::fs::chown;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::OnceLock;

/// The unprivileged user behind every server and every run of the product.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Person {
    /// User and group to become; `None` when the tests already run unprivileged.
    become_ids: Option<(u32, u32)>,
}

impl Person {
    /// Whoever runs the tests, or `postgres`, or `nobody` when that is root.
    pub fn unprivileged() -> Person {
        static PERSON: OnceLock<Person> = OnceLock::new();
        *PERSON.get_or_init(|| {
            let root = rustix::process::geteuid().is_root();
            let ids = || ids_of("postgres").or_else(|| ids_of("nobody"));
            Person { become_ids: root.then(|| ids().expect("/etc/passwd names neither postgres nor nobody")) }
        })
    }

    /// A command run as this person in `home`, with nothing of the caller's environment but what is named here: a
    /// `PGHOST` of the developer's must not decide what is tested.
    pub fn command(self, program: &Path, home: &Path) -> Command {
        let mut command = Command::new(program);
        command.env_clear().env("HOME", home).current_dir(home).stdin(Stdio::null());
        command.env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
        command.envs([("LC_ALL", "C"), ("TZ", "UTC"), ("NO_COLOR", "1"), ("RUST_BACKTRACE", "1")]);
        command.envs(std::env::var_os("RUST_LOG").map(|level| ("RUST_LOG", level)));
        if let Some((user, group)) = self.become_ids {
            // The standard library drops root's supplementary groups along with the user.
            command.uid(user).gid(group);
        }
        command
    }

    /// Makes `path` this person's own.
    pub fn own(self, path: &Path) {
        if let Some((user, group)) = self.become_ids {
            chown(path, Some(user), Some(group))
                .unwrap_or_else(|error| panic!("give {} away: {error}", path.display()));
        }
    }

    /// User and group as `mount` options.
    pub fn mount_options(self) -> String {
        self.become_ids.map_or_else(String::new, |(user, group)| format!(",uid={user},gid={group}"))
    }
}

fn ids_of(name: &str) -> Option<(u32, u32)> {
    let users = fs::read_to_string("/etc/passwd").ok()?;
    let fields: Vec<&str> = users
        .lines()
        .map(|line| line.split(':'))
        .find_map(|mut fields| (fields.next() == Some(name)).then(|| fields.collect()))?;
    Some((fields.get(1)?.parse().ok()?, fields.get(2)?.parse().ok()?))
}
