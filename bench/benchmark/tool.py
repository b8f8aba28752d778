"""What the tools have in common."""

from . import machine
from .server import ARCHIVES_TO_NOWHERE


class Tool:
    """A tool with a fresh repository of its own and whatever must run beside the server for it.

    A turn is `prepare`, then measured commands, then `finish`, which leaves nothing. A command is (argv, environment).
    """

    key = ""
    name = ""
    about = ""
    # Whether a second backup can cost less than the first.
    second_is_smaller = False

    def __init__(self, server):
        self.server = server
        self.processes = server.processes
        self.home = server.scratch / self.key
        self.service = None

    def version(self):
        raise NotImplementedError

    def prepare(self):
        raise NotImplementedError

    def backup(self):
        raise NotImplementedError

    def second_backup(self):
        return self.backup()

    def restore(self, target):
        raise NotImplementedError

    def reads(self):
        """The directories a restore reads from."""
        return [self.home]

    def backup_bytes(self):
        """Size of all backups in the repository, without the WAL archived beside them."""
        raise NotImplementedError

    def finish(self):
        raise NotImplementedError

    # ---- for those above

    def make_home(self, *names):
        for directory in [self.home, *(self.home / name for name in names)]:
            self.processes.run(["mkdir", "-m", "700", directory], log=self.key)

    def remove_home(self):
        if self.server.postmaster is not None:
            self.server.archive_with(ARCHIVES_TO_NOWHERE)
        machine.remove(self.home)

    def stop_service(self):
        if self.service is not None:
            code = self.processes.stop(self.service)
            self.service = None
            return code
        return 0

    def size_of(self, *names):
        return machine.tree_bytes(*(self.home / name for name in names))
