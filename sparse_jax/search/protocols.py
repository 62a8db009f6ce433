"""What feedback is measured on: which queries get feedback, and which are held back.

Both splits are by topic or by name, never by query, so that no feedback on one query says
anything about a held-back one in other words.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from sparse_jax.search.evaluation import Dataset, Judgement

__all__ = ["Associations", "Upvotes", "associations", "upvotes"]


class Associations(NamedTuple):
    """Pairs (alias, title) to associate, and the queries to look at before and after."""

    pairs: list[tuple[str, str]]
    told: list[Judgement]  # queries whose alias is among the pairs
    held_back: list[Judgement]  # queries with another alias
    plain: list[Judgement]  # queries by the title itself


class Upvotes(NamedTuple):
    """Pairs (query, id) to upvote, and the queries to look at before and after."""

    pairs: list[tuple[str, str]]
    told: list[Judgement]  # the upvoted queries
    same_topic: list[Judgement]  # other types of question about their topics
    untouched: list[Judgement]  # questions about other topics


def associations(dataset: Dataset, *, seed: int) -> Associations:
    """Splits the distinct (alias, title) pairs of alias queries in two at random.

    Args:
      dataset: whose doc rows have `aliases`; its queries of kind `alias_query` name one of them.
      seed: of the split.

    Raises:
      ValueError: if there is no such query.
    """
    by_id = {row["id"]: row for row in dataset.rows}
    named: dict[tuple[str, str], list[Judgement]] = {}
    for query in dataset.of("alias_query"):
        row = by_id[next(iter(query.grades))]
        found = [alias for alias in row.get("aliases", ()) if alias in query.text]
        if found:
            named.setdefault((max(found, key=len), row["title"]), []).append(query)
    if not named:
        raise ValueError("the data has no alias queries: rows of kind alias_query, docs' aliases")
    pairs = sorted(named)
    order = np.random.Generator(np.random.Philox(seed)).permutation(len(pairs))
    half = [pairs[i] for i in order[: len(pairs) // 2]]
    rest = [pairs[i] for i in order[len(pairs) // 2 :]]
    return Associations(
        half,
        [query for pair in half for query in named[pair]],
        [query for pair in rest for query in named[pair]],
        dataset.of("question"),
    )


def upvotes(dataset: Dataset, *, seed: int) -> Upvotes:
    """Takes half of the topics with several types of question, and one question of each.

    Args:
      dataset: whose doc rows have `title` (the topic), `qtype` and `question`.
      seed: of the choice.

    Raises:
      ValueError: if no topic has two types of question.
    """
    topics: dict[str, list[Mapping[str, str]]] = {}
    for row in dataset.rows:
        if "question" in row and "qtype" in row and row.get("title"):
            topics.setdefault(row["title"].casefold(), []).append(row)
    several = sorted(t for t, rows in topics.items() if len({r["qtype"] for r in rows}) > 1)
    if not several:
        raise ValueError("the data has no topic with two types of question: title, qtype, question")
    rng = np.random.Generator(np.random.Philox(seed))
    order = [several[i] for i in rng.permutation(len(several))]
    chosen = order[: len(order) // 2]
    taught = [topics[t][rng.integers(len(topics[t]))] for t in chosen]
    same = [
        row
        for topic, taught_row in zip(chosen, taught, strict=True)
        for row in topics[topic]
        if row["qtype"] != taught_row["qtype"]
    ]
    touched = set(chosen)
    other = [row for topic, rows in topics.items() if topic not in touched for row in rows]

    def asked(rows: list[Mapping[str, str]]) -> list[Judgement]:
        return [Judgement(row["question"], {row["id"]: 1.0}, "question") for row in rows]

    pairs = [(row["question"], row["id"]) for row in taught]
    return Upvotes(pairs, asked(taught), asked(same), asked(other))
