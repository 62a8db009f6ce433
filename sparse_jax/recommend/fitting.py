"""Training of a whole recommender."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import scipy.sparse

from sparse_jax.data.histories import Histories, Split, check, in_order
from sparse_jax.recommend import borrowing, mixing, pairs, strengths, training
from sparse_jax.recommend.evaluation import repeats
from sparse_jax.recommend.model import Mix, Model
from sparse_jax.recommend.presets import PRESETS, Preset, Progress, silent
from sparse_jax.runtime.interrupt import Interrupt

RECENT = 50
"""Last events of a user that a model keeps, for `update`."""
_HELD = 2000  # users whose last event chooses the mix, at most
_SHARE = 25  # of the events, at most one in so many: by few users' a mix is chosen by chance
_HELD_CELLS = 1 << 28  # scores that choosing looks at, at most, for each mix tried


def fit(
    histories: Histories,
    *,
    preset: str = "fast",
    seed: int = 0,
    item_texts: Mapping[str, str] | None = None,
    interrupt: Interrupt | None = None,
    progress: Progress = silent,
) -> Model:
    """Learns from histories what a user takes next.

    The last events of at most 2,000 users, one event in 25, are held out to choose how the parts
    are mixed. The transitions are then counted anew with all events; encoders and the closed form
    stay.

    Args:
        histories: of n users, as `data.read_histories` reads them; users of one event only count
            for what is popular.
        preset: "linear": transitions alone, in seconds; "fast": with an encoder, and the closed
            form of up to 5,000 items; "best": with that of up to 20,000, and several encoders.
        seed: of what is held out, and of the encoders.
        item_texts: a text of items by name, as a title with categories. Items of no events borrow
            of those with similar texts, and can be recommended; all else stays as it is without.
        interrupt: stops training of encoders early.
        progress: hears how far it is.

    Returns:
        A `Model`.

    Raises:
        ValueError: an unknown preset, a negative seed, no user with two events, or no text at all.
        TypeError: histories or texts of another kind.

    Example:
        >>> from sparse_jax import data, recommend
        >>> histories = data.of_lists([["tea", "milk", "egg"], ["tea", "milk"], ["egg", "tea"]] * 9)
        >>> fit(histories, preset="linear")
        <recommend.Model of 3 items: 4 pairs, 0 encoders>
    """
    if preset not in PRESETS:
        raise ValueError(f"preset = {preset!r}: must be one of {', '.join(PRESETS)}")
    if not 0 <= seed < 2**31:
        raise ValueError(f"seed = {seed}: must be from 0 to 2147483647")
    check(histories)
    if item_texts is not None:
        borrowing.check(item_texts)
    if not (histories.lengths >= 2).any():
        raise ValueError(
            f"histories = {histories.num_users} users, none of two events: must have some to learn "
            "what follows what; check the column of users"
        )
    chosen, started = PRESETS[preset], time.perf_counter()
    held_out = hold_out(histories, seed)
    encoders = tuple(
        training.train(
            held_out.train,
            preset=chosen,
            seed=seed + number,
            interrupt=interrupt,
            progress=progress,
            stage=f"encoder {number + 1} of {chosen.encoders}",
        )
        for number in range(chosen.encoders)
    )
    model = _assemble(held_out.train, encoders, chosen, preset, seed)
    if not repeats(held_out.contexts, held_out.targets).all():  # else nobody says which mix is best
        progress("mix", 0, 1, "")
        model = mixing.choose(model, held_out)
    tried = model
    model = _counted(model, histories)
    if item_texts is not None:
        progress("texts", 0, 1, "")
        model = _with_texts(model, tried, item_texts, histories, held_out)
    seconds = time.perf_counter() - started
    return dataclasses.replace(model, notes={"train_seconds": round(seconds, 3)})


def _with_texts(
    model: Model,
    tried: Model,
    item_texts: Mapping[str, str],
    histories: Histories,
    held_out: Split,
) -> Model:
    """The model with texts of its items, and with items that are known by their text alone.

    Args:
        model: of all events.
        tried: the same without the held-out ones.
        item_texts: by name.
        histories: of all events.
        held_out: what the strength of borrowing is chosen by, too.
    """
    names = model.item_names + in_order(n for n in item_texts if n not in model.places)
    texts = borrowing.of_texts(names, item_texts)
    known = borrowing.first(texts, model.num_items)
    strength = strengths.choose(tried, known, histories, held_out, model.seed)
    return borrowing.with_texts(model, texts._replace(strength=strength), names)


def hold_out(histories: Histories, seed: int) -> Split:
    """The last events of some users of three events or more, and all else to train on.

    Args:
        histories: of n users.
        seed: of who it is: one event in 25, at most 2,000 users.

    Returns:
        A `Split`; contexts and targets are those users'.
    """
    able = np.flatnonzero(histories.lengths >= 3)
    most = min(_HELD, len(histories.items) // _SHARE, _HELD_CELLS // histories.num_items)
    users = np.sort(np.random.default_rng(seed).permutation(able)[:most])
    kept = np.ones(len(histories.items), bool)
    last = histories.offsets[users + 1] - 1
    kept[last] = False
    before = np.concatenate([np.zeros(1, np.int64), np.cumsum(kept)])
    train = dataclasses.replace(
        histories,
        offsets=before[histories.offsets],
        items=histories.items[kept],
        times=None if histories.times is None else histories.times[kept],
    )
    return Split(train, train.take(users), histories.items[last], 0)


def _assemble(
    histories: Histories, encoders: tuple[Any, ...], chosen: Preset, preset: str, seed: int
) -> Model:
    """A model before its mix is chosen."""
    count = max(len(encoders), 1)
    output = np.zeros((histories.num_items, 0), np.float32)
    if encoders:
        output = np.concatenate([np.asarray(e["items"]) for e in encoders], axis=1)
    bias = sum((np.asarray(e["bias"]) for e in encoders), np.zeros(histories.num_items, np.float32))
    none = pairs.from_matrix(pairs.count(histories.take(np.zeros(0, np.int64)), window=1))
    closed = pairs.closed_form(histories) if histories.num_items <= chosen.max_closed else None
    model = Model(
        counts=none,
        closed=closed,
        pairs=none,
        popularity=np.zeros(histories.num_items, np.float32),
        encoders=jax.tree.map(jnp.asarray, encoders),
        output=output,
        bias=(bias / np.float32(count)).astype(np.float32),
        mix=Mix(weight=3.0, decay=0.7, closed=0.0),
        shape=chosen.shape,
        window=pairs.window_of(len(histories.items)),
        recent=histories,
        preset=preset,
        seed=seed,
        notes={},
    )
    return _counted(model, histories)


def _counted(model: Model, histories: Histories) -> Model:
    """The model with transitions and popularity of these histories."""
    counts = pairs.count(histories, window=model.window)
    popularity = np.bincount(histories.items, minlength=histories.num_items).astype(np.float32)
    return with_counts(model, counts, popularity, histories)


def with_counts(
    model: Model,
    counts: scipy.sparse.csr_array,
    popularity: np.ndarray,
    histories: Histories,
) -> Model:
    """The model with other counts, and what follows from them.

    Args:
        model: with rows for N items.
        counts: float64 [N, N], of pairs, as of `pairs.count`.
        popularity: float32 [N], of items.
        histories: whose last events are kept.
    """
    counted = pairs.from_matrix(counts)
    read = pairs.mixed(counted, model.closed, model.mix)
    if model.texts is not None:
        shares = borrowing.lenders(model.texts, popularity)
        read = borrowing.with_lent(read, model.texts, shares)
    starts = np.maximum(histories.offsets[:-1], histories.offsets[1:] - RECENT)
    return dataclasses.replace(
        model,
        counts=counted,
        pairs=read,
        popularity=popularity,
        bias=model.bias if model.encoders else mixing.log_popularity(popularity),
        recent=histories.cut(starts, histories.offsets[1:]),
    )
