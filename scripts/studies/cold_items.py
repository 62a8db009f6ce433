#!/usr/bin/env python3
"""What texts find of items that a recommender has never seen.

    python scripts/data/fetch_histories.py SETS
    python scripts/studies/cold_items.py SETS/toys.txt.gz SETS/toys_items.jsonl.gz --seeds 3

A tenth of the items lose all their events, and a model is trained on the rest, without each user's
last item. Asked are users whose last item is such a new one, and those whose last item is another.
`all`: ranked among all items; `new`: among the new ones alone. Beside ours stands the similarity of
texts alone: of each item to those of the history, fading with age as pairs do. `loss` is what texts
cost users whose next item is no new one, `few` the figures of items of one to four events.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse

from sparse_jax import data, recommend, text
from sparse_jax.data.histories import Histories
from sparse_jax.recommend.inference import renumbered, scores_of

_SHARE = 0.1  # of the items that are new
_FEW = 5
_CHUNK = 512  # users

Score = Callable[[Histories], np.ndarray]


def ranks(score: Score, contexts: Histories, targets: np.ndarray, among: np.ndarray) -> np.ndarray:
    """Of each target, from 1, behind items of equal score; without what was taken.

    Args:
        score: float [m, N] of m users.
        contexts: of n users.
        targets: int [n].
        among: bool [N], the items that are ranked.

    Returns:
        int64 [n].
    """
    found = []
    for start in range(0, len(targets), _CHUNK):
        rows = np.arange(start, min(start + _CHUNK, len(targets)))
        part, wanted = contexts.take(rows), targets[rows]
        scores = np.where(among[None], score(part), -np.inf)
        users = np.repeat(np.arange(len(rows)), part.lengths)
        kept = part.items != wanted[users]
        scores[users[kept], part.items[kept]] = -np.inf
        own = scores[np.arange(len(rows)), wanted]
        found.append((scores >= own[:, None]).sum(axis=1))
    return np.concatenate(found)


def by_texts(model: recommend.Model, item_texts: dict[str, str]) -> Score:
    """Scores by the similarity of texts alone.

    Args:
        model: whose items, and whose decay.
        item_texts: by name.
    """
    texts = [item_texts.get(name, "") for name in model.item_names]
    vectorizer, rows = text.fit_transform(texts, min_count=1)
    shape = len(texts), vectorizer.num_features
    features = scipy.sparse.csr_array((rows.values, rows.ids, rows.offsets), shape=shape)

    def score(part: Histories) -> np.ndarray:
        users = np.repeat(np.arange(part.num_users), part.lengths)
        ages = part.offsets[1:][users] - 1 - np.arange(len(users))
        weights = model.mix.decay ** ages.astype(np.float64)
        shape = part.num_users, part.num_items
        said = scipy.sparse.csr_array((weights, (users, part.items)), shape=shape)
        return np.asarray((said @ features @ features.T).toarray(), np.float64)

    return score


def measure(
    histories: Histories, item_texts: dict[str, str], *, preset: str, seed: int
) -> dict[str, Any]:
    """Figures of one seed.

    Args:
        histories: of all events.
        item_texts: by name.
        preset: of ours.
        seed: of which items are new, and of training.
    """
    number = histories.num_items
    new = np.zeros(number, bool)
    new[np.random.default_rng(seed).permutation(number)[: int(_SHARE * number)]] = True
    kept = np.where(new, -1, np.arange(number)).astype(np.int32)
    split = data.leave_one_out(histories)
    train, contexts = (
        renumbered(part, kept, histories.item_names) for part in (split.train, split.contexts)
    )
    able = contexts.lengths > 0
    asked, others = (np.flatnonzero(able & (new[split.targets] == wish)) for wish in (True, False))
    alone = recommend.fit(train, preset=preset, seed=seed)
    model = recommend.fit(train, preset=preset, seed=seed, item_texts=item_texts)
    every, texts = np.ones(number, bool), by_texts(model, item_texts)

    def of(score: Score, users: np.ndarray, among: np.ndarray) -> np.ndarray:
        return ranks(score, contexts.take(users), split.targets[users], among)

    found: dict[str, Any] = {"seed": seed, "asked": len(asked), "others": len(others)}
    found["strength"] = model.texts._asdict()["strength"]._asdict() if model.texts else None
    for where, among in (("all", every), ("new", new)):
        for name, score in (("ours", lambda part: scores_of(model, part)), ("texts", texts)):
            for k in (10, 50):
                found[f"{where}: {name} hr@{k}"] = np.mean(of(score, asked, among) <= k)
        for k in (10, 50):
            found[f"{where}: random hr@{k}"] = min(1.0, k / among.sum())
    before = of(lambda part: scores_of(alone, part), others, ~new)
    after = of(lambda part: scores_of(model, part), others, every)
    popularity = np.bincount(train.items, minlength=number)[split.targets[others]]
    few = (popularity > 0) & (popularity < _FEW)
    found |= {"ndcg@10 before": _ndcg(before, 10), "ndcg@10": _ndcg(after, 10)}
    found |= {"hr@10 before": np.mean(before <= 10), "hr@10": np.mean(after <= 10)}
    found["few"] = int(few.sum())
    if few.any():
        found["few hr@10 before"] = np.mean(before[few] <= 10)
        found["few hr@10"] = np.mean(after[few] <= 10)
    found["loss of ndcg@10"] = 1 - found["ndcg@10"] / found["ndcg@10 before"]
    return found


def _ndcg(found: np.ndarray, k: int) -> float:
    return float(np.where(found <= k, 1 / np.log2(1 + found), 0).mean())


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("file", help="histories")
    parser.add_argument("items", help="texts of items")
    parser.add_argument("--preset", default="linear", help="of ours (default: linear)")
    parser.add_argument("--seeds", type=int, default=1, metavar="N", help="runs (default: 1)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures here, too")
    args = parser.parse_args(argv)
    histories, texts = data.read_histories(args.file), data.read_item_texts(args.items)
    runs = []
    for seed in range(args.seeds):
        runs.append(measure(histories, texts, preset=args.preset, seed=seed))
        print(json.dumps(runs[-1], indent=2, default=float), flush=True)
    if args.json:
        args.json.write_text(json.dumps(runs, default=float) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
