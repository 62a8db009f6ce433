"""An embedding of a million words in Equinox: python examples/embedding_equinox.py

A point is a bag of 16 words, six of which tell its topic: word w speaks for topic w mod 20. A step
reads and updates the rows of its batch's words; .9 of topics are right after 500 steps.
"""

import sys
import time

import equinox as eqx
import jax
import numpy as np
import optax

import sparse_jax as sj
from sparse_jax import layers

BATCH, WORDS, WIDTH, TOPICS = 128, 16, 32, 20
tx = sj.rowwise(optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(1e-2, weight_decay=1e-4)))


class Net(eqx.Module):
    embed: jax.Array
    out: eqx.nn.MLP

    def __call__(self, words):  # int32 [WORDS], of one point
        return self.out(layers.look_up(self.embed, words).mean(axis=0))


def net_loss(net, words, topics):
    logits = jax.vmap(net)(words)
    return optax.softmax_cross_entropy_with_integer_labels(logits, topics).mean()


@eqx.filter_jit(donate="all-except-first")
def step(batch, net, state):
    value, grads = layers.value_and_grad(net_loss)(net, *batch)
    arrays, rest = eqx.partition(net, eqx.is_inexact_array)
    updates, state = tx.update(grads, state, arrays)
    return eqx.combine(optax.apply_updates(arrays, updates), rest), state, value


predict = eqx.filter_jit(lambda net, words: jax.vmap(net)(words).argmax(axis=1))


def draw(rng, num_words):
    """Words of every topic, common ones oftener; the first six are of the point's own."""
    words = (num_words ** rng.random((BATCH, WORDS))).astype(np.int32) - 1
    topics = rng.integers(0, TOPICS, BATCH, dtype=np.int32)
    words[:, :6] += topics[:, None] - words[:, :6] % TOPICS
    return np.clip(words, 0, num_words - 1), topics


def main(num_words=1_000_000, steps=500):
    rng, num_words = np.random.default_rng(0), int(num_words)
    keys = jax.random.split(jax.random.key(0))
    table = 0.1 * jax.random.normal(keys[0], (num_words, WIDTH))
    net = Net(table, eqx.nn.MLP(WIDTH, TOPICS, 64, 1, key=keys[1]))
    state, times = tx.init(eqx.filter(net, eqx.is_inexact_array)), []
    for _ in range(int(steps)):
        batch, start = draw(rng, num_words), time.perf_counter()
        net, state, value = step(batch, net, state)
        loss = float(value)
        times.append(time.perf_counter() - start)
    tests = [draw(rng, num_words) for _ in range(8)]
    right = np.mean([np.mean(predict(net, words) == topics) for words, topics in tests])
    print(f"{num_words:,} words: loss {loss:.3f}, {right:.3f} right, ", end="")
    print(f"{1e3 * np.median(times):.1f} ms a step")


if __name__ == "__main__":
    main(*sys.argv[1:])
