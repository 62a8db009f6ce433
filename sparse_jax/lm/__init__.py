"""A language model of a billion parameters that trains from scratch on one CPU.

`text` and `bpe` make tokens, `batching` batches; `memory` holds the row-sparse table, `model` the
trunk and the mixture, `training` the step; `evaluate` scores exactly, `sparse_head` through hash
tables, `generate` writes. `save` and `load` keep a finished `LanguageModel`.
"""

from sparse_jax.lm import (
    batching,
    bpe,
    evaluate,
    generate,
    memory,
    model,
    sparse_head,
    spelling,
    text,
    training,
)
from sparse_jax.lm.saved import LanguageModel, from_state, load, save

__all__ = [
    "LanguageModel",
    "batching",
    "bpe",
    "evaluate",
    "from_state",
    "generate",
    "load",
    "memory",
    "model",
    "save",
    "sparse_head",
    "spelling",
    "text",
    "training",
]
