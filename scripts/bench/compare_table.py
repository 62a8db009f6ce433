"""The table of `compare_xmc.py`: cells for people, and what is chosen on one half of the sets."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from compare_cells import PEERS
from compare_ours import OURS

Cells = Mapping[tuple[str, str, int], Mapping[str, Any]]  # by set, way and seed
CHOOSES = "p@1"  # the figure by which a way is chosen
SHORT = ("p@1", "p@5", "r@10")


class Row(NamedTuple):
    """A way on a set: means over seeds."""

    name: str
    way: str
    seeds: int
    figures: dict[str, float]
    spread: float | None  # standard deviation of P@1 over seeds


def rows(cells: Cells, names: Sequence[str], ways: Sequence[str]) -> list[Row]:
    """One row for each way on each set that has a cell without failure."""
    found = []
    for name in names:
        for way in ways:
            kept = [c for (n, w, _), c in cells.items() if (n, w) == (name, way)]
            kept = [c for c in kept if "failed" not in c]
            if kept:
                keys = [k for k in kept[0] if isinstance(kept[0][k], int | float)]
                means = {k: statistics.fmean(c[k] for c in kept if k in c) for k in keys}
                spread = statistics.stdev(c["p@1"] for c in kept) if len(kept) > 1 else None
                found.append(Row(name, way, len(kept), means, spread))
    return found


class Choice(NamedTuple):
    """What was chosen on one half, and how it does on the other."""

    half: int  # that it is reported on
    ours: str
    peer: str
    sets: list[dict[str, Any]]  # of that half: name, and for each figure ours, peer, best peer


def choices(table: Sequence[Row], halves: Mapping[str, int]) -> list[Choice]:
    """For each half: the best of our ways and of the peers by the other half, reported on this one.

    Ways compete that have figures on as many sets of both halves as any way of their side; the mean
    of P@1 says which is best. "best peer" of a set is, unfairly to us, the peer that is best on
    that very set's test points.
    """
    ours, peers = _complete(table, OURS), _complete(table, PEERS)
    found = []
    for half in (0, 1):
        here = [r for r in table if halves[r.name] == half]
        there = [r for r in table if halves[r.name] != half]
        mine, theirs = _best(there, ours), _best(there, peers)
        sets = []
        for name in dict.fromkeys(r.name for r in here):
            own, other = _row(here, name, mine), _row(here, name, theirs)
            if own is None or other is None:
                continue
            beside = [r for r in here if r.name == name and r.way in PEERS]
            best = {k: max(beside, key=_figure(k)) for k in SHORT if k in own.figures}
            sets.append(
                {
                    "set": name,
                    "ours": {k: own.figures[k] for k in best},
                    "peer": {k: other.figures[k] for k in best},
                    "best_peer": {k: (r.way, r.figures[k]) for k, r in best.items()},
                }
            )
        if mine and theirs and sets:
            found.append(Choice(half, mine, theirs, sets))
    return found


def _figure(name: str) -> Callable[[Row], float]:
    return lambda row: row.figures.get(name, 0.0)


def _row(table: Sequence[Row], name: str, way: str | None) -> Row | None:
    return next((r for r in table if (r.name, r.way) == (name, way)), None)


def _complete(table: Sequence[Row], side: Iterable[str]) -> list[str]:
    """The ways of a side that have the most sets."""
    counts = {way: sum(r.way == way for r in table) for way in side}
    most = max(counts.values(), default=0)
    return [way for way, count in counts.items() if count == most > 0]


def _best(table: Sequence[Row], ways: Sequence[str]) -> str | None:
    """The way of the best mean; the first of equals."""
    values = {way: [r.figures[CHOOSES] for r in table if r.way == way] for way in ways}
    means = {way: statistics.fmean(found) for way, found in values.items() if found}
    return max(means, key=lambda way: means[way]) if means else None


_COLUMNS = ("p@1", "p@3", "p@5", "r@10", "psp@1", "psp@5")
_UNITS = ("train s", "predict µs", "RSS MiB", "model MiB")


def markdown(
    table: Sequence[Row],
    failures: Sequence[str],
    shapes: Mapping[str, Any],
    halves: Mapping[str, int],
    notes: Sequence[str],
) -> str:
    """The whole table for people."""
    lines = ["# Ours beside its peers", "", *notes, ""]
    heads = ["set", "way", "seeds", *(c.upper() for c in _COLUMNS), "± P@1", *_UNITS]
    lines += ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    before = None
    for row in table:
        shown = _about(row.name, shapes, halves) if row.name != before else ""
        lines.append(f"| {shown} | {row.way} | {row.seeds} | {_cells(row)} |")
        before = row.name
    if failures:
        lines += ["", "Without figures:", "", *(f"- {line}" for line in failures)]
    for choice in choices(table, halves):
        lines += ["", *_half(choice)]
    return "\n".join(lines) + "\n"


def _about(name: str, shapes: Mapping[str, Any], halves: Mapping[str, int]) -> str:
    shape = shapes[name]
    return f"**{name}** ({shape.kind}, {shape.labels:,} labels, half {'AB'[halves[name]]})"


def _cells(row: Row) -> str:
    of = row.figures
    figures = [f"{of[c]:.4f}" if c in of else "" for c in _COLUMNS]
    spread = "" if row.spread is None else f"{row.spread:.4f}"
    units = [
        f"{of['train_seconds']:.1f}",
        f"{of['predict_us']:,.0f}",
        f"{of['peak_rss_bytes'] / 2**20:,.0f}",
        f"{of['model_bytes'] / 2**20:,.0f}",
    ]
    return " | ".join([*figures, spread, *units])


def _half(choice: Choice) -> list[str]:
    here, there = "AB"[choice.half], "AB"[1 - choice.half]
    lines = [
        f"## Half {here}, by what was chosen on half {there}",
        "",
        f"Of ours `{choice.ours}`, of the peers {choice.peer}: the best mean P@1 on half {there}. "
        "In brackets the peer that is best on that set and figure.",
        "",
        "| set | " + " | ".join(f"{k.upper()} ours, peer (best)" for k in SHORT) + " |",
        "|" + "---|" * (1 + len(SHORT)),
    ]
    for entry in choice.sets:
        shown = []
        for k in SHORT:
            if k in entry["ours"]:
                way, best = entry["best_peer"][k]
                shown.append(f"{entry['ours'][k]:.4f}, {entry['peer'][k]:.4f} ({way} {best:.4f})")
            else:
                shown.append("")
        lines.append(f"| {entry['set']} | " + " | ".join(shown) + " |")
    return lines
