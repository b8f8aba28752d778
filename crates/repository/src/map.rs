//! Maps: where the bytes of files are.
//!
//! A map is lines of JSON, compressed with zstd: first the packs with those of their frames that this map uses, then the
//! files with their extents. Frames and packs are named by their position in the map, so a line of an extent stays short.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};

use crate::codec::Fingerprint;
use crate::files::{LineReader, LineWriter};
use crate::pack::{Frame, PackName};

/// A map is closed at the first file after this many frames and files.
const ENTRIES_MAX: usize = 8192;

/// Where the bytes of some files are.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Map {
    /// The packs, with the frames of each that are used here.
    pub packs: Vec<MapPack>,
    /// The files.
    pub files: Vec<MapFile>,
}

/// A pack in a map.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MapPack {
    /// Which pack.
    pub pack: PackName,
    /// Frames of it.
    pub frames: Vec<Frame>,
}

/// A file in a map.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MapFile {
    /// As in the list of files.
    pub path: String,
    /// Every byte of the file once, in order.
    pub extents: Vec<Extent>,
}

/// A run of a file's bytes, and where they are. In JSON, an array: file offset, length, pack, frame, offset in
/// the frame and, where the extent is not a whole frame of its own, the fingerprint of its bytes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "ExtentLine", into = "ExtentLine")]
pub struct Extent {
    /// First byte in the file.
    pub offset: u64,
    /// Bytes.
    pub len: u32,
    /// Position of the pack in the map.
    pub pack: usize,
    /// Position of the frame in the map's pack.
    pub frame: usize,
    /// First byte in the plain bytes of the frame.
    pub at: u32,
    /// Of these bytes, where they share their frame with others. A later backup finds unchanged small files by it.
    pub fingerprint: Option<Fingerprint>,
}

#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum ExtentLine {
    Shared(u64, u32, usize, usize, u32, Fingerprint),
    Whole(u64, u32, usize, usize, u32),
}

impl From<ExtentLine> for Extent {
    fn from(line: ExtentLine) -> Extent {
        let (offset, len, pack, frame, at, fingerprint) = match line {
            ExtentLine::Shared(offset, len, pack, frame, at, fingerprint) => {
                (offset, len, pack, frame, at, Some(fingerprint))
            }
            ExtentLine::Whole(offset, len, pack, frame, at) => (offset, len, pack, frame, at, None),
        };
        Extent { offset, len, pack, frame, at, fingerprint }
    }
}

impl From<Extent> for ExtentLine {
    fn from(extent: Extent) -> ExtentLine {
        let Extent { offset, len, pack, frame, at, fingerprint } = extent;
        match fingerprint {
            Some(fingerprint) => ExtentLine::Shared(offset, len, pack, frame, at, fingerprint),
            None => ExtentLine::Whole(offset, len, pack, frame, at),
        }
    }
}

impl Serialize for Frame {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        (self.offset, self.stored, self.plain, self.checksum, self.fingerprint).serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Frame {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Frame, D::Error> {
        let (offset, stored, plain, checksum, fingerprint) = Deserialize::deserialize(deserializer)?;
        Ok(Frame { offset, stored, plain, checksum, fingerprint })
    }
}

#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum Line {
    Pack(MapPack),
    File(MapFile),
}

impl Map {
    /// The pack and frame that an extent refers to.
    pub fn frame(&self, extent: &Extent) -> Option<(&PackName, &Frame)> {
        let pack = self.packs.get(extent.pack)?;
        Some((&pack.pack, pack.frames.get(extent.frame)?))
    }

    /// The bytes of the object.
    pub fn encode(&self) -> std::io::Result<Vec<u8>> {
        let mut writer = LineWriter::new("map")?;
        for pack in &self.packs {
            writer.push(pack)?;
        }
        for file in &self.files {
            writer.push(file)?;
        }
        writer.finish()
    }

    /// Reads what [`Map::encode`] wrote and checks that it holds together; the error says what does not.
    pub fn decode(bytes: bytes::Bytes) -> Result<Map, String> {
        let mut reader = LineReader::new("map", bytes)?;
        let mut map = Map::default();
        while let Some(line) = reader.next()? {
            match line {
                Line::Pack(pack) => map.packs.push(pack),
                Line::File(file) => map.files.push(file),
            }
        }
        map.files.iter().try_for_each(|file| map.check(file))?;
        Ok(map)
    }

    fn check(&self, file: &MapFile) -> Result<(), String> {
        let mut at = 0u64;
        for extent in &file.extents {
            let (_, frame) = self
                .frame(extent)
                .ok_or_else(|| format!("{} refers to a frame that the map does not have", file.path))?;
            let end = u64::from(extent.at) + u64::from(extent.len);
            if extent.offset != at || end > u64::from(frame.plain) || extent.len == 0 {
                return Err(format!("the extents of {} do not fit together at {at}", file.path));
            }
            at += u64::from(extent.len);
        }
        Ok(())
    }
}

/// Where a run of bytes was put.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The pack.
    pub pack: PackName,
    /// The frame.
    pub frame: Frame,
    /// First byte in the plain bytes of the frame.
    pub at: u32,
    /// See [`Extent::fingerprint`].
    pub fingerprint: Option<Fingerprint>,
}

impl Place {
    /// Of the bytes in this place.
    pub fn known_fingerprint(&self) -> Fingerprint {
        self.fingerprint.unwrap_or(self.frame.fingerprint)
    }
}

/// Builds a map, file by file.
#[derive(Debug, Default)]
pub struct MapBuilder {
    map: Map,
    packs: HashMap<PackName, usize>,
    frames: HashMap<(usize, u64), usize>,
}

impl MapBuilder {
    /// Adds a file whose bytes, in order, are in these places.
    pub fn push(&mut self, path: String, places: &[(u32, Place)]) {
        let mut offset = 0;
        let mut extents = Vec::with_capacity(places.len());
        for (len, place) in places {
            let (pack, frame) = self.refer(place);
            extents.push(Extent {
                offset,
                len: *len,
                pack,
                frame,
                at: place.at,
                fingerprint: place.fingerprint,
            });
            offset += u64::from(*len);
        }
        self.map.files.push(MapFile { path, extents });
    }

    fn refer(&mut self, place: &Place) -> (usize, usize) {
        let map = &mut self.map;
        let pack = *self.packs.entry(place.pack.clone()).or_insert_with(|| {
            map.packs.push(MapPack { pack: place.pack.clone(), frames: Vec::new() });
            map.packs.len() - 1
        });
        let frames = &mut map.packs[pack].frames;
        let frame = *self.frames.entry((pack, place.frame.offset)).or_insert_with(|| {
            frames.push(place.frame);
            frames.len() - 1
        });
        (pack, frame)
    }

    /// Whether it should be stored before another file comes.
    pub fn is_full(&self) -> bool {
        self.frames.len() + self.map.files.len() >= ENTRIES_MAX
    }

    /// Whether it has no file.
    pub fn is_empty(&self) -> bool {
        self.map.files.is_empty()
    }

    /// The map.
    pub fn finish(self) -> Map {
        self.map
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::Checksum;
    use proptest::prelude::*;

    fn places() -> impl Strategy<Value = Vec<(u32, Place)>> {
        let place = (0u32..4, 0u64..1000, 1u32..1000, prop::option::of(any::<[u8; 16]>())).prop_map(
            |(number, offset, len, fingerprint)| {
                let pack = PackName { backup: "20260102T030405Z".parse().unwrap(), number };
                let frame = Frame {
                    offset: offset << 20,
                    stored: 9,
                    plain: 2000,
                    checksum: Checksum([7; 32]),
                    fingerprint: Fingerprint([7; 16]),
                };
                (len, Place { pack, frame, at: 1000, fingerprint: fingerprint.map(Fingerprint) })
            },
        );
        prop::collection::vec(place, 0..20)
    }

    proptest! {
        #[test]
        fn round_trips(files in prop::collection::vec(("[a-z/0-9\\PC]{1,30}", places()), 0..20)) {
            let mut builder = MapBuilder::default();
            for (path, places) in &files {
                builder.push(path.clone(), places);
            }
            let map = builder.finish();
            prop_assert_eq!(&Map::decode(map.encode().unwrap().into()).unwrap(), &map);
            for ((_, places), file) in files.iter().zip(&map.files) {
                for ((len, place), extent) in places.iter().zip(&file.extents) {
                    prop_assert_eq!(map.frame(extent).unwrap(), (&place.pack, &place.frame));
                    prop_assert_eq!(extent.len, *len);
                }
            }
        }

        #[test]
        fn never_panics(bytes: Vec<u8>) {
            drop(Map::decode(zstd::encode_all(&bytes[..], 1).unwrap().into()));
            drop(Map::decode(bytes.into()));
        }
    }
}
