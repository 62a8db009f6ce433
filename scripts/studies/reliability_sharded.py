"""`kill -9` of one of two processes that train together: the other ends, nothing is lost."""

from __future__ import annotations

import contextlib
import os
import random
import re
import shutil
import signal
import time
from pathlib import Path
from typing import NamedTuple

from reliability_kills import Tally, command, run, started
from reliability_training import write_points

PROCESSES = 2
MOST_SECONDS = 60.0  # until the others have ended, and said who it was
_OPTIONS = "--hidden 16 --batch-size 16 --epochs 30 --save-every 20".split()


class Ended(NamedTuple):
    """What came of a run."""

    printed: str
    killed: int | None  # which process was, None if it ended before
    pid: int  # of that one
    seconds: float  # from the kill to the end of the launcher


def kill_sharded(folder: Path, kills: int, rng: random.Random) -> Tally:
    """`launch -n 2 -- xmc train-sharded`, of which one process is killed again and again."""
    tally = Tally("xmc train-sharded on two processes --resume")
    write_points(folder / "a.txt", 20, 400, 0)
    place = folder / "saves"
    program = ["launch", "-n", PROCESSES, "--", "xmc", "train-sharded", folder / "a.txt"]
    args = [*program, *_OPTIONS, "--checkpoint", place]
    for _ in range(2):
        shutil.rmtree(place, ignore_errors=True)
        began = time.monotonic()
        right = weights(run(*args))
        seconds = time.monotonic() - began  # the second time it is compiled
    shutil.rmtree(place)
    last = -1  # the newest save that was seen
    while tally.kills < kills:
        more = ["--resume"] if last >= 0 else []
        ended = kill_one(command(*args, *more), folder / "errors.txt", seconds, rng)
        errors = (folder / "errors.txt").read_text()
        if ended.killed is None:
            tally.finished += 1
            tally.acknowledged += 1
            tally.check(weights(ended.printed) == right, "the resumed run's weights are others")
            shutil.rmtree(place)
            last = -1
            continue
        tally.kills += 1
        named = f"process {ended.killed} of {PROCESSES} (pid {ended.pid}) was killed by SIGKILL"
        tally.check(named in errors, f"not told who was killed: {errors[-500:]}")
        tally.check(ended.seconds < MOST_SECONDS, f"the others ended after {ended.seconds:.0f} s")
        newest = newest_save(place)
        tally.check(newest >= last, f"save {last} is gone")
        last = newest
    return tally


def kill_one(args: list[str], errors: Path, seconds: float, rng: random.Random) -> Ended:
    """Starts a launcher, and kills one of its processes at a random moment."""
    moment = time.monotonic() + rng.uniform(0.3, 1.0) * seconds
    number, killed, pid = rng.randrange(PROCESSES), None, 0
    with started(args, errors) as launcher:
        while launcher.poll() is None and time.monotonic() < moment:
            time.sleep(0.01)
        began = time.monotonic()
        there = children(launcher.pid)
        if launcher.poll() is None and len(there) == PROCESSES:
            pid = there[number]
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
                killed = number
        assert launcher.stdout is not None
        printed = launcher.stdout.read()
        status = launcher.wait()
    # One that had ended by itself, and waited to be asked for its status, can't be killed.
    return Ended(printed, killed if status else None, pid, time.monotonic() - began)


def children(pid: int) -> list[int]:
    """The processes that another one has started, in that order."""
    with contextlib.suppress(OSError):
        return [int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return []


def weights(printed: str) -> str:
    """The digest that a finished run prints."""
    found = re.search(r"^ *weights +([0-9a-f]+)$", printed, re.MULTILINE)
    return found[1] if found else ""


def newest_save(place: Path) -> int:
    """The step of the last whole save, -1 if there is none."""
    done = [int(about.parent.name) for about in place.glob("*/about.json")]
    return max(done, default=-1)
