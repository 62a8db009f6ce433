"""The comparison with peers: what it runs, keeps and chooses; never how good anything is."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import compare
import compare_cells
import compare_ours
import compare_peer
import compare_sets
import compare_table
import numpy as np
import pytest
from in_process import call

from sparse_jax import xmc

ROOT = Path(__file__).resolve().parents[2]
FILES = [ROOT / "tests" / "fixtures" / f"xmc_tiny_{part}.txt" for part in ("train", "test")]
FIGURES = {
    "train_seconds": 1.0,
    "predict_us": 2.0,
    "peak_rss_bytes": 3 << 20,
    "model_bytes": 4 << 20,
}


def _set(directory, name, *, head="2 4 3", row="0,1 0:1 1:2", names=False):
    (directory / f"{name}_train.txt").write_text(f"{head}\n{row}\n2 3:1\n")
    (directory / f"{name}_test.txt").write_text(f"{head}\n{row}\n0 3:1\n")
    if names:
        (directory / f"{name}_labels.txt").write_text("x\ny\nz\n")
        (directory / f"{name}_vocab.txt").write_text("a\nb\nc\nd\n")


@pytest.fixture
def sets(tmp_path):
    directory = tmp_path / "sets"
    directory.mkdir()
    _set(directory, "one", names=True)
    _set(directory, "two")
    return directory


@pytest.fixture
def runs(monkeypatch):
    """What was run; figures are made up: ours and peers in turn are better."""
    asked = []

    def run(way, chosen, directory, *, python, seed, max_seconds):
        assert (directory / "train.npz").exists()
        asked.append((chosen.name, way, seed))
        best = {"fast": 0.5, "neighbours": 0.6}.get(way, 0.4) + seed / 10
        return {f"{m}@{k}": best / k for m in ("p", "r") for k in (1, 3, 5, 10)} | FIGURES

    monkeypatch.setattr(compare_cells, "run", run)
    return asked


def test_every_way_runs_once_and_a_second_run_reads_the_cells(sets, runs, tmp_path, capsys):
    output = tmp_path / "out" / "table.md"
    options = ["--sets", str(sets), "--seeds", "0", "1", "--output", str(output)]
    options += ["--ways", "fast; fast, no names; neighbours"]
    status, _, err = call(compare, capsys, *options)
    assert status == 0, err
    # Names for the set that has some alone; neighbours have no seed.
    assert runs == [
        ("one", "fast", 0),
        ("one", "fast, no names", 0),
        ("one", "neighbours", 0),
        ("two", "fast", 0),
        ("two", "neighbours", 0),
        ("one", "fast", 1),
        ("one", "fast, no names", 1),
        ("two", "fast", 1),
    ]
    table = json.loads(output.with_suffix(".json").read_text())
    fast = next(r for r in table["rows"] if (r["name"], r["way"]) == ("one", "fast"))
    assert fast["seeds"] == 2 and fast["figures"]["p@1"] == pytest.approx(0.55)
    assert fast["spread"] == pytest.approx(np.std([0.5, 0.6], ddof=1))
    assert {s["half"] for s in table["sets"].values()} == {"A", "B"}
    assert "| fast | 2 | 0.5500 |" in output.read_text()
    assert call(compare, capsys, *options)[0] == 0
    assert len(runs) == 8
    (sets / "two_test.txt").write_text("2 4 3\n0 0:1\n1 3:1\n")  # other points: the set anew
    assert call(compare, capsys, *options)[0] == 0
    assert runs[8:] == [("two", "fast", 0), ("two", "neighbours", 0), ("two", "fast", 1)]


@pytest.mark.parametrize("how", [KeyboardInterrupt, compare_cells.Failed])
def test_an_interrupted_table_says_so_and_goes_on(sets, runs, tmp_path, capsys, monkeypatch, how):
    usual = compare_cells.run

    def stop(way, chosen, directory, **options):
        if chosen.name == "two":
            raise how("out of memory")
        return usual(way, chosen, directory, **options)

    output = tmp_path / "table.md"
    options = ["--sets", str(sets), "--ways", "fast", "--output", str(output)]
    monkeypatch.setattr(compare_cells, "run", stop)
    status, _, err = call(compare, capsys, *options)
    if how is KeyboardInterrupt:
        assert status == 130 and "the same command goes on" in err
        assert "Not finished: 1 runs are missing" in output.read_text()
    else:
        assert status == 0 and "- two, fast, seed 0: out of memory" in output.read_text()
    monkeypatch.setattr(compare_cells, "run", usual)
    assert call(compare, capsys, *options)[0] == 0
    assert runs == [("one", "fast", 0), ("two", "fast", 0)]
    assert "Not finished" not in output.read_text() and "out of memory" not in output.read_text()


def test_an_absent_peer_is_told(sets, runs, capsys, monkeypatch):
    monkeypatch.setitem(compare_cells.PEERS, "XR-Linear", "no_such_package_here")
    status, out, _ = call(compare, capsys, "--sets", str(sets), "--ways", "XR-Linear")
    assert status == 0 and not runs
    assert "XR-Linear: cannot be had, no_such_package_here is in none of" in out


def test_choices_are_made_on_the_other_half():
    cells = {}
    for name, fast, accurate, peer in (("a", 0.9, 0.1, 0.5), ("b", 0.2, 0.8, 0.6)):
        for way, value in (("fast", fast), ("accurate", accurate), ("Parabel", peer)):
            cells[name, way, 0] = {"p@1": value, "p@5": value, "r@10": value, **FIGURES}
    # Neighbours have no figures on a: they can be the best peer of b, but not be chosen.
    cells["b", "neighbours", 0] = {"p@1": 0.7, "p@5": 0.1, "r@10": 0.1, **FIGURES}
    table = compare_table.rows(cells, ["a", "b"], [*compare_ours.OURS, *compare_cells.PEERS])
    first, second = compare_table.choices(table, {"a": 0, "b": 1})
    assert (first.half, first.ours, first.peer) == (0, "accurate", "Parabel")
    assert (second.half, second.ours, second.peer) == (1, "fast", "Parabel")
    assert first.sets[0]["ours"]["p@1"] == 0.1
    entry = second.sets[0]
    assert entry["ours"]["p@1"] == 0.2 and entry["peer"]["p@1"] == 0.6
    assert entry["best_peer"]["p@1"] == ("neighbours", 0.7)
    assert entry["best_peer"]["p@5"] == ("Parabel", 0.6)
    shapes = {name: compare_sets.Shape(2, 4, 3, 0.5) for name in "ab"}
    text = compare_table.markdown(table, [], shapes, {"a": 0, "b": 1}, [])
    assert "| b | 0.2000, 0.6000 (neighbours 0.7000) |" in text
    # One half alone chooses for nobody.
    assert not compare_table.choices([r for r in table if r.name == "a"], {"a": 0})


def test_halves_hold_each_kind_equally():
    kinds = {f"set {i}": ("small", "large", "dense")[i % 3] for i in range(18)}
    halves = compare_sets.halves(kinds)
    for kind in ("small", "large", "dense"):
        assert sum(halves[n] for n, k in kinds.items() if k == kind) == 3
    assert compare_sets.halves(dict(reversed(kinds.items()))) == halves


def test_kinds_of_sets(tmp_path):
    for name, head, row, kind in (
        ("dense", "2 4 3", "0 0:1 1:1 2:1 3:1", "dense"),
        ("large", "2 99 100000", "0 0:1", "large"),
        ("small", "2 99 3", "0 0:1", "small"),
        ("middle", "20000 99 3", "0 0:1", "middle"),
    ):
        _set(tmp_path, name, head=head, row=row)
        assert compare_sets.shape_of(tmp_path / f"{name}_train.txt").kind == kind
    found = compare_sets.in_directories([str(tmp_path)])
    assert [s.name for s in found] == ["dense", "large", "middle", "small"]
    with pytest.raises(ValueError, match="dense is there 2 times"):
        compare_sets.in_directories([str(tmp_path), str(tmp_path)])
    (tmp_path / "dense_test.txt").unlink()
    with pytest.raises(ValueError, match=r"a set without dense_test"):
        compare_sets.in_directories([str(tmp_path)])


def test_ours_as_a_process_runs_it(sets, tmp_path, capsys):
    chosen = compare_sets.in_directories([str(sets)])[0]
    named = [str(path) for path in (chosen.labels, chosen.words)]
    place = [str(chosen.train), str(chosen.test), str(tmp_path), "0"]
    assert compare_ours.main(["fast", *place, *named]) == 0
    with np.load(tmp_path / "predicted.npz") as z:
        figures = json.loads(str(z["figures"]))
        assert z["predicted"].shape == (2, 3) and z["predicted"][0, 0] in (0, 1)
    assert all(figures[name] > 0 for name in FIGURES)
    assert xmc.load(tmp_path / "model").about.label_names == ("x", "y", "z")


def test_neighbours_by_hand(tmp_path):
    pytest.importorskip("scipy")
    chosen = compare_sets.of_files(*map(str, FILES))
    assert chosen.name == "xmc_tiny" and chosen.labels is None
    compare_cells.prepare(chosen, tmp_path / "set")
    with np.load(tmp_path / "set" / "test.npz") as z:
        points = {key: z[key] for key in z.files} | {"n": int(z["n"])}
    predicted, _ = compare_peer.neighbours("", points, tmp_path / "set", 0)
    assert predicted.shape == (points["n"], 10)
    train, test = compare_cells.train_xmc.load_weighted([str(path) for path in FILES])
    dense = np.zeros((train.num_points, train.num_features))
    rows = np.repeat(np.arange(train.num_points), np.diff(train.feature_offsets))
    dense[rows, train.feature_ids] = train.feature_values
    query = np.zeros(train.num_features)
    end = test.feature_offsets[1]
    query[test.feature_ids[:end]] = test.feature_values[:end]
    near = dense @ query
    votes = np.zeros(train.num_labels)
    for i in np.argsort(-near)[:50]:
        votes[train.label_ids[train.label_offsets[i] : train.label_offsets[i + 1]]] += near[i]
    assert predicted[0, 0] == np.argmax(votes)


def test_a_process_that_fails_or_takes_too_long(tmp_path):
    log = tmp_path / "log.txt"
    code = "import sys; sys.exit('no memory')"
    with pytest.raises(compare_cells.Failed, match="ended with status 1: no memory"):
        compare_cells._call([sys.executable, "-c", code], log, None)
    code = "import os; os.kill(os.getpid(), 9)"
    with pytest.raises(compare_cells.Failed, match=r"was ended by signal 9: .* memory ran out"):
        compare_cells._call([sys.executable, "-c", code], log, None)
    started = time.monotonic()
    with pytest.raises(compare_cells.Failed, match=r"took longer than 0\.2 s"):
        compare_cells._call([sys.executable, "-c", "import time; time.sleep(30)"], log, 0.2)
    assert time.monotonic() - started < 20


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["one"], "got 1 file(s)"),
        (["a", "b", "--sets", "c"], "give TRAIN and TEST, or --sets"),
        (["--ways", "magic"], "--ways magic: must be of fast"),
        (["--sets", "x", "--plot", "p.png"], "--plot has no effect with --sets"),
        (["--max-seconds", "0"], "--max-seconds 0: must be above 0"),
        (["--sets", "no/such"], "no *_train.txt[.gz] there"),
        (["--ways", "neighbours", "--peers-python", "/no/python"], "must be an interpreter"),
    ],
)
def test_errors(options, message, capsys, monkeypatch):
    monkeypatch.setitem(compare_cells.PEERS, "neighbours", "no_such_package_here")
    status, _, err = call(compare, capsys, *options)
    assert status == 2 and message in err and "Traceback" not in err
