"""How fast a restored copy replays WAL that it fetches in a given way."""

import re
import time
from statistics import median

from . import machine
from .machine import Failed, say
from .ways import Script

RECOVERS_WITHIN = 1800.0
LOOK_EVERY = 0.02

BEGUN = re.compile(r"redo starts at ([0-9A-F]+)/([0-9A-F]+)")
DONE = re.compile(r"redo done at ([0-9A-F]+)/([0-9A-F]+) system usage: .*elapsed: ([0-9.]+) s")
OPEN = "database system is ready to accept connections"


def replay(turns, number, way, link, copy, archive):
    """Starts the copy, waits until it has recovered and opened, and compares a table with the original's."""
    script, log = Script(turns, way, "replay"), turns.processes.logs / f"{copy.name}.log"
    machine.settle(turns.options.cache, [turns.storage.directory, copy.data, archive])
    before = log.stat().st_size if log.exists() else 0
    result, started = {}, time.monotonic()
    with turns.counting(way.bucket, result):
        copy.launch("-c", f'restore_command=bash {script.path} "%f" "%p"', "-c", "recovery_end_command=",
                    "-c", "archive_mode=off", "-c", "hot_standby=off")
        text = wait_open(turns, copy, log, before)
        result["seconds"] = time.monotonic() - started
    result |= told(text)
    calls = script.calls()
    result |= {"waited_seconds": sum(calls), "call_median": median(calls), "call_max": max(calls)}
    turns.keep(number, way.key, f"replay {link.name}", result)
    say(f"{'':<13} {result['wal_bytes'] / 1e6 / result['redo_seconds']:.0f} MB/s in {result['redo_seconds']:.2f} s,"
        f" of which {result['waited_seconds']:.2f} s in restore_command")
    compare(turns, way, copy)
    copy.stop()


def wait_open(turns, copy, log, position):
    """Waits for the server's own word; asking it all the time would take from the two cores."""
    deadline = time.monotonic() + RECOVERS_WITHIN
    while True:
        with open(log, encoding="utf-8", errors="replace") as file:
            file.seek(position)
            text = file.read()
        if OPEN in text:
            return text
        if turns.processes.ended(copy.postmaster) or time.monotonic() > deadline:
            raise Failed(f"the copy does not recover:\n{turns.processes.tail(copy.name)}")
        time.sleep(LOOK_EVERY)


def told(text):
    """How much was replayed, and how long it took, as the server's log has it."""
    begun, done = BEGUN.search(text), DONE.search(text)
    if not (begun and done):
        raise Failed("the server's log does not say what was replayed")
    return {"redo_seconds": float(done.group(3)), "wal_bytes": position(done) - position(begun)}


def position(found):
    return int(found.group(1), 16) << 32 | int(found.group(2), 16)


def compare(turns, way, copy):
    rows = "select count(*), sum(delta) from pgbench_history"
    if copy.sql(rows) != turns.server.sql(rows):
        raise Failed(f"what was recovered by {way.key} is not what was there")
