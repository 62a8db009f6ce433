"""What a training command took: processor time, energy, and money."""

from __future__ import annotations

import argparse
import math
from typing import Any

from sparse_jax.runtime.machine import Meter

__all__ = ["add_price", "spent"]


def add_price(parser: argparse.ArgumentParser) -> None:
    """`--price-per-hour`, and the meter, which runs from here on."""
    parser.add_argument(
        "--price-per-hour",
        type=_price,
        metavar="PRICE",
        help="of this machine, in any currency: the results then tell what the run cost",
    )
    parser.set_defaults(meter=Meter())


def _price(text: str) -> float:
    try:
        price = float(text)
    except ValueError:
        price = math.nan
    if not 0 <= price < math.inf:
        raise argparse.ArgumentTypeError(f"{text}: must be a number, at least 0; such as 0.08")
    return price


def spent(args: argparse.Namespace) -> dict[str, Any]:
    """Prints what the command has taken so far; returns it, for its results.

    Args:
      args: of a parser that `add_price` was given.

    Returns:
      `elapsed_seconds`, `cpu_seconds`, `joules` (None where the system doesn't tell) and, with a
      price, `cost`.
    """
    seconds, cpu_seconds, joules = args.meter.spent()
    found: dict[str, Any] = {
        "elapsed_seconds": round(seconds, 3),
        "cpu_seconds": round(cpu_seconds, 3),
        "joules": None if joules is None else round(joules, 1),
    }
    energy = "energy not told by this system" if joules is None else f"{joules:,.0f} J"
    said = f"{seconds:,.1f} s, {cpu_seconds:,.1f} s of processors, {energy}"
    if args.price_per_hour is not None:
        found["cost"] = args.price_per_hour * seconds / 3600
        said += f", {found['cost']:.3g} at {args.price_per_hour:g} an hour"
    print(f"  {'this command':<21} {said}")
    return found
