"""Training a language model in several passes: the memory starts empty in each."""

from __future__ import annotations

import types

import jax
import numpy as np
import pytest

from sparse_jax.commands.lm import report
from sparse_jax.commands.lm import train as train_lm
from sparse_jax.lm import evaluate, training
from sparse_jax.lm.text import python_topics
from sparse_jax.runtime.checkpoint import read_extra

SMALL = ["--rows", "5000", "--hidden", "32", "--active", "256", "--batch-size", "256"]


@pytest.fixture(scope="module")
def text(tmp_path_factory) -> str:
    path = tmp_path_factory.mktemp("text") / "topics.txt"
    path.write_text("\f".join(python_topics()[:25])[:25_000], encoding="utf-8")
    return str(path)


def make_run(*argv: str) -> train_lm.Run:
    args = train_lm.parse_args([*argv])
    return train_lm.Run(args, train_lm.load(args))


class StopAt:
    """Stands for Ctrl-C that comes when so many steps are done."""

    asked = True

    def __init__(self, run: train_lm.Run, step: int) -> None:
        self.run, self.step = run, step

    @property
    def ended(self) -> bool:
        return self.run.clock.step == self.step

    def __enter__(self) -> StopAt:
        return self

    def __exit__(self, *error: object) -> None:
        pass


@pytest.mark.slow
def test_a_run_stopped_at_the_end_of_a_pass_or_behind_it_resumes_to_the_same_bits(
    text, tmp_path, monkeypatch
):
    options = [text, *SMALL, "--epochs", "2", "--checkpoint"]
    whole = make_run(*options, f"{tmp_path}/whole")
    whole.start()
    whole.fit()
    for behind in (0, 1):
        folder = f"{tmp_path}/{behind}"
        first = make_run(*options, folder)
        first.start()
        stop = StopAt(first, first.per_epoch + behind)
        monkeypatch.setattr(train_lm, "Interrupt", lambda stop=stop: stop)
        assert first.fit()
        monkeypatch.undo()
        extra = read_extra(folder)
        assert extra is not None and extra["clock"]["step"] == first.per_epoch + behind
        second = make_run(*options, folder, "--resume")
        second.start()
        assert not second.fit()
        assert train_lm.weights_sha256(second.state) == train_lm.weights_sha256(whole.state)


@pytest.mark.slow
def test_the_memory_is_emptied_once_before_each_later_pass(text, monkeypatch):
    emptied = []

    def empty(state):
        emptied.append(int(state.step))
        return training.LMState(
            **(vars(state) | {"memory": jax.tree.map(np.zeros_like, state.memory)})
        )

    monkeypatch.setattr(training, "empty_memory", empty)
    run = make_run(text, *SMALL, "--epochs", "3")
    run.start()
    run.fit()
    assert emptied == [run.per_epoch, 2 * run.per_epoch]
    # What is counted at the end is one pass: each token once in each order that had a row.
    assert int(np.asarray(run.state.memory.counts).max()) <= run.data.train.tokens.size


def test_no_pass_begins_that_time_does_not_allow(text):
    run = make_run(text, *SMALL, "--epochs", "4", "--max-seconds", "10")
    run.clock.step, run.clock.seconds = run.per_epoch, 5.0
    assert next(run._batches(run.per_epoch), None) is not None
    run.clock.seconds = 5.1
    assert next(run._batches(run.per_epoch), None) is None
    run.clock.step += 1  # a pass that is begun goes on
    assert next(run._batches(run.per_epoch + 1), None) is not None
    run.clock.step, run.clock.seconds = 3 * run.per_epoch, 7.6
    assert next(run._batches(3 * run.per_epoch), None) is None


def test_the_rate_ends_with_the_last_pass_that_time_allows(text):
    run = make_run(text, *SMALL, "--epochs", "4", "--max-seconds", "10")
    late = run.per_epoch - 1
    assert run._scale(late, 6.0) < 2 / run.per_epoch  # one pass
    assert run._scale(late, 4.5) == pytest.approx(0.5, abs=0.1)  # two
    assert run._scale(late, 1.0) == pytest.approx(0.75, abs=0.1)  # four
    assert run._scale(late // 2, 9.0) == pytest.approx(0.1, abs=0.01)  # less than one


def test_patience_looks_at_one_pass_alone(text, monkeypatch):
    """A pass begins with an empty memory, so its first looks are worse than the last's end."""
    run = make_run(text, *SMALL, "--epochs", "2", "--patience", "2")
    run.state = types.SimpleNamespace(params=None, memory=None, lsh=None)
    steps = [run.per_epoch - 1, run.per_epoch, run.per_epoch + 1, run.per_epoch + 2]
    seen = dict(
        zip([*steps, steps[-1] + 1, steps[-1] + 2], [9.0, 8.0, 20.0, 15.0, 16.0, 17.0], strict=True)
    )
    monkeypatch.setattr(
        evaluate, "score", lambda *_, **__: types.SimpleNamespace(perplexity=seen[run.clock.step])
    )
    told = []
    for run.clock.step in seen:
        told.append(run._validate(types.SimpleNamespace(write=lambda _: None), run.state))
    assert told == [False] * 5 + [True]


@pytest.mark.parametrize(
    ("step", "share"), [(0, None), (7, None), (10, None), (11, "10%"), (19, "90%"), (30, None)]
)
def test_a_later_pass_that_is_cut_short_is_told(step, share):
    told = report.unfilled_memory(step, 10)
    assert told is None if share is None else share in told and "--resume" in told
