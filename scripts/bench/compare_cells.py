"""One cell of the table of `compare_xmc.py`: a way on a set with a seed, kept on the disk."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from compare_ours import OURS
from compare_sets import Set

from sparse_jax import data
from sparse_jax.commands.xmc import train as train_xmc
from sparse_jax.runtime import files
from sparse_jax.xmc import metrics

HERE = Path(__file__).resolve().parent
PEERS = {  # and their package
    "Parabel": "omikuji",
    "Bonsai": "omikuji",
    "XR-Linear": "pecos",
    "neighbours": "scipy",
}
SEEDLESS = ("neighbours",)
KS = (1, 3, 5, 10)


class Failed(Exception):
    """A way that gave no figures, and why."""


@dataclasses.dataclass(frozen=True)
class Store:
    """Cells in one directory: SET/WAY/SEED.json; a cell of other files than the set's is none."""

    directory: Path

    def path(self, name: str, way: str, seed: int) -> Path:
        """Where a cell is kept."""
        return self.directory / name / re.sub(r"\W+", "-", way) / f"{seed}.json"

    def read(self, name: str, digest: str, way: str, seed: int) -> dict[str, Any] | None:
        """A cell that counts, or None."""
        path = self.path(name, way, seed)
        if not path.exists():
            return None
        cell = json.loads(path.read_text(encoding="utf8"))
        return cell if cell["set"] == digest else None

    def write(self, name: str, way: str, seed: int, cell: dict[str, Any]) -> None:
        """Keeps a cell, whole or not at all."""
        files.write_json(self.path(name, way, seed), cell)


def interpreters(peers: Sequence[str], pythons: Sequence[str]) -> tuple[dict[str, str], list[str]]:
    """(The interpreter of each peer that can be had, a line for each that cannot)."""
    found: dict[str, str] = {}
    absent = []
    for way in peers:
        for python in [sys.executable, *pythons]:
            asked = [python, "-c", f"import numpy, {PEERS[way]}"]
            try:
                status = subprocess.run(asked, capture_output=True).returncode
            except OSError as error:
                raise ValueError(
                    f"--peers-python {python}: must be an interpreter ({error.strerror})"
                ) from error
            if not status:
                found[way] = python
                break
        else:
            absent.append(
                f"{way}: cannot be had, {PEERS[way]} is in none of "
                f"{', '.join([sys.executable, *pythons])}; --peers-python names another"
            )
    return found, absent


def prepare(chosen: Set, directory: Path) -> None:
    """The files that peers read and what predictions are measured by, weighted as ours are."""
    train, test = train_xmc.load_weighted([str(chosen.train), str(chosen.test)])
    directory.mkdir()
    data.write_xmc(directory / "train.txt", train)
    np.savez(
        directory / "train.npz",
        values=train.feature_values,
        ids=train.feature_ids,
        offsets=train.feature_offsets,
        shape=(train.num_points, train.num_features),
        labels=train.label_ids,
        label_offsets=train.label_offsets,
        label_shape=(train.num_points, train.num_labels),
    )
    np.savez(
        directory / "test.npz",
        values=test.feature_values,
        ids=test.feature_ids,
        offsets=test.feature_offsets,
        n=test.num_points,
    )
    most = max(train.num_labels, test.num_labels)
    inverse = metrics.inverse_propensities(train.label_offsets, train.label_ids, most)
    np.savez(
        directory / "truth.npz", offsets=test.label_offsets, ids=test.label_ids, inverse=inverse
    )


def run(
    way: str, chosen: Set, directory: Path, *, python: str, seed: int, max_seconds: float | None
) -> dict[str, Any]:
    """One way in a process of its own.

    Args:
        way: of ours or a peer.
        chosen: the set.
        directory: of `prepare`; the process writes there, too.
        python: the interpreter.
        seed: of the way.
        max_seconds: the process is ended after this long.

    Returns:
        "p@k", "r@k", "ndcg@k", "psp@k", "train_seconds", "predict_us", "peak_rss_bytes" and
        "model_bytes".

    Raises:
        Failed: the process failed, or took longer.
    """
    if way in OURS:
        named = [str(path or "-") for path in (chosen.labels, chosen.words)]
        place = [str(chosen.train), str(chosen.test), str(directory), str(seed)]
        command = [python, str(HERE / "compare_ours.py"), way, *place, *named]
    else:
        command = [python, str(HERE / "compare_peer.py"), way, str(directory), str(seed)]
    (directory / "predicted.npz").unlink(missing_ok=True)
    _call(command, directory / "log.txt", max_seconds)
    with np.load(directory / "predicted.npz") as z:
        predicted, figures = z["predicted"], json.loads(str(z["figures"]))
    with np.load(directory / "truth.npz") as z:
        ks = [k for k in KS if k <= predicted.shape[1]]
        scores = metrics.evaluate(predicted, z["offsets"], z["ids"], z["inverse"], ks=ks)
    return scores | figures


def _call(command: list[str], log: Path, max_seconds: float | None) -> None:
    """Runs a command in a session of its own, which ends with this process' wait for it."""
    beside = [str(HERE.parents[1]), os.environ.get("PYTHONPATH", "")]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, beside))}
    with open(log, "wb") as output:
        process = subprocess.Popen(
            command, stdout=output, stderr=output, env=environment, start_new_session=True
        )
        try:
            status = process.wait(max_seconds)
        except subprocess.TimeoutExpired:
            raise Failed(f"took longer than {max_seconds:g} s") from None
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
    if status < 0:
        raise Failed(f"was ended by signal {-status}: if that was not you, memory ran out")
    if status:
        said = log.read_text(encoding="utf8", errors="replace").strip().splitlines()
        raise Failed(f"ended with status {status}: {said[-1] if said else 'it said nothing'}")
