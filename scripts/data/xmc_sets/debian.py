"""What is predicted from what: one function a set, each giving its points in a fixed order."""

from __future__ import annotations

import collections
import hashlib
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np

from xmc_sets.embedding import embed
from xmc_sets.lists import Lists, relations, words

MOST_WORDS = 400  # of one package's paths
MOST_FILES = 20  # of one directory
DIRECTORY_SHARE = 2  # a directory is taken where a hash of its source divides by this


class Point(NamedTuple):
    """One point before words and labels are numbered."""

    group: str  # points of one group are all for training, or all for the test
    features: dict[str, int] | np.ndarray  # counts of words, or a dense vector
    labels: list[str]


class Recipe(NamedTuple):
    """How a set is made of indexes."""

    points: Callable[[Lists], Iterator[Point]]
    min_words: int  # a word counts where as many training points have it
    min_labels: int  # the same of a label
    about: str


def digest(text: str) -> int:
    """A hash that is the same everywhere."""
    return int.from_bytes(hashlib.sha256(text.encode("utf8")).digest()[:8], "big")


def _tags(lists: Lists, language: str) -> Iterator[Point]:
    for package, text in sorted(lists.descriptions(language).items()):
        tags = lists.packages[package].get("Tag", "").replace("\n", " ").split(",")
        kept = [t.strip() for t in tags if t.strip() and not t.strip().startswith("special::")]
        yield Point(lists.source_of(package), collections.Counter(words(text)), kept)


def tags(lists: Lists) -> Iterator[Point]:
    """English description of a package -> its facets, as people have tagged it."""
    return _tags(lists, "en")


def german_tags(lists: Lists) -> Iterator[Point]:
    """German description of a package -> its facets."""
    return _tags(lists, "de")


def files_depends(lists: Lists) -> Iterator[Point]:
    """Words in the paths of a package's files, counted -> the packages it depends on."""
    counts: dict[str, collections.Counter[str]] = collections.defaultdict(collections.Counter)
    for path, package in lists.paths():
        counts[package].update(words(path))
    for package in sorted(counts):
        record = lists.packages[package]
        wanted = relations(record.get("Depends", "") + "," + record.get("Pre-Depends", ""))
        most = sorted(counts[package].items(), key=lambda item: (-item[1], item[0]))[:MOST_WORDS]
        yield Point(lists.source_of(package), dict(most), wanted)


def sources(lists: Lists) -> Iterator[Point]:
    """English description -> the one source built into it and others; many texts are equal.

    Points are split by package, so that equal texts stand on both sides.
    """
    built = collections.Counter(lists.source_of(package) for package in lists.packages)
    for package, text in sorted(lists.descriptions("en").items()):
        source = lists.source_of(package)
        if built[source] > 1:
            yield Point(package, collections.Counter(words(text)), [source])


def embedded_build(lists: Lists) -> Iterator[Point]:
    """A dense vector of the descriptions of a source's packages -> what it needs to be built."""
    texts: dict[str, list[str]] = collections.defaultdict(list)
    for package, text in sorted(lists.descriptions("en").items()):
        texts[lists.source_of(package)].append(text)
    names = sorted(name for name in texts if name in lists.sources)
    vectors = embed([words(" ".join(texts[name])) for name in names])
    for name, vector in zip(names, vectors, strict=True):
        record = lists.sources[name]
        fields = ("Build-Depends", "Build-Depends-Indep", "Build-Depends-Arch")
        yield Point(name, vector, relations(",".join(record.get(f, "") for f in fields)))


def directories(lists: Lists) -> Iterator[Point]:
    """Words of a directory's path and of its package's name -> the stems of its files' names."""
    drawn = {p: digest(f"{lists.source_of(p)} directories") for p in lists.packages}
    chosen = {package for package, hashed in drawn.items() if hashed % DIRECTORY_SHARE == 0}
    stems: dict[tuple[str, str], set[str]] = collections.defaultdict(set)
    for path, package in lists.paths():
        directory, _, name = path.rpartition("/")
        if package in chosen and not directory == f"usr/share/doc/{package}":
            stems[package, directory].add(name.split(".", 1)[0].lower() or name)
    for package, directory in sorted(stems):
        kept = sorted(stems[package, directory], key=digest)[:MOST_FILES]
        counted = collections.Counter(words(f"{directory} {package}"))
        yield Point(lists.source_of(package), counted, sorted(kept))


SETS = {
    "debian-tags": Recipe(tags, 2, 2, "description -> facets"),
    "debian-tags-german": Recipe(german_tags, 2, 2, "German description -> facets"),
    "debian-files": Recipe(files_depends, 3, 2, "words of file paths -> depends"),
    "debian-build": Recipe(embedded_build, 1, 2, "dense vector of descriptions -> build-depends"),
    "debian-sources": Recipe(sources, 2, 1, "description -> source; with equal points"),
    "debian-directories": Recipe(directories, 2, 2, "directory -> stems of its files"),
}
