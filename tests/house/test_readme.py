"""README and pages of the site, run line by line: every block, each section in a folder.

The folder holds small files under the names that the pages use. Blocks of one section run in order
and in one namespace. A command is run in this process, or, where it would take minutes or never
end, read by its own parser; one that this file doesn't know fails the test.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import json
import re
import shlex
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import quickly
from serving import serving

from sparse_jax import data
from sparse_jax.commands import main as command_line

pytestmark = pytest.mark.usefixtures("quick_compiles")

ROOT = Path(__file__).resolve().parents[2]
# The other pages of docs/ report measurements, and hold no code to try.
PAGES = (
    "README.md",
    *(f"docs/{n}.md" for n in ("index", "classify", "recommend", "search", "faq")),
)
PAGES += (
    "docs/dedupe.md",
    "docs/economics.md",
    "docs/memory-and-threads.md",
    "docs/many-machines.md",
)
TEXTS = {page: (ROOT / page).read_text(encoding="utf-8") for page in PAGES}
README = TEXTS["README.md"]
NEEDS = {"Search": "bm25s", "Summaries": "bm25s", "A language model": "tokenizers"}
NEEDS |= dict.fromkeys(("Index and ask", "Teach it", "In Python"), "bm25s")
# Their programs run longer than LLVM's passes take.
TRAINS_LONG = {"Search", "Index and ask", "Inside your own step"}

# Commands that are read by their parsers and not run, and why.
PARSED = {
    "scripts/train_xmc.py": "a minute of training",
    "launch": "starts processes of minutes; tests/commands/test_train_sharded.py runs it",
    "xmc train-sharded": "waits for the other machine",
    "serve": "runs until it is stopped; curl's lines ask a server of our own",
    "lm train": "half an hour",
    "lm evaluate": "needs what `lm train` trains",
    "lm generate": "needs what `lm train` trains",
    "lm score": "needs what `lm train` trains; tests/lm/test_sentences.py runs it",
    "lm filter": "needs what `lm train` trains; tests/lm/test_sentences.py runs it",
    "lm perplexity": "needs what `lm train` trains; tests/lm/test_interpolation.py runs it",
    "lm preference": "needs what `lm train` trains",
}


class Block(NamedTuple):
    """A fenced block."""

    kind: str  # "sh", "python" or ""
    code: str


def blocks_of(page: str) -> dict[str, list[Block]]:
    """Fenced blocks of a page by the heading above them."""
    found: dict[str, list[Block]] = {}
    for part in re.split(r"^## ", TEXTS[page], flags=re.M)[1:]:
        heading, _, text = part.partition("\n")
        blocks = re.findall(r"^```(\w*)\n(.*?)^```$", text, re.M | re.S)
        found[heading] = [Block(kind, code) for kind, code in blocks]
    return {heading: blocks for heading, blocks in found.items() if blocks}


def sections() -> dict[tuple[str, str], list[Block]]:
    """Blocks by (page, heading). README's sections stand alone; those of a page follow another."""
    found = {("README.md", heading): blocks for heading, blocks in blocks_of("README.md").items()}
    for page in PAGES[1:]:
        blocks = [block for part in blocks_of(page).values() for block in part]
        if blocks:
            found[page, next(iter(blocks_of(page)))] = blocks
    return found


def commands(code: str) -> Iterator[list[str]]:
    """The words of each command of a block; `a && b` are two."""
    for line in code.splitlines():
        for part in line.split(" && "):
            words = shlex.split(part, comments=True)
            if words:
                yield words


# ----------------------------------------------------------------------------------------- files


def write_points(path: Path, count: int, labels: int) -> None:
    """Points whose label shows in their first feature."""
    rng = np.random.default_rng(count)
    label_ids = np.arange(count, dtype=np.int32) % labels
    other = rng.integers(10, 20, count, dtype=np.int32)
    points = data.XmcData(
        2 * np.arange(count + 1),
        np.stack([label_ids, other], axis=1).ravel(),
        np.ones(2 * count, np.float32),
        np.arange(count + 1),
        label_ids,
        num_features=20,
        num_labels=labels,
    )
    data.write_xmc(path, points)


def write_files(folder: Path) -> None:
    """What README's commands read."""
    for name, count, labels in (
        ("train.txt", 60, 3),
        ("test.txt", 20, 3),
        ("new.txt", 4, 3),
        ("more.txt", 40, 4),
    ):
        write_points(folder / name, count, labels)
    types = ("food", "transport", "music", "weather")
    for name, count, labels in (("table.csv", 60, 3), ("new.csv", 4, 3), ("more.csv", 40, 4)):
        rows = [f"what is {types[n % labels]} number {n},{types[n % labels]}" for n in range(count)]
        (folder / name).write_text("\n".join(["question,type", *rows]) + "\n")
    orders = [f"{'ab'[n % 2]},{n % 7 + 0.5},{('tea', 'egg')[n % 2]}" for n in range(200)]
    orders = [f"{row},{3 * (n % 7) + n % 2 + 0.25}" for n, row in enumerate(orders)]
    (folder / "orders.csv").write_text("\n".join(["shop,size,item,price", *orders]) + "\n")
    documents = [
        {"id": "d5203", "text": "sensory ataxic neuropathy is inherited in a recessive way"},
        {"id": "d1", "title": "solver", "text": "draws the phase plane of a system"},
        *({"id": f"x{n}", "text": f"document {n} of other things"} for n in range(20)),
    ]
    pairs = [{"text": f"Tool {n % 5} is a tool.", "title": f"tool {n % 5}"} for n in range(20)]
    for name, rows in (("documents.jsonl", documents), ("pairs.jsonl", pairs)):
        (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    events = [f"{user},{'tea milk egg salt'.split()[at]}" for user in range(40) for at in range(4)]
    dated = [f"{row},2024-{4 + n % 3:02}-{1 + n % 28:02}" for n, row in enumerate(events)]
    for name, rows in (("events.csv", dated), ("today.csv", ["new,tea,2024-08-01"])):
        (folder / name).write_text("\n".join(["user,item,time", *rows]) + "\n")
    items = ["tea,green tea", "milk,cow milk", "egg,hen egg", "salt,sea salt", "oil,sea oil"]
    for name, rows in (("items.csv", items), ("new-items.csv", ["cake,tea cake"])):
        (folder / name).write_text("\n".join(["item,text", *rows]) + "\n")
    (folder / "book.txt").write_text("It rains, and the cats play on.")
    (folder / "notes.txt").write_text("Cats purr. Cats and dogs play. It rains.")


# -------------------------------------------------------------------------------------- commands


@dataclasses.dataclass
class Reader:
    """What was done with README's commands."""

    folder: Path
    parsed: set[str] = dataclasses.field(default_factory=set)
    asked: list[list[str]] = dataclasses.field(default_factory=list)  # of curl

    def run(self, words: list[str]) -> None:
        match words:
            case ["pip", "install", what]:
                extra = re.fullmatch(r"\.(?:\[(\w+)\])?", what)
                project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
                assert extra and extra[1] in project["optional-dependencies"], what
            case ["python", "-m", "pytest"]:
                pass  # this very command
            case ["python", script, *rest]:
                source = (ROOT / script).read_text()
                found = re.search(r"from sparse_jax\.commands\.([\w.]+) import main", source)
                assert found, f"{script} is no command of the package"
                self.parse(script, found[1], rest)
            case ["sparse-jax", *rest]:
                self.run_ours(rest)
            case ["srun" | "mpirun", *rest]:  # which start what follows their own options
                self.run(rest[rest.index("sparse-jax") :])
            case ["curl", *rest]:
                self.asked.append(rest)
            case _:
                pytest.fail(f"a page has a command that this test doesn't know: {words}")

    def run_ours(self, words: list[str]) -> None:
        name = " ".join(words[:2]) if words[0] in command_line.GROUPS else words[0]
        assert name in command_line.COMMANDS, f"sparse-jax has no command {name!r}"
        if name in PARSED:
            rest = words[len(name.split()) :]
            self.parse(name, command_line.COMMANDS[name].module, rest)
        else:
            assert command_line.main(words) == 0, words

    def parse(self, name: str, module: str, arguments: list[str]) -> None:
        assert name in PARSED, f"{name} is neither run nor listed in PARSED"
        self.parsed.add(name)
        importlib.import_module(f"sparse_jax.commands.{module}").parse_args(arguments)


def ask(server: Any, arguments: list[str]) -> None:
    """What `curl` asks, of a server on another port."""
    url, *rest = arguments
    path = re.fullmatch(r"http://127\.0\.0\.1:8765(/\w+)", url)
    assert path, f"{url}: must be at the port that `sparse-jax serve` takes if not told otherwise"
    match rest:
        case []:
            answer = server.ask("GET", path[1])
        case ["-d", body]:
            answer = server.ask("POST", path[1], body.encode())
        case _:
            pytest.fail(f"curl {arguments}: this test doesn't know these options")
    assert answer.status == 200, answer.body


@pytest.fixture
def suited_compiles(heading):
    """Quick compiles, but for what computes much: bits differ, so that no program is shared."""
    with quickly.optimized() if heading in TRAINS_LONG else contextlib.nullcontext():
        yield


@pytest.mark.slow
@pytest.mark.usefixtures("suited_compiles")
@pytest.mark.parametrize(("page", "heading"), sections())
def test_a_page_runs(page, heading, tmp_path, monkeypatch, capsys):
    if heading in NEEDS:
        pytest.importorskip(NEEDS[heading])
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["sparse-jax"])
    write_files(tmp_path)
    reader, namespace = Reader(tmp_path), {"__name__": "readme"}
    for block in sections()[page, heading]:
        if block.kind == "sh":
            for words in commands(block.code):
                reader.run(words)
        elif block.kind == "python":
            exec(compile(block.code, f"{page}, {heading}", "exec"), namespace)
        else:
            assert block.kind == "", f"a block of kind {block.kind}"
    printed = capsys.readouterr().out
    if reader.asked:
        with serving(tmp_path / "MODEL", tmp_path / "log") as server:
            for arguments in reader.asked:
                ask(server, arguments)
    if heading == "Inside your own step":
        check_own_step(namespace, printed)


def check_own_step(namespace: dict[str, Any], printed: str) -> None:
    """Both ways reach the P@1 that README says."""

    def accuracy() -> float:
        params, h, labels = namespace["state"][0], namespace["h"], namespace["labels"]
        logits = namespace["layers"].sparse_dense(params["weights"], params["bias"], h)
        return float((logits.argmax(axis=1) == labels).mean())

    uniform, hashed = map(float, re.findall(r"That is P@1 (\.\d+)", README))
    assert abs(float(printed) - uniform) < 0.02
    assert abs(accuracy() - hashed) < 0.02


def test_what_is_only_parsed_is_there():
    """An excuse that nothing needs any more goes."""
    text = "\n".join(block.code for blocks in sections().values() for block in blocks)
    assert all(name in text for name in PARSED)


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("sparse-jax xmc train train.txt --no-such-option", "unrecognized"),
        ("sparse-jax lm train book.txt --no-such-option", "unrecognized"),
        ("sparse-jax xmc forget MODEL", "no command"),
        ("wget http://example.org", "doesn't know"),
        ("pip install '.[nothing]'", "nothing"),
        ("python scripts/train_xmc.py --strategy best", "invalid choice"),
    ],
)
def test_a_wrong_command_fails(line, why, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["sparse-jax"])
    write_files(tmp_path)
    with pytest.raises((AssertionError, SystemExit, pytest.fail.Exception)) as raised:
        for words in commands(line):
            Reader(tmp_path).run(words)
    assert why in f"{raised.value} {capsys.readouterr().err}"


@pytest.mark.parametrize("page", [*PAGES, "docs/design.md", "docs/benchmarks.md"])
def test_links_lead_somewhere(page):
    text = (ROOT / page).read_text(encoding="utf-8")
    for target in re.findall(r"\]\((?!https?:)([^)#]+)(?:#[\w-]+)?\)", text):
        assert (ROOT / page).parent.joinpath(target).exists(), target
