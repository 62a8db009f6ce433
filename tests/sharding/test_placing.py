"""Where rows lie: every row once, found again, evenly, and what is refused."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sparse_jax import sharding as sh

pytestmark = pytest.mark.usefixtures("quick_compiles")


@pytest.mark.parametrize("by", ["range", "hash"])
@pytest.mark.parametrize(("num_rows", "shards"), [(1, 1), (1, 3), (7, 7), (10, 4), (1000, 16)])
def test_every_row_has_one_place(by: Any, num_rows: int, shards: int) -> None:
    dealing = sh.Dealing(num_rows, shards, by)
    place, ids_of, row_of = map(jax.jit, (dealing.place, dealing.ids_of, dealing.row_of))
    ids = jnp.arange(num_rows, dtype=jnp.int32)
    owners, slots = map(np.asarray, place(ids))
    assert owners.min() >= 0 and owners.max() < shards
    assert slots.min() >= 0 and slots.max() < dealing.per_shard
    assert len(set(zip(owners.tolist(), slots.tolist(), strict=True))) == num_rows
    np.testing.assert_array_equal(ids_of(jnp.asarray(owners), jnp.asarray(slots)), ids)
    np.testing.assert_array_equal(row_of(ids), owners * dealing.per_shard + slots)
    # And the other way: each place is that of one row, or of none.
    every = jnp.arange(dealing.per_shard, dtype=jnp.int32)
    found = np.concatenate([ids_of(jnp.int32(s), every) for s in range(shards)])
    assert sorted(found[found >= 0]) == list(range(num_rows))
    assert (found < 0).sum() == dealing.per_shard * shards - num_rows


@pytest.mark.parametrize("by", ["range", "hash"])
def test_what_is_no_row_has_no_place(by: Any) -> None:
    dealing = sh.Dealing(10, 4, by)
    for found in dealing.place(jnp.asarray([-1, -7, 10, 11, 2**31 - 1], jnp.int32)):
        assert found.tolist() == [-1] * 5
    assert dealing.row_of(jnp.asarray([-1, 10, 2**31 - 1], jnp.int32)).tolist() == [-1] * 3
    slots = jnp.asarray([-1, 3, 2**31 - 1], jnp.int32)
    assert dealing.ids_of(jnp.int32(0), slots).tolist() == [-1] * 3


def test_the_largest_tables_fit() -> None:
    for by in ("range", "hash"):
        dealing = sh.Dealing(2**31 - 17, 16, by)  # type: ignore[arg-type]
        ids = jnp.asarray([0, 1, 2**30 + 5, 2**31 - 18], jnp.int32)
        owners, slots = dealing.place(ids)
        np.testing.assert_array_equal(dealing.ids_of(owners, slots), ids)


def test_a_power_law_is_spread_by_hash() -> None:
    counts = 1 / np.arange(1, 50_001)
    by_range = sh.imbalance(sh.Dealing(50_000, 8, "range"), counts)
    by_hash = sh.imbalance(sh.Dealing(50_000, 8, "hash"), counts)
    assert by_range.busiest > 5 and by_hash.busiest < 1.8
    assert by_hash.busiest == pytest.approx(8 * by_hash.shares.max())
    assert by_hash.shares.sum() == pytest.approx(1)
    even = sh.imbalance(sh.Dealing(50_000, 8, "hash"), np.ones(50_000))
    assert even.busiest < 1.001


def test_a_table_may_be_a_function_of_ids() -> None:
    asked = []

    def rows(ids: np.ndarray) -> np.ndarray:
        asked.append(ids)
        return np.stack([ids, 2 * ids], axis=1)

    found = sh.shard_rows(rows, sh.mesh(1), num_rows=5)
    np.testing.assert_array_equal(sh.gather_rows(found)[:, 1], 2 * np.arange(5))
    assert [x.size for x in asked] == [1, 5]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((10, 0), "shards = 0: must be at least 1"),
        ((0, 1), "num_rows = 0: must be from 1"),
        ((2**31 - 1, 1), "ids are int32"),
        ((10, 2, "random"), "by = 'random': must be one of range, hash"),
    ],
)
def test_bad_dealings(arguments: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        sh.Dealing(*arguments)


def test_what_is_refused() -> None:
    with pytest.raises(ValueError, match=r"shards = 4097: must be from 1 to .* sharding.init"):
        sh.mesh(4097)
    with pytest.raises(TypeError, match=r"table is float64: must be of 32 bits"):
        sh.shard_rows(np.ones((2, 2)), sh.mesh(1))
    with pytest.raises(ValueError, match="num_rows = None"):
        sh.shard_rows(lambda ids: ids, sh.mesh(1))
    with pytest.raises(ValueError, match=r"counts has shape \(3,\): must be \[4\]"):
        sh.imbalance(sh.Dealing(4, 2), np.ones(3))
    with pytest.raises(ValueError, match="capacity = 0"):
        sh.parts.route(jnp.zeros(1, jnp.int32), sh.Dealing(4, 1), capacity=0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"processes": 0}, "processes = 0: must be at least 1"),
        ({"processes": 2}, "coordinator = None: must be HOST:PORT"),
        ({"processes": 2, "coordinator": "h:1"}, "process = None: must be from 0 to 1"),
        ({"processes": 2, "coordinator": "h:1", "process": 2}, "process = 2: must be from 0 to 1"),
        ({"processes": 2, "coordinator": "h", "process": 0, "shards": 4}, "must be HOST:PORT"),
        (
            {"processes": 2, "coordinator": "h:1", "process": 0, "shards": 3},
            "shards = 3: must be a",
        ),
    ],
)
def test_bad_arguments_are_refused_before_anything_starts(
    arguments: dict[str, Any], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jax.config, "update", lambda *_: None)
    with pytest.raises(ValueError, match=message):
        sh.initialize(**arguments)


def test_traffic_is_read_from_a_program() -> None:
    program = """
      %a = f32[4,8]{1,0} all-gather(f32[1,8]{1,0} %x), dimensions={0}
      %b = (s32[2]{0}, s32[2]{0}) all-to-all(s32[2]{0} %y, s32[2]{0} %z)
      %c = f32[10]{0} all-reduce(f32[10]{0} %w), to_apply=%add
      %d = f32[10]{0} add(%c, %c)
    """
    found = sh.traffic.collectives(program)
    assert [(x.kind, x.result) for x in found] == [
        ("all-gather", 128),
        ("all-to-all", 16),
        ("all-reduce", 40),
    ]
    assert sh.traffic.sent(program, 2) == 64 + 8 + 40
    with pytest.raises(ValueError, match="collective-permute: must be"):
        sh.traffic.sent("%p = f32[2]{0} collective-permute(%x)", 2)
