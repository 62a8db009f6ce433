"""Training a language model in several passes: the memory starts empty in each."""

from __future__ import annotations

import jax
import numpy as np
import pytest

from sparse_jax.commands.lm import report
from sparse_jax.commands.lm import train as train_lm
from sparse_jax.lm import training
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


@pytest.mark.parametrize(("each", "passes"), [(11.0, 1), (4.9, 1), (4.6, 2), (1.0, 4)])
def test_as_many_passes_begin_as_time_allows(text, each, passes, capsys):
    """Decided halfway through the first, with a twentieth to spare, whatever comes later."""
    run = make_run(text, *SMALL, "--epochs", "4", "--max-seconds", "10")
    assert run._passes() == 4
    half = (run.per_epoch + 1) // 2
    run.clock.step, run.clock.seconds = half, each * half / run.per_epoch
    left = 1 - half / (passes * run.per_epoch)
    assert run._scale(half, 0.0) == pytest.approx(left, abs=0.05)
    assert (f"time allows {passes} of 4 passes" in capsys.readouterr().out) == (passes < 4)
    run.clock.step, run.clock.seconds = run.per_epoch, 9.0
    for begun in range(1, 5):
        found = next(run._batches(begun * run.per_epoch), None)
        assert (found is None) == (begun >= passes) or begun == 4


def test_a_checkpoint_of_passes_over_one_memory_is_refused(text, tmp_path, monkeypatch):
    run = make_run(text, *SMALL, "--checkpoint", str(tmp_path), "--resume")
    former = {"data": run.data.record.as_json(), "args": {}}
    monkeypatch.setattr(train_lm, "read_checkpoint", lambda path: former)
    with pytest.raises(ValueError, match="earlier version, whose passes shared one memory"):
        run.start()


@pytest.mark.parametrize(
    ("step", "share"), [(0, None), (7, None), (10, None), (11, "10%"), (19, "90%"), (30, None)]
)
def test_a_later_pass_that_is_cut_short_is_told(step, share):
    told = report.unfilled_memory(step, 10)
    assert told is None if share is None else share in told
