"""Processes: started as an unprivileged user, watched while they run, and all of them ended at the end.

This process makes itself the reaper of its orphans (a "subreaper"), so what a tool leaves running in the background,
as pgBackRest's asynchronous archiving does, stays our descendant: its CPU time counts and it can be ended by its id.
"""

import ctypes
import os
import select
import signal
import subprocess
import time

from .machine import Failed, say, user

PR_SET_CHILD_SUBREAPER = 36
STOPS_WITHIN = 20.0
STEP_WITHIN = 3600.0
TICKS = os.sysconf("SC_CLK_TCK")


class TimeLimit(BaseException):
    """The benchmark's time is up. Not an Exception, so that nothing between here and the top takes it for one."""


class Processes:
    """All that was started and has not ended."""

    def __init__(self, scratch):
        self.scratch = scratch
        self.logs = scratch / "logs"
        self.name, self.uid, self.gid = user()
        self.live = {}
        # CPU seconds of all that ended, with what they started and waited for.
        self.reaped_cpu = 0.0
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
            raise Failed("this process cannot become the reaper of its orphans")

    # ---- starting

    def spawn(self, argv, log, environment=None, **more):
        """Starts a process with its output in the log `log`, in a session of its own."""
        argv = [str(word) for word in argv]
        out = open(self.logs / f"{log}.log", "ab")
        with out:
            out.write(f"$ {' '.join(argv)}\n".encode())
            out.flush()
            child = subprocess.Popen(argv, env=self.environment(environment), cwd=self.scratch,
                                     stdin=more.pop("stdin", subprocess.DEVNULL), stdout=more.pop("stdout", out),
                                     stderr=out, start_new_session=True, **self.identity(), **more)
        self.live[child.pid] = child
        return child

    def identity(self):
        if os.geteuid() != 0:
            return {}
        return {"user": self.uid, "group": self.gid, "extra_groups": []}

    def environment(self, more):
        plain = {"PATH": os.environ["PATH"], "HOME": str(self.scratch), "LC_ALL": "C.UTF-8", "TZ": "UTC"}
        return plain | {"USER": self.name} | {name: str(value) for name, value in (more or {}).items()}

    def run(self, argv, log, environment=None, within=STEP_WITHIN, codes=(0,)):
        """Runs a command to its end, which must be a good one."""
        child = self.spawn(argv, log, environment)
        code = self.wait(child, within)
        if code not in codes:
            raise Failed(f"`{' '.join(map(str, argv))}` exited with {code}:\n{self.tail(log)}")
        return code

    def output(self, argv, log, environment=None):
        """Runs a command to its end and returns what it printed."""
        child = self.spawn(argv, log, environment, stdout=subprocess.PIPE)
        text = child.stdout.read().decode()
        child.stdout.close()
        code = self.wait(child)
        if code != 0:
            raise Failed(f"`{' '.join(map(str, argv))}` exited with {code}:\n{self.tail(log)}")
        return text.strip()

    def private_file(self, path, text):
        """Writes a file that only those processes can read: it may hold a secret."""
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
            file.write(text)
            if os.geteuid() == 0:
                os.fchown(file.fileno(), self.uid, self.gid)

    def tail(self, log):
        text = (self.logs / f"{log}.log").read_text(errors="replace")
        return "\n".join(text.splitlines()[-15:])

    # ---- ending

    def wait(self, child, within=STEP_WITHIN):
        """Waits for the end and returns the exit code."""
        handle = os.pidfd_open(child.pid)
        try:
            ready, _, _ = select.select([handle], [], [], within)
        finally:
            os.close(handle)
        if not ready:
            raise Failed(f"{child.args[0]} was still running after {within:.0f} s")
        _, status, usage = os.wait4(child.pid, 0)
        self.reaped_cpu += usage.ru_utime + usage.ru_stime
        child.returncode = os.waitstatus_to_exitcode(status)
        del self.live[child.pid]
        return child.returncode

    def ended(self, child):
        """Whether it has ended, which a service should not do by itself."""
        return stat(child.pid) is None

    def stop(self, child, how=signal.SIGTERM):
        """Asks it to end, then insists."""
        for sign in [how, signal.SIGKILL]:
            os.kill(child.pid, sign)  # not reaped yet, so the id is still its own
            try:
                return self.wait(child, STOPS_WITHIN)
            except Failed:
                say(f"{child.args[0]} (process {child.pid}) does not end")
        raise Failed(f"process {child.pid} survives SIGKILL")

    def reap_orphans(self):
        """Collects what tools left in the background and has ended since."""
        for pid in children(os.getpid()):
            if pid not in self.live:
                ended, _, usage = os.wait4(pid, os.WNOHANG)
                if ended:
                    self.reaped_cpu += usage.ru_utime + usage.ru_stime

    def end_orphans(self, within=STOPS_WITHIN):
        """Ends what tools left in the background: first it may finish, then it is told to, then killed."""
        for sign in [None, signal.SIGTERM, signal.SIGKILL]:
            deadline = time.monotonic() + within
            while time.monotonic() < deadline:
                self.reap_orphans()
                orphans = [pid for pid in children(os.getpid()) if pid not in self.live]
                if not orphans:
                    return
                if sign is not None:
                    for pid in orphans:
                        os.kill(pid, sign)
                time.sleep(0.05)

    def stop_all(self):
        """Ends everything, the newest first."""
        for child in reversed(list(self.live.values())):
            # A server that has sessions ends faster when it is told not to wait for them.
            postgres = os.path.basename(child.args[0]) == "postgres"
            try:
                self.stop(child, signal.SIGQUIT if postgres else signal.SIGTERM)
            except Failed as error:
                say(str(error))
        self.end_orphans(within=2.0)

    def time_is_up(self, *_):
        raise TimeLimit("the time limit is reached; see --time-limit")


# ---- /proc

def children(pid):
    """The ids of a process's children. A child belongs to the thread that started it."""
    found = []
    try:
        threads = os.listdir(f"/proc/{pid}/task")
    except FileNotFoundError:
        return found
    for thread in threads:
        found += [int(word) for word in read(f"/proc/{pid}/task/{thread}/children").split()]
    return found


def descendants(pid):
    """The ids of a process's children, of their children, and so on."""
    found = children(pid)
    for child in found:
        found.extend(children(child))
    return found


def stat(pid):
    """(CPU seconds of its own, CPU seconds of those it started and waited for), or None once it has ended."""
    # The second field is the name in parentheses and may hold anything, so fields count from the last parenthesis.
    fields = read(f"/proc/{pid}/stat").rpartition(")")[2].split()
    if not fields or fields[0] in "ZX":
        return None
    own, waited = int(fields[11]) + int(fields[12]), int(fields[13]) + int(fields[14])
    return own / TICKS, waited / TICKS


def status(pid):
    """(name, resident bytes now, resident bytes at their highest)."""
    name, now, peak = "", 0, 0
    for line in read(f"/proc/{pid}/status").splitlines():
        if line.startswith("Name:"):
            name = line[5:].strip()
        elif line.startswith("VmHWM:"):
            peak = int(line.split()[1]) * 1024
        elif line.startswith("VmRSS:"):
            now = int(line.split()[1]) * 1024
            break
    return name, now, peak


def read(path):
    """A file of /proc; empty when its process is gone."""
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read()
    except (FileNotFoundError, ProcessLookupError):
        return ""
