"""Opening a kept language model."""

from __future__ import annotations

from sparse_jax import lm
from sparse_jax.lm.saved import LanguageModel
from sparse_jax.runtime import checkpoint


def load(directory: str) -> LanguageModel:
    """A model of `lm train` or `lm preference`.

    Raises:
      ValueError: if there is none; it tells a run that has not ended from an empty directory.
    """
    try:
        return lm.load(directory)
    except ValueError as error:
        if "has no model.json" in str(error) and checkpoint.read_extra(directory) is not None:
            raise ValueError(
                f"{directory} holds a training run that has not ended: end it by `lm train` with "
                "the same text and options and --resume"
            ) from None
        raise
