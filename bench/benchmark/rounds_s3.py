"""The rounds against an S3 server, which is started anew, and empty, for each turn."""

import time

from . import delay, recovery
from .machine import say
from .on_s3 import DrydockOnS3, PgBackRestOnS3
from .rounds import TRANSACTIONS_BETWEEN, Turns, rotated

STEPS = ["backups", "recovery", "delay", "idle"]
TOOLS = {tool.key: tool for tool in [DrydockOnS3, PgBackRestOnS3]}
# Until the service has nothing left to do.
SETTLES_WITHIN = 20.0


def run_all(options, server, database, processes, storage, results):
    tools = {key: TOOLS[key](server, storage) for key in options.tools}
    results["tools"] = {key: {"name": tool.name, "version": tool.version(), "about": tool.about}
                        for key, tool in tools.items()}
    results["setting"] |= {"transactions_between": TRANSACTIONS_BETWEEN, "storage": storage.about(),
                           "latency_ms": storage.far.latency_ms}
    say(results["setting"]["storage"])
    turns = Turns(options, server, database, processes, results, storage)
    for number in range(options.rounds):
        if "backups" in options.steps:
            for tool in rotated(list(tools.values()), number):
                with storage.running():
                    turns.backup_and_restore(number, tool)
        if "recovery" in options.steps and len(tools) == len(TOOLS):
            with storage.running():
                recovery.compare(turns, number, *tools.values())
    if "drydock" not in tools:
        return
    ours = tools["drydock"]
    if "delay" in options.steps:
        for link in [storage.near, storage.far]:
            with storage.running():
                delay.measure(turns, ours, link)
    if "idle" in options.steps:
        with storage.running():
            idle(turns, ours)


def idle(turns, ours):
    """What the service asks for while nothing happens on the server."""
    ours.prepare()
    time.sleep(SETTLES_WITHIN)
    result = {"seconds": float(turns.options.idle_seconds)}
    with turns.counting(ours.key, result):
        time.sleep(turns.options.idle_seconds)
    turns.keep(0, ours.key, "idle", result)
    ours.finish()
