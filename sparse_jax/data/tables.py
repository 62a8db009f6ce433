"""Points together with what their file says of them: texts, names, weights of labels."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any, Protocol

import numpy as np

from sparse_jax.data.vocabulary import Vocabulary
from sparse_jax.data.xmc import XmcData, offsets_of, unchecked


class Named(Protocol):
    """Whatever names ids: a `Table`, or `model.about` of a classifier."""

    @property
    def label_names(self) -> Sequence[str] | None:
        """[N], by id."""

    @property
    def feature_names(self) -> Sequence[str] | None:
        """[F], by id."""


@dataclasses.dataclass(frozen=True, eq=False)
class Table:
    """What a file of points holds: `data.read` makes one.

    Attributes:
        points: n points. Of texts, the features are counts of words.
        kind: the kind of file that it was, a name in `data.kinds()`.
        texts: [n], where points are texts.
        label_names: [N], by id, where labels have names.
        feature_names: [F], the words, where points are texts.
        label_weights: float32 [label_offsets[-1]], one for each label id, above 0; None for ones.
        columns: all that a table had.
        notes: what is odd, for people: `data.read` warns of it.
    """

    points: XmcData
    kind: str
    texts: tuple[str, ...] | None = None
    label_names: tuple[str, ...] | None = None
    feature_names: tuple[str, ...] | None = None
    label_weights: np.ndarray | None = None
    columns: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def of_texts(
    kind: str, texts: Iterable[str], labels: Iterable[Sequence[str]], **more: Any
) -> Table:
    """Texts with labels by name; the names are sorted, so equal rows give equal ids in any kind.

    Args:
        kind: of the file.
        texts: [n].
        labels: [n] lists of names; a name that comes twice in one counts once.
        **more: further fields of `Table`.

    Returns:
        A table whose points have no features yet: see `count_words`.

    Example:
        >>> table = of_texts("csv", ["red apple", "fast car"], [["food", "red"], ["thing"]])
        >>> table.label_names, table.points.label_ids.tolist()
        (('food', 'red', 'thing'), [0, 1, 2])
    """
    rows = [tuple(dict.fromkeys(row)) for row in labels]
    names = tuple(sorted({name for row in rows for name in row}))
    places = {name: place for place, name in enumerate(names)}
    ids = np.fromiter((places[name] for row in rows for name in row), np.int32)
    counts = np.fromiter((len(row) for row in rows), np.int64, len(rows))
    points = without_features(offsets_of(counts), ids, len(names))
    return Table(points, kind, texts=tuple(texts), label_names=names, **more)


def without_features(offsets: np.ndarray, ids: np.ndarray, num_labels: int) -> XmcData:
    """Points of labels alone.

    Args:
        offsets: int64 [n + 1].
        ids: int32 [offsets[-1]].
        num_labels: labels that exist.

    Returns:
        The points, of no features.
    """
    none = np.zeros(0, np.int32), np.zeros(0, np.float32)
    return unchecked(np.zeros_like(offsets), *none, offsets, ids, 0, num_labels)


def weighted(table: Table, weights: np.ndarray) -> Table:
    """The table with weights of its labels, without the labels of weight 0.

    Args:
        table: without weights.
        weights: float32 [labels], at least 0.

    Returns:
        A table that notes weights other than 1.
    """
    kept = weights != 0
    points = table.points
    if not kept.all():
        rows = np.repeat(np.arange(points.num_points), np.diff(points.label_offsets))
        points = dataclasses.replace(
            points,
            label_offsets=offsets_of(np.bincount(rows[kept], minlength=points.num_points)),
            label_ids=points.label_ids[kept],
        )
    weights = weights[kept]
    if np.all(weights == 1):
        return dataclasses.replace(table, points=points)
    note = (
        f"labels have weights from {weights.min():g} to {weights.max():g}: they are kept in "
        "`label_weights`, which training takes for how far each holds, those above 1 as 1; labels "
        "of weight 0 are left out, and measures count every other one as 1"
    )
    return dataclasses.replace(
        table, points=points, label_weights=weights, notes=(*table.notes, note)
    )


def count_words(table: Table, words: Sequence[str] | None = None) -> Table:
    """The table with its texts' words counted; one without texts stays as it is.

    Args:
        table: any.
        words: the features, by id; None for all words of the texts, those of most texts first.

    Returns:
        A table with features and their names.

    Example:
        >>> table = of_texts("csv", ["red apple", "Red car!"], [["food"], ["thing"]])
        >>> counted = count_words(table)
        >>> counted.feature_names, counted.points.feature_ids.tolist()
        (('red', 'apple', 'car'), [0, 1, 0, 2])
    """
    if table.texts is None:
        return table
    vocabulary = Vocabulary(all_words(table.texts) if words is None else tuple(words))
    counted = vocabulary.transform(table.texts)
    points = dataclasses.replace(
        counted,
        label_offsets=table.points.label_offsets,
        label_ids=table.points.label_ids,
        num_labels=table.points.num_labels,
    )
    return dataclasses.replace(table, points=points, feature_names=vocabulary.words)


def all_words(texts: Sequence[str]) -> tuple[str, ...]:
    """All words of texts, those of most texts first; none where there are none.

    Example:
        >>> all_words(["red apple", "red"]), all_words(["!"])
        (('red', 'apple'), ())
    """
    try:
        return Vocabulary.fit(texts, min_count=1).words
    except ValueError:  # which is its word for none
        return ()


def more_words(texts: Sequence[str], words: Sequence[str]) -> tuple[str, ...]:
    """Words known already, then those that the texts bring.

    Example:
        >>> more_words(["a red car"], ("red", "apple"))
        ('red', 'apple', 'a', 'car')
    """
    found = np.array(all_words(texts), object)
    known = np.diff(Vocabulary(tuple(words)).transform(found).feature_offsets) > 0
    return (*words, *found[~known].tolist())


def renumber_labels(table: Table, names: Sequence[str] | None) -> Table:
    """The table with label ids that mean what they mean elsewhere.

    Args:
        table: any; one whose labels have no names stays as it is.
        names: [N], by id; None leaves the table as it is.

    Returns:
        A table whose first N labels are these; names that are not among them come behind.

    Example:
        >>> table = of_texts("csv", ["a", "b"], [["food"], ["thing"]])
        >>> found = renumber_labels(table, ("thing", "fast"))
        >>> found.label_names, found.points.label_ids.tolist()
        (('thing', 'fast', 'food'), [2, 0])
    """
    if table.label_names is None or names is None:
        return table
    places: dict[str, int] = {}
    for place, name in enumerate(names):
        places.setdefault(name, place)
    new = [name for name in table.label_names if name not in places]
    places |= {name: place for place, name in enumerate(new, len(names))}
    by_id = np.array([places[name] for name in table.label_names], np.int32)
    points = dataclasses.replace(
        table.points,
        label_ids=by_id[table.points.label_ids] if by_id.size else table.points.label_ids,
        num_labels=len(names) + len(new),
    )
    return dataclasses.replace(table, points=points, label_names=(*names, *new))


def like(table: Table, named: Named | None) -> Table:
    """The table in the words and label ids of another; in its own where that has none.

    Args:
        table: any.
        named: what names the ids; None for the table itself.

    Returns:
        A table with features; labels that the other lacks come behind its own.

    Raises:
        ValueError: texts, or labels by name, and the other knows ids alone.
    """
    if named is None:
        return count_words(table)
    for what, given, known in (
        ("feature_names", table.texts, named.feature_names),
        ("label_names", table.label_names, named.label_names),
    ):
        if given is not None and known is None:
            raise ValueError(
                f"like.{what} = None: must have names, since these points have them in place of "
                "ids; take what was trained on texts, or leave like out"
            )
    return renumber_labels(count_words(table, named.feature_names), named.label_names)
