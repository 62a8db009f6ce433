"""What is refused before a model is trained."""

from __future__ import annotations

from collections.abc import Sequence

from sparse_jax.data import XmcData
from sparse_jax.runtime.arguments import check_kind, check_whole
from sparse_jax.xmc import names, sizes
from sparse_jax.xmc.presets import PRESETS, Preset

__all__ = ["READ", "check"]

READ = "read a file by data.read(path).points"
"""What to do where something else was given for points."""


def check(
    points: XmcData,
    preset: str,
    seed: int,
    label_names: Sequence[str] | None,
    feature_names: Sequence[str] | None,
) -> Preset:
    if preset not in PRESETS:
        raise ValueError(f"preset = {preset!r}: must be one of {', '.join(PRESETS)}")
    check_whole("seed", seed, least=0)
    check_kind("points", points, XmcData, READ)
    if not points.num_points:
        raise ValueError("points is empty: must have points; give a file with training points")
    if not points.label_ids.size:
        raise ValueError(
            f"none of the {points.num_points} points has a label: there is nothing to learn; "
            "check that labels come first on each line"
        )
    sizes.check(points)
    for name, given, size in (
        ("label_names", label_names, points.num_labels),
        ("feature_names", feature_names, points.num_features),
    ):
        if given is not None and len(given) != size:
            raise ValueError(f"{name} has {len(given)} names: must have {size}, one for each id")
        names.check(name, () if given is None else given)
    return PRESETS[preset]
