"""Summaries: sentences of the text itself, or one line written by a trained model.

`extractive` takes sentences near the middle of a text and unlike each other. `fit` trains a
`Summarizer` on pairs of a text and its summary; `load` opens a saved one.

Example:
  >>> from sparse_jax import summarize
  >>> summarize.extractive("Apples are red. Apples grow on trees. Bye.", max_words=3)
  'Apples are red.'
"""

from sparse_jax.summarize.abstractive import Summarizer, fit, load
from sparse_jax.summarize.extraction import extractive, sentences

__all__ = ["Summarizer", "extractive", "fit", "load", "sentences"]
