"""How long a step takes with more rows: python examples/flat_in_rows.py 100000 2000000

An embedding and a head of N rows each, of width 16, with Adam: 128 points read 8 rows each of the
one and score 512 of the other. N = 2,000,000 takes 1.6 GB.
"""

import functools
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

import sparse_jax as sj
from sparse_jax import layers

BATCH, IDS, WIDTH, CLASSES = 128, 8, 16, 512
tx = sj.rowwise(optax.adam(1e-2))


def loss(params, ids, labels, key):
    h = layers.look_up(params["embed"], ids).mean(axis=1) @ params["trunk"]
    examples, num_rows = jnp.arange(BATCH, dtype=jnp.int32), len(params["bias"])
    chosen = layers.active.shared_set(key, labels, size=CLASSES, num_rows=num_rows)
    head = (layers.look_up(params[n], chosen.ids, distinct=True) for n in ("weights", "bias"))
    return layers.softmax_head(h, *head, examples, chosen.positions)[0].mean()


@functools.partial(jax.jit, donate_argnums=0)
def step(state, *batch):
    value, grads = layers.value_and_grad(loss)(state[0], *batch)
    updates, slots = tx.update(grads, state[1], state[0])
    return (optax.apply_updates(state[0], updates), slots), value


class Model(nnx.Module):
    def __init__(self, num_rows, rngs):
        self.embed = sj.nn.Embed(num_rows, WIDTH, rngs=rngs)
        self.trunk = nnx.Linear(WIDTH, WIDTH, rngs=rngs)
        self.head = sj.nn.SparseHead(WIDTH, num_rows, rngs=rngs)

    def loss(self, ids, labels, key):
        h = self.trunk(self.embed(ids).mean(axis=1))
        return self.head.loss(h, labels, key=key, size=CLASSES).mean()


@nnx.jit(donate_argnums=(0, 1))
def nnx_step(model, optimizer, *batch):
    value, grads = sj.nn.value_and_grad(Model.loss)(model, *batch)
    optimizer.update(model, grads)
    return value


def main(*sizes, steps=100):
    for num_rows in map(int, sizes):
        params = layers.sparse_dense_init(jax.random.key(0), WIDTH, num_rows)
        params |= {"embed": params["weights"] * 2, "trunk": jnp.eye(WIDTH)}
        state, seconds = (params, tx.init(params)), {"plain JAX": [], "Flax nnx": []}
        optimizer = nnx.Optimizer(model := Model(num_rows, nnx.Rngs(0)), tx, wrt=nnx.Param)
        for turn in range(steps):
            rng = np.random.default_rng(turn)
            draw = functools.partial(rng.integers, 0, num_rows, dtype=np.int32)
            batch = draw((BATCH, IDS)), draw(BATCH), jax.random.key(turn)
            for name, times in seconds.items():
                start = time.perf_counter()
                if name == "Flax nnx":
                    value = nnx_step(model, optimizer, *batch)
                else:
                    state, value = step(state, *batch)
                float(value)
                times.append(time.perf_counter() - start)
        shown = ", ".join(f"{n} {1e3 * np.median(times):.2f} ms" for n, times in seconds.items())
        print(f"{num_rows:,} rows: {shown}")


if __name__ == "__main__":
    main(*sys.argv[1:])
