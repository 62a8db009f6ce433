"""Scores: hashed features, BM25 and the network, fused by fixed weights.

Each part is divided by what the query could reach at most, so that a query whose words no document
has leaves the decision to the network, which may have been told what they mean.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from sparse_jax.search import cold, network
from sparse_jax.search.features import WORD, Features, Hasher, extract, tokenize
from sparse_jax.search.lexical import (
    Postings,
    bm25_rows,
    inverse_document_frequency,
    lengths,
    saturate,
)

__all__ = ["Config", "Engine", "Query"]

_ENCODE_AT_ONCE = 256
# In the bag n-grams count half: there are many in a word, and all say nearly the same.
_DEEP_KINDS = np.asarray([1.0, 0.5, 1.0], np.float32)


@dataclasses.dataclass(frozen=True)
class Config:
    """What an index computes. Saved with it; the defaults are what docs/benchmarks.md measured."""

    num_features: int = 1 << 18  # features are hashed into so many
    dim: int = 128  # width of the network
    kind_weights: tuple[float, float, float] = (1.0, 1.0, 0.5)  # words, n-grams, pairs
    k1: float = 0.8  # saturation of the hashed features
    b: float = 0.5  # their normalization by length
    bm25_k1: float = 1.2
    bm25_b: float = 0.75
    bm25_weight: float = 0.2  # in the fused score; the hashed features have weight 1
    deep_weight: float = 0.3
    strong: float = 2.0  # a word of the title counts as so many of the text
    cold_steps: int = 1500  # training steps at the start; fewer where documents are few
    cold_batch: int = 512
    seed: int = 0


@dataclasses.dataclass(frozen=True)
class Query:
    """A query, read once."""

    text: str
    features: Features
    wide: tuple[np.ndarray, np.ndarray]  # feature ids, weights
    words: tuple[np.ndarray, np.ndarray]
    bags: network.Bags


class Engine:
    """Everything that scores, without names, storage or feedback: documents are numbers."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.wide = Postings(config.num_features)
        self.bm25 = Postings(config.num_features)
        self.mean_length = 0.0
        self.deep_idf = np.zeros(config.num_features, np.float32)  # frozen at the cold start
        self.network = network.init(
            jax.random.key(config.seed),
            num_features=config.num_features,
            dim=config.dim,
            capacity=1,
        )

    @property
    def num_documents(self) -> int:
        return self.wide.num_documents

    def start(self, texts: Sequence[str], titles: Sequence[str]) -> None:
        """Takes the first documents and trains the network on them."""
        features, hasher = self._add_postings(texts, titles)
        self.deep_idf = inverse_document_frequency(self.wide.document_frequency, self.num_documents)
        self._grow(self.num_documents)
        self._encode_rows(features, 0)
        self.network = cold.train(
            self.network, hasher, lambda f: self._deep_values(f), config=self.config
        )
        self._encode_rows(features, 0)

    def insert(self, texts: Sequence[str], titles: Sequence[str]) -> None:
        """Takes more documents; trains nothing."""
        first = self.num_documents
        features, _ = self._add_postings(texts, titles)
        self._grow(self.num_documents)
        self._encode_rows(features, first)

    def read(self, text: str) -> Query:
        """Features and weights of a query."""
        config = self.config
        features = extract([text], num_features=config.num_features)
        kinds = np.asarray(config.kind_weights, np.float32)
        idf = inverse_document_frequency(
            self.wide.document_frequency[features.ids], self.num_documents
        )
        weights = kinds[features.kinds] * idf
        words = features.ids[features.kinds == WORD]
        word_idf = inverse_document_frequency(
            self.bm25.document_frequency[words], self.num_documents
        )
        most = np.float32(config.k1 + 1), np.float32(config.bm25_k1 + 1)
        return Query(
            text,
            features,
            (features.ids, weights / max(float(weights.sum()) * most[0], 1e-9)),
            (words, word_idf / max(float(word_idf.sum()) * most[1], 1e-9)),
            network.pad_bags(features, self._deep_values(features)),
        )

    def lexical(self, query: Query) -> np.ndarray:
        """The part that feedback doesn't change: float32 [documents]."""
        return self.wide.score(*query.wide) + np.float32(self.config.bm25_weight) * self.bm25.score(
            *query.words
        )

    def hidden(self, query: Query) -> np.ndarray:
        """h, float32 [d]."""
        return np.asarray(network.encode(self.network.embedding, query.bags, texts=1))[0]

    def deep(self, query: Query) -> np.ndarray:
        """Cosines with every document's row: float32 [documents]."""
        return np.asarray(self.network.output)[: self.num_documents] @ self.hidden(query)

    def score(self, query: Query) -> np.ndarray:
        """Fused scores: float32 [documents]."""
        return self.lexical(query) + np.float32(self.config.deep_weight) * self.deep(query)

    def _deep_values(self, features: Features) -> np.ndarray:
        """Weights in the bag, of unit length in each text."""
        config = self.config
        kinds = np.asarray(config.kind_weights, np.float32) * _DEEP_KINDS
        saturated = features.counts * 2.2 / (features.counts + 1.2)
        values = kinds[features.kinds] * self.deep_idf[features.ids] * saturated
        squares = np.bincount(features.rows, values**2, minlength=features.offsets.size - 1)
        return (values / np.sqrt(np.maximum(squares, 1e-12))[features.rows]).astype(np.float32)

    def _add_postings(self, texts: Sequence[str], titles: Sequence[str]) -> tuple[Features, Hasher]:
        config = self.config
        joined = [f"{a} {b}" if a else b for a, b in zip(titles, texts, strict=True)]
        tokens = tokenize(joined)
        hasher = Hasher(tokens, num_features=config.num_features)
        features = hasher.all()
        if any(titles) and config.strong > 1:
            strong = extract(titles, num_features=config.num_features)
            features = _add_counts(features, strong, config.strong - 1)
        size = lengths(features)
        if not self.num_documents:
            self.mean_length = float(size.mean()) if size.size else 1.0
        weights = saturate(
            features.counts, size[features.rows], mean=self.mean_length, k1=config.k1, b=config.b
        )
        self.wide.add(features.offsets, features.ids, weights)
        word_ids = hasher.word_ids.astype(np.int64)
        self.bm25.add(*bm25_rows(tokens, word_ids, k1=config.bm25_k1, b=config.bm25_b))
        return features, hasher

    def _grow(self, documents: int) -> None:
        """Makes room in the output layer: capacity doubles, so that few shapes are compiled."""
        have = self.network.output.shape[0]
        if documents > have:
            capacity = max(documents if have == 1 else 2 * have, documents, 1)
            more = jnp.zeros((capacity - have, self.config.dim), jnp.float32)
            output = jnp.concatenate([self.network.output, more])
            self.network = dataclasses.replace(self.network, output=output)

    def _encode_rows(self, features: Features, first: int) -> None:
        """Sets the rows of documents from `first` on to the encodings of their texts."""
        count = features.offsets.size - 1
        for start in range(0, count, _ENCODE_AT_ONCE):
            stop = min(start + _ENCODE_AT_ONCE, count)
            a, b = features.offsets[start], features.offsets[stop]
            part = Features(
                np.concatenate(
                    [
                        features.offsets[start : stop + 1] - a,
                        np.full(_ENCODE_AT_ONCE - (stop - start), b - a),
                    ]
                ),
                *(column[a:b] for column in features[1:]),
            )
            bags = network.pad_bags(part, self._deep_values(part))
            rows = network.encode(self.network.embedding, bags, texts=_ENCODE_AT_ONCE)
            ids = np.full(_ENCODE_AT_ONCE, -1, np.int32)
            ids[: stop - start] = np.arange(first + start, first + stop)
            output = network.put_rows(self.network.output, ids, rows)
            self.network = dataclasses.replace(self.network, output=output)


def _add_counts(features: Features, more: Features, times: float) -> Features:
    """Counts of `features` plus `times` those of `more`, whose features are a subset, by text."""
    key = features.rows.astype(np.int64) << 32 | features.ids.astype(np.int64)
    order = np.lexsort((features.kinds, key))
    base = (key << 2 | features.kinds)[order]
    extra = (more.rows.astype(np.int64) << 32 | more.ids.astype(np.int64)) << 2 | more.kinds
    at = np.searchsorted(base, extra)
    found = (at < base.size) & (base[np.minimum(at, base.size - 1)] == extra)
    counts = features.counts.copy()
    counts[order[at[found]]] += np.float32(times) * more.counts[found]
    return features._replace(counts=counts)
