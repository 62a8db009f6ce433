"""Postings: from features to the documents that have them, under statistics of those alive alone.

`Postings` holds one entry for each (feature, document) pair that occurs. Documents come in
segments, as in Lucene: an insertion adds one, and small ones are merged now and then. Counts are
stored, not weights: a weight depends on the mean length of the documents that are there, so each
list is weighed when a query first asks for it after a change. Whatever was inserted and deleted
before, scores are those of postings made at once from what is left, bit for bit.
"""

from __future__ import annotations

import dataclasses

import numpy as np

__all__ = [
    "Postings",
    "best",
    "inverse_document_frequency",
    "length_norms",
    "saturate",
]

_MAX_SEGMENTS = 8
_BLOCK = 64
_DENSE_SHARE, _DENSE_SIZE = 12, 1000
_AT_ONCE = 1 << 18  # entries weighed in one go: temporaries stay in cache
_MANY = 16  # a change of more than a 16th of the documents has every list weighed at once
_SAVED = ("features", "documents", "values", "places", "more")


@dataclasses.dataclass(frozen=True)
class Weighing:
    """How counts become weights now."""

    version: int  # grows with every change
    k1: float | None  # None: counts are weights
    norms: np.ndarray  # float32 [documents]

    def __call__(self, values: np.ndarray, documents: np.ndarray) -> np.ndarray:
        values = values.astype(np.float32)
        return values if self.k1 is None else saturate(values, self.norms[documents], k1=self.k1)


@dataclasses.dataclass(frozen=True)
class Segment:
    """Some documents, inverted. Features ascend, and documents in each list, where each is once.

    A document may hold a feature several times, where kinds of features or two words share an id:
    further values add their weight to that of the first.
    """

    first: int
    count: int
    features: np.ndarray  # int32 [u], distinct
    offsets: np.ndarray  # int64 [u + 1]
    documents: np.ndarray  # int32, or unsigned of fewer bits [nnz], global numbers
    values: np.ndarray  # uint8, float16 or float32 [nnz]
    places: np.ndarray  # int64 [m], ascending: entries with a further value
    more: np.ndarray  # float32 [m], these values
    weights: np.ndarray = dataclasses.field(init=False)  # float32 [nnz]
    versions: np.ndarray = dataclasses.field(init=False)  # int64 [u], when a list was weighed
    dense: dict[int, np.ndarray] = dataclasses.field(init=False)

    def __post_init__(self) -> None:
        """Lists that hold much of the segment are spread out: adding a row is faster by far."""
        sizes = np.diff(self.offsets)
        frequent = np.flatnonzero(sizes > max(self.count // _DENSE_SHARE, _DENSE_SIZE))
        rows = np.zeros((frequent.size, self.count), np.float32)
        object.__setattr__(self, "weights", np.zeros(self.documents.size, np.float32))
        object.__setattr__(self, "versions", np.full(self.features.size, -1, np.int64))
        object.__setattr__(self, "dense", dict(zip(frequent.tolist(), rows, strict=True)))

    def find(self, features: np.ndarray, weighing: Weighing) -> tuple[np.ndarray, np.ndarray]:
        """Which of these features it has, and the number of the list of each, weighed by now."""
        if not self.features.size:
            return np.zeros(0, np.int64), np.zeros(0, np.int64)
        at = np.minimum(np.searchsorted(self.features, features), self.features.size - 1)
        hit = np.flatnonzero(self.features[at] == features)
        lists = at[hit]
        stale = lists[self.versions[lists] != weighing.version]
        for i in stale.tolist():
            self._weigh(int(self.offsets[i]), int(self.offsets[i + 1]), weighing)
            self._spread(i)
        self.versions[stale] = weighing.version
        return hit, lists

    def weigh_all(self, weighing: Weighing) -> None:
        """Weighs every list."""
        for start in range(0, self.documents.size, _AT_ONCE):
            self._weigh(start, min(start + _AT_ONCE, self.documents.size), weighing)
        for i in self.dense:
            self._spread(i)
        self.versions[:] = weighing.version

    def _weigh(self, start: int, stop: int, weighing: Weighing) -> None:
        part = slice(start, stop)
        weights = weighing(self.values[part], self.documents[part])
        if self.places.size:
            a, b = np.searchsorted(self.places, (start, stop))
            places = self.places[a:b]
            np.add.at(weights, places - start, weighing(self.more[a:b], self.documents[places]))
        self.weights[part] = weights

    def _spread(self, i: int) -> None:
        row = self.dense.get(i)
        if row is not None:
            part = slice(self.offsets[i], self.offsets[i + 1])
            row[self.documents[part] - self.first] = self.weights[part]

    def add_to(
        self, out: np.ndarray, features: np.ndarray, weights: np.ndarray, weighing: Weighing
    ) -> None:
        """Adds the scores of its documents into those of all."""
        here = out[self.first : self.first + self.count]
        for i, at in zip(*(x.tolist() for x in self.find(features, weighing)), strict=True):
            row = self.dense.get(at)
            if row is not None:
                here += weights[i] * row
            else:
                part = slice(self.offsets[at], self.offsets[at + 1])
                # No document is twice in a list: of equal places, += would keep the last alone.
                out[self.documents[part]] += weights[i] * self.weights[part]

    def entries(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Feature, document and value of each, further values behind the first of their entry."""
        columns = np.repeat(self.features, np.diff(self.offsets)), self.documents, self.values
        if not self.places.size:
            return columns
        values = self.values.astype(np.float32)
        further = columns[0][self.places], self.documents[self.places], self.more
        return tuple(  # type: ignore[return-value]
            np.insert(old, self.places + 1, new)
            for old, new in zip((*columns[:2], values), further, strict=True)
        )


def _segment(
    first: int, count: int, features: np.ndarray, documents: np.ndarray, values: np.ndarray
) -> Segment:
    """Inverts entries that come in order of documents, those of one pair side by side."""
    order = np.argsort(features, kind="stable")
    features, documents, values = features[order], documents[order], values[order]
    again = np.zeros(features.size, np.bool_)
    again[1:] = (features[1:] == features[:-1]) & (documents[1:] == documents[:-1])
    places = (np.cumsum(~again) - 1)[again]
    more = values[again].astype(np.float32)
    if places.size:
        features, documents, values = features[~again], documents[~again], values[~again]
    distinct, starts = np.unique(features, return_index=True)
    offsets = np.append(starts, features.size).astype(np.int64)
    with np.errstate(over="ignore"):
        narrow = values.astype(np.float16)  # counts up to 2,048 and their halves are exact
    values = narrow if np.array_equal(narrow, values) else values.astype(np.float32)
    return Segment(first, count, distinct, offsets, documents, values, places, more)


class Postings:
    """Weights w[f, n] of features in documents, and sums over the features of a query.

    ``score[n] = sum_f q[f] w[f, n]``, with w = c (k1 + 1) / (c + k1 (1 − b + b length / mean)) of
    the count c, where `mean` is that of the documents alive; w = c if there is no k1.

    Args:
      num_features: features are in [0, num_features).
      k1: saturation of counts; None for none.
      b: their normalization by length.

    Example:
      >>> p = Postings(10)
      >>> p.add(np.array([0, 2, 3]), np.array([4, 7, 7], np.int32), np.ones(3, np.float32))
      >>> p.score(np.array([7], np.int32), np.array([0.5], np.float32)).tolist()
      [0.5, 0.5]
      >>> p.remove(0, np.array([4, 7], np.int32))
      >>> p.num_alive, p.document_frequency[[4, 7]].tolist(), p.compact().tolist()
      (1, [0, 1], [-1, 0])
    """

    def __init__(self, num_features: int, *, k1: float | None = None, b: float = 0.0) -> None:
        self.k1, self.b = k1, b
        self.document_frequency = np.zeros(num_features, np.int32)
        self.alive = np.zeros(0, np.bool_)
        self.lengths = np.zeros(0, np.float32)
        self.segments: list[Segment] = []
        self._version = 0
        self._changed = 0  # documents, since the last weighing
        self._weighing: Weighing | None = None

    @property
    def num_documents(self) -> int:
        """Numbers given so far, those of dead documents among them until `compact`."""
        return self.alive.size

    @property
    def num_alive(self) -> int:
        return int(np.count_nonzero(self.alive))

    @property
    def mean_length(self) -> float:
        """Of the documents alive; 0 if there is none."""
        alive = self.num_alive
        return float(self.lengths[self.alive].sum(dtype=np.float64)) / alive if alive else 0.0

    def add(self, offsets: np.ndarray, features: np.ndarray, values: np.ndarray) -> None:
        """Appends documents, one CSR row each; equal features of a row side by side."""
        count = offsets.size - 1
        if count == 0:
            return
        first = self.num_documents
        documents = np.repeat(np.arange(first, first + count, dtype=np.int32), np.diff(offsets))
        segment = _segment(first, count, features, documents, values)
        self.document_frequency[segment.features] += np.diff(segment.offsets).astype(np.int32)
        sums = np.bincount(documents - first, values, minlength=count).astype(np.float32)
        self.lengths = np.concatenate([self.lengths, sums])
        self.alive = np.concatenate([self.alive, np.ones(count, np.bool_)])
        self.segments.append(segment)
        self._change(count)
        if len(self.segments) > _MAX_SEGMENTS:
            small = sum(s.count for s in self.segments[1:])
            self._merge(0 if 2 * small >= self.segments[0].count else 1)

    def remove(self, document: int, features: np.ndarray) -> None:
        """Takes a document out of the statistics.

        Args:
          document: its number, which stays taken until `compact`.
          features: int32 [n], all it has; repeats count once.
        """
        self.document_frequency[np.unique(features)] -= 1
        self.alive[document] = False
        self._change(1)

    def compact(self) -> np.ndarray:
        """Forgets dead documents and numbers the others anew, in order.

        Returns:
          The new number of each: int32 [old num_documents], -1 = dead.
        """
        numbers = np.where(self.alive, np.cumsum(self.alive) - 1, -1).astype(np.int32)
        if self.alive.all():
            return numbers
        self._merge(0, forget=True)
        self.lengths = self.lengths[self.alive]
        self.alive = np.ones(self.lengths.size, np.bool_)
        self._change(self.num_documents)
        return numbers

    def score(self, features: np.ndarray, weights: np.ndarray) -> np.ndarray:
        """Scores of every document, float32 [num_documents]; those of dead ones mean nothing.

        Args:
          features: int32 [n].
          weights: float32 [n], of the query.
        """
        out = np.zeros(self.num_documents, np.float32)
        weighing = self._weigh()
        for segment in self.segments:
            segment.add_to(out, features, weights, weighing)
        return out

    def weights_in(self, document: int, features: np.ndarray) -> np.ndarray:
        """The weights of features in one document: float32, 0 where it hasn't them."""
        out = np.zeros(features.size, np.float32)
        weighing = self._weigh()
        for segment in self.segments:
            if not segment.first <= document < segment.first + segment.count:
                continue
            for i, at in zip(*segment.find(features, weighing), strict=True):
                start, stop = segment.offsets[at], segment.offsets[at + 1]
                place = start + np.searchsorted(segment.documents[start:stop], document)
                if place < stop and segment.documents[place] == document:
                    out[i] = segment.weights[place]
        return out

    def _change(self, documents: int) -> None:
        self._version += 1
        self._changed += documents
        self._weighing = None

    def _weigh(self) -> Weighing:
        """The weighing of now."""
        if self._weighing is None:
            norms = length_norms(self.lengths, mean=self.mean_length, k1=self.k1 or 0.0, b=self.b)
            self._weighing = Weighing(self._version, self.k1, norms)
            if _MANY * self._changed > self.num_documents:
                for segment in self.segments:
                    segment.weigh_all(self._weighing)
            self._changed = 0
        return self._weighing

    def _merge(self, first: int, *, forget: bool = False) -> None:
        """Joins the segments from `first` on; all of them, and without the dead, to `forget`."""
        parts = self.segments[first:]
        features, documents, values = (
            np.concatenate(column) for column in zip(*(s.entries() for s in parts), strict=True)
        )
        start, count = parts[0].first, sum(s.count for s in parts)
        if forget:
            keep, count = self.alive[documents], self.num_alive
            features, values = features[keep], values[keep]
            documents = (np.cumsum(self.alive, dtype=np.int32) - 1)[documents[keep]]
        self.segments[first:] = [_segment(start, count, features, documents, values)]

    def arrays(self) -> dict[str, np.ndarray]:
        """All of it as plain arrays, for `restore`, once dead documents are forgotten."""
        assert self.alive.all(), "compact first: numbers change"
        if not self.segments:
            nothing = np.zeros(0, np.int32)
            self.segments = [_segment(0, 0, nothing, nothing, nothing.astype(np.float32))]
        if len(self.segments) > 1:
            self._merge(0)
        only = self.segments[0]
        sizes = {"lengths": self.lengths, "sizes": np.diff(only.offsets)}
        return sizes | {name: getattr(only, name) for name in _SAVED}

    @classmethod
    def restore(
        cls,
        num_features: int,
        arrays: dict[str, np.ndarray],
        *,
        k1: float | None = None,
        b: float = 0.0,
    ) -> Postings:
        """What `arrays` came from; whole numbers may have fewer bits."""
        new = cls(num_features, k1=k1, b=b)
        new.lengths = arrays["lengths"].astype(np.float32)
        new.alive = np.ones(new.lengths.size, np.bool_)
        offsets = np.zeros(arrays["sizes"].size + 1, np.int64)
        np.cumsum(arrays["sizes"], out=offsets[1:])
        features, documents, values, places, more = (arrays[name] for name in _SAVED)
        if not offsets[-1] == documents.size == values.size:
            raise ValueError("postings, documents and values must be equally many")
        features, places = features.astype(np.int32), places.astype(np.int64)
        columns = features, offsets, documents, values, places, more
        new.segments = [Segment(0, new.lengths.size, *columns)]
        new.document_frequency[features] = arrays["sizes"]
        new._version += 1  # a list is weighed when it is first asked for
        return new


def inverse_document_frequency(frequency: np.ndarray, documents: int) -> np.ndarray:
    """log(1 + (N − n + ½) / (n + ½)), as in Lucene; float32."""
    frequency = frequency.astype(np.float32)
    return np.log1p((documents - frequency + 0.5) / (frequency + 0.5)).astype(np.float32)


def length_norms(lengths: np.ndarray, *, mean: float, k1: float, b: float) -> np.ndarray:
    """k1 (1 − b + b length / mean), float32; k1 (1 − b) where no document has any length.

    Reference: Robertson and Zaragoza, The Probabilistic Relevance Framework, 2009, section 3.5.
    """
    return (k1 * (1 - b + b * lengths / (mean or 1.0))).astype(np.float32)


def saturate(counts: np.ndarray, norms: np.ndarray, *, k1: float) -> np.ndarray:
    """c (k1 + 1) / (c + norm), float32."""
    return (counts * (k1 + 1) / (counts + norms)).astype(np.float32)


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
