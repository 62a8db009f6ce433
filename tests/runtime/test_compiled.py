"""What was compiled is kept for the next process, whole or not at all."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from sparse_jax.runtime import compiled

PROGRAM = """
import sys
from sparse_jax.runtime import compiled

def command():
    import jax, jax.numpy as jnp
    print(float(jax.jit(lambda x: jnp.sin(x) @ x)(jnp.arange(8.0))))
    return int(sys.argv[1])

sys.exit(compiled.run(command))
"""


def start(cache: Path, status: int = 0, **variables: str) -> subprocess.Popen[str]:
    unset = ("JAX_COMPILATION_CACHE", "JAX_PERSISTENT_CACHE")  # the suite has its own
    env = {k: v for k, v in os.environ.items() if not k.startswith(unset)}
    return subprocess.Popen(
        [sys.executable, "-W", "error", "-c", PROGRAM, str(status)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=env | {"XDG_CACHE_HOME": str(cache)} | variables,
    )


def entries(cache: Path) -> list[Path]:
    return sorted(cache.glob("sparse_jax/compiled/*/*-cache.*"))


@pytest.mark.slow
def test_the_next_process_finds_what_one_compiled(tmp_path):
    first, failed = start(tmp_path / "a"), start(tmp_path / "b", status=1)
    printed, complaints = first.communicate()
    assert first.returncode == 0 and not complaints
    assert failed.communicate()[0] == printed and not entries(tmp_path / "b")
    kept = entries(tmp_path / "a")
    before = [(entry.stat().st_ino, entry.stat().st_mtime_ns) for entry in kept]
    again, elsewhere = (
        start(tmp_path / "a"),
        start(tmp_path / "a", XLA_FLAGS="--xla_backend_optimization_level=1"),
    )
    assert again.communicate() == (printed, "") and elsewhere.communicate() == (printed, "")
    after = entries(tmp_path / "a")
    assert kept and len(after) == 2 * len(kept)  # other options, other entries
    assert [(e.stat().st_ino, e.stat().st_mtime_ns) for e in after if e in kept] == before
    assert not list(tmp_path.glob("a/sparse_jax/compiled/*/run-*"))


def test_a_damaged_entry_goes(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR", raising=False)
    seen = []

    def look() -> int:
        own = Path(os.environ["JAX_COMPILATION_CACHE_DIR"])
        seen.append({entry.name: entry.read_bytes() for entry in own.iterdir()})
        for name in ("jit_a-cache", "jit_b-cache"):
            if not (own / name).exists():
                (own / name).write_bytes(name.encode())
        return 0

    assert compiled.run(look) == 0
    first, _ = entries(tmp_path)
    first.write_bytes(b"ji")
    assert compiled.run(look) == 0 and len(entries(tmp_path)) == 2
    assert compiled.run(look) == 0
    assert [len(names) for names in seen] == [0, 1, 2]
    assert seen[2] == {"jit_a-cache": b"jit_a-cache", "jit_b-cache": b"jit_b-cache"}


def test_a_folder_of_the_user_is_taken_and_a_parent_is_not(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path / "mine"))
    seen = []

    def look() -> int:
        seen.append(os.environ["JAX_COMPILATION_CACHE_DIR"])
        return 0

    assert compiled.run(look) == 0 and seen == [str(tmp_path / "mine")]
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR")
    assert compiled.run(lambda: compiled.run(look) or look()) == 0
    assert seen[1] != seen[2] and "JAX_COMPILATION_CACHE_DIR" not in os.environ


def test_what_a_process_leaves_half_done_reaches_nobody(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR", raising=False)

    def write() -> None:
        Path(os.environ["JAX_COMPILATION_CACHE_DIR"], "jit_x-cache").write_bytes(b"half")

    def interrupted() -> int:
        write()
        return 130

    def broken() -> int:
        write()
        raise KeyboardInterrupt

    assert compiled.run(interrupted) == 130
    with pytest.raises(KeyboardInterrupt):
        compiled.run(broken)
    assert not entries(tmp_path)
    folder = next(tmp_path.glob("sparse_jax/compiled/*"))
    dead = folder / f"run-{compiled.socket.gethostname()}-{2**22 + 1}-abc"
    other = folder / f"run-elsewhere-{2**22 + 1}-abc"
    dead.mkdir(), other.mkdir()
    assert compiled.run(lambda: 0) == 0
    assert not dead.exists() and other.exists()


def test_without_a_safe_place_nothing_is_kept(tmp_path, monkeypatch):
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR", raising=False)
    seen = []

    def look() -> int:
        seen.append(os.environ.get("JAX_COMPILATION_CACHE_DIR"))
        return 0

    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert compiled.run(look) == 0
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    folder = tmp_path / "sparse_jax" / "compiled" / compiled.kind_of_machine()
    folder.mkdir(parents=True)
    folder.chmod(0o777)  # others could put programs there
    assert compiled.run(look) == 0 and seen == [None, None]
    folder.chmod(0o700)
    assert compiled.run(look) == 0 and seen[2] is not None


def test_the_folder_does_not_grow_without_end(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR", raising=False)
    monkeypatch.setattr(compiled, "_MOST_BYTES", 100)

    def add() -> int:
        name = f"jit_{time.time_ns()}-cache"
        Path(os.environ["JAX_COMPILATION_CACHE_DIR"], name).write_bytes(bytes(60))
        return 0

    for count in (1, 2, 1):
        assert compiled.run(add) == 0 and len(entries(tmp_path)) == count
