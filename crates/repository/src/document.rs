//! Documents: JSON objects that carry their format, their kind and a checksum of themselves.
//!
//! The last member is `"sha256"`, alone on the last line but one. It covers every byte before its line, so that a
//! script can check it without a canonical form of JSON (PostgreSQL's backup_manifest does the same).

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use store::Key;

use crate::Error;

/// The version of everything we write.
pub const FORMAT: u32 = 1;

const CHECKSUM_LINE: &str = "\n  \"sha256\": \"";

#[derive(Serialize)]
struct Sealed<'a, T> {
    format: u32,
    kind: &'a str,
    #[serde(flatten)]
    value: &'a T,
}

#[derive(Deserialize)]
struct Head {
    format: u64,
    kind: Option<String>,
}

/// The bytes of a document of this kind.
pub(crate) fn seal<T: Serialize>(kind: &'static str, value: &T) -> Result<Vec<u8>, Error> {
    let mut text = serde_json::to_string_pretty(&Sealed { format: FORMAT, kind, value })
        .map_err(|source| Error::Encode { what: kind, source })?;
    // There are members, so the text ends in a line of its own for the closing brace.
    text.truncate(text.len() - "\n}".len());
    text.push_str(",\n");
    let checksum = hex::encode(Sha256::digest(&text));
    text.push_str(&format!("{}{checksum}\"\n}}\n", &CHECKSUM_LINE[1..]));
    Ok(text.into_bytes())
}

/// The value of a document, once its checksum, format and kind have been found right.
pub(crate) fn open<T: DeserializeOwned>(kind: &'static str, key: &Key, bytes: &[u8]) -> Result<T, Error> {
    let text = std::str::from_utf8(bytes).map_err(|_not_text| Error::damaged(key, "it is not text"))?;
    let intact = checksum_holds(text);
    let head: Option<Head> = serde_json::from_str(text).ok();
    match (&head, intact) {
        // A later format may seal its documents in another way, so the format speaks first where it can be read.
        (Some(head), Some(true) | None) if head.format != u64::from(FORMAT) => {
            return Err(Error::UnknownFormat { key: key.to_string(), found: head.format });
        }
        (Some(head), Some(true)) if head.kind.as_deref() == Some(kind) => {}
        (Some(_), Some(true)) => {
            return Err(Error::damaged(key, format!("it is not a document of kind {kind}")));
        }
        _ => return Err(Error::damaged(key, "its checksum does not hold")),
    }
    serde_json::from_str(text).map_err(|error| Error::damaged(key, format!("it cannot be read: {error}")))
}

/// `None` when there is no checksum at all.
fn checksum_holds(text: &str) -> Option<bool> {
    let line = text.rfind(CHECKSUM_LINE)?;
    let (covered, checksum) = (&text[..=line], &text[line + CHECKSUM_LINE.len()..]);
    Some(checksum == format!("{}\"\n}}\n", hex::encode(Sha256::digest(covered))))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Value {
        name: String,
        list: Vec<u32>,
        tree: std::collections::BTreeMap<String, String>,
    }

    fn key() -> Key {
        Key::new("a/document.json").unwrap()
    }

    fn value() -> Value {
        Value { name: "}\n\"sha256\": ".into(), list: vec![], tree: [("a".into(), "}".into())].into() }
    }

    #[test]
    fn a_flip_of_any_byte_is_found() {
        let bytes = seal("test", &value()).unwrap();
        for at in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[at] ^= 1;
            let error = open::<Value>("test", &key(), &damaged).unwrap_err();
            assert!(
                matches!(error, Error::Damaged { .. } | Error::UnknownFormat { .. }),
                "byte {at}: {error}"
            );
        }
    }

    #[test]
    fn another_format_is_refused_by_name() {
        let newer = br#"{"format": 7, "sealed": "otherwise"}"#;
        let error = open::<Value>("test", &key(), newer).unwrap_err();
        assert!(matches!(error, Error::UnknownFormat { found: 7, .. }), "{error}");
    }

    #[test]
    fn a_kind_is_not_taken_for_another() {
        let bytes = seal("test", &value()).unwrap();
        assert!(open::<Value>("other", &key(), &bytes).is_err());
    }

    proptest! {
        #[test]
        fn round_trips(name: String, list: Vec<u32>, tree: std::collections::BTreeMap<String, String>) {
            let value = Value { name, list, tree };
            prop_assert_eq!(open::<Value>("test", &key(), &seal("test", &value).unwrap()).unwrap(), value);
        }

        #[test]
        fn never_panics(bytes: Vec<u8>) {
            drop(open::<Value>("test", &key(), &bytes));
        }
    }
}
