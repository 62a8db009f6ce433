"""What a process used, and digests of what it made."""

from __future__ import annotations

import hashlib
import os
import resource
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np


def peak_rss_bytes() -> int:
    """The most memory this process has held, in bytes."""
    told = _status("VmHWM:")
    if told is not None:  # getrusage, on Linux, starts a child at what its parent held
        return told
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def rss_bytes() -> int:
    """The memory this process holds now, in bytes; its peak where the system doesn't tell."""
    told = _status("VmRSS:")
    return peak_rss_bytes() if told is None else told


def memory_bytes() -> int:
    """The memory of this machine, or less where Linux gives a group of processes less."""
    whole = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    group = Path("/sys/fs/cgroup/memory.max")
    told = group.read_text().strip() if group.exists() else ""
    return min(whole, int(told)) if told.isdigit() else whole


def _status(name: str) -> int | None:
    """Bytes that Linux tells of this process; None elsewhere."""
    status = Path("/proc/self/status")
    if not status.exists():
        return None
    line = next(x for x in status.read_text().splitlines() if x.startswith(name))
    return int(line.split()[1]) * 1024


def sha256(params: Mapping[str, Any]) -> str:
    """Digest of all weights: equal runs have equal digests."""
    digest = hashlib.sha256()
    for name in sorted(params):
        array = np.ascontiguousarray(params[name])
        digest.update(array.reshape(-1).view(np.uint8).data)  # no copy: tables may fill the memory
    return digest.hexdigest()


class Spent(NamedTuple):
    """What some work took."""

    seconds: float  # by the clock
    cpu_seconds: float  # of all threads, and of child processes that have ended
    joules: float | None  # of all processors of the machine; None where the system doesn't tell


class Meter:
    """Counts time and energy from its making on.

    The energy is that of whole processors, idle cores and other programs included, by the counters
    that Linux shows of Intel's and AMD's (RAPL); to read them takes root's rights on most machines.

    Args:
      counters: the folder of the counters.
    """

    def __init__(self, counters: str | os.PathLike[str] = "/sys/class/powercap") -> None:
        # "intel-rapl:0" is a processor; what has two colons is a part of one, counted there.
        found = sorted(Path(counters).glob("intel-rapl:*"))
        self._processors = [folder for folder in found if folder.name.count(":") == 1]
        self._began, self._cpu, self._energy = time.perf_counter(), _cpu_seconds(), self._read()

    def spent(self) -> Spent:
        """What has been spent since, at least once before a counter has gone round twice."""
        joules, now = None, self._read()
        if self._energy and now and len(now) == len(self._energy):
            pairs = zip(self._energy, now, strict=True)
            # A counter that reaches its end, within an hour of hard work, begins anew.
            joules = sum((new - old) % end for (old, end), (new, _) in pairs) / 1e6
        seconds = time.perf_counter() - self._began
        return Spent(seconds, _cpu_seconds() - self._cpu, joules)

    def _read(self) -> list[tuple[int, int]] | None:
        """(microjoules, where the counter ends) of each processor."""
        try:
            return [
                (
                    int((folder / "energy_uj").read_text()),
                    int((folder / "max_energy_range_uj").read_text()) + 1,
                )
                for folder in self._processors
            ]
        except (OSError, ValueError):
            return None


def _cpu_seconds() -> float:
    used = os.times()
    return used.user + used.system + used.children_user + used.children_system
