"""Weights of labels: 1 changes no bit, next to 0 is nearly no label, and between it is a share."""

from __future__ import annotations

import numpy as np
import pytest

from sparse_jax import data, xmc
from sparse_jax.commands.xmc import train as command
from sparse_jax.runtime.machine import sha256
from sparse_jax.xmc import soft_labels
from sparse_jax.xmc.network_options import Options
from sparse_jax.xmc.network_run import NetworkRun

pytestmark = pytest.mark.usefixtures("quick_compiles")

MARK = 3  # a label beside the first one on the same points
COUNT = 600


def make(share: float | None) -> tuple[data.XmcData, np.ndarray]:
    """Points of three subjects; those of the first have the label MARK, too, with this weight."""
    rng = np.random.default_rng(0)
    subject = np.arange(COUNT) % 3
    ids = subject[:, None] * 20 + np.sort(
        rng.permuted(np.tile(np.arange(20), (COUNT, 1)), axis=1)[:, :6]
    )
    labels = [[s, MARK] if s == 0 and share is not None else [s] for s in subject.tolist()]
    points = data.XmcData(
        np.arange(COUNT + 1) * 6,
        ids.reshape(-1).astype(np.int32),
        np.ones(COUNT * 6, np.float32),
        np.cumsum([0, *map(len, labels)]),
        np.array([x for row in labels for x in row], np.int32),
        num_features=60,
        num_labels=4,
    )
    weights = np.where(points.label_ids == MARK, share or 1, 1).astype(np.float32)
    return points, weights


def same(a: xmc.Model, b: xmc.Model) -> bool:
    return command.digest(a) == command.digest(b)


def scores(model: xmc.Model) -> np.ndarray:
    """Mean probability of each label on points of the first subject: float [4]."""
    points = make(None)[0].take(slice(0, 300, 3))
    found = xmc.predict(model, points, k=4)
    out = np.zeros((points.num_points, 4))
    np.put_along_axis(out, found.labels, found.scores, axis=1)
    return out.mean(axis=0)


@pytest.mark.parametrize("preset", ["fast", pytest.param("accurate", marks=pytest.mark.slow)])
def test_ones_change_no_bit(preset):
    points, _ = make(1.0)
    plain = xmc.fit(points, preset=preset)
    for weights in (
        np.ones(points.label_ids.size, np.float32),
        np.full(points.label_ids.size, 2.0),
    ):
        assert same(plain, xmc.fit(points, preset=preset, label_weights=weights))


@pytest.mark.parametrize("preset", ["fast", pytest.param("accurate", marks=pytest.mark.slow)])
def test_next_to_nothing_is_nearly_no_label(preset):
    points, weights = make(0.001)
    light = scores(xmc.fit(points, preset=preset, label_weights=weights))
    heavy = scores(xmc.fit(points, preset=preset))
    assert heavy[MARK] > 0.9 and light[MARK] < 0.05
    assert light[0] > 0.9 and light[1:3].max() < 0.1


def test_a_share_is_a_probability():
    points, weights = make(0.4)
    found = scores(xmc.fit(points, label_weights=weights))
    assert 0.2 < found[MARK] < 0.6 and found[0] > 0.9


@pytest.mark.slow
def test_a_network_alone(tmp_path):
    options = Options(epochs=2, hidden=16)

    def weights_of(share: float, weights: np.ndarray | None, **more) -> str:
        run = NetworkRun(options, make(share)[0], label_weights=weights, **more)
        run.fit()
        return sha256(run.state.params)

    points, light = make(0.001)
    plain = weights_of(1.0, None)
    assert plain == weights_of(1.0, np.ones_like(light)) != weights_of(1.0, light)
    run = NetworkRun(options, points, label_weights=light, directory=str(tmp_path / "c"))
    run.fit()
    lone = NetworkRun(options, make(None)[0])
    lone.fit()

    def ranks(run: NetworkRun) -> float:
        found = run.predict(make(None)[0].take(slice(0, 300, 3)), k=4)
        return float((found == MARK).argmax(axis=1).mean())

    assert ranks(run) > 1.5 and ranks(lone) > 1.5
    # A checkpoint belongs to its weights.
    other = NetworkRun(options, points, directory=str(tmp_path / "c"))
    with pytest.raises(ValueError, match="data"):
        other.resume()


def test_draws_are_as_likely_as_they_are_heavy():
    points, weights = make(0.25)
    counts = np.zeros(4)
    drawn = [soft_labels.draw(points, weights, seed=1, number=n) for n in range(50)]
    for one in drawn:
        counts += np.bincount(one.label_ids, minlength=4)
        assert one.num_points == COUNT
    assert counts[:3].tolist() == [50 * 200] * 3 and abs(counts[MARK] / 10_000 - 0.25) < 0.02
    assert len({one.label_ids.tobytes() for one in drawn}) == 50
    again = soft_labels.draw(points, weights, seed=1, number=3)
    np.testing.assert_array_equal(again.label_ids, drawn[3].label_ids)
    rows = np.array([5, 0, 3])
    taken = soft_labels.Weighted(points, weights).take(rows)
    assert taken.weights.tolist() == [1.0, 1.0, 0.25, 1.0, 0.25]


@pytest.mark.parametrize("bad", [np.ones(3), np.zeros(800), np.full(800, np.nan), np.full(800, -1)])
def test_wrong_weights_are_refused(bad):
    points, _ = make(0.5)
    with pytest.raises(ValueError, match="label_weights"):
        xmc.fit(points, label_weights=bad)


def test_the_command_takes_them_from_the_file(tmp_path, capsys):
    points, weights = make(0.001)
    files = [str(tmp_path / name) for name in ("X.npz", "Y.npz")]
    data.write(data.Table(points, "csr", label_weights=weights), files, "npz")
    model = tmp_path / "m"
    assert command.main([",".join(files), "--model", str(model), "--preset", "fast"]) == 0
    assert "training takes for how far each holds" in capsys.readouterr().err
    with_weights = xmc.fit(points, preset="fast", label_weights=weights)
    np.testing.assert_array_equal(scores(xmc.load(model)), scores(with_weights))
