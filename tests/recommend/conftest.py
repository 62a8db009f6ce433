"""Small models that the files of this folder share."""

from __future__ import annotations

import pytest
from walks import SMALL, chains

from sparse_jax import data, recommend
from sparse_jax.recommend import presets


@pytest.fixture(scope="session")
def split() -> data.histories.Split:
    return data.leave_one_out(chains())


@pytest.fixture(scope="session")
def linear(split) -> recommend.Model:
    return recommend.fit(split.train, preset="linear")


@pytest.fixture(scope="session")
def whole(split) -> recommend.Model:
    """A model with every part."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(presets.PRESETS, "best", SMALL)
        return recommend.fit(split.train, preset="best")


@pytest.fixture(params=["linear", pytest.param("whole", marks=pytest.mark.slow)])
def model(request) -> recommend.Model:
    return request.getfixturevalue(request.param)
