"""One run of finetune_preference.py: the base model, then each method from it."""

from __future__ import annotations

import argparse
import dataclasses
import functools
import itertools
import sys
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from tqdm import tqdm

from sparse_jax import lm, optim
from sparse_jax.lm import batching, evaluate, text
from sparse_jax.lm.batching import Batch
from sparse_jax.lm.preference import dpo, pairs, policy, reward, tuning
from sparse_jax.optim import rates
from sparse_jax.runtime import loop
from sparse_jax.runtime.interrupt import Interrupt

PAIRS, PROMPTS, ANSWERS = 12, 8, 4  # of a step: pairs; prompts of the policy gradient, answers each
MEMORY_LEARNING_RATE, REWARD_LEARNING_RATE = 0.1, 2e-2
WARMUP = 20  # steps
LOOK_EVERY, LATEST = 10, 5  # steps between looks; looks that the reported loss is a mean of
ORDINARY, ANCHOR = 8, 2.0  # runs of ordinary text beside DPO's pairs, and their weight
RLOO_STEPS = 100
MAX_TEST = 1000  # pairs that judge
SHOWN = 8  # pairs that a note names


class Tuner:
    """The base model, the encoded pairs, and what each method makes of them."""

    def __init__(
        self,
        args: argparse.Namespace,
        stop: Interrupt,
        data: pairs.Preferences,
        base: lm.LanguageModel,
        counted: bool,
    ) -> None:
        self.args, self.stop, self.counted = args, stop, counted
        self.base, self.config, self.vocabulary = base, base.config, base.vocabulary
        size = {"history": self.config.history, "length": args.length}
        order = np.random.default_rng(args.seed).permutation(len(data.test))[:MAX_TEST]
        judges = [data.test[i] for i in order]
        self.train, self.prompts = pairs.encode(data.train, self.vocabulary, **size)
        self.test, self.test_prompts = pairs.encode(judges, self.vocabulary, **size)
        self.alike = {
            "train_pairs_alike": self._alike("to learn from", self.train, data.train),
            "test_pairs_alike": self._alike("to be judged by", self.test, judges),
        }
        self.text = text.encode_corpus(self.vocabulary, data.texts)
        self.ordinary = text.encode_corpus(self.vocabulary, data.held_out)
        self.tx = optim.rowwise(optax.scale_by_adam())
        self.policy = tuning.init_policy(self.base, self.tx, seed=args.seed)
        self.before = self._log_probs()
        self.perplexity = self._perplexity()

    def about(self) -> dict[str, Any]:
        """What the figures are of."""
        return {
            "seed": self.args.seed,
            "train_pairs": len(self.prompts),
            "test_pairs": len(self.test_prompts),
            **self.alike,
            "vocabulary": self.config.vocabulary,
            "perplexity_before": self.perplexity,
            "unknown_share": self.ordinary.unknown_share,
        }

    def _alike(self, what: str, batch: Batch, given: Sequence[pairs.Pair]) -> int:
        """How many pairs have one answer twice, which is told; that all have is refused."""
        found = np.flatnonzero(pairs.alike(batch)).tolist()
        if not found:
            return 0
        why = Counter(self._why_alike(given[i]) for i in found)
        reasons = ", ".join(f"{count} {reason}" for reason, count in why.most_common())
        lines = [str(given[i].line or repr(given[i].prompt[:40])) for i in found[:SHOWN]]
        more = ", …" if len(found) > SHOWN else ""
        message = (
            f"{len(found):,} of {len(given):,} pairs {what} have two answers that are alike "
            f"({reasons}): lines {', '.join(lines)}{more}"
        )
        if len(found) == len(given):
            raise ValueError(f"{message}; raise --length, or give other pairs")
        print(f"note: {message}: they teach nothing and count as draws", file=sys.stderr)
        return len(found)

    def _why_alike(self, pair: pairs.Pair) -> str:
        if pair.chosen.split() == pair.rejected.split():
            return "are the same text"
        one, other = (self.vocabulary.encode(answer) for answer in (pair.chosen, pair.rejected))
        if np.array_equal(one, other):
            return "differ in unknown words only"
        return f"differ after --length {self.args.length} tokens only"

    # Figures -------------------------------------------------------------------------------------

    def _log_probs(self) -> np.ndarray:
        return tuning.log_probs(
            self.policy.params, self.policy.memory, self.test, config=self.config
        )

    def _perplexity(self) -> float:
        return evaluate.score(
            self.policy.params,
            self.policy.memory,
            self.ordinary,
            max_batches=100,
            config=self.config,
        ).perplexity

    def _log_prob_wins(self, log_p: np.ndarray) -> float:
        return win_rate(log_p / np.sum(self.test.since >= 0, axis=1))

    def _draw(self, seed: int) -> Any:
        """Answers of the policy to held-out prompts."""
        return policy.draw(
            self.policy.params,
            self.policy.memory,
            self.test_prompts[:128],
            answers=1,
            length=self.args.length,
            seed=seed,
            config=self.config,
        )

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

    def _train(
        self, name: str, state: Any, step: Any, batches: Iterator[Any], total: int
    ) -> tuple[Any, dict[str, float]]:
        """Runs step(state, batch, scale) with a bar: (state, what it took)."""
        clock = loop.Clock()
        latest: deque[loop.Look] = deque(maxlen=LATEST)
        bar = tqdm(total=total, desc=name, unit="step", disable=None, dynamic_ncols=True)

        def scale() -> np.float32:
            found = rates.scale(
                clock.step,
                steps=total,
                warmup=WARMUP,
                seconds=clock.now,
                max_seconds=self.args.max_seconds,
            )
            return np.float32(found)

        def scaled(_: int) -> Iterator[tuple[np.float32, Any]]:
            while True:
                now = scale()  # before the batch: drawing the first one compiles for seconds
                batch = next(batches, None)
                if batch is None:
                    return
                yield now, batch

        def look(seen: loop.Look) -> None:
            latest.append(seen)
            bar.set_postfix_str(f"loss {mean_loss(latest):.4f}", refresh=False)
            bar.update(seen.steps)

        with bar:
            state, _ = loop.train(
                state,
                lambda state, pair: step(state, pair[1], pair[0]),
                scaled,
                steps=total,
                clock=clock,
                max_seconds=self.args.max_seconds,
                interrupt=self.stop,
                look=look,
                look_every=LOOK_EVERY,
            )
        cost = {"steps": float(clock.step), "seconds": clock.seconds}
        return state, cost | ({"loss": mean_loss(latest)} if latest else {})

    def fit_reward(self) -> dict[str, float]:
        """A reward model on the base's word vectors."""
        tx = optim.rowwise(optax.scale_by_adam())
        embed = self.policy.params["embed"]
        state = reward.init_state(tx, width=self.config.embed)
        run = jax.jit(reward.make_step(tx, learning_rate=REWARD_LEARNING_RATE), donate_argnums=0)

        def step(state: reward.RewardState, batch: Batch, scale: np.float32) -> Any:
            return run(state, reward.RewardBatch(embed, *batch, scale))

        total = self._steps(self.args.epochs)
        state, cost = self._train("reward", state, step, self._pair_batches(), total)
        self.judge = state.params
        scores = reward.score(self.judge, embed, self.test)
        self.scale = float(np.std(scores)) or 1.0
        return {
            "win_rate_before": self._log_prob_wins(self.before),
            "win_rate_after": win_rate(scores),
            **cost,
        }

    def _fit_policy(
        self, name: str, loss: Any, batches: Iterator[Any], total: int, counted: bool
    ) -> dict[str, float]:
        self._rewind()
        run = jax.jit(
            tuning.make_step(
                loss,
                self.tx,
                unigram=self.base.unigram,
                popular=self.base.popular,
                learning_rate=self.args.lr,
                memory_learning_rate=MEMORY_LEARNING_RATE,
                counted=counted,
                config=self.config,
            ),
            donate_argnums=0,
        )

        def step(state: tuning.Policy, batch: tuple[Batch, Any], scale: np.float32) -> Any:
            runs, extra = batch
            state = tuning.make_room(state, runs.since.size, config=self.config)
            # The next batch may be drawn from the policy, whose old arrays are gone.
            self.policy, metrics = run(state, tuning.TuningBatch(*runs, scale, (extra,)))
            return self.policy, metrics

        self.policy, cost = self._train(name, self.policy, step, batches, total)
        return self._tuned_figures() | cost

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
        """Policy gradient on the rewards of the reward model."""
        self._rewind()
        embed = jnp.copy(self.policy.params["embed"])  # the policy moves its array
        judged = lambda batch: reward.score(self.judge, embed, batch) / self.scale  # noqa: E731
        before = float(np.mean(judged(self._draw(self.args.seed + 2))))
        rng = np.random.default_rng(self.args.seed)

        def batches() -> Iterator[Any]:
            for number in itertools.count():
                chosen = rng.integers(len(self.prompts), size=PROMPTS)
                drawn = policy.draw(
                    self.policy.params,
                    self.policy.memory,
                    [self.prompts[i] for i in chosen],
                    answers=ANSWERS,
                    length=self.args.length,
                    seed=self.args.seed * 1_000_003 + number,
                    config=self.config,
                )
                yield drawn, jnp.asarray(judged(drawn))

        loss = functools.partial(policy.loss, beta=self.args.beta, answers=ANSWERS)
        figures = self._fit_policy("rloo", loss, batches(), RLOO_STEPS, False)
        after = float(np.mean(judged(self._draw(self.args.seed + 2))))
        return {"reward_before": before, "reward_after": after} | figures

    def _rewind(self) -> None:
        """Back to the reference."""
        back = tuning.swap(self.policy)
        self.policy = tuning.init_policy(self._model(back), self.tx, seed=self.args.seed)

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
                self.text,
                ORDINARY,
                self.args.length,
                self.config.history,
                seed=self.args.seed,
                epoch=epoch,
            )

    def tuned(self) -> lm.LanguageModel:
        """The model as it now is."""
        return self._model(self.policy)

    def _model(self, state: Any) -> lm.LanguageModel:
        """The base with other weights."""
        return dataclasses.replace(self.base, params=state.params, memory=state.memory)


def mean_loss(looks: Iterable[loop.Look]) -> float:
    """Mean loss over the steps of some looks.

    Example:
      >>> two = loop.Look(2, 3, 0.0, {"loss": 2.0}, steps=2, interval=0.0)
      >>> one = loop.Look(3, 3, 0.0, {"loss": 5.0}, steps=1, interval=0.0)
      >>> mean_loss([two, one])
      3.0
    """
    looks = list(looks)
    total = sum(look.metrics["loss"] * look.steps for look in looks)
    return total / sum(look.steps for look in looks)


def win_rate(scores: np.ndarray) -> float:
    """Share of pairs whose first score is the higher; ties count one half."""
    chosen, rejected = scores[0::2], scores[1::2]
    return float(np.mean((chosen > rejected) + 0.5 * (chosen == rejected)))
