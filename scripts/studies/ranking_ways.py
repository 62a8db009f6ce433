"""Ways to rank labels for a few examples of a batch: `compare_negatives.py` sets them beside
`negatives`' own, of which "ranked" scores a run of labels exactly.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from sparse_jax.retrieval import index, topk
from sparse_jax.retrieval.index import LshIndex
from sparse_jax.xmc.negatives import BEST, RANKING, Candidates, Strategy, best_columns, by_place
from sparse_jax.xmc.network import Params

RESCORED = 256  # rows that the tables find for an example


def _rescored(
    key: jax.Array, tables: LshIndex | None, params: Params, hidden: jax.Array, config: Any
) -> Candidates:
    """Exact logits of the rows that hash tables find, and the best of them."""
    assert tables is not None
    few = hidden[:RANKING]
    found = index.candidates(
        tables, few, config=dataclasses.replace(config.index, max_candidates=RESCORED)
    )
    best = topk.among(few, params["output"], params["output_bias"], found.ids, k=BEST)
    return by_place(best.ids)


def _exact_of_few(
    key: jax.Array, tables: LshIndex | None, params: Params, hidden: jax.Array, config: Any
) -> Candidates:
    """The best of all labels, by products in bfloat16 that add up in float32."""
    few = hidden[:RANKING].astype(jnp.bfloat16)
    logits = jax.lax.dot_general(
        few,
        params["output"].astype(jnp.bfloat16),
        (((1,), (1,)), ((), ())),
        preferred_element_type=jnp.float32,
    )
    return by_place(best_columns(logits + params["output_bias"][None, :], BEST))


WAYS = {
    "rescored": Strategy(
        "exact logits of 256 rows that tables find, for a few examples", _rescored, uses_index=True
    ),
    "exact": Strategy(
        "the best of all labels, for a few examples",
        _exact_of_few,
        scored=lambda examples, labels: min(examples, RANKING) * labels,
    ),
}
