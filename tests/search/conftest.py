"""Fixtures of the index's tests."""

import pytest
from small_index import SMALL, sample

from sparse_jax import search


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """An index of the sample, trained once, on disk."""
    place = tmp_path_factory.mktemp("index") / "i"
    with search.fit(sample(), config=SMALL) as index:
        index.save(place)
    return place


@pytest.fixture
def index(saved, tmp_path):
    """A copy of it that a test may change."""
    with search.load(saved, read_only=True) as found:
        found.save(tmp_path / "i")
        yield found
