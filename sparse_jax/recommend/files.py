"""A recommender on disk: what `Model` holds, in the one format of saved models."""

from __future__ import annotations

import itertools
import os
from typing import Any

import jax
import numpy as np

from sparse_jax.data.histories import Histories
from sparse_jax.data.xmc import offsets_of
from sparse_jax.recommend.model import Mix, Model, Pairs, Shape, Strength, Texts
from sparse_jax.runtime import saved
from sparse_jax.text import vectorizer

KIND = "recommend"


def save(model: Model, path: str | os.PathLike[str]) -> None:
    """Writes a model into a directory, in the place of the one that may be there.

    Args:
        model: of `recommend.fit`.
        path: the directory, made if missing. A process killed at any moment leaves the model that
            was there, or this one.

    Raises:
        OSError: if it can't be written.

    Example:
        >>> import tempfile
        >>> from sparse_jax import data, recommend
        >>> model = recommend.fit(data.of_lists([["tea", "milk"]] * 9), preset="linear")
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     save(model, folder)
        ...     same = load(folder)
        >>> same.names(recommend.predict(same, [["tea"]], k=1).items[0])
        ['milk']
    """
    config, arrays = _to_saved(model)
    saved.save(path, kind=KIND, config=config, arrays=arrays)


def load(path: str | os.PathLike[str]) -> Model:
    """Reads what `save` wrote; predictions are bit for bit those of the model saved.

    Args:
        path: the directory.

    Returns:
        A `Model`.

    Raises:
        ValueError: if there is no model, it is of another kind, or it is damaged.

    Example:
        >>> load("no such folder")
        Traceback (most recent call last):
        ValueError: ...
    """
    with saved.fitting(path):
        return _from_saved(*saved.load(path, kind=KIND))


def _from_saved(config: dict[str, Any], arrays: dict[str, np.ndarray]) -> Model:
    """The model that `_to_saved` was given."""
    recent = Histories(
        arrays["recent.offsets"],
        arrays["recent.items"],
        _to_names(arrays["item_names"], arrays["item_names.offsets"]),
        _to_names(arrays["user_names"], arrays["user_names.offsets"]),
    )
    encoders: list[dict[str, Any]] = [{} for _ in range(config["encoders"])]
    for name, array in arrays.items():
        if name.startswith("encoder"):
            number, *parts = name.removeprefix("encoder").split(".")
            _put(encoders[int(number)], parts, array)
    return Model(
        counts=_pairs("counts", arrays),
        closed=_pairs("closed", arrays) if "closed.items" in arrays else None,
        pairs=_pairs("pairs", arrays),
        popularity=arrays["popularity"],
        encoders=tuple(encoders),
        output=arrays["output"],
        bias=arrays["bias"],
        mix=Mix(**config["mix"]),
        shape=Shape(**config["shape"]),
        window=config["window"],
        recent=recent,
        preset=config["preset"],
        seed=config["seed"],
        notes=config["notes"],
        texts=_texts(config["texts"], arrays) if "texts" in config else None,
    )


def _to_saved(model: Model) -> tuple[dict[str, Any], dict[str, Any]]:
    """(JSON, arrays by name)."""
    arrays: dict[str, Any] = {
        "popularity": model.popularity,
        "output": model.output,
        "bias": model.bias,
        "recent.offsets": model.recent.offsets,
        "recent.items": model.recent.items,
    }
    for name, names in (("item_names", model.item_names), ("user_names", model.recent.user_names)):
        arrays[name], arrays[f"{name}.offsets"] = _to_bytes(names)
    for name, pairs in (("counts", model.counts), ("closed", model.closed), ("pairs", model.pairs)):
        if pairs is not None:
            arrays |= {f"{name}.{field}": x for field, x in pairs._asdict().items()}
    for number, encoder in enumerate(model.encoders):
        for path, leaf in jax.tree_util.tree_leaves_with_path(encoder):
            key = ".".join(part.key for part in path)
            arrays[f"encoder{number}.{key}"] = np.asarray(leaf)
    config = {
        "mix": model.mix._asdict(),
        "shape": vars(model.shape),
        "window": model.window,
        "preset": model.preset,
        "seed": model.seed,
        "notes": model.notes,
        "encoders": len(model.encoders),
    }
    if model.texts is not None:
        about, parts = vectorizer.to_saved(model.texts.vectorizer)
        config["texts"] = {"vectorizer": about, "strength": model.texts.strength._asdict()}
        arrays |= {f"vectorizer.{name}": x for name, x in parts.items()}
        arrays |= {f"texts.{field}": x for field, x in model.texts.rows._asdict().items()}
    return config, arrays


def _texts(config: dict[str, Any], arrays: dict[str, np.ndarray]) -> Texts:
    prefix = "vectorizer."
    parts = {n.removeprefix(prefix): x for n, x in arrays.items() if n.startswith(prefix)}
    rows = vectorizer.Rows(*(arrays[f"texts.{field}"] for field in vectorizer.Rows._fields))
    return Texts(
        vectorizer.from_saved(config["vectorizer"], parts), rows, Strength(**config["strength"])
    )


def _pairs(prefix: str, arrays: dict[str, np.ndarray]) -> Pairs:
    return Pairs(*(arrays[f"{prefix}.{field}"] for field in Pairs._fields))


def _put(tree: dict[str, Any], parts: list[str], array: np.ndarray) -> None:
    for part in parts[:-1]:
        tree = tree.setdefault(part, {})
    tree[parts[-1]] = array


def _to_bytes(names: tuple[str, ...]) -> tuple[np.ndarray, np.ndarray]:
    """(uint8 [bytes], int64 [n + 1]): UTF-8, one name behind the other."""
    words = [name.encode() for name in names]
    lengths = np.fromiter(map(len, words), np.int64, len(words))
    return np.frombuffer(b"".join(words), np.uint8), offsets_of(lengths)


def _to_names(content: np.ndarray, offsets: np.ndarray) -> tuple[str, ...]:
    data, ends = content.tobytes(), offsets.tolist()
    return tuple(data[a:b].decode() for a, b in itertools.pairwise(ends))
