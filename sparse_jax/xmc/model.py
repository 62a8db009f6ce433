"""A trained classifier: all that prediction needs, in one frozen pytree.

    score(l | x) = logit(l | x) + weight · (wide(l | x) + tree_weight · log mean tree(l | x)
                                            + near weight · share of near points(l | x))

Logit and tree score are means over the networks and trees there are; a part that is missing adds
nothing. What is static, such as the labels' names, lies in `About`, which compares by content so
that `jit` doesn't compile anew for an equal model.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from sparse_jax.ops.label_tree import LabelTree
from sparse_jax.ops.mach import Buckets
from sparse_jax.ops.neighbours import Neighbours
from sparse_jax.xmc.memory import Memory
from sparse_jax.xmc.network import Params
from sparse_jax.xmc.wide import UNSEEN, WideModel


@dataclasses.dataclass(frozen=True, eq=False)
class About:
    """What a model is, apart from its arrays: JSON values, compared by content."""

    num_features: int
    num_labels: int
    preset: str
    seed: int
    label_names: tuple[str, ...] | None = None  # [N], in order of id
    feature_names: tuple[str, ...] | None = None  # [F]; a text's words are looked up in them
    notes: dict[str, Any] = dataclasses.field(default_factory=dict)  # how it was made, for people

    @functools.cached_property
    def digest(self) -> str:
        """SHA-256 of all fields."""
        return hashlib.sha256(json.dumps(dataclasses.asdict(self)).encode()).hexdigest()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, About) and (self is other or self.digest == other.digest)

    def __hash__(self) -> int:
        return hash(self.digest)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Mix:
    """How the parts are summed, and what a sum is worth as a probability."""

    weight: jax.Array  # float32 [], of the linear parts beside the networks
    tree_weight: jax.Array  # float32 [], of the trees beside the wide part
    curve: jax.Array  # float32 [3], from scores to chances: see `calibration`


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, repr=False)
class Model:
    """A classifier over N labels and F features. Make one with `xmc.fit` or `xmc.load`."""

    idf: jax.Array | None  # float32 [F]: TF-IDF weights of counts; None takes values as they are
    wide: WideModel
    by_bias: jax.Array  # int32 [N], labels by descending bias of the wide part, then by id
    trees: tuple[LabelTree, ...]
    encoders: tuple[Params, ...]  # of T networks: "embedding" [F, d] and "hidden_bias" [d]
    output: jax.Array  # [N, T·d], their output rows side by side; [0, 0] without networks
    output_bias: jax.Array  # float32 [N], the mean of theirs; [0]
    mix: Mix
    memory: Memory  # some training points, for `xmc.update`
    about: About = dataclasses.field(metadata={"static": True})
    neighbours: Neighbours | None = None  # where held-out points say that they help
    buckets: Buckets | None = dataclasses.field(default=None, metadata={"static": True})
    # How labels share the output rows, of which there are R · B then, and no linear part.

    def __repr__(self) -> str:
        parts = f"{len(self.trees)} trees, {len(self.encoders)} networks"
        return f"<xmc.Model of {self.num_labels:,} labels, {self.num_features:,} features: {parts}>"

    @property
    def num_labels(self) -> int:
        """N."""
        return self.about.num_labels

    @property
    def num_features(self) -> int:
        """F."""
        return self.about.num_features

    def nbytes(self) -> int:
        """Bytes of the arrays that prediction reads; Adagrad's slots are left out."""
        wide = (self.wide.offsets, self.wide.label_ids, self.wide.weights, self.wide.bias)
        networks = (self.encoders, self.output, self.output_bias)
        read = (wide, self.trees, self.neighbours, networks)
        return sum(leaf.nbytes for leaf in jax.tree.leaves(read))


_Parts = tuple[tuple[Params, ...], jax.Array, jax.Array]


def network_parts(networks: tuple[Params, ...]) -> _Parts:
    """Networks as `Model` holds them: (encoders, output, output_bias).

    Tables are stored in bfloat16, which predicts as well in half the bytes.
    """
    if not networks:
        return (), jnp.zeros((0, 0), jnp.bfloat16), jnp.zeros(0, jnp.float32)
    encoders = tuple(
        {"embedding": p["embedding"].astype(jnp.bfloat16), "hidden_bias": p["hidden_bias"]}
        for p in networks
    )
    output = jnp.concatenate([p["output"].astype(jnp.bfloat16) for p in networks], axis=1)
    bias = sum(p["output_bias"] for p in networks) / jnp.float32(len(networks))
    return encoders, output, jnp.asarray(bias)


def over_all(parts: _Parts, labels: np.ndarray | None, num_labels: int) -> _Parts:
    """(encoders, output, output_bias) over N labels, of networks that were trained on some.

    Args:
      parts: of `network_parts`, for m labels.
      labels: int [m], which they are; None for all.
      num_labels: N.
    """
    if labels is None:
        return parts
    encoders, output, bias = parts
    rows = np.zeros((num_labels, output.shape[1]), output.dtype)
    rows[labels] = np.asarray(output)
    biases = np.full(num_labels, UNSEEN, np.float32)
    biases[labels] = np.asarray(bias)
    return encoders, jnp.asarray(rows), jnp.asarray(biases)
