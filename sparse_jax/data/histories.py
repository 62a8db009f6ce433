"""Histories of users: which items each of them took, in order of time."""

from __future__ import annotations

import dataclasses
import math
import numbers
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from sparse_jax.data.kinds.columns import as_name, is_missing
from sparse_jax.data.times import seconds_of
from sparse_jax.data.xmc import offsets_of


@dataclasses.dataclass(frozen=True, eq=False)
class Histories:
    """The items of n users, each user's in order of time: `of_events` or `of_lists` makes one.

    Attributes:
        offsets: int64 [n + 1], where the events of each user begin in `items`.
        items: int32 [E], ids below N.
        item_names: [N], by id.
        user_names: [n].
        times: float64 [E], seconds, ascending within a user; None where only the order is known.
        notes: what is odd, for people.
    """

    offsets: np.ndarray
    items: np.ndarray
    item_names: tuple[str, ...]
    user_names: tuple[str, ...]
    times: np.ndarray | None = None
    notes: tuple[str, ...] = ()

    @property
    def num_users(self) -> int:
        """n."""
        return len(self.offsets) - 1

    @property
    def num_items(self) -> int:
        """N."""
        return len(self.item_names)

    @property
    def lengths(self) -> np.ndarray:
        """Events of each user.

        Returns:
            int64 [n].
        """
        return np.diff(self.offsets)

    def of(self, user: int) -> np.ndarray:
        """The items of one user.

        Args:
            user: below n.

        Returns:
            int32 [events].
        """
        return self.items[self.offsets[user] : self.offsets[user + 1]]

    def take(self, users: np.ndarray) -> Histories:
        """The histories of some users.

        Args:
            users: int [m], in the order wanted; or bool [n].

        Returns:
            `Histories` of m users, with all names of items.
        """
        users = np.flatnonzero(users) if np.asarray(users).dtype == bool else np.asarray(users)
        return _cut(self, users, self.offsets[users], self.offsets[users + 1])

    def cut(self, starts: np.ndarray, ends: np.ndarray) -> Histories:
        """All users with a stretch of their events.

        Args:
            starts: int64 [n], the place in `items` of the first event of each.
            ends: int64 [n], the place behind the last.

        Returns:
            `Histories` of n users.
        """
        return _cut(self, np.arange(self.num_users), starts, ends)

    def without_last(self, count: int = 1) -> Histories:
        """All users without their last events.

        Args:
            count: of events that go; a user of fewer keeps none.

        Returns:
            `Histories` of n users.
        """
        starts = self.offsets[:-1]
        ends = np.maximum(starts, self.offsets[1:] - count)
        return self.cut(starts, ends)


def check(histories: Any) -> None:
    """Refuses what is no `Histories`, as lists, which `predict` alone takes.

    Raises:
        TypeError: it says what makes them.

    Example:
        >>> check([["tea", "egg"]])
        Traceback (most recent call last):
        TypeError: histories is a list: must be Histories; make them by data.of_lists
    """
    if not isinstance(histories, Histories):
        kind = type(histories).__name__
        raise TypeError(f"histories is a {kind}: must be Histories; make them by data.of_lists")


class Split(NamedTuple):
    """What is learned from, and what is asked: `leave_one_out` and `split_at` make one."""

    train: Histories
    contexts: Histories  # of m users: what they had taken before
    targets: np.ndarray  # int32 [m], what they took next
    skipped: int  # users without a target or without anything before it


def leave_one_out(histories: Histories, *, stage: str = "test") -> Split:
    """Each user's last item, or last but one, held out: the field's leave-one-out by time.

    Args:
        histories: of all events.
        stage: "test": the last item is the target, all before it is trained on; "validation": the
            last but one is, and the last is not looked at.

    Returns:
        A `Split`. A user of one event (in stage validation, of two) has no target; the event is
        trained on.

    Raises:
        ValueError: an unknown stage.

    Example:
        >>> split = leave_one_out(of_lists([["a", "b", "c"], ["b"]]))
        >>> split.train.items.tolist(), split.targets.tolist(), split.skipped
        ([0, 1, 1], [2], 1)
    """
    check(histories)
    if stage not in ("test", "validation"):
        raise ValueError(f"stage = {stage!r}: must be 'test' or 'validation'")
    if stage == "validation":
        histories = histories.without_last(1)
    asked = np.flatnonzero(histories.lengths >= 2)
    last = histories.offsets[asked + 1] - 1
    ends = histories.offsets[1:].copy()
    ends[asked] -= 1
    train = histories.cut(histories.offsets[:-1], ends)
    return Split(train, train.take(asked), histories.items[last], histories.num_users - len(asked))


def split_at(histories: Histories, time: float) -> Split:
    """What came before a moment to learn from, and each user's first item after it as target.

    Args:
        histories: with times.
        time: seconds; events at it or later are held out.

    Returns:
        A `Split`. Nothing that happened later is trained on, as there is with `leave_one_out`.

    Raises:
        ValueError: no times, or nothing before or after the moment.

    Example:
        >>> events = of_events([0, 0, 1, 1], [5, 6, 5, 7], [1, 9, 2, 3])
        >>> split = split_at(events, 4.0)
        >>> split.train.items.tolist(), split.targets.tolist()
        ([0, 0, 2], [1])
    """
    check(histories)
    if histories.times is None:
        raise ValueError(
            "histories have no times: must have them to be split at one; read a file with a column "
            "of times, or take leave_one_out"
        )
    users = np.repeat(np.arange(histories.num_users), histories.lengths)
    before = np.bincount(users[histories.times < time], minlength=histories.num_users)
    ends = histories.offsets[:-1] + before
    asked = np.flatnonzero((before > 0) & (ends < histories.offsets[1:]))
    if not len(asked):
        raise ValueError(
            f"time = {time:.15g}: must have a user with events before and after it; they are from "
            f"{histories.times.min(initial=np.inf):.15g} to "
            f"{histories.times.max(initial=-np.inf):.15g}"
        )
    train = histories.cut(histories.offsets[:-1], ends)
    skipped = histories.num_users - len(asked)
    return Split(train, train.take(asked), histories.items[ends[asked]], skipped)


def of_lists(lists: Iterable[Sequence[Any]], *, users: Sequence[Any] | None = None) -> Histories:
    """Histories of lists of items, by name or number, in order of time.

    Args:
        lists: [n] of the items of each user.
        users: [n], their names; None to number them.

    Returns:
        `Histories`; items are numbered in order of their names, as numbers where all are.

    Raises:
        ValueError: names of users that don't fit, a text instead of a list, or an item that is
            missing.

    Example:
        >>> histories = of_lists([["tea", "egg"], ["egg"]])
        >>> histories.item_names, histories.items.tolist()
        (('egg', 'tea'), [1, 0, 0])
    """
    rows = []
    for number, row in enumerate(lists):
        if isinstance(row, str | bytes):  # whose letters would be the items
            raise ValueError(
                f"lists[{number}] = {row!r:.40}: must be a list of items; put it into [ ]"
            )
        rows.append(_names(f"lists[{number}]", row))
    names = _names("users", range(len(rows)) if users is None else users)
    if len(names) != len(rows):
        raise ValueError(f"users = {len(names)} names: must be {len(rows)}, one for each list")
    flat = [item for row in rows for item in row]
    found = in_order(set(flat))
    places = {name: place for place, name in enumerate(found)}
    items = np.fromiter((places[item] for item in flat), np.int32, len(flat))
    offsets = offsets_of(np.fromiter(map(len, rows), np.int64, len(rows)))
    return Histories(offsets, items, found, tuple(names))


def of_events(
    users: Sequence[Any] | np.ndarray,
    items: Sequence[Any] | np.ndarray,
    times: Sequence[Any] | np.ndarray | None = None,
    weights: Sequence[float] | np.ndarray | None = None,
) -> Histories:
    """Histories of events, in any order.

    Events of a user are sorted by time, and those of one time stay in the order given. An event
    that comes twice, the same user, item and time, counts once; the same item at another time is
    another event. Without times the order given is that of time, and repeats stay.

    Args:
        users: [E], names or numbers.
        items: [E], names or numbers.
        times: [E], finite numbers, or dates, none missing; None for the order given.
        weights: float [E], finite; an event of weight 0 or below did not happen, as a stored zero
            or a withdrawn like; others count alike. None for ones.

    Returns:
        `Histories`, users in order of their first event as given.

    Raises:
        ValueError: lengths that differ, a user or item that is missing, as None or NaN, or a time
            or weight that is not finite.

    Example:
        >>> histories = of_events(["u", "v", "u"], ["b", "a", "a"], [2, 1, 1])
        >>> [[histories.item_names[i] for i in histories.of(user)] for user in (0, 1)]
        [['a', 'b'], ['a']]
    """
    notes = []
    clock = _finite("times", None if times is None else seconds_of("times", times), len(users))
    weight = _finite("weights", weights, len(users))
    if len(items) != len(users):
        raise ValueError(f"items = {len(items)} entries: must be {len(users)}, as users")
    item_names, item_ids = _number("items", items)
    user_names, user_ids = _number("users", users)
    rows = np.arange(len(user_ids))
    if weight is not None and (weight <= 0).any():
        rows = rows[weight > 0]
        notes.append(f"{int((weight <= 0).sum())} events of weight 0 or below are left out")
    user_names, user_ids = _by_first_event(user_names, user_ids, rows)
    keys = [rows] if clock is None else [rows, clock[rows]]
    rows = rows[np.lexsort((*keys, user_ids[rows]))]
    if clock is not None:
        fresh = _first_of_each(user_ids[rows], item_ids[rows], clock[rows])
        if not fresh.all():
            notes.append(f"{int((~fresh).sum())} events that come twice count once")
            rows = rows[fresh]
    counts = np.bincount(user_ids[rows], minlength=len(user_names))
    return Histories(
        offsets_of(counts),
        item_ids[rows],
        item_names,
        user_names,
        None if clock is None else clock[rows],
        tuple(notes),
    )


def in_order(names: Iterable[str]) -> tuple[str, ...]:
    """Names sorted, as numbers where all are: the order of ids.

    Example:
        >>> in_order(["10", "9"]), in_order(["10", "9", "x"])
        (('9', '10'), ('10', '9', 'x'))
    """
    found = list(names)
    numeric = all(name.isascii() and name.isdigit() and len(name) < 19 for name in found)
    return tuple(sorted(found, key=lambda name: (int(name), name)) if numeric else sorted(found))


def _finite(name: str, values: Any, count: int) -> np.ndarray | None:
    if values is None:
        return None
    array = np.asarray(values, np.float64)
    if array.shape != (count,):
        raise ValueError(f"{name} has shape {array.shape}: must be ({count},), as users")
    bad = np.flatnonzero(~np.isfinite(array))
    if len(bad):
        raise ValueError(
            f"{name}[{bad[0]}] = {array[bad[0]]}: must be finite; give the event its "
            f"{name.removesuffix('s')} or leave it out"
        )
    return array


def _names(argument: str, values: Iterable[Any]) -> list[str]:
    """Texts as they are, numbers as files name them: 3.0 is 3.

    Raises:
        ValueError: an entry that is missing.
    """
    return [
        value if type(value) is str else _name(argument, number, value)
        for number, value in enumerate(values)
    ]


def _name(argument: str, number: int, value: Any) -> str:
    if is_missing(value):
        raise ValueError(
            f"{argument}[{number}] = {value}: must be a name or number; drop the event, or mend it"
        )
    finite = isinstance(value, numbers.Real) and math.isfinite(value)
    return as_name(value) if finite else str(value)


def _number(argument: str, values: Any) -> tuple[tuple[str, ...], np.ndarray]:
    """(names in order, int32 [E] ids)."""
    array = np.asarray(values)
    if array.dtype.kind not in "iu":
        array = np.array(_names(argument, values), dtype=object)
    found, inverse = np.unique(array, return_inverse=True)
    names = [str(value) for value in found.tolist()]
    ordered = in_order(names)
    places = {name: place for place, name in enumerate(ordered)}
    ids = np.fromiter((places[name] for name in names), np.int32, len(names))
    return ordered, ids[inverse] if len(names) else np.zeros(0, np.int32)


def _by_first_event(
    names: tuple[str, ...], ids: np.ndarray, rows: np.ndarray
) -> tuple[tuple[str, ...], np.ndarray]:
    """Users numbered by their first event among those kept; others have no number."""
    found, first = np.unique(ids[rows], return_index=True)
    order = found[np.argsort(first)]
    number = np.full(len(names), -1, np.int32)
    number[order] = np.arange(len(order), dtype=np.int32)
    return tuple(names[i] for i in order), number[ids]


def _first_of_each(users: np.ndarray, items: np.ndarray, times: np.ndarray) -> np.ndarray:
    """Bool: the first of equal events, which needn't be neighbours among those of one time."""
    order = np.lexsort((np.arange(len(users)), items, times, users))
    key = np.stack([users[order], items[order], times[order]])
    fresh = np.ones(len(users), bool)
    fresh[order[1:]] = (key[:, 1:] != key[:, :-1]).any(axis=0)
    return fresh


def _cut(
    histories: Histories, users: np.ndarray, starts: np.ndarray, ends: np.ndarray
) -> Histories:
    """Events from starts to ends of some users."""
    lengths = ends - starts
    offsets = offsets_of(lengths)
    places = np.repeat(starts - offsets[:-1], lengths) + np.arange(offsets[-1])
    times = histories.times
    return Histories(
        offsets,
        histories.items[places],
        histories.item_names,
        tuple(histories.user_names[user] for user in users.tolist()),
        None if times is None else times[places],
    )
