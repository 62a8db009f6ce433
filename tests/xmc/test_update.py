"""Teaching a model new points, labels and features, without training the rest anew."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_points import points_of

from sparse_jax import data, xmc
from sparse_jax.xmc import inference, memory, metrics, network
from sparse_jax.xmc.wide import is_unseen

pytestmark = pytest.mark.usefixtures("quick_compiles")

update_module = sys.modules["sparse_jax.xmc.update"]  # `xmc.update` is the function
FIXTURES = Path(__file__).parents[1] / "fixtures"


def keep_labels(points: data.XmcData, kept: np.ndarray) -> data.XmcData:
    """The points without the other labels; those that lose all of theirs go."""
    rows = np.repeat(np.arange(points.num_points), np.diff(points.label_offsets))
    stays = kept[points.label_ids]
    counts = np.bincount(rows[stays], minlength=points.num_points)
    fewer = dataclasses.replace(
        points,
        label_offsets=data.xmc.offsets_of(counts),
        label_ids=points.label_ids[stays],
    )
    return fewer.take(np.flatnonzero(counts))


def precision_on(model: xmc.Model, test: data.XmcData) -> float:
    found = xmc.predict(model, test, k=1).labels
    return metrics.precision_at_k(found, test.label_offsets, test.label_ids, 1)


@pytest.fixture(scope="module")
def parts():
    """(training points of the first labels, points of the new ones, test points, new labels)."""
    train, test = (data.read_xmc(FIXTURES / f"xmc_tiny_{part}.txt") for part in ("train", "test"))
    old = np.arange(train.num_labels) < 450
    rows = np.repeat(np.arange(train.num_points), np.diff(train.label_offsets))
    brings = np.bincount(rows[train.label_ids >= 450], minlength=train.num_points) > 0
    first = data.with_sizes(keep_labels(train, old), num_labels=450)
    return train, first, train.take(np.flatnonzero(brings)), test


@pytest.fixture(scope="module")
def before(parts):
    """A model of the first labels; none of the tests may change it."""
    return xmc.fit(parts[1], label_names=[f"l{i}" for i in range(450)])


@pytest.fixture(scope="module")
def after(parts, before):
    """What it became when it was taught the new ones."""
    return xmc.update(before, parts[2])


@pytest.mark.slow
def test_new_labels_are_learned_and_old_ones_kept(parts, before, after):
    train, _, _, test = parts
    whole = xmc.fit(train)
    assert after.num_labels == train.num_labels
    rows = np.repeat(np.arange(test.num_points), np.diff(test.label_offsets))
    new = np.bincount(rows[test.label_ids >= 450], minlength=test.num_points) > 0
    of_new = keep_labels(test, np.arange(test.num_labels) >= 450)
    assert of_new.num_points > 10
    assert precision_on(after, test.take(np.flatnonzero(new))) > 0.2
    found = [precision_on(m, test) for m in (before, after, whole)]
    assert found[1] > found[2] - 0.05


def test_equal_updates_have_equal_bits_and_leave_the_model_before(parts, before, after):
    copied = jax.tree.map(np.array, before)
    again = xmc.update(before, parts[2])
    jax.tree.map(np.testing.assert_array_equal, jax.tree.map(np.asarray, before), copied)
    jax.tree.map(np.testing.assert_array_equal, again, after)


def test_a_grown_model_is_whole(parts, before, after, tmp_path):
    """Trees, names and sizes fit each other, on disk as well, and it can grow again."""
    _, _, more, test = parts
    model, grown = before, after
    assert grown.about.label_names[:450] == model.about.label_names
    assert grown.about.label_names[470] == "label 470"
    for tree in grown.trees:
        assert sorted(np.asarray(tree.labels).tolist()) == list(range(grown.num_labels))
        assert tree.bias.size == tree.children.size - 1 + grown.num_labels
        assert (np.diff(np.asarray(tree.children)) >= 0).all()
        # Each feature's nodes ascend: NumPy's slices, JAX's would be a program for each length.
        by_feature = np.split(np.asarray(tree.nodes), np.asarray(tree.offsets)[1:-1])
        assert all((np.diff(nodes) > 0).all() for nodes in by_feature)
    xmc.save(grown, tmp_path / "m")
    again = xmc.update(xmc.load(tmp_path / "m"), more)
    assert precision_on(again, test) > 0.4


def test_new_features_count():
    """A feature that the model hasn't had is the only sign of a new label."""
    first = points_of([({i % 2}, {i % 2: 1, 2: 1}) for i in range(80)], 3, 2)
    more = points_of([({2}, {2: 1, 3: 1}) for _ in range(40)], 4, 3)
    model = xmc.update(xmc.fit(first), more)
    test = points_of([({2}, {3: 1}), ({0}, {0: 1}), ({1}, {1: 1, 2: 1})], 4, 3)
    assert xmc.predict(model, test, k=1).labels[:, 0].tolist() == [2, 0, 1]


def test_labels_that_had_no_point_get_their_first():
    first = points_of([({i % 2}, {i % 2: 1}) for i in range(80)], 3, 4)
    model = xmc.fit(first)
    assert is_unseen(np.asarray(model.wide.bias)).tolist() == [False, False, True, True]
    grown = xmc.update(model, points_of([({2}, {2: 1})] * 40, 3, 4))
    assert is_unseen(np.asarray(grown.wide.bias)).tolist() == [False, False, False, True]
    test = points_of([({2}, {2: 1}), ({0}, {0: 1})], 3, 4)
    assert xmc.predict(grown, test, k=1).labels[:, 0].tolist() == [2, 0]


def test_bad_arguments(parts):
    _, first, more, _ = parts
    model = xmc.fit(first.take(slice(0, 100)))
    with pytest.raises(ValueError, match="points is empty"):
        xmc.update(model, more.take([]))
    with pytest.raises(ValueError, match="label_names has 2 names: must have 500"):
        xmc.update(model, more, label_names=["a", "b"])
    with pytest.raises(ValueError, match=r"label_names\[0\] = 0: must be a text"):
        xmc.update(model, more, label_names=list(range(500)))


# ------------------------------------------------------------------------------- the formulas of it


def test_new_features_are_weighted_by_how_rare_they_are_among_all_points():
    first = points_of([({i % 2}, {i % 2: 1, 2: 2}) for i in range(80)], 3, 2)
    # Feature 3 at forty points, 4 at one; a zero is no occurrence.
    rows = [({2}, {2: 1, 3: 1}) for _ in range(39)] + [({2}, {3: 1, 4: 1, 5: 0})]
    model = xmc.fit(first, weighting="tfidf")
    grown = xmc.update(model, points_of(rows, 6, 3))
    np.testing.assert_array_equal(grown.idf[:3], model.idf)
    expected = np.log(121 / (1 + np.array([40, 1, 0]))) + 1
    np.testing.assert_allclose(grown.idf[3:], expected, rtol=1e-6)
    assert grown.about.notes["points"] == 120
    again = xmc.update(grown, points_of([({3}, {6: 1})] * 5, 7, 4))
    np.testing.assert_allclose(again.idf[6:], [np.log(126 / 6) + 1], rtol=1e-6)
    assert again.about.notes["points"] == 125


def test_labels_are_ranked_by_bias_and_then_by_id(after):
    bias = np.asarray(after.wide.bias)
    expected = sorted(range(bias.size), key=lambda label: (-bias[label], label))
    assert np.asarray(after.by_bias).tolist() == expected


def test_what_was_seen_more_often_than_it_is_kept_lowers_new_labels(parts, before, monkeypatch):
    """Half the log-odds that the points out of memory would add, by the slope of the curve."""
    _, first, more, _ = parts
    model = before
    told = []
    learn = update_module._learn_labels

    def spy(job, linear, alone, new, shift):
        told.append((alone, new, float(shift)))
        return learn(job, linear, alone, new, shift)

    monkeypatch.setattr(update_module, "_learn_labels", spy)
    for times, weight, curve in ((1, 1, 3), (9, 2, 3), (9, 2, 0.1)):
        notes = model.about.notes | {"points": times * first.num_points}
        about = dataclasses.replace(model.about, notes=notes)
        mix = dataclasses.replace(
            model.mix, weight=jnp.float32(weight), curve=jnp.array([0.2, curve, 0.4])
        )
        xmc.update(dataclasses.replace(model, about=about, mix=mix), more)
    (alone, new, near), (_, _, far), (_, _, flat) = told
    assert near == 0.0
    share = (9 * first.num_points + more.num_points) / (first.num_points + more.num_points)
    assert far == pytest.approx(-0.5 * np.log(share) / 6, rel=1e-6)
    assert flat == pytest.approx(-0.5 * np.log(share) / 0.5, rel=1e-6)  # no more than so
    # The new labels alone, numbered anew, at the new points and at those that were kept.
    known = np.bincount(first.label_ids, minlength=first.num_labels) > 0
    expected = [i for i in np.unique(more.label_ids) if i >= 450 or not known[i]]
    assert new.tolist() == expected and alone.num_labels == len(expected)
    assert alone.num_points == first.num_points + more.num_points
    rows = [np.split(p.label_ids, p.label_offsets[1:-1]) for p in (alone, more)]
    for own, whole in zip(rows[0], rows[1], strict=False):
        assert new[own].tolist() == [i for i in whole if i in expected]
    assert not np.concatenate(rows[0][more.num_points :]).size


def test_a_new_row_of_a_network_has_the_logits_of_the_labels_before():
    """That of true labels at the mean hidden vector of its points, the usual one at that of all."""
    rng = np.random.default_rng(0)
    rows = [({i % 3}, {i % 3: 1, 3 + i % 2: 1}) for i in range(90)]
    model = xmc.fit(points_of(rows, 8, 3))
    width = 4
    encoder = {
        "embedding": jnp.asarray(rng.normal(size=(8, width)), jnp.float32),
        "hidden_bias": jnp.asarray(rng.normal(size=width), jnp.float32),
    }
    model = dataclasses.replace(
        model,
        encoders=(encoder, encoder),
        output=jnp.asarray(rng.normal(size=(3, 2 * width)), jnp.float32),
        output_bias=jnp.asarray(rng.normal(size=3), jnp.float32),
    )
    more = points_of([({3, i % 2}, {5: 1, i % 2: 1}) for i in range(30)], 8, 4)
    grown = xmc.update(model, more)
    np.testing.assert_array_equal(grown.output[:3], model.output)
    np.testing.assert_array_equal(grown.output_bias[:3], model.output_bias)
    # What the update has seen: the new points and those kept before, weighted.
    kept = memory.recall(model.memory, 8, 4)
    points = data.concatenate(more, kept)
    prepared = inference.prepare(grown, points)
    batch = inference.padded_batch(prepared, np.arange(points.num_points), points.num_points)
    one = np.asarray(network.encode(encoder, batch)) / 2  # a mean over both networks
    hidden = np.concatenate([one, one], axis=1)
    before, old_bias = np.asarray(model.output), np.asarray(model.output_bias)
    logits = hidden @ before.T + old_bias
    owners = np.repeat(np.arange(points.num_points), np.diff(points.label_offsets))
    old = points.label_ids < 3
    true = logits[owners[old], points.label_ids[old]].mean()
    usual = (hidden.mean(0) @ before.T + old_bias).mean()
    row, bias = np.asarray(grown.output[3]), float(grown.output_bias[3])
    own = hidden[owners[points.label_ids == 3]].mean(0)
    assert row @ own + bias == pytest.approx(true, rel=1e-4)
    assert row @ hidden.mean(0) + bias == pytest.approx(usual, rel=1e-4)
    away = own - hidden.mean(0)
    assert row @ away == pytest.approx(np.linalg.norm(row) * np.linalg.norm(away), rel=1e-4)


def test_more_points_of_known_labels_help():
    train, test = (data.read_xmc(FIXTURES / f"xmc_tiny_{part}.txt") for part in ("train", "test"))
    half = xmc.fit(train.take(slice(0, 1000)))
    more = xmc.update(half, train.take(slice(1000, 2000)))
    assert precision_on(more, test) > precision_on(half, test) + 0.01


def test_room_for_labels_without_a_point_can_be_asked():
    """Ids from a longer list, and new points of known labels alone: trees get the room, too."""
    rows = [({i % 3}, {i % 3: 1}) for i in range(90)]
    model = xmc.fit(points_of(rows, 4, 3))
    grown = xmc.update(model, points_of(rows[:9], 4, 5))
    assert all(tree.labels.size == 5 for tree in grown.trees)
    found = xmc.predict(grown, points_of(rows, 4, 5), k=5).labels
    assert (found[:, 0] == np.arange(90) % 3).all()
    assert (np.sort(found[:, 3:]) == [3, 4]).all()
    again = xmc.update(grown, points_of([({4}, {3: 1})] * 20, 4, 5))
    assert xmc.predict(again, points_of([({4}, {3: 1})], 4, 5), k=1).labels.tolist() == [[4]]
