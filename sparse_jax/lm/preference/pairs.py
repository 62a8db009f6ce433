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
from sparse_jax.lm.preference import messages
from sparse_jax.lm.preference.messages import Pair
from sparse_jax.lm.text import DOCUMENT, PARAGRAPH, Vocabulary
from sparse_jax.text.segments import clean

QUESTION_FIELDS = ("question", "title", "qtype", "text")
HELD_OUT = 10  # one topic or prompt of so many


class Preferences(NamedTuple):
    """Pairs to learn from and pairs to be judged by, with the plain text of both sides."""

    train: list[Pair]
    test: list[Pair]
    texts: list[str]  # answers of the training side, for a language model
    held_out: list[str]  # answers of the other side
    notes: list[str]  # what a reader should know of the file


def read(path: str | Path, *, seed: int = 0) -> Preferences:
    """Pairs of a JSONL file (.gz too): of rows that are pairs, or of questions with their topic.

    Args:
      path: rows with `chosen` and `rejected`, and `prompt` if it isn't their common beginning, each
        a text or a list of messages `{"role", "content"}`; or with `question`, `title` (the topic),
        `qtype` and `text` (the answer). Rows that say `"kind"` other than `"doc"` are left out.
      seed: of which wrong answer a question is paired with.

    Raises:
      ValueError: if a line is no JSON object, a field is missing or no text, or a side is empty.
    """
    rows = [row for row in read_jsonl(path) if row[1].get("kind", "doc") == "doc"]
    if rows and "question" in rows[0][1]:
        blank = 0
        usable = []
        for number, row in rows:
            for name in QUESTION_FIELDS:
                if not isinstance(row.get(name), str):
                    raise ValueError(
                        f"{path}, line {number}: needs a text as {name!r} ({QUESTION_FIELDS})"
                    )
            whole = {name: clean(row[name]) for name in QUESTION_FIELDS}
            if all(value.strip() for value in whole.values()):
                usable.append(whole)
            else:
                blank += 1
        preferences = from_questions(usable, seed=seed)
        if blank:
            preferences.notes.append(f"{blank:,} rows with a blank field are left out")
    else:
        pairs = []
        for number, row in rows:
            try:
                pairs.append(messages.pair(row, number))
            except ValueError as error:
                raise ValueError(f"{path}, line {number}: {error}") from None
        preferences = from_pairs(pairs)
    if not preferences.train or not preferences.test:
        raise ValueError(
            f"{path} gives {len(preferences.train)} pairs to train on and {len(preferences.test)} "
            "to test on: both need at least one; give rows with other prompts, or on other topics"
        )
    return preferences


def is_held_out(group: str) -> bool:
    """Whether a topic or prompt is for testing: by a hash, so that files may grow.

    Example:
      >>> sum(is_held_out(f"topic {i}") for i in range(1000)) // 50
      2
    """
    return _hash(group) % HELD_OUT == 0


def _hash(group: str) -> int:
    return zlib.crc32(group.casefold().encode("utf-8", "surrogatepass"))


def _held_out(groups: Iterable[str]) -> set[str]:
    """Those of some groups, all with pairs, that are for testing.

    By hash; where this leaves one side without any, the tenth with the lowest hashes, and at least
    one. Of a single group none is.
    """
    distinct = sorted(set(groups), key=lambda group: (_hash(group), group))
    out = {group for group in distinct if is_held_out(group)}
    if out and len(out) < len(distinct):
        return out
    return set(distinct[: -(-len(distinct) // HELD_OUT)]) if len(distinct) > 1 else set()


def from_pairs(pairs: Iterable[Pair]) -> Preferences:
    """Split by prompt, so that no test prompt is trained on; by pair where all have one prompt.

    Example:
      >>> found = from_pairs([Pair("Why?", f"since {i}", "no") for i in range(30)])
      >>> len(found.train), len(found.test), found.notes[0][:33]
      (26, 4, 'all 30 pairs have the same prompt')
    """
    pairs = list(pairs)
    preferences = Preferences([], [], [], [], [])
    prompts = [pair.prompt.casefold() for pair in pairs]
    single = len(set(prompts)) == 1 and len(pairs) > 1
    groups = [
        "\0".join(pair[:3]) if single or not prompt.strip() else prompt
        for pair, prompt in zip(pairs, prompts, strict=True)
    ]
    if single:
        same = "the same prompt" if prompts[0].strip() else "no prompt"
        preferences.notes.append(
            f"all {len(pairs)} pairs have {same}: one in {HELD_OUT} is held out, so the figures "
            "say nothing of other prompts"
        )
    held_out = _held_out(groups)
    for pair, group in zip(pairs, groups, strict=True):
        out = group in held_out
        (preferences.test if out else preferences.train).append(pair)
        texts = [answer for answer in (pair.chosen, pair.rejected) if answer.strip()]
        (preferences.held_out if out else preferences.texts).extend(texts)
    empty = sum(not answer.strip() for pair in pairs for answer in pair[1:3])
    if empty:
        preferences.notes.append(
            f"{empty:,} of {2 * len(pairs):,} answers are empty: such an answer is the end of the "
            "document at once"
        )
    return preferences


def from_questions(rows: Iterable[Mapping[str, str]], *, seed: int = 0) -> Preferences:
    """Each question with its answer over the answer to another type of question on its topic.

    Topics are titles, upper and lower case alike; a topic is on one side as a whole. A topic with
    one type of question gives text and no pair.

    Example:
      >>> rows = [dict(question=q, title="flu", qtype=q, text=q * 2) for q in "ab"]
      >>> from_questions(rows).train[0][:3]
      ('a', 'aa', 'bb')
    """
    rng = np.random.default_rng(seed)
    topics: dict[str, list[Mapping[str, str]]] = defaultdict(list)
    for row in rows:
        topics[row["title"].casefold()].append(row)
    paired = {t for t, answers in topics.items() if len({a["qtype"] for a in answers}) > 1}
    held_out = _held_out(paired)
    preferences = Preferences([], [], [], [], [])
    for topic, answers in topics.items():
        out = topic in held_out or (topic not in paired and is_held_out(topic))
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


def alike(batch: Batch) -> np.ndarray:
    """Which pairs of `encode` have one answer twice, cut and encoded as they are; bool [n].

    Such a pair teaches nothing, and whoever judges it can only say that it is a draw.

    Example:
      >>> from sparse_jax.lm.text import WordVocabulary
      >>> vocabulary = WordVocabulary.fit(["a b a b"], min_count=2)
      >>> pairs = [Pair("a", "a b a", "a b b"), Pair("a", "b", "a"), Pair("a", "x", "y")]
      >>> alike(encode(pairs, vocabulary, history=3, length=2)[0]).tolist()
      [True, False, True]
    """
    tokens = batch.tokens[:, batch.tokens.shape[1] - batch.since.shape[1] :]
    shown = np.where(batch.since >= 0, tokens, -1)
    found: np.ndarray = (shown[0::2] == shown[1::2]).all(axis=1)
    return found


def take(batch: Batch, pairs: np.ndarray) -> Batch:
    """Some pairs of `encode`, int [n]: both runs of each."""
    runs = (2 * pairs[:, None] + np.arange(2)).reshape(-1)
    return Batch(batch.tokens[runs], batch.since[runs])
