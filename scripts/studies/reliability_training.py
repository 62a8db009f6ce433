"""`kill -9` of commands that train: what is left is a whole model, and a run that can go on."""

from __future__ import annotations

import hashlib
import json
import random
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from reliability_kills import Tally, command, kill_while_it_runs, listing, run

from sparse_jax import data, lm, xmc


def write_points(path: Path, labels: int, points: int, seed: int) -> data.XmcData:
    """Points that a linear model tells apart."""
    rng = np.random.default_rng(seed)
    lines = []
    for _ in range(points):
        label = int(rng.integers(labels))
        words = {10 * label + int(i) for i in rng.integers(0, 10, 6)} | {10 * labels}
        lines.append(f"{label} " + " ".join(f"{w}:1" for w in sorted(words)))
    path.write_text(f"{points} {10 * labels + 1} {labels}\n" + "\n".join(lines) + "\n")
    return data.read_xmc(path)


def digest(place: Path, points: data.XmcData) -> str:
    """What a kept classifier predicts; it fails if the model is not whole."""
    model = xmc.load(place)
    points = data.with_sizes(points, model.num_features, model.num_labels)
    found = hashlib.sha256()
    for array in xmc.predict(model, points, k=3):
        found.update(np.asarray(array).tobytes())
    return found.hexdigest()


def kill_writer(
    tally: Tally,
    make: Callable[[int], list[str]],
    place: Path,
    points: data.XmcData,
    kills: int,
    rng: random.Random,
) -> Tally:
    """A command that replaces a model: after each kill the one before is whole, or the new one."""
    right = {}
    for n in range(2):
        started_at = time.monotonic()
        subprocess.run(make(n), check=True, capture_output=True)
        seconds = time.monotonic() - started_at  # the second time it is compiled
        right[n] = digest(place, points)
    there = 1
    while tally.kills < kills:
        n += 1
        printed = kill_while_it_runs(tally, make(n % 2), place, seconds, rng)
        acknowledged = "kept in" in printed
        tally.acknowledged += acknowledged
        found = digest(place, points)
        known = (n % 2,) if acknowledged else (there, n % 2)
        tally.check(found in {right[i] for i in known}, "another model than before and after")
        there = n % 2 if found == right[n % 2] else there
    return tally


def kill_train(folder: Path, kills: int, rng: random.Random) -> Tally:
    """`xmc train` over the model of another seed."""
    points = write_points(folder / "a.txt", 20, 400, 0)
    place = folder / "model"

    def make(n: int) -> list[str]:
        return command("xmc", "train", folder / "a.txt", "--model", place, "--seed", n)

    return kill_writer(Tally("xmc train"), make, place, points, kills, rng)


def kill_update(folder: Path, kills: int, rng: random.Random) -> Tally:
    """`xmc update` from one model into the place of another one."""
    points = write_points(folder / "a.txt", 20, 400, 0)
    write_points(folder / "more.txt", 22, 60, 1)
    base, place = folder / "base", folder / "model"
    run("xmc", "train", folder / "a.txt", "--model", base)

    def make(n: int) -> list[str]:
        more = ["--output", place, "--seed", n]
        file = folder / ("more.txt" if n else "a.txt")
        return command("xmc", "update", base, file, *more)

    return kill_writer(Tally("xmc update"), make, place, points, kills, rng)


def kill_run(
    tally: Tally,
    args: list[object],
    place: Path,
    kills: int,
    rng: random.Random,
    whole: Callable[[], bool],
) -> Tally:
    """A training run killed again and again, and resumed: it ends as if it had never been.

    Args:
      tally: of this kind.
      args: the command; its last line of output is JSON with "weights_sha256".
      place: its checkpoints.
      kills: how many.
      rng: chooses the moments.
      whole: is called after each kill, and fails if what is there can't be read.
    """
    for _ in range(2):
        shutil.rmtree(place, ignore_errors=True)
        started_at = time.monotonic()
        right = json.loads(run(*args).splitlines()[-1])["weights_sha256"]
        seconds = time.monotonic() - started_at  # the second time it is compiled
    shutil.rmtree(place)
    begun = False
    while tally.kills < kills:
        more = ["--resume"] if begun else []
        printed = kill_while_it_runs(tally, command(*args, *more), place, seconds, rng)
        errors = (place.parent / "errors.txt").read_text()
        tally.check("Traceback" not in errors, errors[-500:])
        done = [line for line in printed.splitlines() if line.startswith("{")]
        if done:
            tally.acknowledged += 1
            found = json.loads(done[-1])["weights_sha256"]
            tally.check(found == right, "the resumed run's weights are others")
            shutil.rmtree(place)
            begun = False
            continue
        tally.check(whole() or not begun, "the checkpoint is gone")
        tally.check("error:" not in errors, errors[-500:])
        begun = whole()
    return tally


def kill_network(folder: Path, kills: int, rng: random.Random) -> Tally:
    """`xmc train` of a network, with checkpoints."""
    write_points(folder / "a.txt", 20, 400, 0)
    place = folder / "checkpoints"
    options = "--hidden 16 --active 20 --batch-size 16 --epochs 20 --save-every 50".split()
    args = ["xmc", "train", folder / "a.txt", "--test", folder / "a.txt", *options]

    def whole() -> bool:
        return any("_step_" in name and "tmp" not in name for name, _ in listing(place))

    return kill_run(
        Tally("xmc train --resume"), [*args, "--checkpoint", place], place, kills, rng, whole
    )


def kill_lm(folder: Path, kills: int, rng: random.Random) -> Tally:
    """`lm train` with checkpoints."""
    words = "red blue apple pear grows falls near far tree sea".split()
    choice = random.Random(0)
    text = "\n\n".join(" ".join(choice.choices(words, k=9)) + "." for _ in range(400))
    (folder / "a.txt").write_text(text)
    place = folder / "checkpoints"
    options = (
        "--rows 4096 --hidden 16 --active 8 --batch-size 128 --epochs 6 --save-every 60".split()
    )
    args = ["lm", "train", folder / "a.txt", *options, "--checkpoint", place]

    def whole() -> bool:
        if (place / "model.json").exists():
            lm.load(place)
        return any("_step_" in name and "tmp" not in name for name, _ in listing(place))

    return kill_run(Tally("lm train --resume"), args, place, kills, rng, whole)
