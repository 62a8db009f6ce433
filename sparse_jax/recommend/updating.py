"""New events, new users and new items, without training anew."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
import scipy.sparse

from sparse_jax.data.histories import Histories, check, in_order
from sparse_jax.data.xmc import offsets_of
from sparse_jax.recommend import borrowing, pairs
from sparse_jax.recommend.fitting import with_counts
from sparse_jax.recommend.inference import renumbered
from sparse_jax.recommend.model import Model

_LOOKED_AT = 10_000  # users, when events are looked at for being new
_TELLING = 3  # events of a user, at least: one or two may well come again


def update(
    model: Model, histories: Histories, *, item_texts: Mapping[str, str] | None = None
) -> Model:
    """A model that knows further events, too.

    They are counted as if they had been there from the start: a user that the model knows by name
    goes on where they were, as far as their last 50 events are kept; other users are new. New items
    stand behind the others, whose ids stay. What an encoder knows of a new item is the mean of what
    it knows of those that come just before and after it, by their counts; nothing else in encoders,
    mix or closed form changes.

    Args:
        model: of `recommend.fit` or `recommend.load`; it stays as it is.
        histories: the new events alone, in order of time, of users by the names that they have in
            the model; numbers that `of_lists` gave would be taken for those of its own lists. With
            texts there may be none: `data.of_lists([])`.
        item_texts: texts of items by name, of a model that was trained with texts: items that it
            doesn't know can then be recommended at once, and a known item's text is replaced.

    Returns:
        A `Model`.

    Raises:
        ValueError: if there are neither events nor texts, the model was trained without texts, or
            most users' events are those that it learned last: they would count double.
        TypeError: histories or texts of another kind.

    Example:
        >>> from sparse_jax import data, recommend
        >>> histories = data.of_lists([["tea", "milk", "egg"], ["tea", "milk"], ["egg", "tea"]] * 9)
        >>> model = recommend.fit(histories, preset="linear")
        >>> events = data.of_lists([["egg", "salt"]] * 20, users=[f"new{n}" for n in range(20)])
        >>> model = update(model, events)
        >>> model.names(recommend.predict(model, [["egg"]], k=1).items[0])
        ['salt']
    """
    check(histories)
    if item_texts is not None:
        _check_texts(model, item_texts)
    elif not len(histories.items):
        raise ValueError("histories = no events: must have some; give the file of the new ones")
    _check_new(model.recent, histories)
    before = model.num_items
    given = {*histories.item_names, *(item_texts or ())}
    names = model.item_names + in_order(name for name in given if name not in model.places)
    places = _places(names)
    number = np.fromiter((places[n] for n in histories.item_names), np.int32, histories.num_items)
    new = renumbered(histories, number, names)
    joined, first_new = _joined(model.recent, new, names)
    counts = pairs.to_matrix(model.counts, len(names)) + pairs.count(
        joined, window=model.window, first_new=first_new
    )
    counts = scipy.sparse.csr_array(counts)
    popularity = np.bincount(new.items, minlength=len(names)).astype(np.float32)
    popularity[:before] += model.popularity
    grown = _with_rows(model, counts, len(names))
    if model.texts is not None:
        texts = borrowing.grown(model.texts, names, item_texts or {})
        grown = dataclasses.replace(grown, texts=texts, popularity=popularity)
        shares = borrowing.lenders(texts, popularity)
        grown = borrowing.with_rows(grown, shares, texts.strength.shift)
    return dataclasses.replace(
        with_counts(grown, counts, popularity, joined),
        notes=model.notes | {"updates": model.notes.get("updates", 0) + 1},
    )


def _check_texts(model: Model, item_texts: Mapping[str, str]) -> None:
    borrowing.check(item_texts)
    if model.texts is None:
        raise ValueError(
            "item_texts: the model has no texts: must be trained with them; give item_texts to "
            "recommend.fit (recommend train --items FILE)"
        )


def _check_new(recent: Histories, new: Histories) -> None:
    """Refuses events that were learned already: the whole log again, or the same update."""
    places = _places(recent.user_names)
    known = [i for i, name in enumerate(new.user_names) if name in places][:_LOOKED_AT]
    compared = repeated = 0
    for user in known:
        given = _names_of(new, user)
        kept = _names_of(recent, places[new.user_names[user]])
        if min(len(given), len(kept)) < _TELLING:
            continue
        compared += 1
        repeated += kept[-len(given) :] == given or any(
            given[at : at + len(kept)] == kept for at in range(len(given) - len(kept) + 1)
        )
    if compared >= 3 and repeated > compared / 2:
        raise ValueError(
            f"histories = what the model has learned, of {repeated:,} of {compared:,} users that "
            "it knows: must be new events alone, or they count twice; leave out what was trained on"
        )


def num_learned(model: Model, contexts: Histories, targets: np.ndarray) -> int:
    """How many users' targets the model has learned: held out of a test, they flatter it.

    Args:
        model: of `recommend.fit`, `recommend.load` or `update`.
        contexts: of m users, what they had taken before.
        targets: int [m], ids of the contexts' items, what they took next.

    Returns:
        Users that the model knows by name, of whom it has kept the end of the context with the
        target behind it.
    """
    places = _places(model.recent.user_names)
    count = 0
    for user, name in enumerate(contexts.user_names):
        if name in places:
            target = contexts.item_names[int(targets[user])]
            shown = [*_names_of(contexts, user)[-1:], target]
            kept = _names_of(model.recent, places[name])
            count += shown in (kept[at : at + 2] for at in range(len(kept) - 1))
    return count


def _names_of(histories: Histories, user: int) -> list[str]:
    return [histories.item_names[item] for item in histories.of(user).tolist()]


def _places(names: Sequence[str]) -> dict[str, int]:
    return {name: place for place, name in enumerate(names)}


def _joined(
    recent: Histories, new: Histories, names: tuple[str, ...]
) -> tuple[Histories, np.ndarray]:
    """(all users with what is kept of them and what is new, where the new begins in each)."""
    places = _places(recent.user_names)
    fresh = [name for name in new.user_names if name not in places]
    users = recent.user_names + tuple(fresh)
    places |= {name: len(recent.user_names) + i for i, name in enumerate(fresh)}
    of_new = np.fromiter((places[name] for name in new.user_names), np.int64, new.num_users)
    old_users = np.repeat(np.arange(recent.num_users), recent.lengths)
    new_users = np.repeat(of_new, new.lengths)
    owners = np.concatenate([old_users, new_users])
    order = np.argsort(owners, kind="stable")  # old events stay before new ones
    items = np.concatenate([recent.items, new.items])[order]
    counts = np.bincount(owners, minlength=len(users))
    first_new = np.bincount(old_users, minlength=len(users))
    return Histories(offsets_of(counts), items, names, users), first_new


def _with_rows(model: Model, counts: scipy.sparse.csr_array, num_items: int) -> Model:
    """The model with rows for new items in the encoders' tables and in their output.

    New is, with texts, also what had no events before: it has borrowed its rows until now.
    """
    if not model.encoders:
        return model
    new = np.ones(num_items, bool)
    new[: model.num_items] = (model.popularity == 0) & (model.texts is not None)
    beside = (counts + counts.T).tocsr()[new][:, ~new]
    total = beside.sum(axis=1)
    told = np.flatnonzero(new)[total > 0]

    def grown(table: np.ndarray) -> np.ndarray:
        table = np.asarray(table, np.float32)
        more = np.zeros((num_items - model.num_items, *table.shape[1:]), np.float32)
        table = np.concatenate([table, more])
        share = np.maximum(total, 1e-12)
        mean = (beside @ table[~new]) / (share[:, None] if table.ndim == 2 else share)
        table[told] = mean[total > 0]
        return table

    encoders = tuple(
        part | {"items": grown(part["items"]), "bias": grown(part["bias"])}
        for part in model.encoders
    )
    return dataclasses.replace(
        model, encoders=encoders, output=grown(model.output), bias=grown(model.bias)
    )
