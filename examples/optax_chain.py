"""An Optax chain of one's own on rows: python examples/optax_chain.py

A table by AdamW with clipping and a warm-up, the dense part by Muon, which needs whole matrices;
gradients of four small batches added up; and the moving average of the weights, row by row.
"""

import functools
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax

import sparse_jax as sj
from sparse_jax import layers
from sparse_jax.optim import average, tree

PARTS, BATCH, WIDTH, DECAY = 4, 256, 16, 0.99
rate = optax.warmup_cosine_decay_schedule(0.0, 2e-2, 20, 400)
by_rows = sj.rowwise(optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(rate)))
tx = optax.partition(
    {"rows": by_rows, "dense": optax.contrib.muon(5e-3)}, {"embed": "rows", "trunk": "dense"}
)


def loss(params, pairs, closeness):
    """Squared error of a bilinear score of two words."""
    left, right = jnp.moveaxis(layers.look_up(params["embed"], pairs), 1, 0)
    scores = jnp.sum((left @ params["trunk"]) * right, axis=1)
    return jnp.mean(jnp.square(scores - closeness))


@functools.partial(jax.jit, donate_argnums=(0, 1, 2))
def step(params, state, mean, pairs, closeness):  # [PARTS, BATCH, 2] and [PARTS, BATCH]
    def part(_, batch):
        return None, layers.value_and_grad(loss)(params, *batch)

    _, (values, grads) = jax.lax.scan(part, None, (pairs, closeness))
    grads = tree.scale(tree.total(grads), 1 / PARTS)  # RowSparse where a table is
    updates, state = tx.update(grads, state, params)
    mean = average.ema_update(mean, params, updates, decay=DECAY)
    return optax.apply_updates(params, updates), state, mean, values.mean()


def draw(rng, num_words, count):
    """Pairs of words; two are close if they are of the same kind, modulo 8."""
    pairs = (num_words ** rng.random((count, 2))).astype(np.int32) - 1
    return pairs, (pairs[:, 0] % 8 == pairs[:, 1] % 8).astype(np.float32)


def main(num_words=10_000, steps=400):
    rng, num_words = np.random.default_rng(0), int(num_words)
    table = 0.2 * jax.random.normal(jax.random.key(0), (num_words, WIDTH))
    params = {"embed": table, "trunk": jnp.eye(WIDTH)}
    state, mean = tx.init(params), average.ema_init(params)
    for _ in range(int(steps)):
        pairs, closeness = draw(rng, num_words, PARTS * BATCH)
        given = pairs.reshape(PARTS, BATCH, 2), closeness.reshape(PARTS, BATCH)
        params, state, mean, _ = step(params, state, mean, *given)
    tests = draw(np.random.default_rng(1), num_words, 4096)
    averaged = average.ema_read(mean, params, decay=DECAY)
    last, smooth = (float(jax.jit(loss)(p, *tests)) for p in (params, averaged))
    print(f"squared error {last:.4f}, of averaged weights {smooth:.4f}; ", end="")
    print(f"of a constant {tests[1].var():.4f}")


if __name__ == "__main__":
    main(*sys.argv[1:])
