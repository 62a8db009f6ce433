"""Programs that must print the same with any number of threads.

XLA:CPU reads NPROC once, when it starts, so each number needs a process of its own; importing JAX
there costs more than most programs do. A test names its program, and the numbers, in a mark:

    @pytest.mark.threads(PROGRAM, counts=(1, 2))
    def test_bits(printed):
        assert printed[1] == printed[2] != ""

One process for each number runs the programs of all tests that were collected, for all workers.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import subprocess
import sys
import tempfile
import time
import traceback
from pathlib import Path
from typing import NamedTuple


class Output(NamedTuple):
    """What came of a program."""

    printed: str
    raised: str  # a traceback, or nothing


Programs = dict[str, str]  # by the test's name
Printed = dict[int, dict[str, Output]]  # by the number of threads, and the test's name


def environment(count: int) -> dict[str, str]:
    """The environment of a process with this many threads.

    What XLA compiled for one number of threads is not what it compiles for another, and JAX's cache
    doesn't ask: each has a folder of its own.
    """
    cache = Path(os.environ["JAX_COMPILATION_CACHE_DIR"]) / f"threads{count}"
    return os.environ | {"NPROC": str(count), "JAX_COMPILATION_CACHE_DIR": str(cache)}


def run_all(programs: dict[int, Programs]) -> Printed:
    """What each program prints and raises with each number of threads, side by side."""
    children = {}
    for count, named in programs.items():
        given = tempfile.TemporaryFile("w+")
        given.write(json.dumps(named))
        given.seek(0)
        path = os.pathsep.join([os.path.dirname(__file__), *sys.path])
        children[count] = subprocess.Popen(
            [sys.executable, __file__],
            stdin=given,
            stdout=subprocess.PIPE,
            text=True,
            env=environment(count) | {"PYTHONPATH": path},
        )
        given.close()
    out = {}
    for count, child in children.items():
        printed, _ = child.communicate()
        died = Output("", f"the process of all programs ended with {child.returncode}")
        found = {name: Output(*of) for name, of in map(json.loads, printed.splitlines())}
        out[count] = dict.fromkeys(programs[count], died) | found
    return out


def run_once(folder: Path, programs: dict[int, Programs]) -> Printed:
    """As `run_all`, by the first of the workers that share a folder; the others wait for it."""
    done = folder / "printed.json"
    try:
        os.close(os.open(folder / "running", os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        deadline = time.monotonic() + 1200
        while not done.exists():
            assert time.monotonic() < deadline, "another worker's programs don't end"
            time.sleep(0.1)
    else:
        written = folder / "printed.part"
        written.write_text(json.dumps(run_all(programs)))
        written.rename(done)
    return {
        int(count): {name: Output(*of) for name, of in named.items()}
        for count, named in json.loads(done.read_text()).items()
    }


def main() -> None:
    """Runs the programs that the standard input has by name; prints a line of JSON for each."""
    import jax

    for name, program in json.load(sys.stdin).items():
        printed, raised = io.StringIO(), ""
        try:
            with contextlib.redirect_stdout(printed):
                exec(compile(program, name, "exec"), {"__name__": "__main__"})
        except BaseException:
            raised = traceback.format_exc()
        jax.clear_caches()
        print(json.dumps([name, [printed.getvalue(), raised]]), flush=True)


if __name__ == "__main__":
    main()
