"""Scores: hashed features, BM25 and the network, fused by fixed weights.

Each part is divided by what the query could reach at most, so that a query whose words no document
has leaves the decision to the network, which may have learned what they mean.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from sparse_jax.search import cold, fusion, network
from sparse_jax.search.bm25 import bm25_rows
from sparse_jax.search.config import Config
from sparse_jax.text.features import PAIR, WORD, Features, Hasher, extract, normalize, tokenize
from sparse_jax.text.postings import (
    Postings,
    inverse_document_frequency,
    lengths,
    saturate,
)

__all__ = ["Engine", "Query"]

_ENCODE_AT_ONCE = 256
MAX_QUERIES = 64
"""Queries scored at once."""
# In the bag n-grams count half: there are many in a word, and all say nearly the same.
_DEEP_KINDS = np.asarray([1.0, 0.5, 1.0], np.float32)


@dataclasses.dataclass(frozen=True)
class Query:
    """A query, read once."""

    text: str
    ids: np.ndarray  # int32 [n], distinct features but for collisions of kinds
    wide_weights: np.ndarray  # float32 [n], of the features in the hashed part
    words: np.ndarray  # int32 [m], the features that are words
    word_weights: np.ndarray  # float32 [m], of those in BM25
    deep_values: np.ndarray  # float32 [n], of the features in the bag; unit length


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

    def fit(self, texts: Sequence[str], titles: Sequence[str]) -> None:
        """Takes the first documents and trains the network on them."""
        features, hasher = self._add_postings(texts, titles)
        self.deep_idf = inverse_document_frequency(self.wide.document_frequency, self.num_documents)
        self._grow(self.num_documents)
        self._encode_rows(features, 0)
        self.network = cold.fit(
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
        return self.read_batch([text])[0]

    def read_batch(self, texts: Sequence[str]) -> list[Query]:
        """`read` for several queries at once."""
        config = self.config
        features = extract(texts, num_features=config.num_features)
        idf = inverse_document_frequency(
            self.wide.document_frequency[features.ids], self.num_documents
        )
        wide = np.asarray(config.kind_weights, np.float32)[features.kinds] * idf
        deep = self._deep_values(features)
        queries = []
        for text, a, b in zip(texts, features.offsets[:-1], features.offsets[1:], strict=True):
            ids, kinds = features.ids[a:b], features.kinds[a:b]
            words = ids[kinds == WORD]
            word_idf = inverse_document_frequency(
                self.bm25.document_frequency[words], self.num_documents
            )
            max_wide = float(wide[a:b].sum()) * (config.k1 + 1)
            max_words = float(word_idf.sum()) * (config.bm25_k1 + 1)
            queries.append(
                Query(
                    text,
                    ids,
                    (wide[a:b] / np.float32(max(max_wide, 1e-9))),
                    words,
                    word_idf / np.float32(max(max_words, 1e-9)),
                    deep[a:b],
                )
            )
        return queries

    def lexical(self, query: Query) -> np.ndarray:
        """The part that feedback doesn't change: float32 [documents]."""
        wide = self.wide.score(query.ids, query.wide_weights)
        words = self.bm25.score(query.words, query.word_weights)
        return fusion.lexical(wide, words, config=self.config)

    def hidden(self, queries: Sequence[Query], *, room: int) -> np.ndarray:
        """h of queries, padded with zeros to `room` rows: float32 [room, d]."""
        bags = network.join_bags([q.ids for q in queries], [q.deep_values for q in queries], room)
        return np.asarray(network.hidden(self.network, bags, texts=room))

    def deep(self, query: Query) -> np.ndarray:
        """Scores of the network: float32 [documents]."""
        return np.asarray(self.network.output)[: self.num_documents] @ self._parts(query).sum(
            axis=0
        )

    def _parts(self, query: Query) -> np.ndarray:
        """What each feature adds to h, by NumPy, quicker for one query: float32 [n, d]."""
        rows = np.asarray(self.network.embedding)[query.ids] * query.deep_values[:, None]
        gain = 1 + np.dot(query.deep_values**2, np.asarray(self.network.gain)[query.ids])
        return rows * (gain / max(float(np.linalg.norm(rows.sum(axis=0))), 1e-6))

    def score(self, query: Query) -> np.ndarray:
        """Fused scores: float32 [documents]."""
        return self.fuse(self.lexical(query), query)

    def fuse(self, lexical: np.ndarray, query: Query) -> np.ndarray:
        """Fused scores of a query whose lexical ones are known: float32 [documents]."""
        return fusion.fuse(lexical, self.deep(query), weight=self.config.deep_weight)

    def score_batch(self, queries: Sequence[Query]) -> np.ndarray:
        """Fused scores of at most `MAX_QUERIES`: float32 [queries, documents]."""
        hidden = self.hidden(queries, room=MAX_QUERIES)[: len(queries)]
        out = hidden @ np.asarray(self.network.output)[: self.num_documents].T
        for row, query in zip(out, queries, strict=True):
            row[:] = fusion.fuse(self.lexical(query), row, weight=self.config.deep_weight)
        return out

    def explain(self, text: str, number: int) -> list[tuple[str, float]]:
        """What each word adds to the score of a document, in the order of the text."""
        config, query = self.config, self.read(text)
        wide = query.wide_weights * self.wide.weights_in(number, query.ids)
        words = np.zeros_like(wide)
        places = np.searchsorted(query.ids, query.words)
        words[places] = query.word_weights * self.bm25.weights_in(number, query.words)
        deep = self._parts(query) @ np.asarray(self.network.output)[number]
        lexical = fusion.lexical(wide, words, config=config)
        shares = fusion.fuse(lexical, deep, weight=config.deep_weight)
        distinct, at = np.unique(query.ids, return_inverse=True)
        shares = np.bincount(at, shares)

        # Features of each word and of each pair of neighbours; the pairs without their two words.
        found = normalize(text).split()
        count = len(found)
        two = [f"{a} {b}" for a, b in itertools.pairwise(found)]
        features = extract([*found, *two], num_features=config.num_features)
        keep = (features.rows < count) | (features.kinds == PAIR)
        owner, feature = features.rows[keep], np.searchsorted(distinct, features.ids[keep])
        second = owner >= count  # a pair belongs to both its words
        owner = np.concatenate([np.where(second, owner - count, owner), owner[second] - count + 1])
        feature = np.concatenate([feature, feature[second]])
        owners = np.bincount(feature, minlength=distinct.size)
        sums = np.bincount(owner, (shares / owners)[feature], minlength=count)
        return list(zip(found, sums.tolist(), strict=True))

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
                features.offsets[start : stop + 1] - a, *(column[a:b] for column in features[1:])
            )
            values = self._deep_values(part)
            bags = network.pad_bags(part.ids, values, part.rows, _ENCODE_AT_ONCE)
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
