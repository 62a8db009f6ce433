"""How much items of no events borrow: tried on known items that are taken for new ones."""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import scipy.sparse

from sparse_jax.data.histories import Histories, Split
from sparse_jax.data.xmc import offsets_of
from sparse_jax.recommend import borrowing
from sparse_jax.recommend.evaluation import repeats
from sparse_jax.recommend.inference import renumbered, scores_of
from sparse_jax.recommend.model import Model, Pairs, Strength, Texts
from sparse_jax.recommend.pairs import from_matrix, to_matrix

_SHARE = 0.1  # of the known items with texts that are taken for new ones
_ASKED = 2000  # users, at most, whose next item is such a one, and as many others
_HELD_CELLS = 1 << 27  # scores of either, at most
_DEEPEST = 64  # of the best items that don't borrow, those that are looked at
_LOSS = 0.004  # of the others' NDCG@10, at most
_GAINS = (0.35, 0.5, 0.7, 1.0, 1.4, 2.0)
_NEARS = (1.0, 3.0, 10.0)
_SHIFTS = (-4.5, -3.0, -1.5, 0.0)
_NO_SHIFT = (0.0,)


def choose(
    model: Model, texts: Texts, histories: Histories, held_out: Split, seed: int
) -> Strength:
    """The strength that finds most of new items and costs others next to nothing.

    A tenth of the known items lose their pairs and borrow. Asked are users who took one, each by
    what came before it, and those whose held-out item is another one.

    Args:
        model: trained and mixed, without texts.
        texts: of its items.
        histories: of all events.
        held_out: what other items are looked for by.
        seed: of who and what is chosen.

    Returns:
        The one of largest NDCG@50 of those items among all that keep .996 of the others' NDCG@10;
        of equal ones the first. That of the texts if nobody can be asked.
    """
    rng = np.random.default_rng((seed, 1))
    fictive = _fictive(model, texts, rng)
    new, others = _asked_new(histories, fictive, rng), _asked_others(held_out, fictive)
    if new is None or others is None:
        return texts.strength
    counted = np.where(fictive, 0, model.popularity).astype(np.float32)
    shares = borrowing.lenders(texts, counted)
    base = dataclasses.replace(
        model, pairs=_without(model.pairs, fictive), popularity=counted, texts=None
    )
    base = borrowing.with_rows(base, shares, 0.0)
    # Both those taken for new and the truly new displace others here, more than will in use. That
    # is on purpose: the best of many strengths is partly the luckiest, and would cost more there.
    found, kept = _Scores(base, shares, *new), _Scores(base, shares, *others)
    before = _ndcg(kept.ranks(None), 10)
    best, best_figure = texts.strength, -1.0
    least = np.inf
    shifts = _SHIFTS if model.encoders else _NO_SHIFT
    for strength in itertools.starmap(Strength, itertools.product(_GAINS, _NEARS, shifts)):
        loss = 1 - _ndcg(kept.ranks(strength), 10) / max(before, 1e-12)
        figure = _ndcg(found.ranks(strength), 50) if loss <= _LOSS else -1.0
        if figure > best_figure or (best_figure < 0 and loss < least):
            best, best_figure, least = strength, figure, min(loss, least)
    return best


def _fictive(model: Model, texts: Texts, rng: np.random.Generator) -> np.ndarray:
    """Bool [N]: the known items that are taken for new ones."""
    able = np.flatnonzero((model.popularity > 0) & (np.diff(texts.rows.offsets) > 0))
    found = np.zeros(model.num_items, bool)
    found[rng.permutation(able)[: int(np.ceil(_SHARE * len(able)))]] = True
    return found


def _asked_new(
    histories: Histories, fictive: np.ndarray, rng: np.random.Generator
) -> tuple[Histories, np.ndarray] | None:
    """(what came before it, without such items; the last such item) of users who took one."""
    users = np.repeat(np.arange(histories.num_users), histories.lengths)
    places = np.flatnonzero(fictive[histories.items])
    last = np.full(histories.num_users, -1)
    last[users[places]] = places  # the last of each, since places ascend
    most = min(_ASKED, _HELD_CELLS // histories.num_items)
    asked = np.sort(rng.permutation(np.flatnonzero(last >= 0))[:most])
    part = histories.take(asked)
    ends = part.offsets[:-1] + last[asked] - histories.offsets[asked]
    contexts = _without_items(part.cut(part.offsets[:-1], ends), fictive)
    return _those_that_can(contexts, histories.items[last[asked]])


def _asked_others(held_out: Split, fictive: np.ndarray) -> tuple[Histories, np.ndarray] | None:
    """(contexts without such items, targets) of users whose held-out item is another one."""
    other = np.flatnonzero(~fictive[held_out.targets])
    other = other[: min(_ASKED, _HELD_CELLS // len(fictive))]
    contexts = _without_items(held_out.contexts.take(other), fictive)
    return _those_that_can(contexts, held_out.targets[other])


def _without_items(histories: Histories, left_out: np.ndarray) -> Histories:
    number = np.where(left_out, -1, np.arange(len(left_out))).astype(np.int32)
    return renumbered(histories, number, histories.item_names)


def _those_that_can(
    contexts: Histories, targets: np.ndarray
) -> tuple[Histories, np.ndarray] | None:
    """Those of whom something is known, and who did not take the target before; None for nobody."""
    able = np.flatnonzero((contexts.lengths > 0) & ~repeats(contexts, targets))
    return (contexts.take(able), targets[able]) if len(able) else None


def _without(pairs: Pairs, items: np.ndarray) -> Pairs:
    """Pairs without those from or to some items."""
    matrix = to_matrix(pairs)
    rows = np.repeat(np.arange(len(items)), np.diff(matrix.indptr))
    kept = ~(items[rows] | items[matrix.indices])
    counts = np.bincount(rows[kept], minlength=len(items))
    return from_matrix(
        scipy.sparse.csr_array(
            (matrix.data[kept], matrix.indices[kept], offsets_of(counts)), shape=matrix.shape
        )
    )


class _Scores:
    """Scores of users, from which any strength's ranks follow."""

    def __init__(
        self,
        model: Model,
        shares: scipy.sparse.csr_array,
        contexts: Histories,
        targets: np.ndarray,
    ) -> None:
        """Of m users, C items that borrow."""
        self.borrowing = np.flatnonzero(np.diff(shares.indptr) > 0)
        self.unknown = model.popularity[self.borrowing] == 0
        whole = scores_of(model, contexts).copy()
        users = np.repeat(np.arange(contexts.num_users), contexts.lengths)
        ages = contexts.offsets[1:][users] - 1 - np.arange(len(users))
        said = scipy.sparse.csr_array(
            (
                model.mix.weight * model.mix.decay ** ages.astype(np.float64),
                (users, contexts.items),
            ),
            shape=whole.shape,
        )
        to = shares[self.borrowing].T
        self.pairs = (said @ (to_matrix(model.pairs) @ to)).toarray().astype(np.float32)  # [m, C]
        self.near = (said @ to).toarray().astype(np.float32)
        whole[users, contexts.items] = -np.inf
        self.alone = whole[:, self.borrowing]  # without what is borrowed of pairs
        place = np.searchsorted(self.borrowing, targets)
        place = np.minimum(place, max(len(self.borrowing) - 1, 0))
        hit = (
            self.borrowing[place] == targets if len(self.borrowing) else np.zeros(len(place), bool)
        )
        self.place = np.where(hit, place, -1)
        self.score = whole[np.arange(len(targets)), targets]
        whole[:, self.borrowing] = -np.inf
        count = min(_DEEPEST, whole.shape[1])
        first = whole.shape[1] - count
        self.ordered = np.sort(np.partition(whole, first, axis=1)[:, first:], axis=1)

    def ranks(self, strength: Strength | None) -> np.ndarray:
        """Of each user's target, from 1, those beyond 64 too small; None leaves new items out.

        Returns:
            int64 [m].
        """
        if strength is None:
            lent = np.where(self.unknown[None], -np.inf, self.alone)
        else:
            lent = self.pairs + np.float32(strength.near) * self.near
            lent = self.alone + np.float32(strength.gain) * lent
            lent += np.where(self.unknown, np.float32(strength.shift), np.float32(0))[None]
        score, inside = self.score, self.place >= 0
        if lent.shape[1]:
            score = np.where(inside, lent[np.arange(len(lent)), self.place], score)
        beside = (lent >= score[:, None]).sum(axis=1)
        return (self.ordered >= score[:, None]).sum(axis=1) + beside


def _ndcg(ranks: np.ndarray, k: int) -> float:
    return float(np.where(ranks <= k, 1 / np.log2(1 + ranks), 0).mean())
