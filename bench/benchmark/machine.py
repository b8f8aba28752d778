"""What the benchmark needs from the machine: an unprivileged user, programs, space, a page cache in a known state."""

import os
import platform
import pwd
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

DROP_CACHES = Path("/proc/sys/vm/drop_caches")
# The database, a restored copy, a repository and the WAL that waits, at their largest together.
SPACE_PER_SIZE = 3.5
# A socket's path has at most 107 bytes, and its name about 20 of them.
SOCKET_DIRECTORY_MAX = 85


class Failed(Exception):
    """Something the benchmark needs did not work; the message says what."""


def say(text):
    print(time.strftime("%H:%M:%S ") + text, flush=True)


def user():
    """PostgreSQL refuses to run as root, so everything measured runs as somebody who is not: (name, uid, gid)."""
    if os.geteuid() != 0:
        me = pwd.getpwuid(os.geteuid())
        return me.pw_name, me.pw_uid, me.pw_gid
    try:
        postgres = pwd.getpwnam("postgres")
    except KeyError as error:
        raise Failed("there is no user `postgres`; Debian's package `postgresql` makes one") from error
    return postgres.pw_name, postgres.pw_uid, postgres.pw_gid


# ---- programs

def bindir():
    """The newest PostgreSQL here, or the one $PG_BINDIR names."""
    if os.environ.get("PG_BINDIR"):
        return Path(os.environ["PG_BINDIR"])
    found = [path for path in Path("/usr/lib/postgresql").glob("*/bin") if (path / "initdb").exists()]
    if not found:
        raise Failed("no PostgreSQL under /usr/lib/postgresql: run `make setup`, or set PG_BINDIR")
    return max(found, key=lambda path: int(path.parent.name))


def install_missing(tools, more=()):
    """Installs the packages of programs that are missing, or says which to install. They have the programs' names."""
    wanted = [tool for tool in tools if tool in ("pgbackrest", "barman")] + ["zstd", *more]
    missing = [program for program in wanted if not program_path(program)]
    try:
        bindir()
    except Failed:
        missing += ["postgresql", "postgresql-contrib"]
    if not missing:
        return
    if os.geteuid() != 0 or not shutil.which("apt-get"):
        sys.exit(f"bench: install {' '.join(missing)} first (Debian's names); only root can do it from here")
    if "postgresql" in missing:
        # Debian's package would start a server of its own.
        subprocess.run(["scripts/setup.sh"], cwd=Path(__file__).parents[2], check=True)
    say(f"installing {' '.join(missing)}")
    environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    subprocess.run(["apt-get", "update", "-q"], env=environment, check=True, stdout=subprocess.DEVNULL)
    subprocess.run(["apt-get", "install", "-q", "-y", "--no-install-recommends", *missing],
                   env=environment, check=True, stdout=subprocess.DEVNULL)


def program_path(name):
    """Where it is, also where not everybody's PATH leads."""
    return shutil.which(name) or shutil.which(name, path="/usr/sbin:/usr/local/sbin")


def garage(checkout):
    """Garage's program, which is installed where it is missing."""
    script = [checkout / "scripts" / "garage-program.sh", "--optimised"]
    printed = subprocess.run(script, stdout=subprocess.PIPE, text=True, check=True)
    return Path(printed.stdout.strip())


def release_binaries(checkout, build):
    """Builds backupd and backupctl for release; returns their paths by name."""
    if build:
        say("building backupd and backupctl for release")
        subprocess.run(["cargo", "build", "--release", "-p", "backupd", "-p", "backupctl"], cwd=checkout, check=True)
    target = Path(os.environ.get("CARGO_TARGET_DIR", checkout / "target")) / "release"
    return {name: target / name for name in ["backupd", "backupctl"]}


# ---- space

def scratch_parent():
    return Path(os.environ.get("TMPDIR", "/var/tmp"))


def require_space(parent, size_gb):
    free = shutil.disk_usage(parent).free / 1e9
    needed = size_gb * SPACE_PER_SIZE + 3
    if free < needed:
        sys.exit(f"bench: {parent} has {free:.0f} GB free and about {needed:.0f} GB are needed; choose with --scratch")


def make_scratch(parent, binaries):
    """A directory of our own that holds copies of the binaries: who runs them may not be able to read this checkout."""
    scratch = Path(tempfile.mkdtemp(prefix="drydock-bench-", dir=parent))
    if len(str(scratch)) > SOCKET_DIRECTORY_MAX:
        scratch.rmdir()
        sys.exit(f"bench: {parent} is too long a path for sockets; choose a shorter one with --scratch")
    scratch.chmod(0o755)
    for name in ["bin", "logs"]:
        (scratch / name).mkdir()
    for name, binary in binaries.items():
        shutil.copy2(binary, scratch / "bin" / name)
    if os.geteuid() == 0:
        _, uid, gid = user()
        for path in [scratch, *scratch.rglob("*")]:
            os.chown(path, uid, gid)
    return scratch


def listens(port):
    """Whether somebody listens at this port of loopback."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def tree_bytes(*roots):
    """The sizes of all files under these directories."""
    total = 0
    for root in roots:
        for directory, _, names in os.walk(root):
            total += sum(os.lstat(os.path.join(directory, name)).st_size for name in names)
    return total


def remove(directory):
    shutil.rmtree(directory, ignore_errors=True)
    if directory.exists():
        say(f"{directory} could not be removed; it is of no use to anybody")


# ---- page cache

def can_drop_caches():
    return os.geteuid() == 0 and os.access(DROP_CACHES, os.W_OK)


def settle(cache, paths):
    """Brings disk and page cache into the same state before every step: nothing dirty, and what will be read either
    not cached at all or all of it."""
    os.sync()
    if cache == "drop":
        DROP_CACHES.write_text("3\n")
        return
    for root in paths:
        for directory, _, names in os.walk(root):
            for name in names:
                read_through(os.path.join(directory, name))


def read_through(path):
    try:
        with open(path, "rb", buffering=0) as file:
            while file.read(1 << 20):
                pass
    except FileNotFoundError:
        pass  # a server removes files while we look


# ---- what the table says about this machine

def setting(options, server, scratch):
    """Where and how the numbers were made."""
    return {
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "cores": len(os.sched_getaffinity(0)),
        "processor": processor(),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "kernel": platform.release().split("-")[0],
        "system": platform.freedesktop_os_release().get("PRETTY_NAME", "Linux"),
        "filesystem": filesystem(scratch),
        "postgresql": server.version,
        "commit": commit(),
        "rounds": options.rounds,
        "cache": options.cache,
        "size_gb_asked": options.size_gb,
        "wal_gb_asked": options.wal_gb,
    }


def commit():
    """The state of this checkout."""
    described = subprocess.run(["git", "describe", "--always", "--dirty"], cwd=Path(__file__).parent,
                               capture_output=True, text=True, check=False)
    return described.stdout.strip() or "unknown"


def processor():
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.machine()


def filesystem(path):
    output = subprocess.run(["df", "--output=fstype", str(path)], capture_output=True, text=True, check=True)
    return output.stdout.split()[-1]
