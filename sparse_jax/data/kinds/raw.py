"""Raw texts of the Extreme Classification Repository: trn.json.gz with lbl.json.gz."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterator
from typing import Any

import numpy as np

from sparse_jax.data.errors import FormatError
from sparse_jax.data.kinds.base import Head, Kind, Options, Source, rows_of, texts_of
from sparse_jax.data.tables import Table, weighted, without_features
from sparse_jax.data.xmc import MAX_SIZE, offsets_of

LABELS, WEIGHTS = "target_ind", "target_rel"


def objects(source: Source) -> Iterator[tuple[int, dict[str, Any]]]:
    """(number, object) of each line that isn't blank.

    Raises:
        FormatError: a line that is no JSON object.
    """
    for number, line in rows_of(source):
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:  # of numbers with thousands of digits, too
            raise FormatError(
                source.name, f"line {number}: is no JSON ({error}); write one object a line"
            ) from None
        if "\\ud" in line.lower():
            _check_characters(source, number, row)
        if not isinstance(row, dict):
            raise FormatError(
                source.name,
                f"line {number}: is a JSON {type(row).__name__}: must be an object; write one a "
                "line",
            )
        yield number, row


def _check_characters(source: Source, number: int, row: Any) -> None:
    """Refuses half a character, which can be escaped in JSON but is no text."""
    try:
        json.dumps(row, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        half = error.object[error.start]
        raise FormatError(
            source.name, f"line {number}: {half!r} is half a character; mend or delete it"
        ) from None


def first_keys(head: Head) -> set[str] | None:
    """The keys of the first line's object, malformed or not; None if it is none."""
    if not head.lines or not re.match(r'\s*\{\s*["}]', head.lines[0]):
        return None
    try:
        return set(json.loads(head.lines[0]))
    except (ValueError, RecursionError):  # which its reader names
        return set(re.findall(r'"(\w+)"\s*:', head.lines[0]))


def _fits(head: Head) -> bool:
    return LABELS in (first_keys(head) or ())


def _text(source: Source, number: int, row: dict[str, Any]) -> str:
    parts = [row.get(name) for name in ("title", "content")]
    if all(part is None for part in parts) or any(
        not isinstance(part, str) for part in parts if part is not None
    ):
        raise FormatError(
            source.name,
            f"line {number}: must have texts 'title' or 'content'; mend it, or read the file as "
            "jsonl with the columns named",
        )
    return " ".join(part for part in parts if part)


def _labels(source: Source, number: int, row: dict[str, Any], size: int) -> tuple[Any, Any]:
    """Ids and weights of one row."""
    ids = row.get(LABELS, [])
    weights = row.get(WEIGHTS)
    weights = [1.0] * len(ids) if weights is None and isinstance(ids, list) else weights

    def error(message: str) -> FormatError:
        return FormatError(source.name, f"line {number}: {message}")

    if not isinstance(ids, list) or not all(type(i) is int and i >= 0 for i in ids):
        raise error(f"{LABELS} = {ids!r:.60}: must be a list of whole numbers from 0; mend it")
    if len(set(ids)) < len(ids):
        raise error(f"{LABELS} = {ids!r:.60}: must be distinct; join the repeats")
    if ids and max(ids) >= size:
        raise error(
            f"{LABELS} = {max(ids)}: must be below {size}, the number of labels; give the file of "
            "labels that belongs to these points"
        )
    if not isinstance(weights, list) or len(weights) != len(ids):
        raise error(f"{WEIGHTS} = {weights!r:.60}: must be a list as long as {LABELS}; mend it")
    if not all(type(w) in (int, float) and 0 <= w < np.inf for w in weights):
        raise error(f"{WEIGHTS} = {weights!r:.60}: must be numbers of at least 0; mend it")
    return ids, weights


def _read(sources: tuple[Source, ...], options: Options) -> Table:
    names = None
    if len(sources) == 2:
        rows = list(objects(sources[1]))
        names = tuple(_text(sources[1], number, row) for number, row in rows)
    size = MAX_SIZE if names is None else len(names)
    texts: list[str] = []
    ids: list[int] = []
    weights: list[float] = []
    counts: list[int] = []
    for number, row in objects(sources[0]):
        texts.append(_text(sources[0], number, row))
        found, weight = _labels(sources[0], number, row, size)
        counts.append(len(found))
        ids += found
        weights += weight
    num_labels = max(ids, default=-1) + 1 if names is None else size
    offsets = offsets_of(np.array(counts, np.int64))
    points = without_features(offsets, np.array(ids, np.int32), num_labels)
    table = Table(points, "raw", texts=tuple(texts), label_names=names)
    return weighted(table, np.array(weights, np.float32))


def _write(table: Table, files: int, options: Options) -> list[bytes]:
    points = table.points
    weights = table.label_weights
    if weights is None:
        weights = np.ones(points.label_ids.size, np.float32)
    ids, rel = points.label_ids.tolist(), [float(str(w)) for w in weights]
    offsets = points.label_offsets.tolist()
    lines = [
        {"uid": str(i), "title": "", "content": text, LABELS: ids[a:b], WEIGHTS: rel[a:b]}
        for i, (text, (a, b)) in enumerate(
            zip(texts_of(table, "raw"), itertools.pairwise(offsets), strict=True)
        )
    ]
    names = table.label_names or tuple(str(i) for i in range(points.num_labels))
    labels = [{"uid": str(i), "title": name} for i, name in enumerate(names)]
    return [_jsonl(lines), _jsonl(labels)][:files]


def _jsonl(rows: list[dict[str, Any]]) -> bytes:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


KINDS = (
    Kind(
        name="raw",
        about="texts of the Extreme Classification Repository, as trn.json.gz,lbl.json.gz",
        sign=f"a first line that is a JSON object with {LABELS!r}",
        fits=_fits,
        read=_read,
        write=_write,
        files=2,
    ),
)
