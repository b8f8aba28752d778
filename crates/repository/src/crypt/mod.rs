//! Encryption: to whom things are written, and who reads them.
//!
//! What holds content of the database, or names of its files, is encrypted in an encrypted repository; records, holes,
//! history files and what lies under `state/` stay plain, so that a service which can read nothing still lists, resumes and
//! removes. WAL objects are age files. A backup has two random keys, one for its frames and one for its
//! list and maps, which are stored as age files beside it; whoever takes the backup is the only one to hold them plain.

mod age;
mod keys;
mod seal;

use std::fmt;
use std::str::FromStr;

pub(crate) use self::age::{Label, Labelled, Opened, WalLabel, encrypt, is_age, label, open, open_start};
pub(crate) use self::keys::LastOpener;
pub use self::keys::{BackupKeys, FrameKeys, Purpose};
pub use self::seal::FrameSealer;
pub(crate) use self::seal::{Opener, Sealer};
use crate::Error;
use crate::codec::Checksum;

/// Recipients of a repository at most. Each adds a hundred bytes to the head of every object.
pub const RECIPIENTS_MAX: usize = 64;
/// Bytes of a file of identities at most; each has less than a hundred.
pub const IDENTITY_BYTES_MAX: usize = 64 << 10;

/// To whom something is encrypted: the public half of an age identity, `age1…`.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Recipient(::age::x25519::Recipient);

impl FromStr for Recipient {
    type Err = Error;

    fn from_str(text: &str) -> Result<Recipient, Error> {
        text.parse().map(Recipient).map_err(|_reason: &str| Error::NotARecipient(text.to_owned()))
    }
}

impl fmt::Display for Recipient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl fmt::Debug for Recipient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

/// To whom a repository is encrypted; nobody means that it is plain.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Recipients(Vec<Recipient>);

impl Recipients {
    /// Each once, in the order of their texts.
    pub fn new(recipients: impl IntoIterator<Item = Recipient>) -> Result<Recipients, Error> {
        let mut recipients: Vec<Recipient> = recipients.into_iter().collect();
        recipients.sort_by_key(ToString::to_string);
        recipients.dedup();
        if recipients.len() > RECIPIENTS_MAX {
            return Err(Error::TooManyRecipients);
        }
        Ok(Recipients(recipients))
    }

    /// Whether nobody is among them.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Each of them.
    pub fn iter(&self) -> impl Iterator<Item = &Recipient> {
        self.0.iter()
    }

    /// As text, one by one.
    pub fn texts(&self) -> Vec<String> {
        self.0.iter().map(ToString::to_string).collect()
    }

    /// What names this very list in records: the first 128 bits of the SHA-256 of the texts, a line each. `None` for nobody.
    pub fn fingerprint(&self) -> Option<String> {
        let lines: String = self.0.iter().map(|recipient| format!("{recipient}\n")).collect();
        (!self.is_empty()).then(|| hex::encode(&Checksum::of(lines.as_bytes()).0[..16]))
    }
}

/// Secret halves of age identities. Prints nothing of them.
#[derive(Clone, Default)]
pub struct Identities(Vec<::age::x25519::Identity>);

impl Identities {
    /// A new one.
    pub fn generate() -> Identities {
        Identities(vec![::age::x25519::Identity::generate()])
    }

    /// Reads an identity file: a line each, `#` begins a comment. The error says what is wrong and nothing of the content.
    pub fn parse(text: &str) -> Result<Identities, String> {
        let lines = (1usize..).zip(text.lines().map(str::trim));
        let lines = lines.filter(|(_, line)| !line.is_empty() && !line.starts_with('#'));
        let identity = |(number, line): (usize, &str)| {
            line.parse()
                .map_err(|_reason: &str| format!("line {number} is not an age identity (AGE-SECRET-KEY-1…)"))
        };
        let identities: Vec<_> = lines.map(identity).collect::<Result<_, String>>()?;
        if identities.is_empty() {
            Err("there is no identity in it".to_owned())
        } else {
            Ok(Identities(identities))
        }
    }

    /// As an identity file holds the first of them; its memory is cleared when dropped.
    pub fn secret_text(&self) -> zeroize::Zeroizing<String> {
        use ::age::secrecy::ExposeSecret;
        let text = self.0.first().map(|identity| identity.to_string().expose_secret().to_owned());
        zeroize::Zeroizing::new(text.unwrap_or_default())
    }

    /// The public halves.
    pub fn recipients(&self) -> Vec<Recipient> {
        self.0.iter().map(|identity| Recipient(identity.to_public())).collect()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn and(&self, others: &Identities) -> Identities {
        Identities(self.0.iter().chain(&others.0).cloned().collect())
    }
}

impl fmt::Debug for Identities {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} identities", self.0.len())
    }
}

/// What this process can read with.
#[derive(Debug, Clone, Default)]
pub struct Keys {
    /// Opens everything that is encrypted to it.
    pub identities: Identities,
    /// The service's own. Lists and maps of backups are encrypted to it, too, and nothing else is.
    pub service: Identities,
}

/// All that a cluster has to know of encryption.
#[derive(Debug, Default)]
pub(crate) struct Access {
    pub(crate) repository_id: String,
    pub(crate) recipients: Recipients,
    pub(crate) keys: Keys,
}

#[cfg(test)]
mod tests;
