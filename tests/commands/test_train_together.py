"""`xmc train` by several processes: the same model, and refusals of what they can't share."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from in_process import call

from sparse_jax.commands import launch
from sparse_jax.commands import main as command_line
from sparse_jax.commands.xmc import train

FIXTURES = Path(__file__).parents[1] / "fixtures"
TRAIN, TEST = (str(FIXTURES / f"xmc_tiny_{part}.txt") for part in ("train", "test"))


def files(folder: Path) -> dict[str, bytes]:
    """The arrays of a model; its notes hold seconds."""
    return {path.name: path.read_bytes() for path in sorted(folder.glob("*.npz"))}


def launched(count: int, *command: str) -> subprocess.CompletedProcess[str]:
    program = [sys.executable, "-m", "sparse_jax.commands.main", "launch", "-n", str(count), "--"]
    path = os.pathsep.join(filter(None, sys.path))
    return subprocess.run(
        [*program, *command],
        env=os.environ | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.slow
@pytest.mark.parametrize("preset, count", [("fast", 3), ("accurate", 2)])
def test_processes_make_the_model_of_one(tmp_path: Path, preset: str, count: int) -> None:
    """Of 600 points; test points are read by the first process alone."""
    lines = Path(TRAIN).read_text().splitlines()
    features, labels = lines[0].split()[1:]
    few = tmp_path / "points.txt"
    few.write_text("\n".join([f"600 {features} {labels}", *lines[1:601]]) + "\n")
    one, many = tmp_path / "one", tmp_path / "many"
    options = ("xmc", "train", str(few), TEST, "--preset", preset, "--model")
    alone = launched(1, *options, str(one))
    together = launched(count, *options, str(many))
    assert alone.returncode == 0, alone.stderr
    assert together.returncode == 0, together.stderr
    assert files(one) and files(one) == files(many)
    told = [line for line in together.stdout.splitlines() if "P@1" in line]
    assert told and told == [line for line in alone.stdout.splitlines() if "P@1" in line]


@pytest.mark.slow
def test_processes_that_differ_are_told(tmp_path: Path) -> None:
    """Each reads a file of its own by this name; the second one's has a point less."""
    one, other = tmp_path / "one.txt", tmp_path / "other.txt"
    one.write_text("3 2 2\n0 0:1\n1 1:1\n0 0:2\n")
    other.write_text("2 2 2\n0 0:1\n1 1:1\n")
    program = tmp_path / "program.py"
    program.write_text(
        "import os, sys\n"
        "from sparse_jax.commands.xmc import train\n"
        f"files = {[str(one), str(other)]!r}\n"
        "sys.exit(train.main([files[int(os.environ['SPARSE_JAX_PROCESS'])]]))\n"
    )
    found = launched(2, sys.executable, str(program))
    assert found.returncode != 0
    assert "digests of data = points" in found.stderr
    assert "on process 1" in found.stderr and "must be the same on all" in found.stderr


@pytest.mark.parametrize(
    "options, said",
    [
        (["--hidden", "8"], "a network alone among 2 processes: must be a preset"),
        (["--target", "price"], "--target among 2 processes: must be trained by one alone"),
        (["--checkpoint", "saves"], "--checkpoint among 2 processes: must be left out"),
        (["--process", "2"], "process = 2: must be from 0 to 1, each once"),
    ],
)
def test_what_processes_cannot_share(capsys: Any, options: list[str], said: str) -> None:
    if "--process" not in options:
        options = [*options, "--process", "0"]
    where = ["--coordinator", "127.0.0.1:8476", "--processes", "2"]
    status, _, err = call(train, capsys, TRAIN, *options, *where)
    assert status == 2 and said in err


def test_standard_input_is_no_file_of_many(capsys: Any) -> None:
    where = ["--coordinator", "127.0.0.1:8476", "--processes", "2", "--process", "0"]
    status, _, err = call(train, capsys, "-", *where)
    assert status == 2 and "- among 2 processes: must be a file, which each of them reads" in err


def test_launch_refuses_commands_that_share_nothing(capsys: Any) -> None:
    for command in (["dedupe", "texts"], ["xmc", "predict", "MODEL", "points"], ["xmc"]):
        status, _, err = call(launch, capsys, "-n", "2", "--", *command)
        name = " ".join(command[:2] if command[0] in command_line.GROUPS else command[:1])
        assert status == 2 and f"error: {name}: must be a command that shares its work" in err
        assert "xmc train or xmc train-sharded" in err
