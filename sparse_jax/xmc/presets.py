"""How much to spend on a model: named budgets, which the data turn into sizes."""

from __future__ import annotations

import dataclasses

import numpy as np

from sparse_jax.data import XmcData


@dataclasses.dataclass(frozen=True)
class Preset:
    """A budget. A new one is one entry of `PRESETS`."""

    about: str  # for --help
    visits: int  # of examples by each network, in at most 20 epochs; 0 does without
    pair_visits: float  # of weights by the wide part
    wide_epochs: tuple[int, int]  # fewest and most
    min_share: float  # of `wide.zeros`
    max_trees: int
    tree_labels: int  # labels of points that trees may learn, which is what their time goes with
    rare: float  # points of a label, in the mean, below which labels' centroids are tried
    held_out: int  # points, at most, that choose weights and calibrate; a twentieth of few

    def steps(self, num_points: int, batch_size: int) -> int:
        """Steps of a network."""
        return -(-min(self.visits, 20 * num_points) // batch_size)

    def epochs(self, visits: int) -> int:
        """Epochs of the wide part, of so many visits of weights each: short texts need more."""
        return int(np.clip(round(self.pair_visits / max(visits, 1)), *self.wide_epochs))

    def trees(self, points: XmcData, *, with_copies: bool = False) -> int:
        """How many label trees; one alone errs too much of its own.

        Where most points have near copies trees gain most: they may take four times as long.
        """
        labels = self.tree_labels * (4 if with_copies else 1)
        count = min(self.max_trees, labels // max(points.label_ids.size, 1))
        return count if count > 1 else 0


PRESETS = {
    "fast": Preset(
        "a linear part and label trees: seconds for 50,000 points",
        visits=0,
        pair_visits=0.8e9,
        wide_epochs=(2, 5),
        min_share=0.003,
        max_trees=3,
        tree_labels=800_000,
        rare=5.0,
        held_out=600,
    ),
    "accurate": Preset(
        "the same with more time, and up to two networks where held-out points say they help",
        visits=225_000,
        pair_visits=1.85e9,
        wide_epochs=(3, 5),
        min_share=0.002,
        max_trees=4,
        tree_labels=2_400_000,
        rare=np.inf,
        held_out=2000,
    ),
}
