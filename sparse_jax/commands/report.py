"""What a training run tells: a table for people, a plot, digests and memory."""

from __future__ import annotations

import io
import json
import math
from pathlib import Path
from typing import Any

import numpy as np

from sparse_jax.runtime.files import write_atomically, write_json
from sparse_jax.xmc import metrics


def tell(results: Any, path: str | None) -> None:
    """A script's last line, which programs read; and the same in a file, if asked for."""
    results = finite(results)
    if path:  # first: whoever reads the output may have gone
        write_json(path, results)
    print(json.dumps(results, allow_nan=False))


def cell(text: str) -> str:
    """A text without what would break a line of a table parted by tabs: spaces stand for it.

    Example:
      >>> cell("green\\ttea"), cell("two\\nlines")
      ('green tea', 'two lines')
    """
    return text.translate(_BREAKS)


_BREAKS = str.maketrans("\t\n\r", "   ")


def finite(value: Any) -> Any:
    """A value with what JSON hasn't as what every parser takes: NaN is null, infinities are text.

    Example:
      >>> finite({"loss": [1.5, float("nan")], "perplexity": float("inf")})
      {'loss': [1.5, None], 'perplexity': 'Infinity'}
    """
    if isinstance(value, dict):
        return {name: finite(x) for name, x in value.items()}
    if isinstance(value, list | tuple):
        return [finite(x) for x in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    return value


def save_figure(path: str, figure: Any) -> None:
    """Writes a matplotlib figure, in the format that the path's suffix names, and closes it."""
    import matplotlib.pyplot as plt

    buffer = io.BytesIO()
    figure.savefig(buffer, format=Path(path).suffix.lstrip(".") or "png", dpi=120)
    plt.close(figure)
    write_atomically(path, buffer.getvalue())


def draw(path: str, history: list[dict[str, float]], results: dict[str, Any]) -> None:
    """Loss and P@1 of the batches over training time, with the test set's P@1."""
    # Imported here: only those who ask for a plot need it.
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    seconds = [h["seconds"] for h in history]
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.2), layout="constrained")
    left.plot(seconds, [h["loss"] for h in history])
    left.set(xlabel="training seconds", ylabel="loss over the active set")
    right.plot(seconds, [h["p@1"] for h in history], label="training batches, active set")
    right.axhline(results["p@1"], color="tab:orange", label=f"test set: {results['p@1']:.3f}")
    right.set(xlabel="training seconds", ylabel="P@1", ylim=(0, 1))
    right.legend(frameon=False)
    figure.suptitle(
        f"{results['strategy']}: {results['active_fraction']:.1%} of the outputs a step, "
        f"{results['madds_saved']:.1%} of multiply-adds saved"
    )
    save_figure(path, figure)


def draw_model(path: str, predicted: Any, test: Any, frequency: np.ndarray) -> None:
    """How honest a model's chances are, and which labels it finds.

    Args:
      path: of the picture.
      predicted: `xmc.Predictions` of the test points.
      test: the test points.
      frequency: int [N], how many training points have each label.
    """
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    hits = metrics.hits(predicted.labels, test.label_offsets, test.label_ids)
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.2), layout="constrained")
    bins = np.minimum((predicted.scores * 10).astype(int), 9).ravel()
    sizes = np.maximum(np.bincount(bins, minlength=10), 1)
    chance = np.bincount(bins, predicted.scores.ravel(), minlength=10) / sizes
    share = np.bincount(bins, hits.ravel(), minlength=10) / sizes
    shown = np.bincount(bins, minlength=10) > 0
    left.plot([0, 1], [0, 1], color="gray", linewidth=1)
    left.plot(chance[shown], share[shown], marker="o")
    left.set(xlabel="chance a prediction states", ylabel="share that is true", ylim=(0, 1))

    # Of the true labels, how many are among the first few, by how often training showed them.
    rows = np.repeat(np.arange(test.num_points), np.diff(test.label_offsets))
    found = (predicted.labels[rows] == test.label_ids[:, None]).any(axis=1)
    group = np.log2(np.maximum(frequency[test.label_ids], 1)).astype(int)
    counts = np.bincount(group)
    kept = counts > 0
    recall = np.bincount(group, found)[kept] / counts[kept]
    right.bar(np.flatnonzero(kept), recall)
    ticks = np.flatnonzero(kept)[:: max(1, int(kept.sum()) // 6)]
    right.set_xticks(ticks, [f"{1 << t:,}" for t in ticks])
    k = predicted.labels.shape[1]
    right.set(xlabel="training points of a label, at least", ylabel=f"found in the first {k}")
    save_figure(path, figure)


def print_table(results: dict[str, Any]) -> None:
    """The figures of a training run, for people; those that there are."""
    rows = []
    ks = [k for k in (1, 3, 5) if f"p@{k}" in results]
    if ks:
        head = " / ".join(f"P@{k}" for k in ks)
        rows.append((head, " / ".join(f"{results[f'p@{k}']:.4f}" for k in ks)))
        rows.append(("PSP@1", f"{results['psp@1']:.4f}"))
        rows.append(("calibration error", f"{results['ece']:.4f}"))
    if "preset" in results:
        rows += _parts(results)
    rows += _costs(results)
    peak = f"{results['peak_rss_bytes'] / 2**20:,.0f} MiB"
    if "predicted_bytes" in results:
        peak += f", predicted {results['predicted_bytes'] / 2**20:,.0f}"
    rows += [
        ("peak memory", peak),
        ("weights", results["weights_sha256"][:16]),
    ]
    print()
    for name, value in rows:
        print(f"  {name:<21} {value}")
    print()


def _parts(results: dict[str, Any]) -> list[tuple[str, str]]:
    trees = networks = "none"
    if results["trees"]:
        trees = f"{results['trees']}, at {results['tree_weight']:g} beside the wide part"
    if results["networks"]:
        networks = f"{results['networks']}, at 1 beside {results['wide_weight']:g}"
    neighbours = "none"
    if results.get("neighbours"):
        weight = f"{results['neighbour_weight']:g} beside the wide part"
        neighbours = f"of {results['neighbours']:,} points, at {weight}"
    size = f"model {results['model_bytes'] / 2**20:,.0f} MiB"
    if "predict_us" in results:
        size = f"{results['predict_us']:,.0f} µs a point, {size}"
    return [
        ("wide part", f"{results['wide_pairs']:,} weights"),
        ("trees", trees),
        ("networks", networks),
        ("neighbours", neighbours),
        ("predicting", size),
    ]


def _costs(results: dict[str, Any]) -> list[tuple[str, str]]:
    rows = [("training", f"{results['train_seconds']:.1f} s")]
    if "steps" in results:
        steps = f"{results['steps']:,} steps, {results['examples_per_second']:,.0f} examples/s"
        rows += [
            ("network", steps),
            ("waiting for data", f"{results['idle_share']:.2%} of that, at most"),
            ("compiling", f"{results['compile_seconds']:.1f} s"),
            ("outputs a step", f"{results['active_fraction']:.2%}"),
        ]
    if "madds" in results:  # of a preset, all parts together
        ours, dense, what = results["madds"], results["dense_madds"], "multiply-adds"
        beside = "dense one-versus-all"
    else:
        ours, dense = results["madds_per_step"], results["dense_madds_per_step"]
        what, beside = "multiply-adds a step", "dense"
    saved = f"{results['madds_saved']:.1%} saved"
    if results["madds_saved"] < 0:
        saved = f"{ours / dense:.1f} times as many: with so few labels nothing is saved"
    return [*rows, (what, f"{ours / 1e6:,.1f} M, {beside} {dense / 1e6:,.1f} M: {saved}")]
