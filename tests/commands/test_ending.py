"""How commands end: the status, and what is told."""

from __future__ import annotations

import argparse
import subprocess
import sys

import pytest

from sparse_jax.commands.ending import status_of

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
