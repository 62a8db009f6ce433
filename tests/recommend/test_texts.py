"""Items that are known by their texts alone, or little more."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import scipy.sparse
from walks import SMALL, chains

from sparse_jax import data, recommend, text
from sparse_jax.recommend import borrowing, pairs, presets, strengths
from sparse_jax.recommend.model import Strength

pytestmark = pytest.mark.usefixtures("quick_compiles")

NEW = {"n5": "word5 about 5", "n9": "word9", "silent": "", "strange": "unheard"}


def texts_of(items: int = 40) -> dict[str, str]:
    """Each item's text names it, the next one and a group of four."""
    return {f"i{i}": f"word{i} word{(i + 1) % items} group{i // 4}" for i in range(items)}


@pytest.fixture(scope="module")
def told() -> recommend.Model:
    return recommend.fit(chains(), preset="linear", item_texts=texts_of() | NEW)


@pytest.fixture(scope="module")
def told_whole() -> recommend.Model:
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(presets.PRESETS, "best", SMALL)
        return recommend.fit(chains(), preset="best", item_texts=texts_of() | NEW)


@pytest.fixture(params=["told", pytest.param("told_whole", marks=pytest.mark.slow)])
def known(request) -> recommend.Model:
    return request.getfixturevalue(request.param)


def test_lenders_against_a_plain_reference(monkeypatch):
    monkeypatch.setattr(borrowing, "_LENDERS", 3)
    monkeypatch.setattr(borrowing, "_CELLS", 20)  # a row at a time
    rng = np.random.default_rng(0)
    words = rng.integers(0, 6, (12, 4))
    texts = borrowing.of_texts(
        [str(i) for i in range(12)],
        {str(i): " ".join(f"w{w}" for w in words[i]) for i in range(11)},
    )
    popularity = np.array([0, 1, 2, 5, 9, 0, 3, 7, 5, 0, 8, 0], np.float32)
    features = np.zeros((12, texts.vectorizer.num_features))
    for i in range(12):
        span = slice(*texts.rows.offsets[i : i + 2])
        features[i, texts.rows.ids[span]] = texts.rows.values[span]
    expected = np.zeros((12, 12))
    for i in range(12):
        cosines = np.where(popularity > 0, features @ features[i], 0)
        cosines[i] = 0
        best = np.argsort(-cosines, kind="stable")[:3]
        weights = cosines[best] ** 2
        if weights.sum() > 0:
            expected[i, best] = max(1 - popularity[i] / 5, 0) * weights / weights.sum()
    found = borrowing.lenders(texts, popularity).toarray()
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert not found[11].any()  # an item without a text


def test_what_is_lent_against_the_formula():
    rng = np.random.default_rng(0)
    matrix = np.round(rng.random((8, 8)) * (rng.random((8, 8)) < 0.4), 2)
    shares = np.zeros((8, 8))
    shares[6, [0, 1]], shares[7, [2]] = [0.75, 0.25], 1
    strength = Strength(gain=0.7, near=3.0, shift=0.0)
    lending = matrix + 3 * np.eye(8)
    after = shares @ lending
    found = borrowing.lent(*map(scipy.sparse.csr_array, (matrix, shares)), strength)
    np.testing.assert_allclose(found.toarray(), after + 0.7 * (lending + after) @ shares.T)


def test_models_without_texts_keep_their_bits(known):
    """What is known of the other items stays as it was."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(presets.PRESETS, "best", SMALL)
        alone = recommend.fit(chains(), preset=known.preset)
    assert alone.texts is None and alone.mix == known.mix
    matrix, more = pairs.to_matrix(alone.pairs).toarray(), pairs.to_matrix(known.pairs).toarray()
    assert np.array_equal(more[:40, :40], matrix)
    for table in ("output", "bias", "popularity"):
        assert np.array_equal(getattr(known, table)[:40], getattr(alone, table)[:40]), table
    assert known.item_names == (*alone.item_names, "n5", "n9", "silent", "strange")


def test_new_items_are_predicted_and_led_from(known):
    found = recommend.predict(known, [["i3", "i4"], ["n5"]], k=12)
    first = known.names(found.items[0])
    assert "n5" in first and not {"silent", "strange"} & set(first[:8])
    after = [name for name in known.names(found.items[1])[:3] if name in ("i4", "i5", "i6")]
    assert after  # n5 is taken for i5 and i4, whose texts have its word


def test_related_items_of_and_among_new_ones(told):
    near = recommend.related(told, ["n5", "i5", "silent"], k=5)
    assert {"i4", "i5"} & set(told.names(near.items[0])[:2])
    assert "n5" in told.names(near.items[1])
    assert (near.items[2] == -1).all()
    assert near.scores[0].max() <= 1 and (np.diff(near.scores[0]) <= 0).all()
    alone = recommend.related(recommend.fit(chains(), preset="linear"), ["i5"], k=40)
    among = recommend.related(told, ["i5"], k=40)
    kept = [s for i, s in zip(*(x[0].tolist() for x in among), strict=True) if 0 <= i < 40]
    np.testing.assert_allclose(kept, alone.scores[0][: len(kept)], rtol=1e-12)


def test_told_models_are_kept(known, tmp_path):
    recommend.save(known, tmp_path / "m")
    same = recommend.load(tmp_path / "m")
    first, second = (recommend.predict(m, [["i3", "i4"], ["n5"]], k=9) for m in (known, same))
    assert np.array_equal(first.items, second.items)
    assert np.array_equal(first.scores, second.scores)
    assert same.texts.strength == known.texts.strength
    events = data.of_lists([["i4", "n5"]] * 3, users=["a", "b", "c"])
    more = {"n7": "word7 word8"}
    one, two = (recommend.update(m, events, item_texts=more) for m in (known, same))
    for a, b in zip(one.pairs, two.pairs, strict=True):
        assert np.array_equal(a, b)


def test_new_texts_alone(known):
    nobody = data.of_lists([])
    grown = recommend.update(known, nobody, item_texts={"n7": "word7 word8 group1"})
    assert grown.item_names == (*known.item_names, "n7") and known.num_items == 44
    assert "n7" in grown.names(recommend.predict(grown, [["i5", "i6"]], k=12).items[0])
    assert "n7" in grown.names(recommend.related(grown, ["i7"], k=9).items[0])
    other = recommend.update(grown, nobody, item_texts={"n7": "word20"})  # in place of the old one
    assert "n7" not in other.names(recommend.predict(other, [["i5", "i6"]], k=8).items[0])
    assert "n7" in other.names(recommend.related(other, ["i20"], k=9).items[0])


def test_an_update_gives_what_training_gives(told):
    """With the same strength: texts told later make the same pairs."""
    before = recommend.fit(chains(), preset="linear", item_texts=texts_of() | {"n9": NEW["n9"]})
    strength = told.texts.strength
    before = dataclasses.replace(before, texts=before.texts._replace(strength=strength))
    more = {name: NEW[name] for name in ("n5", "silent")}
    found = recommend.update(before, data.of_lists([]), item_texts=more)
    row, expected = (
        pairs.to_matrix(m.pairs)[[m.places["i4"]]].toarray()[0, [m.places["n5"], m.places["i5"]]]
        for m in (found, told)
    )
    assert row[1] == expected[1] and row[0] > 0 and expected[0] > 0  # words' rarity differs


def test_an_empty_text_leaves_the_old_one(told):
    """As in a file of all items in which some have gaps."""
    gaps = {"i5": " ", "n5": "", "i0": texts_of()["i0"]}
    found = recommend.update(told, data.of_lists([]), item_texts=gaps)
    for before, after in zip(told.pairs, found.pairs, strict=True):
        assert np.array_equal(before, after)


def test_whom_no_text_helps(told):
    assert borrowing.without_lenders(told) == ["silent", "strange"]
    grown = recommend.update(told, data.of_lists([]), item_texts={"n7": "word7", "odd": "unseen"})
    assert borrowing.without_lenders(grown) == ["silent", "strange", "odd"]


def with_encoder(model: recommend.Model) -> recommend.Model:
    """As if an encoder had been trained, which held items of no events down."""
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(model.num_items, 4)).astype(np.float32)
    part = {"items": rows, "bias": rows[:, 0]}
    texts = model.texts._replace(strength=model.texts.strength._replace(shift=-3.0))
    model = dataclasses.replace(
        model, encoders=(part,), output=rows, bias=rows[:, 0], texts=texts, recent=model.recent
    )
    shares = borrowing.lenders(texts, model.popularity)
    return borrowing.with_rows(model, shares, -3.0)


def test_events_end_what_an_encoder_was_lent():
    """Text first and events later make the rows that both together make."""
    model = with_encoder(recommend.fit(chains(), preset="linear", item_texts=texts_of()))
    events = data.of_lists([["i4", "n5", "i6"], ["i5", "n5"]] * 3, users=list("abcdef"))
    more = {"n5": NEW["n5"]}
    together = recommend.update(model, events, item_texts=more)
    first = recommend.update(model, data.of_lists([]), item_texts=more)
    assert first.bias[first.places["n5"]] < together.bias[together.places["n5"]]
    later = recommend.update(first, events)
    for name in ("output", "bias", "popularity"):
        assert np.array_equal(getattr(later, name), getattr(together, name)), name
    for one, other in zip(later.pairs, together.pairs, strict=True):
        assert np.array_equal(one, other)


def test_events_take_the_place_of_texts(told):
    """The more events an item has, the less it borrows."""
    weights = []
    model = told
    for turn in range(6):
        matrix = pairs.to_matrix(model.pairs)
        weights.append(matrix[model.places["i4"], model.places["n5"]])
        users = [f"u{turn}"]
        model = recommend.update(model, data.of_lists([["i30", "n5"]], users=users))
    assert weights[0] > weights[2] > weights[4] and weights[5] == 0
    matrix = pairs.to_matrix(model.pairs)
    assert matrix[model.places["i30"], model.places["n5"]] > 1


def test_chosen_strengths_cost_others_little():
    """Ranks that choosing goes by are those of the model itself."""
    histories, texts = chains(), borrowing.of_texts([f"i{i}" for i in range(40)], texts_of())
    split = data.leave_one_out(histories)
    model = recommend.fit(split.train, preset="linear")
    names = model.item_names
    texts = borrowing.of_texts(names, texts_of())
    fictive = np.zeros(40, bool)
    fictive[[3, 17]] = True
    counted = np.where(fictive, 0, model.popularity).astype(np.float32)
    base = dataclasses.replace(
        model, pairs=strengths._without(model.pairs, fictive), popularity=counted
    )
    shares = borrowing.lenders(texts, counted)
    contexts = strengths._without_items(split.contexts, fictive)
    contexts, targets = strengths._those_that_can(contexts, split.targets)
    strength = Strength(0.7, 3.0, 0.0)
    found = strengths._Scores(base, shares, contexts, targets).ranks(strength)
    whole = dataclasses.replace(
        base,
        pairs=borrowing.with_lent(base.pairs, texts._replace(strength=strength), shares),
    )
    figures = recommend.evaluate(whole, contexts, targets, ks=(1, 5))
    assert np.mean(found <= 5) == pytest.approx(figures["hr@5"])
    assert np.mean(found <= 1) == pytest.approx(figures["hr@1"])


@pytest.mark.parametrize(
    ("wrong", "error", "message"),
    [
        ([("tea", "x")], TypeError, "item_texts is a list: must map names of items to texts"),
        ({"tea": None}, TypeError, "item_texts['tea'] = None: must be a text"),
        ({7: "tea"}, TypeError, "item_texts has the name 7: must be a text"),
        ({}, ValueError, "item_texts = no texts: must have some"),
        ({"i1": " "}, ValueError, "item_texts = no texts: must have some"),
        ({"i1": "!?"}, ValueError, "item_texts = 1 texts without a word: must have some"),
    ],
)
def test_texts_that_are_none(wrong, error, message):
    with pytest.raises(error) as caught:
        recommend.fit(chains(30), preset="linear", item_texts=wrong)
    assert message in str(caught.value)


def test_texts_for_a_model_without(linear):
    with pytest.raises(ValueError, match="the model has no texts: must be trained with them"):
        recommend.update(linear, data.of_lists([]), item_texts={"n": "word"})
    with pytest.raises(ValueError, match="no events"):
        recommend.update(linear, data.of_lists([]))


@pytest.mark.parametrize(
    "texts", [{"zz": "alone"}, {"i1": "same"}, {f"i{i}": "x" for i in range(40)}]
)
def test_texts_of_little_use(texts):
    """Of nobody that is known, of one item alone, and the same of all."""
    model = recommend.fit(chains(60), preset="linear", item_texts=texts)
    found = recommend.predict(model, [["i3"]], k=3)
    assert (found.items >= 0).all() and np.isfinite(found.scores).all()


def test_the_first_texts_are_a_part():
    texts = borrowing.of_texts(("a", "b", "c"), {"a": "x y", "c": "z"})
    part = borrowing.first(texts, 2)
    assert part.rows.offsets.tolist() == [0, 2, 2] and len(part.rows.ids) == 2
    assert isinstance(part.rows, text.Rows)
