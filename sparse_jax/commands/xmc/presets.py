"""The wide part, trees and networks together, sized by the data: `train_xmc.py --preset`."""

from __future__ import annotations

import argparse
import dataclasses
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from sparse_jax import data
from sparse_jax.commands.resuming import check_same_args, fixed_args
from sparse_jax.commands.xmc.run import Run
from sparse_jax.ops.label_tree import LabelTree
from sparse_jax.runtime import checkpoint
from sparse_jax.runtime.interrupt import Interrupt
from sparse_jax.runtime.machine import peak_rss_bytes, sha256
from sparse_jax.xmc import inference, label_tree, metrics, network, wide

HELD_OUT = 2000  # at most, and a twentieth of the points: they choose the weights
MARGIN = 0.002  # of P@1 + P@5 on those: trees that bring no more are left out
TREE_WEIGHT = 0.2  # unless chosen among these
TREE_WEIGHTS = (0.0, TREE_WEIGHT, 0.5)
ALONE = 1e6  # a weight beside which networks say nothing
LINEAR_WEIGHTS = (ALONE, 0.0, 1.0, 2.0, 4.0, 8.0)  # held-out points can't tell finer ones apart
LITTLE = 4.0  # a weight beside which a network says so little that a second one changes nothing
WIDE_BATCH = 256
WIDE_RATE = 0.3
NETWORKS = 2  # that differ by their first weights; in float32 only while they learn


@dataclasses.dataclass(frozen=True)
class Preset:
    """How much to spend."""

    visits: int  # of examples by each network, in at most 20 epochs; 0 does without
    pair_visits: float  # of weights by the wide part
    wide_epochs: tuple[int, int]  # fewest and most
    min_share: float  # of `wide.init`
    most_trees: int
    tree_labels: int  # labels of points that trees may learn, which is what their time goes with

    def steps(self, num_points: int, batch_size: int) -> int:
        """Steps of a network."""
        return -(-min(self.visits, 20 * num_points) // batch_size)

    def epochs(self, train: data.XmcData, model: wide.WideModel) -> int:
        """Epochs of the wide part, which short texts take fast and need more of."""
        visits = np.diff(model.offsets)[train.feature_ids].sum(dtype=np.int64)
        return int(np.clip(round(self.pair_visits / max(visits, 1)), *self.wide_epochs))

    def trees(self, train: data.XmcData) -> int:
        """How many label trees; one alone errs too much of its own."""
        count = min(self.most_trees, self.tree_labels // max(train.label_ids.size, 1))
        return count if count > 1 else 0


PRESETS = {
    "fast": Preset(0, 0.8e9, (2, 5), 0.003, most_trees=3, tree_labels=800_000),
    "accurate": Preset(225_000, 1.85e9, (3, 5), 0.002, most_trees=4, tree_labels=1_700_000),
}


@dataclasses.dataclass
class Ensemble:
    """What is trained: score(l | x) = logit + weight · (wide score + tree_weight · log tree score).

    Logit and tree score are means. Without networks it is what stands in brackets.
    """

    wide: wide.WideModel
    trees: list[LabelTree] = dataclasses.field(default_factory=list)
    networks: list[network.Params] = dataclasses.field(default_factory=list)
    weight: float = 1.0
    tree_weight: float = TREE_WEIGHT

    def predict(self, points: data.XmcData) -> np.ndarray:
        """The best five labels of each point, int32 [n, 5]."""
        return self.predict_at(points, [(self.weight, self.tree_weight)])[:, 0]

    def predict_at(self, points: data.XmcData, weights: list[tuple[float, float]]) -> np.ndarray:
        """The same at each of some pairs (weight, tree_weight), int32 [n, pairs, 5]."""
        at = np.array(weights, np.float32)
        parts = self.wide, self.trees, self.networks
        found = inference.predict_all(points, lambda b: _top5(parts, at, b), k=5 * len(at))
        return found.reshape(-1, len(at), 5)

    def choose_tree_weight(self, held_out: data.XmcData) -> None:
        """Takes the best of TREE_WEIGHTS; drops the trees where they bring nothing."""
        pairs = [(1.0, at) for at in TREE_WEIGHTS]
        self.tree_weight = TREE_WEIGHTS[self._best(held_out, pairs, MARGIN)]
        if not self.tree_weight:
            self.trees = []

    def choose_weight(self, held_out: data.XmcData) -> None:
        """Takes the best of LINEAR_WEIGHTS; drops the networks where they bring nothing."""
        pairs = [(at, self.tree_weight) for at in LINEAR_WEIGHTS]
        self.weight = LINEAR_WEIGHTS[self._best(held_out, pairs, 0)]
        if self.weight == ALONE:
            self.networks, self.weight = [], 1.0

    def _best(self, held_out: data.XmcData, pairs: list[tuple[float, float]], margin: float) -> int:
        """Which pair has the best P@1 + P@5; the first, where no other is better by the margin."""
        found = self.predict_at(held_out, pairs)
        inverse = np.ones(held_out.num_labels)
        totals = []
        for place in range(len(pairs)):
            scores = metrics.evaluate(
                found[:, place], held_out.label_offsets, held_out.label_ids, inverse
            )
            totals.append(scores["p@1"] + scores["p@5"] - margin * (place > 0))
        return int(np.argmax(totals))

    def named(self) -> dict[str, jax.Array]:
        """All weights by name."""
        named = {"wide.weights": self.wide.weights, "wide.bias": self.wide.bias}
        for i, tree in enumerate(self.trees):
            named |= {f"{i}.weights": tree.weights, f"{i}.bias": tree.bias}
        for i, params in enumerate(self.networks):
            named |= {f"network {i}.{name}": x for name, x in params.items()}
        return named

    def model_bytes(self) -> int:
        """Of the arrays that prediction reads."""
        read = (self.networks, self.trees, self.wide.offsets, self.wide.label_ids,
                self.wide.weights, self.wide.bias)  # fmt: skip
        return sum(leaf.nbytes for leaf in jax.tree.leaves(read))


@jax.jit
def _top5(
    parts: tuple[wide.WideModel, list[LabelTree], list[network.Params]],
    weights: jax.Array,
    batch: data.Batch,
) -> jax.Array:
    """The best five at each pair of weights, one after the other: int32 [B, 5 · pairs]."""
    model, trees, networks = parts
    linear = wide.scores(model, batch)
    by_trees = logits = jnp.zeros((1, 1), jnp.float32)
    if trees:
        mean = sum(label_tree.scores(tree, batch) for tree in trees) / jnp.float32(len(trees))
        by_trees = jnp.log(mean + jnp.float32(1e-6))  # of labels out of every beam: far off
    if networks:
        logits = sum(_logits(params, batch) for params in networks) / jnp.float32(len(networks))
    best = []
    for weight, tree_weight in weights:
        total = logits + weight * (linear + tree_weight * by_trees)
        # Behind the barrier XLA:CPU keeps its fast top_k; sliced in place it would sort all.
        best.append(jax.lax.optimization_barrier(jax.lax.top_k(total, 5))[1].astype(jnp.int32))
    return jnp.concatenate(best, axis=1)


def _logits(params: network.Params, batch: data.Batch) -> jax.Array:
    hidden = network.encode(params, batch)
    return hidden @ params["output"].astype(hidden.dtype).T + params["output_bias"][None, :]


def _halved(params: network.Params) -> network.Params:
    """The two big tables in bfloat16, which predicts as well in half the bytes."""
    return {k: x.astype(jnp.bfloat16) if x.ndim == 2 else x for k, x in params.items()}


class WideRun:
    """The wide part on its way: epochs of `wide.step` with a rate that falls to zero."""

    def __init__(self, args: argparse.Namespace, train: data.XmcData, preset: Preset) -> None:
        self.args, self.train = args, train
        self.model = wide.init(train, min_share=preset.min_share)
        self.epochs = preset.epochs(train, self.model)
        self.epoch = 0  # how many are done

    def resume(self) -> None:
        """Takes up the last epoch saved, if there is one."""
        found = checkpoint.restore(f"{self.args.checkpoint}/wide", self.model)
        if found is not None:
            model, extra = found
            check_same_args(self.args, extra["args"])
            self.model, self.epoch = model, extra["epoch"]
            print(f"the wide part resumed at epoch {self.epoch} of {self.epochs}")

    def save(self) -> None:
        """Writes a checkpoint, if asked for."""
        if self.args.checkpoint:
            extra = {"args": fixed_args(self.args), "epoch": self.epoch}
            directory = f"{self.args.checkpoint}/wide"
            checkpoint.save(directory, self.model, step=self.epoch, extra=extra, keep=1)

    def fit(
        self,
        stop: Interrupt,
        watch: Callable[[wide.WideModel], None] | None = None,
        looks: int = 0,
    ) -> None:
        """Trains until done or told to stop; saves after each epoch.

        Args:
          stop: of the whole job.
          watch: called as often as `looks` says, at last in the end.
          looks: how often.
        """
        step = jax.jit(wide.step, donate_argnums=0)
        seed = self.args.seed
        capacity = data.plan_capacity(self.train, WIDE_BATCH, seed=seed, epochs=self.epochs)
        per_epoch = data.num_batches(self.train.num_points, WIDE_BATCH)
        total, done = per_epoch * self.epochs, per_epoch * self.epoch
        with tqdm(total=total, initial=done, unit="step", desc="wide", disable=None,
                  dynamic_ncols=True) as bar, stop:  # fmt: skip
            while self.epoch < self.epochs:
                batches = data.batches(
                    self.train, WIDE_BATCH, seed=seed, epoch=self.epoch, capacity=capacity
                )
                for batch in data.prefetch(batches, 8):
                    if stop.ended:
                        bar.write(f"stopped in epoch {self.epoch + 1} of the wide part")
                        return
                    rate = np.float32(WIDE_RATE * (1 - done / total))
                    self.model, loss = step(self.model, batch, rate)
                    done += 1
                    if watch and done * looks // total > (done - 1) * looks // total:
                        watch(self.model)
                    bar.update()
                    if done % 25 == 0:
                        bar.set_postfix_str(f"loss {float(loss):.3f}")
                self.epoch += 1
                self.save()


def fit_trees(train: data.XmcData, count: int, seed: int, stop: Interrupt) -> list[LabelTree]:
    """Trees that differ by their seed, two at a time: much of the work is one thread's."""

    def fit(own_seed: int) -> LabelTree | None:
        return None if stop.ended else label_tree.fit(train, seed=own_seed)

    with ThreadPoolExecutor(2) as pool:
        fitted = pool.map(fit, range(10 * seed, 10 * seed + count))
        trees = tqdm(fitted, total=count, unit="tree", desc="trees", disable=None)
        return [tree for tree in trees if tree is not None]


def _train(
    args: argparse.Namespace, preset: Preset, train: data.XmcData, stop: Interrupt
) -> tuple[Ensemble, Run | None]:
    """The wide part, trees, networks. Held-out points weigh the parts, or leave them out.

    Without a network nothing is held out: all points teach more than a choice of the trees' weight
    brings.
    """
    order = np.random.default_rng(args.seed).permutation(train.num_points)
    count = min(HELD_OUT, -(-train.num_points // 20)) if preset.visits else 0
    held_out, rest = train.take(np.sort(order[:count])), train.take(np.sort(order[count:]))
    linear = WideRun(args, rest, preset)
    if args.resume:
        linear.resume()
    linear.fit(stop)
    ensemble = Ensemble(linear.model)
    ensemble.trees = fit_trees(rest, preset.trees(rest), args.seed, stop)
    if stop.ended or not preset.visits:
        return ensemble, None
    if ensemble.trees:
        ensemble.choose_tree_weight(held_out)
    one = None
    for number in range(NETWORKS):
        own = argparse.Namespace(**vars(args) | {"max_seconds": None})
        if args.checkpoint:
            own.checkpoint = f"{args.checkpoint}/network{number}"
        steps = preset.steps(rest.num_points, args.batch_size)
        one = Run(own, rest, steps=steps) if one is None else one.again(own, number)
        if args.resume:
            one.resume()
        one.fit(stop=stop)
        ensemble.networks.append(_halved(one.state.params))
        ensemble.choose_weight(held_out)
        if stop.ended or not ensemble.networks or ensemble.weight > LITTLE:
            break
    return ensemble, one


def run(
    args: argparse.Namespace, train: data.XmcData, test: data.XmcData
) -> tuple[list[dict[str, float]], dict[str, Any]]:
    """Trains a preset: the last network's history, and the figures on the whole test set."""
    started = time.perf_counter()
    with Interrupt(args.max_seconds) as stop:
        ensemble, one = _train(args, PRESETS[args.preset], train, stop)
    train_seconds = time.perf_counter() - started
    ensemble.predict(test)  # compiles, so that the second time tells the speed
    started = time.perf_counter()
    predicted = ensemble.predict(test)
    seconds = time.perf_counter() - started
    inverse = metrics.inverse_propensities(train.label_offsets, train.label_ids, train.num_labels)
    scores = metrics.evaluate(predicted, test.label_offsets, test.label_ids, inverse)
    own = {
        "preset": args.preset,
        "seed": args.seed,
        "train_seconds": train_seconds,  # all of it, compiling and the choice of weights too
        "wide_weight": ensemble.weight,
        "wide_pairs": int(ensemble.wide.weights.size),
        "trees": len(ensemble.trees),
        "tree_weight": ensemble.tree_weight,
        "networks": len(ensemble.networks),
        "predict_us": 1e6 * seconds / max(test.num_points, 1),
        "model_bytes": ensemble.model_bytes(),
        "peak_rss_bytes": peak_rss_bytes(),
        "weights_sha256": sha256(ensemble.named()),
    }
    if one is None:
        return [], scores | own
    return one.history, one.costs() | scores | own
