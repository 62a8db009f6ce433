"""The XMC text format from bytes: the C++ parser, and the Python twin with the same messages."""

from __future__ import annotations

import itertools
import re
from array import array

import numpy as np

from sparse_jax.ops import ffi

_MAX_ID = 2**31 - 1
# Halfway between the largest float32 and 2^128: from here on, rounding gives infinity.
_FLOAT32_OVERFLOW = float(2**128 - 2**103)
_NUMBER = re.compile(rb"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")
_NOT_FINITE = re.compile(rb"[+-]?(nan|inf|infinity)", re.IGNORECASE)

Arrays = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray, int, int, int]


def parse_xmc(content: bytes) -> Arrays:
    """Parses a whole file; see `parse_python`, which says the same in every case."""
    if ffi.AVAILABLE:
        arrays: Arrays = ffi.native().parse_xmc(content)
        return arrays
    return parse_python(content)


def parse_python(content: bytes) -> Arrays:
    """Parse a whole file in Python: slower than the C++ parser, with equal answers.

    Args:
        content: the bytes of an uncompressed file.

    Returns:
        feature_offsets, feature_ids, feature_values, label_offsets, label_ids, num_points,
        num_features, num_labels.

    Raises:
        ValueError: "line N: what is wrong".

    Example:
        >>> parse_python(b"1 5 2\\n1 4:0.5\\n")[2].tolist()
        [0.5]
    """
    if not content:
        raise ValueError("line 1: the file is empty")
    lines = content.split(b"\n")
    if not lines[-1]:
        lines.pop()
    points, num_features, num_labels = _parse_header(lines[0].removesuffix(b"\r"))
    feature_counts, label_counts = array("q"), array("q")
    feature_ids, label_ids, values = array("i"), array("i"), array("d")
    for row in range(points):
        number = row + 2
        if number > len(lines):
            raise ValueError(
                f"line {number - 1}: the file ends after {row} rows, "
                f"but the header promises {points}"
            )
        tokens = lines[row + 1].removesuffix(b"\r").replace(b"\t", b" ").split(b" ")
        labels: list[int] = []
        if tokens[0] and b":" not in tokens[0]:
            labels = [
                _parse_id(text, "label", num_labels, number) for text in tokens[0].split(b",")
            ]
            _check_distinct(labels, "label", number)
            tokens[0] = b""
        features: list[int] = []
        for token in tokens:
            if not token:
                continue
            text, colon, value = token.partition(b":")
            if not colon:
                raise _bad_token(number, "expected feature:value, not ", token, "")
            features.append(_parse_id(text, "feature", num_features, number))
            values.append(_parse_value(value, number))
        _check_distinct(features, "feature", number)
        label_ids.extend(labels)
        feature_ids.extend(features)
        label_counts.append(len(labels))
        feature_counts.append(len(features))
    for number, line in enumerate(lines[points + 1 :], points + 2):
        if line.removesuffix(b"\r").strip(b" \t"):
            raise ValueError(
                f"line {number}: more rows follow than the {points} that the header promises"
            )
    return (
        _offsets_of(np.array(feature_counts, np.int64)),
        np.array(feature_ids, np.int32),
        np.array(values, np.float64).astype(np.float32),
        _offsets_of(np.array(label_counts, np.int64)),
        np.array(label_ids, np.int32),
        points,
        num_features,
        num_labels,
    )


def _parse_header(line: bytes) -> list[int]:
    tokens = [token for token in line.replace(b"\t", b" ").split(b" ") if token]
    if len(tokens) != 3 or not all(token.isdigit() for token in tokens):
        raise _bad_token(
            1, "the header must be three whole numbers, points features labels, not ", line, ""
        )
    for token in tokens:
        if _whole(token) > _MAX_ID:
            raise _bad_token(1, "the header's number ", token, f" exceeds {_MAX_ID}: ids are int32")
    return [_whole(token) for token in tokens]


def _parse_id(text: bytes, kind: str, count: int, number: int) -> int:
    if text.isdigit():
        value = _whole(text)
        if value < count:
            return value
        cause = f" is out of range: the header promises {count} {kind}s, and ids start at 0"
    elif text[:1] == b"-" and text[1:].isdigit():
        cause = " is negative"
    else:
        cause = " is not a whole number"
    raise _bad_token(number, f"{kind} id ", text, cause)


def _parse_value(text: bytes, number: int) -> float:
    if text.isdigit() or _NUMBER.fullmatch(text):
        value = float(text)
        if abs(value) < _FLOAT32_OVERFLOW:
            return value
        cause = " is too large for float32"
    else:
        cause = " is not finite" if _NOT_FINITE.fullmatch(text) else " is not a number"
    raise _bad_token(number, "feature value ", text, cause)


def _whole(text: bytes) -> int:
    # Python refuses to convert thousands of digits; anything beyond int32 may saturate.
    return int(text) if len(text) <= 10 else min(int(text.lstrip(b"0")[:11] or b"0"), _MAX_ID + 1)


def _check_distinct(ids: list[int], kind: str, number: int) -> None:
    if len(set(ids)) != len(ids):
        ordered = sorted(ids)
        twice = next(a for a, b in itertools.pairwise(ordered) if a == b)
        raise ValueError(f"line {number}: {kind} id {twice} appears more than once in the row")


def _bad_token(number: int, before: str, token: bytes, after: str) -> ValueError:
    quoted = "".join(
        f"\\x{c:02x}" if c < 0x20 or c > 0x7E or c == 0x5C else chr(c) for c in token[:40]
    )
    quoted = f"'{quoted}...'" if len(token) > 40 else f"'{quoted}'"
    if not token.isascii():
        return ValueError(f"line {number}: a byte that is not ASCII text in {quoted}")
    return ValueError(f"line {number}: {before}{quoted}{after}")


def _offsets_of(counts: np.ndarray) -> np.ndarray:
    return np.concatenate([np.zeros(1, np.int64), np.cumsum(counts, dtype=np.int64)])
