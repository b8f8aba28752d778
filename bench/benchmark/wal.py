"""WAL catch-up: the archiver was away, the server kept the WAL; how long until all of it is safe?

The same WAL waits for everybody: for Drydock and pg_receivewal behind their slots, for pgBackRest as segments that
archive_command has not taken. It ends at a segment's end, so that the last byte asked for is in a whole segment.
"""

import time

from . import drydock, machine
from .machine import Failed, say
from .server import KEEPS_FOR_LATER, SEGMENT_BYTES, Session

SLOT = "receivewal"
CATCHES_UP_WITHIN = 1800.0
LOOK_EVERY = 0.02


def catch_up(turns, number, tools):
    """One turn of everybody who archives WAL."""
    ours, others = tools.get("drydock"), tools.get("pgbackrest")
    receiver = ReceiveWal(turns.server)
    contenders = [one for one in [ours, receiver, others] if one is not None]
    start, end = prepare(turns, contenders, ours)
    by = number % len(contenders)
    for one in contenders[by:] + contenders[:by]:
        turns.server.checkpoint()
        machine.settle(turns.options.cache, [turns.server.data / "pg_wal"])
        {"drydock": follow, "pgbackrest": push, ReceiveWal.key: receive}[one.key](turns, number, one, start, end)
    for one in contenders:
        one.finish()
    # Nobody needs the old segments any more; the checkpoint lets the server reuse them.
    turns.server.checkpoint()


def prepare(turns, contenders, ours):
    """Has everybody ready and away, and writes the WAL they will find. Returns where it begins and ends."""
    server = turns.server
    # pgBackRest ends segments while it gets ready, and a new slot keeps the WAL from the last checkpoint on. In this
    # order, nobody has to catch up with more than a segment above what is counted.
    for one in sorted(contenders, key=lambda one: ["pgbackrest", "drydock", ReceiveWal.key].index(one.key)):
        server.checkpoint()
        one.prepare()
        if one is ours:
            ours.check_stopped()
    turns.processes.end_orphans()
    server.archive_with(KEEPS_FOR_LATER)
    server.checkpoint()
    start = server.switch_segment()
    turns.database.write_wal(turns.options.wal_gb * 1e9)
    end = server.switch_segment()
    say(f"{'':<13} {(end - start) / 1e6:.0f} MB of WAL wait")
    return start, end


def follow(turns, number, ours, start, end):
    """Ours: the service starts, and has caught up when it has told the slot so."""
    session = Session(turns.server)
    stored = ours.wal_bytes()
    with turns.meter.step(helpers=[session.child]) as result:
        ours.start_service()
        sql = (f"select restart_lsn >= '0/0'::pg_lsn + {end} from pg_replication_slots"
               f" where slot_name = '{drydock.SLOT}'")
        wait(lambda: session.ask(sql) == "t", lambda: not turns.processes.ended(ours.service), ours.key)
    session.close()
    ours.check_stopped()
    keep(turns, number, ours, result, start, end, ours.wal_bytes() - stored)


def receive(turns, number, receiver, start, end):
    """pg_receivewal: ends by itself once it has all and has synced it."""
    with turns.meter.step() as result:
        started = time.monotonic()
        turns.processes.run(receiver.command(end), receiver.key, turns.server.environment())
        result["seconds"] = time.monotonic() - started
    keep(turns, number, receiver, result, start, end, receiver.wal_bytes())


def push(turns, number, others, start, end):
    """pgBackRest: archive_command works again, and the last segment is in the archive."""
    stored, wanted = others.wal_bytes(), turns.server.segment_at(end - 1)
    segments = (end - start) // SEGMENT_BYTES
    first = turns.server.segment_at(start)
    command = others.archive_command()
    session = Session(turns.server)
    session.ask(f"alter system set archive_command = '{command}'; select 1")
    with turns.meter.step(helpers=[session.child]) as result:
        session.ask("select pg_reload_conf()")

        def all_there():
            names = others.archived()
            return wanted in names and sum(first <= name <= wanted for name in names) >= segments

        wait(all_there, lambda: True, others.key)
    session.close()
    keep(turns, number, others, result, start, end, others.wal_bytes() - stored)


def wait(until, alive, key):
    deadline = time.monotonic() + CATCHES_UP_WITHIN
    while not until():
        if not alive():
            raise Failed(f"{key} ended before it had caught up")
        if time.monotonic() > deadline:
            raise Failed(f"{key} did not catch up within {CATCHES_UP_WITHIN:.0f} s")
        time.sleep(LOOK_EVERY)


def keep(turns, number, one, result, start, end, stored):
    result["wal_bytes"] = end - start
    result["bytes"] = stored
    turns.keep(number, one.key, "WAL catch-up", result)
    say(f"{'':<13} {(end - start) / 1e6 / result['seconds']:.0f} MB/s, {stored / 1e6:.0f} MB stored")


class ReceiveWal:
    """pg_receivewal: uncompressed, synced segment by segment as it does by default."""

    key = "pg_receivewal"
    name = "pg_receivewal"

    def __init__(self, server):
        self.server = server
        self.directory = server.scratch / self.key

    def prepare(self):
        self.server.processes.run(["mkdir", "-m", "700", self.directory], log=self.key)
        self.server.sql(f"select pg_create_physical_replication_slot('{SLOT}', true)")

    def command(self, end):
        lsn = f"{end >> 32:X}/{end & 0xFFFFFFFF:X}"
        return [self.server.bin / "pg_receivewal", "-D", self.directory, f"--slot={SLOT}", f"--endpos={lsn}",
                "--no-loop"]

    def wal_bytes(self):
        return machine.tree_bytes(self.directory)

    def finish(self):
        self.server.drop_slot(SLOT)
        machine.remove(self.directory)
