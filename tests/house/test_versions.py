"""One version: pyproject.toml, CITATION.cff, CHANGELOG.md and the tag say the same."""

from __future__ import annotations

import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FILES = ("pyproject.toml", "CITATION.cff", "CHANGELOG.md")


def versions(root: Path) -> dict[str, str]:
    """What each file says; of the changelog, its latest release."""
    text = {name: (root / name).read_text(encoding="utf-8") for name in FILES}
    patterns = (r'^version = "(.+)"$', r"^version: (.+)$", r"^## (\d.*)$")
    return {n: re.search(p, text[n], re.M)[1] for n, p in zip(FILES, patterns, strict=True)}


def test_files_agree():
    assert len(set(versions(ROOT).values())) == 1, versions(ROOT)


def test_the_tag_is_the_version():
    given = ("git", "tag", "--points-at", "HEAD", "--list", "v[0-9]*")
    try:
        tags = subprocess.run(given, cwd=ROOT, capture_output=True, text=True).stdout.split()
    except FileNotFoundError:
        pytest.skip("no git")
    assert tags in ([], [f"v{versions(ROOT)['pyproject.toml']}"])


def copy(folder: Path) -> Path:
    (folder / "scripts").mkdir()
    for name in (*FILES, "scripts/release"):
        shutil.copy(ROOT / name, folder / name)
    changes = folder / "CHANGELOG.md"
    if "## Unreleased\n" not in changes.read_text(encoding="utf-8"):  # just after a release
        changes.write_text("## Unreleased\n\n" + changes.read_text(encoding="utf-8"))
    return folder


def release(folder: Path, *version: str) -> subprocess.CompletedProcess[str]:
    command = [str(folder / "scripts" / "release"), *version]
    return subprocess.run(command, capture_output=True, text=True)


def test_one_command_releases(tmp_path):
    before = copy(tmp_path).joinpath("pyproject.toml").read_text(encoding="utf-8")
    done = release(tmp_path, "7.8.9")
    assert done.returncode == 0 and "git tag v7.8.9" in done.stdout, done.stderr
    assert set(versions(tmp_path).values()) == {"7.8.9"}
    after = (tmp_path / "pyproject.toml").read_text(encoding="utf-8")
    lines = zip(before.splitlines(), after.splitlines(), strict=True)
    changed = [new for old, new in lines if old != new]
    assert changed == ['version = "7.8.9"']
    assert tomllib.loads(after)["project"]["version"] == "7.8.9"
    again = release(tmp_path, "7.9.0")
    assert again.returncode == 2 and "## Unreleased" in again.stderr
    assert set(versions(tmp_path).values()) == {"7.8.9"}


@pytest.mark.parametrize("version", [(), ("v0.2.0",), ("0.2",), ("0.2.0; rm",)])
def test_no_version_is_refused(tmp_path, version):
    done = release(copy(tmp_path), *version)
    assert done.returncode == 2 and "MAJOR.MINOR.PATCH" in done.stderr
    assert versions(tmp_path) == versions(ROOT) or "Unreleased" not in (ROOT / FILES[2]).read_text()
