"""What names say: which features are called as a label is, or nearly so.

A word of a text that is a label's name, or a word of it, or is spelled much like it, speaks for the
label (packages are called by what their summaries say) or against it (dictionaries don't explain a
word by itself). No training point is needed for that, which is what rare labels lack.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
import scipy.sparse as sp  # type: ignore[import-untyped]

from sparse_jax import text

KINDS = ("same", "part", "spelling")
GRAMS = (3, 5)  # characters of the n-grams that spelling is compared by
_FREQUENT = 500  # names that hold an n-gram, from which on it tells nothing and costs much
_ALIKE = 0.35  # cosine from which on two spellings count as alike
_WORD = re.compile(r"[^\W_]+")


def check(argument: str, given: Sequence[str]) -> None:
    """Refuses names that are no texts.

    Args:
      argument: what they are called.
      given: the names.

    Raises:
      ValueError: it says which one.

    Example:
      >>> check("label_names", ["apple", 7])
      Traceback (most recent call last):
      ValueError: label_names[1] = 7: must be a text; give str of each
    """
    wrong = next((i for i, name in enumerate(given) if not isinstance(name, str)), None)
    if wrong is not None:
        raise ValueError(
            f"{argument}[{wrong}] = {given[wrong]!r}: must be a text; give str of each"
        )


def pairs(
    label_names: Sequence[str], feature_names: Sequence[str], document_frequency: np.ndarray
) -> dict[str, sp.csr_matrix]:
    """For each kind of likeness, how much a feature is like a label by their names.

    Args:
      label_names: [N].
      feature_names: [F].
      document_frequency: int [F], training points that hold each feature.

    Returns:
      By kind, float32 [F, N]: "same" 1 where the names are equal; "part" where the feature is a
      word of the label's name, by how rare it is, the length of a label's column being 1;
      "spelling" the squared cosine of their character n-grams where that is at least .35 squared
      and the names differ. Case doesn't count.

    Example:
      >>> found = pairs(["wind mill", "Mill"], ["mill", "wind"], np.array([1, 1]))
      >>> found["same"].toarray().tolist()
      [[0.0, 1.0], [0.0, 0.0]]
      >>> found["part"].toarray().astype(float).round(2).tolist()
      [[0.71, 1.0], [0.71, 0.0]]
    """
    labels = [name.casefold() for name in label_names]
    features = [name.casefold() for name in feature_names]
    known: dict[str, int] = {}
    for f, name in enumerate(features):
        known.setdefault(name, f)
    shape = (len(features), len(labels))
    same = _ones(
        [(known[name], label) for label, name in enumerate(labels) if name in known], shape
    )
    part = _ones(
        [
            (known[word], label)
            for label, name in enumerate(labels)
            for word in sorted({*_WORD.findall(name)})
            if word in known
        ],
        shape,
    )
    rarity = np.log(document_frequency.sum() + 1.0) - np.log(document_frequency + 1.0)
    part = sp.diags(rarity.astype(np.float32)) @ part
    lengths = np.sqrt(np.asarray(part.multiply(part).sum(axis=0)).ravel())
    part = part @ sp.diags(np.where(lengths > 0, 1 / np.maximum(lengths, 1e-9), 0))
    spelling = _spelled_alike(features, labels)
    spelling = spelling - spelling.multiply(same)
    return {
        kind: _canonical(matrix) for kind, matrix in zip(KINDS, (same, part, spelling), strict=True)
    }


def _ones(found: list[tuple[int, int]], shape: tuple[int, int]) -> sp.csr_matrix:
    at = np.array(found, np.int64).reshape(-1, 2)
    return sp.csr_matrix((np.ones(len(found), np.float32), (at[:, 0], at[:, 1])), shape=shape)


def _canonical(matrix: sp.spmatrix) -> sp.csr_matrix:
    found = sp.csr_matrix(matrix, dtype=np.float32)
    found.sum_duplicates()
    found.eliminate_zeros()
    return found


def _spelled_alike(features: list[str], labels: list[str]) -> sp.csr_matrix:
    """Squared cosines of n-grams, at least `_ALIKE` squared: float32 [F, N]."""
    none = sp.csr_matrix((len(features), len(labels)), dtype=np.float32)
    try:
        vectorizer, rows = text.fit_transform(features + labels, words=False, grams=GRAMS)
    except ValueError:  # no two names share an n-gram
        return none
    shape = (len(features) + len(labels), vectorizer.num_features)
    grams = sp.csr_matrix((rows.values, rows.ids, rows.offsets), shape=shape)
    frequent = np.bincount(grams.indices, minlength=shape[1]) > _FREQUENT
    grams.data[frequent[grams.indices]] = 0
    grams.eliminate_zeros()
    words, names = grams[: len(features)], grams[len(features) :].T.tocsr()
    found = []
    for start in range(0, len(features), 4096):  # the product of all would be large
        alike = words[start : start + 4096] @ names
        alike.data[alike.data < _ALIKE] = 0
        alike.eliminate_zeros()
        found.append(alike)
    alike = sp.vstack([none[:0], *found], format="csr")
    alike.data **= 2
    return alike
