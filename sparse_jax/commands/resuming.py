"""Which options a resumed training run must share with the one that saved."""

from __future__ import annotations

import argparse
from typing import Any

from sparse_jax.commands.checks import flag
from sparse_jax.runtime import checkpoint

# What may change: how long it goes on, where files lie, and what it reports.
FREE = (
    *("max_seconds", "checkpoint", "resume", "json", "plot", "save_every", "files", "test"),
    *("meter", "price_per_hour"),
)


def fixed_args(args: argparse.Namespace) -> dict[str, Any]:
    """What a resumed run must share with the one that saved."""
    return {k: v for k, v in vars(args).items() if k not in FREE}


def check_same_args(args: argparse.Namespace, saved: dict[str, Any]) -> None:
    """Refuses to go on from what other options made.

    Raises:
      ValueError: it names the options with both values.
    """
    checkpoint.check_same_run(
        args.checkpoint,
        {flag(name): value for name, value in saved.items()},
        {flag(name): value for name, value in fixed_args(args).items()},
    )
