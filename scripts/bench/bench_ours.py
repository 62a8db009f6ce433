"""Our training step for `bench_step.py`: the whole of it, and stage by stage."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any

import bench_data
import jax
import jax.numpy as jnp
import numpy as np

from sparse_jax import layers
from sparse_jax.layers import active
from sparse_jax.optim import fused
from sparse_jax.retrieval import hashing, index, schedules, tables
from sparse_jax.retrieval.hashing import transforms
from sparse_jax.rows import RowSparse, take_rows, unique_ids
from sparse_jax.runtime.machine import peak_rss_bytes
from sparse_jax.xmc import accounting, network
from sparse_jax.xmc import step as training

FLOAT = 4  # bytes
TABLES, CAPACITY, CANDIDATES = 16, 64, 8
REBUILD_TABLES = 50


def bits_for(rows: int) -> int:
    """K, the fewest bits that leave buckets three quarters full or less on average.

    With the same bits for all N, buckets overflow and turn away rows from some N on.
    """
    return max(1, math.ceil(math.log2(rows / (0.75 * CAPACITY))))


def rehash_every(rows: int) -> int:
    """Steps between two re-hashes: as many as leave about a quarter of the rows out of date."""
    return max(50, round(50 * rows / 670_091))


def median_ms(call: Callable[[], Any], repeats: int = 7) -> float:
    """Milliseconds of a call, the first one apart."""
    jax.block_until_ready(call())
    seconds = []
    for _ in range(repeats):
        started = time.perf_counter()
        jax.block_until_ready(call())
        seconds.append(time.perf_counter() - started)
    return 1e3 * float(np.median(seconds))


class Ours:
    """`strategy` and `mode` as in `training.Config`, weights of `dtype`; Adam on touched rows."""

    def __init__(
        self,
        shape: bench_data.Shape,
        strategy: Any,
        mode: Any,
        dtype: str = "float32",
        precision: str = "float32",
    ) -> None:
        self.shape = shape
        host = bench_data.make_batches(shape, 4)
        features, _ = bench_data.most_distinct(host)
        self.batches = [jax.tree.map(jnp.asarray, batch) for batch in host]
        per_example = mode == "per_example"
        self.num_bits = bits_for(shape.num_labels)
        self.rehash_every = rehash_every(shape.num_labels)
        self.config = training.Config(
            active=max(8, shape.active // shape.batch_size) * 8 if per_example else shape.active,
            strategy=strategy,
            mode=mode,
            precision=precision,
            distinct_features=features,
            max_labels=shape.labels,
            index=index.IndexConfig(
                num_tables=TABLES,
                num_bits=self.num_bits,
                capacity=CAPACITY,
                max_candidates=CANDIDATES,
                rehash=schedules.fixed(self.rehash_every),
                rebuild=schedules.never(),
            ),
        )
        self.tx = fused.adam(shape.learning_rate)

        def start(key: jax.Array) -> training.TrainState:
            params = network.init_params(
                key,
                num_features=shape.num_features,
                num_labels=shape.num_labels,
                hidden=shape.hidden,
                dtype=jnp.dtype(dtype),
            )
            return training.init(key, params, self.tx, config=self.config)

        self.state = jax.jit(start)(jax.random.key(0))
        make = training.make_step(self.tx, config=self.config)
        self.run = jax.jit(make, donate_argnums=0)
        maintain = training.make_maintain(config=self.config)
        self.maintain = jax.jit(maintain, donate_argnums=0)
        self.done = 0

    def prepare(self) -> None:
        """Nothing: the batches are on the device already."""

    def step(self) -> float:
        """Runs one step; returns its loss."""
        batch = self.batches[self.done % len(self.batches)]
        self.state, self.seen = self.run(self.state, batch)
        self.done += 1
        return float(jax.block_until_ready(self.seen.loss))

    def report(self) -> dict[str, Any]:
        """What the last step touched, its multiply-adds, and the bytes it has to move."""
        shape, seen = self.shape, self.seen
        per_example = self.config.mode == "per_example"
        uses_tables = self.state.index is not None
        counts = accounting.StepCounts(
            batch_size=shape.batch_size,
            hidden=shape.hidden,
            num_features=shape.num_features,
            num_labels=shape.num_labels,
            feature_entries=float(seen.feature_entries),
            touched_features=float(seen.touched_features),
            active=self.config.active,
            touched_labels=float(seen.touched_labels),
            hash_madds=shape.hidden * TABLES * self.num_bits if uses_tables else 0,
            bucket_slots=TABLES * CAPACITY if uses_tables else 0,
            rehashed_rows=float(seen.touched_labels) if uses_tables else 0.0,
        )
        madds = accounting.sparse_step(counts)
        weight = self.state.params["output"].itemsize
        own = bytes_moved(shape, counts, per_example=per_example, weight=weight)
        state = sum(x.nbytes for x in jax.tree.leaves(self.state) if hasattr(x, "nbytes"))
        return {
            "madds": madds["total"],
            "madds_by_stage": madds,
            "dense_madds": accounting.dense_step(counts)["total"],
            "bytes": sum(own.values()),
            "bytes_by_stage": own,
            "state_bytes": state,
            "peak_rss_bytes": peak_rss_bytes(),
            "active": self.config.active,
            "dropped_labels": int(seen.dropped_labels),
            "touched_features": int(seen.touched_features),
            "touched_labels": int(seen.touched_labels),
        }

    def stages(self) -> dict[str, float]:
        """Milliseconds of each stage of the shared step with tables, each compiled on its own."""
        shape, config, batch = self.shape, self.config, self.batches[0]
        params, lsh = self.state.params, self.state.index
        assert lsh is not None and config.mode == "shared"
        unique = jax.jit(
            lambda ids: unique_ids(ids, num_rows=shape.num_features, size=config.distinct_features)
        )
        features, _, _ = unique(batch.feature_ids)

        def bag(params: Any, batch: Any) -> Any:
            _, positions, _ = unique(batch.feature_ids)
            bags = network.bag_features(params["embedding"], batch.feature_ids, batch)
            hidden, pull = jax.vjp(network.activate, bags, params["hidden_bias"])

            def pull_rows(grad: Any) -> Any:
                grad_bags, grad_bias = pull(grad)
                size = config.distinct_features
                return network.bag_gradient(grad_bags, positions, batch, size=size), grad_bias

            return hidden, pull_rows

        forward_bag = jax.jit(lambda *args: bag(*args)[0])
        both_bags = jax.jit(lambda grad, *args: bag(*args)[1](grad))
        hidden = forward_bag(params, batch)
        codes_of = jax.jit(
            lambda lsh, hidden: hashing.hash(
                lsh.hash_params,
                transforms.queries(lsh.transform, hidden - lsh.centre[None, :]),
            )
        )
        codes = codes_of(lsh, hidden)
        query = jax.jit(lambda t, codes: tables.query(t, codes, max_candidates=CANDIDATES))
        found = query(lsh.tables, codes)
        choose = jax.jit(
            lambda key, labels, ids, counts: active.shared_set(
                key, labels, ids, counts, size=config.active, num_rows=shape.num_labels
            )
        )
        key = jax.random.key(1)
        chosen = choose(key, batch.label_ids, found.ids, found.counts)

        def loss(hidden: Any, weights: Any, bias: Any, chosen: Any, batch: Any) -> Any:
            losses, _ = layers.softmax_head(
                hidden,
                weights,
                bias,
                batch.label_rows,
                chosen.positions,
                mask=chosen.mask,
                precision=config.precision,
            )
            return jnp.sum(losses)

        take = jax.jit(
            lambda params, ids: (
                take_rows(params["output"], ids),
                take_rows(params["output_bias"], ids),
            )
        )
        weights, bias = take(params, chosen.ids)
        forward = jax.jit(loss)
        both = jax.jit(jax.grad(loss, argnums=(0, 1, 2)))
        grads = both(hidden, weights, bias, chosen, batch)

        ms = {
            "bag": median_ms(lambda: forward_bag(params, batch)),
            "codes": median_ms(lambda: codes_of(lsh, hidden)),
            "query": median_ms(lambda: query(lsh.tables, codes)),
            "active_set": median_ms(lambda: choose(key, batch.label_ids, found.ids, found.counts)),
            "forward": median_ms(lambda: forward(hidden, weights, bias, chosen, batch))
            + median_ms(lambda: take(params, chosen.ids)),
        }
        whole = median_ms(lambda: both(hidden, weights, bias, chosen, batch))
        bags = median_ms(lambda: both_bags(grads[0], params, batch))
        took = median_ms(lambda: take(params, chosen.ids))
        ms["backward"] = max(0.0, whole + took - ms["forward"]) + max(0.0, bags - ms["bag"])
        row_grads, _ = both_bags(grads[0], params, batch)
        ms["optimizer"] = self._optimizer_ms(features, row_grads, chosen.ids, grads)
        ms["rehash"] = self._rehash_ms() / self.rehash_every
        return ms

    def _optimizer_ms(self, features: Any, row_grads: Any, outputs: Any, grads: Any) -> float:
        shape = self.shape

        def move(params: Any, opt_state: Any, rows: Any, weights: Any, bias: Any) -> Any:
            # Copied, since in a step the gradients are made here and not kept.
            sparse = {
                "embedding": RowSparse(
                    features, rows + 0.0, num_rows=shape.num_features, distinct=True
                ),
                "hidden_bias": jnp.zeros(shape.hidden),
                "output": RowSparse(
                    outputs, weights + 0.0, num_rows=shape.num_labels, distinct=True
                ),
                "output_bias": RowSparse(
                    outputs, bias + 0.0, num_rows=shape.num_labels, distinct=True
                ),
            }
            return fused.step(self.tx, sparse, opt_state, params, jax.random.key(0))

        apply = jax.jit(move, donate_argnums=(0, 1))
        held = [self.state.params, self.state.opt_state]

        def call() -> Any:
            held[:] = apply(*held, row_grads, grads[1], grads[2])
            return held[0]["hidden_bias"]

        ms = median_ms(call)
        self.state = training.TrainState(
            self.state.step, held[0], held[1], self.state.index, self.state.key
        )
        return ms

    def _rehash_ms(self) -> float:
        """One re-hash of what `rehash_every` steps have touched."""
        seconds = []
        for _ in range(2):
            start = int(self.state.step)
            while int(self.state.step) < start + self.rehash_every:
                self.step()
            began = time.perf_counter()
            self.state = jax.block_until_ready(self.maintain(self.state))
            seconds.append(time.perf_counter() - began)
        return 1e3 * seconds[-1]  # the first one compiled

    def rebuild_ms(self) -> float:
        """Codes and tables of all rows, anew, with REBUILD_TABLES tables."""
        config = index.IndexConfig(
            num_tables=REBUILD_TABLES,
            num_bits=self.num_bits,
            capacity=CAPACITY,
            rebuild=schedules.fixed(1),
            rehash=schedules.never(),
        )
        weights, bias = self.state.params["output"], self.state.params["output_bias"]
        lsh = index.init(jax.random.key(3), weights, bias, config=config)
        anew = jax.jit(
            lambda lsh, step, *rows: index.maintain(lsh, step, *rows, config=config),
            donate_argnums=0,
        )
        seconds = []
        for turn in range(4):
            began = time.perf_counter()
            lsh = jax.block_until_ready(anew(lsh, jnp.int32(turn + 1), weights, bias))
            seconds.append(time.perf_counter() - began)
        assert int(lsh.rebuilds) == 4
        return 1e3 * float(np.median(seconds[1:]))


def bytes_moved(
    shape: bench_data.Shape, counts: accounting.StepCounts, *, per_example: bool, weight: int
) -> dict[str, float]:
    """Bytes that a step has to move between memory and the processor, each read and write once.

    `weight` is the bytes of a stored one.
    """
    c, row, stored = counts, FLOAT * shape.hidden, weight * shape.hidden
    labels = c.touched_labels
    # Logits are written by the product, turned into the gradient, and read by two products.
    logits = FLOAT * shape.batch_size * c.active
    return {
        "bag": 12.0 * c.feature_entries + stored * c.touched_features + row * shape.batch_size,
        "query": float(FLOAT * shape.batch_size * c.bucket_slots),
        "forward": 3.0 * logits
        + (row * shape.batch_size * c.active if per_example else stored * labels),
        "backward": 2.0 * logits + row * (labels + c.touched_features + 2 * shape.batch_size),
        # Gradient read; weights and two slots read and written.
        "optimizer": (5.0 * row + 2.0 * stored) * (c.touched_features + labels),
    }
