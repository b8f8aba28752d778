"""The two tools that can keep their repository in a bucket, and how each is told so."""

from .drydock import CLUSTER, Drydock
from .pgbackrest import PgBackRest
from .storage import REGION


class OnS3:
    """A tool whose repository is in a bucket of its own name, below a folder of that name. `link` is the way it takes
    to the server."""

    def __init__(self, server, storage):
        self.storage = storage
        self.link = storage.near
        super().__init__(server)

    def objects(self, *folders):
        """Size by key, below these folders of the repository."""
        return self.storage.objects(self.key, "/".join([self.key, *folders, ""]))

    def bytes_below(self, *folders):
        return sum(self.objects(*folders).values())

    def reads(self):
        return [self.storage.directory]


class DrydockOnS3(OnS3, Drydock):
    about = Drydock.about + "; default settings for S3"

    def make_home(self, *names):
        super().make_home(*names)
        self.processes.private_file(self.home / "credentials", f"""\
[default]
aws_access_key_id = {self.storage.key_id}
aws_secret_access_key = {self.storage.secret}
""")

    def repository(self):
        return {
            "DRYDOCK_REPOSITORY": f"s3://{self.key}/{self.key}",
            "DRYDOCK_S3_ENDPOINT": self.link.endpoint,
            "DRYDOCK_S3_REGION": REGION,
            "DRYDOCK_S3_CA_FILE": self.storage.authority,
            "DRYDOCK_S3_CREDENTIALS_FILE": self.home / "credentials",
        }

    def backup_bytes(self):
        return self.bytes_below(CLUSTER, "backups")

    def wal_bytes(self):
        return self.bytes_below(CLUSTER, "wal")


class PgBackRestOnS3(OnS3, PgBackRest):
    def repository(self):
        return f"""\
repo1-type=s3
repo1-path=/{self.key}
repo1-s3-bucket={self.key}
repo1-s3-endpoint=localhost
repo1-s3-region={REGION}
repo1-s3-uri-style=path
repo1-s3-key={self.storage.key_id}
repo1-s3-key-secret={self.storage.secret}
repo1-storage-ca-file={self.storage.authority}
repo1-storage-port={self.link.port}"""

    def backup_bytes(self):
        return self.bytes_below("backup")

    def wal_bytes(self):
        return self.bytes_below("archive")

    def archived(self):
        """The names of the segments in the archive, which are followed by their checksums there."""
        names = [key.rpartition("/")[2] for key in self.objects("archive")]
        return {name[:24] for name in names if "-" in name and name.endswith(".zst")}
