"""Hash families: NumPy references bit for bit, packing, edge cases."""

from __future__ import annotations

import hashlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import quickly
import reference_hashing as ref
from hash_families import ALL, BITS, DENSE, hash_jit, inputs, make

from sparse_jax.retrieval import hashing
from sparse_jax.retrieval.hashing import _common

pytestmark = pytest.mark.usefixtures("quick_compiles")

# ---- equality ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ALL)
def test_equals_numpy_bit_for_bit(name):
    as_for_users = jax.jit(hashing.hash, compiler_options=quickly.for_users())
    for seed in range(2):
        params = make(name, seed=seed)
        x = inputs(name, seed=seed + 10)
        codes = np.asarray(as_for_users(params, jnp.asarray(x)))
        assert codes.dtype == np.int32 and codes.shape == (11, 6)
        np.testing.assert_array_equal(codes, getattr(ref, name)(params, x))
        assert codes.min() >= 0 and codes.max() < params.num_buckets == 2 ** BITS[name]


@pytest.mark.parametrize("name", ALL)
def test_same_codes_for_every_batching(name):
    params = make(name)
    x = jnp.asarray(inputs(name, n=24))
    whole = np.asarray(hash_jit(params, x))
    family = hashing.FAMILIES[name]
    np.testing.assert_array_equal(family.hash(params, x), whole)  # eager
    np.testing.assert_array_equal(jax.jit(jax.vmap(family.hash, (None, 0)))(params, x), whole)
    np.testing.assert_array_equal(hash_jit(params, x.reshape(2, 3, 4, -1)).reshape(24, 6), whole)
    for i in (0, 13, 23):
        np.testing.assert_array_equal(hash_jit(params, x[i]), whole[i])
    assert hash_jit(params, x[:0]).shape == (0, 6)


@pytest.mark.parametrize("name", ALL)
def test_init_is_pure_and_params_are_a_pytree(name):
    first, again, other = make(name), make(name), make(name, seed=1)
    leaves, treedef = jax.tree.flatten(first)
    assert all(isinstance(leaf, jax.Array) for leaf in leaves)
    for a, b in zip(leaves, jax.tree.leaves(again), strict=True):
        np.testing.assert_array_equal(a, b)
    assert any(
        not np.array_equal(a, b) for a, b in zip(leaves, jax.tree.leaves(other), strict=True)
    )
    # `make` draws under jit, as a training step may; eager calls draw the same.
    drawn = make(name, seed=jax.random.key(0))
    assert jax.tree.structure(drawn) == treedef
    for a, b in zip(leaves, jax.tree.leaves(drawn), strict=True):
        np.testing.assert_array_equal(a, b)


def test_simhash_blocks_wide_inputs_exactly():
    params = make("simhash", dim=2500, num_tables=2)
    x = np.random.default_rng(0).normal(size=(3, 2500)).astype(np.float32)
    np.testing.assert_array_equal(hash_jit(params, jnp.asarray(x)), ref.simhash(params, x))


SCRIPT = """
import hashlib, jax, numpy as np
from sparse_jax.retrieval import hashing
rng = np.random.default_rng(0)
x = rng.normal(size=(600, 96)).astype(np.float32)
x[::2] = np.maximum(x[::2], 0)
w = rng.normal(size=(20000, 33)).astype(np.float32) + np.float32(0.3)

@jax.jit
def everything(key, x, sets, w):
    out = {}
    for name in ("simhash", "dwta", "fastsrp", "minhash"):
        params = hashing.FAMILIES[name].init(key, 96, num_tables=30, num_bits=12)
        out[name] = hashing.hash(params, sets if name == "minhash" else x)
    for name in ("norm_range", "bias_centred"):
        fitted = hashing.transforms.fit(name, w, w[:, 0])
        out[name] = hashing.transforms.keys(fitted, w, w[:, 0])
    return out

sets = np.rint(np.abs(x) * 50).astype(np.int32)
for name, codes in everything(jax.random.key(0), x, sets, w).items():
    print(name, hashlib.sha256(np.asarray(codes).tobytes()).hexdigest())
"""


@pytest.mark.threads(SCRIPT, counts=(1, 2))
def test_same_bits_with_one_thread_and_two(printed):
    assert printed[1] == printed[2] and len(printed[1].splitlines()) == 6


# ---- packing -----------------------------------------------------------------------------------


@pytest.mark.parametrize("bits,count", [(1, 6), (2, 3), (3, 3)])
def test_pack_is_a_bijection_onto_all_codes(bits, count):
    base = 2**bits
    grid = np.stack(np.meshgrid(*[np.arange(base)] * count, indexing="ij"), -1).reshape(-1, count)
    codes = np.asarray(_common.pack(jnp.asarray(grid[:, None, :], jnp.int32), bits))[:, 0]
    np.testing.assert_array_equal(np.sort(codes), np.arange(base**count))
    digits = (codes[:, None] >> (bits * np.arange(count))) & (base - 1)
    np.testing.assert_array_equal(digits, grid)


@pytest.mark.parametrize("name", ALL)
def test_codes_reach_every_bucket(name):
    bits = 6
    params = make(name, dim=64, num_tables=2, num_bits=bits)
    rng = np.random.default_rng(0)
    if name == "minhash":
        x = rng.integers(0, 10**6, (4000, 8)).astype(np.int32)
    else:
        x = rng.normal(size=(4000, 64)).astype(np.float32)
    codes = np.asarray(hash_jit(params, jnp.asarray(x)))
    for table in range(2):
        assert len(np.unique(codes[:, table])) == 2**bits


def test_widest_code_is_not_negative():
    params = make("simhash", num_tables=1, num_bits=30)
    codes = hash_jit(params, jnp.zeros((1, 37), jnp.float32))
    assert int(codes[0, 0]) == 2**30 - 1
    minhash = make("minhash", num_tables=50, num_bits=30)
    assert int(hash_jit(minhash, jnp.arange(40, dtype=jnp.int32)[None]).min()) >= 0


# ---- known mistakes of earlier systems ---------------------------------------------------------


def test_fastsrp_spreads_non_negative_inputs():
    x = jax.nn.relu(jax.random.normal(jax.random.key(5), (500, 128)))
    params = make("fastsrp", dim=128, num_tables=8, num_bits=12, bin_size=16)
    codes = np.asarray(hash_jit(params, x))
    distinct = [len(np.unique(codes[:, t])) for t in range(8)]
    assert min(distinct) > 250, distinct  # a sign for each bin gives a handful
    bits = (codes[:, :, None] >> np.arange(12)) & 1
    assert 0.3 < bits.mean() < 0.7


def test_fastsrp_puts_each_coordinate_in_one_bin_a_repetition():
    params = make("fastsrp", dim=37, num_tables=6, num_bits=7, bin_size=5)
    members, signs = np.asarray(params.members), np.asarray(params.signs)
    groups = members.shape[1] // params.num_repetitions
    for r in range(params.num_repetitions):
        part = slice(r * groups, (r + 1) * groups)
        np.testing.assert_array_equal(np.sort(members[:, part][signs[:, part] != 0]), range(37))
    # Signs differ within a bin.
    assert np.mean(np.abs(signs.sum(0)) == np.abs(signs).sum(0)) < 0.3


# ---- edge cases --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", DENSE)
def test_zero_nan_inf_subnormal_and_extreme_scales(name):
    params = make(name)
    base = inputs(name, n=1)[0]
    odd = base.copy()
    odd[[3, 4, 5, 6]] = [np.nan, np.inf, -np.inf, 1e-40]
    zeroed = base.copy()
    zeroed[[3, 4, 5, 6]] = 0
    tiny, huge = np.float32(2.0**-126), np.finfo(np.float32).max
    x = np.stack(
        [
            np.zeros(37),
            odd,
            zeroed,
            np.full(37, 1e-42),
            np.full(37, np.nan),
            np.full(37, huge),
            base * 0 + tiny,
        ]
    ).astype(np.float32)
    codes = np.asarray(hash_jit(params, jnp.asarray(x)))
    np.testing.assert_array_equal(codes, getattr(ref, name)(params, x))
    assert codes.min() >= 0 and codes.max() < params.num_buckets
    np.testing.assert_array_equal(codes[1], codes[2])
    np.testing.assert_array_equal(codes[0], codes[3])
    np.testing.assert_array_equal(codes[0], codes[4])
    full = params.num_buckets - 1 if name in ("simhash", "srp", "fastsrp") else 0
    assert (codes[0] == full).all()


@pytest.mark.parametrize("name", DENSE)
def test_invariant_to_powers_of_two(name):
    params = make(name)
    x = inputs(name)
    codes = hash_jit(params, jnp.asarray(x))
    np.testing.assert_array_equal(hash_jit(params, jnp.asarray(x * np.float32(2**40))), codes)
    half = hash_jit(params, jnp.asarray(x[:5] * np.float32(0.5), jnp.float32))
    np.testing.assert_array_equal(half, codes[:5])


@pytest.mark.parametrize("name", DENSE)
def test_accepts_bfloat16(name):
    params = make(name)
    x = jnp.asarray(inputs(name)).astype(jnp.bfloat16)
    np.testing.assert_array_equal(hash_jit(params, x), hash_jit(params, x.astype(jnp.float32)))


def test_minhash_sets():
    params = make("minhash")
    a = jnp.array([[5, 9, 1, -1, -1], [1, 5, 9, 9, 5], [-1, -1, 9, 1, 5], [-7, 5, 1, 1, 9]])
    codes = np.asarray(hash_jit(params, a))
    assert (codes == codes[0]).all()
    empty = np.asarray(hash_jit(params, jnp.full((2, 5), -1, jnp.int32)))
    np.testing.assert_array_equal(empty, hash_jit(params, jnp.zeros((2, 0), jnp.int32)))
    assert empty.min() >= 0 and empty.max() < params.num_buckets


@pytest.mark.parametrize("name", ["dwta", "fastsrp"])
def test_one_hot_inputs_are_densified(name):
    """A single non-zero is found from every bin: no digit is left to a constant."""
    params = make(name, dim=64, num_tables=50, num_bits=6)
    codes = np.asarray(hash_jit(params, jnp.eye(64, dtype=jnp.float32)))
    x = np.eye(64, dtype=np.float32)
    np.testing.assert_array_equal(codes, getattr(ref, name)(params, x))
    assert len(np.unique(codes, axis=0)) > 30


def test_densify_walks_every_bin_and_ignores_empty_rows():
    for bins in (1, 2, 9):
        strides = _common.random_strides(jnp.arange(bins, dtype=jnp.uint32) * jnp.uint32(7919))
        for full in range(bins):
            values = np.full((2, bins), -1, np.int32)
            values[0, full] = 4
            out = np.asarray(_common.densify(jnp.asarray(values), strides))
            assert (out[0] == 4).all() and (out[1] == -1).all()


def test_madds_as_executed():
    assert hashing.madds(make("simhash")) == 37 * 6 * 7
    assert hashing.madds(make("srp")) == 37 * 6 * 7
    assert hashing.madds(make("wta")) == 3 * 6 * 3
    assert hashing.madds(make("dwta")) == 7 * 6 * 3
    fast = make("fastsrp", dim=128, num_tables=50, num_bits=15, bin_size=16)
    assert hashing.madds(fast) == 2 * 94 * 128
    assert hashing.minhash.madds(make("minhash"), 10) == 60 + 36


@pytest.mark.parametrize("name", DENSE)
def test_wrong_input_names_shape_and_cure(name):
    params = make(name)
    with pytest.raises(ValueError, match=r"x must have shape \[\.\.\., 37\].*\(2, 36\).*init with"):
        hash_jit(params, jnp.zeros((2, 36)))
    with pytest.raises(ValueError, match="x must have shape"):
        hash_jit(params, jnp.float32(1))
    with pytest.raises(ValueError, match=r"floating, got dtype int32.*astype"):
        hash_jit(params, jnp.zeros((2, 37), jnp.int32))


@pytest.mark.parametrize(
    "name,kwargs,message",
    [
        ("simhash", dict(dim=0), "dim must be"),
        ("simhash", dict(dim=2**17 + 1), "use srp or fastsrp"),
        ("simhash", dict(num_tables=0), "num_tables must be >= 1, got 0"),
        ("simhash", dict(num_bits=31), r"num_bits must be in \[1, 30\], got 31"),
        ("simhash", dict(num_bits=8.0), "num_bits must be a Python int"),
        ("srp", dict(density=0.0), r"density must be in \(0, 1\], got 0.0"),
        ("srp", dict(density=1.5), "density"),
        ("wta", dict(window=6), "window must be a power of two, got 6"),
        ("wta", dict(window=64), "window must be <= dim = 37, got 64"),
        ("wta", dict(window=8, num_bits=10), "num_bits=9 or 12"),
        ("dwta", dict(window=8, num_bits=2), "num_bits=3"),
        ("fastsrp", dict(bin_size=0), "bin_size must be >= 1"),
        ("minhash", dict(num_hashes=0), "num_hashes must be >= 1"),
    ],
)
def test_bad_init_arguments(name, kwargs, message):
    with pytest.raises(ValueError, match=message):
        make(name, **kwargs)


@pytest.mark.parametrize("dim", [jnp.int32(37), [37]], ids=["array", "list"])
def test_sizes_that_have_no_hash_are_refused_as_others(dim):
    with pytest.raises(ValueError, match="dim must be a Python int, got "):
        hashing.FAMILIES["simhash"].init(jax.random.key(0), dim, num_tables=2, num_bits=4)
    with pytest.raises(ValueError, match="name must be one of"):
        hashing.transforms.fit(["none"], jnp.ones((2, 3)))


def test_bad_sets_and_params():
    with pytest.raises(ValueError, match=r"int32 set elements.*float32"):
        hashing.hash(make("minhash"), jnp.zeros((2, 3)))
    with pytest.raises(ValueError, match=r"params must come from the init of one of"):
        hashing.hash({"a": 1}, jnp.zeros((2, 3)))
    with pytest.raises(ValueError, match="params must come from"):
        hashing.madds(None)


def test_registry_and_digest_of_codes():
    """Codes are part of a checkpoint's meaning: a change of them must be deliberate."""
    assert list(hashing.FAMILIES) == ["simhash", "srp", "wta", "dwta", "minhash", "fastsrp"]
    x = (np.arange(37 * 5, dtype=np.float32).reshape(5, 37) * np.float32(7) % np.float32(11)) - 5
    digest = hashlib.sha256()
    for name in DENSE:
        digest.update(np.asarray(hash_jit(make(name), jnp.asarray(x))).tobytes())
    sets = jnp.asarray(x).astype(jnp.int32)
    digest.update(np.asarray(hash_jit(make("minhash"), sets)).tobytes())
    assert digest.hexdigest()[:16] == "61ff382d4a48dcb8"
