"""How files are written: what is a regular one is replaced, what isn't stays what it is."""

from __future__ import annotations

import os
import stat
import threading

from sparse_jax.runtime import files


def test_behind_a_symbolic_link_it_is_the_file_that_is_replaced(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real" / "file")
    for content in (b"one", b"two"):  # at first there is nothing behind the link
        files.write_atomically(tmp_path / "link", content)
        assert (tmp_path / "link").is_symlink()
        assert (tmp_path / "real" / "file").read_bytes() == content
    assert [path.name for path in (tmp_path / "real").iterdir()] == ["file"]


def test_a_pipe_stays_a_pipe_and_its_reader_gets_all(tmp_path):
    pipe, got = tmp_path / "pipe", []
    os.mkfifo(pipe)
    reader = threading.Thread(target=lambda: got.append(pipe.read_bytes()))
    reader.start()
    files.write_atomically(pipe, b"content" * 20_000)
    reader.join(10)
    assert got == [b"content" * 20_000]
    assert stat.S_ISFIFO(pipe.stat().st_mode) and len(list(tmp_path.iterdir())) == 1
