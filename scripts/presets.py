"""Networks and the wide part together, with sizes chosen from the data: `train_xmc.py --preset`."""

from __future__ import annotations

import argparse
import copy
import dataclasses
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from report import peak_rss_bytes, sha256
from tqdm import tqdm
from xmc_run import Run

from sparse_jax import data, inference, metrics, network, wide

HELD_OUT = 2000  # at most, and a twentieth of the points: they choose the wide part's weight
WIDE_ALONE = 1e6  # a weight beside which a network says nothing
WIDE_WEIGHTS = (0.0, 1.0, 2.0, 4.0, 8.0, 16.0, 64.0, WIDE_ALONE)
WIDE_BATCH = 256
WIDE_RATE = 0.3
SHORTLIST = 64  # labels that the first network and the wide part leave to the other networks


@dataclasses.dataclass(frozen=True)
class Preset:
    """How much to spend."""

    networks: int  # trained apart and averaged: their errors differ
    visits: int  # of examples by each network, in at most 20 epochs
    pair_visits: float  # of weights by the wide part, in 2 to 5 epochs
    min_share: float  # of `wide.init`

    def steps(self, num_points: int, batch_size: int) -> int:
        """Steps of a network."""
        return -(-min(self.visits, 20 * num_points) // batch_size)

    def wide_epochs(self, train: data.XmcData, model: wide.WideModel) -> int:
        """Epochs of the wide part, which short texts take fast and need more of."""
        visits = np.diff(model.offsets)[train.feature_ids].sum(dtype=np.int64)
        return int(np.clip(round(self.pair_visits / max(visits, 1)), 2, 5))


PRESETS = {
    "fast": Preset(networks=1, visits=225_000, pair_visits=0.8e9, min_share=0.003),
    "accurate": Preset(networks=3, visits=225_000, pair_visits=1.85e9, min_share=0.002),
}


@dataclasses.dataclass
class Ensemble:
    """What is trained: score(l | x) = mean of the networks' logits + weight · wide score.

    Without networks it is the wide score.
    """

    networks: list[network.Params]
    wide: wide.WideModel
    weight: float = 0.0

    def predict(self, points: data.XmcData) -> np.ndarray:
        """The best five labels of each point, int32 [n, 5]."""
        return self.predict_at(points, (self.weight,))[:, 0]

    def predict_at(self, points: data.XmcData, weights: Sequence[float]) -> np.ndarray:
        """The same at each of some weights of the wide part, int32 [n, weights, 5]."""
        at = np.array(weights, np.float32)
        found = inference.predict_all(
            points, lambda b: _top5(self.networks, self.wide, at, b), k=5 * at.size
        )
        return found.reshape(-1, at.size, 5)

    def named(self) -> network.Params:
        """All weights by name."""
        named = {"wide.weights": self.wide.weights, "wide.bias": self.wide.bias}
        for i, params in enumerate(self.networks):
            named |= {f"{i}.{name}": array for name, array in params.items()}
        return named

    def model_bytes(self) -> int:
        """Of the arrays that prediction reads."""
        read = (self.networks, self.wide.offsets, self.wide.label_ids, self.wide.weights,
                self.wide.bias)  # fmt: skip
        return sum(leaf.nbytes for leaf in jax.tree.leaves(read))


@jax.jit
def _top5(
    networks: list[network.Params], model: wide.WideModel, weights: jax.Array, batch: data.Batch
) -> jax.Array:
    """The best five at each weight, one after the other: int32 [B, 5 · weights]."""
    linear = wide.scores(model, batch)
    if not networks:
        return jnp.concatenate([_top_k(linear, 5)] * weights.size, axis=1)
    hiddens = [network.encode(params, batch) for params in networks]
    output = networks[0]["output"].astype(hiddens[0].dtype)
    logits = hiddens[0] @ output.T + networks[0]["output_bias"][None, :]
    best = [_best5(networks, hiddens, logits, linear, weight) for weight in weights]
    return jnp.concatenate(best, axis=1)


def _best5(
    networks: list[network.Params],
    hiddens: list[jax.Array],
    logits: jax.Array,
    linear: jax.Array,
    weight: jax.Array,
) -> jax.Array:
    """Networks after the first one score only what it and the wide part leave: int32 [B, 5]."""
    sums = logits + weight * linear
    if len(networks) == 1:
        return _top_k(sums, 5)
    ids = _top_k(sums, min(SHORTLIST, sums.shape[1]))
    total = jnp.take_along_axis(logits, ids, axis=1)
    for params, hidden in zip(networks[1:], hiddens[1:], strict=True):
        rows = params["output"].at[ids].get(mode="promise_in_bounds")
        total += jnp.einsum("bmd,bd->bm", rows.astype(hidden.dtype), hidden)
        total += params["output_bias"].at[ids].get(mode="promise_in_bounds")
    total /= jnp.float32(len(networks))
    places = _top_k(total + weight * jnp.take_along_axis(linear, ids, axis=1), 5)
    return jnp.take_along_axis(ids, places, axis=1)


def _top_k(scores: jax.Array, k: int) -> jax.Array:
    """Behind the barrier XLA:CPU keeps its fast top_k; sliced in place it would sort all."""
    return jax.lax.optimization_barrier(jax.lax.top_k(scores, k))[1].astype(jnp.int32)


def fit_wide(
    train: data.XmcData,
    preset: Preset,
    *,
    seed: int,
    watch: Callable[[wide.WideModel], None] | None = None,
    looks: int = 0,
) -> wide.WideModel:
    """Epochs of `wide.step` with a rate that falls to zero; the last of the looks is at the end."""
    model = wide.init(train, min_share=preset.min_share)
    step = jax.jit(wide.step, donate_argnums=0)
    epochs = preset.wide_epochs(train, model)
    capacity = data.plan_capacity(train, WIDE_BATCH, seed=seed, epochs=epochs)
    total = data.num_batches(train.num_points, WIDE_BATCH) * epochs
    done = 0
    with tqdm(total=total, unit="step", desc="wide", disable=None, dynamic_ncols=True) as bar:
        for epoch in range(epochs):
            batches = data.batches(train, WIDE_BATCH, seed=seed, epoch=epoch, capacity=capacity)
            for batch in data.prefetch(batches, 8):
                model, loss = step(model, batch, np.float32(WIDE_RATE * (1 - done / total)))
                done += 1
                if watch and done * looks // total > (done - 1) * looks // total:
                    watch(model)
                bar.update()
                if done % 25 == 0:
                    bar.set_postfix_str(f"loss {float(loss):.3f}")
    return model


def choose_weight(ensemble: Ensemble, held_out: data.XmcData) -> float:
    """The weight of the wide part with the best P@1 + P@5 on points kept from training."""
    found = ensemble.predict_at(held_out, WIDE_WEIGHTS)
    inverse = np.ones(held_out.num_labels)

    def total(place: int) -> float:
        scores = metrics.evaluate(
            found[:, place], held_out.label_offsets, held_out.label_ids, inverse
        )
        return scores["p@1"] + scores["p@5"]

    return WIDE_WEIGHTS[max(range(len(WIDE_WEIGHTS)), key=total)]


def _capacity(
    train: data.XmcData, batch_size: int, seeds: Sequence[int], steps: int
) -> data.Capacity:
    """Enough for the batches of all seeds, so that one program trains every network."""
    epochs = max(1, -(-steps // max(data.num_batches(train.num_points, batch_size), 1)))
    plans = [data.plan_capacity(train, batch_size, seed=seed, epochs=epochs) for seed in seeds]
    return data.Capacity(*np.max([dataclasses.astuple(plan) for plan in plans], axis=0).tolist())


def run(
    args: argparse.Namespace, train: data.XmcData, test: data.XmcData
) -> tuple[list[dict[str, float]], dict[str, Any]]:
    """Trains a preset: the last network's history, and the figures on the whole test set."""
    preset = PRESETS[args.preset]
    started = time.perf_counter()
    order = np.random.default_rng(args.seed).permutation(train.num_points)
    count = min(HELD_OUT, train.num_points // 20)
    held_out, rest = train.take(np.sort(order[:count])), train.take(np.sort(order[count:]))
    ensemble = Ensemble([], fit_wide(rest, preset, seed=args.seed))
    runs: list[Run] = []
    seeds = [args.seed * preset.networks + member for member in range(preset.networks)]
    steps = preset.steps(rest.num_points, args.batch_size)
    capacity = _capacity(rest, args.batch_size, seeds, steps)
    for seed in seeds:
        member_args = copy.copy(args)
        member_args.seed = seed
        like = runs[0] if runs else None
        runs.append(Run(member_args, rest, steps=steps, capacity=capacity, like=like))
        runs[-1].fit()
        ensemble.networks.append(runs[-1].state.params)
        if len(runs) in (1, preset.networks):
            ensemble.weight = choose_weight(ensemble, held_out)
        if ensemble.weight == WIDE_ALONE:  # networks bring nothing here: neither will the next
            ensemble.networks, ensemble.weight = [], 1.0
            break
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
        "train_seconds": train_seconds,  # all of it: compiling, both parts, and the weight
        "compile_seconds": sum(one.compile_seconds for one in runs),
        "steps": sum(one.step for one in runs),
        "networks": len(ensemble.networks),
        "wide_weight": ensemble.weight,
        "wide_pairs": int(ensemble.wide.weights.size),
        "predict_us": 1e6 * seconds / max(test.num_points, 1),
        "model_bytes": ensemble.model_bytes(),
        "peak_rss_bytes": peak_rss_bytes(),
        "weights_sha256": sha256(ensemble.named()),
    }
    return runs[-1].history, runs[-1].costs() | scores | own
