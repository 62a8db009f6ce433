"""Numbers as text that is read back bit for bit."""

from __future__ import annotations

import numpy as np


def format_values(values: np.ndarray) -> list[str]:
    """The shortest decimals that give the same float32 again.

    Args:
        values: float32 [n], finite.

    Returns:
        [n] texts.

    Example:
        >>> format_values(np.array([1, 0.1, -0.0], np.float32))
        ['1', '0.1', '-0']
    """
    # Few distinct values occur; bit patterns keep -0.0 apart from 0.0.
    bits, inverse = np.unique(values.view(np.uint32), return_inverse=True)
    texts = [_format(value) for value in bits.view(np.float32)]
    return [texts[i] for i in inverse.tolist()]


def _format(value: np.float32) -> str:
    text = str(value).removesuffix(".0")
    # The shortest decimal is read back through a double; keep it only if that rounds the same.
    return text if np.float32(float(text)) == value else f"{float(value):.17g}"
