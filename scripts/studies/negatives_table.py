"""Runs of `compare_negatives.py` on the disk, and what they say: means, intervals, a plot."""

from __future__ import annotations

import json
import uuid
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats  # type: ignore[import-untyped]

from sparse_jax.commands.report import save_figure

EQUAL = ("steps", "seconds")
METRICS = ("P@1", "P@5", "PSP@1")
BASE = "uniform"
RESAMPLES = 2000
# What differs from run to run of one setting.
_OF_RUN = ("equal", "way", "seed", "steps", "seconds", "file")


def append(directory: Path, row: dict[str, Any]) -> None:
    """Keeps a run as a line of runs.jsonl."""
    directory.mkdir(parents=True, exist_ok=True)
    with open(directory / "runs.jsonl", "a") as out:
        out.write(json.dumps(row) + "\n")


def keep_scores(directory: Path, scores: np.ndarray, groups: np.ndarray) -> str:
    """Keeps the scores [n, 3] and groups [n] of a run's test points; the name of their file."""
    directory.mkdir(parents=True, exist_ok=True)
    name = f"{uuid.uuid4().hex}.npz"
    np.savez_compressed(directory / name, scores=scores, groups=groups)
    return name


def read(directory: Path) -> list[dict[str, Any]]:
    """All runs kept."""
    lines = directory / "runs.jsonl"
    return [json.loads(line) for line in lines.read_text().splitlines()] if lines.exists() else []


def summarize(directory: Path) -> list[dict[str, Any]]:
    """A table for each setting and kind of equality: a row for each way, first the base.

    Each metric has its mean over the seeds and the half-width of its 95 % t-interval, and its
    difference to the base with two 95 % intervals: of t over the seeds, paired by seed, and by a
    bootstrap over groups of test points of the seeds' mean difference.
    """
    found: dict[str, dict[str, Any]] = {}
    for run in read(directory):
        setting = {k: v for k, v in run.items() if k not in _OF_RUN}
        table = found.setdefault(json.dumps(setting), {"setting": setting, "runs": []})
        table["runs"].append(run)
    tables = []
    for table in found.values():
        for equal in EQUAL:
            ways = _by_way(table["runs"], equal)
            if len(ways) > 1:
                rows = {way: _row(directory, runs, ways[BASE]) for way, runs in ways.items()}
                tables.append({"setting": table["setting"], "equal": equal, "ways": rows})
    return tables


def _by_way(runs: list[dict[str, Any]], equal: str) -> dict[str, dict[int, dict[str, Any]]]:
    """The runs by way, base first, and seed; ways that share two seeds with the base."""
    ways: dict[str, dict[int, dict[str, Any]]] = {BASE: {}}
    for run in runs:
        if run["equal"] == equal:
            ways.setdefault(run["way"], {})[run["seed"]] = run
    return {way: own for way, own in ways.items() if len(own.keys() & ways[BASE].keys()) > 1}


def _row(
    directory: Path, runs: dict[int, dict[str, Any]], base: dict[int, dict[str, Any]]
) -> dict[str, Any]:
    def scores(some: dict[int, dict[str, Any]]) -> dict[int, np.ndarray]:
        kept = {}
        for seed, run in some.items():
            with np.load(directory / run["file"]) as arrays:
                kept[seed] = arrays["scores"]
        return kept

    own, other = scores(runs), scores(base)
    row: dict[str, Any] = {
        "seeds": len(runs),
        "steps": float(np.mean([run["steps"] for run in runs.values()])),
        "seconds": float(np.mean([run["seconds"] for run in runs.values()])),
    }
    means = np.array([s.mean(axis=0, dtype=np.float64) for s in own.values()])
    shared = [seed for seed in own if seed in other]
    gaps = np.array([own[s].astype(np.float64) - other[s] for s in shared])  # [seeds, n, 3]
    with np.load(directory / runs[shared[0]]["file"]) as kept:
        low, high = bootstrap(gaps.mean(axis=0), kept["groups"])
    for i, name in enumerate(METRICS):
        row[name] = {
            "mean": float(means[:, i].mean()),
            "half": t_half(means[:, i]),
            "gap": float(gaps[:, :, i].mean()),
            "gap_half": t_half(gaps[:, :, i].mean(axis=1)),
            "gap_low": float(low[i]),
            "gap_high": float(high[i]),
        }
    return row


def t_half(values: np.ndarray) -> float:
    """Half the width of the 95 % t-interval of the mean of at least two values.

    Example:
      >>> round(t_half(np.array([1.0, 2.0, 3.0])), 3)
      2.484
    """
    error = values.std(ddof=1) / np.sqrt(values.size)
    return float(stats.t.ppf(0.975, values.size - 1) * error)


def bootstrap(gaps: np.ndarray, groups: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """95 % percentile interval of the mean of gaps [n, m], whole groups of points drawn at a time.

    Args:
      gaps: float [n, m].
      groups: int [n], from 0.

    Returns:
      (low [m], high [m]).

    References:
      Efron and Tibshirani, An Introduction to the Bootstrap, 1993, sections 8.3 and 13.3.
    """
    count = int(groups.max(initial=-1)) + 1
    sums = np.stack([np.bincount(groups, column, count) for column in gaps.T])
    sizes = np.bincount(groups, minlength=count)
    rng = np.random.default_rng(0)
    drawn = []
    for _ in range(RESAMPLES):
        times = np.bincount(rng.integers(0, count, count), minlength=count)
        drawn.append(sums @ times / (sizes @ times))
    low, high = np.percentile(drawn, [2.5, 97.5], axis=0)
    return low, high


def show(tables: list[dict[str, Any]]) -> None:
    """The tables as Markdown, in points of a hundredth; a star where both intervals exclude 0."""
    for table in tables:
        setting = table["setting"]
        print(
            f"\n{setting['set']}, {setting['labels']:,} labels, {setting['points']:,} points, "
            f"{setting['mode']}, {setting['loss']}, A = {setting['active'] or 'auto'}, "
            f"M = {setting['candidates']}, B = {setting['batch_size']}, "
            f"{setting['epochs']} epochs: equal {table['equal']}\n"
        )
        heads = [*METRICS, *(f"{m} less {BASE}'s" for m in METRICS)]
        print("| way | steps | processor s | " + " | ".join(heads) + " |")
        print("|---" * (3 + len(heads)) + "|")
        for way, row in table["ways"].items():
            cells = [f"{100 * row[m]['mean']:.2f} ± {100 * row[m]['half']:.2f}" for m in METRICS]
            cells += [_gap(row[m]) if way != BASE else "" for m in METRICS]
            print(
                f"| {way} | {row['steps']:,.0f} | {row['seconds']:.1f} | "
                + " | ".join(cells)
                + " |"
            )


def _gap(cell: dict[str, float]) -> str:
    low, high, half = cell["gap_low"], cell["gap_high"], cell["gap_half"]
    sure = (low > 0 or high < 0) and abs(cell["gap"]) > half
    interval = f"[{100 * low:+.2f}, {100 * high:+.2f}]"
    return f"{100 * cell['gap']:+.2f} ± {100 * half:.2f} {interval}{' *' if sure else ''}"


def draw(path: str, tables: list[dict[str, Any]]) -> None:
    """Each way's P@5 less the base's, with the bootstrap's interval: a panel for each equality."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    names = list(dict.fromkeys(_name(t["setting"]) for t in tables))
    ways = [w for w in dict.fromkeys(w for t in tables for w in t["ways"]) if w != BASE]
    measured = [equal for equal in EQUAL if any(t["equal"] == equal for t in tables)]
    size = (4 + 3.5 * len(measured), 1.4 + 0.8 * len(names))
    figure, panels = plt.subplots(
        1, len(measured), figsize=size, sharey=True, squeeze=False, layout="constrained"
    )
    for panel, equal in zip(panels[0], measured, strict=True):
        for i, way in enumerate(ways):
            cells = [
                (
                    names.index(_name(t["setting"])) + 0.2 * (i - (len(ways) - 1) / 2),
                    t["ways"][way]["P@5"],
                )
                for t in tables
                if t["equal"] == equal and way in t["ways"]
            ]
            gap = np.array([c["gap"] for _, c in cells])
            ends = np.array([[c["gap"] - c["gap_low"], c["gap_high"] - c["gap"]] for _, c in cells])
            panel.errorbar(
                100 * gap,
                [y for y, _ in cells],
                xerr=100 * ends.reshape(-1, 2).T,
                fmt="o",
                capsize=3,
                label=way,
            )
        panel.axvline(0, color="grey", linewidth=0.8)
        panel.set(title=f"equal {equal}", xlabel=f"P@5 less {BASE}'s, in %")
    panels[0, 0].set_yticks(range(len(names)), names)
    panels[0, 0].set_ylim(len(names) - 0.5, -0.5)
    handles = panels[0, -1].get_legend_handles_labels()
    figure.legend(*handles, loc="outside right center", frameon=False)
    save_figure(path, figure)


def _name(setting: dict[str, Any]) -> str:
    return (
        f"{setting['set']}\n{setting['mode']}, A {setting['active'] or 'auto'}, "
        f"M {setting['candidates']}, {setting['loss']}"
    )
