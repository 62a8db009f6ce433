"""What scores are worth, and how much each part counts: against the formulas, in NumPy."""

from __future__ import annotations

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest
from small_points import points_of

from sparse_jax import xmc
from sparse_jax.xmc import calibration, mixing

pytestmark = pytest.mark.usefixtures("quick_compiles")

INF = np.inf


def sigmoid(x):
    return 1 / (1 + np.exp(-np.asarray(x, np.float64)))


# ------------------------------------------------------------------------------------ calibration


def test_leads_are_over_the_strongest_rival():
    scores = jnp.asarray([[5.0, 3.0, 2.5], [1.0, -INF, -INF], [-INF, -INF, -INF]])
    expected = [[2.0, -2.0, -2.5], [0.0, 0.0, 0.0], [0.0, 0.0, 0.0]]
    np.testing.assert_allclose(calibration.leads(scores), expected)
    np.testing.assert_array_equal(calibration.leads(jnp.asarray([[4.0], [-1.0]])), [[0.0], [0.0]])


def test_chances_are_the_curve_of_score_and_lead():
    scores = jnp.asarray([[2.0, 0.5, -INF]])
    found = calibration.chances(scores, jnp.asarray([-0.3, 1.2, 0.4]))
    expected = sigmoid([-0.3 + 1.2 * 2 + 0.4 * 1.5, -0.3 + 1.2 * 0.5 - 0.4 * 1.5])
    np.testing.assert_allclose(found[0], [*expected, 0.0], rtol=1e-6)


def test_the_curve_is_the_optimum_of_the_penalized_likelihood():
    """At a minimum inside the bounds no small change of the three numbers brings more."""
    rng = np.random.default_rng(1)
    scores = -np.sort(-rng.normal(2.0, 3.0, (300, 7)), axis=1).astype(np.float32)
    scores[:40, 4:] = -INF
    lead = np.asarray(calibration.leads(jnp.asarray(scores[:, :5])), np.float64)
    hits = rng.random(scores.shape) < 0.2
    hits[:, :5] = rng.random((300, 5)) < sigmoid(-1 + 0.5 * scores[:, :5] + 0.3 * lead)
    curve = calibration.fit(scores, hits).astype(np.float64)
    kept = np.isfinite(scores[:, :5])
    x, gap, y = scores[:, :5][kept].astype(np.float64), lead[kept], hits[:, :5][kept]
    spread = np.array([x.std(), gap.std()])

    def loss(c):
        z = c[0] + c[1] * x + c[2] * gap
        # The penalty is on the coefficients of what has mean 0 and spread 1.
        centred = c[0] + c[1] * x.mean() + c[2] * gap.mean()
        penalty = centred**2 + ((c[1:] * spread) ** 2).sum()
        return np.mean(np.logaddexp(0, z) - y * z) + 1e-4 * penalty

    assert (curve[1:] > 0.1).all()
    for direction in np.eye(3):
        for size in (0.02, -0.02):
            assert loss(curve) < loss(curve + size * direction)


def test_slopes_are_not_negative_and_few_points_give_the_usual_curve():
    scores = np.tile(np.array([[2.0, 1.0, 0.0]], np.float32), (20, 1))
    wrong = np.tile([False, False, True], (20, 1))  # the worst is always right
    curve = calibration.fit(scores, wrong)
    assert (curve[1:] >= 0).all() and not np.array_equal(curve, calibration.DEFAULT)
    np.testing.assert_array_equal(
        calibration.fit(scores[:19], wrong[:19]), np.float32(calibration.DEFAULT)
    )
    assert calibration.DEFAULT[1] > 0 and calibration.DEFAULT[2] > 0


def test_expected_error_is_the_mean_gap_of_bins():
    chance = np.array([[0.05, 0.05], [0.95, 1.0]])
    hits = np.array([[False, True], [True, False]])
    # Two bins of two: |.1 - 1| and |1.95 - 1|, over four predictions.
    assert calibration.expected_error(chance, hits, bins=10) == pytest.approx((0.9 + 0.95) / 4)
    # In one bin both gaps make up for each other.
    assert calibration.expected_error(chance, hits, bins=1) == pytest.approx(0.05 / 4)
    with pytest.raises(ValueError, match="no predictions"):
        calibration.expected_error(np.zeros((0, 2)), np.zeros((0, 2), bool))


# ----------------------------------------------------------------------------------------- mixing

LABELS = 8


@pytest.fixture(scope="module")
def parts():
    """(model with trees, held-out points whose labels are 0 to 5 each)."""
    train = points_of([({i % LABELS}, {i % LABELS: 1}) for i in range(80)], LABELS, LABELS)
    held_out = points_of([({0, 1, 2, 3, 4}, {0: 1}) for _ in range(500)], LABELS, LABELS)
    model = xmc.fit(train)
    assert model.trees
    return model, held_out


def right(firsts: int, others: int, points: int = 500) -> np.ndarray:
    """Predictions: so many points have a right first label, so many of the other places a right."""
    ids = np.tile(np.array([7, 6, 5, -1, -1], np.int32), (points, 1))
    ids[:firsts, 0] = 0
    row, place = np.divmod(np.arange(others), 4)
    ids[row, place + 1] = place + 1
    return ids


def judged_by(monkeypatch, found: dict[float, np.ndarray], of) -> list[float]:
    """Stands in for prediction: what each weight would find. Says which weights were tried."""
    tried = []

    def at_weights(model, weights, points, *, k):
        found_at = []
        for weight, tree_weight in np.asarray(weights):
            mix = dataclasses.replace(model.mix, weight=weight, tree_weight=tree_weight)
            tried.append(round(float(of(dataclasses.replace(model, mix=mix))), 6))
            found_at.append(found.get(tried[-1], right(100, 0))[:, :k])
        return np.stack(found_at, axis=1)

    monkeypatch.setattr(mixing, "_at_weights", at_weights)
    return tried


def test_labels_at_each_pair_of_weights_are_those_of_prediction(parts):
    model, held_out = parts
    pairs = jnp.array([[1.0, 0.0], [1.0, 0.2], [2.0, 0.5]])
    found = mixing._at_weights(model, pairs, held_out, k=3)
    for place, (weight, tree_weight) in enumerate(pairs):
        mix = dataclasses.replace(model.mix, weight=weight, tree_weight=tree_weight)
        alone = xmc.inference.best_of_all(dataclasses.replace(model, mix=mix), held_out, k=3)
        assert np.mean(found[:, place] == alone.ids) > 0.99


def test_the_best_tree_weight_is_taken(parts, monkeypatch):
    model, held_out = parts
    tried = judged_by(monkeypatch, {0.5: right(120, 0)}, lambda m: m.mix.tree_weight)
    chosen = mixing.choose_tree_weight(model, held_out)
    assert tried == [pytest.approx(w) for w in mixing.TREE_WEIGHTS] and len(set(tried)) == 3
    assert float(chosen.mix.tree_weight) == 0.5 and len(chosen.trees) == len(model.trees)
    assert float(chosen.mix.weight) == float(model.mix.weight)


def test_places_two_to_five_count_as_well(parts, monkeypatch):
    model, held_out = parts
    judged_by(monkeypatch, {0.2: right(100, 400)}, lambda m: m.mix.tree_weight)
    assert float(mixing.choose_tree_weight(model, held_out).mix.tree_weight) == pytest.approx(0.2)
    # Forty places of 2,500 weigh less than ten first labels of 500.
    found = {0.2: right(100, 40), 0.5: right(115, 0)}
    judged_by(monkeypatch, found, lambda m: m.mix.tree_weight)
    assert float(mixing.choose_tree_weight(model, held_out).mix.tree_weight) == 0.5


@pytest.mark.parametrize(("more", "with_trees"), [(0, False), (4, False), (6, True)])
def test_trees_that_bring_less_than_the_margin_are_left_out(parts, monkeypatch, more, with_trees):
    """Of 500 points with five places, `more` right ones are more / 2,500 of P@5."""
    assert mixing.MARGIN == 0.002
    model, held_out = parts
    judged_by(monkeypatch, {0.2: right(100, more)}, lambda m: m.mix.tree_weight)
    chosen = mixing.choose_tree_weight(model, held_out)
    assert bool(chosen.trees) == with_trees
    assert float(chosen.mix.tree_weight) == pytest.approx(0.2 if with_trees else 0.0)


def with_network(model):
    encoder = {"embedding": jnp.ones((LABELS, 2)), "hidden_bias": jnp.zeros(2)}
    return dataclasses.replace(
        model,
        encoders=(encoder,),
        output=jnp.ones((LABELS, 2), jnp.bfloat16),
        output_bias=jnp.zeros(LABELS),
    )


@pytest.mark.parametrize("weight", [1.0, 2.0, 8.0])
def test_the_best_weight_beside_networks_is_taken(parts, monkeypatch, weight):
    model, held_out = with_network(parts[0]), parts[1]
    tried = judged_by(monkeypatch, {weight: right(101, 0)}, lambda m: m.mix.weight)
    chosen = mixing.choose_weight(model, held_out)
    assert sorted(tried) == sorted(mixing.WEIGHTS) and mixing.ALONE in tried
    assert float(chosen.mix.weight) == weight and chosen.encoders


def test_networks_that_bring_nothing_are_left_out(parts, monkeypatch):
    model, held_out = with_network(parts[0]), parts[1]
    judged_by(monkeypatch, {}, lambda m: m.mix.weight)  # all weights find the same
    chosen = mixing.choose_weight(model, held_out)
    assert not chosen.encoders and chosen.output.size == chosen.output_bias.size == 0
    assert float(chosen.mix.weight) == 1.0 and chosen.trees


def test_scores_mean_chances_once_calibrated(parts, monkeypatch):
    model, held_out = parts
    rng = np.random.default_rng(0)
    scores = -np.sort(-rng.normal(size=(500, 5)), axis=1).astype(np.float32)
    ids = right(300, 900)

    def best_of_all(model, points, *, k):
        assert k == 5
        return xmc.inference.Best(scores, ids)

    monkeypatch.setattr(mixing.inference, "best_of_all", best_of_all)
    expected = calibration.fit(scores, np.isin(ids, [0, 1, 2, 3, 4]))
    found = mixing.calibrate(model, held_out)
    np.testing.assert_array_equal(found.mix.curve, expected)
    assert found.mix.tree_weight is model.mix.tree_weight and found.wide is model.wide


def test_a_model_starts_with_linear_parts_alone_and_trees_at_their_usual_weight():
    mix = mixing.start()
    assert float(mix.weight) == 1 and float(mix.tree_weight) == pytest.approx(0.2)
    np.testing.assert_array_equal(mix.curve, np.float32(calibration.DEFAULT))
