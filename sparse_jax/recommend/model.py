"""A trained recommender: all that prediction and `update` need.

    score(j | h) = e(h) · w_j + b_j + weight · Σ_k decay^k · pair(h_k → j)

h_k is the item k events ago, and e(h) an encoder's summary of the history. What pairs there are
lies by the item that comes first, so a user's time depends on what their items point to. A part
that is missing adds nothing; without an encoder b is the items' log popularity, so small that it
orders only what no pair speaks for.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any, NamedTuple

import numpy as np

from sparse_jax.data.histories import Histories
from sparse_jax.text import Rows, Vectorizer


class Pairs(NamedTuple):
    """Weights from an item to others, by the first."""

    offsets: np.ndarray  # int32 [N + 1]: those of item i from offsets[i] to offsets[i + 1]
    items: np.ndarray  # int32 [E], ascending within an item
    weights: np.ndarray  # float32 [E]


class Mix(NamedTuple):
    """How the parts are summed; chosen on held-out events."""

    weight: float  # of the pairs beside the encoder
    decay: float  # of what an item says, with each event since
    closed: float  # of the closed form's weights beside those of transitions


class Strength(NamedTuple):
    """How much an item of few or no events borrows by its text; chosen on held-out events."""

    gain: float  # of pairs to it beside those to other items
    near: float  # of a lender beside what its pairs point to
    shift: float  # of an encoder's bias of an item of no events


class Texts(NamedTuple):
    """Texts of the items, as features."""

    vectorizer: Vectorizer
    rows: Rows  # of N items; no features where there is no text
    strength: Strength


@dataclasses.dataclass(frozen=True)
class Shape:
    """Sizes of an encoder; hashable."""

    width: int = 64
    blocks: int = 1
    heads: int = 2
    length: int = 20  # most recent events that it reads


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Model:
    """A recommender of N items. Make one with `recommend.fit` or `recommend.load`."""

    counts: Pairs  # how often one item comes before another, summed over distances
    closed: Pairs | None  # of the item-item closed form
    pairs: Pairs  # what prediction reads: both of these, scaled and mixed
    popularity: np.ndarray  # float32 [N], events of each item
    encoders: tuple[dict[str, Any], ...]  # T trees of arrays
    output: np.ndarray  # float32 [N, T·d], their rows of items side by side; [N, 0] without
    bias: np.ndarray  # float32 [N]
    mix: Mix
    shape: Shape
    window: int  # events between two items of a transition, at most
    recent: Histories  # the last events of each user, for `update`
    preset: str
    seed: int
    notes: dict[str, Any]  # how it was made, for people; JSON values
    texts: Texts | None = None  # of the items, where they were given

    def __repr__(self) -> str:
        parts = f"{len(self.pairs.items):,} pairs, {len(self.encoders)} encoders"
        return f"<recommend.Model of {self.num_items:,} items: {parts}>"

    @property
    def item_names(self) -> tuple[str, ...]:
        """[N], by id."""
        return self.recent.item_names

    @property
    def num_items(self) -> int:
        """N."""
        return len(self.recent.item_names)

    @functools.cached_property
    def places(self) -> dict[str, int]:
        """Ids of items by name."""
        return {name: place for place, name in enumerate(self.item_names)}

    def nbytes(self) -> int:
        """Bytes of the arrays that prediction reads."""
        parts = [*self.pairs, self.output, self.bias]
        for encoder in self.encoders:
            parts += _leaves(encoder)
        return sum(np.asarray(part).nbytes for part in parts)

    def names(self, items: np.ndarray) -> list[str]:
        """Names of items as `predict` gives them.

        Args:
            items: int [k]; -1, which stands behind the last, is left out.

        Returns:
            At most k names.
        """
        return [self.item_names[item] for item in items.tolist() if item >= 0]


def _leaves(tree: Any) -> list[Any]:
    if isinstance(tree, dict):
        return [leaf for part in tree.values() for leaf in _leaves(part)]
    return [tree]
