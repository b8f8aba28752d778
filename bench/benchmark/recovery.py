"""Recovery from a bucket: WAL that both tools have archived is fetched segment by segment, and replayed."""

import re
import shutil
from statistics import median

from . import drydock, machine
from .machine import Failed, say
from .pgbackrest import FETCH_SPOOL
from .replay import replay
from .rounds import rotated
from .server import ARCHIVES_TO_NOWHERE, SEGMENT_BYTES, Server
from .wal import wait
from .ways import LOCAL, WAYS, Script, way_of

FETCH = """set -euo pipefail
cd "$1"
for segment in "${@:4}"; do
    bash "$2" "$segment" pg_wal/RECOVERYXLOG
    mv pg_wal/RECOVERYXLOG "$3/$segment"
done
"""


def compare(turns, number, ours, others):
    """One turn of all ways, over both links."""
    server = turns.server
    ours.prepare()
    others.prepare()
    argv, environment = ours.backup()
    turns.processes.run(argv, ours.key, environment)
    start, end = write_wal(turns, number, ours, others)
    archive, segments = local_copy(server, start, end)
    turns.processes.end_orphans()
    server.archive_with(ARCHIVES_TO_NOWHERE)
    ours.check_stopped()
    for link in [turns.storage.near, turns.storage.far]:
        ours.link = link
        for key in rotated(list(WAYS), number):
            # A local directory is equally near to everybody.
            if key != LOCAL or link is turns.storage.near:
                recover(turns, number, key, link, ours, others, archive, segments)
    ours.link = turns.storage.near
    shutil.rmtree(archive)
    others.finish()
    ours.finish()
    server.checkpoint()


def write_wal(turns, number, ours, others):
    """Has WAL written and archived by both, and counts what that takes. Returns where it begins and ends."""
    server, counted = turns.server, {ours.key: {}, others.key: {}}
    # No checkpoint from here until the WAL is copied: it would let the server reuse the segments.
    start = server.switch_segment()
    with turns.meter.step(service=ours.service) as result:
        with turns.counting(ours.key, counted[ours.key]), turns.counting(others.key, counted[others.key]):
            turns.database.write_wal(turns.options.wal_gb * 1e9)
            end = server.switch_segment()
            wait_archived(turns, ours, others, start, end)
    for key, requests in counted.items():
        turns.keep(number, key, "WAL", {"seconds": result["seconds"], "wal_bytes": end - start} | requests)
    return start, end


def wait_archived(turns, ours, others, start, end):
    server = turns.server
    server.wait_for("Drydock to have the WAL", f"select restart_lsn >= '0/0'::pg_lsn + {end} from pg_replication_slots"
                    f" where slot_name = '{drydock.SLOT}'", within=600.0, by=ours.service)
    first, last = server.segment_at(start + 1), server.segment_at(end - 1)
    segments = (end - start) // SEGMENT_BYTES
    wait(lambda: sum(first <= name <= last for name in others.archived()) >= segments, lambda: True, others.key)


def local_copy(server, start, end):
    """Copies the server's own WAL to a directory. Returns that, and the names of what was written from start to end."""
    archive = server.scratch / "wal-archive"
    last = server.segment_at(end - 1)
    there = sorted(path.name for path in (server.data / "pg_wal").iterdir()
                   if re.fullmatch("[0-9A-F]{24}", path.name) and path.name <= last)
    server.processes.run(["mkdir", "-m", "700", archive], log="cp")
    server.processes.run(["cp", *(server.data / "pg_wal" / name for name in there), archive], log="cp")
    first = server.segment_at(start + 1)
    segments = [name for name in there if name >= first]
    if len(segments) != (end - start) // SEGMENT_BYTES:
        raise Failed(f"the server kept {len(segments)} segments of {(end - start) // SEGMENT_BYTES}")
    return archive, segments


def recover(turns, number, key, link, ours, others, archive, segments):
    """Restores a copy, fetches all segments in this way, and replays them."""
    copy = Server(turns.server.scratch, turns.processes, name="recovered")
    argv, environment = ours.restore(copy.data)
    turns.processes.run(argv, ours.key, environment)
    way = way_of(key, link, ours, others, copy, archive)
    if key != LOCAL:
        fetch(turns, number, way, link, copy, archive, segments)
        for ahead in [copy.data / drydock.PREFETCH_PATH, others.home / FETCH_SPOOL]:
            shutil.rmtree(ahead, ignore_errors=True)
    replay(turns, number, way, link, copy, archive)
    turns.processes.end_orphans()
    shutil.rmtree(copy.data)


def fetch(turns, number, way, link, copy, archive, segments):
    """One segment after the other, with nothing to do in between; what comes is compared with the original."""
    script, target = Script(turns, way, "fetch"), turns.server.scratch / "fetched"
    turns.processes.run(["mkdir", "-m", "700", target], log="fetch")
    machine.settle(turns.options.cache, [turns.storage.directory])
    with turns.meter.step() as result, turns.counting(way.bucket, result):
        turns.processes.run(["bash", "-c", FETCH, "fetch", copy.data, script.path, target, *segments], log="fetch")
    calls = script.calls()
    result |= {"wal_bytes": len(segments) * SEGMENT_BYTES, "call_median": median(calls), "call_max": max(calls)}
    turns.keep(number, way.key, f"fetch {link.name}", result)
    say(f"{'':<13} {result['wal_bytes'] / 1e6 / result['seconds']:.0f} MB/s, median {median(calls) * 1000:.0f} ms")
    turns.processes.end_orphans()
    turns.processes.run(["bash", "-c", 'cd "$1" && for name in *; do cmp "$name" "$2/$name"; done', "compare", target,
                         archive], log="fetch")
    shutil.rmtree(target)
