"""Measures a step: wall time, CPU of the client's and of the server's processes, and peak memory."""

import os
import threading
import time
from contextlib import contextmanager

from . import process

SAMPLE_EVERY = 0.020


class Meter:
    """Tells whose process is whose. The client's are our descendants that are neither the server, nor the S3 server,
    nor a service that runs beside the step, nor a helper of ours; what archive_command starts is the client's too."""

    def __init__(self, server, storage=None):
        self.server = server
        self.storage = storage
        self.processes = server.processes

    @contextmanager
    def step(self, service=None, helpers=()):
        """Measures what happens inside; yields the dictionary that holds the result afterwards. Whoever measures a
        command takes `seconds` from it, and may overwrite it."""
        result = {}
        beside = self.storage.children() if self.storage is not None else []
        apart = {child.pid for child in [self.server.postmaster, service, *helpers, *beside] if child is not None}
        archiver = self.server.archiver()
        self.processes.reap_orphans()
        before = self.cpu(apart, archiver, service)
        sampler = Sampler(apart, archiver)
        started = time.monotonic()
        sampler.start()
        try:
            yield result
        finally:
            result.setdefault("seconds", time.monotonic() - started)
            sampler.finish()
        syncing = time.monotonic()
        os.sync()
        # What the tool left to the kernel's leisure; a power cut would have taken it.
        result["unsynced_seconds"] = time.monotonic() - syncing
        self.processes.reap_orphans()
        after = self.cpu(apart, archiver, service)
        for name in after:
            result[name] = after[name] - before[name]
        result["peak_bytes"] = sampler.peak()
        result["peak_by_process"] = sampler.peak_by_name()
        if service is not None:
            result["service_peak_bytes"] = peak_of_tree(service.pid)

    def cpu(self, apart, archiver, service):
        client = self.processes.reaped_cpu + process.stat(archiver)[1]
        client += sum(sum(process.stat(pid) or (0, 0)) for pid in clients(apart, archiver))
        cpu = {"client_cpu_seconds": client, "server_cpu_seconds": self.server.cpu_seconds()}
        if service is not None:
            cpu["service_cpu_seconds"] = cpu_of_tree(service.pid)
        if self.storage is not None:
            cpu |= self.storage.cpu()
        return cpu


class Sampler(threading.Thread):
    """Looks at the client's processes every 20 ms. Each one's own high-water mark is kept by the kernel, so only their
    sum is sampled."""

    def __init__(self, apart, archiver):
        super().__init__(daemon=True)
        self.apart = apart
        self.archiver = archiver
        self.done = threading.Event()
        self.highest_sum = 0
        self.highest = {}

    def run(self):
        while not self.done.wait(SAMPLE_EVERY):
            self.look()

    def look(self):
        total = 0
        for pid in clients(self.apart, self.archiver):
            name, now, peak = process.status(pid)
            # A child that has not yet become another program still shows the memory of this one or of the server.
            if name in ("postgres", "python3", "run") and not peak_is_its_own(pid):
                continue
            total += now
            self.highest[pid] = (name, max(peak, self.highest.get(pid, (name, 0))[1]))
        self.highest_sum = max(self.highest_sum, total)

    def finish(self):
        self.done.set()
        self.join()

    def peak(self):
        return max([self.highest_sum, *(peak for _, peak in self.highest.values())])

    def peak_by_name(self):
        """The largest process of each name."""
        names = {}
        for name, peak in self.highest.values():
            names[name] = max(peak, names.get(name, 0))
        return names


def clients(apart, archiver):
    pids = [pid for pid in process.children(os.getpid()) if pid not in apart] + process.children(archiver)
    for pid in pids:
        pids.extend(process.children(pid))
    return pids


def peak_is_its_own(pid):
    """Barman is a Python program as this one is, so the name does not tell them apart; the command line does."""
    mine = process.read("/proc/self/cmdline")
    theirs = process.read(f"/proc/{pid}/cmdline")
    return theirs not in ("", mine) and not theirs.startswith("postgres:")


def peak_of_tree(pid):
    return sum(process.status(member)[2] for member in [pid, *process.descendants(pid)])


def cpu_of_tree(pid):
    """CPU seconds of a process, of those it waited for and of those it has."""
    return sum(sum(process.stat(member) or (0, 0)) for member in [pid, *process.descendants(pid)])
