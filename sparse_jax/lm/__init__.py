"""A language model of a billion parameters that trains from scratch on one CPU.

`text` and `bpe` make tokens, `batching` batches; `memory` holds the row-sparse table, `model` the
trunk and the mixture, `training` the step; `evaluate` scores exactly, `sparse_head` through hash
tables, `generate` writes. `save` and `load` keep a finished `LanguageModel`.
"""

# Not listed in `__all__`, but kept under these names: `X as X`.
from sparse_jax.lm import arpa as arpa
from sparse_jax.lm import batching as batching
from sparse_jax.lm import bpe as bpe
from sparse_jax.lm import evaluate, generate
from sparse_jax.lm import interpolation as interpolation
from sparse_jax.lm import memory as memory
from sparse_jax.lm import model as model
from sparse_jax.lm import ngram as ngram
from sparse_jax.lm import sparse_head as sparse_head
from sparse_jax.lm import spelling as spelling
from sparse_jax.lm import text as text
from sparse_jax.lm import training as training
from sparse_jax.lm.saved import LanguageModel as LanguageModel  # what `load` returns
from sparse_jax.lm.saved import from_state as from_state
from sparse_jax.lm.saved import load, save

__all__ = ["evaluate", "generate", "load", "save"]
