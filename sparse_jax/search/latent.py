"""Rows of words in the space of a collection's largest singular vectors: latent semantic indexing.

Words that stand in the same documents point the same way, so documents are found that hold none of
a query's words. The space is that of X's `dim` largest right singular vectors, X the documents by
words, each row of unit length; documents that come later are folded in by their words. Any
orthonormal basis of it gives the same cosines, so none is singled out, and no LAPACK is asked,
whose last bits follow the number of threads.

References: Deerwester et al., Indexing by latent semantic analysis, 1990; Halko, Martinsson and
Tropp, Finding structure with randomness, 2011, algorithm 4.4.
"""

from __future__ import annotations

import numpy as np

from sparse_jax.search import draw
from sparse_jax.text.features import WORD, Features

__all__ = ["level", "rows"]

_TURNS = 5  # multiplications by X'X
_JUDGED = 512  # documents


def rows(
    features: Features,
    values: np.ndarray,
    *,
    order: np.ndarray,
    kept: np.ndarray,
    dim: int,
    seed: int,
) -> np.ndarray:
    """Rows of features: those of words are coordinates of the space's basis, all others 0.

    Args:
      features: of the documents.
      values: float32 [nnz], their weights.
      order: int64 [documents], in which they are summed.
      kept: bool [num_features], features that count.
      dim: of the space.
      seed: of what the search for it starts from.

    Returns:
      float32 [num_features, dim]; the same bits at any number of threads.
    """
    from scipy import sparse

    chosen = (features.kinds == WORD) & kept[features.ids]
    words, columns = np.unique(features.ids[chosen], return_inverse=True)
    out = np.zeros((kept.size, dim), np.float32)
    size = min(dim, words.size, order.size)
    if not size:
        return out
    documents = features.rows[chosen]
    weights = values[chosen].astype(np.float64)
    squares = np.bincount(documents, weights**2, minlength=order.size)
    weights /= np.sqrt(np.maximum(squares, 1e-12))[documents]
    shape = order.size, words.size
    matrix = sparse.csr_matrix((weights, (documents, columns)), shape=shape)[order]
    across = matrix.T.tocsr()
    basis = _orthonormal(draw.rows(seed, words, size).astype(np.float64))
    for _ in range(_TURNS):
        basis = _orthonormal(across @ (matrix @ basis))
    out[words, :size] = basis
    return out


def level(part: np.ndarray, other: np.ndarray, features: Features, values: np.ndarray) -> float:
    """By what rows of a part are multiplied, so that documents are as long in it as in another.

    Args:
      part: float32 [num_features, d].
      other: float32 [num_features, e].
      features: of documents, the first of which are looked at.
      values: float32 [nnz].
    """
    from scipy import sparse

    offsets = features.offsets[: _JUDGED + 1]
    ids, weights = features.ids[: offsets[-1]], values[: offsets[-1]].astype(np.float64)
    bags = sparse.csr_matrix((weights, ids, offsets), shape=(offsets.size - 1, len(part)))
    ours, theirs = (float(np.sqrt(((bags @ table) ** 2).sum())) for table in (part, other))
    return theirs / ours if ours else 0.0


def _orthonormal(columns: np.ndarray) -> np.ndarray:
    """An orthonormal basis of what columns span, by Gram and Schmidt, twice.

    Args:
      columns: float64 [n, d], d at most n.
    """
    out = np.zeros(columns.shape[::-1])
    for number, column in enumerate(np.ascontiguousarray(columns.T)):
        for _ in range(2):
            column = column - np.einsum("d,dn->n", np.einsum("dn,n->d", out, column), out)
        size = np.sqrt(np.einsum("n,n->", column, column))
        out[number] = column / size if size > 1e-9 else 0.0
    return np.ascontiguousarray(out.T)
