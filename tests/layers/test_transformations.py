"""A step outside of its process: compiled ahead, kept, exported, spread over devices."""

from __future__ import annotations

import os
import subprocess
import sys
import warnings

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import quickly
from jax.experimental import serialize_executable
from jax.experimental.compilation_cache import compilation_cache

from sparse_jax import layers, optim
from sparse_jax.layers import active, compiling, look_up, value_and_grad
from sparse_jax.ops import ffi

pytestmark = pytest.mark.usefixtures("quick_compiles")

N, D, B = 200, 16, 8
TX = optim.rowwise(optax.adam(0.1))


def start():
    table = jax.random.normal(jax.random.key(0), (N, D))
    params = {"embed": table, "weights": 0.1 * table, "bias": jnp.zeros(N)}
    return jax.tree.flatten((params, TX.init(params)))


def make_step():
    """A step of leaves: what is exported knows no classes of ours or Optax's."""
    leaves, tree = start()

    def step(leaves, ids, labels, bits):
        params, slots = tree.unflatten(leaves)
        key = jax.random.wrap_key_data(bits)

        def loss(params):
            h = jnp.tanh(look_up(params["embed"], ids).mean(axis=1))
            chosen = active.shared_set(key, labels, size=32, num_rows=N)
            rows = [look_up(params[name], chosen.ids) for name in ("weights", "bias")]
            examples = jnp.arange(B, dtype=jnp.int32)
            each, _ = layers.softmax_head(h, *rows, examples, chosen.positions)
            return each.mean()

        value, grads = value_and_grad(loss)(params)
        updates, slots = TX.update(grads, slots, params)
        return value, jax.tree.leaves((optax.apply_updates(params, updates), slots))

    ids = jnp.arange(B * 3, dtype=jnp.int32).reshape(B, 3)
    args = (leaves, ids, jnp.arange(B, dtype=jnp.int32), jnp.zeros(2, jnp.uint32))
    return jax.jit(step), args


def assert_same(ours, theirs):
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_array_equal(a, b)


def child(code, *args, **environment):
    """Runs a program elsewhere, without our path unless it is given."""
    kept = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    kept |= quickly.environment() | environment
    command = [sys.executable, "-W", "ignore", "-c", code, *map(str, args)]
    done = subprocess.run(command, env=kept, capture_output=True, text=True, cwd="/")
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def compiled_here():
    """What is compiled is not taken from JAX's persistent cache.

    What is taken from there lacks its object code, and can't be serialized once more: what is read
    back then says "NOT_FOUND" or "Function ... not found". So do jax 0.10.2 and 0.12.0.
    """
    before = jax.config.jax_enable_compilation_cache
    jax.config.update("jax_enable_compilation_cache", False)
    compilation_cache.reset_cache()  # JAX asks but once whether it has a cache
    yield
    jax.config.update("jax_enable_compilation_cache", before)
    compilation_cache.reset_cache()


@pytest.mark.slow
@pytest.mark.skipif(not ffi.AVAILABLE, reason="needs the kernels")
def test_compiled_ahead_kept_and_exported_with_kernels(compiled_here):
    pytest.importorskip("flatbuffers", reason="jax.export needs it to serialize")
    step, args = make_step()
    expected = step(*args)
    compiled = step.lower(*args).compile()
    assert_same(compiled(*args), expected)
    kept = serialize_executable.serialize(compiled)
    assert_same(serialize_executable.deserialize_and_load(*kept)(*args), expected)

    with pytest.raises(ValueError, match="sparse_jax_"):
        jax.export.export(step)(*args)
    exported = jax.export.export(step, disabled_checks=layers.export_checks())(*args)
    again = jax.export.deserialize(exported.serialize())
    assert_same(again.call(*args), expected)


READER = """
import sys
import jax, jax.export, numpy as np
given = np.load(sys.argv[2])
leaves = [given[f"leaf{i}"] for i in range(len(given) - 4)]
args = leaves, given["ids"], given["labels"], given["bits"]
value, _ = jax.export.deserialize(open(sys.argv[1], "rb").read()).call(*args)
assert not any("sparse_jax" in name for name in sys.modules)
np.testing.assert_allclose(value, given["value"], rtol=1e-5)
"""


@pytest.mark.slow
def test_exported_without_kernels_it_runs_without_the_package(tmp_path, monkeypatch):
    pytest.importorskip("flatbuffers", reason="jax.export needs it to serialize")
    monkeypatch.setattr(ffi, "AVAILABLE", False)  # as SPARSE_JAX_PURE=1 does
    assert layers.export_checks() == []
    step, args = make_step()
    (tmp_path / "step").write_bytes(jax.export.export(step)(*args).serialize())
    arrays = {f"leaf{i}": leaf for i, leaf in enumerate(args[0])}
    value = step(*args)[0]
    rest = {"ids": args[1], "labels": args[2], "bits": args[3], "value": value}
    np.savez(tmp_path / "given.npz", **arrays, **rest)
    child(READER, tmp_path / "step", tmp_path / "given.npz")


SHARDED = """
import jax, jax.numpy as jnp, numpy as np, optax
from jax.sharding import Mesh, PartitionSpec as P
from sparse_jax import optim
from sparse_jax.layers import look_up, value_and_grad
assert jax.device_count() == 2
tx = optim.rowwise(optax.adam(0.1))
rng = np.random.default_rng(0)
params = {"table": jnp.asarray(rng.normal(size=(50, 4)), jnp.float32), "scale": jnp.float32(2)}
ids = jnp.asarray(rng.integers(0, 50, (8, 3)), jnp.int32)
def gradient(params, ids):
    def loss(p):
        return jnp.mean(jnp.sin(p["scale"] * look_up(p["table"], ids)))
    return value_and_grad(loss)(params)
def step(params, ids, mean):
    value, grads = gradient(params, ids)
    updates, _ = tx.update(mean(grads), tx.init(params), params)
    return optax.apply_updates(params, updates)
mesh = Mesh(np.array(jax.devices()), ("data",))
shared = jax.jit(jax.shard_map(
    lambda p, i: step(p, i, lambda g: optim.tree.pmean(g, "data")),
    mesh=mesh, in_specs=(P(), P("data")), out_specs=P(), check_vma=False))
ours, one = shared(params, ids), jax.jit(lambda p, i: step(p, i, lambda g: g))(params, ids)
for name in params:
    np.testing.assert_allclose(ours[name], one[name], rtol=1e-4, atol=1e-5)
"""


@pytest.mark.slow
def test_two_devices_with_a_share_of_the_batch_each_equal_one():
    flags = "--xla_force_host_platform_device_count=2 " + quickly.environment()["XLA_FLAGS"]
    child(SHARDED, XLA_FLAGS=flags, PYTHONPATH=os.environ["PYTHONPATH"])


# Donation ----------------------------------------------------------------------------------------


def test_a_table_that_would_be_copied_is_told(monkeypatch):
    monkeypatch.setattr(compiling, "LARGE", N * D * 4)
    tables = {"a": jnp.ones((N, D)), "small": jnp.ones(3)}
    add = lambda t, x: ({n: v + 1 for n, v in t.items()}, t["a"] @ x)  # noqa: E731
    args = tables, jnp.ones((D, 1))
    with pytest.warns(UserWarning, match=r"copies args\[0\]\[0\]\['a'\], float32 \[200, 16\]"):
        assert len(layers.check_donated(jax.jit(add), *args)) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert layers.check_donated(jax.jit(add, donate_argnums=0), *args) == []
        # Read, or returned as it was given: no copy.
        assert layers.check_donated(jax.jit(lambda t, x: (t, t["a"] @ x)), *args) == []
    with pytest.raises(TypeError, match="must be jitted"):
        layers.check_donated(add, *args)


def test_donated_by_halves_the_other_half_is_told(monkeypatch):
    monkeypatch.setattr(compiling, "LARGE", 1000)
    args = jnp.ones((N, D)), jnp.ones((N, D))
    step = jax.jit(lambda p, s: (p - s, s + 1), donate_argnums=0)
    with pytest.warns(UserWarning, match=r"args\[0\]\[1\]"):
        assert len(layers.check_donated(step, *args)) == 1
