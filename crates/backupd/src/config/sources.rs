//! Where values come from: the file, the environment, flags. Whoever asks for a setting gets its text and where it stood.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use super::setting::{self, Setting};
use super::{Error, ReadFile};

/// A value as it was found.
#[derive(Clone)]
pub(super) struct Value {
    pub text: String,
    pub origin: Origin,
    secret: bool,
    /// The file that a secret came from.
    pub file: Option<PathBuf>,
}

/// Where a value stood, as messages name it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Origin {
    Flag(&'static str),
    Variable(String),
    Key { key: String, path: PathBuf },
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::Flag(flag) => f.write_str(flag),
            Origin::Variable(name) => f.write_str(name),
            Origin::Key { key, path } => write!(f, "{key} in {}", path.display()),
        }
    }
}

impl Value {
    pub fn flag(flag: &'static str, text: &str) -> Value {
        Value { text: text.to_owned(), origin: Origin::Flag(flag), secret: false, file: None }
    }

    /// The error that this value is not what is expected.
    pub fn unexpected(&self, expected: &str) -> Error {
        if self.secret {
            return Error(format!("{} is not as it should be: expected {expected}", self.origin));
        }
        Error(format!("{} is \"{}\": expected {expected}", self.origin, self.text))
    }
}

/// The file and the environment.
pub(super) struct Sources<'a> {
    file: BTreeMap<String, String>,
    path: PathBuf,
    environment: &'a BTreeMap<String, String>,
    read: ReadFile,
}

impl<'a> Sources<'a> {
    pub fn new(
        file: Option<(&Path, &str)>,
        environment: &'a BTreeMap<String, String>,
        read: ReadFile,
    ) -> Result<Sources<'a>, Error> {
        let path = file.map_or_else(PathBuf::new, |(path, _)| path.to_owned());
        let file = file.map(|(path, text)| read_toml(path, text)).transpose()?.unwrap_or_default();
        Ok(Sources { file, path, environment, read })
    }

    /// The setting's value, if it is set anywhere.
    pub fn get(&self, setting: &Setting) -> Result<Option<Value>, Error> {
        for variable in setting.variables {
            let found = self.either(
                self.variable(variable, setting.secret),
                setting.secret.then(|| self.variable(&format!("{variable}_FILE"), false)).flatten(),
            )?;
            if found.is_some() {
                return Ok(found);
            }
        }
        self.either(
            self.key(setting.key, setting.secret),
            setting.secret.then(|| self.key(&format!("{}_file", setting.key), false)).flatten(),
        )
    }

    /// By key, a hash of each value that is set.
    pub fn fingerprints(&self) -> Result<BTreeMap<&'static str, [u8; 32]>, Error> {
        let mut found = BTreeMap::new();
        for setting in setting::ALL {
            if let Some(value) = self.get(setting)? {
                found.insert(setting.key, Sha256::digest(&value.text).into());
            }
        }
        Ok(found)
    }

    fn variable(&self, name: &str, secret: bool) -> Option<Value> {
        // Compose files and manifests set variables to nothing to unset them.
        let text = self.environment.get(name).filter(|text| !text.is_empty())?.clone();
        Some(Value { text, origin: Origin::Variable(name.to_owned()), secret, file: None })
    }

    fn key(&self, key: &str, secret: bool) -> Option<Value> {
        let text = self.file.get(key)?.clone();
        let origin = Origin::Key { key: key.to_owned(), path: self.path.clone() };
        Some(Value { text, origin, secret, file: None })
    }

    /// The secret itself, or what is in the file that is to hold it.
    fn either(&self, plain: Option<Value>, file: Option<Value>) -> Result<Option<Value>, Error> {
        match (plain, file) {
            (Some(plain), Some(file)) => {
                Err(Error(format!("both {} and {} are set: expected one of them", plain.origin, file.origin)))
            }
            (None, Some(file)) => {
                let read = (self.read)(Path::new(&file.text)).map_err(|error| {
                    Error(format!("{} names {}, which cannot be read: {error}", file.origin, file.text))
                })?;
                // Editors and `echo` end a file with a line break that nobody means.
                let text = read.strip_suffix('\n').unwrap_or(&read);
                let text = text.strip_suffix('\r').unwrap_or(text).to_owned();
                Ok(Some(Value { text, origin: file.origin, secret: true, file: Some(file.text.into()) }))
            }
            (plain, None) => Ok(plain),
        }
    }
}

/// The file's values by their dotted keys.
fn read_toml(path: &Path, text: &str) -> Result<BTreeMap<String, String>, Error> {
    let table: toml::Table = text.parse().map_err(|error: toml::de::Error| {
        let line = error.span().map_or(1, |span| text[..span.start.min(text.len())].lines().count().max(1));
        Error(format!("{}, line {line}: {}", path.display(), error.message()))
    })?;
    let mut values = BTreeMap::new();
    flatten("", &toml::Value::Table(table), path, &mut values)?;
    Ok(values)
}

fn flatten(
    key: &str,
    value: &toml::Value,
    path: &Path,
    values: &mut BTreeMap<String, String>,
) -> Result<(), Error> {
    let sections =
        || setting::ALL.iter().filter_map(|setting| setting.key.split_once('.')).map(|(section, _)| section);
    let text = match value {
        toml::Value::Table(table) if key.is_empty() || sections().any(|section| section == key) => {
            for (name, value) in table {
                let key = if key.is_empty() { name.clone() } else { format!("{key}.{name}") };
                flatten(&key, value, path, values)?;
            }
            return Ok(());
        }
        _ if !is_known(key) => return Err(Error(unknown_key(path, key))),
        toml::Value::String(text) => text.clone(),
        toml::Value::Integer(number) => number.to_string(),
        toml::Value::Float(number) => number.to_string(),
        toml::Value::Boolean(truth) => truth.to_string(),
        toml::Value::Datetime(_) | toml::Value::Array(_) | toml::Value::Table(_) => {
            let found = value.type_str();
            return Err(Error(format!(
                "{key} in {} is a {found}: expected a text, a number, true or false",
                path.display()
            )));
        }
    };
    values.insert(key.to_owned(), text);
    Ok(())
}

fn known_keys() -> impl Iterator<Item = String> {
    setting::ALL.iter().flat_map(|setting| {
        [Some(setting.key.to_owned()), setting.secret.then(|| format!("{}_file", setting.key))]
            .into_iter()
            .flatten()
    })
}

fn is_known(key: &str) -> bool {
    known_keys().any(|known| known == key)
}

/// The sentence about a key that is not one, with the key that was probably meant.
fn unknown_key(path: &Path, key: &str) -> String {
    let last = |key: &str| key.rsplit('.').next().unwrap_or(key).to_owned();
    // A key in the wrong section is as likely as one that is misspelt.
    let distance_to = |known: &String| distance(key, known).min(distance(&last(key), &last(known)) + 1);
    let nearest = known_keys().min_by_key(distance_to).unwrap_or_default();
    let close = distance_to(&nearest) * 2 <= key.chars().count();
    let advice = if close {
        format!("did you mean \"{nearest}\"?")
    } else {
        format!("the keys are {}", known_keys().collect::<Vec<_>>().join(", "))
    };
    format!("{} has an unknown key \"{key}\"; {advice}", path.display())
}

/// Characters to change, add or remove to make one word of the other.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, to) in b.iter().enumerate() {
            let substituted = diagonal + usize::from(from != *to);
            diagonal = row[j + 1];
            row[j + 1] = substituted.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distances() {
        for (a, b, expected) in
            [("", "", 0), ("host", "host", 0), ("hosst", "host", 1), ("", "abc", 3), ("ab", "ba", 2)]
        {
            assert_eq!(distance(a, b), expected, "{a} {b}");
        }
    }

    #[test]
    fn the_key_that_was_meant_is_named() {
        let said = |key| unknown_key(Path::new("/etc/x"), key);
        assert_eq!(
            said("server.hosst"),
            "/etc/x has an unknown key \"server.hosst\"; did you mean \"server.host\"?"
        );
        assert!(said("host").contains("did you mean \"server.host\"?"), "{}", said("host"));
        assert!(said("repositry").contains("did you mean \"repository\"?"));
        assert!(said("no_such_setting").contains("the keys are repository, "));
    }
}
