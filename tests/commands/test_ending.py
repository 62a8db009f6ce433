"""How commands end: the status, and what is told."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

from sparse_jax.commands import main
from sparse_jax.commands.ending import status_of
from sparse_jax.commands.parsing import Parser

CLOSED = """
import argparse, sys
from sparse_jax.commands.ending import status_of
def run(args):
    while True:
        print("a line", flush=True)
sys.exit(status_of(run, argparse.Namespace(), closed_pipe={}))
"""


def raising(error: BaseException | None):
    def run(args: argparse.Namespace) -> None:
        if error is not None:
            raise error

    return run


@pytest.mark.parametrize(
    ("error", "status", "told"),
    [
        (None, 0, ""),
        (KeyboardInterrupt(), 130, "\ninterrupted\n"),
        (ValueError("k = 0: must be at least 1"), 2, "error: k = 0: must be at least 1\n"),
        (ImportError("no polars"), 2, "error: no polars\n"),
        (BrokenPipeError("closed"), 2, "error: closed\n"),
        (MemoryError("no 8 TiB"), 2, "error: not enough memory: no 8 TiB\n"),
        (MemoryError(), 2, "error: not enough memory: ask for less\n"),
    ],
)
def test_status_and_message(capsys, error, status, told):
    assert status_of(raising(error), argparse.Namespace()) == status
    assert capsys.readouterr().err == told


def test_a_fault_of_the_program_is_not_hidden():
    with pytest.raises(KeyError):
        status_of(raising(KeyError("x")), argparse.Namespace())


@pytest.mark.parametrize("status", [0, 141])
def test_a_reader_that_has_seen_enough(status):
    command = [sys.executable, "-c", CLOSED.format(status)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == status


PRINTING = """
import sys, types
from sparse_jax.commands import main
small = types.ModuleType("small")
small.main = lambda argv: print("a line", *argv) or 0
sys.modules["sparse_jax.commands.small"] = small
main.COMMANDS["small"] = main.Command("small", "prints a line")
sys.exit(main.main(["small"]))
"""


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_a_full_disk_behind_standard_output_is_one_line():
    with open("/dev/full", "wb") as full:
        command = [sys.executable, "-c", PRINTING]
        found = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, check=False)
    told = found.stderr.decode().splitlines()
    assert found.returncode == 2 and len(told) == 1 and told[0].startswith("error: [Errno 28]")


def test_a_file_whose_name_begins_with_a_dash_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "-points.txt").write_text("1 0:1\n")
    parser = Parser("Reads.")
    parser.add_argument("file", nargs="?")
    for given, told in (("-points.txt", "Call it ./-points.txt"), ("-other.txt", "-other.txt\n")):
        with pytest.raises(SystemExit):
            parser.parse_args([given])
        assert told in capsys.readouterr().err


def test_the_version_is_told_where_nothing_is_installed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def version(name: str) -> str:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "version", version)
    assert main.main(["--version"]) == 0
    assert capsys.readouterr().out == "sparse-jax 0, a source tree that is not installed\n"
