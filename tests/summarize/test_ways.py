"""Which way to a summary is taken: the one that held-out pairs say is best."""

from __future__ import annotations

import numpy as np
import pytest

from sparse_jax import summarize
from sparse_jax.summarize import ways

pytestmark = pytest.mark.usefixtures("quick_compiles")

pytest.importorskip("rouge_score")
NOUNS = ("apple", "river", "engine", "letter", "garden", "window", "bridge", "candle")


def sentence(rng: np.random.Generator, count: int = 6) -> str:
    return " ".join(rng.choice(NOUNS, count)).capitalize() + "."


def pairs_where(kind: str, count: int = 44) -> list[tuple[str, str]]:
    """Pairs of which one way is right."""
    rng = np.random.default_rng(0)
    found = []
    for n in range(count):
        first, second = sentence(rng), sentence(rng)
        topic = f"topic{n % 6} matter{n % 6} thing{n % 6}"
        if kind == "lead":
            found.append((f"{first} {second} {sentence(rng)}", first))
        else:  # the same summary for all texts of a topic, in none of its words
            found.append((f"{first} About {topic}.", f"kind{n % 6} of{n % 6} matters{n % 6}"))
    return found


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["lead", "nearest"])
def test_the_way_that_is_right_is_found(kind, tmp_path):
    pairs = pairs_where(kind)
    model = summarize.fit(pairs, epochs=1, seed=0)
    assert model.way == kind and set(model.scores) == set(ways.WAYS)
    assert model.scores[kind] == max(model.scores.values()) > 90
    text, summary = pairs[3]
    assert model.summarize([text, "", "..."]) == [summary, "", ""]
    assert model.write([text]) != [summary]
    summarize.save(model, tmp_path)
    loaded = summarize.load(tmp_path)
    assert (loaded.way, loaded.scores) == (model.way, model.scores)
    assert loaded.summarize([text]) == [summary]
    assert len(loaded.summaries) == len(pairs)  # what was held out is looked up, too


@pytest.mark.slow
def test_few_pairs_tell_nothing():
    model = summarize.fit(pairs_where("lead", ways.ENOUGH - 1), epochs=1)
    assert model.way == "written" and not model.scores


def test_held_out_pairs_are_few_and_their_own():
    for count, expected in ((39, 0), (40, 2), (1000, 50), (100_000, 256)):
        held, rest = ways.hold_out(count, 0)
        assert held.size == expected and not np.intersect1d(held, rest).size
        assert held.size + rest.size == count
