"""Learning from what a person says: upvote, associate, supervised pairs.

Each event is a few steps of `network.learn` over a small batch: the event itself and a replay of
others, so that what nobody touched stays where it was. The replay holds earlier feedback, and
pieces of documents with the answers they had before any feedback. Candidates are the best documents
of the moment: the ones that the event has to win against. An upvote moves the rows of its query's
features and of its candidates; an association moves features only, and their gains,
since it says what a text means and nothing about documents.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from sparse_jax.search.engine import Engine, Query
from sparse_jax.text.postings import best

__all__ = ["FeedbackConfig", "Item", "Learner"]


@dataclasses.dataclass(frozen=True)
class FeedbackConfig:
    """How feedback is learned."""

    candidates: int = 64  # documents an event competes with, itself included
    replay: int = 15  # other items in the batch
    rounds: int = 4  # times the candidates are looked up anew
    steps: int = 4  # of gradient descent in a round
    scale: float = 20.0  # of scores in the softmax
    enough: float = 0.8  # probability at which an upvote is learned
    embedding_rate: float = 0.06
    gain_rate: float = 3.0  # of associations
    focus: float = 6.0  # exponent of rarity, by which associations move common features less
    output_rate: float = 0.005  # of upvotes
    remembered: int = 512  # pieces of documents in the replay
    recent: int = 4096  # events in the replay


@dataclasses.dataclass(frozen=True)
class Item:
    """A query with candidates, for the replay. Its features are read when they are needed."""

    text: str
    candidates: np.ndarray  # int32 [C], -1 for none
    lexical: np.ndarray  # float32 [C]
    targets: np.ndarray  # float32 [C]


class Learner:
    """Feedback on an engine. Its draws depend on the number of the event alone.

    Args:
      engine: whose network it changes, in place.
      config: how.
    """

    def __init__(self, engine: Engine, config: FeedbackConfig | None = None) -> None:
        self.engine, self.config = engine, config or FeedbackConfig()
        self.reset()

    def reset(self) -> None:
        """Forgets everything, as the network did that was laid anew."""
        self.base: list[Item] | None = None
        self.events: list[Item] = []
        self.count = 0
        self._rarity: tuple[np.ndarray, np.ndarray] | None = None
        self._queries: dict[str, Query] = {}  # of the replay

    def remember(self, texts: Sequence[str], alive: np.ndarray) -> None:
        """Takes texts whose answers of now should stay.

        Args:
          texts: queries; those without a word are left out.
          alive: bool [documents]: which ones may answer.
        """
        self.base = []
        for text in texts:
            query = self.engine.read(text)
            if query.ids.size:
                lexical = self.engine.lexical(query)
                scores = np.where(alive, self.engine.fuse(lexical, query), -np.inf)
                chosen = best(scores, self.config.candidates)
                self.base.append(self._item(query, lexical, chosen, scores[chosen]))

    def renumber(self, numbers: np.ndarray) -> None:
        """Names documents anew: numbers int32 [old documents], -1 for those that are gone."""
        for items in (self.base or [], self.events):
            for i, item in enumerate(items):
                candidates = _named(item.candidates, numbers)
                items[i] = dataclasses.replace(item, candidates=candidates)

    @property
    def _rare(self) -> np.ndarray:
        """How rare each feature is, to the power `focus`."""
        return self._rarities()[0]

    @property
    def _all(self) -> np.ndarray:
        return self._rarities()[1]

    def _rarities(self) -> tuple[np.ndarray, np.ndarray]:
        if self._rarity is None:  # stays until the network is laid anew
            idf = self.engine.deep_idf / max(float(self.engine.deep_idf.max()), 1e-9)
            rare = idf**self.config.focus
            self._rarity = rare, np.ones_like(rare)
        return self._rarity

    def upvote(self, text: str, document: int, alive: np.ndarray) -> float:
        """Makes a document the answer to a query; returns its probability at the end.

        Args:
          text: the query.
          document: number of the document.
          alive: bool [documents]: which ones may compete.
        """
        query = self.engine.read(text)
        lexical = self.engine.lexical(query)
        probability, item = 0.0, None
        for _ in range(self.config.rounds):
            scores = np.where(alive, self.engine.fuse(lexical, query), -np.inf)
            chosen = best(scores, self.config.candidates)
            if document not in chosen:
                chosen[-1] = document
            item = self._item(query, lexical, chosen, np.where(chosen == document, 0, -np.inf))
            place = item.candidates == document
            probability = self._steps(
                item,
                0.0,
                self.config.output_rate,
                self._all,
                functools.partial(_mass, place),
                alive,
            )
            if probability >= self.config.enough and chosen[0] == document:
                break
        assert item is not None
        self._done(item)
        return probability

    def associate(self, source: str, target: str, alive: np.ndarray) -> float:
        """Makes a text find what another one finds; returns the share that agrees at the end.

        Args:
          source: the text that learns.
          target: the text it should mean.
          alive: bool [documents]: which ones may compete.
        """
        query, other = self.engine.read(source), self.engine.read(target)
        lexical = self.engine.lexical(query)
        wanted = np.where(alive, self.engine.score(other), -np.inf)
        half = self.config.candidates // 2
        agreed, item = 0.0, None
        for _ in range(self.config.rounds):
            scores = np.where(alive, self.engine.fuse(lexical, query), -np.inf)
            both = np.concatenate([best(wanted, half), best(scores, half)])
            chosen = np.unique(both[both >= 0])
            chosen = np.pad(chosen, (0, 2 * half - chosen.size), constant_values=-1)
            item = self._item(query, lexical, chosen, wanted[chosen])
            agreed = self._steps(
                item,
                self.config.gain_rate,
                0.0,
                self._rare,
                functools.partial(_overlap, item.targets),
                alive,
            )
            if agreed >= self.config.enough:
                break
        assert item is not None
        self._done(item)
        return agreed

    def _item(
        self, query: Query, lexical: np.ndarray, chosen: np.ndarray, scores: np.ndarray
    ) -> Item:
        """Targets are the softmax of the scores given."""
        width = self.config.candidates
        chosen = np.pad(chosen, (0, width - chosen.size), constant_values=-1)
        scores = np.pad(scores, (0, width - scores.size), constant_values=-np.inf)
        logits = np.where(chosen >= 0, scores * self.config.scale, -np.inf)
        weights = np.exp(logits - logits.max())
        return Item(
            query.text,
            chosen.astype(np.int32),
            np.where(chosen >= 0, lexical[chosen], 0).astype(np.float32),
            (weights / weights.sum()).astype(np.float32),
        )

    def _steps(
        self,
        item: Item,
        gain_learning_rate: float,
        output_learning_rate: float,
        rarity: np.ndarray,
        reached: Callable[[np.ndarray], float],
        alive: np.ndarray,
    ) -> float:
        """Steps on an item and a replay, until `reached` of its probabilities is enough."""
        from sparse_jax.search import network

        config, value = self.config, 0.0
        items = [item, *(_without_dead(old, alive) for old in self._replay())]
        queries = [self._query(one.text) for one in items]
        stacked, distinct = _stack(items, queries, config.replay + 1)
        # Relative to the rarest feature of the text, by a square root: a text of common words alone
        # would learn nothing otherwise.
        boost = max(float(rarity[queries[0].ids].max()), 1e-9) ** -0.5
        learning_rates = np.array(
            [config.embedding_rate, gain_learning_rate, output_learning_rate, boost], np.float32
        )
        engine = self.engine
        engine.pristine = False
        for _ in range(config.steps):
            engine.network, probabilities = network.learn(
                engine.network,
                stacked,
                learning_rates,
                rarity,
                distinct=distinct,
                scale=config.scale,
                deep=engine.config.deep_weight,
            )
            value = reached(np.asarray(probabilities)[0])
            if value >= config.enough:
                break
        return value

    def _query(self, text: str) -> Query:
        """A text's features and their weights in the bag, which stay until `reset`."""
        if text not in self._queries:
            if len(self._queries) > self.config.remembered + self.config.recent:
                self._queries.clear()
            self._queries[text] = self.engine.read(text)
        return self._queries[text]

    def _replay(self) -> list[Item]:
        rng = np.random.Generator(np.random.Philox([self.engine.config.seed, self.count]))
        base = self.base or []
        old = min(self.config.replay // 2, len(self.events))
        new = min(self.config.replay - old, len(base))
        return (
            [
                *(self.events[i] for i in rng.choice(len(self.events), old, replace=False)),
                *(base[i] for i in rng.choice(len(base), new, replace=False)),
            ]
            if old + new
            else []
        )

    def _done(self, item: Item) -> None:
        self.count += 1
        self.events.append(item)
        del self.events[: -self.config.recent]


def _named(candidates: np.ndarray, numbers: np.ndarray) -> np.ndarray:
    """Candidates by their new numbers, -1 where there is none."""
    known = np.append(numbers, -1).astype(np.int32)
    return known[candidates]  # -1 takes the last


def _without_dead(item: Item, alive: np.ndarray) -> Item:
    """An item among the documents that are left; one without any target doesn't count."""
    candidates = _named(item.candidates, np.where(alive, np.arange(alive.size), -1))
    targets = np.where(candidates >= 0, item.targets, np.float32(0))
    if not np.array_equal(targets, item.targets):
        targets /= max(float(targets.sum()), 1e-9)
    return dataclasses.replace(item, candidates=candidates, targets=targets)


def _mass(at: np.ndarray, probabilities: np.ndarray) -> float:
    return float(probabilities[at].sum())


def _overlap(targets: np.ndarray, probabilities: np.ndarray) -> float:
    return float(np.minimum(probabilities, targets).sum())


def _stack(items: Sequence[Item], queries: Sequence[Query], count: int) -> tuple[Any, int]:
    """One batch of `count` items, the last ones empty; and room for its distinct features."""
    from sparse_jax.search import network

    bags = network.join_bags([q.ids for q in queries], [q.deep_values for q in queries], count)

    def rows(name: str, fill: float) -> np.ndarray:
        found = np.stack([getattr(item, name) for item in items])
        return np.pad(found, ((0, count - len(items)), (0, 0)), constant_values=fill)

    stacked = network.Items(bags, rows("candidates", -1), rows("lexical", 0), rows("targets", 0))
    return stacked, bags.ids.size
