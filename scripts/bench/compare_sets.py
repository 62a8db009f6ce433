"""The sets of `compare_xmc.py`: where they lie, of what kind they are, in which half they stand."""

from __future__ import annotations

import gzip
import hashlib
import itertools
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

LARGE = 100_000  # labels
SMALL = 20_000  # points
DENSE = 0.5  # of the features, in a mean point
_LOOKED_AT = 200  # points, for the density


class Set(NamedTuple):
    """Training and test points, and names where there are any."""

    name: str
    train: Path
    test: Path
    labels: Path | None
    words: Path | None

    def digest(self) -> str:
        """Of all its files: a figure counts for these alone."""
        found = hashlib.sha256()
        for path in (self.train, self.test, self.labels, self.words):
            found.update(path.read_bytes() if path else b"-")
        return found.hexdigest()[:16]


class Shape(NamedTuple):
    """What the kind is read from."""

    points: int
    features: int
    labels: int
    density: float

    @property
    def kind(self) -> str:
        """dense, large, small or middle: the first that fits."""
        if self.density >= DENSE:
            return "dense"
        if self.labels >= LARGE:
            return "large"
        return "small" if self.points < SMALL else "middle"


def of_files(train: str, test: str) -> Set:
    """A set of two files, with the names that lie beside the first."""
    path = Path(train)
    name = path.name.split(".")[0].removesuffix("_train").removesuffix("-train")
    return Set(name, path, Path(test), _beside(path, name, "labels"), _beside(path, name, "vocab"))


def in_directories(directories: Iterable[str]) -> list[Set]:
    """Every NAME_train.txt(.gz) with its NAME_test, and NAME_labels and NAME_vocab if there.

    Raises:
        ValueError: a directory has no set, a set no test points, or two sets one name.
    """
    found: list[Set] = []
    for directory in directories:
        trains = sorted(
            [*Path(directory).glob("*_train.txt"), *Path(directory).glob("*_train.txt.gz")]
        )
        if not trains:
            raise ValueError(f"--sets {directory} = no *_train.txt[.gz] there: must hold sets")
        for train in trains:
            name = train.name.split("_train.txt")[0]
            test = _beside(train, name, "test")
            if test is None:
                raise ValueError(f"{train} = a set without {name}_test.txt[.gz]: must have both")
            found.append(of_files(str(train), str(test)))
    names = [s.name for s in found]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"--sets: {name} is there {names.count(name)} times: must be once")
    return found


def _beside(train: Path, name: str, part: str) -> Path | None:
    found = (train.with_name(f"{name}_{part}.txt{ending}") for ending in (".gz", ""))
    return next((path for path in found if path.exists()), None)


def shape_of(train: Path) -> Shape:
    """The header's numbers, and the density of the first points.

    Raises:
        ValueError: no header of three numbers.
    """
    opened = gzip.open if train.suffix == ".gz" else open
    with opened(train, "rt", encoding="utf8") as lines:
        head = next(lines, "").split()
        if len(head) != 3 or not all(word.isdigit() for word in head):
            raise ValueError(
                f"{train}, line 1 = {' '.join(head)!r}: must be POINTS FEATURES LABELS"
            )
        points, features, labels = map(int, head)
        first = [line.count(":") for line in itertools.islice(lines, _LOOKED_AT)]
    return Shape(points, features, labels, sum(first) / max(len(first), 1) / max(features, 1))


def halves(kinds: dict[str, str]) -> dict[str, int]:
    """0 or 1 for each set: dealt out in turn, by kind and then by the hash of the name.

    So each half has as many of a kind as the other, or one more, and which is which cannot be
    chosen.

    Example:
        >>> halves({"a": "small", "b": "small", "c": "dense"})["c"]
        0
    """
    order = sorted(kinds, key=lambda n: (kinds[n], hashlib.sha256(n.encode()).hexdigest()))
    return {name: i % 2 for i, name in enumerate(order)}


def smallest_first(sets: Sequence[Set]) -> list[Set]:
    """So that a table that is interrupted has as many rows as possible."""
    return sorted(sets, key=lambda s: (s.train.stat().st_size, s.name))
