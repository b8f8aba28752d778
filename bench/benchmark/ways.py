"""Ways to get WAL back: what `restore_command` runs.

The data directory is the same for all ways, a copy that Drydock restored, and so is the WAL; only `restore_command`
differs. The bound is `cp` from a local directory.
"""

import re
import shlex
from dataclasses import dataclass

LOCAL = "local"
OURS, OURS_ALONE = "drydock", "drydock without prefetch"
THEIRS, THEIRS_ALONE = "pgbackrest", "pgbackrest without async"
WAYS = {
    OURS: "Drydock", OURS_ALONE: "Drydock without prefetch",
    THEIRS: "pgBackRest, asynchronous", THEIRS_ALONE: "pgBackRest, not asynchronous",
    LOCAL: "`cp`, local directory",
}
# What `restore_command` runs: $1 is %f and $2 is %p. It notes what each call took.
SCRIPT = """\
{environment}
from=$EPOCHREALTIME
{command}
code=$?
echo "$1 $from $EPOCHREALTIME $code" >>{times}
exit $code
"""


@dataclass(frozen=True)
class Way:
    """A way to get WAL back: a tool's bucket, where it has one, and what to run for a segment."""
    key: str
    bucket: str
    command: str
    environment: dict


def way_of(key, link, ours, others, copy, archive):
    if key == LOCAL:
        return Way(key, "", f'cp {archive}/"$1" "$2"', {})
    if key == OURS:
        return Way(key, ours.key, as_restored(copy), {})
    if key == OURS_ALONE:
        return Way(key, ours.key, as_restored(copy).replace(" wal fetch ", " wal fetch --no-prefetch "), {})
    return Way(key, others.key, others.fetch_command(copy, link, asynchronous=key == THEIRS), {})


def as_restored(copy):
    """The restore_command that a restore of ours has written."""
    text = (copy.data / "postgresql.auto.conf").read_text(encoding="utf-8")
    written = re.search("^restore_command = '(.*)'$", text, re.MULTILINE).group(1)
    return written.replace("''", "'").replace("\\\\", "\\").replace("%f", "$1").replace("%p", "$2")


class Script:
    """A way's script, and the times of its calls."""

    def __init__(self, turns, way, step):
        name = f"{step} {way.key}".replace(" ", "-")
        self.path = turns.server.scratch / f"{name}.sh"
        self.times = turns.server.scratch / f"{name}.times"
        for path in [self.path, self.times]:
            path.unlink(missing_ok=True)
        environment = "\n".join(f"export {key}={shlex.quote(str(value))}" for key, value in way.environment.items())
        turns.processes.private_file(self.path, SCRIPT.format(environment=environment, command=way.command,
                                                              times=self.times))

    def calls(self):
        """The seconds of each call that brought a segment."""
        lines = [line.split() for line in self.times.read_text(encoding="utf-8").splitlines()]
        return [float(to) - float(since) for _, since, to, code in lines if code == "0"]
