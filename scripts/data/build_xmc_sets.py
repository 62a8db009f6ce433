#!/usr/bin/env python3
"""Builds extreme-classification sets of six kinds from the indexes of a Debian mirror.

    python scripts/data/build_xmc_sets.py sets
    python scripts/compare_xmc.py --sets sets --seeds 0 1 2 --output table.md

apt-get fetches the indexes (64 MB, and 0.8 GB when unpacked) unless --lists names a directory that
has them. A set is NAME_train.txt.gz and NAME_test.txt.gz, points in the text format of the Extreme
Classification Repository, with NAME_labels.txt.gz and, for words, NAME_vocab.txt.gz beside them.
Points of one source package are all for training or all for the test, but for debian-sources,
which has equal points on both sides. The same indexes give the same files; manifest.json holds
their sizes and the SHA-256 of their unpacked lines.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

from xmc_sets import debian, lists, writing

from sparse_jax.runtime import files


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("directory", type=Path, metavar="DIR", help="for the sets")
    parser.add_argument("--lists", type=Path, metavar="DIR", help="of indexes, unpacked")
    parser.add_argument(
        "--only", nargs="+", metavar="NAME", help=f"of {', '.join(debian.SETS)} (all)"
    )
    args = parser.parse_args(argv)
    unknown = {*(args.only or ())} - {*debian.SETS}
    if unknown:
        parser.error(f"--only {' '.join(sorted(unknown))}: must be of {', '.join(debian.SETS)}")
    return args


def build(directory: Path, indexes: lists.Lists, names: list[str]) -> None:
    """Builds sets, and enters each into the manifest when its files are there."""
    manifest = directory / "manifest.json"
    entries = json.loads(manifest.read_text(encoding="utf8")) if manifest.exists() else {}
    for name in names:
        recipe = debian.SETS[name]
        entry = writing.write(directory, name, recipe, recipe.points(indexes))
        entries[name] = entry
        files.write_json(manifest, dict(sorted(entries.items())))
        print(
            f"{name}: {entry['train']:,} training and {entry['test']:,} test points, "
            f"{entry['features']:,} features, {entry['labels']:,} labels, "
            f"{entry['train_labels'] / entry['train']:.1f} a point",
            flush=True,
        )


def main(argv: list[str] | None = None) -> int:
    """Runs the command; returns its exit status."""
    args = parse_args(argv)
    try:
        args.directory.mkdir(parents=True, exist_ok=True)
        place = args.lists or lists.fetch(args.directory / "lists")
        build(args.directory, lists.Lists(place), args.only or list(debian.SETS))
    except (OSError, ValueError, subprocess.CalledProcessError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
