"""Real processes over gloo: the parts, the same bits from 1, 2 and 3 of them, saves, failures."""

from __future__ import annotations

import contextlib
import io
import json
import os
import sys
import threading
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
import sharded_checks
import sharded_training

from sparse_jax import sharding as sh
from sparse_jax.commands import launch
from sparse_jax.optim import fused
from sparse_jax.sharding import processes, saves
from sparse_jax.xmc import sharded_step

pytestmark = pytest.mark.slow
HERE = Path(sharded_checks.__file__).parent


def start(monkeypatch: pytest.MonkeyPatch, count: int, *program: str) -> tuple[int, str]:
    """(status, what all but process 0 printed, and the launcher) of a program."""
    path = os.pathsep.join([str(HERE), *sys.path])
    monkeypatch.setenv("PYTHONPATH", path)
    told = io.StringIO()
    with contextlib.redirect_stderr(told), contextlib.redirect_stdout(told):
        address = f"127.0.0.1:{launch.free_port()}"
        status = launch.launch([sys.executable, *program], count, address)
    return status, told.getvalue()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("processes")


@pytest.fixture(scope="module")
def printed(folder: Path) -> dict[int, list[dict[str, Any]]]:
    """What 1, 2 and 3 processes printed, one after the other, with one folder of saves."""
    found = {}
    with pytest.MonkeyPatch.context() as patch:
        for count in (1, 2, 3):
            out = folder / f"out{count}"
            # Process 0 writes to this process's output: a shell leads it into a file.
            program = f"{sys.executable} {HERE / 'sharded_processes.py'} {folder / 'saves'}"
            script = f"import os, sys; f = os.open({str(out)!r} + os.environ['SPARSE_JAX_PROCESS'],"
            script += " os.O_WRONLY | os.O_CREAT); os.dup2(f, 1);"
            script += f" os.execv(sys.executable, {program.split()!r})"
            status, told = start(patch, count, "-c", script)
            assert status == 0, told
            lines = Path(f"{out}0").read_text().splitlines()
            found[count] = [json.loads(line) for line in lines if line.startswith("{")]
    return found


@pytest.mark.parametrize("name", sharded_checks.CHECKS)
def test_parts_over_three_processes(name: str, printed: Any) -> None:
    assert printed[3][0][name] == ""


def test_the_same_bits_from_any_number_of_processes(printed: Any) -> None:
    """Of weights, moments and losses; and each reads what the one before has saved."""
    runs = [printed[count][-1] for count in (1, 2, 3)]
    assert len({run["trained"] for run in runs}) == len({run["held"] for run in runs}) == 1
    assert runs[0]["losses"] == runs[1]["losses"] == runs[2]["losses"]
    assert [run["restored"] for run in runs] == [runs[0]["trained"]] * 3
    assert [run["found"] for run in runs] == [None, runs[0]["trained"], runs[0]["trained"]]


def test_a_save_is_read_by_another_number_of_shards(printed: Any, folder: Path) -> None:
    folder = folder / "saves"
    mesh, given, tx = sh.mesh(1), sharded_training.config(1), fused.adam(1e-2)
    state = sharded_step.init(tx, mesh, config=given)
    lies = sharded_step.dealings(tx, given)
    found = saves.restore(folder, state, lies, mesh)
    assert found is not None and found.extra["losses"] == printed[3][-1]["losses"]
    # The rows are those that six shards hold, by their ids.
    path = folder / f"{saves.last_step(folder):09d}"
    by_six = sharded_training.config(6).labels
    owners, slots = (np.asarray(x) for x in by_six.place(np.arange(203, dtype=np.int32)))
    files = [np.load(path / f"shard-{n:05d}-of-00006.npz") for n in range(6)]
    (name,) = (n for n in files[0].files if n.startswith(".params") and "'output'" in n)
    expected = [files[owner][name][slot] for owner, slot in zip(owners, slots, strict=True)]
    output = sh.gather_rows(sh.ShardedRows(found.state.params["output"], given.labels))
    np.testing.assert_array_equal(output, np.stack(expected))
    other = sharded_step.dealings(tx, sharded_training.config(1, hidden=8))
    small = sharded_step.init(tx, mesh, config=sharded_training.config(1, hidden=8))
    with pytest.raises(ValueError, match=r"doesn't fit: .* was .*; resume with the options"):
        saves.restore(folder, small, other, mesh)
    files[0].close()
    (path / "shard-00004-of-00006.npz").write_bytes(b"PK")
    with pytest.raises(ValueError, match=r"shard-00004-of-00006.npz is missing or damaged"):
        saves.restore(folder, state, lies, mesh)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # NumPy's open file
@pytest.mark.parametrize("damage", ["none", "cut", "later"])
def test_a_damaged_file_of_a_save_is_told_with_a_cure(tmp_path, damage):
    path = tmp_path / "shard-00000-of-00001.npz"
    np.savez(path, rows=np.arange(9))
    content = path.read_bytes()
    if damage == "cut":
        path.write_bytes(content[: len(content) // 2])
    elif damage == "later":  # a version of zip that nobody reads
        path.write_bytes(content.replace(b"PK\1\2", b"PK\1\2\xff\xff\xff"))
    files = saves._Files(tmp_path, 1)
    if damage == "none":
        assert files.load(0, "rows").tolist() == list(range(9))
    else:
        with pytest.raises(ValueError, match=r"is missing or damaged .*: must be there on each"):
            files.load(0, "rows")


@pytest.mark.skipif(not hasattr(os, "SCHED_BATCH"), reason="only Linux has such a policy")
def test_threads_of_exchanges_let_others_finish() -> None:
    """Those alone that came with the exchanges; one that has ended since is no error."""
    before, done = processes._threads(), threading.Event()
    helper = threading.Thread(target=done.wait)
    helper.start()
    try:
        (new,) = processes._threads() - before
        assert new == helper.native_id
        processes._let_others_finish({new})
        assert os.sched_getscheduler(new) == os.SCHED_BATCH
        assert os.sched_getscheduler(0) == os.SCHED_OTHER
    finally:
        done.set()
        helper.join()
    processes._let_others_finish({new})


def test_processes_that_differ_are_refused_before_they_compute(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    program = (
        "import os\n"
        "from sparse_jax import sharding\n"
        "with sharding.hard_exit():\n"
        "    sharding.initialize(options={'hidden': 8 + int(os.environ['SPARSE_JAX_PROCESS'])})\n"
    )
    status, told = start(monkeypatch, 2, "-c", program)
    assert status == 1
    told += capfd.readouterr().err  # of process 0
    assert "options = hidden 9 on process 1, hidden 8 on process 0: must be the same" in told


def test_a_first_process_that_is_gone_is_the_one_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not the one whose word was waited for, nor a time that nobody waited."""

    class Store:
        def key_value_set(self, key: str, value: str) -> None:
            pass

        def blocking_key_value_get(self, key: str, timeout: int) -> str:
            raise jax.errors.JaxRuntimeError("UNAVAILABLE: Socket closed\nmore")

    monkeypatch.setattr(processes, "_client", Store)
    monkeypatch.setattr(processes, "here", lambda: (1, 2))
    with pytest.raises(RuntimeError, match="process 0 of 2 has ended, or can't be reached") as told:
        processes.collect("a test's word", 1)
    assert "300 s" not in str(told.value) and "\n" not in str(told.value)
