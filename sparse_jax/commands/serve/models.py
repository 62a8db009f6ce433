"""What can be served: a table of kinds.

A new kind is a class with what `protocols.Served` lists, in a file of its own, and an entry in
`KINDS`.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from sparse_jax.commands.serve.protocols import Served
from sparse_jax.runtime import saved

if TYPE_CHECKING:
    from sparse_jax.commands.serve.writer import Writer


def _open_classifier(path: Path, _: Writer | None) -> Served:
    from sparse_jax import xmc
    from sparse_jax.commands.serve.classifier import Classifier

    return Classifier(xmc.load(path))


def _open_index(path: Path, writer: Writer | None) -> Served:
    from sparse_jax import search
    from sparse_jax.commands.serve.index import SearchIndex
    from sparse_jax.commands.serve.page import Desk
    from sparse_jax.search.thumbs import Thumbs

    desk = None if writer is None else Desk(writer, Thumbs(path))
    return SearchIndex(search.load(path), desk)


def _open_recommender(path: Path, _: Writer | None) -> Served:
    from sparse_jax import recommend
    from sparse_jax.commands.serve.recommender import Recommender

    return Recommender(recommend.load(path))


class Kind(NamedTuple):
    """A kind of model, and how one is opened."""

    about: str
    open: Callable[[Path, Writer | None], Served]


KINDS = {
    "xmc": Kind("a classifier, of `sparse-jax xmc train`", _open_classifier),
    "recommend": Kind("a recommender, of `sparse-jax recommend train`", _open_recommender),
    "search": Kind("an index, of `sparse-jax search index`", _open_index),
}
"""By the kind that `model.json` names; an index has a manifest of its own."""


def open_model(path: Path, writer: Writer | None = None) -> Served:
    """The model in a directory, of whichever kind it is.

    Args:
      path: of the directory.
      writer: of an index: a language model that writes answers.

    Raises:
      ValueError: if there is none that can be served, or it is damaged. OSError: if it can't be
        read, or another process writes to it.
    """
    if (path / saved.MANIFEST).exists():
        kind = str(saved.read_manifest(path)["kind"])
        found = f"a model of kind {kind!r}"
    elif (path / "manifest.json").exists():
        kind, found = "search", "an index"
    else:
        kind, found = "", "no model" if path.is_dir() else "a file" if path.exists() else "nothing"
    if kind not in KINDS:
        served = "; ".join(f"{name}, {k.about}" for name, k in KINDS.items())
        raise ValueError(
            f"MODEL = {path}: must hold a kind that is served ({served}); found {found}"
        )
    return KINDS[kind].open(path, writer)
