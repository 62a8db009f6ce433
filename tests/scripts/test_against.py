"""A command timed in two trees: what is compared, and what is refused."""

from __future__ import annotations

import json
import sys
from contextlib import contextmanager

import against
import pytest

PROGRAM = """
import json, pathlib, sys
speed = json.loads(pathlib.Path("speed.json").read_text())
pathlib.Path(sys.argv[1]).write_text(json.dumps({"step": {"ms": speed}}))
"""


@pytest.fixture
def trees(tmp_path, monkeypatch):
    for name, speed in (("old", 8.0), ("new", 2.0)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "speed.json").write_text(json.dumps(speed))

    @contextmanager
    def tree_of(revision):
        assert revision == "v1"
        yield tmp_path / "old"

    monkeypatch.setattr(against, "ROOT", tmp_path / "new")
    monkeypatch.setattr(against, "tree_of", tree_of)
    return tmp_path


def test_each_pair_runs_both_and_the_ratio_is_new_over_old(trees, capsys):
    out = trees / "out.json"
    given = ["v1", "--pairs", "3", "--figure", "step.ms", "--json", str(out), "--"]
    assert against.main([*given, sys.executable, "-c", PROGRAM, "{json}"]) == 0
    found = json.loads(out.read_text())
    figure = found["summary"]["figure"]
    assert figure == {"before": 8, "after": 2, "ratio": 0.25, "least": 0.25, "most": 0.25}
    assert len(found["runs"]) == 3
    assert all(run[side]["cpu_seconds"] > 0 for run in found["runs"] for side in run)
    assert "step.ms" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("program", "figure", "message"),
    [
        ("import sys; sys.exit('it broke')", None, "it broke"),
        (PROGRAM, "step.seconds", "--figure step.seconds: not in the JSON"),
    ],
)
def test_what_fails_is_told(trees, capsys, program, figure, message):
    more = [] if figure is None else ["--figure", figure]
    files = [] if figure is None else ["{json}"]
    given = ["v1", "--pairs", "1", *more, "--", sys.executable, "-c", program, *files]
    assert against.main(given) == 2
    assert message in capsys.readouterr().err


def test_options_without_effect_are_refused(capsys):
    for given in (["v1", "--figure", "a", "--", "true"], ["v1", "--", "true", "{json}"]):
        with pytest.raises(SystemExit):
            against.parse_args(given)
        assert "go together" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        against.parse_args(["v1", "--pairs", "0", "--", "true"])


def test_an_unknown_revision_is_told(capsys):
    assert against.main(["no-such-revision", "--pairs", "1", "--", "true"]) == 2
    assert "REV = 'no-such-revision'" in capsys.readouterr().err
