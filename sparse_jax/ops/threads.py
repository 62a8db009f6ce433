"""How many threads work outside XLA may take."""

from __future__ import annotations

import os


def num_threads() -> int:
    """Of work outside XLA, as many as XLA uses: this process's CPUs, or fewer if NPROC says so."""
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    asked = os.environ.get("NPROC", "")
    return min(cpus, int(asked)) if asked.isdigit() and int(asked) else cpus
