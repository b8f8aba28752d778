//! To whom things are encrypted, and where identities come from.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use engine::fetch::IdentitySource;
use repository::crypt::{IDENTITY_BYTES_MAX, Identities, Keys, Recipient, Recipients};
use zeroize::Zeroizing;

use super::setting;
use super::{Error, Resolver};

/// How long a command may take to print an identity: it may ask a service on the network, and recovery waits for it.
const COMMAND_WITHIN: Duration = Duration::from_secs(60);
const POLL_EVERY: Duration = Duration::from_millis(10);

/// What the configuration says of encryption. References only: nothing secret is read before it is needed.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Encryption {
    /// The recipients that the repository must have.
    pub recipients: Option<Recipients>,
    /// What reads everything.
    pub identity: Option<IdentitySource>,
    /// What reads lists and maps.
    pub service_identity: Option<PathBuf>,
}

impl Resolver<'_> {
    pub(super) fn encryption(&self) -> Result<Encryption, Error> {
        let file = self.sources.get(&setting::IDENTITY_FILE)?;
        let command = self.sources.get(&setting::IDENTITY_COMMAND)?;
        let identity = match (file, command) {
            (Some(file), Some(command)) => {
                return Err(Error(format!(
                    "both {} and {} are set: expected one of them",
                    file.origin, command.origin
                )));
            }
            (Some(file), None) => Some(IdentitySource::File(PathBuf::from(file.text))),
            (None, command) => command.map(|command| IdentitySource::Command(command.text)),
        };
        Ok(Encryption {
            recipients: self.parse(&setting::RECIPIENTS, RECIPIENTS_EXPECTED, recipients)?,
            identity,
            service_identity: self.path(&setting::SERVICE_IDENTITY_FILE)?,
        })
    }
}

const RECIPIENTS_EXPECTED: &str = "age recipients (age1…) with commas between";

fn recipients(text: &str) -> Option<Recipients> {
    let each = text.split(',').map(|one| one.trim().parse().ok());
    let all: Vec<Recipient> = each.collect::<Option<_>>()?;
    Recipients::new(all).ok()
}

impl Encryption {
    /// Reads the identities that are configured.
    pub fn keys(&self) -> Result<Keys, Error> {
        let identities = self.identity.as_ref().map(read).transpose()?.unwrap_or_default();
        let service = self.service_identity.as_deref().map(read_file).transpose()?.unwrap_or_default();
        Ok(Keys { identities, service })
    }
}

fn read(source: &IdentitySource) -> Result<Identities, Error> {
    match source {
        IdentitySource::File(path) => read_file(path),
        IdentitySource::Command(command) => read_command(command),
    }
}

/// Whoever reads the file reads the database, so nobody else may, as with a password file.
fn read_file(path: &Path) -> Result<Identities, Error> {
    let wrong = |what: &str| Error(format!("the identity file {} cannot be used: {what}", path.display()));
    let unusable = |error: std::io::Error| wrong(&error.to_string());
    // One handle for looking and reading, so that nobody exchanges the file in between.
    let file = File::open(path).map_err(unusable)?;
    let metadata = file.metadata().map_err(unusable)?;
    if !metadata.is_file() {
        return Err(wrong("it is not a plain file"));
    }
    if metadata.permissions().mode() & 0o077 != 0 {
        return Err(wrong("others can read it; its permissions should be u=rw (0600) or less"));
    }
    if metadata.len() > IDENTITY_BYTES_MAX as u64 {
        return Err(wrong("it is larger than 64 KiB"));
    }
    let mut text = Zeroizing::new(String::new());
    file.take(IDENTITY_BYTES_MAX as u64).read_to_string(&mut text).map_err(unusable)?;
    Identities::parse(&text).map_err(|reason| wrong(&reason))
}

fn read_command(command: &str) -> Result<Identities, Error> {
    let wrong = |what: String| Error(format!("the identity command `{command}` cannot be used: {what}"));
    let deadline = Instant::now() + COMMAND_WITHIN;
    let mut shell = Command::new("/bin/sh");
    shell.args(["-c", command]).stdin(Stdio::null()).stdout(Stdio::piped());
    let mut child = shell.spawn().map_err(|error| wrong(error.to_string()))?;
    let stdout = child.stdout.take();
    let (sender, receiver) = mpsc::channel();
    // A reader of its own, as a command that hangs must not hang us.
    std::thread::spawn(move || {
        let mut text = Zeroizing::new(String::new());
        let limit = IDENTITY_BYTES_MAX as u64;
        let read = stdout.map(|stdout| stdout.take(limit).read_to_string(&mut text)).transpose();
        // Nobody listens any more once time is up.
        drop(sender.send(read.map(|_bytes| text)));
    });
    let text = receiver.recv_timeout(COMMAND_WITHIN).ok();
    let status = loop {
        match child.try_wait().map_err(|error| wrong(error.to_string()))? {
            Some(status) => break status,
            None if Instant::now() >= deadline => {
                drop(child.kill());
                drop(child.wait());
                return Err(wrong(format!("it did not end within {} s", COMMAND_WITHIN.as_secs())));
            }
            None => std::thread::sleep(POLL_EVERY),
        }
    };
    if !status.success() {
        return Err(wrong(format!("it ended with {status}")));
    }
    let text = text.ok_or_else(|| wrong("it keeps its output open".to_owned()))?;
    let text = text.map_err(|error| wrong(error.to_string()))?;
    Identities::parse(&text).map_err(|reason| wrong(format!("of what it prints, {reason}")))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn private(text: &str, mode: u32) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), text).unwrap();
        fs::set_permissions(file.path(), fs::Permissions::from_mode(mode)).unwrap();
        file
    }

    #[test]
    fn identities_come_from_a_file_that_nobody_else_reads() {
        let identity = Identities::generate();
        let text = format!("# a comment\n\n{}\n", &*identity.secret_text());
        let file = private(&text, 0o600);
        assert_eq!(read_file(file.path()).unwrap().recipients(), identity.recipients());
        for (text, mode, said) in [
            (text.as_str(), 0o640, "others can read it"),
            (text.as_str(), 0o604, "others can read it"),
            ("# nothing\n", 0o600, "there is no identity in it"),
            ("hunter2\n", 0o600, "line 1 is not an age identity"),
        ] {
            let error = read_file(private(text, mode).path()).unwrap_err().to_string();
            assert!(error.contains(said) && !error.contains("hunter2"), "{error}");
        }
        assert!(read_file(Path::new("/nowhere")).unwrap_err().to_string().contains("/nowhere"));
    }

    #[test]
    fn identities_come_from_a_command() {
        let identity = Identities::generate();
        let file = private(&identity.secret_text(), 0o600);
        let read = read_command(&format!("cat {}", file.path().display())).unwrap();
        assert_eq!(read.recipients(), identity.recipients());
        for (command, said) in
            [("exit 3", "exit status: 3"), ("true", "there is no identity"), ("echo x", "line 1")]
        {
            let error = read_command(command).unwrap_err().to_string();
            assert!(error.contains(said), "{error}");
        }
    }

    #[test]
    fn recipients_are_a_list() {
        let (one, two) = (Identities::generate().recipients(), Identities::generate().recipients());
        let found = recipients(&format!("{}, {}", one[0], two[0])).unwrap();
        assert_eq!(found, Recipients::new([two[0].clone(), one[0].clone()]).unwrap());
        assert_eq!(recipients("age1nonsense"), None);
        assert_eq!(
            recipients(&Identities::generate().secret_text()),
            None,
            "an identity is not for a list of recipients"
        );
    }
}
