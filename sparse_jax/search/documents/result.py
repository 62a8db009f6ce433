"""What was read, and what was left out."""

from __future__ import annotations

from typing import NamedTuple

from sparse_jax.search.documents.document import Document

__all__ = ["Broken", "Reading"]

_MAX_NAMED = 20


class Broken(NamedTuple):
    """A file that could not be read."""

    path: str  # in the folder
    reason: str


class Reading(NamedTuple):
    """What `documents.read` found.

    Example:
      >>> Reading([], "files", [Broken("a.pdf", "is no PDF")], []).report()
      ['1 file could not be read:', '  a.pdf: is no PDF']
    """

    documents: list[Document]
    kind: str  # how the files are laid out, one of `KINDS`
    broken: list[Broken]  # files left out
    notes: list[str]  # what else was left out, or decided

    def report(self) -> list[str]:
        """What a person should hear, line by line; nothing if all was read as it is.

        Returns:
          Lines.
        """
        lines = list(self.notes)
        if self.broken:
            many = "s" if len(self.broken) > 1 else ""
            lines.append(f"{len(self.broken):,} file{many} could not be read:")
            lines += [f"  {path}: {reason}" for path, reason in self.broken[:_MAX_NAMED]]
        if len(self.broken) > _MAX_NAMED:
            lines.append(f"  and {len(self.broken) - _MAX_NAMED:,} more")
        return lines
