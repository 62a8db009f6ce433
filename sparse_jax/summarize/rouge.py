"""ROUGE of any script, by rouge-score."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from sparse_jax.text.segments import words


class _AnyScript:
    """Words of a text, for ROUGE: of plain ASCII text the same as rouge-score's own."""

    def tokenize(self, text: str) -> list[str]:
        return words(text.lower())


def rouge(references: Sequence[str], summaries: Sequence[str], name: str = "") -> dict[str, float]:
    """Mean F1 of ROUGE-1, ROUGE-2 and ROUGE-L, without stemming.

    Args:
      references: [n].
      summaries: [n].
      name: what the keys begin with.

    Returns:
      rouge1, rouge2 and rougeL in percent.

    Raises:
      ImportError: rouge-score is not installed.

    Example:
      >>> rouge(["a red apple"], ["red apple"])["rouge1"]
      80.0

    References:
      Lin, ROUGE: A Package for Automatic Evaluation of Summaries, 2004.
    """
    try:
        from rouge_score import rouge_scorer
    except ImportError as error:
        raise ImportError(
            "summaries are judged by rouge-score: pip install 'sparse_jax[summarize]'"
        ) from error
    kinds = ["rouge1", "rouge2", "rougeL"]
    scorer = rouge_scorer.RougeScorer(kinds, tokenizer=_AnyScript())
    found = [scorer.score(r, s) for r, s in zip(references, summaries, strict=True)]
    return {name + k: 100 * float(np.mean([f[k].fmeasure for f in found])) for k in kinds}
