"""Processes that train one model together: what is whose, and how it comes together.

A label's weights in the wide part depend on no other label's, a tree on no other tree, a network on
neither. So labels, trees and the first network are dealt, and the model is that of one process, bit
for bit. All read the same points.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from sparse_jax.ops.label_tree import LabelTree
from sparse_jax.sharding import processes
from sparse_jax.sharding.gathering import gather_arrays
from sparse_jax.xmc import wide
from sparse_jax.xmc.network import Params
from sparse_jax.xmc.soft_labels import Weighted

Arrays = dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Crew:
    """Who shares the work; by default one process does all."""

    process: int = 0
    count: int = 1

    def owners(self, points: Weighted) -> np.ndarray:
        """The process of each label, int [N]: in turn by frequency, as pairs go with that."""
        frequency = np.bincount(points.points.label_ids, minlength=points.points.num_labels)
        owners = np.empty(frequency.size, np.int64)
        owners[np.argsort(-frequency, kind="stable")] = np.arange(frequency.size) % self.count
        return owners

    def own(self, points: Weighted, owners: np.ndarray) -> np.ndarray | None:
        """Weights of labels, 0 for others' labels: the same draws as one process's, less those."""
        if self.count == 1:
            return points.weights
        here = owners[points.points.label_ids] == self.process
        weights = np.float32(1) if points.weights is None else points.weights
        return np.where(here, weights, np.float32(0)).astype(np.float32)

    def network(self, number: int) -> int:
        """The process that trains a network: of the first one the last, of others the first."""
        return self.count - 1 if number == 0 else 0

    def tree(self, number: int, *, beside_network: bool) -> int:
        """The process that trains a tree: in turn, those without a network first."""
        free = self.count - 1 if beside_network and self.count > 1 else self.count
        return number % free

    def total(self, name: str, value: int) -> int:
        """The sum of what each process says."""
        return sum(processes.collect(name, value, timeout=processes.LATE))

    def has_ended(self, name: str, ended: bool) -> bool:
        """Whether the training of any process was ended early."""
        return any(processes.collect(name, ended, timeout=processes.LATE))


def join_wide(parts: Sequence[wide.WideModel], owners: np.ndarray) -> wide.WideModel:
    """One wide part of those of all processes.

    Args:
      parts: in the order of the processes, each with pairs of its own labels alone.
      owners: of `Crew.owners`.
    """
    if len(parts) == 1:
        return parts[0]
    features, count = parts[0].offsets.size - 1, owners.size
    lengths = [np.diff(np.asarray(part.offsets)) for part in parts]
    labels = [np.asarray(part.label_ids) for part in parts]
    keys = [
        np.repeat(np.arange(features), length) * count + label
        for length, label in zip(lengths, labels, strict=True)
    ]
    order = np.argsort(np.concatenate(keys), kind="stable")  # which merges ascending runs

    def pairs(name: str) -> jax.Array:
        return jnp.asarray(np.concatenate([np.asarray(getattr(p, name)) for p in parts])[order])

    def by_label(name: str) -> jax.Array:
        rows = np.stack([np.asarray(getattr(part, name)) for part in parts])
        return jnp.asarray(rows[owners, np.arange(count)])

    offsets = np.concatenate([[0], np.sum(lengths, axis=0).cumsum()]).astype(np.int32)
    return wide.WideModel(
        offsets=jnp.asarray(offsets),
        label_ids=pairs("label_ids"),
        weights=pairs("weights"),
        slots=pairs("slots"),
        bias=by_label("bias"),
        bias_slots=by_label("bias_slots"),
    )


class Parts(NamedTuple):
    """What a process has trained."""

    before: wide.WideModel  # the wide part before the held-out points
    linear: wide.WideModel  # and after
    trees: dict[int, tuple[LabelTree, float]]  # by number, with products of a pass
    network: tuple[Params, dict[str, Any]] | None = None  # the first one, and its costs


def bring_together(crew: Crew, parts: Parts, owners: np.ndarray) -> Parts | None:
    """The parts of all processes as one's, on the first; None on the others."""
    if crew.count == 1:
        return parts
    arrays = gather_arrays("trained parts", _pack(parts))
    if arrays is None:
        return None
    found = [_unpack(of_one) for of_one in arrays]
    networks = [one.network for one in found if one.network is not None]
    return Parts(
        join_wide([one.before for one in found], owners),
        join_wide([one.linear for one in found], owners),
        {number: tree for one in found for number, tree in one.trees.items()},
        networks[0] if networks else None,
    )


_WIDE = [field.name for field in dataclasses.fields(wide.WideModel)]
_TREE = [field.name for field in dataclasses.fields(LabelTree)]


def _pack(parts: Parts) -> Arrays:
    """Parts as named arrays; the pairs of both wide parts are the same."""
    arrays = {name: np.asarray(getattr(parts.linear, name)) for name in _WIDE}
    for name in ("weights", "slots", "bias", "bias_slots"):
        arrays[f"before/{name}"] = np.asarray(getattr(parts.before, name))
    for number, (tree, products) in parts.trees.items():
        arrays |= {f"tree/{number}/{name}": np.asarray(getattr(tree, name)) for name in _TREE}
        arrays[f"tree/{number}/products"] = np.asarray(products, np.float64)
    if parts.network is not None:
        params, costs = parts.network
        arrays |= {f"network/{name}": np.asarray(array) for name, array in params.items()}
        arrays["costs"] = np.frombuffer(json.dumps(costs).encode(), np.uint8)
    return arrays


def _unpack(arrays: Arrays) -> Parts:
    linear = wide.WideModel(**{name: jnp.asarray(arrays[name]) for name in _WIDE})
    early = {name: jnp.asarray(arrays.get(f"before/{name}", arrays[name])) for name in _WIDE}
    trees = {}
    for number in {int(name.split("/")[1]) for name in arrays if name.startswith("tree/")}:
        of_tree = {name: arrays[f"tree/{number}/{name}"] for name in (*_TREE, "products")}
        depth, products = int(of_tree.pop("depth")), float(of_tree.pop("products"))
        placed = {name: jnp.asarray(array) for name, array in of_tree.items()}
        trees[number] = LabelTree(**placed, depth=depth), products
    network = None
    if "costs" in arrays:
        prefix = "network/"
        params = {
            name.removeprefix(prefix): jnp.asarray(array)
            for name, array in arrays.items()
            if name.startswith(prefix)
        }
        network = params, json.loads(arrays["costs"].tobytes())
    return Parts(wide.WideModel(**early), linear, trees, network)
