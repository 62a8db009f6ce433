"""The one format of saved models: `model.json` beside one file of arrays.

`model.json` says what kind of model it is, of which version, with its configuration, and names the
file of arrays; that one is a NumPy `.npz` without pickled objects, which can be mapped into memory
instead of being read. The arrays are written first,
under a name of their own, and `model.json` is replaced last: a reader, or a process killed at any
moment, sees the old model whole or the new one whole. Two processes that save into one directory do
so in turn, and the last one's model stays.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from sparse_jax.runtime import npz
from sparse_jax.runtime.files import remove_leftovers, write_atomically, write_stream
from sparse_jax.runtime.lock import in_turn

MANIFEST = "model.json"
FORMAT = 1
"""Rises when a reader of the format before can't read what is written now."""
_KEYS = {"kind", "format", "config", "arrays", "file"}


class Saved(NamedTuple):
    """What a directory holds."""

    config: dict[str, Any]  # JSON values
    arrays: dict[str, np.ndarray]  # by name


def save(
    directory: str | os.PathLike[str], *, kind: str, config: dict[str, Any], arrays: dict[str, Any]
) -> None:
    """Writes a model into a directory, in the place of the one that may be there.

    Args:
      directory: made if missing.
      kind: which model, such as "xmc"; `load` asks for the same.
      config: JSON values; tuples come back as lists.
      arrays: by name, of any NumPy dtype but object, or bfloat16.

    Raises:
      TypeError: if an array holds objects.
      ValueError: if config is not JSON (NaN and infinities are not).
      OSError: if the disk fails; the model before is then as it was. (Where the new `model.json` is
        written and only its name may not outlast a power cut, it is the new model that is there.)

    Example:
      >>> import tempfile
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     save(folder, kind="toy", config={"k": 3}, arrays={"w": np.ones(2)})
      ...     saved = load(folder, kind="toy")
      >>> saved.config, saved.arrays["w"].tolist()
      ({'k': 3}, [1.0, 1.0])
    """
    root = Path(directory)
    plain = {name: _to_plain(name, np.asarray(x)) for name, x in arrays.items()}
    about: dict[str, Any] = {
        "kind": kind,
        "format": FORMAT,
        "config": config,
        "arrays": {n: [str(np.asarray(x).dtype), list(np.shape(x))] for n, x in arrays.items()},
    }
    try:
        json.dumps(about, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ValueError(f"config of a saved {kind} model must be JSON: {error}") from None
    digest = hashlib.sha256()
    for name in sorted(plain):
        digest.update(f"{name} {about['arrays'][name]}".encode())
        digest.update(np.ascontiguousarray(plain[name]).view(np.uint8).data)
    about["file"] = f"arrays-{digest.hexdigest()[:16]}.npz"
    root.mkdir(parents=True, exist_ok=True)
    with in_turn(root):
        path = root / about["file"]
        try:
            write_stream(path, lambda file: npz.write(file, plain))
            write_atomically(root / MANIFEST, (json.dumps(about, allow_nan=False) + "\n").encode())
        except BaseException:
            if _named(root) != path.name:
                path.unlink(missing_ok=True)
            raise
        with contextlib.suppress(OSError):  # what can't be removed now, the next save tries
            for old in root.glob("arrays-*.npz"):
                if old.name != path.name:
                    old.unlink(missing_ok=True)
            remove_leftovers(root)


def _named(root: Path) -> str:
    """The file of arrays that `model.json` names, if there is one."""
    try:
        return str(read_manifest(root)["file"])
    except ValueError:
        return ""


def load(directory: str | os.PathLike[str], *, kind: str, mapped: bool = False) -> Saved:
    """Reads what `save` wrote.

    Args:
      directory: of the model.
      kind: as saved.
      mapped: leaves the arrays where they are until they are used: they can't be written to, and
        damage within them is not noticed.

    Returns:
      A `Saved`.

    Raises:
      ValueError: if there is no model, it is of another kind or a later format, or it is damaged.
    """
    root = Path(directory)
    about = read_manifest(root)
    while True:
        try:
            return _load(root, about, kind, mapped)
        except ValueError:
            before, about = about, read_manifest(root)
            if about == before:  # else it was replaced meanwhile, and what it named is gone
                raise


def _load(root: Path, about: dict[str, Any], kind: str, mapped: bool) -> Saved:
    """The model that `about` describes."""
    if about["kind"] != kind:
        raise ValueError(
            f"{root} holds a model of kind {about['kind']!r}: must be {kind!r}; "
            f"open it with the commands of {about['kind']}"
        )
    path = root / str(about["file"])
    try:
        with open(path, "rb") as stream:
            if mapped:
                plain = npz.mapped(stream, list(about["arrays"]))
            else:
                with np.load(stream, allow_pickle=False) as file:
                    plain = {name: file[name] for name in about["arrays"]}
    except MemoryError:
        raise
    except Exception as error:  # zipfile and NumPy raise of many kinds at what is damaged
        raise ValueError(f"{path} is damaged or missing ({error}): save the model anew") from error
    arrays = {}
    for name, (dtype, shape) in about["arrays"].items():
        array = plain[name].view(jnp.bfloat16) if dtype == "bfloat16" else plain[name]
        if str(array.dtype) != dtype or list(array.shape) != shape:
            raise ValueError(
                f"{path}: {name} is {array.dtype} {array.shape}: must be {dtype} {tuple(shape)}; "
                "save the model anew"
            )
        arrays[name] = array
    return Saved(about["config"], arrays)


@contextlib.contextmanager
def fitting(directory: str | os.PathLike[str]) -> Iterator[None]:
    """Around what makes a model of its config and arrays: what is missing there is damage.

    Args:
      directory: of the model.

    Raises:
      ValueError: if a name is missing within, or isn't known.

    Example:
      >>> with fitting("MODEL"):
      ...     {"depth": 2}["deoth"]
      Traceback (most recent call last):
      ValueError: MODEL/model.json doesn't fit its arrays (KeyError: 'deoth'): ...
    """
    try:
        yield
    except (AttributeError, IndexError, KeyError, TypeError) as error:
        raise ValueError(
            f"{Path(directory) / MANIFEST} doesn't fit its arrays ({type(error).__name__}: "
            f"{error}): it is damaged, or of another version; save the model anew"
        ) from error


def read_manifest(directory: str | os.PathLike[str]) -> dict[str, Any]:
    """`model.json`: kind, format, config, and the names, dtypes and shapes of the arrays.

    Raises:
      ValueError: if it isn't there, is damaged, or of a later format.
    """
    path = Path(directory) / MANIFEST
    try:
        about = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise ValueError(
            f"{directory} has no {MANIFEST}: must be a saved model's directory; train one first"
        ) from None
    except NotADirectoryError:
        raise ValueError(f"{directory} is a file: must be the directory of a saved model") from None
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} can't be read ({error}): save the model anew") from error
    if not isinstance(about, dict) or not about.keys() >= _KEYS:
        raise ValueError(f"{path} is no description of a saved model: save the model anew")
    if about["format"] > FORMAT:
        raise ValueError(
            f"{path} has format {about['format']}: must be at most {FORMAT}; "
            "install a later version"
        )
    return about


def _to_plain(name: str, array: np.ndarray) -> np.ndarray:
    """What `.npz` can hold: bfloat16 as its words."""
    if array.dtype == jnp.bfloat16:
        return array.view(np.uint16)
    if array.dtype.hasobject:
        raise TypeError(f"array {name} holds objects: must be numbers; put what is none in config")
    return array
