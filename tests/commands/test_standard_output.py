"""Standard output: a reader that has seen enough, and its name as a file."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from sparse_jax.commands import main as program
from sparse_jax.runtime.files import write_atomically

PROGRAM = [sys.executable, "-m", "sparse_jax.commands.main"]


@pytest.mark.parametrize("options", [["--help"], ["lm", "--help"]])
def test_help_for_a_reader_that_is_gone_ends_without_a_traceback(options):
    reader, writer = os.pipe()
    os.close(reader)
    ended = subprocess.run([*PROGRAM, *options], stdout=writer, stderr=subprocess.PIPE)
    os.close(writer)
    assert (ended.returncode, ended.stderr) == (141, b"")


def test_a_minus_is_standard_output_not_a_file(capsysbinary, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    print("before ", end="")
    write_atomically("-", b"red\n")
    assert capsysbinary.readouterr().out == b"before red\n"
    write_atomically("./-", b"a file")
    assert (tmp_path / "-").read_bytes() == b"a file"


def test_points_converted_to_standard_output_stand_there_alone(capfdbinary, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.csv").write_text("text,labels\nred,food\n")
    assert program.main(["convert", "a.csv", "-", "--to", "jsonl"]) == 0
    told = capfdbinary.readouterr()
    assert told.out == b'{"text": "red", "labels": ["food"]}\n'
    assert told.err == b"1 points of kind csv, written to - as jsonl\n"
    assert os.listdir(tmp_path) == ["a.csv"]


INTERRUPTED = """
import atexit, os, sys
from sparse_jax.commands import main
from sparse_jax.runtime import compiled
atexit.register(os.abort)  # as a computation does whose libraries are gone
compiled.run = lambda command: print("a line") or 130
sys.exit(main.program())
"""


def test_after_ctrl_c_nothing_is_torn_down_beneath_a_computation():
    ended = subprocess.run([sys.executable, "-c", INTERRUPTED], capture_output=True)
    assert (ended.returncode, ended.stdout, ended.stderr) == (130, b"a line\n", b"")
