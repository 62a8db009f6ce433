"""A recommender as it is served: the same items as the library, and what is refused."""

from __future__ import annotations

import pytest
from walks import chains

pytest.importorskip("starlette")

from serving import serving

from sparse_jax import recommend
from sparse_jax.commands.serve.models import open_model
from sparse_jax.commands.serve.reading import Refusal
from sparse_jax.commands.serve.recommender import Recommender

pytestmark = pytest.mark.usefixtures("quick_compiles")


@pytest.fixture(scope="module")
def model() -> recommend.Model:
    return recommend.fit(chains(), preset="linear")


@pytest.fixture(scope="module")
def served(model) -> Recommender:
    return Recommender(model)


def ask(served: Recommender, *bodies: dict) -> list[list[dict]]:
    answers = served.answer([served.read(body) for body in bodies])
    return [answer["predictions"] for answer in answers]


def test_items_are_those_of_the_library(served, model):
    lists = [["i3", "i4"], ["i7"], []]
    (found,) = ask(served, {"histories": lists, "top_k": 3})
    here = recommend.predict(model, lists, k=3)
    assert [p["items"] for p in found] == [model.names(items) for items in here.items]
    assert [p["scores"] for p in found] == here.scores.tolist()


def test_requests_of_each_kind_are_answered_together(served, model):
    user = model.recent.user_names[5]
    known = model.names(model.recent.of(5))
    found = ask(
        served,
        {"histories": [["i3", "what"], ["i9"]], "top_k": 1},
        {"histories": [["i3"]], "top_k": 40, "with_seen": True},
        {"users": [user], "top_k": 40},
    )
    assert [p["items"] for p in found[0]] == [["i4"], ["i10"]]
    assert [p["unknown_items"] for p in found[0]] == [1, 0]
    assert len(found[1][0]["items"]) == 40 and "i3" in found[1][0]["items"]
    assert not set(found[2][0]["items"]) & set(known)
    assert len(found[2][0]["items"]) == 40 - len(set(known))


@pytest.mark.parametrize(
    ("body", "argument"),
    [
        ({}, "body"),
        ({"histories": [], "users": []}, "body"),
        ({"histories": "i3"}, "histories"),
        ({"histories": ["i3"]}, "histories[0]"),
        ({"histories": [[3]]}, "histories[0][0]"),
        ({"histories": [["i3"] * 1001]}, "histories[0]"),
        ({"histories": [["i3"]], "top_k": 0}, "top_k"),
        ({"histories": [["i3"]] * 1024, "top_k": 100}, "top_k"),
        ({"histories": [["i3"]], "with_seen": 1}, "with_seen"),
        ({"histories": [["i3"]], "threshold": 1}, "threshold"),
        ({"users": ["nobody"]}, "users[0]"),
        ({"users": [3]}, "users[0]"),
    ],
)
def test_mistakes_are_refused(served, body, argument):
    with pytest.raises(Refusal) as raised:
        served.read(body)
    assert raised.value.record["argument"] == argument


@pytest.mark.slow
def test_over_the_wire(model, tmp_path):
    recommend.save(model, tmp_path / "shop")
    assert open_model(tmp_path / "shop").sizes()["items"] == 40
    with serving(tmp_path / "shop", tmp_path / "log") as server:
        answer = server.ask("POST", "/predict", b'{"histories": [["i3"]], "top_k": 1}')
        assert answer.status == 200
        assert answer.body["predictions"][0]["items"] == ["i4"]
        assert server.ask("GET", "/health").body["kind"] == "recommend"
