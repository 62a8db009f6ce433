"""What a kept classifier is: sizes, parts, how it was trained.

sparse-jax xmc inspect MODEL
"""

from __future__ import annotations

import json
import sys
from typing import Any

from sparse_jax import xmc
from sparse_jax.commands.parsing import Parser
from sparse_jax.commands.xmc import table
from sparse_jax.ops.neighbours import Neighbours
from sparse_jax.xmc import tabular


def main(argv: list[str] | None = None) -> int:
    """Runs the command; returns its exit status."""
    parser = Parser(__doc__)
    parser.add_argument("model", metavar="MODEL", help="directory of a kept model")
    args = parser.parse_args(argv)
    try:
        if table.is_table(args.model):
            table.describe(tabular.load_table(args.model))
            return 0
        model = xmc.load(args.model)
    except (OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    for name, value in describe(model).items():
        print(f"  {name:<21} {value}")
    return 0


def describe(model: xmc.Model) -> dict[str, Any]:
    """A model in lines for people."""
    about, mix = model.about, model.mix
    named = [
        kind
        for kind, names in (("labels", about.label_names), ("features", about.feature_names))
        if names is not None
    ]
    trees = f"{len(model.trees)}, at {float(mix.tree_weight):g} beside the wide part"
    width = model.output.shape[1] // max(len(model.encoders), 1)
    networks = f"{len(model.encoders)} of width {width}, at 1 beside {float(mix.weight):g}"
    if model.buckets is not None:
        networks += f"; labels share {model.buckets.num_rows:,} rows"
    return {
        "labels": f"{model.num_labels:,}",
        "features": f"{model.num_features:,}, "
        + ("TF-IDF weighted" if model.idf is not None else "as they are, of unit length"),
        "names": " and ".join(named) or "none",
        "preset, seed": f"{about.preset}, {about.seed}",
        "wide part": f"{model.wide.weights.size:,} weights",
        "trees": trees if model.trees else "none",
        "networks": networks if model.encoders else "none",
        "neighbours": _neighbours(model.neighbours),
        "size": f"{model.nbytes() / 2**20:,.0f} MiB",
        **{name.replace("_", " "): json.dumps(value) for name, value in about.notes.items()},
    }


def _neighbours(near: Neighbours | None) -> str:
    if near is None:
        return "none"
    return f"of {near.num_points:,} points, at {float(near.weight):g} beside the wide part"


if __name__ == "__main__":
    sys.exit(main())
