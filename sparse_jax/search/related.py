"""Documents like others: "more like this", and what to read after several."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from sparse_jax.search import fusion
from sparse_jax.search.documents import Document, check_k
from sparse_jax.search.engine import Engine, Query
from sparse_jax.search.index import Index
from sparse_jax.search.result import Result
from sparse_jax.text.features import WORD
from sparse_jax.text.postings import best, inverse_document_frequency, saturate

__all__ = ["related"]

_FEATURES = 256  # of the documents given, those that tell most
_WORDS = 12  # shown as what they have in common


def related(
    index: Index, ids: str | Sequence[str], k: int = 10, *, where: Mapping[str, Any] | None = None
) -> list[Result]:
    """Documents like one of the index, or like several at once.

    Each document given counts alike: its features are weighed as those of a query are, by how rare
    they are, and by how often it holds them; the network compares its row with the others'.

    Args:
      index: that holds them.
      ids: of a document, or of several, one at least.
      k: how many to find.
      where: only documents with this metadata, as for `Index.search`.

    Returns:
      At most k results, best first, none of those given; `words` of a result are what it shares
      with them of their most telling words.

    Raises:
      KeyError: if there is no document with an id. ValueError: if `ids` is empty, or k below 1.

    Example:
      >>> from sparse_jax import search
      >>> texts = {"a": "red apples grow", "b": "cars need fuel", "c": "apples on trees"}
      >>> documents = [search.Document(id, text) for id, text in texts.items()]
      >>> config = search.Config(num_features=1 << 12, dim=8, cold_steps=2)
      >>> found = related(search.fit(documents, config=config), "a", k=1)[0]
      >>> found.id, found.words
      ('c', ['apples'])
    """
    if not isinstance(ids, Iterable):
        raise TypeError(f"ids = {ids!r:.40}: must be an id or several; ids are strings")
    wanted = [ids] if isinstance(ids, str) else list(dict.fromkeys(ids))
    if not wanted:
        raise ValueError("ids = []: must name a document at least")
    check_k(k)
    with index._lock:
        index._settle()
        store, engine = index._documents, index._engine
        numbers = np.array([store.number(id) for id in wanted])
        query = _query(engine, [index.get(id) for id in wanted])
        rows = engine.output
        mean = rows[numbers].mean(axis=0)
        deep = engine.dots(mean / np.float32(max(float(np.linalg.norm(mean)), 1e-6)))
        scores = fusion.fuse(engine.lexical(query), deep, weight=engine.config.deep_weight)
        allowed = store.matching(where).copy()
        allowed[numbers] = False
        scores = np.where(allowed, scores, -np.inf)
        found = best(scores, k)
        return [index._result(n, scores[n], query.text) for n in found[found >= 0]]


def _query(engine: Engine, documents: Sequence[Document]) -> Query:
    """What the documents would ask for: the mean of their weights, of the heaviest features."""
    config = engine.config
    found = engine.extract([d.text for d in documents], [d.title for d in documents])
    features, alive = found.features, engine.wide.num_alive
    idf = inverse_document_frequency(engine.wide.document_frequency[features.ids], alive)
    kinds = np.asarray(config.kind_weights, np.float32)[features.kinds]
    weights = kinds * idf * saturate(features.counts, np.full(1, 1.2, np.float32), k1=1.2)
    word = features.kinds == WORD
    most = weights * np.where(word, config.bm25_k1 + 1, config.k1 + 1)
    totals = np.bincount(features.rows, most, minlength=len(documents)) * len(documents)
    shares = weights / np.maximum(totals, 1e-9)[features.rows]
    ids, wide = _heaviest(features.ids[~word], shares[~word])
    words, plain = _heaviest(features.ids[word], shares[word])
    by_id = dict(zip(found.hasher.word_ids.tolist(), found.hasher.tokens.words, strict=True))
    telling = words[np.argsort(-plain, kind="stable")[:_WORDS]].tolist()
    text = " ".join(by_id[id] for id in telling)
    return Query(text, ids, wide, words, plain, np.zeros_like(wide))


def _heaviest(ids: np.ndarray, shares: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Distinct ids int32, and the sums of their shares, float32; of those that have most."""
    distinct, at = np.unique(ids, return_inverse=True)
    sums = np.bincount(at, shares, minlength=distinct.size)
    chosen = np.sort(np.argsort(-sums, kind="stable")[:_FEATURES])
    return distinct[chosen].astype(np.int32), sums[chosen].astype(np.float32)
