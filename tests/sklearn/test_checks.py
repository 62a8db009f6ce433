"""scikit-learn's own checks of an estimator; all that apply pass.

Two skip themselves: one of array libraries other than NumPy, where SCIPY_ARRAY_API isn't set, and
one of `decision_function`, which there is none of: scores before calibration mean nothing that
`predict_proba` doesn't say better.
"""

from __future__ import annotations

import pytest

pytest.importorskip("sklearn")

from sklearn.utils.estimator_checks import estimator_checks_generator

from sparse_jax.sklearn import SparseClassifier

pytestmark = pytest.mark.usefixtures("quick_compiles")

CHECKS = [check for _, check in estimator_checks_generator(SparseClassifier())]


def name(check):
    options = "".join(f"-{key}={value}" for key, value in check.keywords.items())
    return check.func.__name__ + options


@pytest.mark.parametrize("check", CHECKS, ids=name)
def test_scikit_learns_checks(check):
    check(SparseClassifier())


def test_the_checks_are_those_of_a_classifier_of_many_kinds():
    names = {check.func.__name__ for check in CHECKS}
    assert {"check_estimator_sparse_array", "check_estimators_pickle"} <= names
    assert "check_classifiers_multilabel_representation_invariance" in names
