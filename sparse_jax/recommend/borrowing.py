"""What an item of few or no events borrows of the items whose texts are nearest to its own.

S holds, for such an item, the 20 known items of the most similar texts (TF-IDF, cosines squared,
scaled to the sum 1). With pairs P, and closeness `near` for the lenders themselves,

    A = P + near · I    what may be lent
    R = S A             what the item points to, where a history holds it
    P + R + gain · (A + R) Sᵀ

so what is known of items of five events or more stays what it was, and of the others it is added
to, the less the more events they have. An encoder's rows of an item of no events are S times those
of its lenders; `shift` is added to its bias. `gain`, `near` and `shift` are chosen by taking a
tenth of the known items for new ones: those that find most of them at the price of at most .4 % of
what other items have in NDCG@10.

References:
  Gantner et al., "Learning Attribute-to-Feature Mappings for Cold-Start Recommendations", 2010:
  rows of new items by those of their neighbours.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import scipy.sparse

from sparse_jax import text
from sparse_jax.data.xmc import offsets_of
from sparse_jax.recommend.model import Model, Pairs, Strength, Texts
from sparse_jax.recommend.pairs import from_matrix, largest, to_matrix

_LENDERS = 20
_FEW = 5  # events from which on an item borrows nothing; below, the less the more there are
_CELLS = 1 << 22  # cosines that are computed together


def check(item_texts: Any) -> None:
    """Refuses what are no texts by name.

    Raises:
        TypeError: no mapping, or a name or text that is no string.
        ValueError: no text at all.

    Example:
        >>> check({"tea": 7})
        Traceback (most recent call last):
        TypeError: item_texts['tea'] = 7: must be a text; give str of it, or leave the item out
    """
    if not isinstance(item_texts, Mapping):
        kind = type(item_texts).__name__
        raise TypeError(
            f"item_texts is a {kind}: must map names of items to texts; data.read_item_texts does"
        )
    for name, value in item_texts.items():
        if not isinstance(name, str):
            raise TypeError(f"item_texts has the name {name!r}: must be a text; give str of it")
        if not isinstance(value, str):
            raise TypeError(
                f"item_texts[{name!r}] = {value!r:.40}: must be a text; give str of it, or leave "
                "the item out"
            )
    if not any(value.strip() for value in item_texts.values()):
        raise ValueError("item_texts = no texts: must have some; leave it out, or mend the file")


def of_texts(names: Sequence[str], item_texts: Mapping[str, str]) -> Texts:
    """Texts of items as features, before anything is chosen.

    Args:
        names: [N], by id.
        item_texts: texts by name; an item without one has no features.

    Raises:
        ValueError: no text has a word.
    """
    given = [item_texts.get(name, "") for name in names]
    try:
        vectorizer, rows = text.fit_transform(given, min_count=1)
    except ValueError:
        raise ValueError(
            f"item_texts = {len(item_texts)} texts without a word: must have some; mend them"
        ) from None
    return Texts(vectorizer, rows, Strength(1.0, 1.0, 0.0))


def first(texts: Texts, count: int) -> Texts:
    """The texts of the first items.

    Args:
        texts: of at least so many.
        count: of items.
    """
    offsets, ids, values = texts.rows
    end = int(offsets[count])
    return texts._replace(rows=text.Rows(offsets[: count + 1], ids[:end], values[:end]))


def grown(texts: Texts, names: Sequence[str], item_texts: Mapping[str, str]) -> Texts:
    """Texts with those of more items; a known item's new text takes the place of its old one.

    An empty one says nothing of the item, as in a table with gaps, and takes no place.

    Args:
        texts: of the first items.
        names: [N] of all.
        item_texts: by name.
    """
    before = len(texts.rows.offsets) - 1
    new = text.transform(texts.vectorizer, [item_texts.get(name, "") for name in names])
    given = np.fromiter((bool(item_texts.get(n, "").strip()) for n in names), bool, len(names))
    given[before:] = True
    both = scipy.sparse.vstack([_features(texts.rows, texts), _features(new, texts)], format="csr")
    found = scipy.sparse.csr_array(both[np.arange(len(names)) + np.where(given, before, 0)])
    rows = text.Rows(
        found.indptr.astype(np.int64), found.indices.astype(np.int32), found.data.astype(np.float32)
    )
    return texts._replace(rows=rows)


def lenders(texts: Texts, popularity: np.ndarray) -> scipy.sparse.csr_array:
    """Of whom each item of few events borrows, and how much.

    Args:
        texts: of N items.
        popularity: float [N], events of each.

    Returns:
        float64 [N, N]; a row sums to 1 for an item of no events whose text is like that of any
        other, to less for one of few, else to 0.
    """
    size = len(popularity)
    features = _features(texts.rows, texts)
    lacking = np.maximum(1 - popularity.astype(np.float64) / _FEW, 0)
    asked = np.flatnonzero((lacking > 0) & (np.diff(features.indptr) > 0))
    able = np.flatnonzero(popularity > 0)
    across = features[able].T.tocsr()
    step = max(1, _CELLS // max(len(able), 1))
    found = scipy.sparse.csr_array((size, size))
    if len(asked) and len(able):
        parts = [
            _nearest(features, across, asked[at : at + step], able)
            for at in range(0, len(asked), step)
        ]
        near = scipy.sparse.vstack(parts, format="csr")
        lengths = np.zeros(size, np.int64)
        lengths[asked] = np.diff(near.indptr)
        found = scipy.sparse.csr_array(
            (near.data, able[near.indices], offsets_of(lengths)), shape=(size, size)
        )
    total = found.sum(axis=1)
    scale = np.divide(lacking, total, out=np.zeros(size), where=total > 0)
    return scipy.sparse.csr_array(scipy.sparse.diags_array(scale) @ found)


def without_lenders(model: Model) -> list[str]:
    """Names of the items of no events that borrow of nobody.

    Args:
        model: any.
    """
    unknown = model.popularity == 0
    if model.texts is not None:
        unknown &= np.diff(lenders(model.texts, model.popularity).indptr) == 0
    return [model.item_names[item] for item in np.flatnonzero(unknown)]


def _nearest(
    features: scipy.sparse.csr_array,
    across: scipy.sparse.csr_array,
    rows: np.ndarray,
    able: np.ndarray,
) -> scipy.sparse.csr_array:
    """Squared cosines of the nearest of those that are able to lend: [rows, able]."""
    near = (features[rows] @ across).toarray() ** 2
    near[rows[:, None] == able[None]] = 0  # nobody borrows of themselves
    if near.shape[1] > _LENDERS:
        edge = near.shape[1] - _LENDERS
        near[near < np.partition(near, edge, axis=1)[:, edge : edge + 1]] = 0
    return largest(scipy.sparse.csr_array(near), _LENDERS)  # of equal ones the first


def lent(
    pairs: scipy.sparse.csr_array, shares: scipy.sparse.csr_array, strength: Strength
) -> scipy.sparse.csr_array:
    """What borrowing adds to pairs, float64 [N, N]: R + gain · (A + R) Sᵀ.

    Args:
        pairs: float [N, N].
        shares: S, as of `lenders`.
        strength: how much.
    """
    lending = pairs + scipy.sparse.diags_array(np.full(pairs.shape[0], strength.near), format="csr")
    after = shares @ lending
    return scipy.sparse.csr_array(after + strength.gain * ((lending + after) @ shares.T))


def with_lent(pairs: Pairs, texts: Texts, shares: scipy.sparse.csr_array) -> Pairs:
    """Pairs with what items of few events borrow, at most 256 more of an item.

    Args:
        pairs: of N items.
        texts: likewise.
        shares: S.
    """
    if not shares.nnz:
        return pairs
    matrix = to_matrix(pairs)
    more = lent(matrix, shares, texts.strength)
    more.setdiag(0)  # nobody is told to take the same again
    more.eliminate_zeros()
    return from_matrix(scipy.sparse.csr_array(matrix + largest(more)))


def with_texts(model: Model, texts: Texts, names: tuple[str, ...]) -> Model:
    """The model with texts, and with items that are known by their text alone.

    Args:
        model: of the first items.
        texts: of all N.
        names: [N].
    """
    more = len(names) - model.num_items

    def padded(table: Any) -> np.ndarray:
        table = np.asarray(table)
        return np.pad(table, ((0, more), *((0, 0),) * (table.ndim - 1)))

    encoders = tuple(
        part | {name: padded(part[name]) for name in ("items", "bias")} for part in model.encoders
    )
    model = dataclasses.replace(
        model,
        counts=from_matrix(to_matrix(model.counts, len(names))),
        pairs=from_matrix(to_matrix(model.pairs, len(names))),
        popularity=padded(model.popularity),
        encoders=encoders,
        output=padded(model.output),
        bias=padded(model.bias),
        recent=dataclasses.replace(model.recent, item_names=names),
        texts=texts,
    )
    shares = lenders(texts, model.popularity)
    lent_to = with_lent(model.pairs, texts, shares)
    return dataclasses.replace(with_rows(model, shares, texts.strength.shift), pairs=lent_to)


def with_rows(model: Model, shares: scipy.sparse.csr_array, shift: float) -> Model:
    """The model with an encoder's rows of items of no events by those of their lenders.

    Args:
        model: of N items.
        shares: S.
        shift: that their bias gets.
    """
    if not model.encoders:
        return model
    borrowing = (model.popularity == 0) & (np.diff(shares.indptr) > 0)

    def lend(table: Any, more: float = 0.0) -> np.ndarray:
        table = np.array(table, np.float32)
        table[borrowing] = (shares @ table)[borrowing] + np.float32(more)
        return table

    encoders = tuple(
        part | {"items": lend(part["items"]), "bias": lend(part["bias"])} for part in model.encoders
    )
    return dataclasses.replace(
        model, encoders=encoders, output=lend(model.output), bias=lend(model.bias, shift)
    )


def _features(rows: text.Rows, texts: Texts) -> scipy.sparse.csr_array:
    shape = len(rows.offsets) - 1, texts.vectorizer.num_features
    return scipy.sparse.csr_array(
        (rows.values.astype(np.float64), rows.ids, rows.offsets), shape=shape
    )
