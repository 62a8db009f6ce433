"""Active sets, against a plain Python model."""

from __future__ import annotations

import collections
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparse_jax.layers import active
from sparse_jax.layers.active import CANDIDATE, FILL, LABEL, PADDING
from sparse_jax.ops import active_sets, ffi

pytestmark = pytest.mark.usefixtures("quick_compiles")

P, B, M = 6, 3, 4  # label entries, examples, candidates of each


def i32(values):
    return jnp.asarray(values, jnp.int32)


@functools.cache
def shared(size, num_rows):
    return jax.jit(lambda *args: active.shared_set(*args, size=size, num_rows=num_rows))


@functools.cache
def per_example(size, num_rows, max_labels):
    return jax.jit(
        lambda *args: active.per_example_sets(
            *args, batch_size=B, max_labels=max_labels, size=size, num_rows=num_rows
        )
    )


def check_set(ids, sources, labels, found, size, num_rows):
    """One set [A] against the rules; `found` holds (candidate, count) pairs."""
    ids, sources = ids.tolist(), sources.tolist()
    kept = [i for i in ids if i >= 0]
    assert len(ids) == size and len(kept) == min(size, num_rows) == len(set(kept))
    assert all(0 <= i < num_rows for i in kept) and ids[len(kept) :] == [-1] * (size - len(kept))
    assert sources == sorted(sources[: len(kept)]) + [PADDING] * (size - len(kept))

    by = {s: [i for i, t in zip(ids, sources, strict=True) if t == s] for s in (0, 1, 2)}
    labels = sorted({i for i in labels if 0 <= i < num_rows})
    assert by[LABEL] == labels[:size]

    counts = collections.Counter()
    for i, count in found:
        if 0 <= i < num_rows and i not in labels:
            counts[i] += count
    room = min(size - len(by[LABEL]), len(counts))
    assert len(by[CANDIDATE]) == room and set(by[CANDIDATE]) <= set(counts)
    # Ties may fall either way, the counts may not.
    best = sorted(counts.values(), reverse=True)[:room]
    assert [counts[i] for i in by[CANDIDATE]] == best
    if by[FILL]:
        assert set(labels) | set(counts) <= set(kept)


def check_positions(ids, positions, dropped, labels):
    """Places of label entries; `ids` is the set of each entry."""
    lost = 0
    for entry, label in enumerate(labels):
        place = int(positions[entry])
        if label >= 0 and label in ids[entry]:
            assert ids[entry][place] == label and place >= 0
        else:
            assert place == -1
            lost += label >= 0
    assert int(dropped) == lost


# The last two have more places than rows.
SHARED_SIZES = [(8, 40), (3, 12), (16, 17), (7, 7), (12, 9), (4, 1)]


@pytest.mark.parametrize("size, num_rows", SHARED_SIZES)
@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_shared_set_is_labels_then_candidates_by_count_then_fill(size, num_rows, data):
    ids = st.integers(-1, num_rows - 1)
    labels = data.draw(st.lists(ids, min_size=P, max_size=P))
    found = data.draw(st.lists(ids, min_size=B * M, max_size=B * M))
    counts = data.draw(st.lists(st.integers(1, 4), min_size=B * M, max_size=B * M))
    seed = data.draw(st.integers(0, 2**31 - 1))
    args = (jax.random.key(seed), i32(labels), i32(found).reshape(B, M), i32(counts).reshape(B, M))
    result = shared(size, num_rows)(*args)
    check_set(result.ids, result.sources, labels, zip(found, counts, strict=True), size, num_rows)
    check_positions([result.ids.tolist()] * P, result.positions, result.dropped, labels)
    np.testing.assert_array_equal(result.mask, np.asarray(result.ids) >= 0)
    again = shared(size, num_rows)(*args)
    jax.tree.map(np.testing.assert_array_equal, result, again)


@pytest.mark.parametrize("size, num_rows, max_labels", [(6, 30, 2), (8, 5, P)])
@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_per_example_sets_obey_the_same_rules_row_by_row(size, num_rows, max_labels, data):
    ids = st.integers(-1, num_rows - 1)
    labels = data.draw(st.lists(ids, min_size=P, max_size=P))
    rows = sorted(data.draw(st.lists(st.integers(0, B - 1), min_size=P, max_size=P)))
    found = np.array(data.draw(st.lists(ids, min_size=B * M, max_size=B * M))).reshape(B, M)
    counts = data.draw(st.lists(st.integers(1, 4), min_size=B * M, max_size=B * M))
    counts = np.array(counts).reshape(B, M)
    key = jax.random.key(data.draw(st.integers(0, 2**31 - 1)))
    step = per_example(size, num_rows, max_labels)
    result = step(key, i32(labels), i32(rows), i32(found), i32(counts))
    sets = result.ids.tolist()
    for b in range(B):
        own = [label for label, row in zip(labels, rows, strict=True) if row == b][:max_labels]
        pairs = list(zip(found[b].tolist(), counts[b].tolist(), strict=True))
        check_set(result.ids[b], result.sources[b], own, pairs, size, num_rows)
    check_positions([sets[row] for row in rows], result.positions, result.dropped, labels)


@pytest.mark.parametrize(
    "size, num_rows",
    [
        *SHARED_SIZES[:2],
        *(pytest.param(*sizes, marks=pytest.mark.slow) for sizes in SHARED_SIZES[2:]),
        (200, 5000),
    ],
)
def test_the_kernel_and_the_fallback_make_the_same_sets(monkeypatch, size, num_rows):
    if not ffi.AVAILABLE:
        pytest.skip("no C++ kernels: pip install .")
    rng = np.random.default_rng(size)
    sizes, more = dict(size=size, num_rows=num_rows), dict(batch_size=5, max_labels=3)

    def both(key, labels, rows, found, counts):
        shared = active.shared_set(key, labels, found, counts, **sizes)
        own = active.per_example_sets(key, labels, rows, found, counts, **more, **sizes)
        return shared, own

    programs = [(available, jax.jit(lambda *given: both(*given))) for available in (True, False)]
    for turn in range(2):
        labels, rows = rng.integers(-1, num_rows + 2, 12), np.sort(rng.integers(0, 5, 12))
        found, counts = rng.integers(-1, num_rows + 2, (5, 30)), rng.integers(0, 4, (5, 30))
        counts = np.where(rng.random((5, 30)) < 0.05, 2**30, counts)  # sums that wrap
        arrays = [jnp.asarray(x, jnp.int32) for x in (labels, rows, found, counts)]

        results = []
        for available, program in programs:
            monkeypatch.setattr(ffi, "AVAILABLE", available)
            results.append(program(jax.random.key(turn), *arrays))
        jax.tree.map(np.testing.assert_array_equal, *results)


def test_labels_that_find_no_place_are_counted_by_entry():
    labels = i32([9, 9, 1, 5, 7, -1])
    result = shared(3, 12)(jax.random.key(0), labels, None, None)
    assert result.ids.tolist() == [1, 5, 7] and int(result.dropped) == 2
    assert result.positions.tolist() == [-1, -1, 0, 1, 2, -1]
    # Of five labels of one example, two are let in; a third, 20, comes in as a candidate.
    rows, candidates = i32([1] * 6), jnp.full((B, M), -1, jnp.int32).at[1, 2].set(20)
    labels = i32([3, 4, 20, 21, 22, -1])
    result = per_example(6, 30, 2)(jax.random.key(0), labels, rows, candidates, candidates)
    assert result.ids[1, :3].tolist() == [3, 4, 20] and result.positions[:3].tolist() == [0, 1, 2]
    assert int(result.dropped) == len({21, 22} - set(result.ids[1].tolist())) > 0


def test_labels_out_of_range_are_dropped_and_counted():
    result = shared(3, 12)(jax.random.key(0), i32([12, 2, 2**31 - 1, -1, -1, -1]), None, None)
    assert int(result.dropped) == 2 and result.positions.tolist()[:3] == [-1, 0, -1]


def test_without_counts_each_candidate_counts_once():
    candidates = i32([[5, 6, 7, -1], [6, 7, -1, -1], [7, -1, -1, -1]])
    result = shared(8, 40)(jax.random.key(3), jnp.full(P, -1, jnp.int32), candidates, None)
    assert result.ids[:3].tolist() == [7, 6, 5]
    assert result.sources.tolist() == [CANDIDATE] * 3 + [FILL] * 5


def test_sums_of_counts_rank_candidates_and_labels_stay_ahead_of_any_sum():
    candidates = i32([[5, 6, 3, -1], [6, -1, -1, -1], [6, -1, -1, -1]])
    counts = i32([[2**28, 2**28, 1, 0]] * 3)
    result = shared(8, 40)(jax.random.key(3), i32([3] + [-1] * 5), candidates, counts)
    assert result.ids[:3].tolist() == [3, 6, 5]


def test_sets_are_a_function_of_the_key():
    labels = i32([1, 2, -1, -1, -1, -1])
    sets = [shared(8, 40)(jax.random.key(k), labels, None, None).ids.tolist() for k in (0, 0, 1)]
    assert sets[0] == sets[1] != sets[2]


def test_full_set_is_every_row_in_order():
    result = active.full_set(i32([4, -1, 0]), num_rows=5)
    assert result.ids.tolist() == [0, 1, 2, 3, 4] and result.positions.tolist() == [4, -1, 0]
    assert int(result.dropped) == 0 and set(result.sources.tolist()) == {FILL}
    np.testing.assert_array_equal(active.log_inclusion(result, num_rows=5), 0)


# Uniformity --------------------------------------------------------------------------------------


def sigmas(statistic, freedom):
    """A chi-square statistic as standard deviations from its mean (Wilson & Hilferty 1931)."""
    spread = 2 / (9 * freedom)
    return ((statistic / freedom) ** (1 / 3) - (1 - spread)) / spread**0.5


def counts_sigmas(counts):
    expected = counts.sum() / counts.size
    return sigmas(((counts - expected) ** 2).sum() / expected, counts.size - 1)


@pytest.mark.parametrize("num_rows", [1, 2, 3, 4, 5, 9, 31, 33, 64, 1000])
def test_permutation_head_is_a_permutation(num_rows):
    permute = jax.jit(lambda bits: active_sets._permutation_head(bits, num_rows, num_rows))
    for seed in (0, 1, 2**32 - 1):
        members = np.sort(permute(jnp.uint32(seed)))
        np.testing.assert_array_equal(members, np.arange(num_rows))


def test_permutation_head_of_a_range_near_int32():
    head = active_sets._permutation_head(jnp.uint32(5), 500, 2**31 - 1)
    assert len(set(head.tolist())) == 500 and int(head.min()) >= 0
    assert abs(float(np.mean(np.asarray(head, np.float64))) / 2**30 - 1) < 0.1


@pytest.mark.parametrize("num_rows", [5, 10, 16])
def test_permutations_are_uniform_over_seeds(num_rows):
    seeds = jax.random.bits(jax.random.key(1), (20_000,), jnp.uint32)
    permute = jax.vmap(lambda bits: active_sets._permutation_head(bits, num_rows, num_rows))
    drawn = np.asarray(jax.jit(permute)(seeds))
    for place in (0, 1, num_rows - 1):
        assert abs(counts_sigmas(np.bincount(drawn[:, place], minlength=num_rows))) < 3
    pairs = np.bincount(drawn[:, 0] * num_rows + drawn[:, 1], minlength=num_rows**2)
    off_diagonal = ~np.eye(num_rows, dtype=bool).ravel()
    assert not pairs[~off_diagonal].any()
    assert abs(counts_sigmas(pairs[off_diagonal])) < 3


@pytest.mark.parametrize("size, num_rows", [(5, 11), (8, 200)])
def test_fill_is_uniform_over_the_ids_that_are_not_in_already(size, num_rows):
    trials = 6000
    keys = jax.random.split(jax.random.key(2), trials)
    labels, candidates = i32([3, 3, 0]), i32([[7, 0]])

    def draw(key):
        return active.shared_set(key, labels, candidates, size=size, num_rows=num_rows).ids

    drawn = np.asarray(jax.jit(jax.vmap(draw))(keys))
    np.testing.assert_array_equal(drawn[:, :3], np.tile([0, 3, 7], (trials, 1)))
    counts = np.bincount(drawn[:, 3:].ravel(), minlength=num_rows)
    assert not counts[[0, 3, 7]].any()
    counts = np.delete(counts, [0, 3, 7])
    # Drawn without replacement: inclusion has variance p (1 − p), covariance −p (1 − p) / (n − 1).
    n, p = counts.size, (size - 3) / counts.size
    statistic = ((counts - trials * p) ** 2).sum() / (trials * p * (1 - p)) * (n - 1) / n
    assert abs(sigmas(statistic, n - 1)) < 3


def test_fills_of_the_examples_of_a_batch_are_independent():
    nobody = jnp.full(P, -1, jnp.int32)
    nothing, rows = jnp.full((B, M), -1, jnp.int32), jnp.zeros(P, jnp.int32)
    step, trials = per_example(6, 30, 2), 1000
    keys = jax.random.split(jax.random.key(0), trials)
    ids = np.stack([step(key, nobody, rows, nothing, nothing).ids for key in keys])
    shared_ids = [len(set(a) & set(b)) for a, b in zip(ids[:, 0], ids[:, 1], strict=True)]
    # Hypergeometric: mean 6 * 6 / 30 = 1.2, variance 1.2 * 0.8 * 24 / 29.
    assert abs(np.mean(shared_ids) - 1.2) < 3 * (1.2 * 0.8 * 24 / 29 / trials) ** 0.5


# Inclusion probabilities -------------------------------------------------------------------------


def test_log_inclusion_is_fill_over_rows_not_certain():
    labels, candidates = i32([1, 1, 2, -1, -1, -1]), i32([[5, 2, -1, -1]] * B)
    result = shared(8, 40)(jax.random.key(0), labels, candidates, None)
    expected = np.where(np.asarray(result.sources) == FILL, np.log(5 / 37), 0)
    logs = active.log_inclusion(result, num_rows=40)
    np.testing.assert_allclose(logs, expected, rtol=1e-6)


def test_log_inclusion_of_each_example_and_of_padding():
    rows, nothing = i32([0, 0, 2, 2, 2, 2]), jnp.full((B, M), -1, jnp.int32)
    step, labels = per_example(6, 30, 2), i32([1, 2, 9, -1, -1, -1])
    result = step(jax.random.key(0), labels, rows, nothing, nothing)
    logs = active.log_inclusion(result, num_rows=30)
    for b, certain in enumerate([2, 0, 1]):
        expected = np.full(6, np.log((6 - certain) / (30 - certain)))
        expected[:certain] = 0
        np.testing.assert_allclose(logs[b], expected, rtol=1e-6)
    everything = shared(12, 9)(jax.random.key(0), i32([1] * P), None, None)
    np.testing.assert_array_equal(active.log_inclusion(everything, num_rows=9), 0)


def test_log_inclusion_makes_the_partition_function_unbiased():
    weights = np.exp(np.random.default_rng(5).normal(size=40))
    labels, draws = i32([4, 8, -1, -1, -1, -1]), []
    for key in jax.random.split(jax.random.key(6), 1000):
        chosen = shared(8, 40)(key, labels, None, None)
        draws.append(weights[np.asarray(chosen.ids)])
    inclusion = np.exp(active.log_inclusion(chosen, num_rows=40))  # 2 labels, 6 of the fill: always
    sums = np.sum(np.array(draws) / inclusion, axis=1)
    assert abs(sums.mean() - weights.sum()) < 3 * sums.std() / len(sums) ** 0.5


def test_lsh_log_inclusion_is_the_law_of_simhash():
    cosines = np.array([-1, -0.5, 0, 0.3, 0.9, 1], np.float32)
    p = 1 - np.arccos(cosines.astype(np.float64)) / np.pi
    expected = np.log(np.maximum(1 - (1 - p**4) ** 6, 1e-6))
    logs = active.lsh_log_inclusion(jnp.asarray(cosines), num_bits=4, num_tables=6)
    np.testing.assert_allclose(logs, expected, rtol=1e-4, atol=1e-6)
    beyond = active.lsh_log_inclusion(jnp.float32([1.0001, -1.0001]), num_bits=4, num_tables=6)
    assert beyond[0] == 0 and np.isclose(beyond[1], np.log(1e-6))


# Errors ------------------------------------------------------------------------------------------


def test_errors_name_the_argument_and_its_value():
    key, labels = jax.random.key(0), i32([1])
    floats = jnp.ones(1)
    with pytest.raises(TypeError, match="labels has dtype float32"):
        active.shared_set(key, floats, size=2, num_rows=4)
    with pytest.raises(TypeError, match="candidates has dtype float32"):
        active.shared_set(key, labels, floats[None], size=2, num_rows=4)
    with pytest.raises(ValueError, match="size = 0"):
        active.shared_set(key, labels, size=0, num_rows=4)
    more = dict(batch_size=1, max_labels=1)
    with pytest.raises(ValueError, match="num_rows = -3"):
        active.per_example_sets(key, labels, labels, size=2, num_rows=-3, **more)
    with pytest.raises(TypeError, match="labels has dtype float32"):
        active.per_example_sets(key, floats, labels, size=2, num_rows=4, **more)


@pytest.mark.parametrize(
    ("changed", "error", "message"),
    [
        ({"run": 0}, ValueError, "run = 0: must be at least 1"),
        ({"k": 0}, ValueError, "k = 0: must be at least 1"),
        ({"run": 2.5}, TypeError, r"run = 2.5: must be a whole number; convert it by int\(run\)"),
        ({"k": 2.5}, TypeError, r"k = 2.5: must be a whole number"),
        (
            {"queries": jnp.ones((2, 3), jnp.bfloat16)},
            TypeError,
            "queries has dtype bfloat16: must",
        ),
        ({"queries": jnp.ones((2, 4))}, ValueError, r"queries has shape \(2, 4\): must be \[B, 3"),
        ({"queries": jnp.ones(3)}, ValueError, r"queries has shape \(3,\): must .* queries\[None"),
        ({"weights": jnp.ones((0, 3)), "bias": jnp.ones(0)}, ValueError, "num_rows = 0: must be"),
    ],
)
def test_what_a_run_of_rows_can_not_rank_is_refused(changed, error, message):
    """The kernel and the plain JAX raised errors of their own, and bfloat16 passed one alone."""
    given = {"queries": jnp.ones((2, 3)), "weights": jnp.ones((5, 3)), "bias": jnp.ones(5)}
    given |= {"run": 4, "k": 2, **changed}
    with pytest.raises(error, match=message):
        active.best_of_run(jax.random.key(0), **given)


def test_the_best_of_a_run_under_transformations():
    rng = np.random.default_rng(0)
    queries, rows = (jnp.asarray(rng.normal(size=(n, 4)), jnp.float32) for n in (3, 50))
    keys = jax.random.split(jax.random.key(0), 4)

    def best(key, rows=rows):
        return active.best_of_run(key, queries, rows, jnp.zeros(50), run=10, k=20)

    found = jnp.stack([best(key) for key in keys])
    assert found.shape == (4, 3, 10)  # k is more than a run has
    assert jnp.array_equal(jax.vmap(best)(keys), found)
    gradient = jax.grad(lambda rows: rows[best(keys[0], rows)].sum())(rows)
    np.testing.assert_array_equal(
        gradient.sum(1), 4.0 * np.bincount(found[0].ravel(), minlength=50)
    )
