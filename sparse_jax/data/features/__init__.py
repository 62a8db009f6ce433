"""Tables to sparse points: texts, categories, numbers, dates, histories and crosses.

    fitted = features.fit(table, target="bought")
    points = features.transform(fitted, table)
    print(fitted.schema)

The schema is guessed from the table, can be printed, kept and given. A missing value is a value.
"""

from sparse_jax.data.features.fitting import (
    Features,
    fit,
    from_saved,
    to_saved,
    transform,
    with_labels,
)
from sparse_jax.data.features.guessing import guess
from sparse_jax.data.features.regression import Bins, expectation, fit_bins, with_numbers
from sparse_jax.data.features.schema import (
    Categories,
    Category,
    Cross,
    Date,
    History,
    Number,
    Schema,
    Text,
)

__all__ = [
    "Bins",
    "Categories",
    "Category",
    "Cross",
    "Date",
    "Features",
    "History",
    "Number",
    "Schema",
    "Text",
    "expectation",
    "fit",
    "fit_bins",
    "from_saved",
    "guess",
    "to_saved",
    "transform",
    "with_labels",
    "with_numbers",
]
