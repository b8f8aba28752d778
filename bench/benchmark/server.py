"""PostgreSQL servers: the one that is backed up, and a restored copy."""

import signal
import socket
import subprocess
import time

from . import process
from .machine import Failed, bindir

# As installed, but for: checkpoints only when asked for, so that none falls into one tool's time and not another's;
# no autovacuum for the same reason; room for slots.
SETTINGS = """
wal_level = replica
max_wal_senders = 10
max_replication_slots = 10
max_wal_size = 16GB
checkpoint_timeout = 1d
autovacuum = off
archive_mode = on
archive_command = 'true'
log_checkpoints = off
"""
# What initdb makes when it is not asked for another size.
SEGMENT_BYTES = 16 << 20
STARTS_WITHIN = 300.0
ARCHIVES_TO_NOWHERE = "true"
KEEPS_FOR_LATER = ""


class Server:
    """A server, reached through its socket."""

    def __init__(self, scratch, processes, name="primary"):
        self.processes = processes
        self.name = name
        self.data = scratch / name
        self.scratch = scratch
        self.bin = bindir()
        self.port = free_port()
        self.postmaster = None
        printed = subprocess.run([self.bin / "postgres", "--version"], capture_output=True, text=True, check=True)
        self.version = printed.stdout.split()[2]
        if int(self.version.split(".")[0].rstrip("abcdefghijklmnopqrstuvwxyz")) < 15:
            raise Failed(f"PostgreSQL {self.version} has no `pg_basebackup --compress=client-zstd`; 15 is the oldest")

    # ---- running

    def create(self):
        self.processes.run([self.bin / "initdb", "-D", self.data, "-U", "postgres", "-E", "UTF8", "--locale=C",
                            "--data-checksums", "-A", "trust"], log="initdb")
        with open(self.data / "postgresql.conf", "a", encoding="utf-8") as file:
            file.write(SETTINGS)
        self.start()
        self.sql("create role drydock login replication; grant pg_monitor to drydock")

    def launch(self, *options):
        """Starts it and does not wait until it can be asked anything."""
        self.postmaster = self.processes.spawn(
            [self.bin / "postgres", "-D", self.data, "-p", self.port, "-k", self.scratch, "-c", "listen_addresses=",
             "-c", "logging_collector=off", *options], log=self.name)

    def start(self, *options):
        self.launch(*options)
        deadline = time.monotonic() + STARTS_WITHIN
        while self.processes.run(self.psql("-c", "select 1"), log="psql-tries", codes=(0, 1, 2)) != 0:
            if self.processes.ended(self.postmaster) or time.monotonic() > deadline:
                raise Failed(f"{self.name} does not start:\n{self.processes.tail(self.name)}")
            time.sleep(0.1)

    def stop(self):
        self.processes.stop(self.postmaster, signal.SIGINT)
        self.postmaster = None

    # ---- asking

    def environment(self):
        """What libpq needs to come here as superuser."""
        return {"PGHOST": self.scratch, "PGPORT": self.port, "PGUSER": "postgres", "PGDATABASE": "postgres"}

    def psql(self, *more):
        return [self.bin / "psql", "-XAtq", "-v", "ON_ERROR_STOP=1", "-h", self.scratch, "-p", self.port,
                "-U", "postgres", "-d", "postgres", *more]

    def sql(self, sql):
        """Runs SQL and returns what psql prints."""
        return self.processes.output(self.psql("-c", sql), log="psql")

    def lsn(self, sql):
        """An LSN as a number of bytes."""
        return int(self.sql(f"select ({sql}) - '0/0'::pg_lsn"))

    def wait_for(self, what, sql, within=120.0, by=None):
        """Waits until a query answers t, which the process `by` is to bring about."""
        deadline = time.monotonic() + within
        while self.sql(sql) != "t":
            if by is not None and self.processes.ended(by):
                raise Failed(f"{by.args[0]} ended by itself")
            if time.monotonic() > deadline:
                raise Failed(f"waited {within:.0f} s in vain for {what}")
            time.sleep(0.1)

    def wait_streaming(self, application, by):
        self.wait_for(f"{application} to stream", f"select count(*) > 0 from pg_stat_replication "
                      f"where application_name = '{application}' and state = 'streaming'", by=by)

    # ---- doing

    def checkpoint(self):
        self.sql("checkpoint")

    def archive_with(self, command):
        """Sets archive_command, and waits until the archiver must have noticed."""
        quoted = command.replace("'", "''")
        self.processes.run(self.psql("-c", f"alter system set archive_command = '{quoted}'",
                                     "-c", "select pg_reload_conf()"), log="psql")
        time.sleep(1)

    def switch_segment(self):
        """Ends the current segment and writes a little into the next; returns where that begins, and its name."""
        self.sql("select pg_logical_emit_message(false, 'bench', 'last'); select pg_switch_wal()")
        self.sql("select pg_logical_emit_message(true, 'bench', 'first')")
        return self.lsn("pg_current_wal_flush_lsn()") // SEGMENT_BYTES * SEGMENT_BYTES

    def segment_at(self, position):
        return self.sql(f"select pg_walfile_name('0/0'::pg_lsn + {position})")

    def drop_slot(self, slot):
        """Drops a slot once nobody uses it any more."""
        self.wait_for(f"slot {slot} to be free",
                      f"select not exists (select from pg_replication_slots where slot_name = '{slot}' and active)")
        self.sql(f"select pg_drop_replication_slot(slot_name) from pg_replication_slots where slot_name = '{slot}'")

    # ---- /proc

    def archiver(self):
        """The process that runs archive_command."""
        for pid in process.children(self.postmaster.pid):
            if process.read(f"/proc/{pid}/cmdline").startswith("postgres: archiver"):
                return pid
        raise Failed("the server has no archiver")

    def cpu_seconds(self):
        """CPU time of the server's processes since it started, without what archive_command used."""
        own, waited = process.stat(self.postmaster.pid)
        total = own + waited
        for pid in process.children(self.postmaster.pid):
            total += (process.stat(pid) or (0, 0))[0]
        return total


class Session:
    """A psql that stays connected, for asking the same thing often."""

    def __init__(self, server):
        self.processes = server.processes
        self.child = server.processes.spawn(server.psql(), log="psql-session", stdin=subprocess.PIPE,
                                            stdout=subprocess.PIPE)

    def ask(self, sql):
        self.child.stdin.write(f"{sql};\n".encode())
        self.child.stdin.flush()
        line = self.child.stdout.readline()
        if not line:
            raise Failed(f"`{sql}` failed:\n{self.processes.tail('psql-session')}")
        return line.decode().strip()

    def close(self):
        self.child.stdin.close()
        self.processes.wait(self.child)
        self.child.stdout.close()


def free_port():
    """A port nobody listens on; it only names the socket."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
