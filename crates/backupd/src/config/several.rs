//! Further repositories, beside the first.

use super::setting::Setting;
use super::{Address, Error, Resolver, setting};

/// Further repositories; each is written to, and so each takes requests, memory and time.
const FURTHER_MAX: usize = 8;
const EXPECTED: &str = "directories or buckets with commas between, such as file:///mnt/b,s3://bucket/prefix";

/// Repositories beside the first that have the same.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Further {
    /// Those that must have everything before it is acknowledged.
    pub also: Vec<Address>,
    /// Those that may lag.
    pub later: Vec<Address>,
}

impl Further {
    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.also.is_empty() && self.later.is_empty()
    }

    /// All of them, the required ones first.
    pub fn addresses(&self) -> impl Iterator<Item = &Address> {
        self.also.iter().chain(&self.later)
    }
}

impl Resolver<'_> {
    /// `chosen`: a flag says which repository is the first, which may well be one of these.
    pub(super) fn further(&self, first: &Address, chosen: bool) -> Result<Further, Error> {
        let mut further = Further::default();
        let mut known = vec![first.clone()];
        for (setting, is_required) in [(&setting::ALSO, true), (&setting::LATER, false)] {
            for address in self.addresses(setting)? {
                if chosen && address.is_same_place(first) {
                    continue;
                }
                if known.iter().any(|known| known.is_same_place(&address)) {
                    return Err(Error(format!(
                        "{address} is named twice among repository, also and later: expected each repository once"
                    )));
                }
                known.push(address.clone());
                if is_required { &mut further.also } else { &mut further.later }.push(address);
            }
        }
        if further.addresses().count() > FURTHER_MAX {
            return Err(Error(format!("also and later name more than {FURTHER_MAX} repositories together")));
        }
        Ok(further)
    }

    fn addresses(&self, setting: &Setting) -> Result<Vec<Address>, Error> {
        let Some(value) = self.sources.get(setting)? else { return Ok(Vec::new()) };
        let texts = value.text.split(',').map(str::trim).filter(|text| !text.is_empty());
        let address = |text| {
            let address = Address::parse(text).map_err(|_expected| value.unexpected(EXPECTED))?;
            if address.is_read_only() {
                let expected = format!("{EXPECTED}; what a service serves can only be read");
                return Err(value.unexpected(&expected));
            }
            Ok(address)
        };
        texts.map(address).collect()
    }
}
