"""Texts as counts of the words that a model knows, so that it can be asked about new ones."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

import numpy as np

from sparse_jax.data.xmc import MAX_SIZE, XmcData, unchecked
from sparse_jax.ops import text_features
from sparse_jax.text.features import normalize

_WORDS = text_features.Options(True, False, 0, 0)


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
        given = _listed(texts)
        found, _ = text_features.fit_vocabulary(given, _WORDS, min_count, most, normalize)
        if not found.names:
            raise ValueError(
                f"min_count = {min_count}: must be reached by some word; give more texts or a "
                "lower count"
            )
        return cls(found.names)

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
        names = list(self._ids)
        keys, ids = text_features.word_keys(names), np.fromiter(self._ids.values(), np.int32)
        offsets, found, values = text_features.count_known(_listed(texts), _WORDS, keys, normalize)
        if np.any(ids[1:] < ids[:-1]):  # the places of names aren't in order of the ids
            found = ids[found]
            rows = np.repeat(np.arange(offsets.size - 1), np.diff(offsets))
            order = np.lexsort((found, rows))
            found, values = found[order], values[order]
        else:
            found = ids[found]
        return unchecked(
            offsets,
            found,
            values,
            np.zeros_like(offsets),
            np.zeros(0, np.int32),
            self.num_features,
            num_labels,
        )


def _listed(texts: Iterable[str]) -> list[str]:
    if isinstance(texts, str):
        raise TypeError("texts = one string: must be several; put it into a list")
    return list(texts)
