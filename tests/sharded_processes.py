"""What `tests/sharding/test_processes.py` starts in one, two and three processes of 6 shards.

    sparse-jax launch -n 2 -- python sharded_processes.py DIR

Process 0 prints two lines of JSON: what the checks of `sharded_checks` raised, of three processes
alone, and digests of a state that was trained, saved in DIR, and read from there.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
import sharded_checks
import sharded_frame
import sharded_training
import synthetic

from sparse_jax import sharding as sh
from sparse_jax.optim import fused
from sparse_jax.sharding import processes, saves
from sparse_jax.xmc import sharded_samples, sharded_step

SHARDS = 6


def digest(state: sharded_step.State) -> str:
    return synthetic.digest(jax.tree.map(processes.whole, state))


def train_and_save(directory: str) -> dict[str, Any]:
    """Digests of a state after an epoch, of the one saved before by others, and of its own save."""
    mesh, given, tx = sh.mesh(), sharded_training.config(SHARDS), fused.adam(1e-2)
    state = sharded_step.init(tx, mesh, config=given)
    lies = sharded_step.dealings(tx, given)
    before = saves.restore(directory, state, lies, mesh)
    step = sharded_step.make_step(tx, mesh, config=given)
    here = [n for n, d in enumerate(mesh.devices.flat) if d.process_index == jax.process_index()]
    losses = []
    for pieces in sharded_training.batches(SHARDS):
        batch = sharded_step.place_batches([pieces[n] for n in here], mesh)
        state, seen = step(state, batch)
        losses.append(float(seen.loss))
    number = 1 + (saves.last_step(directory) or 0)
    saves.save(directory, state, lies, step=number, extra={"losses": losses})
    after = saves.restore(directory, state, lies, mesh)
    assert after is not None and after.extra == {"losses": losses}
    # On machines that share no folder each keeps the rows of its own shards.
    own = f"{directory}-{jax.process_count()}-{jax.process_index()}"
    saves.save(own, state, lies, step=number, extra={})
    assert len(list(Path(own).glob("*/shard-*"))) == SHARDS // jax.process_count()
    alone = saves.restore(own, state, lies, mesh)
    assert alone is not None and digest(alone.state) == digest(state)
    return {
        "trained": digest(state),
        "losses": losses,
        "found": None if before is None else digest(before.state),
        "restored": digest(after.state),
    }


def held_out() -> str:
    """Digest of the points that are held out of all shards' shares, and told to process 0."""
    points, ends = sharded_training.POINTS, (1, 1, 60, 60, 79, sharded_training.POINTS.num_points)
    counts = np.diff(ends, prepend=0).tolist()
    rows = sharded_samples.of_shares(sharded_samples.held_out(sum(counts), seed=0), counts)
    whole = np.concatenate(
        [part + end - n for part, end, n in zip(rows, ends, counts, strict=True)]
    )
    mesh = sh.mesh()
    shares = [
        points.take(rows[shard] + ends[shard] - counts[shard])
        for shard in sharded_samples.own_shards(mesh)
    ]
    found = sharded_samples.gather(shares, mesh)
    assert (found is None) == (jax.process_index() > 0)
    if found is None:
        return ""
    assert whole.size == found.num_points == 5 and sum(part.size > 0 for part in rows) == 3
    expected = points.take(whole)
    for name in ("feature_offsets", "feature_ids", "feature_values", "label_offsets", "label_ids"):
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name))
    return synthetic.digest([found.feature_values, found.label_ids])


def check_what_is_said() -> None:
    """Of processes that differ, and of one that does not answer."""
    own, count = jax.process_index(), jax.process_count()
    assert processes.collect("large", 2**40 + own) == [2**40 + n for n in range(count)]
    processes.agree("colour", {"of": "table", "is": [1, 2]})
    with pytest.raises(ValueError, match=r"colour = is 1 on process 1, is 0 on process 0: must"):
        processes.agree("colour", {"of": "table", "is": own})
    with pytest.raises(ValueError, match=r"shard_rows = 8 on process 1, 7 on process 0"):
        sh.shard_rows(np.zeros((7 + own, 2), np.float32), sh.mesh())
    with pytest.raises(ValueError, match="shards = 4: must be 6, the devices of all processes"):
        sh.mesh(4)
    if own == 0:
        with pytest.raises(RuntimeError, match=rf"process 1 of {count} did not tell its 'late'"):
            processes.collect("late", None, timeout=1)
    processes.barrier("the end")


if __name__ == "__main__":
    with sh.hard_exit():
        sharded_frame.start(SHARDS)
        if jax.process_count() == 3:
            check_what_is_said()
            sharded_frame.main(sharded_checks.CHECKS, [])
        held = held_out()
        print(json.dumps(train_and_save(sys.argv[1]) | {"held": held}), flush=True)
