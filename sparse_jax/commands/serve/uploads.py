"""Files that the page sends to be indexed: received, read and learned in a thread of their own.

They come one by one into a folder of their own, and are read as `sparse-jax search index` reads a
folder or a file. Nothing of them is in the index until all are read; then they come in at once, as
one line of its log.
"""

from __future__ import annotations

import contextlib
import secrets
import tempfile
import threading
import time
import unicodedata
from pathlib import Path, PurePosixPath
from typing import Any

from sparse_jax import search
from sparse_jax.commands.search.index import delete_gone
from sparse_jax.commands.serve.bodies import MAX_FILES_BYTES
from sparse_jax.commands.serve.reading import Refusal
from sparse_jax.search import documents

__all__ = ["MAX_FILES", "Uploads"]

MAX_FILES = 10_000
"""Files of an upload."""
_MAX_NAME = 200  # bytes of a part of a path
_NO_NAME = ("Cc", "Cs", "Zl", "Zp")  # Unicode's control characters, surrogates, ends of lines
_MAX_TOLD = 20  # lines of what was left out
_BUSY = ("reading", "adding", "learning")
_NEXT = "begin another upload"


class Stopped(Exception):
    """The upload was cancelled, or the server stops."""


class Uploads:
    """One upload at a time into an index.

    Args:
      index: that takes the documents.
    """

    def __init__(self, index: search.Index) -> None:
        self._index = index
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._stopping = threading.Event()
        self._place: tempfile.TemporaryDirectory[str] | None = None
        self._id, self._bytes, self._began = "", 0, 0.0
        self._status: dict[str, Any] = {"state": "none"}

    def begin(self) -> str:
        """The name of a new upload, to which files can be added; one that still waits is dropped.

        Raises:
          Refusal: with status 409 while another is read, 503 once the server stops.
        """
        with self._lock:
            if self._status["state"] in _BUSY:
                must = "be done before another begins"
                raise Refusal("upload", self._status["state"], must, "wait", status=409)
            if self._stopping.is_set():
                raise Refusal("upload", "new", "come before the server stops", "later", status=503)
            self._drop()
            self._place = tempfile.TemporaryDirectory(prefix="sparse-jax-upload-")
            self._id, self._bytes = secrets.token_urlsafe(8), 0
            self._status = {"state": "receiving", "files": 0}
            return self._id

    def add(self, upload: str, path: str, content: bytes) -> None:
        """Takes a file.

        Args:
          upload: of `begin`.
          path: of the file, in the folder that was chosen, with / between.
          content: of the file.

        Raises:
          Refusal: if the path leads elsewhere, or a limit is passed; with status 404 if there is no
            such upload that waits for files.
        """
        name = _checked(path)
        with self._lock:
            place = self._receiving(upload)
            if self._status["files"] >= MAX_FILES:
                raise Refusal("files", MAX_FILES + 1, f"be at most {MAX_FILES:,}", _NEXT)
            if self._bytes + len(content) > MAX_FILES_BYTES:
                must = f"be at most {MAX_FILES_BYTES:,} together"
                raise Refusal("bytes", self._bytes + len(content), must, _NEXT, status=413)
            try:
                (place / name).parent.mkdir(parents=True, exist_ok=True)
                with open(place / name, "xb") as file:
                    file.write(content)
            except FileExistsError:
                raise Refusal("path", path, "be a file that came once", "rename it") from None
            except OSError as error:
                with contextlib.suppress(OSError):  # half a file would be indexed as a whole one
                    (place / name).unlink(missing_ok=True)
                must = f"be written to the server's disk ({error.strerror})"
                raise Refusal("path", path, must, "make room there", status=507) from None
            self._bytes += len(content)
            self._status["files"] += 1

    def start(self, upload: str, *, replace: bool) -> None:
        """Reads the files, in a thread, and indexes what they hold.

        Args:
          upload: of `begin`.
          replace: documents take the place of those that have their ids.

        Raises:
          Refusal: as `add`; also if there is no file.
        """
        with self._lock:
            place = self._receiving(upload)
            if not self._status["files"]:
                raise Refusal("files", 0, "be at least 1", "choose some")
            self._began = time.monotonic()
            self._status.update(state="reading", read=0)
            self._thread = threading.Thread(target=self._run, args=(place, replace))
            self._thread.start()

    def status(self) -> dict[str, Any]:
        """How far the last upload is: JSON values.

        Returns:
          `state`: none, receiving, reading, adding, learning, done, failed or cancelled; `files`,
          `read`; then `documents`, `total` and `report`, or `error`; `seconds`.
        """
        with self._lock:
            return dict(self._status)

    def cancel(self, upload: str) -> None:
        """Drops an upload whose files are received or read; what is in the index stays there."""
        with self._lock:
            if upload == self._id and self._status["state"] == "receiving":
                self._status = {"state": "cancelled"}
                self._drop()
            elif upload == self._id and self._status["state"] == "reading":
                self._status["cancelled"] = True

    def close(self) -> None:
        """Ends what is read, and waits for what is being added."""
        self._stopping.set()
        if self._thread is not None:
            self._thread.join()
        with self._lock:
            self._drop()

    def _receiving(self, upload: str) -> Path:
        """The folder of an upload that waits for files."""
        if upload != self._id or self._status["state"] != "receiving" or self._place is None:
            must = "be one that waits for files"
            raise Refusal("upload", upload, must, _NEXT, status=404)
        return Path(self._place.name)

    def _drop(self) -> None:
        if self._place is not None:
            with contextlib.suppress(OSError):
                self._place.cleanup()
            self._place = None

    def _run(self, place: Path, replace: bool) -> None:
        try:
            self._set(**self._index_files(_root(place), replace))
        except Stopped:
            self._set(state="cancelled")
        except Exception as error:
            told = str(error.args[0]) if isinstance(error, KeyError) else str(error)
            told = told.replace(f"{place}/", "").replace(str(place), "what was sent")
            self._set(state="failed", error=told or type(error).__name__)
        finally:
            with self._lock:
                self._drop()

    def _set(self, **more: Any) -> None:
        with self._lock:
            self._status.update(more, seconds=round(time.monotonic() - self._began, 1))

    def _read_so_far(self, files: int) -> None:
        self._set(read=files)
        if self._stopping.is_set() or self._status.get("cancelled"):
            raise Stopped

    def _index_files(self, root: Path, replace: bool) -> dict[str, Any]:
        index = self._index
        found = documents.read(root, progress=self._read_so_far)
        self._read_so_far(self._status["files"])
        self._set(state="adding", documents=len(found.documents))
        if replace:
            index.upsert(found.documents)
            delete_gone(index, found)
        else:
            index.insert(found.documents)
        if not self._stopping.is_set():  # else the next start does it
            self._set(state="learning")
            if index.refresh() or not search.can_undo(index):
                index.save()
        return {"state": "done", "total": len(index), "report": found.report()[:_MAX_TOLD]}


def _root(place: Path) -> Path:
    """The folder or the file that was chosen: what alone was sent, as far as it goes."""
    inside = list(place.iterdir())
    return inside[0] if len(inside) == 1 else place


def _checked(path: str) -> PurePosixPath:
    """A path that stays below the folder it is put into.

    Example:
      >>> str(_checked("notes/a.txt")), str(_checked("報告\u3000書.txt")) == "報告\u3000書.txt"
      ('notes/a.txt', True)
    """
    parts = path.split("/")
    wrong = (
        not path
        or any(part in ("", ".", "..") or len(part.encode()) > _MAX_NAME for part in parts)
        or any(c == "\\" or unicodedata.category(c) in _NO_NAME for c in path)
        or len(parts) > 32
    )
    if wrong:
        raise Refusal("path", path, "be names of folders and a file, with / between", "rename it")
    return PurePosixPath(*parts)
