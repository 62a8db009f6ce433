"""How long work tells how far it is."""

from __future__ import annotations

from collections.abc import Callable

Progress = Callable[[str, int, int, str], None]
"""progress(stage, done, total, note): called now and then; what it returns doesn't count."""


def silent(stage: str, done: int, total: int, note: str) -> None:
    """Says nothing."""
