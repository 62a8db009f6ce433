"""README.md of this folder names tests that exist, for each row of the table of faults."""

from __future__ import annotations

import ast
import re
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parents[1]


def names_in(*paths: Path) -> set[str]:
    """Names of the tests in these files."""
    trees = [ast.parse(path.read_text(encoding="utf-8")) for path in paths]
    return {
        node.name for tree in trees for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)
    }


def missing(table: str) -> list[str]:
    """What the table names that isn't there."""
    here, found = names_in(*HERE.glob("test_*.py")), []
    rows = dict(re.findall(r"^\| (\d+) \|(.*)\|$", table, re.MULTILINE))
    found += [f"row {n}" for n in range(1, 45) if str(n) not in rows]
    for row, text in rows.items():
        tests = text.rsplit("|", 1)[1]
        # A file's tests follow its name; those before the first file are in this folder.
        first, *others = re.split(r"(tests/\w+/test_\w+\.py)", tests)
        parts = [(here, first)]
        for name, rest in zip(others[::2], others[1::2], strict=True):
            path = ROOT / name
            parts.append((names_in(path) if path.exists() else set(), rest))
            found += [] if path.exists() else [f"{row}: {name}"]
        for known, part in parts:
            found += [f"{row}: {t}" for t in re.findall(r"test_\w+", part) if t not in known]
        if not re.search(r"test_\w+", tests):
            found.append(f"row {row} names no test")
    return found


def test_every_row_names_tests_that_exist():
    assert missing((HERE / "README.md").read_text(encoding="utf-8")) == []


def test_this_check_can_fail():
    table = (HERE / "README.md").read_text(encoding="utf-8")
    assert missing(table.replace("test_few_labels", "test_no_labels")) == ["33: test_no_labels"]
    assert missing(table.replace("| 44 | ROUGE", "| 4x | ROUGE")) == ["row 44"]
    assert missing(table.replace("test_feedback_survives", "a test")) == ["row 39 names no test"]
