"""Apples and cars as texts and as counts of words, with their classes as lists and as a matrix."""

from __future__ import annotations

import numpy as np
import scipy.sparse

TEXTS = ["red apple", "green apple", "red car", "fast car"] * 6
LISTS = [["food", "red"], ["food"], ["thing", "red"], ["thing"]] * 6
INDICATOR = np.array([[1, 1, 0], [1, 0, 0], [0, 1, 1], [0, 0, 1]] * 6)  # of food, red, thing
X = scipy.sparse.csr_array(
    np.array([[1, 1, 0, 0, 0], [0, 1, 1, 0, 0], [1, 0, 0, 1, 0], [0, 0, 0, 1, 1]] * 6, float)
)
