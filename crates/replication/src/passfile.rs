//! The password file, `~/.pgpass`: which line answers for a connection.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use crate::config::{ConnectConfig, Host, Secret};

/// Password files larger than this are not read; libpq has no such limit, but nobody has such a file.
const PASSFILE_BYTES_MAX: u64 = 1 << 20;

/// The directories that libpq's builds take sockets from by default; for these the file's host is `localhost`.
const DEFAULT_SOCKET_DIRECTORIES: [&str; 2] = ["/tmp", "/var/run/postgresql"];

/// The password for this connection: the configured one, else the password file's.
///
/// A file that cannot be used is no error, as in libpq: the server may not ask for a password at all, and if it does
/// the refusal says what is missing.
pub(crate) fn password(config: &ConnectConfig, database: &str) -> Option<Secret> {
    if config.password.is_some() {
        return config.password.clone();
    }
    let path = config.passfile.as_deref()?;
    match read(path) {
        Ok(text) => lookup(&text, config, database),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => {
            tracing::warn!(passfile = %path.display(), %error, "the password file is ignored");
            None
        }
    }
}

fn read(path: &Path) -> io::Result<String> {
    let metadata = fs::metadata(path)?;
    if !metadata.is_file() {
        return Err(io::Error::other("it is not a plain file"));
    }
    if metadata.permissions().mode() & 0o077 != 0 {
        return Err(io::Error::other("others can read it; its permissions should be u=rw (0600) or less"));
    }
    if metadata.len() > PASSFILE_BYTES_MAX {
        return Err(io::Error::other("it is larger than 1 MiB"));
    }
    fs::read_to_string(path)
}

/// The password of the first line whose first four fields match.
fn lookup(text: &str, config: &ConnectConfig, database: &str) -> Option<Secret> {
    let port = config.port.to_string();
    text.lines().filter(|line| !line.starts_with('#')).find_map(|line| {
        let (host_field, rest) = field(line)?;
        let (port_field, rest) = field(rest)?;
        let (database_field, rest) = field(rest)?;
        let (user_field, password) = field(rest)?;
        let matches = host_matches(&host_field, &config.host)
            && port_field.matches(&port)
            && database_field.matches(database)
            && user_field.matches(&config.user);
        matches.then(|| Secret::new(unescape(password)))
    })
}

/// One of the first four fields: a wildcard or a text with its escapes undone.
enum Field {
    Any,
    Text(String),
}

impl Field {
    fn matches(&self, value: &str) -> bool {
        match self {
            Field::Any => true,
            Field::Text(text) => text == value,
        }
    }
}

/// Cuts a line at its first colon that no backslash escapes. Only a bare `*` is the wildcard; `\*` is a star.
fn field(line: &str) -> Option<(Field, &str)> {
    let mut escaped = false;
    let end = line.find(|c| {
        let ends = c == ':' && !escaped;
        escaped = c == '\\' && !escaped;
        ends
    })?;
    let (raw, rest) = (line.get(..end)?, line.get(end + 1..)?);
    let field = if raw == "*" { Field::Any } else { Field::Text(unescape(raw)) };
    Some((field, rest))
}

/// Undoes `\:` and `\\`; the password ends at the first bare colon, as in libpq.
fn unescape(raw: &str) -> String {
    let mut text = String::with_capacity(raw.len());
    let mut characters = raw.chars();
    while let Some(character) = characters.next() {
        match character {
            '\\' => text.extend(characters.next()),
            ':' => break,
            other => text.push(other),
        }
    }
    text
}

fn host_matches(field: &Field, host: &Host) -> bool {
    match host {
        Host::Tcp(name) => field.matches(name),
        Host::Unix(directory) => {
            let is_default = DEFAULT_SOCKET_DIRECTORIES.iter().any(|default| Path::new(default) == directory);
            directory.to_str().is_some_and(|path| field.matches(path))
                || is_default && field.matches("localhost")
        }
        // Whoever hands us a stream can hand us a password.
        Host::Dialed(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn find(text: &str, host: &str) -> Option<String> {
        let config = ConnectConfig::new(host, "replicator");
        lookup(text, &config, "replication").map(|secret| secret.expose().to_owned())
    }

    #[test]
    fn the_first_matching_line_answers() {
        let text = "# db:5432:replication:replicator:comment\n\
                    other:5432:replication:replicator:a\n\
                    db:5433:replication:replicator:b\n\
                    db:*:postgres:replicator:c\n\
                    db:*:*:replicator:d\n\
                    *:*:*:*:e\n";
        assert_eq!(find(text, "db").as_deref(), Some("d"));
        assert_eq!(find(text, "elsewhere").as_deref(), Some("e"));
        assert_eq!(find("db:5432:replication\n", "db"), None);
    }

    #[test]
    fn escapes_are_undone() {
        assert_eq!(find(r"db:5432:replication:replicator:a\:b\\c", "db").as_deref(), Some(r"a:b\c"));
        assert_eq!(find(r"\:\:1:5432:replication:replicator:x", "::1").as_deref(), Some("x"));
        assert_eq!(find(r"\*:5432:replication:replicator:x", "db"), None);
    }

    #[test]
    fn a_default_socket_directory_is_localhost() {
        let text = "localhost:5432:replication:replicator:x\r\n";
        assert_eq!(find(text, "/tmp").as_deref(), Some("x"));
        assert_eq!(find(text, "/srv/sockets"), None);
        assert_eq!(find("/srv/sockets:*:*:*:y", "/srv/sockets").as_deref(), Some("y"));
    }

    #[test]
    fn a_file_that_others_can_read_is_ignored() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("pgpass");
        fs::write(&path, "*:*:*:*:x\n").unwrap();
        let mut config = ConnectConfig::new("db", "replicator");
        config.passfile = Some(path.clone());
        for (mode, expected) in [(0o600, true), (0o640, false), (0o604, false)] {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            assert_eq!(password(&config, "replication").is_some(), expected, "{mode:o}");
        }
    }

    proptest! {
        #[test]
        fn never_panics(text: String) {
            find(&text, "db");
        }
    }
}
