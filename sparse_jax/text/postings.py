"""Postings with global document frequencies: the wide, sparse layer from features to documents.

`Postings` holds one weight for each (feature, document) pair that occurs. Documents come in
segments, as in Lucene: an insertion adds one, and small ones are merged now and then.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from sparse_jax.text.features import Features

__all__ = [
    "Postings",
    "best",
    "inverse_document_frequency",
    "lengths",
    "saturate",
]

_MOST_SEGMENTS = 8
_BLOCK = 64
_DENSE_SHARE, _DENSE_SIZE = 12, 1000


@dataclasses.dataclass(frozen=True)
class Segment:
    """Some documents, inverted. Features ascend, and documents in each."""

    first: int
    count: int
    features: np.ndarray  # int32 [u], distinct
    offsets: np.ndarray  # int64 [u + 1]
    documents: np.ndarray  # int32 [nnz], global numbers
    weights: np.ndarray  # float32 [nnz]
    dense: dict[int, np.ndarray] = dataclasses.field(init=False)

    def __post_init__(self) -> None:
        """Spreads the lists that hold much of the segment out: adding a row is faster by far."""
        sizes = np.diff(self.offsets)
        frequent = np.flatnonzero(sizes > max(self.count // _DENSE_SHARE, _DENSE_SIZE))
        rows = np.zeros((frequent.size, self.count), np.float32)
        for row, at in zip(rows, frequent, strict=True):
            part = slice(self.offsets[at], self.offsets[at + 1])
            row[self.documents[part] - self.first] = self.weights[part]
        object.__setattr__(self, "dense", dict(zip(frequent.tolist(), rows, strict=True)))

    def add_to(self, out: np.ndarray, features: np.ndarray, weights: np.ndarray) -> None:
        """Adds the scores of its documents into those of all."""
        if not self.features.size:
            return
        own = out[self.first : self.first + self.count]
        at = np.minimum(np.searchsorted(self.features, features), self.features.size - 1)
        hit = np.flatnonzero(self.features[at] == features)
        for i in hit.tolist():
            row = self.dense.get(int(at[i]))
            if row is not None:
                own += weights[i] * row
            else:
                start, stop = self.offsets[at[i]], self.offsets[at[i] + 1]
                out[self.documents[start:stop]] += weights[i] * self.weights[start:stop]


class Postings:
    """Weights w[f, n] of features in documents, and sums over the features of a query.

    ``score[n] = sum_f q[f] w[f, n]``.

    Args:
      num_features: features are in [0, num_features).

    Example:
      >>> p = Postings(10)
      >>> p.add(np.array([0, 2, 3]), np.array([4, 7, 7], np.int32), np.ones(3, np.float32))
      >>> p.score(np.array([7], np.int32), np.array([0.5], np.float32)).tolist()
      [0.5, 0.5]
    """

    def __init__(self, num_features: int) -> None:
        self.num_documents = 0
        self.document_frequency = np.zeros(num_features, np.int32)
        self.segments: list[Segment] = []

    def add(self, offsets: np.ndarray, features: np.ndarray, weights: np.ndarray) -> None:
        """Appends documents, one CSR row each, with distinct features in a row."""
        count = offsets.size - 1
        if count == 0:
            return
        documents = np.repeat(np.arange(count, dtype=np.int32), np.diff(offsets))
        order = np.argsort(features, kind="stable")
        distinct, starts = np.unique(features[order], return_index=True)
        bounds = np.append(starts, features.size).astype(np.int64)
        self.document_frequency[distinct] += np.diff(bounds).astype(np.int32)
        documents = documents[order] + np.int32(self.num_documents)
        self.segments.append(
            Segment(self.num_documents, count, distinct, bounds, documents, weights[order])
        )
        self.num_documents += count
        if len(self.segments) > _MOST_SEGMENTS:
            self._merge()

    def score(self, features: np.ndarray, weights: np.ndarray) -> np.ndarray:
        """Scores of every document: float32 [num_documents].

        Args:
          features: int32 [n], distinct.
          weights: float32 [n], of the query.
        """
        out = np.zeros(self.num_documents, np.float32)
        for segment in self.segments:
            segment.add_to(out, features, weights)
        return out

    def weights_in(self, document: int, features: np.ndarray) -> np.ndarray:
        """The weights of features in one document: float32, 0 where it hasn't them."""
        out = np.zeros(features.size, np.float32)
        for segment in self.segments:
            if not segment.features.size:
                continue
            at = np.minimum(np.searchsorted(segment.features, features), segment.features.size - 1)
            for i in np.flatnonzero(segment.features[at] == features):
                start, stop = segment.offsets[at[i]], segment.offsets[at[i] + 1]
                place = start + np.searchsorted(segment.documents[start:stop], document)
                if place < stop and segment.documents[place] == document:
                    out[i] = segment.weights[place]
        return out

    def _merge(self, *, all: bool = False) -> None:
        """Joins the small segments, and the large one with them once they are half its size."""
        small = sum(s.count for s in self.segments[1:])
        kept = [] if all or 2 * small >= self.segments[0].count else self.segments[:1]
        parts = self.segments[len(kept) :]
        features = np.concatenate([np.repeat(s.features, np.diff(s.offsets)) for s in parts])
        # Stable, and documents ascend from part to part: so do they in each list.
        order = np.argsort(features, kind="stable")
        distinct, starts = np.unique(features[order], return_index=True)
        merged = Segment(
            parts[0].first,
            sum(s.count for s in parts),
            distinct,
            np.append(starts, features.size).astype(np.int64),
            np.concatenate([s.documents for s in parts])[order],
            np.concatenate([s.weights for s in parts])[order],
        )
        self.segments = [*kept, merged]

    def arrays(self) -> dict[str, np.ndarray]:
        """All of it as one segment of plain arrays, for `restore`."""
        if len(self.segments) > 1:
            self._merge(all=True)
        only = self.segments[0]
        names = ("features", "offsets", "documents", "weights")
        return {"count": np.array(only.count), **{name: getattr(only, name) for name in names}}

    @classmethod
    def restore(cls, num_features: int, arrays: dict[str, np.ndarray]) -> Postings:
        """What `arrays` was made of."""
        made = cls(num_features)
        made.num_documents = int(arrays["count"])
        columns = [arrays[n] for n in ("features", "offsets", "documents", "weights")]
        made.segments = [Segment(0, made.num_documents, *columns)]
        made.document_frequency[arrays["features"]] = np.diff(arrays["offsets"])
        return made


def inverse_document_frequency(frequency: np.ndarray, documents: int) -> np.ndarray:
    """log(1 + (N − n + ½) / (n + ½)), as in Lucene; float32."""
    frequency = frequency.astype(np.float32)
    return np.log1p((documents - frequency + 0.5) / (frequency + 0.5)).astype(np.float32)


def saturate(counts: np.ndarray, lengths: np.ndarray, *, mean: float, k1: float, b: float):
    """c (k1 + 1) / (c + k1 (1 − b + b length / mean)), float32.

    Reference: Robertson and Zaragoza, The Probabilistic Relevance Framework, 2009, section 3.5.
    """
    norm = k1 * (1 - b + b * lengths / max(mean, 1e-9))
    return (counts * (k1 + 1) / (counts + norm)).astype(np.float32)


def lengths(features: Features) -> np.ndarray:
    """Sum of counts of each text, float32 [texts]."""
    count = features.offsets.size - 1
    return np.bincount(features.rows, features.counts, minlength=count).astype(np.float32)


def _kth_largest(scores: np.ndarray, k: int) -> float:
    """Looks into the blocks whose maxima are among the k largest only: most of them aren't."""
    whole = scores.size // _BLOCK * _BLOCK
    if k * _BLOCK * 4 > whole:
        return float(np.partition(scores, scores.size - k)[scores.size - k])
    blocks = scores[:whole].reshape(-1, _BLOCK)
    chosen = np.argpartition(blocks.max(axis=1), blocks.shape[0] - k)[blocks.shape[0] - k :]
    left = np.concatenate([blocks[chosen].ravel(), scores[whole:]])
    return float(np.partition(left, left.size - k)[left.size - k])


def best(scores: np.ndarray, count: int) -> np.ndarray:
    """Numbers of the best documents, best first, equal ones in order of number; -1 for -inf.

    Example:
      >>> best(np.array([1.0, 2.0, 2.0, -np.inf]), 4).tolist()
      [1, 2, 0, -1]
    """
    count = min(count, scores.size)
    if count < scores.size:
        edge = _kth_largest(scores, count)
        above = np.flatnonzero(scores > edge)
        found = np.concatenate([above, np.flatnonzero(scores == edge)[: count - above.size]])
    else:
        found = np.arange(count)
    found = found[np.argsort(-scores[found], kind="stable")]
    return np.where(scores[found] > -np.inf, found, -1)
