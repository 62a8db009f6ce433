"""How long the tests of tests/fuzz look, and what they mutate.

In the suite they are short and always the same. By hand, longer and with other inputs each time:

    SPARSE_JAX_FUZZ=50 python -m pytest tests/fuzz
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Sequence

from hypothesis import HealthCheck, settings

FACTOR = int(os.environ.get("SPARSE_JAX_FUZZ", "1"))
"""Times as many examples; above 1 they are drawn anew in each run."""


def fuzz(examples: int) -> Callable:
    """Settings of a test with so many examples, times `FACTOR`."""
    slow = [HealthCheck.too_slow, HealthCheck.function_scoped_fixture, HealthCheck.data_too_large]
    return settings(
        max_examples=examples * FACTOR,
        derandomize=FACTOR == 1,
        database=None,
        deadline=None,
        suppress_health_check=slow,
    )


def seeds(count: int) -> range | list[int]:
    """Seeds for tests that draw by themselves."""
    return range(count) if FACTOR == 1 else [random.getrandbits(32) for _ in range(count * FACTOR)]


def mutate(
    content: bytes, rng: random.Random, pieces: Sequence[bytes], others: Sequence[bytes] = ()
) -> bytes:
    """Content with one to five edits: pieces put in, parts changed, cut, doubled or swapped."""
    text = bytearray(content)
    for _ in range(rng.randint(1, 5)):
        at = rng.randint(0, len(text))
        end = min(len(text), at + rng.choice([0, 1, 1, 2, 5, 20]))
        match rng.randrange(7):
            case 0:
                text[at:at] = rng.choice(pieces)
            case 1:
                text[at:end] = rng.choice(pieces)
            case 2:
                del text[at:end]
            case 3:
                text[at:at] = text[at:end]
            case 4:
                text[at:end] = bytes(rng.randrange(256) for _ in range(end - at))
            case 5:
                other = rng.choice([bytes(text), *others])
                text[at:] = other[rng.randint(0, len(other)) :]
            case 6:
                lines = text.split(b"\n")
                rng.shuffle(lines)
                text = bytearray(b"\n".join(lines))
    return bytes(text)
