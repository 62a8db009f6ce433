"""Summaries made of sentences of the text itself: near the middle of it, and unlike each other.

Example:
  >>> from sparse_jax import summarize
  >>> summarize.extractive("Apples are red. Apples grow on trees. Bye.", max_words=3)
  'Apples are red.'
"""

from sparse_jax.summarize.extraction import extractive, sentences

__all__ = ["extractive", "sentences"]
