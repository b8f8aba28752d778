"""Barman with backup_method postgres, which is pg_basebackup below, and its streaming archiver."""

from .tool import Tool

SERVER = "bench"
SLOT = "barman"


class Barman(Tool):
    key = "barman"
    name = "Barman"
    about = ("backup_method postgres, zstd level 3 with 2 workers on the client, immediate checkpoint, streaming"
             " archiver; `backup --wait`, so that the backup's WAL is archived when it ends, as with the others")

    def version(self):
        return self.processes.output(["barman", "--version"], log=self.key).split()[0]

    def prepare(self):
        self.make_home("staging")
        options = self.home / "barman.conf"
        options.write_text(f"""\
[barman]
barman_user = {self.processes.name}
barman_home = {self.home}
log_file = {self.home}/barman.log
log_level = INFO
path_prefix = {self.server.bin}

[{SERVER}]
description = the benchmark's server
conninfo = host={self.server.scratch} port={self.server.port} user=postgres dbname=postgres
streaming_conninfo = host={self.server.scratch} port={self.server.port} user=postgres
streaming_archiver = on
archiver = off
slot_name = {SLOT}
create_slot = auto
backup_method = postgres
backup_compression = zstd
backup_compression_level = 3
backup_compression_workers = 2
backup_compression_location = client
backup_compression_format = tar
immediate_checkpoint = true
recovery_staging_path = {self.home}/staging
""", encoding="utf-8")
        options.chmod(0o644)
        self.processes.run(self.command("receive-wal", "--create-slot", SERVER), log=self.key)
        self.service = self.processes.spawn(self.command("receive-wal", SERVER), log="barman-receive-wal")
        self.server.wait_streaming("barman_receive_wal", self.service)
        self.processes.run(self.command("switch-wal", "--force", "--archive", "--archive-timeout", "60", SERVER),
                           log=self.key)

    def command(self, *words):
        return ["barman", "-c", self.home / "barman.conf", *words]

    def backup(self):
        return self.command("backup", "--wait", SERVER), {}

    def restore(self, target):
        return self.command("recover", SERVER, "latest", target), {}

    def backup_bytes(self):
        return self.size_of(f"{SERVER}/base")

    def finish(self):
        self.stop_service()
        self.processes.end_orphans()
        self.server.drop_slot(SLOT)
        self.remove_home()
