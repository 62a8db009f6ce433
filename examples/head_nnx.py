"""A head of 200,000 classes in Flax nnx: python examples/head_nnx.py

A step scores the labels of its batch and 1,024 classes drawn uniformly, and updates no others. How
often a class comes falls with its number, as words do: P@1 is .70 after 1,000 steps of 2 ms.
"""

import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

import sparse_jax as sj

BATCH, INPUTS, WIDTH, SIZE = 256, 32, 64, 1024
tx = sj.rowwise(optax.chain(optax.clip_by_global_norm(1.0), optax.adam(5e-3)))


class Classifier(nnx.Module):
    def __init__(self, num_classes, rngs):
        self.first = nnx.Linear(INPUTS, WIDTH, rngs=rngs)
        self.head = sj.nn.SparseHead(WIDTH, num_classes, rngs=rngs)

    def hidden(self, x):
        return jax.nn.relu(self.first(x))

    def loss(self, x, labels, key):
        return self.head.loss(self.hidden(x), labels, key=key, size=SIZE).mean()


@nnx.jit(donate_argnums=(0, 1))
def step(model, optimizer, x, labels, key):
    value, grads = sj.nn.value_and_grad(Classifier.loss)(model, x, labels, key)
    optimizer.update(model, grads)
    return value


@nnx.jit
def predict(model, x):  # of all classes
    return model.head(model.hidden(x)).argmax(axis=1)


def draw(rng, means):
    """Points near the means of their classes; class c comes about 1/c as often as the first."""
    labels = (len(means) ** rng.random(BATCH)).astype(np.int32) - 1
    noise = rng.normal(size=(BATCH, INPUTS)).astype(np.float32)
    return means[labels] + 0.3 * noise, labels


def main(num_classes=200_000, steps=1000):
    rng = np.random.default_rng(0)
    means = rng.normal(size=(int(num_classes), INPUTS)).astype(np.float32)
    model = Classifier(len(means), nnx.Rngs(0))
    optimizer = nnx.Optimizer(model, tx, wrt=nnx.Param)
    times = []
    for key in jax.random.split(jax.random.key(0), int(steps)):
        x, labels = draw(rng, means)
        start = time.perf_counter()
        loss = float(step(model, optimizer, x, labels, key))
        times.append(time.perf_counter() - start)
    tests = [draw(rng, means) for _ in range(4)]
    right = np.mean([jnp.mean(predict(model, x) == labels) for x, labels in tests])
    print(f"{len(means):,} classes: loss {loss:.3f}, P@1 {right:.3f}, ", end="")
    print(f"{1e3 * np.median(times):.1f} ms a step")


if __name__ == "__main__":
    main(*sys.argv[1:])
