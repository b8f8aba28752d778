//! Repositories that earlier versions wrote are read by every later one. `tests/fixtures/repositories/make.sh` made these
//! with the first version of format 1.

use std::fs;
use std::path::Path;

use e2e::{Kind, World};

const FIXTURES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/fixtures/repositories");

#[test]
fn a_plain_repository_of_format_1() {
    reads_everything(&unpacked("plain"));
}

#[test]
fn an_encrypted_repository_of_format_1() {
    let world = unpacked("encrypted");
    let refused = world.try_restore(&world.fresh("restored"), &[]);
    refused.fails(3, &["encrypted"]);
    let identity = fs::read_to_string(format!("{FIXTURES}/identity.txt")).unwrap();
    let identity = world.write_private("identity.txt", &identity);
    world.set("DRYDOCK_IDENTITY_FILE", identity.to_str().unwrap());
    reads_everything(&world);
}

fn unpacked(name: &str) -> World {
    let world = World::new();
    let directory = world.directory("frozen");
    // The product's user may not be able to read the checkout.
    let copy = directory.join("fixture.tar");
    fs::copy(format!("{FIXTURES}/{name}.tar"), &copy).unwrap();
    world.run(world.program("tar", "tar").arg("-xf").arg(&copy).arg("-C").arg(&directory)).success();
    world.put_repository_at(&directory.join(name));
    world
}

fn reads_everything(world: &World) {
    let list = world.json(&["list"]);
    let backups = list["backups"].as_array().unwrap();
    let notes: Vec<&str> = backups.iter().map(|backup| backup["note"].as_str().unwrap()).collect();
    assert_eq!(notes, ["the first", "the second"]);
    assert_eq!(backups[0]["shared_bytes"], 0);
    assert!(backups[1]["shared_bytes"].as_u64().unwrap() > 10 << 20, "{list:#}");

    let verified = world.json(&["verify", "--read", "--all"]);
    assert_eq!(verified["findings"].as_array().unwrap().len(), 0, "{verified:#}");

    for backup in world.backups() {
        let restored = world.restore(&["--backup", &backup]);
        assert!(holds(&restored.data().join("base"), b"row 1000"), "the rows are in {backup}");
    }
    let named = world.fresh("named");
    world.try_restore(&named, &["--target-name", "between", "--dry-run"]).success();

    // The newest WAL is in pieces.
    let piece = world.objects().last(Kind::Piece);
    let segment = piece.split('/').nth(4).unwrap();
    let fetched = world.directory("wal").join(segment);
    world.backupctl(&["wal", "fetch", segment, fetched.to_str().unwrap()]).success();
    for text in [&b"in a piece"[..], b"in another piece"] {
        assert!(holds(fetched.parent().unwrap(), text), "{}", String::from_utf8_lossy(text));
    }
}

/// Whether some file below `directory` has these bytes.
fn holds(directory: &Path, bytes: &[u8]) -> bool {
    fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()).any(|path| match path.is_dir() {
        true => holds(&path, bytes),
        false => fs::read(&path).unwrap().windows(bytes.len()).any(|window| window == bytes),
    })
}
