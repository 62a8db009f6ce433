"""One run of finetune_preference.py: the base model, then each method from it."""

from __future__ import annotations

import argparse
import dataclasses
import functools
import itertools
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from tqdm import tqdm

from sparse_jax import optim
from sparse_jax.commands.lm import train as train_lm
from sparse_jax.lm import batching, evaluate, text
from sparse_jax.lm import corpus as lm_data
from sparse_jax.lm.batching import Batch
from sparse_jax.lm.preference import dpo, pairs, policy, reward, tuning
from sparse_jax.lm.saved import load_model
from sparse_jax.runtime import checkpoint
from sparse_jax.runtime.interrupt import Interrupt

PAIRS, PROMPTS, ANSWERS = 12, 8, 4  # of a step: pairs; prompts of the policy gradient, answers each
MEMORY_LR = 0.1
ORDINARY, ANCHOR = 8, 2.0  # runs of ordinary text beside DPO's pairs, and their weight
RLOO_STEPS = 100
MOST_TEST = 1000  # pairs that judge
WINDOW = 16  # words the trunk reads: enough to see from an answer back into its question


def train_base(args: argparse.Namespace, data: pairs.Preferences) -> Any:
    """(state, config, vocabulary) of a model trained on answers alone."""
    texts = data.texts + (list(text.read_documents(args.files)) if args.files else [])
    made = lm_data.split(texts, data.held_out)
    options = train_lm.parse_args(["--rows", str(args.rows), "--seed", str(args.seed),
                                   "--max-seconds", str(args.base_seconds)])  # fmt: skip
    options.batch_size = train_lm.choose_batch_size(made.train.tokens.size)
    base = train_lm.Run(options, made)
    base.config = dataclasses.replace(base.config, window=WINDOW)
    print(f"base: {made.train.tokens.size:,} tokens of answers, {made.vocabulary.size:,} words",
          flush=True)  # fmt: skip
    base.start()
    if base.fit():
        raise KeyboardInterrupt
    return base.state, base.config, made.vocabulary


class Tuner:
    """The base model, the encoded pairs, and what each method has made of them."""

    def __init__(
        self, args: argparse.Namespace, stop: Interrupt, data: pairs.Preferences, base: Any,
        counted: bool,
    ) -> None:  # fmt: skip
        self.args, self.stop, self.counted = args, stop, counted
        self.base, self.config, self.vocabulary = base
        size = {"history": self.config.history, "length": args.length}
        order = np.random.default_rng(args.seed).permutation(len(data.test))[:MOST_TEST]
        judges = [data.test[i] for i in order]
        self.train, self.prompts = pairs.encode(data.train, self.vocabulary, **size)
        self.test, self.test_prompts = pairs.encode(judges, self.vocabulary, **size)
        self.text = text.encode_corpus(self.vocabulary, data.texts)
        self.ordinary = text.encode_corpus(self.vocabulary, data.held_out)
        self.tx = optim.rowwise(optax.scale_by_adam())
        self.policy = tuning.init_policy(self.base, self.tx, seed=args.seed)
        self.before = self._log_probs()
        self.perplexity = self._perplexity()

    def about(self) -> dict[str, Any]:
        """What the figures are made of."""
        return {
            "seed": self.args.seed, "train_pairs": len(self.prompts),
            "test_pairs": len(self.test_prompts), "vocabulary": self.config.vocabulary,
            "perplexity_before": self.perplexity,
        }  # fmt: skip

    # Figures -------------------------------------------------------------------------------------

    def _log_probs(self) -> np.ndarray:
        return tuning.log_probs(
            self.policy.params, self.policy.memory, self.test, config=self.config
        )

    def _perplexity(self) -> float:
        return evaluate.score(
            self.policy.params, self.policy.memory, self.ordinary, config=self.config,
            most_batches=100,
        ).perplexity  # fmt: skip

    def _log_prob_wins(self, log_p: np.ndarray) -> float:
        return win_rate(log_p / np.sum(self.test.since >= 0, axis=1))

    def _draw(self, seed: int) -> Any:
        """Answers of the policy to held-out prompts."""
        return policy.draw(
            self.policy.params, self.policy.memory, self.test_prompts[:128], config=self.config,
            answers=1, length=self.args.length, seed=seed,
        )  # fmt: skip

    def _divergence(self) -> dict[str, float]:
        drawn = self._draw(self.args.seed + 1)
        mine, reference = self._both(drawn)
        tokens = int(np.sum(drawn.since >= 0))
        ratio = mine - reference
        return {"kl": float(ratio.mean()), "kl_per_token": float(ratio.sum() / tokens)}

    def _both(self, batch: Any) -> tuple[np.ndarray, np.ndarray]:
        """Log probabilities under the policy and, in its place for a moment, the reference."""
        score = functools.partial(tuning.log_probs, batch=batch, config=self.config)
        mine = score(self.policy.params, self.policy.memory)
        self.policy = tuning.swap(self.policy)
        reference = score(self.policy.params, self.policy.memory)
        self.policy = tuning.swap(self.policy)
        return mine, reference

    def _tuned_figures(self) -> dict[str, float]:
        after = self._log_probs()
        perplexity = self._perplexity()
        return {
            "win_rate_before": self._log_prob_wins(self.before),
            "win_rate_after": win_rate(after - self.before),
            "log_prob_win_rate_after": self._log_prob_wins(after),
            **self._divergence(),
            "perplexity_before": self.perplexity,
            "perplexity_after": perplexity,
            "perplexity_change": perplexity / self.perplexity - 1,
            "rows_kept": float(self.policy.embed.count)
            + (0.0 if self.policy.rows is None else float(self.policy.rows.count)),
        }

    # Methods -------------------------------------------------------------------------------------

    def fit_reward(self) -> dict[str, float]:
        """A reward model on the base's word vectors."""
        tx = optim.rowwise(optax.scale_by_adam())
        embed = self.policy.params["embed"]
        state = reward.init_state(tx, width=self.config.embed)
        step = jax.jit(reward.make_step(tx, lr=2e-2), donate_argnums=0)
        clock = Clock(self, "reward", self._steps(self.args.epochs))
        for rate, batch in clock.steps(self._pair_batches()):
            state, value = step(state, embed, *map(jnp.asarray, batch), rate)
            clock.tell(value)
        self.judge = state.params
        scores = reward.score(self.judge, embed, self.test)
        self.scale = float(np.std(scores)) or 1.0
        return {
            "win_rate_before": self._log_prob_wins(self.before),
            "win_rate_after": win_rate(scores), **clock.cost(),
        }  # fmt: skip

    def _fit_policy(self, name: str, loss: Any, batches: Iterator[Any], total: int,
                    counted: bool) -> dict[str, float]:  # fmt: skip
        self._rewind()
        step = jax.jit(
            tuning.make_step(
                loss, self.tx, config=self.config, unigram=self.base.unigram,
                popular=self.base.popular, lr=self.args.lr, memory_lr=MEMORY_LR, counted=counted,
            ),
            donate_argnums=0,
        )  # fmt: skip
        clock = Clock(self, name, total)
        for rate, (batch, *more) in clock.steps(batches):
            self.policy = tuning.make_room(self.policy, batch.since.size, config=self.config)
            self.policy, seen = step(self.policy, *map(jnp.asarray, batch), rate, *more)
            clock.tell(seen.loss)
        return self._tuned_figures() | clock.cost()

    def fit_dpo(self) -> dict[str, float]:
        """Direct preference optimization."""

        def batches() -> Iterator[Any]:
            for judged, ordinary in zip(self._pair_batches(), self._ordinary_runs(), strict=False):
                both = Batch(*map(np.concatenate, zip(judged, ordinary, strict=True)))
                yield both, np.float32(np.sum(ordinary.since >= 0))

        loss = functools.partial(dpo.loss, beta=self.args.beta, ordinary=ORDINARY, anchor=ANCHOR)
        total = self._steps(self.args.epochs)
        return self._fit_policy("dpo", loss, batches(), total, self.counted)

    def fit_rloo(self) -> dict[str, float]:
        """Policy gradient on the reward model's word."""
        self._rewind()
        embed = jnp.copy(self.policy.params["embed"])  # the judge's; the policy's own will move
        judged = lambda batch: reward.score(self.judge, embed, batch) / self.scale  # noqa: E731
        before = float(np.mean(judged(self._draw(self.args.seed + 2))))
        rng = np.random.default_rng(self.args.seed)

        def batches() -> Iterator[Any]:
            for number in range(1 << 30):
                chosen = rng.integers(len(self.prompts), size=PROMPTS)
                drawn = policy.draw(
                    self.policy.params, self.policy.memory, [self.prompts[i] for i in chosen],
                    config=self.config, answers=ANSWERS, length=self.args.length,
                    seed=self.args.seed * 1_000_003 + number,
                )  # fmt: skip
                yield drawn, jnp.asarray(judged(drawn))

        loss = functools.partial(policy.loss, beta=self.args.beta, answers=ANSWERS)
        figures = self._fit_policy("rloo", loss, batches(), RLOO_STEPS, False)
        after = float(np.mean(judged(self._draw(self.args.seed + 2))))
        return {"reward_before": before, "reward_after": after} | figures

    def _rewind(self) -> None:
        """Back to the reference; what was kept of an earlier method is dropped."""
        back = tuning.swap(self.policy)
        base = dataclasses.replace(self.base, params=back.params, memory=back.memory)
        self.policy = tuning.init_policy(base, self.tx, seed=self.args.seed)

    # Batches -------------------------------------------------------------------------------------

    def _steps(self, epochs: int) -> int:
        return epochs * (len(self.prompts) // PAIRS or 1)

    def _pair_batches(self) -> Iterator[Any]:
        rng = np.random.default_rng(self.args.seed)
        count = len(self.prompts)
        for _ in range(self.args.epochs):
            order = np.resize(rng.permutation(count), max(count // PAIRS, 1) * PAIRS)
            for chosen in order.reshape(-1, PAIRS):
                yield pairs.take(self.train, chosen)

    def _ordinary_runs(self) -> Iterator[Batch]:
        """Text to train on as it comes, without end."""
        for epoch in itertools.count():
            yield from batching.batches(
                self.text, ORDINARY, self.args.length, self.config.history,
                seed=self.args.seed, epoch=epoch,
            )  # fmt: skip

    def save(self, directory: str) -> None:
        """The model as it now is."""
        tuned = dataclasses.replace(self.base, params=self.policy.params, memory=self.policy.memory)
        save(directory, self.args, tuned, self.config, self.vocabulary)


class Clock:
    """A progress bar and a rate that falls to 0 at the end of the steps or of the time."""

    def __init__(self, tuner: Tuner, name: str, total: int) -> None:
        self.stop, self.limit, self.total = tuner.stop, tuner.args.max_seconds, total
        self.bar = tqdm(total=total, desc=name, unit="step", disable=None, dynamic_ncols=True)
        self.done, self.losses, self.seconds = 0, [0.0], 0.0

    def steps(self, batches: Iterator[Any]) -> Iterator[tuple[jax.Array, Any]]:
        """(rate, batch) until the batches, the steps or the time run out, or Ctrl-C."""
        started = time.perf_counter()
        with self.bar:
            while self.done < self.total and not self.stop.asked:
                self.seconds = time.perf_counter() - started
                spent = max(self.done / self.total, self.seconds / self.limit)
                if spent >= 1:
                    break
                warm = min(1.0, (self.done + 1) / 20)
                batch = next(batches)
                yield jnp.float32(warm * (1 - spent)), batch
                self.done += 1
                self.bar.update()
            self.seconds = time.perf_counter() - started

    def tell(self, value: Any) -> None:
        """The loss of a step."""
        self.losses = [*self.losses[-49:], float(value)]
        self.bar.set_postfix_str(f"loss {np.mean(self.losses):.4f}", refresh=False)

    def cost(self) -> dict[str, float]:
        """What it took."""
        return {"steps": float(self.done), "seconds": self.seconds,
                "loss": float(np.mean(self.losses))}  # fmt: skip


def win_rate(scores: np.ndarray) -> float:
    """Share of pairs whose first score is the higher; ties count one half."""
    chosen, rejected = scores[0::2], scores[1::2]
    return float(np.mean((chosen > rejected) + 0.5 * (chosen == rejected)))


def start(args: argparse.Namespace, stop: Interrupt) -> Tuner:
    """Reads the pairs and makes or loads the base."""
    data = pairs.read(args.pairs, seed=args.seed)
    if args.checkpoint:
        saved = load_model(args.checkpoint)
        counted = str(Path(args.pairs).resolve()) in saved.files
        return Tuner(args, stop, data, (saved.state, saved.config, saved.vocabulary), counted)
    base = train_base(args, data)
    if args.save_base:
        save(args.save_base, args, *base)
    return Tuner(args, stop, data, base, counted=True)


def save(directory: str, args: argparse.Namespace, state: Any, config: Any, words: Any) -> None:
    """A model, as train_lm.py saves one."""
    about = argparse.Namespace(files=[args.pairs, *args.files])
    train_lm.save_model(directory, config, words, about)
    checkpoint.save(directory, state, step=0, extra={}, keep=1)
