"""pg_basebackup into compressed tar files, and zstd and tar to unpack them: no repository, no archive."""

from .tool import Tool

UNPACK = """set -euo pipefail
mkdir -m 700 "$2"
zstd -q -d -c "$1/base.tar.zst" | tar -x -C "$2"
"""


class BaseBackup(Tool):
    key = "pg_basebackup"
    name = "pg_basebackup"
    about = ("`-Ft --compress=client-zstd:level=3,workers=2 -X fetch --checkpoint=fast`; restored by"
             " `zstd -d | tar -x`, which checks nothing and syncs nothing")

    def version(self):
        return self.server.version

    def prepare(self):
        self.make_home()

    def backup(self):
        argv = [self.server.bin / "pg_basebackup", "-D", self.home / "backup", "-Ft", "-X", "fetch",
                "--checkpoint=fast", "--compress=client-zstd:level=3,workers=2"]
        return argv, self.server.environment()

    def restore(self, target):
        return ["bash", "-c", UNPACK, "unpack", self.home / "backup", target], {}

    def backup_bytes(self):
        return self.size_of("backup")

    def finish(self):
        self.remove_home()
