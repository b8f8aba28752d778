"""pgBackRest: its own archive_command; see on_s3 for a repository in a bucket."""

from .tool import Tool

STANZA = "bench"
# What is fetched ahead of recovery, beside the repository.
FETCH_SPOOL = "fetch-spool"
# The first version that stores parts of files.
BLOCK_SINCE = (2, 46)


class PgBackRest(Tool):
    key = "pgbackrest"
    name = "pgBackRest"
    second_is_smaller = True

    def __init__(self, server):
        super().__init__(server)
        self.options = self.home / "pgbackrest.conf"
        self.fetch_options = self.home / "fetch.conf"
        block = tuple(int(part) for part in self.version().split(".")[:2]) >= BLOCK_SINCE
        self.block = "repo1-block=y" if block else ""
        self.about = ("zst level 3, process-max 2, start-fast, bundle" + (" and block" if block else "") + " on"
                      + ("" if block else " (this version has no block option)") + ", asynchronous archiving")

    def version(self):
        return self.processes.output(["pgbackrest", "version"], log=self.key).split()[-1]

    def prepare(self):
        self.make_home("repository", "log", "lock", "spool", "fetch-lock")
        self.write_options(self.options, f"lock-path={self.home}/lock\nspool-path={self.home}/spool\narchive-async=y")
        # In recovery, what fetches ahead must not meet what runs beside the original.
        self.write_options(self.fetch_options, f"lock-path={self.home}/fetch-lock")
        self.processes.run(self.command("stanza-create"), log=self.key)
        self.start_archiving()
        self.processes.run(self.command("check"), log=self.key)

    def write_options(self, path, archiving):
        self.processes.private_file(path, f"""\
[global]
{self.repository()}
repo1-bundle=y
{self.block}
{archiving}
log-path={self.home}/log
compress-type=zst
compress-level=3
process-max=2
start-fast=y
log-level-console=warn
log-level-file=warn

[{STANZA}]
pg1-path={self.server.data}
pg1-socket-path={self.server.scratch}
pg1-port={self.server.port}
pg1-user=postgres
""")

    def repository(self):
        return f"repo1-path={self.home}/repository"

    def command(self, *words):
        return ["pgbackrest", f"--config={self.options}", f"--stanza={STANZA}", *words]

    def start_archiving(self):
        self.server.archive_with(self.archive_command())

    def archive_command(self):
        return " ".join(self.command("archive-push", "%p"))

    def fetch_command(self, copy, link, asynchronous):
        """What a restored copy's restore_command runs."""
        ahead = ["--archive-async", f"--spool-path={self.home}/{FETCH_SPOOL}"] if asynchronous else []
        words = ["pgbackrest", f"--config={self.fetch_options}", f"--stanza={STANZA}", f"--pg1-path={copy.data}",
                 f"--repo1-storage-port={link.port}", *ahead, "archive-get", '"$1"', '"$2"']
        return " ".join(words)

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
