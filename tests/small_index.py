"""A small search index that tests share."""

from __future__ import annotations

import json
from importlib.resources import files

import jax
import numpy as np

from sparse_jax import search

SMALL = search.Config(num_features=1 << 17, dim=16, cold_steps=20, cold_batch=32)


def sample() -> list[search.Document]:
    text = (files("sparse_jax.search") / "sample.jsonl").read_text(encoding="utf-8")
    rows = [json.loads(line) for line in text.splitlines()]
    return [search.Document(r["id"], r["text"], metadata={"first": r["id"][0]}) for r in rows]


def same(a: search.Index, b: search.Index) -> None:
    """Equal documents and equal bits."""
    assert a._documents.items == b._documents.items
    assert a._documents.numbers == b._documents.numbers
    for x, y in zip(
        jax.tree.leaves(a._engine.network), jax.tree.leaves(b._engine.network), strict=True
    ):
        n = len(a._documents.items)
        rows = slice(None) if x.shape[0] == SMALL.num_features else slice(n)
        np.testing.assert_array_equal(np.asarray(x)[rows], np.asarray(y)[rows])
    for query in ("python library", "documentation of fonts"):
        assert a.search(query) == b.search(query)
