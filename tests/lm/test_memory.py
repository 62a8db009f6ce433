"""The row-sparse memory: who owns a row, what it counts, how it learns."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sparse_jax.lm import memory as mem

pytestmark = pytest.mark.usefixtures("quick_compiles")

ORDERS = (1, 2, 3)
KEY = jax.random.key(0)


def hashed(*texts):
    """Hashes and tags of the contexts at the end of each text, [B, O]."""
    back = max(ORDERS)
    history = np.ones((len(texts), back), np.int32)
    for i, words in enumerate(texts):
        own = words[-back:]
        history[i, back - len(own) :] = own
    known = jnp.asarray([len(words) for words in texts], jnp.int32)
    return mem.hash_contexts(jnp.asarray(history), known, ORDERS)


@functools.partial(jax.jit, static_argnames="claim")
def see(memory, hashes, tags, targets, claim=True):
    memory, found = mem.find(memory, hashes, tags, claim=claim)
    return (mem.observe(memory, found, targets) if claim else memory), found


def followers(memory, found, example, order):
    place = int(found.inverse[example, order])
    ids, counts = mem.unpack(found.followers[place])
    return {int(i): int(n) for i, n in zip(ids, counts, strict=True) if n}


def words(*ids):
    return jnp.asarray(ids, jnp.int32)


def test_a_context_gets_its_row_when_its_suffix_has_one():
    memory = mem.init(64, 4)
    context = hashed([5, 6, 7])
    owned = []
    for _ in range(4):
        memory, found = see(memory, *context, words(9))
        owned.append((np.asarray(found.inverse) >= 0)[0].tolist())
    assert owned == [
        [True, False, False],
        [True, True, False],
        [True, True, True],
        [True, True, True],
    ]
    _, found = see(memory, *context, words(9), claim=False)
    counts = [int(found.counts[p]) for p in found.inverse[0]]
    assert counts == [4, 3, 2]


def test_a_stranger_reads_nothing_and_short_histories_have_no_long_contexts():
    memory = mem.init(8, 4)
    for i in range(40):  # far more contexts than rows
        memory, _ = see(memory, *hashed([i, i + 1, i + 2]), words(3))
    tags = np.asarray(memory.tags)
    for texts in ([100, 101, 102], [41, 42, 99]):
        hashes, wanted = hashed(texts)
        _, found = see(memory, hashes, wanted, words(3), claim=False)
        owned = np.asarray(found.inverse)[0] >= 0
        np.testing.assert_array_equal(owned, [bool(t in tags) for t in np.asarray(wanted)[0]])
    _, tags = hashed([5])
    assert np.asarray(tags)[0].astype(bool).tolist() == [True, False, False]


def test_two_claims_on_one_row_leave_it_to_one():
    memory = mem.init(1, 4)
    memory, found = see(memory, *hashed([5], [6]), words(2, 3))
    assert sorted((np.asarray(found.inverse)[:, 0] >= 0).tolist()) == [False, True]
    assert int(memory.counts[0]) == 1


def test_followers_are_counted_and_the_rarest_makes_room():
    memory = mem.init(64, 4, slots=2)
    context = hashed([5])
    for word in (3, 3, 4, 3, 8):
        memory, _ = see(memory, *context, words(word))
    _, found = see(memory, *context, words(0), claim=False)
    assert followers(memory, found, 0, 0) == {3: 3, 8: 1}


def test_a_batch_counts_each_occurrence_but_padding():
    memory = mem.init(64, 4)
    memory, found = see(memory, *hashed([5], [5], [5]), words(7, 8, -1))
    place = int(found.inverse[0, 0])
    assert int(memory.counts[found.ids[place]]) == 2
    _, found = see(memory, *hashed([5]), words(0), claim=False)
    assert followers(memory, found, 0, 0) == {8: 1}


def test_counts_saturate_and_spare_the_id():
    memory = mem.init(4, 2, slots=1)
    memory, found = see(memory, *hashed([5]), words(mem.MAX_IDS - 1))
    full = jnp.uint32(((mem.MAX_IDS - 1) << mem.COUNT_BITS) + (1 << mem.COUNT_BITS) - 1)
    row = int(found.ids[found.inverse[0, 0]])
    memory = jax.tree.map(lambda x: x, memory)
    packed = memory.followers.at[row].set(full)
    memory = mem.Memory(memory.rows, memory.scales, memory.tags, memory.counts, packed)
    memory, _ = see(memory, *hashed([5]), words(mem.MAX_IDS - 1))
    assert int(memory.followers[row, 0]) == int(full)


def test_adagrad_with_one_scale_a_row_matches_numpy():
    rng = np.random.default_rng(0)
    memory = mem.init(9, 3)
    rows, scales = np.zeros((9, 3)), np.zeros(9)
    for _ in range(3):
        ids = rng.permutation(9)[:4].astype(np.int32)
        grads = rng.normal(size=(4, 3)).astype(np.float32)
        padded = np.append(ids, -1).astype(np.int32)
        memory = mem.update_rows(
            memory,
            jnp.asarray(padded),
            jnp.asarray(np.vstack([grads, np.ones((1, 3))]), "f4"),
            learning_rate=0.1,
            key=KEY,
        )
        scales[ids] += (grads**2).mean(axis=1)
        rows[ids] -= 0.1 * grads / np.sqrt(scales[ids])[:, None]
    np.testing.assert_allclose(memory.rows, rows, atol=1e-6)
    np.testing.assert_allclose(memory.scales, scales, rtol=1e-5)


def test_rows_of_bfloat16_move_by_the_same_steps_in_the_mean():
    """Steps of 1 / 1,000 of a row's length are far below its last bit, and none is lost."""
    memory = mem.init(3, 1024, dtype=jnp.bfloat16)
    assert memory.rows.dtype == jnp.bfloat16 and memory.scales.dtype == jnp.float32
    move = jax.jit(lambda m, key: mem.update_rows(m, words(1), ones, learning_rate=1e-2, key=key))
    ones = jnp.ones((1, 1024), jnp.float32)
    memory = mem.update_rows(memory, words(1), ones * 1e-3, learning_rate=1.0, key=KEY)
    assert np.all(np.asarray(memory.rows[1], np.float32) == -1)
    for turn in range(100):
        memory = move(memory, jax.random.key(turn))
    expected = -1 - 1e-2 * (1 / np.sqrt(np.arange(1, 101))).sum()
    moved = np.asarray(memory.rows, np.float32)
    assert moved[1].mean() == pytest.approx(expected, abs=2e-3) and np.unique(moved[1]).size > 1
    assert not moved[[0, 2]].any()


def test_a_row_no_gradient_reaches_stays():
    memory = mem.init(4, 2)
    memory = mem.update_rows(memory, words(1), jnp.zeros((1, 2)), learning_rate=1.0, key=KEY)
    assert not np.asarray(memory.rows).any()


def test_hashes_spread_over_all_rows():
    history = jnp.arange(20_000, dtype=jnp.int32)[:, None]
    hashes, tags = mem.hash_contexts(history, jnp.ones(20_000, jnp.int32), (1,))
    assert np.unique(np.asarray(tags)).size > 19_990
    filled = np.bincount(np.asarray(hashes)[:, 0] % 1000, minlength=1000)
    # 20 each on average; chi-squared over 999 degrees of freedom has deviation 45.
    assert abs(((filled - 20) ** 2 / 20).sum() - 999) < 5 * 45


def test_sizes_are_checked():
    with pytest.raises(ValueError, match="num_rows = 0"):
        mem.init(0, 4)
