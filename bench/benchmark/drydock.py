"""Drydock: `backupd run` beside the server, `backupctl` for the rest; see on_s3 for a repository in a bucket."""

from .machine import Failed
from .tool import Tool

SLOT = "drydock"
CLUSTER = "bench"
# What is fetched ahead of recovery, in the data directory.
PREFETCH_PATH = "pg_wal/drydock/prefetch"


class Drydock(Tool):
    key = "drydock"
    name = "Drydock"
    about = ("`backupd run` streams WAL; `backupctl backup` and `restore`; zstd level 1,"
             " two threads, every page, file and frame checked")
    second_is_smaller = True

    def environment(self):
        return self.repository() | {
            "DRYDOCK_CLUSTER": CLUSTER,
            "REPLICATION_HOST": self.server.scratch,
            "REPLICATION_PORT": self.server.port,
            "REPLICATION_USER": "drydock",
            # As many as the peers are given.
            "DRYDOCK_WORKERS": 2,
            "POSTGRES_DB": "postgres",
        }

    def repository(self):
        return {"DRYDOCK_REPOSITORY": f"file://{self.home}/repository"}

    def program(self, name):
        return self.server.scratch / "bin" / name

    def version(self):
        return self.processes.output([self.program("backupctl"), "--version"], log=self.key).split()[-1]

    def prepare(self):
        self.make_home()
        self.start_service()
        self.server.wait_streaming("drydock", self.service)

    def start_service(self):
        self.service = self.processes.spawn([self.program("backupd"), "run"], "backupd", self.environment())

    def backup(self):
        return [self.program("backupctl"), "backup"], self.environment()

    def restore(self, target):
        return [self.program("backupctl"), "restore", "--data-dir", target], self.environment()

    def backup_bytes(self):
        return self.size_of(f"repository/{CLUSTER}/backups")

    def wal_bytes(self):
        return self.size_of(f"repository/{CLUSTER}/wal")

    def check_stopped(self):
        """Stops the service, which should have been running until now and should end well."""
        if self.service is not None and self.processes.ended(self.service):
            raise Failed(f"backupd ended by itself:\n{self.processes.tail('backupd')}")
        code = self.stop_service()
        if code != 0:
            raise Failed(f"backupd ended with {code}:\n{self.processes.tail('backupd')}")

    def finish(self):
        self.check_stopped()
        self.server.drop_slot(SLOT)
        self.remove_home()
