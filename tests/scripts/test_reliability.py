"""The study of killed processes: what it expects of an index is what its changes make."""

from __future__ import annotations

import random
import sys

import pytest
import reliability
import reliability_kills as kills
import reliability_sharded as sharded
import reliability_training as training
from small_index import TINY

from sparse_jax import search, xmc

pytestmark = pytest.mark.usefixtures("quick_compiles")


def test_changes_are_expected_as_they_are_held(tmp_path):
    _, texts = kills.first_documents(tmp_path)
    place = tmp_path / "i"
    with search.fit([search.Document(*row) for row in texts.items()], config=TINY) as index:
        index.save(place)
        assert kills.held(place, texts) == ({}, 0)
        for n in range(14):
            kills.change(index, n)
            if n in (3, 5, 10, 13):
                assert kills.held(place, texts) == kills.expected(n) != kills.expected(n - 3)
        index.delete("d0")
    assert kills.held(place, {"d1": "another"})[0]["d1"] == texts["d1"]


def test_models_are_told_apart(tmp_path):
    points = training.write_points(tmp_path / "a.txt", 20, 200, 0)
    found = []
    for seed in (0, 1, 0):
        xmc.save(xmc.fit(points, seed=seed), tmp_path / "m")
        found.append(training.digest(tmp_path / "m", points))
    assert found[0] == found[2] != found[1]


def test_a_process_is_killed_and_counted(tmp_path):
    tally = kills.Tally("sleep")
    (tmp_path / "f").mkdir()
    write = "import itertools, time; print('on', flush=True)\n"
    write += "for n in itertools.count():\n"
    write += f"    open(f'{tmp_path}/f/{{n}}', 'w').close(); time.sleep(0.02)"
    for _ in range(2):  # at a random moment, and at a write
        args = [sys.executable, "-c", write]
        printed = kills.kill_while_it_runs(tally, args, tmp_path / "f", 0.5, random.Random(3))
    assert printed == "on\n" and tally.kills == 2 and tally.at_a_write == 1
    kills.kill_while_it_runs(
        tally, [sys.executable, "-c", ""], tmp_path / "f", 60, random.Random(0)
    )
    assert tally.finished == 1 and sum(reliability.KINDS.values()) == 220
    with pytest.raises(SystemExit):
        reliability.main(["nothing"])


def test_one_process_of_two_is_killed(tmp_path):
    """A launcher that, as ours, ends by its children's status."""
    errors = tmp_path / "errors.txt"
    code = "import subprocess, sys\n"
    code += f"sleep = [{sys.executable!r}, '-S', '-c', 'import time; time.sleep({{}})']\n"
    code += "run = [subprocess.Popen([*sleep[:-1], sleep[-1].format(x)]) for x in ({0}, {0})]\n"
    code += "print('  weights  0123456789abcdef', flush=True)\n"
    code += "ended = [p.wait() for p in run]; print(ended); sys.exit(any(ended))"
    args = [sys.executable, "-S", "-c", code.replace("{0}", "3")]
    ended = sharded.kill_one(args, errors, 1.5, random.Random(1))
    assert ended.killed in (0, 1) and ended.pid and ended.printed.count("-9") == 1
    assert sharded.weights(ended.printed) == "0123456789abcdef"
    args = [sys.executable, "-S", "-c", code.replace("{0}", "0")]
    assert sharded.kill_one(args, errors, 60.0, random.Random(1)).killed is None
    assert sharded.newest_save(tmp_path) == -1
    (tmp_path / "000000020").mkdir()
    assert sharded.newest_save(tmp_path) == -1  # not whole yet
    (tmp_path / "000000020" / "about.json").write_text("{}")
    assert sharded.newest_save(tmp_path) == 20
