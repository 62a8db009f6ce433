"""What `bench_step.py` compares with: dense and sampled softmax in JAX, PyTorch and TensorFlow.

Each peer is a class with `prepare()`, untimed, `step() -> loss`, timed, and `report()`. All train
the network of ours (embedding bag, ReLU, output layer, softmax over the labels and the sampled
classes) on the same batches.
"""

from __future__ import annotations

import functools
from typing import Any

import bench_data
import numpy as np

from sparse_jax.runtime.machine import peak_rss_bytes


class Peer:
    """What all peers share: batches in arrays, and what a step costs."""

    optimizes_all_rows = True

    def __init__(self, shape: bench_data.Shape) -> None:
        self.shape = shape
        self.done = 0
        self.batches = bench_data.make_batches(shape, 4)
        self.features, self.labels = bench_data.most_distinct(self.batches)
        self.rng = np.random.default_rng(1)

    def prepare(self) -> None:
        """The next batch, with its classes, in the arrays the step takes: no part of its time."""
        batch = self.batches[self.done % len(self.batches)]
        self.done += 1
        self.arguments = self.convert(batch)

    def convert(self, batch: Any) -> Any:
        """The arguments of a step."""
        raise NotImplementedError

    def sampled(self, batch: Any) -> tuple[np.ndarray, np.ndarray]:
        """`active` classes: the batch's labels, then uniform ones; and each label's place there."""
        labels = batch.label_ids[batch.label_ids >= 0]
        distinct, places = np.unique(labels, return_inverse=True)
        drawn = self.rng.integers(0, self.shape.num_labels, 2 * self.shape.active)
        new = np.setdiff1d(drawn, distinct)
        self.rng.shuffle(new)
        room = max(0, self.shape.active - distinct.size)
        classes = np.concatenate([distinct, new[:room]])
        return classes.astype(np.int32), places.astype(np.int32)

    def report(self) -> dict[str, Any]:
        """Multiply-adds and bytes of a step, by the same rules as ours."""
        shape, width = self.shape, self.shape.hidden
        dense = "dense" in type(self).__name__.lower()
        active = shape.num_labels if dense else max(shape.active, self.labels)
        touched = shape.parameters
        if not self.optimizes_all_rows:
            touched = (self.features + active) * width
        entries = shape.batch_size * shape.features
        madds = 2.0 * entries * width + (3 * width + 4.0) * shape.batch_size * active
        logits = 4.0 * shape.batch_size * active
        return {
            "madds": madds + 10.0 * touched,
            "bytes": 5 * logits + 4.0 * (7 * touched + 2 * active * width),
            "peak_rss_bytes": peak_rss_bytes(),
            "active": active,
        }


class JaxPeer(Peer):
    """Optax's Adam over all rows, jitted and donated; `sample` picks the classes."""

    sample = False

    def __init__(self, shape: bench_data.Shape) -> None:
        import jax
        import jax.numpy as jnp
        import optax

        super().__init__(shape)
        tx = optax.adam(shape.learning_rate)

        def init(key: Any) -> Any:
            one, two = jax.random.split(key)
            scale = shape.hidden**-0.5
            params = {
                "embedding": scale * jax.random.normal(one, (shape.num_features, shape.hidden)),
                "hidden_bias": jnp.zeros(shape.hidden),
                "output": scale * jax.random.normal(two, (shape.num_labels, shape.hidden)),
                "output_bias": jnp.zeros(shape.num_labels),
            }
            return params, tx.init(params)

        def loss_of(params: Any, batch: Any, classes: Any, places: Any) -> Any:
            picked = params["embedding"].at[batch.feature_ids].get(mode="promise_in_bounds")
            bag = jax.ops.segment_sum(
                picked * batch.feature_values[:, None],
                batch.feature_rows,
                num_segments=shape.batch_size,
                indices_are_sorted=True,
            )
            hidden = jax.nn.relu(bag + params["hidden_bias"])
            weights, bias = params["output"], params["output_bias"]
            if self.sample:
                weights = weights.at[classes].get(mode="promise_in_bounds", unique_indices=True)
                bias = bias.at[classes].get(mode="promise_in_bounds", unique_indices=True)
            logits = hidden @ weights.T + bias
            at_labels = logits[batch.label_rows, places]
            return jnp.mean(jax.nn.logsumexp(logits, axis=1)) - jnp.mean(at_labels)

        def step(state: Any, batch: Any, classes: Any, places: Any) -> Any:
            params, slots = state
            loss, grads = jax.value_and_grad(loss_of)(params, batch, classes, places)
            updates, slots = tx.update(grads, slots, params)
            return (optax.apply_updates(params, updates), slots), loss

        self.state = jax.jit(init)(jax.random.key(0))
        self.run = jax.jit(step, donate_argnums=0)
        # Every batch of the benchmark is full: no padding that a peer would have to mask.
        self.batches = [_unpadded(batch, shape) for batch in self.batches]

    def convert(self, batch: Any) -> Any:
        """On the device."""
        import jax

        classes, places = self.sampled(batch) if self.sample else (None, batch.label_ids)
        return jax.device_put((batch, classes, places))

    def step(self) -> float:
        """Runs one step; returns its loss."""
        self.state, loss = self.run(self.state, *self.arguments)
        return float(loss)


class JaxDense(JaxPeer):
    """The full softmax."""


class JaxSampled(JaxPeer):
    """Sampled softmax, its gradient made dense by `take`, and Adam over all rows."""

    sample = True


class TorchPeer(Peer):
    """PyTorch's EmbeddingBag, and Adam or SparseAdam."""

    sample = False
    sparse = False

    def __init__(self, shape: bench_data.Shape) -> None:
        import torch

        super().__init__(shape)
        self.torch = torch
        torch.manual_seed(0)
        make = functools.partial(torch.nn.EmbeddingBag, mode="sum", sparse=self.sparse)
        self.bag = make(shape.num_features, shape.hidden)
        self.output = torch.nn.Embedding(shape.num_labels, shape.hidden, sparse=self.sparse)
        self.output_bias = torch.nn.Embedding(shape.num_labels, 1, sparse=self.sparse)
        self.hidden_bias = torch.nn.Parameter(torch.zeros(shape.hidden))
        with torch.no_grad():
            for table in (self.bag.weight, self.output.weight):
                table.mul_(shape.hidden**-0.5)
            self.output_bias.weight.zero_()
        tables = [self.bag.weight, self.output.weight, self.output_bias.weight]
        rate = shape.learning_rate
        self.optimizers = (
            [torch.optim.SparseAdam(tables, lr=rate), torch.optim.Adam([self.hidden_bias], lr=rate)]
            if self.sparse
            else [torch.optim.Adam([*tables, self.hidden_bias], lr=rate)]
        )
        self.batches = [_unpadded(batch, shape) for batch in self.batches]

    def convert(self, batch: Any) -> Any:
        """Tensors, ids as int64."""
        torch = self.torch
        classes, places = self.sampled(batch) if self.sample else (batch.label_ids, batch.label_ids)
        ids = [
            torch.from_numpy(x).long()
            for x in (batch.feature_ids, batch.label_rows, classes, places)
        ]
        return *ids, torch.from_numpy(batch.feature_values)

    def step(self) -> float:
        """Runs one step; returns its loss."""
        torch, shape = self.torch, self.shape
        features, rows, classes, places, values = self.arguments
        offsets = torch.arange(0, features.numel(), shape.features)
        bag = self.bag(features, offsets, per_sample_weights=values)
        hidden = torch.relu(bag + self.hidden_bias)
        if self.sample:
            weights, bias = self.output(classes), self.output_bias(classes)[:, 0]
        else:
            weights, bias = self.output.weight, self.output_bias.weight[:, 0]
        logits = torch.addmm(bias, hidden, weights.t())
        loss = torch.logsumexp(logits, 1).mean() - logits[rows, places].mean()
        for optimizer in self.optimizers:
            optimizer.zero_grad(set_to_none=True)
        loss.backward()
        for optimizer in self.optimizers:
            optimizer.step()
        return float(loss.detach())


class TorchDense(TorchPeer):
    """The full softmax, and Adam over all rows."""


class TorchSampled(TorchPeer):
    """Sampled softmax with sparse gradients and SparseAdam: the strongest peer."""

    sample, sparse, optimizes_all_rows = True, True, False


class TensorflowSampled(Peer):
    """The sampled classes in a tf.function, and Keras's Adam over all rows."""

    def __init__(self, shape: bench_data.Shape) -> None:
        import tensorflow as tf

        super().__init__(shape)
        self.tf = tf
        init = tf.random.Generator.from_seed(0)
        scale = shape.hidden**-0.5
        self.embedding = tf.Variable(init.normal((shape.num_features, shape.hidden)) * scale)
        self.hidden_bias = tf.Variable(tf.zeros(shape.hidden))
        self.output = tf.Variable(init.normal((shape.num_labels, shape.hidden)) * scale)
        self.output_bias = tf.Variable(tf.zeros(shape.num_labels))
        self.variables = [self.embedding, self.hidden_bias, self.output, self.output_bias]
        self.optimizer = tf.keras.optimizers.Adam(shape.learning_rate)
        self.optimizer.build(self.variables)
        self.batches = [_unpadded(batch, shape) for batch in self.batches]

        @tf.function(reduce_retracing=True)
        def run(ids: Any, values: Any, segments: Any, rows: Any, classes: Any, places: Any) -> Any:
            with tf.GradientTape() as tape:
                picked = tf.gather(self.embedding, ids) * values[:, None]
                bag = tf.math.segment_sum(picked, segments)
                hidden = tf.nn.relu(bag + self.hidden_bias)
                weights = tf.gather(self.output, classes)
                bias = tf.gather(self.output_bias, classes)
                logits = tf.matmul(hidden, weights, transpose_b=True) + bias
                at_labels = tf.gather_nd(logits, tf.stack([rows, places], axis=1))
                whole = tf.reduce_mean(tf.reduce_logsumexp(logits, axis=1))
                loss = whole - tf.reduce_mean(at_labels)
            grads = tape.gradient(loss, self.variables)
            self.optimizer.apply_gradients(zip(grads, self.variables, strict=True))
            return loss

        self.run = run

    def convert(self, batch: Any) -> Any:
        """Tensors."""
        classes, places = self.sampled(batch)
        arrays = (
            batch.feature_ids,
            batch.feature_values,
            batch.feature_rows,
            batch.label_rows,
            classes,
            places,
        )
        return [self.tf.constant(x) for x in arrays]

    def step(self) -> float:
        """Runs one step; returns its loss."""
        return float(self.run(*self.arguments))


def _unpadded(batch: Any, shape: bench_data.Shape) -> Any:
    """The batch without its padding; each point of the benchmark has equally many entries."""
    import dataclasses

    features, labels = shape.batch_size * shape.features, shape.batch_size * shape.labels
    return dataclasses.replace(
        batch,
        feature_ids=batch.feature_ids[:features],
        feature_values=batch.feature_values[:features],
        feature_rows=batch.feature_rows[:features],
        label_ids=batch.label_ids[:labels],
        label_rows=batch.label_rows[:labels],
    )


PEERS: dict[str, tuple[str | None, type[Peer]]] = {
    "jax_dense": (None, JaxDense),
    "jax_sampled": (None, JaxSampled),
    "torch_dense": ("torch", TorchDense),
    "torch_sampled_sparse_adam": ("torch", TorchSampled),
    "tensorflow_sampled": ("tensorflow", TensorflowSampled),
    "jax_dense_cuda": ("jax_plugins", JaxDense),  # the namespace that `jax[cuda13]` installs into
    "jax_sampled_cuda": ("jax_plugins", JaxSampled),
}
"""By name: the package a peer needs, and the peer; those that end in `_cuda` run on the GPU."""
