"""The peers of `recommend compare` against plain references, and the command itself."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest
from in_process import call
from walks import chains

from sparse_jax import data
from sparse_jax.commands import main as program
from sparse_jax.commands.recommend import compare, peers, sasrec
from sparse_jax.recommend.model import Shape

pytestmark = pytest.mark.usefixtures("quick_compiles")


@pytest.fixture(scope="module")
def split() -> data.histories.Split:
    return data.leave_one_out(chains(150, 20))


def dense(histories: data.Histories) -> np.ndarray:
    found = np.zeros((histories.num_users, histories.num_items))
    for user in range(histories.num_users):
        found[user, histories.of(user)] = 1
    return found


def test_popularity_and_markov(split):
    part = split.contexts.take(np.arange(30))
    counts = np.bincount(split.train.items, minlength=20)
    assert (peers.popularity(split.train, 0)(part) == counts).all()
    after = np.zeros((20, 20))
    for user in range(split.train.num_users):
        items = split.train.of(user)
        np.add.at(after, (items[:-1], items[1:]), 1)
    found = peers.markov(split.train, 0)(part)
    for user in range(30):
        row = after[part.of(user)[-1]]
        assert (np.abs(found[user] - row) <= 0.5).all()  # popularity decides among equals
        order = np.lexsort((-counts, -row))
        assert (np.diff(found[user][order]) <= 0).all()
    nobody = part.take(np.zeros(0, np.int64))
    assert peers.markov(split.train, 0)(nobody).shape == (0, 20)


def test_item_knn(split):
    matrix = dense(split.train)
    norms = np.sqrt(matrix.sum(axis=0))
    cosines = matrix.T @ matrix / (norms[:, None] * norms + 10)
    np.fill_diagonal(cosines, 0)
    found = peers.item_knn(split.train, 0)(split.contexts)
    np.testing.assert_allclose(found, dense(split.contexts) @ cosines, rtol=1e-4, atol=1e-6)


def test_ease(split):
    matrix = dense(split.train)
    precision = np.linalg.inv(matrix.T @ matrix + 200 * np.eye(20))
    weights = precision / -np.diag(precision)
    np.fill_diagonal(weights, 0)
    found = peers.ease(split.train, 0)(split.contexts)
    np.testing.assert_allclose(found, dense(split.contexts) @ weights, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("name", ["als", "bpr"])
@pytest.mark.filterwarnings("ignore")
def test_implicit(split, name, monkeypatch):
    pytest.importorskip("implicit")
    monkeypatch.setattr(peers, "_FACTORS", 16)
    found = peers.PEERS[name](split.train, 0)(split.contexts)
    assert found.shape == (split.contexts.num_users, 20) and np.isfinite(found).all()
    seen = dense(split.contexts) > 0
    assert found[seen].mean() > found[~seen].mean()


def test_a_missing_library_is_named(split, monkeypatch):
    monkeypatch.setitem(sys.modules, "implicit.cpu.als", None)
    with pytest.raises(ImportError, match=r"pip install 'sparse_jax\[peers\]'"):
        peers.als(split.train, 0)


@pytest.mark.slow
def test_sasrec_learns_the_walk(split):
    options = sasrec.Options(
        shape=Shape(width=16, length=8),
        epochs=12,
        min_steps=0,
        batch_size=16,
        learning_rate=0.01,
        dropout=0.1,
    )
    scores = sasrec.fit(split.train, 0, options)(split.contexts)
    assert (scores.argmax(axis=1) == split.targets).mean() > 0.5


@pytest.mark.parametrize("name", ["markov", "ours, linear"])
def test_measured_figures(split, name):
    found = compare.measure(name, split, 0)
    assert 0.3 < found["hr@10"] <= 1 and found["predict_us"] > 0 and found["peak_rss_mib"] > 50


@pytest.mark.slow
def test_the_command(tmp_path, capsys):
    (tmp_path / "h.txt").write_text("".join(f"u{n} a b c\n" for n in range(30)))
    options = ("--peers", "markov", "--presets", "", "--json", str(tmp_path / "r.json"))
    status, out, _ = call(
        program, capsys, "recommend", "compare", str(tmp_path / "h.txt"), *options
    )
    assert status == 0 and "markov" in out
    assert json.loads((tmp_path / "r.json").read_text())["markov"]["hr@10"] == 1
    status, _, err = call(program, capsys, "recommend", "compare", "x", "--peers", "oracle")
    assert status == 2 and "--peers oracle: must be among popularity" in err
