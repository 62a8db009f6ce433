"""A small search index that tests share."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from importlib.resources import files
from pathlib import Path

import numpy as np

from sparse_jax import search
from sparse_jax.commands import search as command

SMALL = search.Config(num_features=1 << 17, dim=16, train_from=100, cold_steps=20, cold_batch=32)
TINY = search.Config(num_features=1 << 14, dim=16, cold_steps=5, cold_batch=32)


def run_search(capsys, *args: object) -> str:
    """What a search command prints."""
    assert command.main([str(a) for a in args]) == 0
    return capsys.readouterr().out


def write_rows(path: Path, rows: Iterable[Mapping]) -> Path:
    """Writes JSONL."""
    path.write_text("".join(json.dumps(r, ensure_ascii=False) + "\n" for r in rows), "utf-8")
    return path


def sample() -> list[search.Document]:
    text = (files("sparse_jax.search") / "sample.jsonl").read_text(encoding="utf-8")
    rows = [json.loads(line) for line in text.splitlines()]
    return [search.Document(r["id"], r["text"], metadata={"first": r["id"][0]}) for r in rows]


def same(a: search.Index, b: search.Index) -> None:
    """Equal documents and equal bits."""
    assert a._documents.living() == b._documents.living()
    for query in ("python library", "documentation of fonts"):
        assert a.search(query) == b.search(query)
    for name in ("embedding", "gain", "output"):
        rows = []
        for index in (a, b):
            array = np.asarray(getattr(index._engine.network, name))
            alive = np.flatnonzero(index._documents.alive)
            rows.append(array[alive] if name == "output" else array)
        np.testing.assert_array_equal(*rows)
