"""The model that preference tuning starts from: one that was kept, or one trained here."""

from __future__ import annotations

import argparse
import dataclasses
import sys

from sparse_jax import lm
from sparse_jax.commands.lm import train as train_lm
from sparse_jax.commands.lm.models import load
from sparse_jax.commands.tuning_run import Tuner
from sparse_jax.lm import corpus as lm_data
from sparse_jax.lm import text
from sparse_jax.lm.preference import pairs
from sparse_jax.lm.saved import LanguageModel
from sparse_jax.runtime.interrupt import Interrupt

WINDOW = 16  # words the trunk reads: enough to see from an answer back into its question


def start(args: argparse.Namespace, stop: Interrupt) -> Tuner:
    """Reads the pairs and trains or loads the base."""
    data = pairs.read(args.pairs, seed=args.seed)
    for note in data.notes:
        print(f"note: {note}", file=sys.stderr)
    source = text.read_texts([args.pairs]).sources[0]
    if args.checkpoint:
        base = load(args.checkpoint, mapped=False)
        counted = source.sha256 in {known.sha256 for known in base.record.learned()}
        if not counted:
            learned = (*base.record.pairs, source)
            record = dataclasses.replace(base.record, pairs=learned)
            base = dataclasses.replace(base, record=record)
        return Tuner(args, stop, data, base, counted)
    base = train_base(args, data, source)
    if args.save_base:
        lm.save(base, args.save_base)
    return Tuner(args, stop, data, base, counted=True)


def train_base(
    args: argparse.Namespace, data: pairs.Preferences, source: text.Source
) -> LanguageModel:
    """A model trained on answers alone, and on other files."""
    more = text.read_texts(args.files)
    for note in more.notes:
        print(f"note: {note}", file=sys.stderr)
    corpora = lm_data.split(data.texts + more.documents, data.held_out)
    corpora.record = dataclasses.replace(
        corpora.record, train=tuple(more.sources), pairs=(source,), test_sha256=""
    )
    options = train_lm.parse_args(
        [
            "--rows",
            str(args.rows),
            "--seed",
            str(args.seed),
            "--max-seconds",
            str(args.base_seconds),
            "--epochs",
            "1",
        ]
    )
    options.batch_size = train_lm.choose_batch_size(corpora.train.tokens.size)
    base = train_lm.Run(options, corpora)
    base.config = dataclasses.replace(base.config, window=WINDOW)
    print(
        f"base: {corpora.train.tokens.size:,} tokens of answers, {corpora.vocabulary.size:,} words",
        flush=True,
    )
    base.start()
    if base.fit():
        raise KeyboardInterrupt
    return base.model()
