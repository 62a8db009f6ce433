"""Texts as counts of the words that a model knows, so that it can be asked about new ones."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator
from itertools import islice

import numpy as np

from sparse_jax.data.xmc import MAX_SIZE, XmcData, offsets_of, unchecked
from sparse_jax.text.features import Tokens, normalize, tokenize

_AT_ONCE = 1 << 14  # texts tokenized at a time


@dataclasses.dataclass(frozen=True)
class Vocabulary:
    """Words, each of which is a feature: its place among them is the feature's id.

    Texts are split as search splits them: lower case without accents, at whatever is no letter or
    digit (`text.features.tokenize`). A name of a given list is found where a text, so split, holds
    it: `Café` by the word `cafe`. Names that are no single word, such as `section: libs`, stay
    features that no text has.

    Args:
        words: distinct; word i names feature i, as a line of `*_vocab.txt.gz` does.

    Raises:
        ValueError: a word that comes twice.

    Example:
        >>> vocabulary = Vocabulary(("red", "apple", "green"))
        >>> points = vocabulary.transform(["A red, red apple.", "Blue"])
        >>> points.feature_ids.tolist(), points.feature_values.tolist(), points.num_features
        ([0, 1], [2.0, 1.0], 3)
    """

    words: tuple[str, ...]
    _ids: dict[str, int] = dataclasses.field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        words = tuple(self.words)
        places: dict[str, int] = {}
        for place, word in enumerate(words):
            if places.setdefault(word, place) != place:
                raise ValueError(
                    f"words = {word!r} at {places[word]} and {place}: must be distinct; drop one, "
                    "or give it another name"
                )
        ids: dict[str, int] = {}
        for place, word in enumerate(words):
            split = normalize(word).split()
            if len(split) == 1 and (split[0] not in ids or split[0] == word):
                ids[split[0]] = place  # of Red, red and RED the one that is spelled so, or first
        object.__setattr__(self, "words", words)
        object.__setattr__(self, "_ids", ids)

    @classmethod
    def fit(
        cls, texts: Iterable[str], *, min_count: int = 2, max_features: int | None = None
    ) -> Vocabulary:
        """The words that enough of the texts hold, most frequent first, equal ones by name.

        Args:
            texts: of the training points.
            min_count: how many texts a word must occur in, at least.
            max_features: how many words to keep, at most; None for all.

        Returns:
            The vocabulary.

        Raises:
            TypeError: one string, instead of several.
            ValueError: numbers below 1, or no word that occurs in `min_count` texts.

        Example:
            >>> Vocabulary.fit(["red apple", "Apple!", "red, red"], min_count=2).words
            ('apple', 'red')
        """
        if min_count < 1:
            raise ValueError(f"min_count = {min_count}: must be at least 1")
        most = MAX_SIZE if max_features is None else max_features
        if not 1 <= most <= MAX_SIZE:
            raise ValueError(f"max_features = {most}: must be from 1 to {MAX_SIZE}, or None")
        counts: dict[str, int] = {}
        for tokens in _tokens(texts):
            _, types, _ = _count(tokens)
            found = np.bincount(types, minlength=len(tokens.words))
            for word, count in zip(tokens.words, found.tolist(), strict=True):
                counts[word] = counts.get(word, 0) + count
        ranked = sorted((-count, word) for word, count in counts.items() if count >= min_count)
        if not ranked:
            raise ValueError(
                f"min_count = {min_count}: must be reached by some word; give more texts or a "
                "lower count"
            )
        return cls(tuple(word for _, word in ranked[:most]))

    @property
    def num_features(self) -> int:
        """How many words there are."""
        return len(self.words)

    def transform(self, texts: Iterable[str], *, num_labels: int = 0) -> XmcData:
        """How often each text holds each word; other words are left out.

        Args:
            texts: any strings, one for each point.
            num_labels: labels that exist, as in the model to be asked.

        Returns:
            Points without labels; values are counts, ids ascend in each point.

        Raises:
            TypeError: one string, instead of several.

        Example:
            >>> Vocabulary(("red", "apple")).transform(["apple red apple"]).feature_values.tolist()
            [1.0, 2.0]
        """
        counts, ids, values = [], [], []
        for tokens in _tokens(texts):
            known = np.fromiter(
                (self._ids.get(word, -1) for word in tokens.words), np.int64, len(tokens.words)
            )
            row, found, count = _count(tokens, known)
            counts.append(np.bincount(row, minlength=tokens.offsets.size - 1))
            ids.append(found)
            values.append(count)
        offsets = offsets_of(np.concatenate([np.zeros(0, np.int64), *counts]))
        return unchecked(
            offsets,
            np.concatenate([np.zeros(0, np.int32), *ids]).astype(np.int32),
            np.concatenate([np.zeros(0, np.float32), *values]).astype(np.float32),
            np.zeros_like(offsets),
            np.zeros(0, np.int32),
            self.num_features,
            num_labels,
        )


def _tokens(texts: Iterable[str]) -> Iterator[Tokens]:
    if isinstance(texts, str):
        raise TypeError("texts = one string: must be several; put it into a list")
    rest = iter(texts)
    while some := list(islice(rest, _AT_ONCE)):
        yield tokenize(some)


def _count(
    tokens: Tokens, ids: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows, ids and counts of the distinct (text, id) pairs, in order; ids below 0 are left out.

    The ids are those of the distinct words; without, their numbers.
    """
    rows = np.repeat(np.arange(tokens.offsets.size - 1), np.diff(tokens.offsets))
    found = tokens.types.astype(np.int64) if ids is None else ids[tokens.types]
    known = found >= 0
    keys, counts = np.unique(rows[known] << 32 | found[known], return_counts=True)
    return keys >> 32, keys & 0xFFFFFFFF, counts
