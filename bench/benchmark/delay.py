"""How long after a commit its WAL is safe in the bucket, under a light load.

Nobody waits for it here: a client commits a small row now and then, and the position that the service has acknowledged
is looked at all the time. What it acknowledges is durable in the repository, so the delay of a commit ends when that
position has passed it.
"""

import random
import threading
import time
from bisect import bisect_left
from statistics import median

from .drydock import SLOT
from .machine import Failed, say
from .server import Session

COMMITS_PER_SECOND = 20
LOOK_EVERY = 0.005
CATCHES_UP_WITHIN = 60.0


def measure(turns, ours, link):
    server = turns.server
    ours.link = link
    ours.prepare()
    server.sql("create table light (at timestamptz, note text)")
    server.checkpoint()
    # The load should not begin in the wake of what came before it.
    time.sleep(5)
    result = {"commits_per_second": COMMITS_PER_SECOND}
    watch = Watch(server)
    begun = server.lsn("pg_current_wal_insert_lsn()")
    with turns.counting(ours.key, result):
        commits = light_load(server, turns.options.delay_seconds)
        watch.until(commits[-1][1])
    result["wal_bytes"] = server.lsn("pg_current_wal_insert_lsn()") - begun
    result["seconds"] = commits[-1][0] - commits[0][0]
    result["delays"] = [round(delay, 4) for delay in delays(commits, watch.finish())]
    result |= figures(result["delays"])
    turns.keep(0, ours.key, f"delay {link.name}", result)
    say(f"{'':<13} median {result['delay_median']:.3f} s, 99th percentile {result['delay_p99']:.3f} s,"
        f" longest {result['delay_max']:.3f} s of {len(commits)} commits")
    server.sql("drop table light")
    ours.finish()
    ours.link = ours.storage.near


def light_load(server, seconds):
    """Commits rows at moments that keep no step with anything: (when it returned, the WAL it waited for) for each."""
    session, chance, commits = Session(server), random.Random(1), []
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        time.sleep(chance.expovariate(COMMITS_PER_SECOND))
        session.ask("insert into light values (now(), repeat(md5(random()::text), 4)) returning 1")
        returned = time.monotonic()
        commits.append((returned, int(session.ask("select pg_current_wal_flush_lsn() - '0/0'::pg_lsn"))))
    session.close()
    return commits


class Watch(threading.Thread):
    """Looks at the acknowledged position, and keeps when it was first seen where it is."""

    SQL = ("select coalesce(max(flush_lsn - '0/0'::pg_lsn), 0) from pg_stat_replication"
           f" where application_name = '{SLOT}'")

    def __init__(self, server):
        super().__init__(daemon=True)
        self.session = Session(server)
        self.seen = []
        self.done = threading.Event()
        self.start()

    def run(self):
        while not self.done.wait(LOOK_EVERY):
            position = int(self.session.ask(self.SQL))
            if not self.seen or position > self.seen[-1][1]:
                self.seen.append((time.monotonic(), position))

    def until(self, position):
        deadline = time.monotonic() + CATCHES_UP_WITHIN
        while not self.seen or self.seen[-1][1] < position:
            if time.monotonic() > deadline:
                raise Failed(f"a commit was not in the bucket after {CATCHES_UP_WITHIN:.0f} s")
            time.sleep(LOOK_EVERY)

    def finish(self):
        self.done.set()
        self.join()
        self.session.close()
        return self.seen


def delays(commits, seen):
    """For each commit, the time from its return until a position at or past it was seen."""
    positions = [position for _, position in seen]
    return [max(0.0, seen[bisect_left(positions, position)][0] - returned) for returned, position in commits]


def figures(found):
    ordered = sorted(found)
    return {"delay_median": median(ordered), "delay_p99": ordered[min(len(ordered) - 1, int(len(ordered) * 0.99))],
            "delay_max": ordered[-1]}
