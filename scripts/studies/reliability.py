"""What becomes of data when processes are killed, disks are full, and many come at once.

    python scripts/studies/reliability.py                  # all of it: about half an hour
    python scripts/studies/reliability.py kills --kills 200
    python scripts/studies/reliability.py disk locks serve --seconds 60

The last line is one JSON object; docs/reliability.md says what was found. The part `disk` mounts a
small file system in memory, which takes root; without, it is left out, and tests/fuzz/test_disk.py
has it by a layer of its own.
"""

from __future__ import annotations

import argparse
import dataclasses
import http.client
import json
import os
import random
import subprocess
import sys
import tempfile
import threading
import time
import urllib.parse
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import reliability_kills as kills
import reliability_sharded as sharded
import reliability_training as training

from sparse_jax import search, xmc

PARTS = ("kills", "disk", "locks", "serve")
# Kinds of kills, and their shares.
KINDS = {
    kills.kill_changes: 35,
    kills.kill_search: 35,
    training.kill_train: 25,
    training.kill_update: 25,
    training.kill_network: 20,
    training.kill_lm: 60,
    sharded.kill_sharded: 20,
}


def study_kills(folder: Path, count: int, seed: int) -> dict[str, Any]:
    """All kinds of kills, in all about `count`."""
    found = {}
    for kill, share in KINDS.items():
        place = folder / kill.__name__
        place.mkdir()
        started = time.monotonic()
        tally = kill(place, max(1, round(count * share / sum(KINDS.values()))), random.Random(seed))
        found[tally.kind] = dataclasses.asdict(tally) | {"seconds": time.monotonic() - started}
        print(f"{tally.kind}: {found[tally.kind]}", flush=True)
    return found


# A disk that is full, or can't be written ---------------------------------------------------------


@contextmanager
def small_disk(place: Path, megabytes: int) -> Iterator[Path]:
    """A file system in memory of so many megabytes."""
    place.mkdir()
    subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", str(place)], check=True
    )
    try:
        yield place
    finally:
        subprocess.run(["umount", str(place)], check=True)


def inputs(folder: Path) -> dict[str, Path]:
    """Small files for every command."""
    training.write_points(folder / "a.txt", 20, 400, 0)
    training.write_points(folder / "more.txt", 22, 60, 1)
    kills.first_documents(folder)
    rows = [{"id": f"m{i}", "text": f"more text {i} " * 40} for i in range(40)]
    (folder / "more.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "a.text").write_text("\n\n".join("the red apple falls far from the tree." * 200))
    return {name.name: name for name in folder.iterdir()}


def writers(files: dict[str, Path], disk: Path) -> dict[str, list[object]]:
    """Commands that write below `disk`, by name; the first three need an index or a model there."""
    small = "--rows 2048 --hidden 16 --active 8 --batch-size 128 --min-count 1".split()
    network = "--hidden 16 --active 20 --batch-size 64 --epochs 1".split()
    return {
        "search index (more)": ["search", "index", disk / "i", files["more.jsonl"], "--replace"],
        "search upvote": ["search", "upvote", disk / "i", "something else", "d3"],
        "xmc update": ["xmc", "update", disk / "m", files["more.txt"]],
        "search save": ["search", "save", disk / "i"],
        "search index (new)": ["search", "index", disk / "new", files["more.jsonl"], "--replace"],
        "xmc train": ["xmc", "train", files["a.txt"], "--model", disk / "m", "--seed", 1],
        "xmc train --checkpoint": [
            *("xmc", "train", files["a.txt"], *network, "--checkpoint", disk / "c")
        ],
        "lm train": ["lm", "train", files["a.text"], *small, "--checkpoint", disk / "l"],
    }


def tell(args: Sequence[object]) -> subprocess.CompletedProcess[str]:
    """Runs a command, whatever comes of it."""
    return subprocess.run(kills.command(*args), capture_output=True, text=True)


def check_whole(disk: Path) -> None:
    """Fails unless the index and the model that were there first can be used."""
    with search.load(disk / "i", read_only=True) as index:
        assert index.get("d0").text and index.search("first text", k=1)
    xmc.load(disk / "m")


def refusals(disk: Path, files: dict[str, Path], name: str, free: int | None) -> dict[str, Any]:
    """One command on a disk with so many bytes left, or on one that is read only (None)."""
    args = writers(files, disk)[name]
    if free is None:
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    else:
        there = os.statvfs(disk)
        (disk / "filler").write_bytes(bytes(max(there.f_bavail * there.f_bsize - free, 0)))
    first = tell(args)
    told = first.stderr.strip().splitlines()
    check_whole(disk)
    readers = (["search", "query", disk / "i", "first"], ["xmc", "predict", disk / "m"])
    asked = [tell(readers[0]), tell([*readers[1], files["a.txt"]])]
    if free is None:
        subprocess.run(["mount", "-o", "remount,rw", str(disk)], check=True)
    else:
        (disk / "filler").unlink()
    again = tell(args)
    check_whole(disk)
    return {
        "command": name,
        "free": free,
        "status": first.returncode,
        "told": told[-1] if told else "",
        "traceback": "Traceback" in first.stderr,
        "others_read": all(done.returncode == 0 for done in asked),
        "again": again.returncode,
        "again_told": again.stderr.strip()[-200:] if again.returncode else "",
    }


def study_disk(folder: Path) -> list[dict[str, Any]]:
    """Every command that writes, on a full disk and on a read-only one."""
    files = inputs(folder)
    found = []
    for name in writers(files, folder):
        for free in (0, 8 << 10, 200 << 10, None):
            with small_disk(folder / "disk", 40) as disk:
                for args in (
                    ["search", "index", disk / "i", files["first.jsonl"]],
                    ["xmc", "train", files["a.txt"], "--model", disk / "m"],
                ):
                    kills.run(*args)
                found.append(refusals(disk, files, name, free))
            (folder / "disk").rmdir()
            print(found[-1], flush=True)
    return found


# Two processes -----------------------------------------------------------------------------------

HOLD = """
import sys, time
from sparse_jax import search
from sparse_jax.runtime.lock import locked
place = sys.argv[1]
with search.load(place) if place.endswith("i") else locked(place):
    print("held", flush=True)
    time.sleep(600)
"""


def study_locks(folder: Path) -> list[dict[str, Any]]:
    """Every command that writes, where another process holds the directory."""
    files = inputs(folder)
    kills.run("search", "index", folder / "i", files["first.jsonl"])
    kills.run("xmc", "train", files["a.txt"], "--model", folder / "m")
    found = []
    for name, args in writers(files, folder).items():
        if name == "search index (new)":
            continue
        place = next(str(x) for x in args if str(x) in {f"{folder}/{n}" for n in "imcl"})
        with kills.started([sys.executable, "-c", HOLD, place], folder / "errors.txt") as holder:
            assert holder.stdout is not None and holder.stdout.readline() == "held\n"
            done = tell(args)
            told = done.stderr.strip()
            found.append(
                {
                    "command": name,
                    "status": done.returncode,
                    "told": told,
                    "names_process": str(holder.pid) in told,
                }
            )
        print(found[-1], flush=True)
    return found


# Many at once ------------------------------------------------------------------------------------


def study_serve(folder: Path, clients: int, seconds: float) -> dict[str, Any]:
    """Clients that ask the page and the JSON service without a pause."""
    documents = [{"id": f"d{i}", "text": f"text {i} about {i % 97}"} for i in range(2000)]
    path = folder / "documents.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in documents))
    kills.run("search", "index", folder / "i", path)
    times: list[float] = []
    errors: list[str] = []
    lock = threading.Lock()

    def ask(number: int, port: int, end: float) -> None:
        rng, own, wrong = random.Random(number), [], []
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        while time.monotonic() < end:
            query = f"text {rng.randrange(2000)} about {rng.randrange(97)}"
            page = rng.random() < 0.5
            started = time.monotonic()
            try:
                if page:
                    connection.request("GET", "/?q=" + urllib.parse.quote(query))
                else:
                    connection.request("POST", "/search", json.dumps({"queries": [query]}))
                answer = connection.getresponse()
                body = answer.read()
                if answer.status != 200 or not body:
                    wrong.append(f"{answer.status}: {body[:100]!r}")
            except (OSError, http.client.HTTPException) as error:
                wrong.append(repr(error))
                connection.close()
            own.append(time.monotonic() - started)
        connection.close()
        with lock:
            times.extend(own)
            errors.extend(wrong)

    args = kills.command("serve", folder / "i", "--port", 0)
    with kills.started(args, folder / "errors.txt") as server:
        assert server.stdout is not None
        line = server.stdout.readline()
        port = int(line.split(":")[2].split("/")[0])
        began = time.monotonic()
        threads = [
            threading.Thread(target=ask, args=(n, port, began + seconds)) for n in range(clients)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        took = time.monotonic() - began
    milliseconds = 1e3 * np.array(times)
    return {
        "clients": clients,
        "seconds": took,
        "requests": len(times),
        "errors": len(errors),
        "first_errors": errors[:3],
        "a_second": len(times) / took,
        **{f"p{q}_ms": float(np.percentile(milliseconds, q)) for q in (50, 95, 99)},
        "max_ms": float(milliseconds.max()),
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the study; returns the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)} (all)")
    parser.add_argument("--kills", type=int, default=200, help="in all (200)")
    parser.add_argument("--clients", type=int, default=50, help="of the server (50)")
    parser.add_argument("--seconds", type=float, default=60, help="of the clients (60)")
    parser.add_argument("--seed", type=int, default=0, help="of the moments of kills (0)")
    args = parser.parse_args(argv)
    unknown = set(args.parts) - set(PARTS)
    if unknown:
        parser.error(f"{', '.join(sorted(unknown))}: must be of {', '.join(PARTS)}")
    here = str(Path(__file__).parent)
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [here, os.environ.get("PYTHONPATH")]))
    results: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", f"{folder}/compiled")
        os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
        studies = {
            "kills": lambda place: study_kills(place, args.kills, args.seed),
            "disk": study_disk,
            "locks": study_locks,
            "serve": lambda place: study_serve(place, args.clients, args.seconds),
        }
        for part in args.parts or PARTS:
            place = Path(folder, part)
            place.mkdir()
            started = time.monotonic()
            results[part] = studies[part](place)
            print(f"{part}: {time.monotonic() - started:.0f} s", flush=True)
    print(json.dumps(results))
    return 0


if __name__ == "__main__":
    sys.exit(main())
