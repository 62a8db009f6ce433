"""Texts to weighted sparse rows: words, pairs of words, character n-grams; hashed or by name.

    vectorizer = text.fit(texts, pairs=True, grams=(3, 5))
    rows = text.transform(vectorizer, others)

C++ counts on all cores; the weights are NumPy's. Texts are split by `text.features.normalize`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np

from sparse_jax.ops import text_features
from sparse_jax.ops.text_features import Counts as Rows
from sparse_jax.ops.text_features import Options
from sparse_jax.text.features import normalize

__all__ = ["Rows", "Vectorizer", "fit", "fit_transform", "from_saved", "to_saved", "transform"]

WEIGHTINGS = ("tfidf", "counts")
MAX_GRAM = 32
"""Characters of an n-gram."""
_MOST = 2**31 - 1


class Vectorizer(NamedTuple):
    """What `fit` learned of texts."""

    options: Options
    num_features: int
    keys: np.ndarray | None  # uint64 [num_features], of the names; None where ids are hashed
    names: tuple[str, ...] | None  # "red", "red apple", and "*_re" for an n-gram that begins a word
    idf: np.ndarray | None  # float32 [num_features]; None for counts


def fit(
    texts: Iterable[str],
    *,
    words: bool = True,
    pairs: bool = False,
    grams: tuple[int, int] | None = None,
    num_features: int | None = None,
    min_count: int = 2,
    max_features: int | None = None,
    weighting: str = "tfidf",
) -> Vectorizer:
    """Learns which features there are, and how rare each is.

    The weight of a feature in a text is log(1 + count) · (log((1 + n) / (1 + df)) + 1), scaled so
    that a text's weights have the length 1; df of the n texts hold it.

    Args:
      texts: to learn from.
      words: whether each word is a feature.
      pairs: whether each two neighbouring words are one.
      grams: (fewest, most) characters of the n-grams of a word between its spaces, such as (3, 5);
        None for none.
      num_features: hashes features to so many ids, without a vocabulary; None for a vocabulary.
      min_count: texts that must hold a feature of the vocabulary.
      max_features: of the vocabulary, the most frequent ones; None for all.
      weighting: "tfidf", or "counts" for how often.

    Returns:
      A `Vectorizer`; a vocabulary's most frequent feature comes first, equal ones by name.

    Raises:
      TypeError: one string, or something that is no text.
      ValueError: no kind of features, a number out of range, options without effect, no feature in
        enough texts.

    Example:
      >>> found = fit(["red apple", "a red car", "red, RED"], pairs=True, min_count=1)
      >>> found.names[:3], found.num_features
      (('red', 'a', 'a red'), 8)

    References:
      Weinberger et al., Feature hashing for large scale multitask learning, 2009.
    """
    return _fit(
        _listed(texts), words, pairs, grams, num_features, min_count, max_features, weighting
    )[0]


def fit_transform(texts: Iterable[str], **options: Any) -> tuple[Vectorizer, Rows]:
    """`fit`, and the rows of the same texts, in one pass over them.

    Args:
      texts: to learn from.
      **options: of `fit`.

    Returns:
      (the `Vectorizer`, its `Rows`).

    Raises:
      As `fit`.

    Example:
      >>> _, rows = fit_transform(["red apple", "red car"], min_count=1, weighting="counts")
      >>> rows.offsets.tolist(), rows.ids.tolist(), rows.values.tolist()
      ([0, 2, 4], [0, 1, 0, 2], [1.0, 1.0, 1.0, 1.0])
    """
    given = _listed(texts)
    defaults: dict[str, Any] = dict(fit.__kwdefaults__ or {})
    unknown = set(options) - set(defaults)
    if unknown:
        raise TypeError(f"options = {sorted(unknown)}: must be those of fit, {sorted(defaults)}")
    vectorizer, counts = _fit(given, *(defaults | options).values())
    return vectorizer, _weigh(vectorizer, counts)


def transform(vectorizer: Vectorizer, texts: Iterable[str]) -> Rows:
    """Weighted features of texts.

    Args:
      vectorizer: of `fit`.
      texts: any; what the vocabulary doesn't hold is left out.

    Returns:
      `Rows(offsets, ids, values)`: int64 [texts + 1], int32 and float32 [nnz]; ids ascend in each
      text. The same bits on any number of threads.

    Raises:
      TypeError: one string, or something that is no text.

    Example:
      >>> found = fit(["red apple", "red car"], min_count=1)
      >>> [round(float(x), 2) for x in transform(found, ["a car, red as a red apple"]).values]
      [0.62, 0.55, 0.55]
    """
    given = _listed(texts)
    if vectorizer.keys is None:
        counts = text_features.hash_texts(
            given, vectorizer.options, vectorizer.num_features, normalize
        )
    else:
        counts = text_features.count_known(given, vectorizer.options, vectorizer.keys, normalize)
    return _weigh(vectorizer, counts)


def to_saved(vectorizer: Vectorizer) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """A vectorizer as JSON and arrays, for `runtime.saved`.

    Args:
      vectorizer: any.

    Returns:
      (config, arrays by name).

    Example:
      >>> found = fit(["red apple", "red car"], min_count=1)
      >>> from_saved(*to_saved(found)).names
      ('red', 'apple', 'car')
    """
    config = {"options": list(vectorizer.options), "num_features": vectorizer.num_features}
    arrays = {}
    if vectorizer.names is not None:
        joined = "\n".join(vectorizer.names).encode()
        arrays = {"names": np.frombuffer(joined, np.uint8), "keys": vectorizer.keys}
    if vectorizer.idf is not None:
        arrays["idf"] = vectorizer.idf
    return config, {name: np.asarray(array) for name, array in arrays.items()}


def from_saved(config: dict[str, Any], arrays: dict[str, np.ndarray]) -> Vectorizer:
    """The vectorizer that `to_saved` was given.

    Args:
      config: of `to_saved`.
      arrays: likewise.

    Returns:
      The vectorizer.

    Raises:
      ValueError: if they don't belong together.
    """
    options, size = Options(*config["options"]), int(config["num_features"])
    keys, idf, names = arrays.get("keys"), arrays.get("idf"), None
    if keys is not None:
        names = tuple(arrays["names"].tobytes().decode().split("\n")) if size else ()
    lengths = {len(x) for x in (keys, names, idf) if x is not None}
    if not lengths <= {size}:
        raise ValueError(
            f"num_features = {size}: must be the length of keys, names and idf, {sorted(lengths)}; "
            "save the model anew"
        )
    return Vectorizer(options, size, keys, names, idf)


def _fit(
    texts: list[str],
    words: bool,
    pairs: bool,
    grams: tuple[int, int] | None,
    num_features: int | None,
    min_count: int,
    max_features: int | None,
    weighting: str,
) -> tuple[Vectorizer, Rows]:
    """The vectorizer, and counts of the same texts."""
    options = _options(words, pairs, grams)
    if weighting not in WEIGHTINGS:
        raise ValueError(f"weighting = {weighting!r}: must be one of {', '.join(WEIGHTINGS)}")
    if num_features is not None:
        if not 1 <= num_features <= _MOST:
            raise ValueError(f"num_features = {num_features}: must be from 1 to {_MOST}, or None")
        if max_features is not None:
            raise ValueError(
                f"max_features = {max_features}: must be None with num_features, which hashes "
                "instead of choosing; leave one of them out"
            )
        counts = text_features.hash_texts(texts, options, num_features, normalize)
        found = Vectorizer(options, num_features, None, None, None)
        frequencies = np.bincount(counts.ids, minlength=num_features)
    else:
        if min_count < 1:
            raise ValueError(f"min_count = {min_count}: must be at least 1")
        most = _MOST if max_features is None else max_features
        if not 1 <= most <= _MOST:
            raise ValueError(f"max_features = {most}: must be from 1 to {_MOST}, or None")
        known, counts = text_features.fit_vocabulary(texts, options, min_count, most, normalize)
        if not known.names:
            raise ValueError(
                f"min_count = {min_count}: must be reached by some feature; give more texts or a "
                "lower count"
            )
        found = Vectorizer(options, len(known.names), known.keys, known.names, None)
        frequencies = known.frequencies
    if weighting == "tfidf":
        idf = np.log((1 + len(texts)) / (1 + frequencies)) + 1
        found = found._replace(idf=idf.astype(np.float32))
    return found, counts


def _options(words: bool, pairs: bool, grams: tuple[int, int] | None) -> Options:
    if not (words or pairs or grams):
        raise ValueError("words = False: must be True where neither pairs nor grams are features")
    low, high = grams or (0, 0)
    if grams is not None and not 1 <= low <= high <= MAX_GRAM:
        raise ValueError(
            f"grams = {grams}: must be (fewest, most) characters, from 1 to {MAX_GRAM}; "
            "such as (3, 5)"
        )
    return Options(bool(words), bool(pairs), int(low), int(high))


def _listed(texts: Iterable[str]) -> list[str]:
    if isinstance(texts, str):
        raise TypeError("texts = one string: must be several; put it into a list")
    given = list(texts)
    if not set(map(type, given)) <= {str}:
        wrong = next((i for i, text in enumerate(given) if not isinstance(text, str)), None)
        if wrong is not None:
            raise TypeError(
                f"texts[{wrong}] = {given[wrong]!r:.60}: must be a string; convert or drop it"
            )
    return given


def _weigh(vectorizer: Vectorizer, counts: Rows) -> Rows:
    """Counts, or their TF-IDF weights with the length 1 in each text."""
    if vectorizer.idf is None:
        return counts
    often = counts.values.astype(np.int32)
    logs = np.log1p(np.arange(int(often.max(initial=0)) + 1))
    weights = logs[often] * vectorizer.idf[counts.ids]
    sizes = np.diff(counts.offsets)
    rows = np.repeat(np.arange(sizes.size, dtype=np.int32), sizes)
    norms = np.sqrt(np.bincount(rows, weights * weights, minlength=sizes.size))
    scale = np.divide(1.0, norms, out=np.ones_like(norms), where=norms > 0)
    return counts._replace(values=(weights * np.repeat(scale, sizes)).astype(np.float32))
