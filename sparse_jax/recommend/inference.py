"""The next items of users, and items that go with others."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from sparse_jax.data.histories import Histories, of_lists
from sparse_jax.data.xmc import gather_index
from sparse_jax.ops.ensemble import LastLayer, WidePart, ensemble_topk, order_by_bias
from sparse_jax.ops.wide import Entries, wide_scores
from sparse_jax.recommend import encoder
from sparse_jax.recommend.borrowing import lenders
from sparse_jax.recommend.model import Model, Shape
from sparse_jax.recommend.pairs import to_matrix
from sparse_jax.runtime.arguments import check_whole
from sparse_jax.runtime.trees import owned

_READ = 30  # events that the pairs of a history are read of; older ones say next to nothing


_WHOLE = 1 << 22  # scores of a batch that are computed whole beside an encoder; beyond, by a kernel
_SPARE = 16  # items beyond k that are asked for at first, since some may have been seen


class Predictions(NamedTuple):
    """The best k items of n users."""

    items: np.ndarray  # int32 [n, k], best first; -1 where there are fewer
    scores: np.ndarray  # float32 [n, k]; -inf there


class Ready(NamedTuple):
    """A model's arrays as XLA reads them."""

    wide: WidePart
    encoders: tuple[Any, ...]
    output: jax.Array  # float32 [N, T·d]
    bias: jax.Array  # float32 [N]
    weight: jax.Array  # float32 []


def predict(
    model: Model,
    histories: Histories | Sequence[Sequence[Any]],
    *,
    k: int = 10,
    exclude_seen: bool = True,
    batch_size: int = 256,
) -> Predictions:
    """The k items that each user is likeliest to take next.

    Items are matched by name. Those that the model doesn't know are left out of a history; a user
    of whom nothing is left gets what is popular. Equal scores stand in order of id.

    Args:
        model: of `recommend.fit` or `recommend.load`.
        histories: of n users; or lists of names of items, in order of time.
        k: items for each.
        exclude_seen: leave out what the history holds.
        batch_size: users at a time.

    Returns:
        `Predictions`; `model.names(items[0])` are the first user's by name.

    Raises:
        ValueError: if k or batch_size is below 1.

    Example:
        >>> from sparse_jax import data, recommend
        >>> histories = data.of_lists([["tea", "milk", "egg"], ["tea", "milk"], ["egg", "tea"]] * 9)
        >>> model = recommend.fit(histories, preset="linear")
        >>> model.names(predict(model, [["tea"]], k=1).items[0])
        ['milk']
    """
    k, batch_size = check_whole("k", k), check_whole("batch_size", batch_size)
    known = aligned(model, histories)
    items = np.full((known.num_users, k), -1, np.int32)
    scores = np.full((known.num_users, k), -np.inf, np.float32)
    for start in range(0, known.num_users, batch_size):
        part = known.take(np.arange(start, min(start + batch_size, known.num_users)))
        stop = start + part.num_users
        items[start:stop], scores[start:stop] = _best(model, part, k, exclude_seen)
    return Predictions(items, scores)


def aligned(model: Model, histories: Histories | Sequence[Sequence[Any]]) -> Histories:
    """Histories in the model's ids, without the items that it doesn't know.

    Args:
        model: whose ids.
        histories: of n users, or lists of names.
    """
    if not isinstance(histories, Histories):
        histories = of_lists(histories)
    if histories.item_names is model.item_names:
        return histories
    number = np.full(histories.num_items, -1, np.int32)
    for item in np.unique(histories.items).tolist():  # of one user they are few
        number[item] = model.places.get(histories.item_names[item], -1)
    return renumbered(histories, number, model.item_names)


def renumbered(histories: Histories, number: np.ndarray, names: tuple[str, ...]) -> Histories:
    """Histories by other ids.

    Args:
        histories: of n users.
        number: int32 [N], the new id of each item; -1 leaves its events out.
        names: by the new ids.
    """
    items = number[histories.items]
    kept = items >= 0
    before = np.concatenate([np.zeros(1, np.int64), np.cumsum(kept)])
    times = None if histories.times is None else histories.times[kept]
    return Histories(before[histories.offsets], items[kept], names, histories.user_names, times)


def _best(model: Model, part: Histories, k: int, exclude_seen: bool) -> Predictions:
    """Of one batch. Users of whose first items too many were seen are asked for more."""
    found = _padded(*_filtered(model, part, k + _SPARE, exclude_seen), k)
    longest = int(part.lengths.max(initial=0)) if exclude_seen else 0
    short = np.flatnonzero((found.items < 0).any(axis=1))
    if longest > _SPARE and len(short) and k < model.num_items:
        more = _padded(*_filtered(model, part.take(short), k + longest, exclude_seen), k)
        found.items[short], found.scores[short] = more
    return found


def _filtered(
    model: Model, part: Histories, wanted: int, exclude_seen: bool
) -> tuple[np.ndarray, np.ndarray]:
    """(ids [n, m], scores [n, m]) of at least so many, or all, items; -1 for those left out."""
    size, inputs = _inputs(model, part)
    found = _topk(
        *inputs,
        shape=model.shape,
        size=size,
        k=min(_rounded(wanted), model.num_items),
        whole=bool(model.encoders) and size * model.num_items <= _WHOLE,
    )
    scores, ids = (np.asarray(x)[: part.num_users] for x in found)
    return np.where(_seen(part, ids), -1, ids) if exclude_seen else ids, scores


def _padded(ids: np.ndarray, scores: np.ndarray, k: int) -> Predictions:
    """The first k of each row that are left, then -1."""
    order = np.argsort(ids < 0, axis=1, kind="stable")[:, :k]
    ids = np.take_along_axis(ids, order, axis=1)
    scores = np.where(ids >= 0, np.take_along_axis(scores, order, axis=1), -np.inf)
    more = ((0, 0), (0, k - ids.shape[1]))
    return Predictions(
        np.pad(ids, more, constant_values=-1),
        np.pad(scores, more, constant_values=-np.inf).astype(np.float32),
    )


def _seen(part: Histories, ids: np.ndarray) -> np.ndarray:
    """Bool, as ids [n, m]: which of them the user's history holds."""
    users = np.repeat(np.arange(part.num_users), part.lengths)
    stride = part.num_items + 1
    taken = np.unique(users * stride + part.items)
    asked = np.arange(part.num_users)[:, None] * stride + ids
    place = np.minimum(np.searchsorted(taken, asked), max(len(taken) - 1, 0))
    return taken[place] == asked if len(taken) else np.zeros(ids.shape, bool)


def _rounded(value: int) -> int:
    """The next power of two, so that few programs are compiled."""
    return 1 << max(value - 1, 0).bit_length()


def _inputs(model: Model, part: Histories) -> tuple[int, tuple[Ready, Entries, np.ndarray]]:
    """(B, what scores of so many users are computed from); those beyond the part are padding."""
    size = _rounded(part.num_users)
    events = encoder.last_events(part, model.shape.length, size)
    return size, (ready(model), entries_of(model, part, size), events)


def entries_of(model: Model, part: Histories, size: int) -> Entries:
    """The last events of each user with their ages, as features of the pairs.

    Args:
        model: whose decay.
        part: of at most `size` users.
        size: B.
    """
    lengths = np.minimum(part.lengths, _READ)
    index, _ = gather_index(part.offsets, np.arange(part.num_users))
    users = np.repeat(np.arange(part.num_users), part.lengths)
    ages = part.offsets[1:][users] - 1 - index
    recent = ages < _READ
    capacity = _rounded(max(int(lengths.sum()), 16))
    ids, rows = np.full(capacity, -1, np.int32), np.full(capacity, size - 1, np.int32)
    values = np.zeros(capacity, np.float32)
    total = int(recent.sum())
    ids[:total], rows[:total] = part.items[recent], users[recent]
    values[:total] = model.mix.decay ** ages[recent]
    return Entries(ids, rows, values)  # type: ignore[arg-type]


def scores_of(model: Model, part: Histories) -> np.ndarray:
    """Scores of all items.

    Args:
        model: of N items.
        part: of n users, in its ids.

    Returns:
        float32 [n, N].
    """
    size, inputs = _inputs(model, part)
    found = _scores(*inputs, shape=model.shape, size=size)
    return np.asarray(found)[: part.num_users]


_READY: list[tuple[Model, Ready]] = []


def ready(model: Model) -> Ready:
    """The arrays of a model on the device; those of the last few models are kept there."""
    for kept, arrays in _READY:
        if kept is model:
            return arrays
    offsets, items, weights = (owned(x) for x in model.pairs)
    bias = owned(model.bias)
    # Without an encoder the pairs' kernel adds the bias itself, times the weight.
    wide_bias = jnp.zeros_like(bias) if model.encoders else bias
    found = Ready(
        WidePart(offsets, items, weights, wide_bias, order_by_bias(wide_bias)),
        jax.tree.map(jnp.asarray, model.encoders),
        jnp.asarray(model.output),
        bias,
        jnp.float32(model.mix.weight),
    )
    _READY.append((model, found))
    del _READY[:-2]
    return found


@functools.partial(jax.jit, static_argnames=("shape", "size", "k", "whole"))
def _topk(
    arrays: Ready,
    entries: Entries,
    inputs: jax.Array,
    *,
    shape: Shape,
    size: int,
    k: int,
    whole: bool,
) -> Any:
    """(scores, ids) of the best k. One product of matrices is fast, and takes room for all."""
    if whole:
        return jax.lax.top_k(_scores(arrays, entries, inputs, shape=shape, size=size), k)
    layer = None
    if arrays.encoders:
        hidden = encoder.summaries(arrays.encoders, inputs, shape=shape)
        layer = LastLayer(hidden, arrays.output, arrays.bias)
    nothing = jnp.float32(0)
    return ensemble_topk(
        arrays.wide,
        (),
        layer,
        entries,
        num_points=size,
        weight=arrays.weight,
        tree_weight=nothing,
        beam=1,
        k=k,
    )


@functools.partial(jax.jit, static_argnames=("shape", "size"))
def _scores(
    arrays: Ready, entries: Entries, inputs: jax.Array, *, shape: Shape, size: int
) -> jax.Array:
    wide = arrays.wide
    scores = wide_scores(wide.offsets, wide.label_ids, wide.weights, wide.bias, entries, size)
    scores = arrays.weight * scores
    if arrays.encoders:
        hidden = encoder.summaries(arrays.encoders, inputs, shape=shape)
        logits = jax.lax.dot_general(hidden, arrays.output, (((1,), (1,)), ((), ())))
        scores = logits + arrays.bias[None, :] + scores
    return scores


def related(model: Model, items: Sequence[Any], *, k: int = 10) -> Predictions:
    """What goes with each of some items: taken close together, in either order.

    Args:
        model: of `recommend.fit` or `recommend.load`.
        items: [n] names.
        k: items for each.

    Returns:
        `Predictions` with the cosine of the items' counts as scores, from 0 to 1; an item of which
        nothing is known to go with it has -1 throughout. An item of no events is taken, with texts,
        for the mean of those whose texts are nearest, each of which goes with itself by 1.

    Raises:
        ValueError: if k is below 1, items are one text, or the model doesn't know an item.

    Example:
        >>> from sparse_jax import data, recommend
        >>> histories = data.of_lists([["tea", "milk", "egg"], ["tea", "milk"], ["egg", "tea"]] * 9)
        >>> model = recommend.fit(histories, preset="linear")
        >>> model.names(related(model, ["milk"], k=1).items[0])
        ['tea']
    """
    check_whole("k", k)
    if isinstance(items, str | bytes):  # whose letters would be the items
        raise ValueError(f"items = {items!r:.40}: must be a list of names; put it into [ ]")
    places = model.places
    found = Predictions(
        np.full((len(items), k), -1, np.int32), np.full((len(items), k), -np.inf, np.float32)
    )
    beside = _cosines(model)
    for row, name in enumerate(items):
        if str(name) not in places:
            raise ValueError(
                f"item = {str(name)!r}: must be one that the model was trained on; update the "
                "model with its events or its text"
            )
        item = places[str(name)]
        others, weights = beside(item)
        kept = others != item
        others, weights = others[kept], weights[kept]
        order = np.lexsort((others, -weights))[:k]
        found.items[row, : len(order)] = others[order]
        found.scores[row, : len(order)] = weights[order]
    return found


def _cosines(model: Model) -> Callable[[int], tuple[np.ndarray, np.ndarray]]:
    """From an item to (others, ascending; how much they go with it)."""
    counts = to_matrix(model.counts)
    beside = (counts + counts.T).tocsr()
    beside.sort_indices()
    norms = np.sqrt(np.maximum(beside.sum(axis=1), 1e-12))

    def counted(item: int) -> tuple[np.ndarray, np.ndarray]:
        span = slice(beside.indptr[item], beside.indptr[item + 1])
        others = beside.indices[span]
        return others, beside.data[span] / (norms[item] * norms[others])

    if model.texts is None:
        return counted
    shares = lenders(model.texts, model.popularity)
    unknown = model.popularity == 0
    shares = shares.multiply(unknown[:, None]).tocsr()

    def lent(item: int) -> tuple[np.ndarray, np.ndarray]:
        whole = np.zeros(len(norms))
        span = slice(shares.indptr[item], shares.indptr[item + 1])
        lending = shares.indices[span], shares.data[span]
        for known, share in zip(*lending, strict=True) if unknown[item] else ((item, 1.0),):
            others, weights = counted(known)
            whole[others] += share * np.where(others == known, 0, weights)
            whole[known] += share
        whole = np.where(unknown, shares @ whole, whole)
        (others,) = np.nonzero(whole)
        return others, whole[others]

    return lent
