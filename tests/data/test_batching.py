"""Batches hold every point once, with all it has, in arrays of one shape."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from points import make_data

from sparse_jax.data import (
    Batch,
    Capacity,
    XmcData,
    batches,
    epoch_order,
    make_batch,
    num_batches,
    plan_capacity,
    stack,
)


def unbatch(made: list[Batch]) -> list[tuple[tuple, tuple]]:
    """The points of the batches, each as its features and its labels; checks the padding."""
    points = []
    for batch in made:
        size = batch.row_mask.size
        assert batch.feature_ids.dtype == batch.feature_rows.dtype == np.int32
        assert batch.label_ids.dtype == batch.label_rows.dtype == batch.label_counts.dtype
        assert batch.feature_values.dtype == np.float32
        assert batch.row_mask.dtype == np.bool_
        for ids, rows in (
            (batch.feature_ids, batch.feature_rows),
            (batch.label_ids, batch.label_rows),
        ):
            real = int((ids >= 0).sum())
            assert (ids[:real] >= 0).all()
            assert (ids[real:] == -1).all() and (rows[real:] == size - 1).all()
            assert (np.diff(rows) >= 0).all() and rows.min() >= 0 and rows.max() < size
        assert not batch.feature_values[batch.feature_ids < 0].any()
        for row in range(size):
            f = (batch.feature_rows == row) & (batch.feature_ids >= 0)
            labels = batch.label_ids[(batch.label_rows == row) & (batch.label_ids >= 0)]
            assert batch.label_counts[row] == labels.size
            if batch.row_mask[row]:
                pairs = zip(batch.feature_ids[f], batch.feature_values[f], strict=True)
                points.append((tuple(pairs), tuple(labels)))
            else:
                assert not f.any() and not labels.size
    return points


def points_of(data: XmcData) -> list[tuple[tuple, tuple]]:
    out = []
    for i in range(data.num_points):
        one = data.take([i])
        pairs = zip(one.feature_ids, one.feature_values, strict=True)
        out.append((tuple(pairs), tuple(one.label_ids)))
    return out


@settings(max_examples=40, deadline=None)
@given(
    data_seed=st.integers(0, 1000),
    points=st.integers(0, 40),
    batch_size=st.integers(1, 12),
    seed=st.none() | st.integers(0, 2**63),
    epoch=st.integers(0, 5),
    drop=st.booleans(),
)
def test_each_point_once_with_everything(data_seed, points, batch_size, seed, epoch, drop):
    data = make_data(np.random.default_rng(data_seed), points=points)
    made = list(batches(data, batch_size, seed=seed, epoch=epoch, drop_remainder=drop))
    assert len(made) == num_batches(points, batch_size, drop_remainder=drop)
    order = epoch_order(points, seed=seed, epoch=epoch)
    if drop:
        order = order[: points // batch_size * batch_size]
    expected = points_of(data)
    assert unbatch(made) == [expected[i] for i in order]


def test_capacity_is_the_exact_maximum():
    data = make_data(np.random.default_rng(2), points=90, features=400, most=40)
    capacity = plan_capacity(data, 8, seed=7, epochs=3)
    made = [
        batch
        for epoch in range(3)
        for batch in batches(data, 8, seed=7, epoch=epoch, capacity=capacity)
    ]
    assert {b.feature_ids.shape for b in made} == {(capacity.features,)}
    most = max(int((b.feature_ids >= 0).sum()) for b in made)
    assert capacity.features == -(-most // 64) * 64
    assert capacity.distinct_labels == max(
        np.unique(b.label_ids[b.label_ids >= 0]).size for b in made
    )
    assert capacity.distinct_features == max(
        np.unique(b.feature_ids[b.feature_ids >= 0]).size for b in made
    )
    by_epoch = [plan_capacity(data, 8, seed=7, epochs=[e]) for e in range(3)]
    for name in ("features", "labels", "distinct_labels", "distinct_features"):
        assert getattr(capacity, name) == max(getattr(c, name) for c in by_epoch)
    with pytest.raises(ValueError, match=r"capacity\.features = 64: must be at least"):
        list(batches(data, 8, capacity=Capacity(64, 64, 1, 1)))


def test_order_depends_on_seed_and_epoch_alone():
    orders = [epoch_order(100, seed=s, epoch=e).tolist() for s in (0, 1) for e in (0, 1)]
    assert len({tuple(o) for o in orders}) == 4
    assert all(sorted(o) == list(range(100)) for o in orders)
    # Frozen: checkpoints resume in the middle of an epoch, under other versions too.
    assert epoch_order(8, seed=3, epoch=2).tolist() == [2, 3, 6, 4, 1, 7, 5, 0]
    with pytest.raises(ValueError, match="seed, epoch = -1, 0: must be at least 0"):
        epoch_order(8, seed=-1, epoch=0)


def test_resuming_in_the_middle():
    data = make_data(np.random.default_rng(2))
    whole = list(batches(data, 5, seed=1, epoch=2))
    rest = list(batches(data, 5, seed=1, epoch=2, start=3))
    for a, b in zip(whole[3:], rest, strict=True):
        jax.tree.map(np.testing.assert_array_equal, a, b)


def test_batch_arguments():
    data = make_data(np.random.default_rng(2))
    with pytest.raises(ValueError, match="batch_size = 0: must be at least 1"):
        batches(data, 0)
    with pytest.raises(ValueError, match="must be at most batch_size"):
        make_batch(data, np.arange(3), 2, plan_capacity(data, 3, seed=None, epochs=1))


def test_stacked_batches_scan_under_jit():
    data = make_data(np.random.default_rng(4))
    made = list(batches(data, 8, seed=0))
    stacked = stack(made)
    assert stacked.feature_ids.shape == (len(made), made[0].feature_ids.size)

    @jax.jit
    def total(stacked):
        def step(carry, batch):
            return carry + jnp.sum(batch.feature_values), jnp.sum(batch.row_mask)

        return jax.lax.scan(step, jnp.float32(0), stacked)

    amount, counts = total(stacked)
    assert float(amount) == data.feature_values.sum()
    assert int(counts.sum()) == data.num_points
    with pytest.raises(ValueError, match=r"batches = \[\]"):
        stack([])
    with pytest.raises(ValueError, match="unequal shapes"):
        stack([made[0], make_batch(data, np.arange(8), 8, Capacity(640, 640, 0, 0))])
