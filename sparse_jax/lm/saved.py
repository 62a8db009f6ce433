"""Opens what train_lm.py saved in --checkpoint DIR."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from sparse_jax import optim
from sparse_jax.lm import bpe, generate, model, sparse_head, training
from sparse_jax.retrieval import index
from sparse_jax.runtime import checkpoint


class Saved(NamedTuple):
    """A trained model."""

    state: training.LMState
    config: model.Config
    vocabulary: Any
    files: list[str]  # it was trained on


def load_model(directory: str) -> Saved:
    """The last checkpoint in a directory.

    Raises:
      ValueError: if there is none, or it is of a version whose models are built otherwise.
    """
    about = Path(directory) / "model.json"
    if not about.exists():
        raise ValueError(f"{directory} has no model.json: give the --checkpoint of train_lm.py")
    told = json.loads(about.read_text())
    lacking = sorted({x.name for x in dataclasses.fields(model.Config)} - told["config"].keys())
    if lacking:
        raise ValueError(
            f"{about} has no {', '.join(lacking)}: made by an earlier version; train the model anew"
        )
    fields = told["config"] | {"orders": tuple(told["config"]["orders"])}
    config = model.Config(**fields)
    tx = optim.rowwise(optax.scale_by_adam())
    like = jax.eval_shape(
        lambda: training.init_state(
            jax.random.key(0), tx, jnp.ones(config.vocabulary), config=config
        )
    )
    found = checkpoint.restore(directory, like)
    if found is None:
        raise ValueError(f"{directory} has no finished checkpoint yet")
    return Saved(found[0], config, bpe.load_vocabulary(told["vocabulary"]), told["files"])


def make_head(
    saved: Saved, tables: index.IndexConfig | None = None, popular: int = 1024
) -> sparse_head.SparseHead:
    """The softmax through hash tables, its queries centred on text of the model's own."""
    params, memory = saved.state.params, saved.state.memory
    lsh = saved.state.lsh
    stream = generate.stream(params, memory, [[]] * 32, config=saved.config, lsh=lsh)
    written = np.stack([next(stream) for _ in range(saved.config.history + 32)], axis=1)
    since = np.full((32, 32), saved.config.history, np.int32)
    queries = sparse_head.sample_queries(
        params, memory, jnp.asarray(written), jnp.asarray(since), config=saved.config, lsh=lsh
    )
    return sparse_head.init(
        jax.random.key(0), params, saved.state.unigram, queries, config=tables, popular=popular
    )
