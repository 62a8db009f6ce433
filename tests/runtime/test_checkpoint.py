"""Checkpoints: bit-equal, resumable, and whole whenever the process dies."""

from __future__ import annotations

import dataclasses
import functools
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import synthetic
import threads

from sparse_jax import data, optim
from sparse_jax.retrieval import schedules
from sparse_jax.retrieval.index import IndexConfig
from sparse_jax.runtime import checkpoint
from sparse_jax.xmc import step as training

pytestmark = pytest.mark.usefixtures("quick_compiles")

CONFIG = training.Config(
    active=64,
    distinct_features=512,
    index=IndexConfig(
        num_tables=4, num_bits=5, rehash=schedules.fixed(2), rebuild=schedules.fixed(5)
    ),
)
TX = optim.rowwise(optax.adam(optax.linear_schedule(1e-2, 1e-3, 8)))
POINTS = synthetic.make_data(8 * 16, num_features=400, num_labels=300)


@functools.cache
def initial() -> training.TrainState:
    return synthetic.start(POINTS, TX, config=CONFIG, hidden=16)


def fresh() -> training.TrainState:
    """To give away: steps donate it."""
    return jax.tree.map(jnp.copy, initial())


@pytest.fixture(scope="module")
def run() -> Any:
    """A function that runs some of the eight batches."""
    step = jax.jit(training.make_step(TX, config=CONFIG), donate_argnums=0)
    maintain = jax.jit(training.make_maintain(config=CONFIG), donate_argnums=0)
    batches = synthetic.make_batches(POINTS, 16)

    def run(state: training.TrainState, which: slice) -> training.TrainState:
        for batch in batches[which]:
            state, _ = step(state, batch)
            state = maintain(state)
        return state

    return run


def assert_equal(a: Any, b: Any) -> None:
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for (path, x), y in zip(
        jax.tree_util.tree_leaves_with_path(a), jax.tree.leaves(b), strict=True
    ):
        assert x.dtype == y.dtype, path
        if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
            assert jax.random.key_impl(x) == jax.random.key_impl(y)
            x, y = jax.random.key_data(x), jax.random.key_data(y)
        np.testing.assert_array_equal(x, y, err_msg=jax.tree_util.keystr(path))


@pytest.mark.slow
def test_resumed_run_equals_uninterrupted(run: Any, tmp_path: Path) -> None:
    whole = run(fresh(), slice(0, 8))
    assert int(whole.index.rebuilds) == 1 and int(whole.index.rehashed) > 0

    half = run(fresh(), slice(0, 3))
    checkpoint.save(tmp_path, half, step=3, extra={"offset": 3, "lr": 0.5, "name": "é"})
    restored, extra = checkpoint.restore(tmp_path, jax.eval_shape(fresh))  # type: ignore[misc]
    assert extra == {"offset": 3, "lr": 0.5, "name": "é"}
    assert_equal(restored, half)
    names = {jax.tree_util.keystr(p) for p, _ in jax.tree_util.tree_leaves_with_path(restored)}
    for part in (
        "params['output']",
        "mu['output']",
        "nu['embedding']",
        "tables.buckets",
        "rehash.next_step",
        "rebuild.interval",
        "index.key",
        ".key",
    ):
        assert any(name.endswith(part) for name in names), part
    assert_equal(run(restored, slice(3, 8)), whole)


def test_every_kind_of_leaf_survives(tmp_path: Path) -> None:
    state = {
        "empty": jnp.zeros((0, 3)),
        "none": None,
        "bool": jnp.array([True, False]),
        "int8": jnp.int8(-3),
        "bfloat16": jnp.array([1.5, -0.0], jnp.bfloat16),
        "nan": jnp.array([jnp.nan, jnp.inf, -0.0, 1e-45]),
        "keys": jax.random.split(jax.random.key(0), 3),
        "rbg": jax.random.key(1, impl="rbg"),
        "numpy": np.arange(3, dtype=np.int32),
        "odd/name.with'signs": (jnp.int32(1), [jnp.uint32(2**32 - 1)]),
    }
    checkpoint.save(tmp_path, state, step=0, extra={})
    like = jax.eval_shape(lambda: jax.tree.map(jnp.asarray, state))
    restored, _ = checkpoint.restore(tmp_path, like)  # type: ignore[misc]
    assert_equal(restored, state)
    assert np.signbit(np.asarray(restored["nan"])[2])


def test_restored_arrays_can_be_donated(tmp_path: Path) -> None:
    state = {"w": jnp.ones((1000, 64))}
    checkpoint.save(tmp_path, state, step=0, extra={})
    jax.tree.map(lambda x: x.delete(), state)
    restored, _ = checkpoint.restore(tmp_path, state)  # type: ignore[misc]
    at = restored["w"].unsafe_buffer_pointer()
    bump = jax.jit(lambda s: {"w": s["w"].at[0].add(1.0)}, donate_argnums=0)
    assert bump(restored)["w"].unsafe_buffer_pointer() == at


def test_large_arrays_go_block_by_block(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint, "_BLOCK", 1 << 12)
    rng = np.random.default_rng(0)
    words = rng.integers(0, 1 << 16, (1000, 8)).astype(np.uint16)  # signed zeros, NaNs and all
    state = {
        "half": jax.lax.bitcast_convert_type(jnp.asarray(words), jnp.bfloat16),
        "float": jnp.asarray(rng.normal(size=(129, 3, 5)).astype(np.float32)),
        "wide": jnp.asarray(rng.normal(size=(2, 9000)).astype(np.float32)),
        "long": jnp.arange(5000, dtype=jnp.int32),
        "small": jnp.ones(3),
    }
    read = []
    one_by_one = checkpoint._read_arrays
    monkeypatch.setattr(
        checkpoint, "_read_arrays", lambda *a: read.append(list(a[2])) or one_by_one(*a)
    )
    checkpoint.save(tmp_path, state, step=0, extra={})
    restored, _ = checkpoint.restore(tmp_path, state)  # type: ignore[misc]
    for name, array in state.items():
        assert restored[name].dtype == array.dtype
        assert np.asarray(restored[name]).tobytes() == np.asarray(array).tobytes(), name
    assert len([names for names in read if names[0].startswith("['half'] block")]) == 4
    assert set(read[0]) == {"['small']", "['wide']"}  # whole, all at once

    bump = jax.jit(lambda s: {"half": s["half"].at[0].set(0)}, donate_argnums=0)
    at = restored["half"].unsafe_buffer_pointer()
    assert bump({"half": restored["half"]})["half"].unsafe_buffer_pointer() == at


def test_nothing_saved(tmp_path: Path) -> None:
    assert checkpoint.restore(tmp_path, {"w": jnp.ones(1)}) is None
    assert checkpoint.restore(tmp_path / "missing", {"w": jnp.ones(1)}) is None


def test_the_last_saved_wins_and_old_ones_go(tmp_path: Path) -> None:
    for i, step in enumerate([10, 20, 20, 5]):
        checkpoint.save(tmp_path, {"w": jnp.full(2, float(i))}, step=step, extra={"i": i})
        restored, extra = checkpoint.restore(tmp_path, {"w": jnp.ones(2)})  # type: ignore[misc]
        assert extra == {"i": i} and restored["w"].tolist() == [i, i]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["000003_step_20", "000004_step_5"]


def test_saving_is_quiet(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    state = {"w": jnp.ones(2)}
    checkpoint.save(tmp_path, state, step=1, extra={})
    checkpoint.restore(tmp_path, state)
    out, err = capfd.readouterr()
    assert out == "" and err == ""


def test_what_does_not_fit_is_named_on_one_line(tmp_path: Path) -> None:
    state = fresh()
    checkpoint.save(tmp_path, state, step=0, extra={})

    def refused(like: Any, message: str) -> None:
        with pytest.raises(ValueError, match="doesn't fit") as error:
            checkpoint.restore(tmp_path, like)
        told = str(error.value)
        assert message in told and "\n" not in told
        assert told.endswith(
            "resume with the options and data it was saved under, or start in a new directory"
        )

    wider = {**state.params, "output": jnp.ones((300, 32))}
    refused(
        dataclasses.replace(state, params=wider),
        ".params['output']: float32[300,16] saved, float32[300,32] here; resume",
    )
    halves = {**state.params, "output_bias": jnp.ones(300, jnp.bfloat16)}
    refused(dataclasses.replace(state, params=halves), "float32[300] saved, bfloat16[300] here")
    refused(dataclasses.replace(state, index=None), "only in the checkpoint, and")
    sgd = optim.rowwise(optax.sgd(0.1, momentum=0.9))
    refused(
        dataclasses.replace(state, opt_state=sgd.init(state.params)), "not in the checkpoint, and"
    )
    refused(
        dataclasses.replace(state, key=jax.random.key(0, impl="rbg")),
        "key<fry>[] saved, key<rbg>[] here",
    )


@pytest.mark.parametrize(
    ("saved", "message"),
    [
        (None, "DIR doesn't fit: another program saved it; start in a new directory"),
        ({"a": 1, "b": 2, "data": "y"}, "DIR was saved with other data: resume with the same data"),
        (
            {"a": 1, "b": 3, "data": "x"},
            r"with other options \(b was 3, is 2\): resume with the same",
        ),
        ({"a": 1, "data": "x"}, "b was not there, is 2"),
        ({"a": 1, "b": 2, "c": None, "data": "x"}, "c was None, is not there"),
        ({"a": "long" * 99, "b": 2, "data": "x"}, "a was (long){15}…, is 1"),
    ],
)
def test_another_run_is_told_apart(saved: Any, message: str) -> None:
    here = {"a": 1, "b": 2, "data": "x"}
    checkpoint.check_same_run("DIR", dict(here), here)
    with pytest.raises(ValueError, match=message):
        checkpoint.check_same_run("DIR", saved, here)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"extra": {"a": np.float32(1)}}, TypeError, "extra is not JSON"),
        ({"state": {"w": 1.0}}, TypeError, r"state\['w'\] is a float"),
        ({"keep": 0}, ValueError, "keep = 0"),
        ({"step": -1}, ValueError, "step = -1"),
    ],
)
def test_bad_arguments(
    tmp_path: Path, arguments: dict[str, Any], error: type[Exception], message: str
) -> None:
    given = {"state": {"w": jnp.ones(1)}, "step": 0, "extra": {}, **arguments}
    with pytest.raises(error, match=message):
        checkpoint.save(tmp_path, given.pop("state"), **given)
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_checkpoint_is_named(tmp_path: Path) -> None:
    state = {"w": jnp.ones(1000)}
    path = checkpoint.save(tmp_path, state, step=4, extra={})
    for file in (path / "state").rglob("*"):
        if file.is_file():
            file.write_bytes(b"")
    with pytest.raises(ValueError, match=r"000001_step_4 is damaged .*delete it"):
        checkpoint.restore(tmp_path, state)


def test_without_orbax_the_error_names_the_cure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "orbax.checkpoint", None)
    with pytest.raises(ImportError, match=r"pip install 'sparse_jax\[examples\]'"):
        checkpoint.save(tmp_path, {"w": jnp.ones(1)}, step=0, extra={})


SAVE_IN_A_LOOP = """
import sys, jax.numpy as jnp
from sparse_jax.runtime import checkpoint
for i in range(1, 10**6):
    state = {"w": jnp.full((300, 1000), float(i)), "i": jnp.int32(i)}
    checkpoint.save(sys.argv[1], state, step=i, extra={"i": i})
    print(i, flush=True)
"""


@pytest.mark.slow
def test_killed_at_any_moment_a_whole_checkpoint_is_left(tmp_path: Path) -> None:
    like = {"w": jnp.ones((300, 1000)), "i": jnp.int32(0)}
    rng = np.random.default_rng(0)
    for turn in range(3):
        child = subprocess.Popen(
            [sys.executable, "-c", SAVE_IN_A_LOOP, str(tmp_path)],
            stdout=subprocess.PIPE,
            env=threads.environment(1),
        )
        assert child.stdout is not None
        last = 0
        try:
            for _ in range(3 + turn):
                started = time.monotonic()
                last = int(child.stdout.readline())
                one_save = time.monotonic() - started
            # While it runs, at moments spread over a save: what a kill there would leave.
            time.sleep(rng.random() * one_save)
        finally:
            child.send_signal(signal.SIGKILL)
            rest = child.stdout.read().split()
            child.wait()
            child.stdout.close()
        last = int(rest[-1]) if rest else last
        found = checkpoint.restore(tmp_path, like)
        assert found is not None
        state, extra = found
        # The last one reported, or the next if the kill came between its end and the report.
        assert extra["i"] in (last, last + 1)
        assert int(state["i"]) == extra["i"]
        assert bool(jnp.all(state["w"] == jnp.float32(extra["i"])))
    checkpoint.save(tmp_path, like, step=0, extra={})
    assert len(list(tmp_path.iterdir())) == 2  # nothing of what the killed left


def test_data_can_resume_in_the_middle_of_an_epoch() -> None:
    rest = list(data.batches(POINTS, 16, seed=0, start=3))
    for a, b in zip(synthetic.make_batches(POINTS, 16)[3:], rest, strict=True):
        jax.tree.map(np.testing.assert_array_equal, a, b)
