"""Summaries: sentences of the text itself, or one line written by a trained model.

`extractive` takes sentences near the middle of a text and unlike each other. `fit` trains a
`Summarizer` on pairs of a text and its summary; `save` and `load` keep it.

Example:
  >>> from sparse_jax import summarize
  >>> summarize.extractive("Apples are red. Apples grow on trees. Bye.", max_words=3)
  'Apples are red.'
"""

from sparse_jax.summarize.abstractive import Summarizer as Summarizer  # what `fit` returns
from sparse_jax.summarize.abstractive import fit
from sparse_jax.summarize.extraction import extractive
from sparse_jax.summarize.extraction import sentences as sentences
from sparse_jax.summarize.saved import load, save

__all__ = ["extractive", "fit", "load", "save"]
