"""`xmc train-sharded` alone and launched: it learns, resumes elsewhere, ends when one dies."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import quickly
from in_process import call

from sparse_jax import data, sharding, xmc
from sparse_jax.commands import launch
from sparse_jax.commands import main as command_line
from sparse_jax.commands.xmc import train_sharded
from sparse_jax.xmc.sharded_points import Options, read
from sparse_jax.xmc.sharded_run import ShardedRun

pytestmark = pytest.mark.usefixtures("quick_compiles")

FIXTURES = Path(__file__).parents[1] / "fixtures"
TRAIN, TEST = (str(FIXTURES / f"xmc_tiny_{part}.txt") for part in ("train", "test"))


@pytest.mark.slow
def test_alone_it_trains_a_model_that_one_machine_reads(tmp_path: Path, capsys: Any) -> None:
    model, saves = str(tmp_path / "MODEL"), str(tmp_path / "SAVES")
    options = (TRAIN, "--epochs", "2", "--hidden", "32", "--lr", "0.02")
    status, out, err = call(
        train_sharded, capsys, *options, "--model", model, "--checkpoint", saves
    )
    assert status == 0, err
    assert "2,000 points, 4,000 features, 500 labels on 1 shards of 1 processes" in out
    assert "TF-IDF weighting" in out and "a shard sends 0.00 MB a step" in out
    points, loaded = data.read_xmc(TEST), xmc.load(model)
    figures = xmc.evaluate(xmc.predict(loaded, points, k=5), points)
    assert figures["p@1"] > 0.25
    # Scores are chances: as they come from the network their error is above .4.
    assert "chances, as 100 points tell" in out and loaded.about.notes["calibrated"]
    assert figures["ece"] < 0.06
    # Nothing is left to do, and the weights are those that were saved.
    status, again, _ = call(train_sharded, capsys, *options, "--checkpoint", saves, "--resume")
    assert status == 0 and "resumed at step 30 of 30" in again
    assert re.findall("weights .*", again) == re.findall("weights .*", out)
    status, _, err = call(
        train_sharded, capsys, TRAIN, "--hidden", "16", "--checkpoint", saves, "--resume"
    )
    assert status == 2 and "hidden was 32, is 16" in err


def small_file(folder: Path) -> str:
    """400 points; a line as long as all others, so that of three shares one has but one."""
    rng = np.random.default_rng(0)
    lines = []
    for row in range(400):
        ids = np.unique(rng.integers(0, 60, 8))
        lines.append(f"{row % 7} " + " ".join(f"{i}:1" for i in ids))
    length = sum(map(len, lines)) // 250
    lines[0] = "0,3 " + " ".join(f"{i}:1.".ljust(length, "0") for i in range(250))
    (folder / "small.txt").write_text("\n".join(["400 250 7", *lines]) + "\n")
    return str(folder / "small.txt")


def arguments(file: str, saves: Path, *more: str) -> list[str]:
    sizes = ["--hidden", "8", "--batch-size", "12", "--epochs", "10", "--shards", "3"]
    return ["xmc", "train-sharded", file, *sizes, "--checkpoint", str(saves), *more]


def run(count: int, *command: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [
            sys.executable,
            "-m",
            "sparse_jax.commands.main",
            "launch",
            "-n",
            str(count),
            "--",
            *command,
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=os.environ | quickly.environment() | {"PYTHONPATH": os.pathsep.join(sys.path)},
    )


def children(process: subprocess.Popen[str]) -> list[int]:
    listed = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text()
    return [int(pid) for pid in listed.split()]


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="needs /proc")
def test_a_killed_process_stops_the_others_and_one_machine_goes_on(tmp_path: Path) -> None:
    file, saves = small_file(tmp_path), tmp_path / "SAVES"
    three = run(3, *arguments(file, saves))
    deadline = time.monotonic() + 240
    while len(list(saves.glob("*/about.json"))) < 2:
        assert three.poll() is None and time.monotonic() < deadline, three.communicate()
        time.sleep(0.02)
    victims = children(three)
    os.kill(victims[1], signal.SIGKILL)
    killed = time.monotonic()
    out, _ = three.communicate(timeout=60)
    assert time.monotonic() - killed < 10
    assert three.returncode == 128 + signal.SIGKILL
    assert f"process 1 of 3 (pid {victims[1]}) was killed by SIGKILL" in out
    assert not any(Path(f"/proc/{pid}").exists() for pid in victims)
    # One process goes on from what three saved; another was never interrupted.
    ended = []
    for folder, more in ((saves, ["--resume"]), (tmp_path / "WHOLE", [])):
        one = run(1, *arguments(file, folder, *more))
        told, _ = one.communicate(timeout=240)
        assert one.returncode == 0, told
        ended.append(told)
    assert re.search(r"resumed at step [1-9]\d* of ", ended[0])
    # Of what scores mean, too.
    assert all("chances, as 20 points tell" in told for told in ended)
    weights = [re.findall(r"weights +(\w{16})", told) for told in ended]
    assert weights[0] == weights[1] and len(weights[0]) == 1


def launched(count: int, code: str) -> tuple[int, float]:
    started = time.monotonic()
    status = launch.launch([sys.executable, "-S", "-c", code], count, "127.0.0.1:1")
    return status, time.monotonic() - started


@pytest.mark.parametrize(
    ("code", "status", "message"),
    [
        ("pass", 0, ""),
        ("import time; print('hello'); time.sleep(60 * (P != 1)); sys.exit(3)", 3, "1 of 3"),
        # Those that only lost another one are not the ones to name.
        ("import time; time.sleep(.2 * (P == 2)); sys.exit(4 if P == 2 else 75)", 4, "2 of 3"),
        ("import time; time.sleep(60) if P == 1 else os.abort()", 134, "process 1 of 3"),
        ("os.kill(os.getpid(), 9) if P == 2 else sys.exit(75)", 137, "by SIGKILL"),
    ],
)
def test_the_launcher_watches(code: str, status: int, message: str, capfd: Any) -> None:
    code = f"import os, sys; P = int(os.environ['SPARSE_JAX_PROCESS']); {code}"
    found, seconds = launched(3, code)
    told = capfd.readouterr()
    assert found == status and seconds < 20
    assert message in told.err and ("error" in told.err) == bool(status)
    if "abort" in code:
        assert "does not answer the others and is stopped" in told.err
    if "hello" in code:
        assert "ended with 3; 2 more stopped" in told.err


def test_who_failed_is_the_last_that_is_said(capfd: Any) -> None:
    """JAX aborts the others with a stack trace, which comes behind what the first one says."""
    frames = "*** Check failure stack trace: ***\\n    @     0x7f00deadbeef  absl::Die()\\n"
    aborted = f"time.sleep(1); print('F1 died\\n{frames}', file=sys.stderr); os.abort()"
    code = "import os, signal, sys, time; P = int(os.environ['SPARSE_JAX_PROCESS'])\n"
    code += "signal.signal(signal.SIGTERM, signal.SIG_IGN)  # as JAX does\n"
    code += f"if P == 0: sys.exit('error: No space left')\n{aborted}"
    found, _ = launched(2, code)
    lines = capfd.readouterr().err.splitlines()
    assert found == 1 and lines[0] == "error: No space left"
    assert re.fullmatch(
        r"error: process 0 of 2 \(pid \d+\) ended with 1(; 1 more stopped)?", lines[-1]
    )
    assert not any("0x7f00deadbeef" in line or "stack trace" in line for line in lines)


def test_a_launched_command_is_told_where_the_others_are(capfd: Any) -> None:
    code = "import os; print(*(v for k, v in sorted(os.environ.items()) if 'SPARSE_JAX_PR' in k))"
    argv = ["-n", "2", "--coordinator", "127.0.0.1:7", "--", sys.executable, "-S", "-c", code]
    assert launch.main(argv) == 0
    out = capfd.readouterr().out
    assert sorted(out.splitlines()) == ["0 2", "[1] 1 2"]


@pytest.mark.parametrize(
    ("module", "options", "message"),
    [
        (launch, ["-n", "2"], "COMMAND is missing: give it behind --"),
        (launch, ["-n", "0", "--", "x"], "--processes 0: must be at least 1"),
        (launch, ["-n", "1", "--", "no-such-program"], "no-such-program can't be started"),
        (train_sharded, [TRAIN, "--epochs", "0"], "--epochs 0: must be at least 1"),
        (train_sharded, [TRAIN, "--lr", "0"], "--lr 0.0: must be above 0"),
        (train_sharded, [TRAIN, "--seed", "-1"], "--seed -1: must be at least 0"),
        (train_sharded, [TRAIN, "--resume"], "--resume needs --checkpoint DIR"),
        (train_sharded, [TRAIN, "--processes", "2"], "coordinator = None: must be HOST:PORT"),
        (train_sharded, ["nowhere.txt"], "nowhere.txt"),
        (train_sharded, [TRAIN, "--active", "3"], "active = 3: must be at least"),
    ],
)
def test_mistakes(module: Any, options: list[str], message: str, capsys: Any) -> None:
    status, _, err = call(module, capsys, *options)
    assert status == 2 and message in err


def test_a_file_that_breaks_its_promise(tmp_path: Path, capsys: Any) -> None:
    path = tmp_path / "points.txt"
    for content, message in (
        ("3 5 2\n0 1:1\n1 2:1\n", "it has 2 rows, but the header promises 3"),
        ("1 5 2\n0 1:1\n1 2:1\n", "it has 2 rows, but the header promises 1"),
        ("0 5 2\n", "has no points: must have at least one"),
        ("2 5 2\n 1:1\n 2:1\n", "has no labels: labels come first on each line"),
        ("1 5 2\n0 9:1\n", "line 2: "),
    ):
        path.write_text(content)
        status, _, err = call(train_sharded, capsys, str(path))
        assert status == 2 and message in err
    path.write_text("2 5 2\n0 1:1\n1 2:1\n\n\n")  # blank lines at the end are no points
    assert read(str(path), sharding.mesh(), Options()).counts == [2]


@pytest.mark.slow
def test_points_too_few_to_be_held_out(tmp_path: Path, capsys: Any) -> None:
    path = tmp_path / "points.txt"
    path.write_text("2 5 2\n0 1:1\n1 2:1\n\n\n")
    status, out, err = call(train_sharded, capsys, str(path), "--hidden", "4", "--epochs", "1")
    assert status == 0 and "2 points, 5 features, 2 labels" in out, err
    assert "not calibrated: they order labels" in out and "0 of 2 points could be held out" in out


def test_a_run_from_before_points_were_held_out_is_told_so(tmp_path: Path) -> None:
    """Not that its data were others: it trained on the points that are held out now."""
    file, directory = small_file(tmp_path), str(tmp_path / "SAVES")
    found = ShardedRun(file, Options(hidden=8, batch_size=12, epochs=1), directory=directory)
    found.save(found.state)
    assert found.points.held_count and found.resume()
    here = found.about
    sizes, shards, _ = here["data"]
    found.about = here | {"data": [sizes, shards, ["of all points"]]}
    found.save(found.state)
    found.about = here
    with pytest.raises(ValueError, match="was saved with other data"):
        found.resume()
    without_held_out(directory)
    with pytest.raises(ValueError, match=r"trained on all points, \d+ of which are held out now"):
        found.resume()


def without_held_out(directory: str) -> None:
    """The last save, as it was written before points were held out."""
    *_, last = sorted(Path(directory).iterdir())
    changed = []
    for path in last.rglob("*"):
        text = path.read_bytes() if path.is_file() else b""
        if b'"held_out"' in text:
            about = json.loads(text)
            del about["extra"]["held_out"]
            path.write_text(json.dumps(about))
            changed.append(path)
    assert changed


def test_both_are_commands() -> None:
    assert {"launch", "xmc train-sharded"} <= set(command_line.COMMANDS)
