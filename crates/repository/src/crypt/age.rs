//! age files: who they are for, what is in them, and a label that is read without opening them.

use std::cell::RefCell;
use std::collections::HashSet;
use std::io::{self, Read, Write};

use ::age::{DecryptError, Decryptor, EncryptError, Encryptor};
use age_core::format::{FileKey, Stanza};
use pgformat::{Lsn, TimelineId};

use super::{Identities, Recipient, Recipients};
use crate::codec::Checksum;

/// How every age file begins.
const MAGIC: &[u8] = b"age-encryption.org/";
/// Our stanza among those of the recipients. Other readers of age ignore stanzas they do not know.
const LABEL_TAG: &str = "drydock.wal";
/// The payload is a nonce and then chunks of 64 KiB, each with a tag.
const NONCE_BYTES: u64 = 16;
const CHUNK_BYTES: u64 = 64 << 10;
const TAG_BYTES: u64 = 16;

/// Whether these bytes begin an age file.
pub(crate) fn is_age(bytes: &[u8]) -> bool {
    bytes.starts_with(MAGIC)
}

/// What the label of a WAL object is made of.
#[derive(Debug, Clone)]
pub(crate) struct WalLabel<'a> {
    pub(crate) repository_id: &'a str,
    pub(crate) timeline: TimelineId,
    pub(crate) from: Lsn,
    pub(crate) to: Lsn,
    /// Of the plain WAL.
    pub(crate) sha256: Checksum,
}

impl WalLabel<'_> {
    /// Equal for equal WAL in the same place of the same repository, and not to be turned back into it.
    pub(crate) fn sum(&self) -> Checksum {
        let WalLabel { repository_id, timeline, from, to, sha256 } = self;
        Checksum::of(
            format!("drydock.wal {repository_id} {} {from} {to} {sha256}", timeline.get()).as_bytes(),
        )
    }
}

/// What stands in the head of an encrypted WAL object for whoever cannot open it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Label {
    /// See [`WalLabel::sum`].
    pub(crate) sum: Checksum,
    /// As in the header inside.
    pub(crate) durable: Lsn,
    /// Bytes that are encrypted, so that a truncated object is seen to be one.
    pub(crate) plain_bytes: u64,
}

/// A label, and the size that the whole object must have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Labelled {
    pub(crate) label: Label,
    pub(crate) object_bytes: u64,
}

impl Label {
    fn stanza(&self) -> Stanza {
        let Label { sum, durable, plain_bytes } = self;
        let args = vec![sum.to_string(), durable.to_string(), plain_bytes.to_string()];
        Stanza { tag: LABEL_TAG.to_owned(), args, body: Vec::new() }
    }

    fn read(stanza: &Stanza) -> Option<Label> {
        let [sum, durable, plain_bytes] = stanza.args.as_slice() else { return None };
        let ours = stanza.tag == LABEL_TAG && stanza.body.is_empty();
        ours.then_some(Label {
            sum: sum.parse().ok()?,
            durable: durable.parse().ok()?,
            plain_bytes: plain_bytes.parse().ok()?,
        })
    }
}

/// Puts a label beside the recipients.
impl ::age::Recipient for Label {
    fn wrap_file_key(&self, _file_key: &FileKey) -> Result<(Vec<Stanza>, HashSet<String>), EncryptError> {
        Ok((vec![self.stanza()], HashSet::new()))
    }
}

/// Opens nothing, and notes the label.
struct Reading(RefCell<Option<Label>>);

impl ::age::Identity for Reading {
    fn unwrap_stanza(&self, stanza: &Stanza) -> Option<Result<FileKey, DecryptError>> {
        let label = Label::read(stanza);
        if label.is_some() {
            *self.0.borrow_mut() = label;
        }
        None
    }
}

/// An age file to these recipients, and to `besides`.
pub(crate) fn encrypt(
    recipients: &Recipients,
    besides: &[Recipient],
    label: Option<&Label>,
    plain: &[&[u8]],
) -> io::Result<Vec<u8>> {
    let to = recipients.iter().chain(besides).map(|recipient| &recipient.0 as &dyn ::age::Recipient);
    let label = label.map(|label| label as &dyn ::age::Recipient);
    let encryptor = Encryptor::with_recipients(to.chain(label))
        .map_err(|_untranslated| io::Error::other("age does not take these recipients"))?;
    let len: usize = plain.iter().map(|part| part.len()).sum();
    let object = Vec::with_capacity(len + len / 4096 + (1 << 10));
    let mut writer = encryptor.wrap_output(object)?;
    for part in plain {
        writer.write_all(part)?;
    }
    writer.finish()
}

/// What came of opening an age file.
#[derive(Debug)]
pub(crate) enum Opened {
    /// What was in it.
    Plain(Vec<u8>),
    /// None of the identities fits.
    NotForUs,
    /// It is not as it was written.
    Damaged(String),
}

/// All that is in an age file.
pub(crate) fn open(object: &[u8], identities: &Identities) -> Opened {
    read(object, identities, u64::MAX)
}

/// The first `wanted` bytes in an age file of which `start` is the start; fewer where `start` holds fewer.
pub(crate) fn open_start(start: &[u8], identities: &Identities, wanted: u64) -> Opened {
    read(start, identities, wanted)
}

fn read(object: &[u8], identities: &Identities, wanted: u64) -> Opened {
    let identities = identities.0.iter().map(|identity| identity as &dyn ::age::Identity);
    let reader = Decryptor::new_buffered(object).and_then(|decryptor| decryptor.decrypt(identities));
    let mut reader = match reader {
        Ok(reader) => reader.take(wanted),
        Err(DecryptError::NoMatchingKeys) => return Opened::NotForUs,
        Err(error) => return Opened::Damaged(reason(&error).to_owned()),
    };
    let mut plain = Vec::with_capacity(object.len().min(usize::try_from(wanted).unwrap_or(usize::MAX)));
    match reader.read_to_end(&mut plain) {
        // Of a start, the last chunk is cut off.
        Err(error) if wanted == u64::MAX || plain.is_empty() => {
            Opened::Damaged(format!("it does not decrypt: {error}"))
        }
        _ => Opened::Plain(plain),
    }
}

/// What is wrong, in our words. age's own are translated, and the tables for that lie beside its source in a debug build:
/// where they cannot be read, printing the error panics.
fn reason(error: &DecryptError) -> &'static str {
    match error {
        DecryptError::InvalidMac => "the head of the age file is not as it was written",
        DecryptError::InvalidHeader => "it has no head of an age file",
        DecryptError::UnknownFormat => "it is an age file of an unknown version",
        _ => "it does not decrypt",
    }
}

/// The label of a WAL object of which `start` is the start; the error says what is wrong.
pub(crate) fn label(start: &[u8]) -> Result<Labelled, String> {
    let mut rest = start;
    let decryptor = Decryptor::new_buffered(&mut rest).map_err(|error| reason(&error).to_owned())?;
    let reading = Reading(RefCell::new(None));
    // It always fails, as this opens nothing.
    drop(decryptor.decrypt(std::iter::once(&reading as &dyn ::age::Identity)).err());
    let label = reading.0.into_inner().ok_or("its head has no label of ours")?;
    let head_bytes = (start.len() - rest.len()) as u64 - NONCE_BYTES;
    let chunks = label.plain_bytes.div_ceil(CHUNK_BYTES).max(1);
    let payload = chunks.saturating_mul(TAG_BYTES).saturating_add(label.plain_bytes);
    Ok(Labelled { label, object_bytes: payload.saturating_add(head_bytes + NONCE_BYTES) })
}
