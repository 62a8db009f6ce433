"""Bytes on the wire: what a compiled program sends, counted in it, and what an all-reduce would."""

from __future__ import annotations

import re
from typing import NamedTuple

_WIDTH = {"f32": 4, "s32": 4, "u32": 4, "bf16": 2, "f16": 2, "s8": 1, "u8": 1, "pred": 1}
_KINDS = ("all-gather", "all-to-all", "all-reduce", "reduce-scatter", "collective-permute")
_CALL = re.compile(rf"= (.+?) ({'|'.join(_KINDS)})(?:-start)?\(")
_SHAPE = re.compile(r"(\w+)\[([\d,]*)\]")


class Collective(NamedTuple):
    """A collective of a program; `collectives` finds them."""

    kind: str  # as XLA calls it
    result: int  # bytes of what one shard has afterwards


def collectives(program: str) -> list[Collective]:
    """The collectives of a compiled program, in their order.

    Args:
      program: `jax.jit(f).lower(...).compile().as_text()`.

    Returns:
      One `Collective` for each.

    Example:
      >>> collectives("%x = f32[4,8]{1,0} all-gather(%y), dimensions={0}")
      [Collective(kind='all-gather', result=128)]
    """
    return [Collective(kind, _bytes(shape)) for shape, kind in _CALL.findall(program)]


def _bytes(shape: str) -> int:
    found = 0
    for dtype, sizes in _SHAPE.findall(shape):
        count = 1
        for size in filter(None, sizes.split(",")):
            count *= int(size)
        found += count * _WIDTH[dtype]
    return found


def sent(program: str, shards: int) -> int:
    """Bytes that one shard sends in a run of a program, to all others together.

    A gather of S·n bytes sends n to each of S − 1 others; an exchange of n bytes keeps n / S; an
    all-reduce of n bytes sends 2·n·(S − 1) / S, as a ring does.

    Args:
      program: the text of a compiled program, without loops around its collectives.
      shards: S.

    Returns:
      Bytes.

    Raises:
      ValueError: if the program holds a collective that is not counted here.

    Example:
      >>> sent("%x = f32[4,8]{1,0} all-gather(%y), dimensions={0}", 4)
      96
    """
    found = 0
    for kind, result in collectives(program):
        if kind in ("all-gather", "all-to-all"):
            found += result * (shards - 1) // shards
        elif kind == "all-reduce":
            found += 2 * result * (shards - 1) // shards
        else:
            raise ValueError(f"{kind}: must be a gather, an exchange or an all-reduce")
    return found


def dense_all_reduce(num_weights: int, shards: int) -> int:
    """Bytes that one shard sends to average a dense gradient: 2 · 4 · weights · (S − 1) / S.

    Args:
      num_weights: of the network, float32.
      shards: S.

    Returns:
      Bytes.

    Example:
      >>> dense_all_reduce(1000, 2)
      4000
    """
    return 8 * num_weights * (shards - 1) // shards
