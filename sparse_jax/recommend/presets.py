"""Named ways to train a recommender."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from sparse_jax.recommend.model import Shape

Progress = Callable[[str, int, int, str], None]
"""progress(stage, done, total, note): called now and then."""


def silent(stage: str, done: int, total: int, note: str) -> None:
    """Says nothing."""


@dataclasses.dataclass(frozen=True)
class Preset:
    """What is trained, and how long."""

    encoders: int  # of different seeds, whose scores are averaged
    shape: Shape = dataclasses.field(default_factory=Shape)
    epochs: int = 0  # times that each history is seen, where that is steps enough
    min_steps: int = 0  # of one encoder; few histories are seen more often, to make as many,
    max_epochs: int = 75  # but no more often than this
    max_steps: int = 20_000  # of one encoder, whatever the epochs
    batch_size: int = 128
    active: int = 2048  # items that a step's softmax is over
    learning_rate: float = 3e-3
    dropout: float = 0.3
    max_closed: int = 0  # items up to which the closed form is solved

    def num_steps(self, each: int) -> int:
        """Steps of one encoder.

        Args:
            each: steps that it takes to see every history once.

        Example:
            >>> [PRESETS["fast"].num_steps(each) for each in (1, 10, 50, 1000, 10_000)]
            [75, 750, 1500, 15000, 20000]
        """
        wanted = min(max(self.epochs * each, self.min_steps), self.max_epochs * each)
        return min(wanted, self.max_steps)


PRESETS = {
    "linear": Preset(encoders=0),
    "fast": Preset(encoders=1, epochs=15, min_steps=1500, max_closed=5_000),
    "best": Preset(encoders=2, epochs=15, min_steps=1500, max_closed=20_000),
}
