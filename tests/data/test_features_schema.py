"""Schemas of tables: guessed, printed, kept; and mistakes."""

from __future__ import annotations

import numpy as np
import pytest
from mixed_table import SPECS, table_of

from sparse_jax.data import features
from sparse_jax.data.features import schema as schemas


def test_the_guess_of_a_table():
    table = table_of(400)
    table |= {
        "id": [f"n{i}" for i in range(400)],
        "same": ["one"] * 400,
        "flag": np.arange(400) % 2 == 0,
        "day": [f"2024-01-{1 + i % 28:02}" for i in range(400)],
        "digits": [str(i % 50) for i in range(400)],
        "sentence": [f"well, this is number {i}, and so on" for i in range(400)],
    }
    guessed = features.guess(table, target="bought")
    kinds = {schemas.name_of(s): s.kind for s in guessed.specs if s.kind != "cross"}
    assert kinds == {
        "shop": "category", "tags": "categories", "price": "number", "when": "date",
        "about": "text", "user": "category", "flag": "category", "day": "date",
        "digits": "number", "sentence": "text",
    }  # fmt: skip
    crosses = [s for s in guessed.specs if isinstance(s, features.Cross)]
    assert len(crosses) == 21  # pairs of shop, price, when, user, flag, day and digits
    features.transform(features.fit(table, guessed), table)


def test_a_schema_can_be_printed_and_kept_as_json():
    whole = features.Schema(SPECS)
    assert schemas.from_json(schemas.to_json(whole)) == whole
    assert str(features.Schema(SPECS[4:7])) == (
        "about: text, pairs = True, grams = (3, 4)\n"
        "history of bought: history, key = user, date = when\n"
        "shop x price: cross"
    )


SHOP = {"shop": ["a", "b"], "n": [1, 2]}


@pytest.mark.parametrize(
    ("table", "specs", "error", "message"),
    [
        ([1, 2], None, TypeError, "table = list: must be a dict of columns"),
        ({}, None, ValueError, "table = no columns"),
        ({"a": []}, None, ValueError, "table = no rows"),
        ({"a": "text"}, None, TypeError, r"table\['a'\] = str: must be a sequence"),
        ({"a": [1, 2], "b": [1]}, None, ValueError, r"table\['b'\] = 1 rows: must have as many"),
        ({"a": np.ones((2, 2))}, None, ValueError, r"table\['a'\].ndim = 2"),
        ({"a": [1, 1]}, None, ValueError, "no column that changes"),
        (SHOP, (), ValueError, "schema = no specs"),
        (SHOP, (features.Category("x"),), ValueError, "column = 'x': must be one of the table"),
        (SHOP, (features.Category("n"), features.Number("n")), ValueError, "'n' twice"),
        (SHOP, (features.Number("n", bins=1),), ValueError, "n.bins = 1: must be at least 2"),
        (SHOP, (features.Number("shop"),), ValueError, r"table\['shop'\]\[0\] = 'a': must be a nu"),
        (SHOP, (features.Date("shop"),), ValueError, r"table\['shop'\]\[0\] = 'a': must be a date"),
        (
            {"a": ["x y", "z"]},
            (features.Text("a"),),
            ValueError,
            "a: min_count = 2: must be reached",
        ),
        (SHOP, (features.Cross("shop", "n"),), ValueError, "cross of 'shop': must be of specs"),
    ],
)
def test_mistakes_are_named(table, specs, error, message):
    with pytest.raises(error, match=message):
        features.fit(table, None if specs is None else features.Schema(specs))


def test_mistakes_of_targets_labels_and_json_are_named():
    with pytest.raises(ValueError, match="target = 'n': must be left out with a schema"):
        features.fit(SHOP, features.Schema((features.Category("shop"),)), target="n")
    with pytest.raises(ValueError, match="column = 'x': must be one of the table"):
        features.guess(SHOP, target="x")
    points = features.transform(features.fit(SHOP), SHOP)
    for labels in ([1], [0.5, 1.0], [[0], [1]]):
        with pytest.raises(ValueError, match="must be int"):
            features.with_labels(points, labels)
    with pytest.raises(ValueError, match="labels = 0 to 3: must be from 0 to 2"):
        features.with_labels(points, [0, 3], 3)
    for entry, message in (
        ({"kind": "colour"}, "must be one of text"),
        ({"kind": "category", "column": "a", "x": 1}, r"schema\[0\].x: must be one of column"),
        ({"kind": "category"}, "name what it needs"),
    ):
        with pytest.raises(ValueError, match=message):
            schemas.from_json([entry])
