"""The rounds: in each one every tool has its turn at everything, and another tool begins."""

import shutil
import time
from contextlib import nullcontext

from . import machine, process, wal
from .barman import Barman
from .basebackup import BaseBackup
from .drydock import Drydock
from .machine import Failed, say
from .meter import Meter
from .pgbackrest import PgBackRest
from .server import Server

STEPS = ["backups", "wal", "idle"]
TOOLS = {tool.key: tool for tool in [Drydock, PgBackRest, Barman, BaseBackup]}
# Transactions of pgbench between a tool's first backup and its second.
TRANSACTIONS_BETWEEN = 1000


def run_all(options, server, database, processes, results):
    tools = {key: TOOLS[key](server) for key in options.tools}
    results["tools"] = {key: {"name": tool.name, "version": tool.version(), "about": tool.about}
                        for key, tool in tools.items()}
    results["setting"]["transactions_between"] = TRANSACTIONS_BETWEEN
    for key, tool in results["tools"].items():
        say(f"{tool['name']} {tool['version']}: {tool['about']}")
    turns = Turns(options, server, database, processes, results)
    for number in range(options.rounds):
        if "backups" in options.steps:
            for tool in rotated(list(tools.values()), number):
                turns.backup_and_restore(number, tool)
        if "wal" in options.steps:
            wal.catch_up(turns, number, tools)
    if "idle" in options.steps and "drydock" in tools:
        turns.idle(tools["drydock"])


def rotated(items, by):
    by %= len(items)
    return items[by:] + items[:by]


class Turns:
    """Runs the steps and keeps what was measured."""

    def __init__(self, options, server, database, processes, results, storage=None):
        self.options = options
        self.server = server
        self.database = database
        self.processes = processes
        self.storage = storage
        self.measurements = results["measurements"]
        self.meter = Meter(server, storage)
        self.checked = False

    # ---- backup and restore

    def backup_and_restore(self, number, tool):
        tool.prepare()
        target = self.server.scratch / "restored"
        self.timed(number, tool, "backup", tool.backup(), [self.server.data])
        self.note("backup", bytes=tool.backup_bytes(), data_bytes=self.database.bytes())
        before = self.database.fingerprint(self.server)
        self.timed(number, tool, "restore", tool.restore(target), tool.reads())
        self.check_restored(tool, target, before)
        shutil.rmtree(target)
        if tool.second_is_smaller:
            self.database.change_a_little(TRANSACTIONS_BETWEEN)
            kept = tool.backup_bytes()
            self.timed(number, tool, "second backup", tool.second_backup(), [self.server.data])
            self.note("second backup", bytes=tool.backup_bytes() - kept)
        tool.finish()

    def timed(self, number, tool, step, command, read):
        """Runs a command and keeps what it cost."""
        argv, environment = command
        self.server.checkpoint()
        machine.settle(self.options.cache, read)
        with self.meter.step(service=tool.service) as result, self.counting(tool.key, result):
            started = time.monotonic()
            self.processes.run(argv, tool.key, environment)
            result["seconds"] = time.monotonic() - started
        self.keep(number, tool.key, step, result)

    def check_restored(self, tool, target, fingerprint):
        """Every copy must be of the right size; one of ours is started and looked into."""
        size = machine.tree_bytes(target) - machine.tree_bytes(target / "pg_wal")
        expected = self.database.bytes()
        if not 0.98 < size / expected < 1.02:
            raise Failed(f"{tool.name} restored {size} bytes of {expected}")
        if tool.key != "drydock" or self.checked:
            return
        copy = Server(self.server.scratch, self.processes, name="restored")
        copy.start("-c", "archive_mode=off")
        copy.wait_for("the end of recovery", "select not pg_is_in_recovery()")
        if copy.sql("show data_checksums") != "on" or self.database.fingerprint(copy) != fingerprint:
            raise Failed("what Drydock restored is not what it backed up")
        copy.stop()
        say("drydock       the restored copy starts and holds what the original held")
        self.checked = True

    # ---- the idle service

    def idle(self, tool):
        """CPU ticks that the service uses while nothing happens."""
        tool.prepare()
        time.sleep(5)
        start = sum(process.stat(tool.service.pid))
        time.sleep(self.options.idle_seconds)
        used = sum(process.stat(tool.service.pid)) - start
        peak = process.status(tool.service.pid)[2]
        self.keep(0, tool.key, "idle", {"seconds": float(self.options.idle_seconds), "service_cpu_seconds": used,
                                        "service_cpu_ticks": round(used * process.TICKS),
                                        "service_peak_bytes": peak})
        tool.finish()

    # ---- results

    def counting(self, key, result):
        """Counts a tool's requests, where there is a server to ask for anything."""
        return self.storage.log.counting(key, result) if self.storage is not None else nullcontext()

    def keep(self, number, key, step, result):
        self.measurements.append({"round": number + 1, "tool": key, "step": step} | result)
        words = [f"{key:<13} {step:<13} {result['seconds']:7.2f} s"]
        for name, label in [("client_cpu_seconds", "client CPU"), ("server_cpu_seconds", "server CPU")]:
            if name in result:
                words.append(f"{label} {result[name]:.1f} s")
        for name, label in [("peak_bytes", "memory"), ("service_peak_bytes", "service's memory")]:
            if name in result:
                words.append(f"{label} {result[name] / 1e6:.0f} MB")
        if "service_cpu_ticks" in result:
            words.append(f"{result['service_cpu_ticks']} ticks of CPU")
        if "requests_all" in result:
            words.append(f"{result['requests_all']} requests {result['requests']}")
        if "unsynced_seconds" in result:
            words.append(f"then {result['unsynced_seconds']:.2f} s to sync")
        say("  ".join(words))

    def note(self, step, **facts):
        """Adds to what was kept last."""
        assert self.measurements[-1]["step"] == step
        self.measurements[-1].update(facts)
        say(f"{'':<13} {facts['bytes'] / 1e6:.1f} MB in the repository")
