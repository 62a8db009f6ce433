"""Models that are kept, and taught new events."""

from __future__ import annotations

import numpy as np
import pytest
from walks import chains

from sparse_jax import data, recommend
from sparse_jax.recommend import fitting, pairs, updating

pytestmark = pytest.mark.usefixtures("quick_compiles")


def test_saved_models_predict_the_same_bits(model, split, tmp_path):
    recommend.save(model, tmp_path / "m")
    same = recommend.load(tmp_path / "m")
    first, second = (recommend.predict(m, split.contexts, k=5) for m in (model, same))
    assert np.array_equal(first.items, second.items)
    assert np.array_equal(first.scores, second.scores)
    assert same.item_names == model.item_names and same.mix == model.mix
    assert same.recent.user_names == model.recent.user_names
    assert same.nbytes() == model.nbytes() and repr(same) == repr(model)


def test_names_of_any_letters_are_kept(tmp_path):
    model = recommend.fit(data.of_lists([["té", "a\nb"]] * 2, users=["ö", ""]), preset="linear")
    recommend.save(model, tmp_path / "m")
    same = recommend.load(tmp_path / "m")
    assert same.item_names == ("a\nb", "té") and same.recent.user_names == ("ö", "")


def test_damaged_and_foreign_models_are_refused(linear, tmp_path):
    recommend.save(linear, tmp_path / "m")
    next((tmp_path / "m").glob("arrays-*.npz")).write_bytes(b"?")
    with pytest.raises(ValueError, match="is damaged or missing"):
        recommend.load(tmp_path / "m")
    with pytest.raises(ValueError, match="must be a saved model's directory"):
        recommend.load(tmp_path)


def test_updating_counts_as_if_trained_on_all():
    """Old events and new ones give the transitions of both together."""
    histories = chains()
    names = histories.user_names
    old = data.of_lists(
        [[histories.item_names[i] for i in histories.of(u)[:3]] for u in range(300)], users=names
    )
    new = data.of_lists(
        [[histories.item_names[i] for i in histories.of(u)[3:]] for u in range(300)], users=names
    )
    updated = recommend.update(recommend.fit(old, preset="linear"), new)
    whole = recommend.fit(histories, preset="linear")
    assert updated.item_names == whole.item_names
    for a, b in zip(updated.counts, whole.counts, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5)
    np.testing.assert_array_equal(updated.popularity, whole.popularity)
    assert updated.recent.items.tolist() == whole.recent.items.tolist()


def test_new_items_and_users_are_recommended(model):
    events = data.of_lists([["i5", "salt"]] * 30, users=[f"new{n}" for n in range(30)])
    updated = recommend.update(model, events)
    assert updated.item_names[:-1] == model.item_names and updated.item_names[-1] == "salt"
    found = recommend.predict(updated, [["i5"], ["salt"]], k=3)
    assert "salt" in updated.names(found.items[0]) and (found.items[1] >= 0).all()
    assert updated.recent.num_users == model.recent.num_users + 30
    assert model.num_items == 40  # the model given stays as it is
    assert "i5" in updated.names(recommend.related(updated, ["salt"], k=1).items[0])


def test_a_known_user_goes_on(linear):
    user = linear.recent.user_names[0]
    last = linear.item_names[linear.recent.of(0)[-1]]
    updated = recommend.update(linear, data.of_lists([["salt"]], users=[user]))
    assert updated.recent.num_users == linear.recent.num_users
    counts = pairs.to_matrix(updated.counts)
    assert counts[updated.item_names.index(last), updated.item_names.index("salt")] == 1


def test_updated_models_are_kept_and_updated_again(model, tmp_path):
    for turn in range(2):
        model = recommend.update(model, data.of_lists([["i5", f"salt{turn}"]] * 3))
        recommend.save(model, tmp_path / "m")
        model = recommend.load(tmp_path / "m")
    assert model.item_names[-2:] == ("salt0", "salt1") and model.notes["updates"] == 2
    with pytest.raises(ValueError, match="no events"):
        recommend.update(model, data.of_lists([[]]))


def events_of(histories, begin, end, users=300):
    named = [[histories.item_names[i] for i in histories.of(u)[begin:end]] for u in range(users)]
    return data.of_lists(named, users=histories.user_names[:users])


@pytest.mark.parametrize(("begin", "end"), [(0, None), (0, 5), (3, None), (2, 5)])
def test_what_was_learned_already_is_refused(begin, end):
    """The whole log again, its beginning, or the end that an update brought."""
    histories = chains()
    model = recommend.fit(events_of(histories, 0, 5), preset="linear")
    given = events_of(histories, begin, end)
    if begin == 3:
        model = recommend.update(model, events_of(histories, 5, None))
    with pytest.raises(ValueError, match="users that it knows: must be new events alone"):
        recommend.update(model, given)


def test_a_long_log_given_again_is_refused():
    """Of each user only the last 50 events are kept."""
    rng = np.random.default_rng(0)
    users = [f"u{n}" for n in range(5)]
    rows = [[f"i{i}" for i in rng.integers(0, 90, 120)] for _ in users]
    model = recommend.fit(data.of_lists(rows, users=users), preset="linear")
    for more in ([], ["i3", "i4"]):
        with pytest.raises(ValueError, match="must be new events alone"):
            recommend.update(model, data.of_lists([row + more for row in rows], users=users))


def test_an_event_or_two_may_come_again():
    users = [f"u{n}" for n in range(9)]
    model = recommend.fit(data.of_lists([["a", "b"]] * 9, users=users), preset="linear")
    for again in (["b"], ["a", "b"]):
        model = recommend.update(model, data.of_lists([again] * 9, users=users))
    assert model.popularity.tolist() == [18, 27]


def test_targets_that_were_learned_are_counted(split):
    held_out = recommend.fit(split.train, preset="linear")
    every = recommend.fit(chains(), preset="linear")
    users = split.contexts.num_users
    assert updating.num_learned(every, split.contexts, split.targets) == users
    assert updating.num_learned(held_out, split.contexts, split.targets) < users / 4


def test_only_the_last_events_of_a_user_are_kept():
    items = [f"i{n:03}" for n in range(120)]
    model = recommend.fit(data.of_lists([items, items]), preset="linear")
    assert model.recent.lengths.tolist() == [fitting.RECENT] * 2
    assert model.recent.of(0).tolist() == list(range(120 - fitting.RECENT, 120))
