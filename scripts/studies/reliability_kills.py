"""`kill -9` at random moments of what writes, and what is left of a search index each time.

Half of the kills come at a random moment of a command, half as soon as a file appears where
it writes, so that they fall into the writing. Each kind goes on with what the kill before left.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from sparse_jax import search

MAIN = "import sys; from sparse_jax.commands.main import main; sys.exit(main(sys.argv[1:]))"


@dataclasses.dataclass
class Tally:
    """What came of the kills of one kind."""

    kind: str
    kills: int = 0
    finished: int = 0  # ended before the kill came
    acknowledged: int = 0  # writes that were reported done
    at_a_write: int = 0  # kills that came as files changed
    findings: list[str] = dataclasses.field(default_factory=list)

    def check(self, what: bool, finding: str) -> None:
        """Notes a finding unless all is well."""
        if not what:
            self.findings.append(f"kill {self.kills}: {finding}")


def command(*options: object) -> list[str]:
    """`sparse-jax` with these options."""
    return [sys.executable, "-c", MAIN, *map(str, options)]


def run(*options: object) -> str:
    """A command to its end; what it prints.

    Raises:
      RuntimeError: if it fails.
    """
    done = subprocess.run(command(*options), capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{options}: {done.stderr}")
    return done.stdout


@contextlib.contextmanager
def started(args: list[str], errors: Path) -> Iterator[subprocess.Popen[str]]:
    """A process whose output is read line by line, and which is killed in the end."""
    with (
        open(errors, "w") as stream,
        subprocess.Popen(args, stdout=subprocess.PIPE, stderr=stream, text=True) as process,
    ):
        try:
            yield process
        finally:
            process.kill()


def listing(folder: Path) -> set[tuple[str, int]]:
    """Names and sizes of what is written below a folder, which may change meanwhile."""
    found: set[tuple[str, int]] = set()
    for place, folders, files in os.walk(folder):
        found.update((name, 0) for name in folders)
        for name in files:
            # Neither locks nor the attempt to write that comes before all work.
            if "lock" not in name and not name.startswith("try."):
                with contextlib.suppress(OSError):
                    found.add((name, os.stat(os.path.join(place, name)).st_size))
    return found


def kill_while_it_runs(
    tally: Tally, args: list[str], folder: Path, seconds: float, rng: random.Random
) -> str:
    """Starts a command and kills it; what it had printed.

    Args:
      tally: is told what came of it.
      args: the command.
      folder: where it writes.
      seconds: how long it takes about.
      rng: chooses the moment.
    """
    at_a_write = (tally.kills + tally.finished) % 2 == 1
    moment = time.monotonic() + rng.uniform(0.2, 1.05) * seconds
    changes, delay = rng.choice([1, 1, 1, 2, 3, 5, 9]), rng.choice([0, 0, 0.001, 0.005, 0.02])
    with started(args, folder.parent / "errors.txt") as process:
        before = listing(folder)
        while process.poll() is None and (at_a_write or time.monotonic() < moment):
            now = listing(folder) if at_a_write else before
            changes, before = changes - (now != before), now
            if not changes:
                time.sleep(delay)
                break
            time.sleep(0.0002 if at_a_write else 0.01)
        process.kill()
        assert process.stdout is not None
        printed = process.stdout.read()
        process.wait()
    killed = process.returncode < 0
    tally.kills += killed
    tally.finished += not killed
    tally.at_a_write += killed and at_a_write
    return printed


# Search ------------------------------------------------------------------------------------------

CHANGES = """
import sys
from sparse_jax import search
from reliability_kills import change
index = search.load(sys.argv[1])
print("open", flush=True)
for n in range(int(sys.argv[2]), 10**9):
    change(index, n)
    print(n, flush=True)
"""


def about(n: int) -> str:
    """Words that no document holds."""
    return hashlib.sha256(str(n).encode()).hexdigest()[:12]


def change(index: search.Index, n: int) -> None:
    """The n-th of an endless row of changes."""
    match n % 6:
        case 0:
            index.insert([search.Document(f"k{n}", f"killed thing number {n}")])
        case 1:
            index.upvote(about(n), f"k{n - 1}")
        case 2:
            index.associate(about(n), f"thing {n - 2}")
        case 3:
            index.upsert([search.Document(f"k{n - 3}", f"another thing {n}")])
        case 4:
            index.save()
        case 5:
            if n % 12 == 5:
                index.delete(f"k{n - 5}")


def expected(last: int) -> tuple[dict[str, str], int]:
    """Texts by id, and how many lessons, after the changes 0 to `last`."""
    texts: dict[str, str] = {}
    for n in range(last + 1):
        match n % 6:
            case 0:
                texts[f"k{n}"] = f"killed thing number {n}"
            case 3:
                texts[f"k{n - 3}"] = f"another thing {n}"
            case 5 if n % 12 == 5:
                del texts[f"k{n - 5}"]
    return texts, sum(n % 6 in (1, 2) for n in range(last + 1))


def held(place: Path, first: dict[str, str]) -> tuple[dict[str, str], int]:
    """Texts by id, without the first ones, and lessons that an index holds on the disk."""
    about = json.loads((place / "manifest.json").read_text())
    lines = (place / about["log"]).read_bytes().split(b"\n")
    log = [json.loads(line[9:]) for line in lines[:-1]]
    lessons = json.loads((place / about["snapshot"] / "settings.json").read_text())["feedback"]
    lessons += [record for record in log if record["do"] in ("upvote", "associate")]
    lines = (place / about["snapshot"] / "documents.jsonl").read_bytes().splitlines()
    ids = {json.loads(line)["id"] for line in lines}
    ids |= {d["id"] for record in log for d in record.get("documents", ())}
    texts = {}
    with search.load(place, read_only=True) as index:
        for id in sorted(ids):
            with contextlib.suppress(KeyError):
                texts[id] = index.get(id).text
        if len(index) != len(texts):
            texts["?"] = f"{len(index)} documents, of which {len(texts)} are found"
        index.search("thing number", k=3)
    return {id: text for id, text in texts.items() if first.get(id) != text}, len(lessons)


def first_documents(folder: Path) -> tuple[Path, dict[str, str]]:
    """A file of 40 documents, and their texts by id."""
    texts = {f"d{i}": f"first text {i} about matter {i % 7}" for i in range(40)}
    rows = [json.dumps({"id": id, "text": text}) for id, text in texts.items()]
    path = folder / "first.jsonl"
    path.write_text("\n".join(rows) + "\n")
    return path, texts


def kill_changes(folder: Path, kills: int, rng: random.Random) -> Tally:
    """A process that changes an index without end, by the library."""
    tally, place = Tally("search: library, endless changes"), folder / "index"
    path, texts = first_documents(folder)
    run("search", "index", place, path)
    last = -1  # the last change that is there
    while tally.kills < kills:
        args = [sys.executable, "-c", CHANGES, str(place), str(last + 1)]
        acknowledged = last
        with started(args, folder / "errors.txt") as process:
            assert process.stdout is not None
            if process.stdout.readline() != "open\n":
                tally.check(False, (folder / "errors.txt").read_text()[-500:])
                break
            time.sleep(rng.uniform(0.0, 1.0) ** 2 * 2)
            process.kill()
            for line in process.stdout:
                acknowledged = int(line)
        tally.kills += 1
        tally.at_a_write += 1  # it does nothing else
        tally.acknowledged += acknowledged - last
        found = held(place, texts)
        # The change after the last one reported may have been made, or not.
        matching = [n for n in (acknowledged, acknowledged + 1) if expected(n) == found]
        tally.check(bool(matching), f"after change {acknowledged}, the index holds {found}"[:500])
        last = matching[-1] if matching else acknowledged
    return tally


def kill_search(folder: Path, kills: int, rng: random.Random) -> Tally:
    """`search index`, `upvote`, `delete` and `save`, in turn."""
    tally, place = Tally("search: commands"), folder / "index"
    path, texts = first_documents(folder)
    run("search", "index", place, path)
    started_at = time.monotonic()
    run("search", "save", place)
    seconds = time.monotonic() - started_at
    have: dict[str, str] = {}
    lessons, n = 0, 0
    while tally.kills < kills:
        n += 1
        more = {f"m{n}-{i}": f"more text {n} {i}" for i in range(5)}
        then, then_lessons = dict(have), lessons
        match n % 4:
            case 0 | 1:
                new = folder / f"more-{n}.jsonl"
                rows = [json.dumps({"id": id, "text": text}) for id, text in more.items()]
                new.write_text("\n".join(rows) + "\n")
                options = ["index", place, new]
                then |= more
            case 2:
                options = ["upvote", place, about(n), rng.choice(sorted(texts))]
                then_lessons += 1
            case _:
                id = rng.choice(sorted(have)) if have else ""
                options = ["delete", place, id] if id else ["save", place]
                then.pop(id, None)
        printed = kill_while_it_runs(tally, command("search", *options), place, seconds, rng)
        found = held(place, texts)
        tally.acknowledged += bool(printed)
        right = [(then, then_lessons)] if printed else [(have, lessons), (then, then_lessons)]
        tally.check(found in right, f"{options[0]}: the index holds {found}"[:500])
        have, lessons = found
    return tally
