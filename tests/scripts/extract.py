#!/usr/bin/env python3
"""Reads a Drydock repository with nothing of Drydock: Python's standard library and the `zstd` command.

It follows docs/format.md, and a test runs it, so that page stays true. Use it when there is nothing else:

    extract.py --repository DIR --cluster NAME list BACKUP
    extract.py --repository DIR --cluster NAME extract BACKUP PATH OUT
    extract.py --repository DIR --cluster NAME segment KEY OUT
"""

import argparse
import hashlib
import json
import pathlib
import struct
import subprocess
import sys

FORMAT = 1
SKIPPABLE_MAGIC = 0x184D2A57


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--repository", required=True, type=pathlib.Path)
    parser.add_argument("--cluster", required=True)
    verbs = parser.add_subparsers(dest="verb", required=True)
    verb = verbs.add_parser("list")
    verb.add_argument("backup")
    verb = verbs.add_parser("extract")
    verb.add_argument("backup")
    verb.add_argument("path")
    verb.add_argument("out", type=pathlib.Path)
    verb = verbs.add_parser("segment")
    verb.add_argument("key")
    verb.add_argument("out", type=pathlib.Path)
    arguments = parser.parse_args()

    cluster = arguments.repository / arguments.cluster
    if arguments.verb == "list":
        for entry in files(cluster, arguments.backup):
            print(f"{entry['kind']:9} {entry.get('size', 0):12} {entry['path']}")
    elif arguments.verb == "extract":
        arguments.out.write_bytes(extract(cluster, arguments.backup, arguments.path))
    else:
        head, plain = segment(arguments.repository / arguments.key)
        arguments.out.write_bytes(plain)
        print(json.dumps(head))


def extract(cluster, backup, path):
    """The bytes of one file."""
    entry = next((entry for entry in files(cluster, backup) if entry["path"] == path), None)
    if entry is None or entry["kind"] != "file":
        sys.exit(f"{path} is not a file of backup {backup}")
    if entry["size"] == 0:
        return b""
    plain = b"".join(extents(cluster, backup, entry["map"], path))
    if len(plain) != entry["size"]:
        sys.exit(f"{path} has {len(plain)} bytes, not {entry['size']}")
    return plain


def files(cluster, backup):
    """The list of the backup's files."""
    record = document((cluster / "backups" / backup / "record.json").read_bytes(), "backup")
    if "encrypted_to" in record:
        sys.exit(f"backup {backup} is encrypted: see Encryption in docs/format.md")
    stored = (cluster / "backups" / backup / "files.zst").read_bytes()
    expect(hashlib.sha256(stored).hexdigest() == record["files"]["sha256"], "files.zst is damaged")
    return lines(stored, "files")


def extents(cluster, backup, number, path):
    """The runs of bytes that make a file, in order."""
    packs = []
    for line in lines((cluster / "backups" / backup / "maps" / str(number)).read_bytes(), "map"):
        if "pack" in line:
            packs.append(line)
        elif line["path"] == path:
            for _offset, length, pack, frame, at, *_fingerprint in line["extents"]:
                plain = read_frame(cluster, packs[pack]["pack"], packs[pack]["frames"][frame])
                yield plain[at : at + length]


def read_frame(cluster, pack, frame):
    """The plain bytes of one frame of a pack, which is named by the backup that wrote it and a number."""
    offset, stored, plain_length, checksum, _fingerprint = frame
    backup, number = pack.split("/")
    with (cluster / "backups" / backup / "packs" / number).open("rb") as file:
        file.seek(offset)
        data = file.read(stored)
    expect(hashlib.sha256(data).hexdigest() == checksum, f"a frame of pack {pack} is damaged")
    plain = zstd(data)
    expect(len(plain) == plain_length, f"a frame of pack {pack} has another length")
    return plain


def segment(path):
    """What the head of a WAL object says, and its plain bytes. `zstd -d` alone gives those, too."""
    stored = path.read_bytes()
    magic, length = struct.unpack_from("<II", stored)
    expect(magic == SKIPPABLE_MAGIC, f"{path} does not start with a skippable frame of ours")
    head = document(stored[8 : 8 + length], "wal")
    plain = zstd(stored)
    expect(hashlib.sha256(plain).hexdigest() == head["plain_sha256"], f"{path} is damaged")
    return head, plain


def document(data, kind):
    """A JSON document; its last member is the SHA-256 of all bytes before that member's line."""
    value = json.loads(data)
    covered = data[: data.rindex(b'\n  "sha256": "') + 1]
    expect(hashlib.sha256(covered).hexdigest() == value["sha256"], f"a document of kind {kind} is damaged")
    expect((value["format"], value["kind"]) == (FORMAT, kind), f"not a document of kind {kind} in format {FORMAT}")
    return value


def lines(stored, kind):
    """Lines of JSON under zstd; the first says the format and the kind."""
    head, *rest = zstd(stored).splitlines()
    expect(json.loads(head) == {"format": FORMAT, "kind": kind}, f"not a list of kind {kind} in format {FORMAT}")
    return map(json.loads, rest)


def zstd(stored):
    return subprocess.run(["zstd", "-d", "-q", "-c"], input=stored, stdout=subprocess.PIPE, check=True).stdout


def expect(holds, otherwise):
    if not holds:
        sys.exit(otherwise)


if __name__ == "__main__":
    main()
