"""The table and the verdicts of a run against an S3 server. What it shares with one on directories is in report."""

from statistics import median

from . import chart
from .recovery import WAYS
from .report import (NONE, OURS, PEER, Goal, Medians, backups, cells, footnotes, goals_table, heading, megabytes, row,
                     rule, seconds, write_files)
from .requests import KINDS, PRICE_LIST, cost
from .server import SEGMENT_BYTES
from .ways import LOCAL, OURS_ALONE, THEIRS, THEIRS_ALONE

LINKS = ["near", "far"]
HOUR = 3600.0
GIGABYTE = 1e9
# What "never waits for WAL that could have been delivered" comes to, as speed of replay: starting a program for each
# segment takes time, too, and another program than `cp` takes more of it.
REPLAY_MIN = 0.9
DELAY_MAX = 1.0


def write(results, directory):
    write_files(directory, results, table(results), chart.draw(results, panels(results, Medians(results))))


def table(results):
    medians = Medians(results)
    parts = [heading(results), *backups(results, medians), *recovery(results, medians), *delays(results, medians),
             *requests(results), *goals_table(goals(results, medians)), *all_footnotes(results, medians)]
    return "\n".join(parts) + "\n"


def far(results):
    return f"{results['setting']['latency_ms']} ms away"


# ---- fetching and replaying

def recovery(results, medians):
    keys = [key for key in WAYS if medians.of(key, "replay near", "seconds") is not None]
    if not keys:
        return
    yield row("WAL from the bucket", *(WAYS[key] for key in keys))
    yield rule(len(keys))
    for link, where in [("near", "on this machine"), ("far", far(results))]:
        for step, title, field, unit in [
            ("fetch", f"**Fetch**, {where}: each segment, median", "call_median", milliseconds),
            ("fetch", "slowest", "call_max", milliseconds),
            ("fetch", "CPU of the client, all segments", "client_cpu_seconds", seconds),
            ("fetch", "requests for each segment", "requests_by_segment", ratio),
        ]:
            values = {key: value(medians, key, f"{step} {link}", field) for key in keys}
            yield row(title, *cells(values, unit))
    for link, where in [("near", "on this machine"), ("far", far(results))]:
        for title, field, unit in [
            (f"**Replay**, {where}", "rate", megabytes_per_second),
            ("time", "redo_seconds", seconds),
            ("of that in `restore_command`", "waited_seconds", seconds),
        ]:
            # A local directory is as near in both.
            values = {key: value(medians, key, f"replay {'near' if key == LOCAL else link}", field) for key in keys}
            yield row(title, *cells(values, unit))
    wal = medians.of(OURS, "replay near", "wal_bytes")
    yield f"\nThe WAL that was fetched and replayed: {megabytes(wal)} of pgbench's.\n"


def value(medians, key, step, field):
    """A median; also of what is worked out from several fields."""
    def over(above, below):
        pairs = zip(medians.all(key, step, above), medians.all(key, step, below), strict=True)
        found = [one / other for one, other in pairs]
        return median(found) if found else None
    if field == "rate":
        return over("wal_bytes", "redo_seconds")
    if field == "requests_by_segment":
        requests = over("requests_all", "wal_bytes")
        return None if requests is None else requests * SEGMENT_BYTES
    return medians.of(key, step, field)


# ---- the delay

def delays(results, medians):
    links = [link for link in LINKS if medians.of(OURS, f"delay {link}", "delay_median") is not None]
    if not links:
        return
    names = {"near": "server on this machine", "far": far(results)}
    yield row("From a commit until its WAL is durable in the bucket", *(names[link] for link in links))
    yield rule(len(links))
    for title, field in [("median", "delay_median"), ("99th percentile", "delay_p99"), ("longest", "delay_max")]:
        yield row(title, *(f"{medians.of(OURS, f'delay {link}', field):.2f} s" for link in links))
    first = next(one for one in results["measurements"] if one["step"].startswith("delay"))
    yield (f"\n{len(first['delays'])} commits in {first['seconds']:.0f} s, which did not wait for it;"
           f" `wal.flush_interval` as it is, 1 s. pgBackRest has no equal: it archives whole segments.\n")


# ---- requests

def requests(results):
    lines = list(request_lines(results))
    if not lines:
        return
    kinds = [kind for kind in KINDS if any(counted.get(kind, 0) >= 0.05 for *_, counted in lines)]
    yield row("Requests", *kinds, "cost")
    yield rule(len(kinds) + 1)
    for what, name, counted in lines:
        dollars = cost(counted)
        yield row(f"{what}, {name}", *(amount(counted.get(kind, 0)) for kind in kinds),
                  f"${dollars:.6f}" if dollars else "$0")
    yield (f"\nAt the list price of {PRICE_LIST}: $0.005 for 1000 of PUT, POST and LIST, $0.0004 for 1000 of GET and"
           " HEAD; DELETE is free. Room and traffic are not in it.\n")


def request_lines(results):
    """(what, whose, requests of each kind), each by GB or by hour."""
    names = {OURS: "Drydock", PEER: "pgBackRest"}
    for what, step, tools, unit in [
        ("full backup, by GB of database", "backup", [OURS, PEER], None),
        ("second backup, by GB of database", "second backup", [OURS, PEER], None),
        ("restore, by GB of database", "restore", [OURS, PEER], None),
        ("WAL written at full speed, by GB", "WAL", [OURS, PEER], "wal_bytes"),
        ("recovery, by GB of WAL", "replay near", [OURS, THEIRS], "wal_bytes"),
        ("light load, by hour", "delay near", [OURS], "seconds"),
        ("idle, by hour", "idle", [OURS], "seconds"),
    ]:
        for tool in tools:
            found = [one for one in results["measurements"]
                     if one["step"] == step and one["tool"] == tool and "requests" in one]
            if found:
                database = results["setting"]["data_directory_bytes"]
                amount_of_unit = sum(one.get(unit, database) for one in found)
                amount_of_unit /= HOUR if unit == "seconds" else GIGABYTE
                kinds = {kind for one in found for kind in one["requests"]}
                yield what, names[tool], {kind: sum(one["requests"].get(kind, 0) for one in found) / amount_of_unit
                                          for kind in kinds}


# ---- goals

def goals(results, medians):
    found = []
    for promise, step, limit in [("full backup in at most 0.80 of pgBackRest's time", "backup", 0.8),
                                 ("restore in at most 0.70 of pgBackRest's time", "restore", 0.7)]:
        ours, theirs = medians.of(OURS, step, "seconds"), medians.of(PEER, step, "seconds")
        if ours and theirs:
            found.append(Goal(promise, f"{ours / theirs:.2f}", ours / theirs <= limit))
    for link, where in [("near", "on this machine"), ("far", far(results))]:
        late = medians.of(OURS, f"delay {link}", "delay_p99")
        if late is not None:
            promise = f"99 of 100 commits in the bucket within {DELAY_MAX:.0f} s, server {where}"
            found.append(Goal(promise, f"{late:.2f} s", late <= DELAY_MAX))
    bound = value(medians, LOCAL, "replay near", "rate")
    for link, where in [("near", "on this machine"), ("far", far(results))]:
        ours, alone = (value(medians, key, f"replay {link}", "rate") for key in (OURS, OURS_ALONE))
        if ours and bound:
            without = f"; {alone / bound:.2f} without prefetch" if alone else ""
            promise = (f"replay waits for no WAL that could be there: {REPLAY_MIN:.2f} of the speed of `cp` from a"
                       f" local directory, server {where}")
            found.append(Goal(promise, f"{ours / bound:.2f}{without}", ours / bound >= REPLAY_MIN))
    return found


def all_footnotes(results, medians):
    setting = results["setting"]
    yield f"- S3 server: {setting['storage']}. All on the same {setting['cores']} cores."
    yield from footnotes(results, medians)
    if medians.of(OURS, "replay near", "seconds") is not None:
        yield (f"- \"{far(results)}\": each request takes that much longer, and the first one of a connection three"
               " times that, for TCP and TLS.")
        yield ("- Replay: from \"redo starts\" to \"redo done\" in the server's log. Its data directory is the same for"
               " all, restored by Drydock; \"without prefetch\" is with `--no-prefetch`.")
    if any(one.get("requests", {}).get("HEAD") for one in results["measurements"] if one["tool"] == OURS):
        yield ("- Garage has no conditional writes, so Drydock looks before it writes: a HEAD for each PUT. Where a"
               " server has them, as AWS has, it does not.")
    failed = sum(one.get("requests_failed", 0) for one in results["measurements"])
    if failed:
        yield f"- {failed} requests failed (400, 403, 408, 429 or 5xx)."
    idle = [one["seconds"] for one in results["measurements"] if one["step"] == "idle"]
    if idle:
        yield f"- The idle hour is worked out from {idle[0]:.0f} s, the hour of light load from the commits above."


# ---- the chart

def panels(results, medians):
    names = {key: tool["name"] for key, tool in results["tools"].items()}
    names |= {OURS_ALONE: "no prefetch", THEIRS_ALONE: "not async", LOCAL: "cp"}

    def of_tools(step, field, by=1.0):
        found = {key: medians.of(key, step, field) for key in results["tools"]}
        return {key: one / by for key, one in found.items() if one is not None}

    def of_ways(step, field, by):
        found = {key: value(medians, key, "replay near" if key == LOCAL else step, field) for key in WAYS}
        return {key: one * by for key, one in found.items() if one is not None}

    def share(values, part):
        return values[PEER] * part if PEER in values else None

    backup, restore = of_tools("backup", "seconds"), of_tools("restore", "seconds")
    yield chart.bars(names, "Full backup to S3", "s", backup, share(backup, 0.8))
    yield chart.bars(names, "Restore from S3", "s", restore, share(restore, 0.7))
    for link, where in [("near", "S3 here"), ("far", f"S3 {far(results)}")]:
        rates = of_ways(f"replay {link}", "rate", 1e-6)
        goal = rates[LOCAL] * REPLAY_MIN if LOCAL in rates else None
        yield chart.bars(names, f"Replay, {where}", "MB/s", rates, goal, more_is_better=True)


# ---- cells

def milliseconds(one):
    return f"{one * 1000:.0f} ms" if one >= 0.01 else f"{one * 1000:.1f} ms"


def ratio(one):
    return f"{one:.1f}"


def megabytes_per_second(one):
    return f"{one / 1e6:.0f} MB/s"


def amount(one):
    return NONE if one == 0 else f"{one:.0f}" if one >= 10 else f"{one:.1f}"
