"""`SparseClassifier.partial_fit`: more points, new classes, new words."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse

pytest.importorskip("sklearn")

from small_classes import INDICATOR, LISTS, TEXTS, X

from sparse_jax.sklearn import SparseClassifier

pytestmark = pytest.mark.usefixtures("quick_compiles")


def test_partial_fit_sorts_in_new_classes_and_learns_new_words():
    classifier = SparseClassifier().partial_fit(TEXTS, LISTS)
    before = len(classifier.vocabulary_.words)
    more = ["blue apple", "wild bear"] * 12
    classifier.partial_fit(more, [["food", "blue"], ["animal"]] * 12)
    assert classifier.classes_.tolist() == ["animal", "blue", "food", "red", "thing"]
    assert classifier.model_.about.label_names == ("food", "red", "thing", "animal", "blue")
    assert len(classifier.vocabulary_.words) == before + 3
    best = classifier.predict_proba(["wild bear", "red car"]).toarray().argmax(axis=1)
    assert best[0] == 0 and classifier.classes_[best[1]] in ("red", "thing")
    assert classifier.score(more, [["food", "blue"], ["animal"]] * 12) == 1
    classifier.partial_fit(["!?"], [["food"]])  # a text without words is a point nonetheless


def test_partial_fit_takes_classes_before_their_first_point():
    y = np.array(["b", "a"] * 12)
    classifier = SparseClassifier().partial_fit(X, y, classes=["c", "b", "a"])
    assert classifier.classes_.tolist() == ["a", "b", "c"]
    assert classifier.predict_proba(X).shape == (24, 3)
    assert "c" not in classifier.predict(X)
    classifier.partial_fit(np.eye(5)[[4] * 20], ["c"] * 20, classes=["a", "b", "c", "dd"])
    assert classifier.predict(np.eye(5)[[4]]).tolist() == ["c"]
    assert classifier.classes_.tolist() == ["a", "b", "c", "dd"]


def test_partial_fit_widens_indicators():
    classifier = SparseClassifier().fit(X, scipy.sparse.csr_array(INDICATOR))
    wider = scipy.sparse.csr_array(np.eye(4)[[3] * 20])
    classifier.partial_fit(np.eye(5)[[4] * 20], wider)
    assert classifier.predict(X).shape == (24, 4)
    assert classifier.predict_proba(np.eye(5)[[4]]).toarray().argmax() == 3


@pytest.mark.parametrize(
    ("y", "classes", "error", "message"),
    [
        (INDICATOR[:2], None, ValueError, "form 'dense': must be 'lists'"),
        ([["red"], [3]], None, TypeError, "all strings or all integers"),
        ([[3], [3]], None, TypeError, "label 3: must be of the kind"),
        ([["red"], ["new"]], ["red"], ValueError, "label 'new': classes must hold"),
        ([["red"]], None, ValueError, "inconsistent numbers of samples"),
        ([[0.5], [1.0]], None, TypeError, "float"),
    ],
)
def test_partial_fit_refuses_what_does_not_go_with_the_first(y, classes, error, message):
    classifier = SparseClassifier().fit(X, LISTS)
    before = classifier.predict(X)
    with pytest.raises(error, match=message):
        classifier.partial_fit(X[:2], y, classes=classes)
    assert classifier.predict(X) == before
