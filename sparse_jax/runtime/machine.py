"""What a process used, and digests of what it made."""

from __future__ import annotations

import hashlib
import resource
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np


def peak_rss_bytes() -> int:
    """The most memory this process has held, in bytes."""
    status = Path("/proc/self/status")
    if status.exists():  # getrusage, on Linux, starts a child at what its parent held
        high = [line for line in status.read_text().splitlines() if line.startswith("VmHWM:")]
        return int(high[0].split()[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def sha256(params: Mapping[str, Any]) -> str:
    """Digest of all weights: equal runs have equal digests."""
    digest = hashlib.sha256()
    for name in sorted(params):
        digest.update(np.asarray(params[name]).tobytes())
    return digest.hexdigest()
