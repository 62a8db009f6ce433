"""Rows of preference files as pairs: texts or lists of messages, with or without a prompt."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from sparse_jax.text.segments import clean

_TURN = re.compile(r"\n\n(?:Assistant|AI|Bot):")
_WORD_START = re.compile(r"(?<=\s)\S*$")


class Pair(NamedTuple):
    """A prompt with two answers."""

    prompt: str
    chosen: str
    rejected: str
    line: int = 0  # of its file; 0 = none


def pair(row: Mapping[str, Any], line: int = 0) -> Pair:
    """The pair of a row.

    Messages are joined by blank lines; the answer is what the two sides don't begin with alike.
    Without a prompt it is the common beginning of both texts: up to the last "Assistant:", or
    else to the last white space.

    Args:
      row: with `chosen` and `rejected`, and perhaps `prompt`.
      line: of its file.

    Raises:
      ValueError: if a field is missing, or neither a text nor a list of messages.

    Example:
      >>> asked = "Human: 1 + 1?\\n\\nAssistant: "
      >>> pair({"chosen": asked + "2", "rejected": asked + "3"})
      Pair(prompt='Human: 1 + 1?\\n\\nAssistant:', chosen='2', rejected='3', line=0)
      >>> said = lambda *texts: [{"role": "user", "content": text} for text in texts]
      >>> pair({"chosen": said("1 + 1?", "2"), "rejected": said("1 + 1?", "3")})
      Pair(prompt='1 + 1?', chosen='2', rejected='3', line=0)
    """
    chosen, rejected = (_messages(row, name) for name in ("chosen", "rejected"))
    prompt = _messages(row, "prompt") if row.get("prompt") is not None else None
    lists = [side for side in (chosen, rejected) if len(side) > 1]
    if prompt is None and not lists and not isinstance(row["chosen"], list):
        return Pair(*_split(chosen[0], rejected[0]), line)
    if prompt is None or len(lists) == 2:
        # Whole conversations: the last message of each is its answer, whatever else is alike.
        same = 0
        while same < min(len(chosen), len(rejected)) - 1 and chosen[same] == rejected[same]:
            same += 1
        first = chosen[:same]
        if prompt is None or first[: len(prompt)] != prompt:
            first = [*(prompt or []), *first]
        prompt, chosen, rejected = first, chosen[same:], rejected[same:]
    asked, better, worse = ("\n\n".join(side) for side in (prompt, chosen, rejected))
    return Pair(asked, better, worse, line)


def _messages(row: Mapping[str, Any], name: str) -> list[str]:
    """A field as the texts of its messages; a text is one."""
    value = row.get(name)
    if isinstance(value, str):
        return [clean(value)]
    if isinstance(value, list) and (value or name == "prompt"):
        texts = [_content(message) for message in value]
        if None not in texts:
            return [clean(str(text)) for text in texts]
    raise ValueError(
        f"needs a text as {name!r}, or a list of messages {{'role': …, 'content': …}}; a row has "
        "'chosen' and 'rejected', and 'prompt' if it is not their common beginning"
    )


def _content(message: Any) -> str | None:
    """The text of a message, which may come in parts; None if it has none."""
    content = message.get("content") if isinstance(message, dict) else None
    if isinstance(content, list):
        parts = [part.get("text") if isinstance(part, dict) else None for part in content]
        return "\n".join(map(str, parts)) if None not in parts else None
    return content if isinstance(content, str) else None


def _split(chosen: str, rejected: str) -> tuple[str, str, str]:
    """(prompt, chosen, rejected) of two texts that begin alike."""
    same = 0
    while same < min(len(chosen), len(rejected)) and chosen[same] == rejected[same]:
        same += 1
    common = chosen[:same]
    turns = [match.end() for match in _TURN.finditer(common)]
    if turns:
        at = turns[-1]
    elif same == len(chosen) == len(rejected):
        at = 0  # one text twice: nothing says where an answer begins
    else:
        found = _WORD_START.search(common)
        at = found.start() if found else 0
    return common[:at].rstrip(), chosen[at:].lstrip(" "), rejected[at:].lstrip(" ")
