"""Fixtures that the search page's tests share."""

from __future__ import annotations

import shutil

import pytest


@pytest.fixture(scope="session")
def page_index(tmp_path_factory):
    """A small index on disk, trained once."""
    from search_page import save

    return save(tmp_path_factory.mktemp("page") / "i")


@pytest.fixture
def served(page_index, tmp_path):
    """A copy of it, open to be served."""
    from sparse_jax import search
    from sparse_jax.commands.serve.index import SearchIndex

    one = SearchIndex(search.load(shutil.copytree(page_index, tmp_path / "i")))
    yield one
    one.close()


@pytest.fixture
def client(served):
    from starlette.testclient import TestClient

    from sparse_jax.commands import serve

    return TestClient(serve.make_app(served), base_url="http://127.0.0.1:8765")
