"""How good lists of items are: the rank of the item that came next among all items."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from sparse_jax.data.histories import Histories, check
from sparse_jax.recommend.inference import aligned, scores_of
from sparse_jax.recommend.model import Model

_CELLS = 1 << 22  # scores that are looked at together

Scorer = Callable[[Histories], np.ndarray]
"""Scores float [n, N] of n users; for models that are not ours."""


def evaluate(
    model: Model,
    histories: Histories,
    targets: Sequence[str] | np.ndarray,
    *,
    ks: Sequence[int] = (1, 5, 10, 20),
    exclude_seen: bool = True,
) -> dict[str, float]:
    """Figures of a model on what users took next, each ranked among all items: no sample.

    `data.leave_one_out` and `data.split_at` make histories and targets. How cases are decided:

    - The rank is one more than the number of items that score higher or the same: a model that
      gives equal scores gains nothing by the order of ids.
    - A score of NaN ranks behind all others, the target's own included; -inf just before.
    - With exclude_seen, items of the history are not ranked. A target that the history holds can't
      be found then: such users are left out, and `repeats` is their share.
    - A target that the model doesn't know is a miss at every k, and `unknown` is their share.
    - A user of whom no item is known is asked nonetheless.

    Args:
        model: of `recommend.fit`.
        histories: of n users: what came before.
        targets: int32 [n], ids of the histories, or names: what came next.
        ks: lengths of lists.
        exclude_seen: as in `predict`.

    Returns:
        Means over users: hr@k, the share of users whose item is among the first k; ndcg@k, 1 /
        log2(1 + rank) of those; mrr, 1 / rank; coverage@k, the share of all items that are in
        anyone's list; popularity@k, the mean over lists of the rank of an item among the popular,
        from 0, the rarest, to 1; `users`, `repeats` and `unknown`.

    Raises:
        ValueError: targets that don't fit, no user to ask, or a k below 1.

    Example:
        >>> from sparse_jax import data, recommend
        >>> histories = data.of_lists([["tea", "milk", "egg"], ["tea", "milk"], ["egg", "tea"]] * 9)
        >>> split = data.leave_one_out(histories)
        >>> model = recommend.fit(split.train, preset="linear")
        >>> sorted(evaluate(model, split.contexts, split.targets, ks=(1,)))[:3]
        ['coverage@1', 'hr@1', 'mrr']
    """
    known, ids = _asked(model, histories, targets)
    return evaluate_scores(
        lambda part: scores_of(model, part),
        known,
        ids,
        popularity=model.popularity,
        ks=ks,
        exclude_seen=exclude_seen,
    )


def _asked(
    model: Model, histories: Histories, targets: Sequence[str] | np.ndarray
) -> tuple[Histories, np.ndarray]:
    """(histories, targets) in the model's ids; -1 is an item that it doesn't know."""
    check(histories)
    if len(targets) != histories.num_users:
        raise ValueError(
            f"targets = {len(targets)} items: must be {histories.num_users}, one for each history"
        )
    known = aligned(model, histories)
    names = [_name_of(histories, place, target) for place, target in enumerate(targets)]
    return known, np.fromiter((model.places.get(name, -1) for name in names), np.int64, len(names))


def _name_of(histories: Histories, place: int, target: Any) -> str:
    """A target's name.

    Raises:
        ValueError: neither a name nor an id that the histories have.
    """
    if isinstance(target, str):
        return target
    if not isinstance(target, int | np.integer) or not 0 <= target < histories.num_items:
        raise ValueError(
            f"targets[{place}] = {target}: must be an item's name, or its id in the histories, "
            f"from 0 to {histories.num_items - 1}"
        )
    return histories.item_names[target]


def repeats(histories: Histories, targets: np.ndarray) -> np.ndarray:
    """Which users took before what they took next.

    Args:
        histories: of n users.
        targets: int [n], ids of the histories.

    Returns:
        bool [n].
    """
    seen = np.zeros(len(targets), bool)
    users = np.repeat(np.arange(histories.num_users), histories.lengths)
    seen[users[histories.items == targets[users]]] = True
    return seen


def evaluate_scores(
    scorer: Scorer,
    histories: Histories,
    targets: np.ndarray,
    *,
    popularity: np.ndarray,
    ks: Sequence[int] = (1, 5, 10, 20),
    exclude_seen: bool = True,
) -> dict[str, float]:
    """`evaluate` of anything that scores all items: see there.

    Args:
        scorer: scores float [n, N] of n histories, in their ids.
        histories: of n users, N items.
        targets: int [n]; -1 is unknown.
        popularity: float [N], events of each item.
        ks: lengths of lists.
        exclude_seen: as in `predict`.

    Raises:
        ValueError: no user to ask, or a k below 1.
    """
    if not ks or min(ks) < 1:
        raise ValueError(f"ks = {tuple(ks)}: must be at least 1 each")
    seen = repeats(histories, targets)
    asked = np.flatnonzero(~seen) if exclude_seen else np.arange(len(targets))
    if not len(asked):
        raise ValueError("histories = no user to ask: must have one whose next item is a new one")
    num_items = histories.num_items
    longest = min(max(ks), num_items)
    step = max(1, _CELLS // max(num_items, 1))
    ranks, lists = [], []
    for start in range(0, len(asked), step):
        rows = asked[start : start + step]
        part = histories.take(rows)
        scores = np.array(scorer(part), np.float64)
        scores = np.where(np.isnan(scores), -np.inf, scores)
        left_out = np.zeros(scores.shape, bool)
        if exclude_seen:
            left_out[np.repeat(np.arange(len(rows)), part.lengths), part.items] = True
        ranks.append(_ranks(scores, targets[rows], left_out))
        scores[left_out] = -np.inf
        lists.append(_first(scores, longest))
    return _figures(
        np.concatenate(ranks), np.concatenate(lists), popularity, ks, seen, targets[asked]
    )


def _ranks(scores: np.ndarray, targets: np.ndarray, left_out: np.ndarray) -> np.ndarray:
    """float64 [n], from 1; infinite for an unknown target or one without a score."""
    own = scores[np.arange(len(targets)), targets]
    higher = ((scores >= own[:, None]) & ~left_out).sum(axis=1)
    return np.where((targets >= 0) & (own > -np.inf), higher, np.inf)


def _first(scores: np.ndarray, k: int) -> np.ndarray:
    """The k best ids of each row in any order, int [n, k]; -1 for those without a score."""
    ids = np.argpartition(-scores, k - 1, axis=1)[:, :k]
    found = np.take_along_axis(scores, ids, axis=1)
    order = np.lexsort((ids, -found), axis=1)
    ids = np.take_along_axis(ids, order, axis=1)
    return np.where(np.take_along_axis(found, order, axis=1) > -np.inf, ids, -1)


def _figures(
    ranks: np.ndarray,
    lists: np.ndarray,
    popularity: np.ndarray,
    ks: Sequence[int],
    seen: np.ndarray,
    targets: np.ndarray,
) -> dict[str, float]:
    num_items = len(popularity)
    order = np.argsort(np.argsort(popularity, kind="stable"), kind="stable")
    place = np.append(order / max(num_items - 1, 1), np.nan)  # of -1
    found: dict[str, float] = {}
    for k in sorted(set(ks)):
        hit = ranks <= k
        found[f"hr@{k}"] = float(hit.mean())
        found[f"ndcg@{k}"] = float(np.where(hit, 1 / np.log2(1 + ranks), 0).mean())
    found["mrr"] = float((1 / ranks).mean())
    for k in sorted(set(ks)):
        shown = lists[:, :k]
        some = shown >= 0
        found[f"coverage@{k}"] = len(np.unique(shown[some])) / num_items
        found[f"popularity@{k}"] = float(place[shown[some]].mean()) if some.any() else 0.0
    found["users"] = len(ranks)
    found["repeats"] = float(seen.mean()) if len(ranks) < len(seen) else 0.0
    found["unknown"] = float((targets < 0).mean())
    return found
