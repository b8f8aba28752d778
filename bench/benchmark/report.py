"""From measurements to the table and the verdicts."""

import json
from dataclasses import dataclass
from statistics import median

from . import chart

NONE = "–"
OURS = "drydock"
PEER = "pgbackrest"
MEMORY_MAX = 150e6
# One may be the end of what came before; the kernel does not count finer.
TICKS_IDLE_MAX = 1


class Medians:
    """The medians over the rounds."""

    def __init__(self, results):
        self.measurements = results["measurements"]

    def of(self, tool, step, field):
        """None where nothing was measured."""
        values = self.all(tool, step, field)
        return median(values) if values else None

    def all(self, tool, step, field):
        return [one[field] for one in self.measurements
                if one["tool"] == tool and one["step"] == step and field in one]

    def rate(self, tool):
        """WAL catch-up in bytes per second."""
        rates = [one["wal_bytes"] / one["seconds"] for one in self.measurements
                 if one["tool"] == tool and one["step"] == "WAL catch-up"]
        return median(rates) if rates else None


@dataclass
class Goal:
    """What was promised, and what came of it."""
    promise: str
    measured: str
    met: bool


def write(results, directory):
    panels = chart.all_panels(results, Medians(results))
    write_files(directory, results, table(results), chart.draw(results, panels))


def write_files(directory, results, text, drawing):
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "results.json").write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    (directory / "table.md").write_text(text, encoding="utf-8")
    (directory / "chart.svg").write_text(drawing, encoding="utf-8")


def table(results):
    medians = Medians(results)
    parts = [heading(results), *backups(results, medians), *catch_up(results, medians), *goals_table(goals(medians)),
             *footnotes(results, medians)]
    return "\n".join(parts) + "\n"


def heading(results):
    setting = results["setting"]
    cache = {"drop": "dropped", "warm": "warmed"}[setting["cache"]]
    rounds = "one round" if setting["rounds"] == 1 else f"medians of {setting['rounds']} rounds"
    return (f"PostgreSQL {setting['postgresql']} with data checksums, {gigabytes(setting['data_directory_bytes'])}"
            f" ({gigabytes(setting['pgbench_bytes'])} pgbench, {gigabytes(setting['documents_bytes'])} JSON documents);"
            f" {setting['cores']} cores ({setting['processor']}), {gigabytes(setting['memory_bytes'])} memory,"
            f" {setting['system']}, {setting['filesystem']}; {rounds}, page cache {cache} before each step;"
            f" {setting['date']}. In parentheses: how many times ours.\n")


def backups(results, medians):
    tools = results["tools"]
    if not any(one["step"] == "backup" for one in results["measurements"]):
        return
    yield row("", *(f"{tool['name']} {tool['version']}" for tool in tools.values()))
    yield rule(len(tools))
    for step, title in [("backup", "Full backup"), ("restore", "Restore"), ("second backup", "Second backup")]:
        fields = [(f"**{title}**", "seconds", seconds), ("CPU of the client", "client_cpu_seconds", seconds),
                  ("CPU of the server", "server_cpu_seconds", seconds), ("peak memory", "peak_bytes", megabytes),
                  ("service beside it: CPU", "service_cpu_seconds", seconds),
                  ("service beside it: peak memory", "service_peak_bytes", megabytes)]
        fields += [("CPU of the S3 server", "storage_cpu_seconds", seconds),
                   ("CPU of TLS before it", "tls_cpu_seconds", seconds), ("requests", "requests_all", count)]
        if step == "backup":
            fields.append(("size in the repository", "bytes", megabytes))
        if step == "second backup":
            fields.append(("added to the repository", "bytes", megabytes))
        for label, field, unit in fields:
            if label.startswith("service") and step != "backup":
                continue
            values = {tool: medians.of(tool, step, field) for tool in tools}
            if any(value is not None for value in values.values()):
                yield row(label, *cells(values, unit))
    yield ""


def catch_up(results, medians):
    tools = {one["tool"]: None for one in results["measurements"] if one["step"] == "WAL catch-up"}
    order = [tool for tool in [OURS, "pg_receivewal", PEER] if tool in tools]
    if not order:
        return
    names = {"pg_receivewal": f"pg_receivewal {results['setting']['postgresql']}"}
    names |= {key: f"{tool['name']} {tool['version']}" for key, tool in results["tools"].items()}
    yield row("", *(names[tool] for tool in order))
    yield rule(len(order))
    rates = {tool: medians.rate(tool) for tool in order}
    yield row("**WAL catch-up**", *cells(rates, lambda value: f"{value / 1e6:.0f} MB/s"))
    for label, field, unit in [("time", "seconds", seconds), ("CPU of the client", "client_cpu_seconds", seconds),
                               ("CPU of the server", "server_cpu_seconds", seconds),
                               ("peak memory", "peak_bytes", megabytes), ("stored", "bytes", megabytes)]:
        values = {tool: medians.of(tool, "WAL catch-up", field) for tool in order}
        yield row(label, *cells(values, unit))
    wal = medians.of(order[0], "WAL catch-up", "wal_bytes")
    yield f"\nThe WAL that waited: {megabytes(wal)} of pgbench's.\n"


def goals_table(found):
    if not found:
        return
    yield row("Goal", "Measured", "")
    yield rule(2)
    for goal in found:
        yield row(goal.promise, goal.measured, "met" if goal.met else "**missed**")
    yield ""


def goals(medians):
    """The goals of which both sides were measured."""
    found = []
    for promise, step, field, limit in [
        ("full backup in at most 0.80 of pgBackRest's time", "backup", "seconds", 0.8),
        ("its repository at most 1.10 of pgBackRest's", "backup", "bytes", 1.1),
        ("restore in at most 0.65 of pgBackRest's time", "restore", "seconds", 0.65),
    ]:
        ours, theirs = medians.of(OURS, step, field), medians.of(PEER, step, field)
        if ours and theirs:
            found.append(Goal(promise, f"{ours / theirs:.2f}", ours / theirs <= limit))
    ours, theirs = medians.rate(OURS), medians.rate("pg_receivewal")
    if ours and theirs:
        found.append(Goal("WAL catch-up at least as fast as uncompressed pg_receivewal",
                          f"{ours / theirs:.2f} of its speed", ours >= theirs))
    for promise, peak in memory(medians).items():
        if peak:
            found.append(Goal(f"{promise} in less than {megabytes(MEMORY_MAX)}", megabytes(peak), peak < MEMORY_MAX))
    ticks = medians.of(OURS, "idle", "service_cpu_ticks")
    if ticks is not None:
        used = f"{ticks:.0f} clock ticks in {medians.of(OURS, 'idle', 'seconds'):.0f} s"
        found.append(Goal("an idle service uses no measurable CPU", used, ticks <= TICKS_IDLE_MAX))
    return found


def memory(medians):
    """The highest of every round, not the median: a limit is a limit."""
    def highest(*measured):
        return max((value for which in measured for value in medians.all(OURS, *which)), default=None)
    return {
        "a backup": highest(("backup", "peak_bytes"), ("second backup", "peak_bytes")),
        "a restore": highest(("restore", "peak_bytes")),
        "the service": highest(("backup", "service_peak_bytes"), ("second backup", "service_peak_bytes"),
                               ("WAL catch-up", "peak_bytes"), ("idle", "service_peak_bytes")),
    }


def footnotes(results, medians):
    for tool in results["tools"].values():
        yield f"- {tool['name']} {tool['version']}: {tool['about']}."
    with_service = [tool["name"] for key, tool in results["tools"].items() if key in (OURS, "barman")]
    yield ("- Memory: resident, of all of a tool's processes at one moment; what they share counts in each. With"
           f" {' and '.join(with_service)} a service runs beside the server, and is measured apart.")
    unsynced = [f"{results['tools'][tool]['name']} {median_of:.1f} s" for tool in results["tools"]
                if (median_of := medians.of(tool, "restore", "unsynced_seconds") or 0) >= 0.5]
    if unsynced:
        yield ("- Left for the kernel to write after a restore had ended, which a power cut would have lost; not in"
               f" its time above: {', '.join(unsynced)}.")
    between = results["setting"]["transactions_between"]
    yield f"- Second backup: {between} transactions of pgbench after the first; pgBackRest's is `--type=incr`."


# ---- cells

def cells(values, unit):
    """Values, each with how many times ours it is."""
    ours = values.get(OURS)
    for tool, value in values.items():
        if value is None:
            yield NONE
        elif tool == OURS or not ours:
            yield unit(value)
        else:
            yield f"{unit(value)} ({value / ours:.2f}×)"


def row(*words):
    return "| " + " | ".join(words) + " |"


def rule(columns):
    return "| --- |" + " ---: |" * columns


def seconds(value):
    return f"{value:.1f} s" if value < 100 else f"{value:.0f} s"


def count(value):
    return f"{value:.0f}"


def megabytes(value):
    return f"{value / 1e6:.0f} MB" if value >= 10e6 else f"{value / 1e6:.1f} MB"


def gigabytes(value):
    return f"{value / 1e9:.1f} GB"
