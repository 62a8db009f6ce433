"""Checks of a command line that several commands make."""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from sparse_jax.runtime import saved

__all__ = [
    "at_least",
    "check_index_target",
    "check_target",
    "fill",
    "flag",
    "holds_index",
    "no_effect",
    "positive",
    "rows",
    "seeds",
]


def flag(name: str) -> str:
    """How an option is written.

    Example:
      >>> flag("max_seconds")
      '--max-seconds'
    """
    return f"--{name.replace('_', '-')}"


def at_least(
    parser: argparse.ArgumentParser, args: argparse.Namespace, least: float, names: Iterable[str]
) -> None:
    """Refuses numbers below what they must be; those not given are left alone."""
    for name in names:
        value = getattr(args, name)
        if value is not None and not value >= least:
            parser.error(f"{flag(name)} {value}: must be at least {least:g}")


def positive(
    parser: argparse.ArgumentParser, args: argparse.Namespace, names: Iterable[str]
) -> None:
    """Refuses numbers that aren't above 0, or not finite."""
    for name in names:
        value = getattr(args, name)
        if value is not None and not 0 < value < math.inf:
            kind = "must be finite" if value == math.inf else "must be above 0"
            parser.error(f"{flag(name)} {value}: {kind}")


def seeds(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """Refuses seeds that the generators don't take."""
    if not 0 <= args.seed < 2**31:
        least = "must be at least 0" if args.seed < 0 else "must be below 2147483648"
        parser.error(f"--seed {args.seed}: {least}")


def no_effect(
    parser: argparse.ArgumentParser,
    args: argparse.Namespace,
    names: Iterable[str],
    reason: str,
    *,
    neutral: Mapping[str, Any] | None = None,
) -> None:
    """Refuses options that were given, which are those that aren't None or False.

    Args:
      parser: that reports the error.
      args: the command line.
      names: of the options.
      reason: why they have no effect.
      neutral: values that ask for nothing, by option.
    """
    neutral = neutral or {}
    values = {name: getattr(args, name) for name in names}
    given = [
        flag(name)
        for name, value in values.items()
        if value is not None and value is not False and value != neutral.get(name)
    ]
    if given:
        parser.error(f"{', '.join(given)}: no effect {reason}")


def fill(args: argparse.Namespace, defaults: Mapping[str, Any]) -> None:
    """Gives options that were left out, and are None till then, their defaults."""
    for name, value in defaults.items():
        if getattr(args, name) is None:
            setattr(args, name, value)


def rows(parser: argparse.ArgumentParser, value: int) -> None:
    """Refuses a table so small that a power of two was meant, or nothing."""
    if 0 < value < 1024:
        meant = f"; did you mean 2^{value}? then --rows {1 << value}" if 10 <= value <= 32 else ""
        parser.error(f"--rows {value}: must be 0 or at least 1024{meant}")


def check_target(directory: str | None, *, kind: str) -> None:
    """Refuses to write a model over one of another kind, or beside a search index.

    Raises:
      ValueError: it names the directory and what it holds.
    """
    if directory is None:
        return
    if holds_index(directory):
        raise ValueError(f"{directory} holds a search index: name another directory")
    if not (Path(directory) / saved.MANIFEST).exists():
        return
    held = saved.read_manifest(directory)["kind"]
    if held != kind:
        raise ValueError(
            f"{directory} holds a model of kind {held!r}, which would be lost: name another "
            "directory"
        )


def check_index_target(directory: str) -> None:
    """Refuses to make a search index beside a model.

    Raises:
      ValueError: it names the directory and what it holds.
    """
    if (Path(directory) / saved.MANIFEST).exists():
        try:
            held = f"a model of kind {saved.read_manifest(directory)['kind']!r}"
        except ValueError:  # by it a directory with an index would be taken for a model's
            held = f"a {saved.MANIFEST} of another program, or a damaged one"
        raise ValueError(f"{directory} holds {held}: name another directory")


def holds_index(directory: str) -> bool:
    """Whether there is a search index, whole or damaged."""
    manifest = Path(directory) / "manifest.json"  # others write files of this name, too
    return manifest.is_file() and b'"snapshot"' in manifest.read_bytes()
