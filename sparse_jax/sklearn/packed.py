"""A model as the bytes of the files that it is saved in, for pickles."""

from __future__ import annotations

import tempfile
from pathlib import Path

from sparse_jax import xmc
from sparse_jax.xmc import Model


def to_files(model: Model) -> dict[str, bytes]:
    """The files of `xmc.save`, by name."""
    with tempfile.TemporaryDirectory() as folder:
        xmc.save(model, folder)
        return {path.name: path.read_bytes() for path in sorted(Path(folder).iterdir())}


def from_files(files: dict[str, bytes]) -> Model:
    """The model of `to_files`."""
    with tempfile.TemporaryDirectory() as folder:
        for name, content in files.items():
            Path(folder, Path(name).name).write_bytes(content)
        return xmc.load(folder)
