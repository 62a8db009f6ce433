"""Scores: BM25 of words, of their parts and pairs, and the network, fused by fixed weights.

The first two are divided by what the query could reach at most, so that a query whose words no
document has leaves the decision to the network, which may have learned what they mean.

The first two parts are functions of the documents alive alone: see `text.postings`. The network,
with the weights of features in its bag, is one of the documents it was laid on (`Engine.lay`):
`state` says when it is laid anew.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from sparse_jax.search import fusion
from sparse_jax.search.config import Config
from sparse_jax.search.parameters import Network, Stored
from sparse_jax.text.features import WORD, Features, Hasher, Tokens, extract, tokenize
from sparse_jax.text.postings import Postings, inverse_document_frequency

__all__ = ["Engine", "Query"]

MAX_QUERIES = 64
"""Queries scored at once."""
# Documents that must hold a feature for what training makes of its row to stay. Of rarer ones, most
# of all, it tells nothing that their random rows don't: no measure of ours fell by .001.
_TRAINED_FROM = 4
_FEW = 8192  # documents, whose products take a tenth of a millisecond
# Of words, n-grams and pairs in the bag: there are many n-grams in a word, and all say nearly the
# same.
_DEEP_KINDS = np.asarray([1.0, 0.5, 0.5], np.float32)


@dataclasses.dataclass(frozen=True)
class Query:
    """A query, read once."""

    text: str
    ids: np.ndarray  # int32 [n], distinct features but for collisions of kinds
    wide_weights: np.ndarray  # float32 [n], of parts and pairs of words; 0 for words
    words: np.ndarray  # int32 [m], the features that are words
    word_weights: np.ndarray  # float32 [m], of those in BM25
    deep_values: np.ndarray  # float32 [n], of the features in the bag; unit length


class Extracted(NamedTuple):
    """What is read of documents."""

    features: Features  # words of titles count more
    hasher: Hasher


class Engine:
    """Everything that scores, without names, storage or feedback: documents are numbers."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.wide = Postings(config.num_features, k1=config.k1, b=config.b)
        self.bm25 = Postings(config.num_features, k1=config.bm25_k1, b=config.bm25_b)
        self.deep_idf = np.zeros(config.num_features, np.float32)  # of what it was laid on
        self.pristine = True  # the embedding is as it was drawn: neither trained nor taught
        self.trained = False
        fresh = Stored.fresh(seed=config.seed, num_features=config.num_features, dim=config.dim)
        self.stored: Stored | None = fresh  # until `network` is asked for
        self._network: Network | None = None

    @property
    def network(self) -> Network:
        """The parameters as arrays of JAX."""
        if self.stored is not None:
            from sparse_jax.search import network

            self._network, self.stored = network.unpack(self.stored), None
        assert self._network is not None
        return self._network

    @network.setter
    def network(self, new: Network) -> None:
        self._network, self.stored = new, None

    def pack(self) -> Stored:
        """The parameters as they are kept on disk."""
        if self.stored is None:
            from sparse_jax.search import network

            return network.pack(self.network, seed=self.config.seed, documents=self.num_documents)
        return self.stored

    @property
    def output(self) -> np.ndarray:
        """Rows of the documents: float32 [documents, d]."""
        whole = self.network.output if self.stored is None else self.stored.output
        return np.asarray(whole)[: self.num_documents]

    @property
    def num_documents(self) -> int:
        """Numbers given so far, those of dead documents among them until `compact`."""
        return self.wide.num_documents

    def fit(
        self,
        texts: Sequence[str],
        titles: Sequence[str],
        *,
        order: np.ndarray | None = None,
        train: bool = True,
    ) -> None:
        """Takes the first documents and lays the network on them, as `lay` does."""
        self._lay(self._add(texts, titles), np.arange(len(texts)), order=order, train=train)

    def insert(self, texts: Sequence[str], titles: Sequence[str]) -> None:
        """Takes more documents; trains nothing. An untrained network waits for `lay`."""
        from sparse_jax.search import laying

        first = self.num_documents
        found = self._add(texts, titles)
        self.network = laying.grow(self.network, self.num_documents)
        if not self.pristine:
            new = np.arange(first, self.num_documents)
            self.network = laying.set_rows(self.network, found.features, new, self.deep_values)

    def delete(self, number: int, text: str, title: str) -> None:
        """Takes a document, whose text and title these are, out of all statistics."""
        features = self.extract([text], [title]).features
        self.wide.remove(number, features.ids)
        self.bm25.remove(number, features.ids[features.kinds == WORD])

    def compact(self) -> np.ndarray:
        """Forgets dead documents; returns new numbers as `Postings.compact` does."""
        from sparse_jax.search import laying

        alive = np.flatnonzero(self.wide.alive)
        numbers = self.wide.compact()
        self.bm25.compact()
        self.network = laying.compact(self.network, alive)
        return numbers

    def lay(
        self,
        texts: Sequence[str],
        titles: Sequence[str],
        numbers: np.ndarray,
        *,
        order: np.ndarray | None = None,
        train: bool = True,
    ) -> None:
        """Makes the network anew, as `fit` of these documents would: all feedback is forgotten.

        Args:
          texts: of all documents alive.
          titles: of these.
          numbers: int64 [documents], ascending.
          order: int64 [documents], in which training sees them: where it follows from the documents
            themselves, so does the network.
          train: on pieces of the documents; the embedding is random otherwise.
        """
        self._lay(self.extract(texts, titles), numbers, order=order, train=train)

    def _lay(
        self, found: Extracted, numbers: np.ndarray, *, order: np.ndarray | None, train: bool
    ) -> None:
        from sparse_jax.search import laying, network

        config, frequency = self.config, self.wide.document_frequency
        self.deep_idf = inverse_document_frequency(frequency, self.wide.num_alive)
        capacity = laying.grow(self.network, self.num_documents).output.shape[0]
        if train:
            order = np.arange(numbers.size) if order is None else order
            embedding = laying.train(
                found.features,
                _reorder(found.hasher, order),
                self.deep_values,
                order=order,
                kept=frequency >= _TRAINED_FROM,
                config=config,
            )
        elif self.pristine:
            embedding = self.network.embedding
        else:
            size = config.num_features
            embedding = network.drawn(seed=config.seed, num_features=size, dim=config.dim)
        self.pristine, self.trained = not train, train
        self.network = laying.lay(
            embedding, found.features, numbers, self.deep_values, capacity=capacity
        )

    def read(self, text: str) -> Query:
        """Features and weights of a query."""
        return self.read_batch([text])[0]

    def read_batch(self, texts: Sequence[str]) -> list[Query]:
        """`read` for several queries at once."""
        config = self.config
        features = extract(texts, num_features=config.num_features, stems=True)
        alive = self.wide.num_alive
        idf = inverse_document_frequency(self.wide.document_frequency[features.ids], alive)
        # Words count by postings of their own, where they share ids with words alone.
        wide = np.asarray([0.0, *config.kind_weights[1:]], np.float32)[features.kinds] * idf
        deep = self.deep_values(features)
        queries = []
        for text, a, b in zip(texts, features.offsets[:-1], features.offsets[1:], strict=True):
            ids, kinds = features.ids[a:b], features.kinds[a:b]
            words = ids[kinds == WORD]
            word_idf = inverse_document_frequency(self.bm25.document_frequency[words], alive)
            word_idf *= np.float32(config.kind_weights[0])
            most = wide[a:b].sum() * (config.k1 + 1) + word_idf.sum() * (config.bm25_k1 + 1)
            share = np.float32(1 / max(float(most), 1e-9))
            queries.append(Query(text, ids, wide[a:b] * share, words, word_idf * share, deep[a:b]))
        return queries

    def lexical(self, query: Query) -> np.ndarray:
        """The part that feedback doesn't change: float32 [documents]."""
        sums = self._sums(query)
        return sums * fusion.lift(sums, self.wide.alive)

    def lift(self, query: Query) -> np.float32:
        """By what `lexical` multiplies the sums of a query's weights."""
        return fusion.lift(self._sums(query), self.wide.alive)

    def _sums(self, query: Query) -> np.ndarray:
        counts = query.wide_weights > 0
        wide = self.wide.score(query.ids[counts], query.wide_weights[counts])
        return wide + self.bm25.score(query.words, query.word_weights)

    def hidden(self, queries: Sequence[Query], *, room: int) -> np.ndarray:
        """h of queries, padded with zeros to `room` rows: float32 [room, d]."""
        from sparse_jax.search import network

        bags = network.join_bags([q.ids for q in queries], [q.deep_values for q in queries], room)
        return np.asarray(network.hidden(self.network, bags, texts=room))

    def deep(self, query: Query) -> np.ndarray:
        """Scores of the network: float32 [documents]."""
        h = self.parts(query).sum(axis=0)
        return self.dots(h)

    def dots(self, h: np.ndarray) -> np.ndarray:
        """Products of vectors [..., d] with the rows of all documents: float32 [..., documents].

        In BLAS the last bit depends on where in the matrix a row stands. Where documents are few
        equal rows have equal bits, at twice the time.
        """
        if len(self.output) > _FEW:
            return h @ self.output.T
        rows = [np.einsum("nd,d->n", self.output, one) for one in np.atleast_2d(h)]
        return np.stack(rows).reshape(*h.shape[:-1], -1)

    def parts(self, query: Query) -> np.ndarray:
        """What each feature adds to h, by NumPy, quicker for one query: float32 [n, d]."""
        if self.stored is not None:
            rows, gains = self.stored.embedding_rows(query.ids), self.stored.gains(query.ids)
        else:
            rows = np.asarray(self.network.embedding)[query.ids]
            gains = np.asarray(self.network.gain)[query.ids]
        rows = rows * query.deep_values[:, None]
        gain = 1 + np.dot(query.deep_values**2, gains)
        return rows * (gain / max(float(np.linalg.norm(rows.sum(axis=0))), 1e-6))

    def score(self, query: Query) -> np.ndarray:
        """Fused scores: float32 [documents]."""
        return self.fuse(self.lexical(query), query)

    def fuse(self, lexical: np.ndarray, query: Query) -> np.ndarray:
        """Fused scores of a query whose lexical ones are known: float32 [documents]."""
        return fusion.fuse(lexical, self.deep(query), weight=self.config.deep_weight)

    def score_batch(self, queries: Sequence[Query]) -> np.ndarray:
        """Fused scores of at most `MAX_QUERIES`: float32 [queries, documents]."""
        out = self.dots(self.hidden(queries, room=MAX_QUERIES)[: len(queries)])
        for row, query in zip(out, queries, strict=True):
            row[:] = fusion.fuse(self.lexical(query), row, weight=self.config.deep_weight)
        return out

    def deep_values(self, features: Features) -> np.ndarray:
        """Weights in the bag, of unit length in each text."""
        saturated = features.counts * 2.2 / (features.counts + 1.2)
        values = _DEEP_KINDS[features.kinds] * self.deep_idf[features.ids] * saturated
        squares = np.bincount(features.rows, values**2, minlength=features.offsets.size - 1)
        return (values / np.sqrt(np.maximum(squares, 1e-12))[features.rows]).astype(np.float32)

    def extract(self, texts: Sequence[str], titles: Sequence[str]) -> Extracted:
        config = self.config
        tokens = tokenize([f"{a} {b}" if a else b for a, b in zip(titles, texts, strict=True)])
        hasher = Hasher(tokens, num_features=config.num_features, stems=True)
        features = hasher.all()
        if any(titles) and config.strong > 1:
            strong = extract(titles, num_features=config.num_features, stems=True)
            features = _add_counts(features, strong, config.strong - 1)
        return Extracted(features, hasher)

    def _add(self, texts: Sequence[str], titles: Sequence[str]) -> Extracted:
        """Appends documents to the postings."""
        found = self.extract(texts, titles)
        features = found.features
        self.wide.add(features.offsets, features.ids, features.counts)
        word = features.kinds == WORD
        sizes = np.bincount(features.rows[word], minlength=len(texts))
        offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(sizes)])
        self.bm25.add(offsets, features.ids[word], features.counts[word])
        return found


def _reorder(hasher: Hasher, order: np.ndarray) -> Hasher:
    """The texts in another order."""
    tokens = hasher.tokens
    sizes = np.diff(tokens.offsets)[order]
    offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(sizes)])
    at = np.arange(offsets[-1]) + np.repeat(tokens.offsets[order] - offsets[:-1], sizes)
    new = copy.copy(hasher)
    new.tokens = Tokens(offsets, tokens.types[at], tokens.words)
    return new


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
