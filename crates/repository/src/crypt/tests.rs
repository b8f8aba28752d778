//! What an owner of the storage could try, and what must come of it.

use std::sync::Arc;

use bytes::Bytes;
use chrono::{DateTime, Utc};
use pgformat::{Lsn, SegmentName, SegmentSize, TimelineId};
use proptest::prelude::*;
use store::memory::MemoryStore;
use store::{Body, Directory, Entry, Key, Store};

use super::*;
use crate::codec::{self, Fingerprint};
use crate::files::FileListWriter;
use crate::map::{Map, MapBuilder, Place};
use crate::pack::{Frame, PackBuilder, PackName};
use crate::record::ObjectSummary;
use crate::wal::{KnownWal, Range, WalChunk, WalFacts, WalStream};
use crate::{BackupId, Cluster, Record, Repository};

const MARKER: &[u8] = b"marker-in-the-plain-bytes ";
const STREAM: WalStream =
    WalStream { system_identifier: 7, timeline: TimelineId::FIRST, segment_size: SegmentSize::DEFAULT };
const START: Lsn = Lsn(32 << 20);

/// A store, and the identity to whom its repository is encrypted.
struct World {
    store: Arc<MemoryStore>,
    identity: Identities,
    service: Identities,
}

impl World {
    async fn new() -> World {
        let world = World {
            store: Arc::new(MemoryStore::default()),
            identity: Identities::generate(),
            service: Identities::generate(),
        };
        let recipients = Recipients::new(world.identity.recipients()).unwrap();
        Repository::open_or_create_for(world.store.clone(), Utc::now(), &recipients).await.unwrap();
        world
    }

    async fn repository(&self) -> Repository {
        Repository::open(self.store.clone()).await.unwrap()
    }

    async fn cluster(&self, identities: &Identities, service: &Identities) -> Cluster {
        let keys = Keys { identities: identities.clone(), service: service.clone() };
        self.repository().await.with_keys(keys).cluster("c").unwrap()
    }

    /// As who holds the identity sees it.
    async fn reader(&self) -> Cluster {
        self.cluster(&self.identity, &Identities::default()).await
    }

    /// As the service sees it, which can read no content.
    async fn writer(&self) -> Cluster {
        self.cluster(&Identities::default(), &self.service).await
    }

    /// As a service without an identity of its own does.
    async fn blind(&self) -> Cluster {
        self.cluster(&Identities::default(), &Identities::default()).await
    }

    async fn read(&self, key: &str) -> Bytes {
        self.store.read(&Key::new(key).unwrap(), None).await.unwrap()
    }

    async fn overwrite(&self, key: &str, bytes: impl Into<Bytes>) {
        let key = Key::new(key).unwrap();
        self.store.delete(&key).await.unwrap();
        self.store.create(&key, Body::from(bytes.into())).await.unwrap();
    }
}

fn id(second: u32) -> BackupId {
    BackupId::at(DateTime::from_timestamp(1_800_000_000 + i64::from(second), 0).unwrap())
}

fn plain(number: u8) -> Vec<u8> {
    [MARKER, &[number]].concat().repeat(50)
}

/// A backup of two frames in one pack, with a map and a list. Its record is not stored; who reads it has it.
async fn backup(cluster: &Cluster, id: &BackupId) -> (Record, Map) {
    let keys = cluster.make_backup_keys(id).await.unwrap();
    let name = PackName { backup: id.clone(), number: 0 };
    let mut pack = PackBuilder::new(name.clone()).unwrap();
    let mut map = MapBuilder::default();
    for number in 0..2 {
        let plain = plain(number);
        let compressed = codec::compress(&plain, 1).unwrap();
        let stored = match &keys {
            Some(keys) => keys.frames.seal(&compressed).unwrap(),
            None => compressed,
        };
        let len = u32::try_from(plain.len()).unwrap();
        let frame = pack.push(&stored, len, Checksum::of(&stored), Fingerprint::of(&plain));
        map.push(
            format!("base/{number}"),
            &[(len, Place { pack: name.clone(), frame, at: 0, fingerprint: None })],
        );
    }
    let (keys, map) = (keys.as_deref(), map.finish());
    let packs = vec![cluster.put_pack(pack.finish(), keys).await.unwrap()];
    let maps = vec![cluster.put_map(id, 0, &map, keys).await.unwrap()];
    let files = cluster.put_files(id, FileListWriter::new().unwrap().finish().unwrap(), keys).await.unwrap();
    let record = Record {
        id: id.clone(),
        system_identifier: 7,
        postgresql_version: 150_000,
        data_checksums: true,
        started_at: DateTime::UNIX_EPOCH,
        finished_at: DateTime::UNIX_EPOCH,
        timeline: TimelineId::FIRST,
        start_lsn: START,
        stop_timeline: TimelineId::FIRST,
        stop_lsn: START,
        source: "db".into(),
        note: None,
        parent: None,
        tablespaces: vec![],
        files,
        file_count: 2,
        size_bytes: 0,
        maps,
        packs,
        stored_bytes: 0,
        shared_bytes: 0,
        corrupt_pages: vec![],
        corrupt_pages_total: 0,
        encrypted_to: keys.map(|keys| keys.encrypted_to.clone()),
    };
    (record, map)
}

/// The bytes of one of the two frames, read as a restore does.
async fn read_frame(cluster: &Cluster, record: &Record, map: &Map, number: usize) -> Result<Vec<u8>, String> {
    let keys = cluster.frame_keys(record).await.map_err(|error| error.to_string())?;
    let (pack, frame) = map.frame(&map.files[number].extents[0]).unwrap();
    let stored =
        cluster.read_pack(pack, frame.range(), &record.id).await.map_err(|error| error.to_string())?;
    keys.decode(pack, frame, &stored).map_err(|error| error.to_string())
}

fn chunk(from: Lsn, plain: Bytes) -> WalChunk {
    WalChunk { from, plain, facts: WalFacts::default(), durable: START }
}

fn segment() -> SegmentName {
    SegmentName::containing(STREAM.timeline, START, STREAM.segment_size)
}

fn wal(len: usize) -> Bytes {
    MARKER.iter().copied().cycle().take(len).collect::<Vec<u8>>().into()
}

async fn put_piece(cluster: &Cluster, chunk: WalChunk) -> Result<(), Error> {
    cluster.put_wal(&cluster.encode_piece(&STREAM, chunk).await?).await.map(drop)
}

const PIECE: &str = "c/wal/00000001/00000000/000000010000000000000002/0000000002000000-000000000200012C.zst";
const WHOLE: Range = Range { from: START, to: Lsn((32 << 20) + 300) };

async fn all_keys(store: &MemoryStore) -> Vec<Key> {
    let (mut keys, mut directories) = (Vec::new(), vec![Directory::root()]);
    while let Some(directory) = directories.pop() {
        for entry in store.list(&directory).await.unwrap() {
            match entry {
                Entry::Object { name, .. } => keys.push(directory.key(&name).unwrap()),
                Entry::Directory { name } => directories.push(directory.directory(&name).unwrap()),
            }
        }
    }
    keys
}

fn contains(bytes: &[u8]) -> bool {
    bytes.windows(MARKER.len()).any(|window| window == MARKER)
}

#[tokio::test]
async fn who_has_the_identity_reads_what_nobody_else_can() {
    let world = World::new().await;
    let (record, map) = backup(&world.writer().await, &id(0)).await;
    put_piece(&world.writer().await, chunk(START, wal(300))).await.unwrap();

    let reader = world.reader().await;
    assert_eq!(reader.map(&record, 0).await.unwrap(), map);
    assert!(reader.files(&record).await.unwrap().next().unwrap().is_none());
    for number in 0..2 {
        let read = read_frame(&reader, &record, &map, usize::from(number)).await.unwrap();
        assert_eq!(read, plain(number));
    }
    assert_eq!(reader.read_piece(segment(), STREAM.segment_size, WHOLE).await.unwrap().1, wal(300));
    let header = reader.piece_header(segment(), STREAM.segment_size, WHOLE).await.unwrap().unwrap();
    assert_eq!((header.durable, header.to), (START, WHOLE.to));

    for key in all_keys(&world.store).await {
        let bytes = world.store.read(&key, None).await.unwrap();
        assert!(!contains(&bytes), "{key}");
        assert!(!zstd::decode_all(&bytes[..]).is_ok_and(|plain| contains(&plain)), "{key}");
    }
}

#[tokio::test]
async fn the_service_reads_its_maps_and_no_content() {
    let world = World::new().await;
    let (record, map) = backup(&world.writer().await, &id(0)).await;
    put_piece(&world.writer().await, chunk(START, wal(300))).await.unwrap();

    let writer = world.writer().await;
    assert_eq!(writer.map(&record, 0).await.unwrap(), map);
    assert!(matches!(writer.frame_keys(&record).await, Err(Error::NoIdentity { .. })));
    let piece = writer.read_piece(segment(), STREAM.segment_size, WHOLE).await;
    assert!(matches!(piece, Err(Error::NoIdentity { .. })));
    // Even where its own identity is given as one that reads everything.
    let service = world.cluster(&world.service, &Identities::default()).await;
    assert!(matches!(service.frame_keys(&record).await, Err(Error::WrongIdentity { .. })));

    let blind = world.blind().await;
    assert!(matches!(blind.map(&record, 0).await, Err(Error::NoIdentity { .. })));
    blind.check_documents(&record).await.unwrap();
}

#[tokio::test]
async fn a_wrong_identity_is_named_as_such() {
    let world = World::new().await;
    let (record, _) = backup(&world.writer().await, &id(0)).await;
    put_piece(&world.writer().await, chunk(START, wal(300))).await.unwrap();
    let stranger = world.cluster(&Identities::generate(), &Identities::default()).await;
    assert!(matches!(stranger.frame_keys(&record).await, Err(Error::WrongIdentity { .. })));
    assert!(matches!(stranger.map(&record, 0).await, Err(Error::WrongIdentity { .. })));
    let piece = stranger.read_piece(segment(), STREAM.segment_size, WHOLE).await;
    assert!(matches!(piece, Err(Error::WrongIdentity { .. })));
}

#[tokio::test]
async fn a_flip_of_any_byte_of_a_frame_is_found_even_where_the_map_agrees() {
    let world = World::new().await;
    let (record, map) = backup(&world.writer().await, &id(0)).await;
    let keys = world.reader().await.frame_keys(&record).await.unwrap();
    let (pack, frame) = map.frame(&map.files[0].extents[0]).unwrap();
    let stored = world.writer().await.read_pack(pack, frame.range(), &record.id).await.unwrap();
    for at in 0..stored.len() {
        let mut damaged = stored.to_vec();
        damaged[at] ^= 1;
        assert!(keys.decode(pack, frame, &damaged).is_err(), "by the map, byte {at}");
        let forged = Frame { checksum: Checksum::of(&damaged), ..*frame };
        let error = keys.decode(pack, &forged, &damaged).unwrap_err();
        assert!(matches!(error, codec::FrameError::Decrypt), "by the cipher, byte {at}: {error}");
    }
    for len in [0, 11, 12, 27, 28, stored.len() - 1] {
        let forged = Frame { checksum: Checksum::of(&stored[..len]), ..*frame };
        assert!(keys.decode(pack, &forged, &stored[..len]).is_err(), "cut to {len}");
    }
}

#[tokio::test]
async fn swapped_frames_packs_and_maps_are_refused() {
    let world = World::new().await;
    let (first, map) = backup(&world.writer().await, &id(0)).await;
    let (second, _) = backup(&world.writer().await, &id(1)).await;
    let reader = world.reader().await;

    // Two frames of one pack, which have the same size.
    let pack = format!("c/backups/{}/packs/0", first.id);
    let original = world.read(&pack).await;
    let frames: Vec<Frame> = map.packs[0].frames.clone();
    let range = |frame: &Frame| {
        usize::try_from(frame.range().start).unwrap()..usize::try_from(frame.range().end).unwrap()
    };
    let mut swapped = original[..range(&frames[0]).start].to_vec();
    swapped.extend_from_slice(&original[range(&frames[1])]);
    swapped.extend_from_slice(&original[range(&frames[0])]);
    world.overwrite(&pack, swapped).await;
    assert!(read_frame(&reader, &first, &map, 0).await.is_err());

    // A pack of another backup, and one that is cut short.
    world.overwrite(&pack, world.read(&format!("c/backups/{}/packs/0", second.id)).await).await;
    assert!(read_frame(&reader, &first, &map, 0).await.is_err());
    world.overwrite(&pack, original.slice(..original.len() - 1)).await;
    let error = read_frame(&reader, &first, &map, 1).await.unwrap_err();
    assert!(error.contains("shorter than its maps say"), "{error}");

    // The list in the place of a map, with a record that was made to agree: same key, another name.
    let (list, place) =
        (format!("c/backups/{}/files.zst", first.id), format!("c/backups/{}/maps/0", first.id));
    let stored = world.read(&list).await;
    world.overwrite(&place, stored.clone()).await;
    let summary = ObjectSummary { size: stored.len() as u64, sha256: Checksum::of(&stored) };
    let forged = Record { maps: vec![summary], ..first.clone() };
    let error = reader.map(&forged, 0).await.unwrap_err();
    assert!(error.to_string().contains("does not decrypt"), "{error}");
}

#[tokio::test]
async fn the_key_of_another_backup_or_purpose_is_refused() {
    let world = World::new().await;
    let (first, _) = backup(&world.writer().await, &id(0)).await;
    let (second, _) = backup(&world.writer().await, &id(1)).await;
    let key = |record: &Record, purpose: &str| format!("c/backups/{}/keys/{purpose}.age", record.id);
    let original = world.read(&key(&first, "frames")).await;
    for (from, said) in
        [(key(&second, "frames"), "of the frames of backup"), (key(&first, "documents"), "of the documents")]
    {
        world.overwrite(&key(&first, "frames"), world.read(&from).await).await;
        let error = world.reader().await.frame_keys(&first).await.unwrap_err();
        assert!(error.is_damage() && error.to_string().contains(said), "{error}");
    }
    for at in 0..original.len() {
        let mut damaged = original.to_vec();
        damaged[at] ^= 1;
        world.overwrite(&key(&first, "frames"), damaged).await;
        // A stanza that no longer opens, and one for somebody else, cannot be told apart.
        let error = world.reader().await.frame_keys(&first).await.unwrap_err();
        assert!(error.is_damage() || matches!(error, Error::WrongIdentity { .. }), "byte {at}: {error}");
    }
    world.store.delete(&Key::new(key(&first, "frames")).unwrap()).await.unwrap();
    let error = world.reader().await.frame_keys(&first).await.unwrap_err();
    assert!(matches!(error, Error::Missing { .. }), "{error}");
}

#[tokio::test]
async fn a_new_recipient_reads_backups_whose_keys_were_stored_anew() {
    let world = World::new().await;
    let (record, map) = backup(&world.writer().await, &id(0)).await;
    let later = Identities::generate();
    assert!(world.repository().await.add_recipient(&later.recipients()[0]).await.unwrap());
    assert!(!world.repository().await.add_recipient(&later.recipients()[0]).await.unwrap(), "once");
    let newcomer = world.cluster(&later, &Identities::default()).await;
    assert!(matches!(newcomer.frame_keys(&record).await, Err(Error::WrongIdentity { .. })));
    assert!(matches!(newcomer.rewrap(&record.id).await, Err(Error::WrongIdentity { .. })));

    assert_eq!(world.reader().await.rewrap(&record.id).await.unwrap(), 2);
    assert_eq!(read_frame(&newcomer, &record, &map, 1).await.unwrap(), plain(1));
    assert_eq!(newcomer.map(&record, 0).await.unwrap(), map);
    assert_ne!(newcomer.encrypted_to(), record.encrypted_to, "the next backup refers to nothing of it");
}

#[tokio::test]
async fn the_last_recipient_goes_only_on_purpose() {
    let world = World::new().await;
    let recipient = world.identity.recipients()[0].clone();
    let repository = world.repository().await;
    let stranger = Identities::generate().recipients()[0].clone();
    assert!(matches!(repository.remove_recipient(&stranger, true).await, Err(Error::NoRecipient(_))));
    assert!(matches!(repository.remove_recipient(&recipient, false).await, Err(Error::LastRecipient(_))));
    assert!(world.writer().await.is_encrypted());
    repository.remove_recipient(&recipient, true).await.unwrap();
    assert!(!world.writer().await.is_encrypted());
}

#[tokio::test]
async fn somebody_who_put_himself_among_the_recipients_is_noticed() {
    let world = World::new().await;
    let configured = Recipients::new(world.identity.recipients()).unwrap();
    world.repository().await.expect_recipients(&configured).unwrap();
    world.repository().await.add_recipient(&Identities::generate().recipients()[0]).await.unwrap();
    let error = world.repository().await.expect_recipients(&configured).unwrap_err();
    assert!(matches!(error, Error::OtherRecipients { .. }), "{error}");
    let error = world.repository().await.expect_recipients(&Recipients::default()).unwrap_err();
    assert!(error.to_string().contains("the configuration says nobody"), "{error}");
}

#[tokio::test]
async fn who_cannot_read_wal_still_tells_the_same_from_other() {
    let world = World::new().await;
    let other: Bytes = vec![1; 300].into();
    put_piece(&world.writer().await, chunk(START, wal(300))).await.unwrap();
    for cluster in [world.writer().await, world.blind().await, world.reader().await] {
        put_piece(&cluster, chunk(START, wal(300))).await.unwrap();
        let differs = put_piece(&cluster, chunk(START, other.clone())).await;
        assert!(matches!(differs, Err(Error::Differs { .. })));
    }
    // Not even who has another identity takes a truncated object for the same.
    let whole = world.read(PIECE).await;
    world.overwrite(PIECE, whole.slice(..whole.len() - 1)).await;
    let stranger = world.cluster(&Identities::generate(), &Identities::default()).await;
    for cluster in [world.writer().await, stranger, world.reader().await] {
        let truncated = put_piece(&cluster, chunk(START, wal(300))).await;
        assert!(truncated.is_err_and(|error| error.is_damage()));
    }
}

#[tokio::test]
async fn a_resumed_stream_is_recognised_piece_by_piece() {
    let world = World::new().await;
    let (writer, all) = (world.writer().await, wal(1000));
    for (from, to) in [(0usize, 100usize), (100, 250), (200, 300), (301, 400)] {
        put_piece(&writer, chunk(START.advance(from as u64), all.slice(from..to))).await.unwrap();
    }
    let known = world.blind().await.known_pieces(segment(), STREAM.segment_size).await.unwrap();
    assert_eq!(known.len(), 300, "up to the gap");
    let KnownWal::Labelled { pieces, .. } = known else { panic!("it cannot be read") };
    for piece in &pieces {
        let at = |lsn: Lsn| usize::try_from(lsn.since(START)).unwrap();
        let bytes = &all[at(piece.range.from)..at(piece.range.to)];
        assert!(piece.holds(bytes));
        let mut changed = bytes.to_vec();
        changed[0] ^= 1;
        assert!(!piece.holds(&changed) && !piece.holds(&bytes[1..]));
    }
    let known = world.reader().await.known_pieces(segment(), STREAM.segment_size).await.unwrap();
    assert!(matches!(known, KnownWal::Plain(bytes) if bytes == all[..300]));

    let objects = writer.wal_objects(TimelineId::FIRST, STREAM.segment_size).await.unwrap();
    let durable = world.blind().await.durable_before(&objects[0], STREAM.segment_size).await.unwrap();
    assert_eq!(durable, Some(START), "it stands in the label");
}

#[tokio::test]
async fn a_flip_of_any_byte_of_encrypted_wal_is_found() {
    let world = World::new().await;
    put_piece(&world.writer().await, chunk(START, wal(300))).await.unwrap();
    let (object, reader) = (world.read(PIECE).await, world.reader().await);
    for at in 0..object.len() {
        let mut damaged = object.to_vec();
        damaged[at] ^= 0x10;
        world.overwrite(PIECE, damaged).await;
        let error = reader.read_piece(segment(), STREAM.segment_size, WHOLE).await.unwrap_err();
        assert!(error.is_damage() || matches!(error, Error::WrongIdentity { .. }), "byte {at}: {error}");
    }
}

#[tokio::test]
async fn a_header_of_many_chunks_is_read() {
    let world = World::new().await;
    let point = |number: u32| crate::wal::RestorePoint {
        name: format!("{number}-{}", hex::encode(rand::random::<[u8; 32]>())),
        lsn: START,
        time: DateTime::UNIX_EPOCH,
    };
    let facts = WalFacts { transactions: None, restore_points: (0..3000).map(point).collect() };
    let chunk = WalChunk { from: START, plain: wal(300), facts: facts.clone(), durable: START };
    put_piece(&world.writer().await, chunk).await.unwrap();
    let reader = world.reader().await;
    let header = reader.piece_header(segment(), STREAM.segment_size, WHOLE).await.unwrap().unwrap();
    assert_eq!(header.facts, facts);
    // One that does not decrypt beyond its first chunk must not be asked for again and again.
    let mut damaged = world.read(PIECE).await.to_vec();
    damaged[100_000] ^= 1;
    world.overwrite(PIECE, damaged).await;
    let error = reader.piece_header(segment(), STREAM.segment_size, WHOLE).await.unwrap_err();
    assert!(error.is_damage(), "{error}");
}

#[tokio::test]
async fn what_was_plain_before_stays_readable() {
    let world = World {
        store: Arc::new(MemoryStore::default()),
        identity: Identities::generate(),
        service: Identities::generate(),
    };
    Repository::open_or_create(world.store.clone(), Utc::now()).await.unwrap();
    let (record, map) = backup(&world.blind().await, &id(0)).await;
    put_piece(&world.blind().await, chunk(START, wal(300))).await.unwrap();
    assert_eq!((&record.encrypted_to, &record.packs[0].encrypted_to), (&None, &None));
    let root = world.read("repository.json").await;
    assert!(String::from_utf8_lossy(&root).contains("\"recipients\": []"));
    assert!(zstd::decode_all(&world.read(PIECE).await[..]).unwrap() == wal(300));

    world.repository().await.add_recipient(&world.identity.recipients()[0]).await.unwrap();
    let writer = world.writer().await;
    assert_eq!(writer.map(&record, 0).await.unwrap(), map);
    assert_eq!(read_frame(&writer, &record, &map, 0).await.unwrap(), plain(0));
    // The service meets its own plain piece, from when the repository was not encrypted.
    put_piece(&writer, chunk(START, wal(300))).await.unwrap();
    assert_ne!(writer.encrypted_to(), record.packs[0].encrypted_to, "its frames are stored anew");
}

#[tokio::test]
async fn keys_stay_as_long_as_any_pack_they_open() {
    let world = World::new().await;
    let (record, map) = backup(&world.writer().await, &id(0)).await;
    // It has no record in the store: it has expired, and another backup names its pack.
    let writer = world.writer().await;
    let remains = writer.remains().await.unwrap().remove(0);
    let named = [record.packs[0].pack.clone()].into();
    writer.remove_remains(&remains, &named).await.unwrap();
    let left: Vec<String> = all_keys(&world.store).await.iter().map(ToString::to_string).collect();
    assert!(left.iter().any(|key| key.ends_with("keys/frames.age")), "{left:?}");
    assert!(!left.iter().any(|key| key.ends_with("documents.age") || key.contains("maps")), "{left:?}");
    assert_eq!(read_frame(&world.reader().await, &record, &map, 0).await.unwrap(), plain(0));

    let remains = writer.remains().await.unwrap().remove(0);
    assert_eq!(remains.removable(&named), [], "nothing is to be removed again and again");
    let removable = remains.removable(&Default::default());
    assert!(
        removable.last().unwrap().0 == "keys/frames.age",
        "what opens packs goes after them: {removable:?}"
    );
    writer.remove_remains(&remains, &Default::default()).await.unwrap();
    assert_eq!(writer.remains().await.unwrap(), []);
}

#[tokio::test]
async fn a_backup_without_its_keys_is_not_published() {
    let world = World::new().await;
    let writer = world.writer().await;
    let (record, _) = backup(&writer, &id(0)).await;
    put_piece(&writer, chunk(START, wal(300))).await.unwrap();
    let durable = writer.durable_end(TimelineId::FIRST, STREAM.segment_size).await.unwrap().unwrap();
    for purpose in ["frames", "documents"] {
        let key = format!("c/backups/{}/keys/{purpose}.age", record.id);
        let bytes = world.read(&key).await;
        world.store.delete(&Key::new(key.as_str()).unwrap()).await.unwrap();
        let error = writer.publish(&record, &durable).await.unwrap_err();
        assert!(matches!(error, Error::Missing { .. }), "{error}");
        world.overwrite(&key, bytes).await;
    }
    writer.publish(&record, &durable).await.unwrap();
}

#[test]
fn identities_print_nothing() {
    let identity = Identities::generate();
    let keys = Keys { identities: identity.clone(), service: identity.clone() };
    assert!(!format!("{keys:?}").to_uppercase().contains("AGE-SECRET"));
    assert_eq!(Identities::parse(&identity.secret_text()).unwrap().recipients(), identity.recipients());
}

#[test]
fn nonces_never_come_twice() {
    let sealer = Sealer::new(&seal::random_key().unwrap()).unwrap();
    let nonces: std::collections::HashSet<Vec<u8>> =
        (0..1000).map(|_| sealer.seal("x", b"same").unwrap()[..12].to_vec()).collect();
    assert_eq!(nonces.len(), 1000);
}

proptest! {
    #[test]
    fn sealing_round_trips(plain: Vec<u8>, context in "[a-z/0-9]{1,20}") {
        let key = seal::random_key().unwrap();
        let sealed = Sealer::new(&key).unwrap().seal(&context, &plain).unwrap();
        let opener = Opener::new(&key).unwrap();
        prop_assert_eq!(sealed.len(), plain.len() + seal::SEAL_BYTES);
        prop_assert_eq!(opener.open(&format!("{context}x"), &sealed), None);
        prop_assert_eq!(opener.open(&context, &sealed), Some(plain));
        let stranger = Opener::new(&seal::random_key().unwrap()).unwrap();
        prop_assert_eq!(stranger.open(&context, &sealed), None);
    }

    #[test]
    fn age_files_round_trip_and_say_their_size(plain in prop::collection::vec(any::<u8>(), 0..200), repeat in 0usize..1000) {
        let plain = plain.repeat(repeat);
        let identity = Identities::generate();
        let recipients = Recipients::new(identity.recipients()).unwrap();
        let label = Label { sum: Checksum::of(&plain), durable: START, plain_bytes: plain.len() as u64 };
        let object = encrypt(&recipients, &[], Some(&label), &[&plain]).unwrap();
        prop_assert!(is_age(&object));
        let labelled = super::label(&object[..object.len().min(16 << 10)]).unwrap();
        prop_assert_eq!((labelled.label, labelled.object_bytes), (label, object.len() as u64));
        prop_assert!(matches!(open(&object, &identity), Opened::Plain(read) if read == plain));
    }

    #[test]
    fn opening_never_panics(bytes: Vec<u8>, text: String) {
        let mut object = b"age-encryption.org/v1\n-> drydock.wal ".to_vec();
        object.extend_from_slice(&bytes);
        drop(super::label(&object));
        drop(super::label(&bytes));
        drop(open(&bytes, &Identities::generate()));
        drop(Identities::parse(&text));
    }
}
