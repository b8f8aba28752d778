//! The keys of backups: made by whoever takes the backup, stored for the recipients.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use store::{Entry, Key};
use zeroize::{Zeroize, Zeroizing};

use super::seal::{self, RawKey, frame_context};
use super::{FrameSealer, Opened, Opener, Sealer, encrypt, open};
use crate::codec::{self, FrameError};
use crate::pack::{Frame, PackName};
use crate::{BackupId, Cluster, Error, Record, document};

/// What a key is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Purpose {
    /// The frames of a backup's packs.
    Frames,
    /// Its list and its maps.
    Documents,
}

impl Purpose {
    /// Both.
    pub const ALL: [Purpose; 2] = [Purpose::Documents, Purpose::Frames];

    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Purpose::Frames => "frames",
            Purpose::Documents => "documents",
        }
    }
}

impl fmt::Display for Purpose {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What opens the list and maps of one backup, and whose they are.
pub(crate) type LastOpener = Arc<tokio::sync::Mutex<Option<(BackupId, Arc<Opener>)>>>;

/// What is in a key file.
#[derive(Serialize, Deserialize)]
struct KeyDocument {
    backup: BackupId,
    purpose: Purpose,
    /// In hexadecimal.
    key: String,
}

impl Drop for KeyDocument {
    fn drop(&mut self) {
        self.key.zeroize();
    }
}

/// The keys of a backup that is being taken.
#[derive(Debug)]
pub struct BackupKeys {
    /// For its frames.
    pub frames: Arc<FrameSealer>,
    pub(crate) documents: Sealer,
    /// Of the recipients, as [`Recipients::fingerprint`](super::Recipients::fingerprint) has it.
    pub encrypted_to: String,
}

/// The keys with which a backup's frames are read: of every backup that wrote one of its packs encrypted.
#[derive(Debug)]
pub struct FrameKeys(HashMap<BackupId, Opener>);

impl FrameKeys {
    /// The plain bytes of a frame as it lies in a pack, once its checksum has been found right.
    pub fn decode(&self, pack: &PackName, frame: &Frame, stored: &[u8]) -> Result<Vec<u8>, FrameError> {
        let plain_len = usize::try_from(frame.plain).unwrap_or(usize::MAX);
        let Some(opener) = self.0.get(&pack.backup) else {
            return codec::decompress(stored, plain_len, &frame.checksum);
        };
        codec::check(stored, &frame.checksum)?;
        let compressed = opener.open(&frame_context(&pack.backup), stored).ok_or(FrameError::Decrypt)?;
        codec::decompress_plain(&compressed, plain_len)
    }
}

impl Cluster {
    /// Whether what is written here is encrypted.
    pub fn is_encrypted(&self) -> bool {
        !self.access.recipients.is_empty()
    }

    /// What names the recipients in records; `None` where nothing is encrypted.
    pub fn encrypted_to(&self) -> Option<String> {
        self.access.recipients.fingerprint()
    }

    /// Whether the process has an identity to read with, whether it fits or not.
    pub fn has_identity(&self) -> bool {
        !self.access.keys.identities.is_empty()
    }

    /// Makes the keys of a backup that begins and stores them durably, before anything is encrypted with them. `None` where
    /// nothing is encrypted.
    pub async fn make_backup_keys(&self, id: &BackupId) -> Result<Option<Arc<BackupKeys>>, Error> {
        let Some(encrypted_to) = self.encrypted_to() else { return Ok(None) };
        let random = || seal::random_key().map_err(|source| failed("a key", source));
        let (documents, frames) = (random()?, random()?);
        self.put_key(id, Purpose::Documents, 1, &documents).await?;
        self.put_key(id, Purpose::Frames, 1, &frames).await?;
        let sealers =
            Sealer::new(&documents).and_then(|documents| Ok((documents, FrameSealer::new(&frames, id)?)));
        let (documents, frames) = sealers.map_err(|source| failed("a key", source))?;
        Ok(Some(Arc::new(BackupKeys { frames: Arc::new(frames), documents, encrypted_to })))
    }

    async fn put_key(&self, id: &BackupId, purpose: Purpose, number: u32, key: &RawKey) -> Result<(), Error> {
        let object_key = self.layout.key(id, purpose, number)?;
        let document = KeyDocument { backup: id.clone(), purpose, key: hex::encode(key.as_slice()) };
        let plain = Zeroizing::new(document::seal("key", &document)?);
        // The service reads lists and maps, and no content.
        let service = match purpose {
            Purpose::Documents => self.access.keys.service.recipients(),
            Purpose::Frames => Vec::new(),
        };
        let object = encrypt(&self.access.recipients, &service, None, &[plain.as_slice()])
            .map_err(|source| failed(object_key.as_str(), source))?;
        Ok(self.store.create(&object_key, object.into()).await?)
    }

    /// Opens the keys of every encrypted pack of a backup: whoever cannot read it finds out before anything is written.
    pub async fn frame_keys(&self, record: &Record) -> Result<FrameKeys, Error> {
        let mut keys = HashMap::new();
        for pack in record.packs.iter().filter(|pack| pack.encrypted_to.is_some()) {
            let writer = &pack.pack.backup;
            if !keys.contains_key(writer) {
                let raw = self.open_key(writer, Purpose::Frames, &record.id).await?;
                keys.insert(writer.clone(), opener(&raw)?);
            }
        }
        Ok(FrameKeys(keys))
    }

    /// The plain bytes of a list or map of a backup.
    pub(crate) async fn open_document(
        &self,
        record: &Record,
        key: &Key,
        stored: bytes::Bytes,
    ) -> Result<bytes::Bytes, Error> {
        if record.encrypted_to.is_none() {
            return Ok(stored);
        }
        let opener = self.documents_opener(record).await?;
        let plain = opener.open(&self.layout.context(key), &stored);
        plain.map(Into::into).ok_or_else(|| Error::damaged(key, "it does not decrypt"))
    }

    /// The last one is kept, as a backup's maps are read one after the other.
    async fn documents_opener(&self, record: &Record) -> Result<Arc<Opener>, Error> {
        let mut kept = self.documents.lock().await;
        if let Some((id, opener)) = kept.as_ref()
            && *id == record.id
        {
            return Ok(opener.clone());
        }
        let raw = self.open_key(&record.id, Purpose::Documents, &record.id).await?;
        let opener = Arc::new(opener(&raw)?);
        *kept = Some((record.id.clone(), opener.clone()));
        Ok(opener)
    }

    async fn open_key(&self, id: &BackupId, purpose: Purpose, needed_by: &BackupId) -> Result<RawKey, Error> {
        let identities = match purpose {
            Purpose::Documents => self.access.keys.identities.and(&self.access.keys.service),
            Purpose::Frames => self.access.keys.identities.clone(),
        };
        let first = self.layout.key(id, purpose, 1)?;
        if identities.is_empty() {
            return Err(Error::NoIdentity { key: first.to_string() });
        }
        // Whoever became a recipient later has a key file of a higher number.
        let mut numbers = self.key_numbers(id, purpose).await?;
        if numbers.is_empty() {
            numbers.push(1);
        }
        let mut damage = None;
        for number in numbers {
            let key = self.layout.key(id, purpose, number)?;
            let object = self.store.read(&key, None).await;
            let object =
                object.map_err(|error| Error::from(error).needed_by(format!("backup {needed_by}")))?;
            match open(&object, &identities) {
                Opened::Plain(plain) => return read_key(&key, Zeroizing::new(plain), id, purpose),
                Opened::Damaged(reason) => damage = Some(Error::damaged(&key, reason)),
                Opened::NotForUs => {}
            }
        }
        Err(damage.unwrap_or(Error::WrongIdentity { key: first.to_string() }))
    }

    async fn key_numbers(&self, id: &BackupId, purpose: Purpose) -> Result<Vec<u32>, Error> {
        let directory = self.layout.keys(id)?;
        let entries = self.store.list(&directory).await?;
        let mut numbers: Vec<u32> = entries
            .iter()
            .filter(|entry| matches!(entry, Entry::Object { .. }))
            .filter_map(|entry| crate::layout::key_number(entry.name(), purpose))
            .collect();
        numbers.sort_unstable();
        Ok(numbers)
    }

    /// Stores the keys of a backup once more, for the recipients there are now; gives how many were stored. The identities
    /// of this process must open them.
    pub async fn rewrap(&self, id: &BackupId) -> Result<u32, Error> {
        let mut stored = 0;
        for purpose in Purpose::ALL {
            let Some(last) = self.key_numbers(id, purpose).await?.pop() else { continue };
            let raw = self.open_key(id, purpose, id).await?;
            self.put_key(id, purpose, last.saturating_add(1), &raw).await?;
            stored += 1;
        }
        Ok(stored)
    }
}

fn read_key(key: &Key, plain: Zeroizing<Vec<u8>>, id: &BackupId, purpose: Purpose) -> Result<RawKey, Error> {
    let document: KeyDocument = document::open("key", key, &plain)?;
    if (&document.backup, document.purpose) != (id, purpose) {
        let reason = format!("it is the key of the {} of backup {}", document.purpose, document.backup);
        return Err(Error::damaged(key, reason));
    }
    let mut raw = Zeroizing::new([0; seal::KEY_BYTES]);
    hex::decode_to_slice(&document.key, raw.as_mut_slice())
        .map_err(|_not_hexadecimal| Error::damaged(key, "it holds no key of 256 bits"))?;
    Ok(raw)
}

fn opener(raw: &RawKey) -> Result<Opener, Error> {
    Opener::new(raw).map_err(|source| failed("a key", source))
}

fn failed(key: &str, source: std::io::Error) -> Error {
    store::Error::Unavailable { action: "encrypt", key: key.to_owned(), source }.into()
}
