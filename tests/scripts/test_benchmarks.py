"""The benchmark scripts end to end on tiny sizes: what they report, never how fast."""

from __future__ import annotations

import json
from pathlib import Path

import bench_duplicates
import bench_inference
import bench_tables
import numpy as np
import pytest
import trained
from in_process import call

pytestmark = pytest.mark.usefixtures("quick_compiles")

ROOT = Path(__file__).resolve().parents[2]
FILES = [str(ROOT / "tests" / "fixtures" / f"xmc_tiny_{part}.txt") for part in ("train", "test")]
TRAIN = "--hidden 16 --active 256 --batch-size 64 --epochs 2 --tables 4 --bits 4"


@pytest.mark.slow
def test_inference(tmp_path, capsys):
    options = [*FILES, "--train", TRAIN, "--cache", f"{tmp_path}/cache", "--queries", "64"]
    options += ["--rounds", "1", "--seconds", "0.001", "--batch-sizes", "1,16", "--changing", "1"]
    options += ["--json", f"{tmp_path}/a.json", "--plot", f"{tmp_path}/a.png"]
    status, out, err = call(bench_inference, capsys, *options)
    assert status == 0, err
    results = json.loads((tmp_path / "a.json").read_text())
    assert results["labels"] == 500 and "2,000 points" in results["origin"]
    points = results["points"]
    assert {p["batch_size"] for p in points} == {1, 16}
    for p in points:
        assert p["us_per_query"] > 0 and p["cpu_us_per_query"] > 0
        assert p["recall@5"] == 1 if p["method"].startswith("exact") else 0 <= p["recall@5"] <= 1
    coded = [p["recall@5"] for p in points if p["method"] == "quantized"]
    assert max(coded) == 1 and 0.5 < min(coded) < 1  # all 500 rows rescored, and 16
    # What isn't installed is said, and what is was measured.
    peers = {p["method"].split()[0] for p in points} | set(results["absent"])
    assert {"hnswlib", "faiss"} <= peers
    for name, why in results["absent"].items():
        assert f"{name}: not installed" in out and "pip install" in why
    assert results["changing"][0]["recall@5"] == 1
    assert (tmp_path / "a.png").read_bytes()[:4] == b"\x89PNG"
    assert list(tmp_path.glob("cache/files-*.npz"))


@pytest.mark.slow
def test_tables(tmp_path, capsys):
    options = ["--rows", "300,3000", "--tables", "2,3", "--batch-sizes", "1,8", "--changed", "50"]
    options += ["--rounds", "1", "--json", f"{tmp_path}/t.json", "--plot", f"{tmp_path}/t.svg"]
    status, _, err = call(bench_tables, capsys, *options)
    assert status == 0, err
    points = json.loads((tmp_path / "t.json").read_text())["points"]
    assert [(p["rows"], p["tables"]) for p in points] == [(300, 2), (3000, 2), (300, 3), (3000, 3)]
    for p in points:
        assert p["bytes"] == p["predicted_bytes"]
        for name in ("build_ms", "insert_ms", "update_ms", "query_1_us", "query_8_us"):
            assert p[name] > 0
    assert "<svg" in (tmp_path / "t.svg").read_text()


@pytest.mark.slow
def test_tuner(tmp_path, capsys):
    options = ["--tune", *FILES, "--train", TRAIN, "--memory", "0.3", "--active-fraction", "0.5"]
    options += ["--train-batch", "16", "--families", "simhash", "--json", f"{tmp_path}/t.json"]
    status, out, err = call(bench_tables, capsys, *options)
    assert status == 0, err
    tuned = json.loads((tmp_path / "t.json").read_text())["tuner"]
    best = tuned["plans"][0]
    assert best["rank"] == 1 and best["max_candidates"] == 15
    for p in tuned["plans"]:
        assert p["measured_bytes"] == p["predicted_bytes"] <= 0.3 * 2**20
        assert p["predicted_recall"] <= best["predicted_recall"] + 1e-3
    assert "measured" in out


@pytest.mark.parametrize(
    ("script", "options", "message"),
    [
        (bench_inference, ["--methods", "magic"], "--methods magic: must be of exact"),
        (bench_inference, ["--rounds", "0"], "--rounds 0: must be at least 1"),
        (bench_inference, ["a"], "got 1 file(s)"),
        (bench_inference, ["no", "file"], "no such file"),
        (bench_tables, ["--rows", "0"], "must be at least 1"),
        (bench_tables, ["--tune", "--memory", "0"], "--memory above 0"),
    ],
)
def test_errors_name_the_option(capsys, script, options, message):
    status, _, err = call(script, capsys, *options)
    assert status == 2
    assert message.lower() in err.lower()
    assert "Traceback" not in err


def test_synthetic_set_has_the_structure_it_claims():
    train, test = trained.synthetic(900, num_points=600, num_features=2000, seed=3)
    again, _ = trained.synthetic(900, num_points=600, num_features=2000, seed=3)
    np.testing.assert_array_equal(train.feature_ids, again.feature_ids)
    assert (train.num_points, test.num_points) == (600, 4096)
    # Each of the first points brings a label of its own; a few labels are met far more often.
    counts = np.bincount(train.label_ids, minlength=900)
    assert (counts > 0).sum() >= 600
    assert np.sort(counts)[-90:].sum() > 0.25 * counts.sum()
    # Points that share a label share features, more than others do.
    rows = np.zeros((600, 2000), bool)
    rows[np.repeat(np.arange(600), np.diff(train.feature_offsets)), train.feature_ids] = True
    labels = np.zeros((600, 900), bool)
    labels[np.repeat(np.arange(600), np.diff(train.label_offsets)), train.label_ids] = True
    shared = rows.astype(float) @ rows.T
    together = (labels.astype(float) @ labels.T > 0) & ~np.eye(600, dtype=bool)
    assert shared[together].mean() > 1.3 * shared[~together & ~np.eye(600, dtype=bool)].mean()


def test_duplicates(tmp_path, capsys):
    rng = np.random.default_rng(0)
    lines = [" ".join(f"w{n}" for n in rng.integers(0, 900, 30)) for _ in range(60)]
    path = tmp_path / "texts.txt"
    path.write_text("\n".join(lines))
    options = [str(path), "--texts", "50", "--copies", "20", "--rounds", "1"]
    status, out, err = call(bench_duplicates, capsys, *options)
    assert status == 0, err
    results = json.loads(out)
    assert results["texts"] == 70 and results["sparse_jax"]["recall"] == 1
    assert results["sparse_jax"]["flagged"] == results["sparse_jax"]["copies"] > 10
    assert results["sparse_jax"]["below_threshold"] == 0
    assert ("datasketch" in results) != ("absent" in results)
