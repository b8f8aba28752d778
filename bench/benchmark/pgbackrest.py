"""pgBackRest: its own archive_command, repository in a directory."""

from .tool import Tool

STANZA = "bench"
# The first version that stores parts of files.
BLOCK_SINCE = (2, 46)


class PgBackRest(Tool):
    key = "pgbackrest"
    name = "pgBackRest"
    second_is_smaller = True

    def __init__(self, server):
        super().__init__(server)
        self.options = self.home / "pgbackrest.conf"
        block = tuple(int(part) for part in self.version().split(".")[:2]) >= BLOCK_SINCE
        self.block = "repo1-block=y" if block else ""
        self.about = ("zst level 3, process-max 2, start-fast, bundle" + (" and block" if block else "") + " on"
                      + ("" if block else " (this version has no block option)") + ", asynchronous archiving")

    def version(self):
        return self.processes.output(["pgbackrest", "version"], log=self.key).split()[-1]

    def prepare(self):
        self.make_home("repository", "log", "lock", "spool")
        self.options.write_text(f"""\
[global]
repo1-path={self.home}/repository
repo1-bundle=y
{self.block}
log-path={self.home}/log
lock-path={self.home}/lock
spool-path={self.home}/spool
compress-type=zst
compress-level=3
process-max=2
start-fast=y
archive-async=y
log-level-console=warn
log-level-file=warn

[{STANZA}]
pg1-path={self.server.data}
pg1-socket-path={self.server.scratch}
pg1-port={self.server.port}
pg1-user=postgres
""", encoding="utf-8")
        self.options.chmod(0o644)
        self.processes.run(self.command("stanza-create"), log=self.key)
        self.start_archiving()
        self.processes.run(self.command("check"), log=self.key)

    def command(self, *words):
        return ["pgbackrest", f"--config={self.options}", f"--stanza={STANZA}", *words]

    def start_archiving(self):
        self.server.archive_with(self.archive_command())

    def archive_command(self):
        return " ".join(self.command("archive-push", "%p"))

    def backup(self):
        return self.command("--type=full", "backup"), {}

    def second_backup(self):
        return self.command("--type=incr", "backup"), {}

    def restore(self, target):
        return self.command(f"--pg1-path={target}", "restore"), {}

    def backup_bytes(self):
        return self.size_of("repository/backup")

    def wal_bytes(self):
        return self.size_of("repository/archive")

    def archived(self):
        """The names of the segments in the archive, which are followed by their checksums there."""
        return {path.name[:24] for path in (self.home / "repository/archive").glob("*/*/*/*-*.zst")}

    def finish(self):
        self.processes.end_orphans()
        self.remove_home()
