"""Preference pairs: a prompt, the answer that was preferred, and the one that was not."""

from __future__ import annotations

import zlib
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from sparse_jax.data import read_jsonl
from sparse_jax.lm.batching import Batch
from sparse_jax.lm.text import DOCUMENT, PARAGRAPH, Vocabulary

PAIR_FIELDS = ("prompt", "chosen", "rejected")
QUESTION_FIELDS = ("question", "title", "qtype", "text")
HELD_OUT = 10  # one topic or prompt of so many


class Pair(NamedTuple):
    """A prompt with two answers."""

    prompt: str
    chosen: str
    rejected: str


class Preferences(NamedTuple):
    """Pairs to learn from and pairs to be judged by, with the plain text of both sides."""

    train: list[Pair]
    test: list[Pair]
    texts: list[str]  # answers of the training side, for a language model
    held_out: list[str]  # answers of the other side


def read(path: str | Path, *, seed: int = 0) -> Preferences:
    """Pairs of a JSONL file (.gz too): of rows that are pairs, or of questions with their topic.

    Args:
      path: rows with `prompt`, `chosen`, `rejected`; or with `question`, `title` (the topic),
        `qtype` and `text` (the answer). Rows with a blank one of these are left out, and so are
        rows that say `"kind"` other than `"doc"`.
      seed: of which wrong answer a question is paired with.

    Raises:
      ValueError: if a line is no JSON object, a field is missing or no text, or a side is empty.
    """
    rows = [row for row in read_jsonl(path) if row[1].get("kind", "doc") == "doc"]
    fields = QUESTION_FIELDS if rows and "question" in rows[0][1] else PAIR_FIELDS
    for number, row in rows:
        for name in fields:
            if not isinstance(row.get(name), str):
                raise ValueError(f"{path}, line {number}: needs a text as {name!r} ({fields})")
    usable = [row for _, row in rows if all(row[name].strip() for name in fields)]
    if fields == PAIR_FIELDS:
        preferences = from_pairs(usable)
    else:
        preferences = from_questions(usable, seed=seed)
    if not preferences.train or not preferences.test:
        raise ValueError(
            f"{path} gives {len(preferences.train)} pairs to train on and {len(preferences.test)} "
            "to test on: both need at least one; add rows"
        )
    return preferences


def is_held_out(group: str) -> bool:
    """Whether a topic or prompt is for testing: by a hash, so that files may grow.

    Example:
      >>> sum(is_held_out(f"topic {i}") for i in range(1000)) // 50
      2
    """
    return zlib.crc32(group.casefold().encode()) % HELD_OUT == 0


def from_pairs(rows: Iterable[Mapping[str, str]]) -> Preferences:
    """Split by prompt: no test prompt is trained on."""
    preferences = Preferences([], [], [], [])
    for row in rows:
        pair = Pair(*(row[name] for name in PAIR_FIELDS))
        out = is_held_out(pair.prompt)
        pairs = preferences.test if out else preferences.train
        pairs.append(pair)
        (preferences.held_out if out else preferences.texts).extend((pair.chosen, pair.rejected))
    return preferences


def from_questions(rows: Iterable[Mapping[str, str]], *, seed: int = 0) -> Preferences:
    """Each question with its answer over the answer to another type of question on its topic.

    Topics are titles, upper and lower case alike; a topic is on one side as a whole. A topic with
    one type of question gives text and no pair.

    Example:
      >>> rows = [dict(question=q, title="flu", qtype=q, text=q * 2) for q in "ab"]
      >>> from_questions(rows).train
      [Pair(prompt='a', chosen='aa', rejected='bb'), Pair(prompt='b', chosen='bb', rejected='aa')]
    """
    rng = np.random.default_rng(seed)
    topics: dict[str, list[Mapping[str, str]]] = defaultdict(list)
    for row in rows:
        topics[row["title"].casefold()].append(row)
    preferences = Preferences([], [], [], [])
    for topic, answers in topics.items():
        out = is_held_out(topic)
        pairs = preferences.test if out else preferences.train
        (preferences.held_out if out else preferences.texts).extend(row["text"] for row in answers)
        for row in answers:
            others = [a["text"] for a in answers if a["qtype"] != row["qtype"]]
            if others:
                wrong = others[int(rng.integers(len(others)))]
                pairs.append(Pair(row["question"], row["text"], wrong))
    return preferences


def pack(
    prompts: Sequence[np.ndarray], answers: Sequence[np.ndarray], *, history: int, length: int
) -> Batch:
    """Answers to be scored after their prompts, as `lm.evaluate.log_likelihood` takes them.

    Args:
      prompts: S arrays of token ids; their last `history` are kept.
      answers: S arrays of token ids; cut at `length`. One that is shorter ends its document, and
        that is part of it.
      history: C, of the model's config.
      length: T.

    Returns:
      `Batch` of S runs.

    Example:
      >>> batch = pack([np.array([7, 8])], [np.array([9])], history=3, length=4)
      >>> batch.tokens.tolist(), batch.since.tolist()
      ([[1, 7, 8, 9, 1, 1, 1]], [[2, 3, -1, -1]])
    """
    tokens = np.full((len(prompts), history + length), DOCUMENT, np.int32)
    since = np.full((len(prompts), length), -1, np.int32)
    for i, (prompt, answer) in enumerate(zip(prompts, answers, strict=True)):
        known = min(prompt.size, history)
        tokens[i, history - known : history] = prompt[prompt.size - known :]
        whole = np.append(answer, DOCUMENT)[:length]
        tokens[i, history : history + whole.size] = whole
        since[i, : whole.size] = known + np.arange(whole.size)
    return Batch(tokens, since)


def encode_prompt(vocabulary: Vocabulary, prompt: str) -> np.ndarray:
    """Token ids of a prompt and the blank line between it and its answer."""
    return np.append(vocabulary.encode(prompt), np.int32(PARAGRAPH))


def encode(
    pairs: Sequence[Pair], vocabulary: Vocabulary, *, history: int, length: int
) -> tuple[Batch, list[np.ndarray]]:
    """(2n runs, chosen and rejected in turn; the n prompts)."""
    prompts = [encode_prompt(vocabulary, pair.prompt) for pair in pairs]
    answers = [vocabulary.encode(text) for pair in pairs for text in (pair.chosen, pair.rejected)]
    twice = [prompt for prompt in prompts for _ in range(2)]
    return pack(twice, answers, history=history, length=length), prompts


def take(batch: Batch, pairs: np.ndarray) -> Batch:
    """Some pairs of `encode`, int [n]: both runs of each."""
    runs = (2 * pairs[:, None] + np.arange(2)).reshape(-1)
    return Batch(batch.tokens[runs], batch.since[runs])
