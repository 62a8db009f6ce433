"""Points numbered, split and written, with the names of labels and words beside them."""

from __future__ import annotations

import collections
import gzip
import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from sparse_jax.runtime import files
from xmc_sets.debian import Point, Recipe, digest

TEST_SHARE = 12  # a group is for the test where its hash divides by this


def write(directory: Path, name: str, recipe: Recipe, points: Iterable[Point]) -> dict[str, Any]:
    """Writes a set; files appear whole or not at all.

    Words and labels are those of enough training points. A point is left out where no label of it
    is one, or no word.

    Args:
        directory: for NAME_train.txt.gz, NAME_test.txt.gz, NAME_labels.txt.gz and, unless features
            are dense, NAME_vocab.txt.gz.
        name: of the set.
        recipe: how often words and labels must occur.
        points: all of them.

    Returns:
        The set's entry of the manifest: sizes, and the SHA-256 of each file.

    Raises:
        ValueError: no points are left for training, or none for the test.
    """
    parts: tuple[list[Point], list[Point]] = ([], [])
    for point in points:
        if point.labels and len(point.features):
            parts[digest(point.group) % TEST_SHARE == 0].append(point)
    labels = _number((p.labels for p in parts[0]), recipe.min_labels)
    is_dense = bool(parts[0]) and isinstance(parts[0][0].features, np.ndarray)
    vocabulary = {} if is_dense else _number((p.features for p in parts[0]), recipe.min_words)
    width = len(parts[0][0].features) if is_dense else len(vocabulary)
    entry: dict[str, Any] = {"about": recipe.about, "features": width, "labels": len(labels)}
    written: dict[str, str] = {}
    for part, chosen in zip(("train", "test"), parts, strict=True):
        rows = [r for p in chosen if (r := _row(p, labels, vocabulary)) is not None]
        if not rows:
            raise ValueError(f"{name} = no points for {part}: must have some; are lists complete?")
        entry[part] = len(rows)
        entry[f"{part}_labels"] = sum(row.split(" ", 1)[0].count(",") + 1 for row in rows)
        head = f"{len(rows)} {width} {len(labels)}"
        written[f"{name}_{part}.txt.gz"] = _write(directory, f"{name}_{part}", [head, *rows])
    written[f"{name}_labels.txt.gz"] = _write(directory, f"{name}_labels", list(labels))
    if vocabulary:
        written[f"{name}_vocab.txt.gz"] = _write(directory, f"{name}_vocab", list(vocabulary))
    return entry | {"sha256": written}


def _number(texts: Iterable[Iterable[str]], least: int) -> dict[str, int]:
    """Ids, in the order of the names, of those that are in enough texts."""
    counts = collections.Counter(name for text in texts for name in set(text))
    return {name: i for i, name in enumerate(sorted(n for n, c in counts.items() if c >= least))}


def _row(point: Point, labels: dict[str, int], vocabulary: dict[str, int]) -> str | None:
    known = sorted({labels[name] for name in point.labels if name in labels})
    pairs: Sequence[tuple[int, float]]
    if isinstance(point.features, np.ndarray):
        pairs = [(i, v) for i, v in enumerate(point.features.tolist()) if v]
    else:
        pairs = sorted((vocabulary[w], c) for w, c in point.features.items() if w in vocabulary)
    if not known or not pairs:
        return None
    return f"{','.join(map(str, known))} " + " ".join(f"{i}:{v:g}" for i, v in pairs)


def _write(directory: Path, stem: str, lines: Sequence[str]) -> str:
    """Writes lines, packed without a date; returns their digest."""
    digest = hashlib.sha256()

    def put(file: BinaryIO) -> None:
        with gzip.GzipFile(filename="", mode="wb", fileobj=file, mtime=0) as packed:
            for line in lines:
                row = f"{line}\n".encode()
                digest.update(row)
                packed.write(row)

    files.write_stream(directory / f"{stem}.txt.gz", put)
    return digest.hexdigest()
