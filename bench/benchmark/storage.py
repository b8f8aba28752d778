"""An S3 server: Garage with nothing in it, and haproxy before it.

Garage speaks no TLS and pgBackRest nothing else, so haproxy ends TLS, for all tools alike. It also writes a line for
each request, which tells what a tool asked for without asking the tool. It listens at two ports: behind one the server
is near, behind the other it is as far away as `--latency-ms` says.
"""

import secrets
import shutil
import time
from contextlib import contextmanager
from dataclasses import dataclass

from . import machine, s3
from .machine import Failed
from .meter import cpu_of_tree
from .requests import RequestLog
from .server import free_port

STARTS_WITHIN = 60.0
REGION = "garage"
# One for each tool, so that the path of a request says whose it is.
BUCKETS = ["drydock", "pgbackrest"]

ABOUT = ("Garage {version}, one node on the same disk, its defaults (so no fsync) but for sqlite and no compression of"
         " its own; before it haproxy {haproxy}, which ends TLS for both tools, in one thread, and counts requests")

GARAGE = """\
metadata_dir = "{directory}/meta"
data_dir = "{directory}/data"
db_engine = "sqlite"
replication_factor = 1
compression_level = 'none'
rpc_bind_addr = "127.0.0.1:{rpc_port}"
rpc_public_addr = "127.0.0.1:{rpc_port}"
rpc_secret = "{rpc_secret}"

[s3_api]
s3_region = "{region}"
api_bind_addr = "127.0.0.1:{api_port}"
"""

# No limits of its own: what is slow should be Garage or the tool.
HAPROXY = """\
global
    nbthread 1
    maxconn 1000
    lua-load {directory}/network.lua
    log stdout len 8192 format raw local0

defaults
    mode http
    log global
    log-format "{log_format}"
    option http-no-delay
    timeout connect 10s
    timeout client 10m
    timeout server 10m
    default_backend garage

frontend near
    bind 127.0.0.1:{near} ssl crt {directory}/tls/server.pem alpn http/1.1

frontend far
    bind 127.0.0.1:{far} ssl crt {directory}/tls/server.pem alpn http/1.1
    http-request lua.network {latency_ms}

backend garage
    http-reuse always
    server garage 127.0.0.1:{api_port}
"""

# The first request of a connection also pays for the round trips of TCP and of TLS 1.3.
NETWORK = """\
core.register_action("network", { "http-req" }, function(transaction, round_trip_ms)
    local trips = transaction.f:http_first_req() == 1 and 3 or 1
    core.msleep(trips * tonumber(round_trip_ms))
end, 1)
"""

# A throw-away authority, and a certificate for loopback.
CERTIFICATES = """set -euo pipefail
mkdir -m 700 "$1"
cd "$1"
new_key() { openssl ecparam -name prime256v1 -genkey -noout -out "$1"; }
new_key ca.key
openssl req -new -x509 -key ca.key -subj '/CN=the authority of a benchmark' -days 7 -out ca.pem
new_key server.key
openssl req -new -key server.key -subj /CN=localhost -out server.csr
openssl x509 -req -in server.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 7 -out server.crt -extfile <(
    printf '%s\\n' subjectAltName=DNS:localhost,IP:127.0.0.1 basicConstraints=critical,CA:false)
cat server.crt server.key >server.pem
"""


@dataclass(frozen=True)
class Link:
    """A way to the server."""
    name: str
    port: int
    latency_ms: int

    @property
    def endpoint(self):
        return f"https://localhost:{self.port}"


class Storage:
    """The server; its key and its ports stay the same while it comes and goes."""

    def __init__(self, scratch, processes, latency_ms):
        self.processes = processes
        self.directory = scratch / "storage"
        self.program = scratch / "bin" / "garage"
        self.haproxy_program = machine.program_path("haproxy")
        self.key_id = "GK" + secrets.token_hex(12)
        self.secret = secrets.token_hex(32)
        self.api_port = free_port()
        self.near = Link("near", free_port(), 0)
        self.far = Link("far", free_port(), latency_ms)
        self.log = RequestLog(processes.logs / "haproxy.log")
        self.garage = self.haproxy = None

    def about(self):
        # "garage v2.5.0 [features: …]", or "garage cargo:2.5.0 […]" where cargo has built it.
        version = self.processes.output([self.program, "--version"], log="garage").split()[1]
        version = version.removeprefix("cargo:").removeprefix("v")
        haproxy_version = self.processes.output([self.haproxy_program, "-v"], log="haproxy").split()[2]
        return ABOUT.format(version=version, haproxy=haproxy_version.split("-")[0])

    # ---- running

    @contextmanager
    def running(self):
        """A server with empty buckets, until the end of the block."""
        self.processes.run(["mkdir", "-m", "700", self.directory], log="garage")
        self.start_garage()
        self.start_haproxy()
        yield self
        for child in [self.haproxy, self.garage]:
            self.processes.stop(child)
        self.garage = self.haproxy = None
        shutil.rmtree(self.directory)

    def start_garage(self):
        self.processes.private_file(self.directory / "garage.toml", GARAGE.format(
            directory=self.directory, rpc_port=free_port(), rpc_secret=secrets.token_hex(32), region=REGION,
            api_port=self.api_port))
        self.garage = self.processes.spawn(self.command("server"), "garage", {"RUST_LOG": "warn"})
        deadline = time.monotonic() + STARTS_WITHIN
        while self.processes.run(self.command("status"), log="garage-tries", codes=range(256)) != 0:
            if self.processes.ended(self.garage) or time.monotonic() > deadline:
                raise Failed(f"Garage does not start:\n{self.processes.tail('garage')}")
            time.sleep(0.1)
        node = self.processes.output(self.command("node", "id", "-q"), log="garage").split("@")[0]
        self.tell("layout", "assign", "-z", "here", "-c", "100G", node)
        self.tell("layout", "apply", "--version", "1")
        self.tell("key", "import", "--yes", "-n", "bench", self.key_id, self.secret)
        for bucket in BUCKETS:
            self.tell("bucket", "create", bucket)
            self.tell("bucket", "allow", "--read", "--write", "--owner", bucket, "--key", self.key_id)

    def start_haproxy(self):
        self.processes.run(["bash", "-c", CERTIFICATES, "certificates", self.directory / "tls"], log="openssl")
        self.processes.private_file(self.directory / "network.lua", NETWORK)
        options = self.directory / "haproxy.conf"
        self.processes.private_file(options, HAPROXY.format(
            directory=self.directory, log_format=RequestLog.FORMAT, near=self.near.port, far=self.far.port,
            latency_ms=self.far.latency_ms, api_port=self.api_port))
        self.haproxy = self.processes.spawn([self.haproxy_program, "-db", "-f", options], "haproxy")
        deadline = time.monotonic() + STARTS_WITHIN
        while not (machine.listens(self.near.port) and machine.listens(self.far.port)):
            if self.processes.ended(self.haproxy) or time.monotonic() > deadline:
                raise Failed(f"haproxy does not start:\n{self.processes.tail('haproxy')}")
            time.sleep(0.05)

    def command(self, *words):
        return [self.program, "-c", self.directory / "garage.toml", *words]

    def tell(self, *words):
        self.processes.run(self.command(*words), log="garage-admin")

    # ---- for tools, and about them

    @property
    def authority(self):
        return self.directory / "tls" / "ca.pem"

    def objects(self, bucket, prefix):
        """Size by key, asked behind haproxy's back, so that it does not count."""
        return s3.listing(f"127.0.0.1:{self.api_port}", REGION, self.key_id, self.secret, bucket, prefix)

    def children(self):
        return [child for child in [self.garage, self.haproxy] if child is not None]

    def cpu(self):
        """CPU seconds so far; nobody's client and not PostgreSQL's."""
        return {"storage_cpu_seconds": cpu_of_tree(self.garage.pid), "tls_cpu_seconds": cpu_of_tree(self.haproxy.pid)}
