"""What `SparseClassifier` adds to scikit-learn's own checks."""

from __future__ import annotations

import copy
import io
import pickle
import pickletools
import subprocess
import sys
import warnings

import numpy as np
import pytest
import scipy.sparse

pytest.importorskip("sklearn")

import joblib
from sklearn.base import clone
from sklearn.exceptions import DataConversionWarning, NotFittedError
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.metrics import f1_score
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from small_classes import INDICATOR, LISTS, TEXTS, X

from sparse_jax import data, xmc
from sparse_jax.sklearn import SparseClassifier, targets

pytestmark = pytest.mark.usefixtures("quick_compiles")


def fitted(y, given=X, **parameters):
    return SparseClassifier(**parameters).fit(given, y)


# -- Forms.


@pytest.mark.parametrize(
    "y",
    [
        ["b", "a", "c", "d"] * 6,
        np.array(["b", "a", "c", "d"] * 6, object),
        [30, 10, 20, 40] * 6,
        np.array([3, 1, 2, 4] * 6, np.uint8),
        np.array([False, True, False, True] * 6),
    ],
    ids=["strings", "objects", "integers", "bytes", "booleans"],
)
def test_one_class_for_each_point_comes_back_as_it_was(y):
    classifier = fitted(y)
    predicted = classifier.predict(X)
    assert predicted.dtype == np.asarray(y).dtype
    assert predicted.tolist() == list(y)
    assert classifier.classes_.tolist() == sorted(set(y))
    assert classifier.score(X, y) == 1


def test_lists_come_back_as_lists():
    classifier = fitted(LISTS)
    assert [sorted(labels) for labels in classifier.predict(X)] == [sorted(x) for x in LISTS]
    assert classifier.classes_.tolist() == ["food", "red", "thing"]
    numbers = [[{"food": 7, "red": 3, "thing": 50}[x] for x in labels] for labels in LISTS]
    predicted = fitted(numbers).predict(X[:4])
    assert [sorted(labels) for labels in predicted] == [[3, 7], [7], [3, 50], [50]]
    assert all(type(label) is int for labels in predicted for label in labels)
    assert fitted([set(x) for x in LISTS]).predict(X) == classifier.predict(X)
    assert fitted([np.array(x) for x in LISTS]).predict(X) == classifier.predict(X)


@pytest.mark.parametrize("dtype", [np.int64, np.float32, bool])
def test_indicators_come_back_as_indicators(dtype):
    dense = INDICATOR.astype(dtype)
    predicted = fitted(dense).predict(X)
    assert predicted.dtype == dtype and np.array_equal(predicted, dense)
    for matrix in (scipy.sparse.csr_array, scipy.sparse.csc_matrix):
        predicted = fitted(matrix(dense)).predict(X)
        assert predicted.format == "csr" and predicted.dtype == dtype
        assert np.array_equal(predicted.toarray(), dense)


@pytest.mark.parametrize(
    ("y", "form"),
    [
        ([[0, 1, 1], [1, 0, 0]], "dense"),
        ([(0, 1), (1, 0)], "dense"),
        ([np.array([0, 1]), np.array([1, 1])], "dense"),
        ([[0], [1]], "lists"),
        ([[0, 1], [1]], "lists"),
        ([[0, 1], [2, 1]], "lists"),
        ([["0", "1"], ["1", "0"]], "lists"),
        ([[], [1]], "lists"),
        (np.array([[0, 1], [1]], object), "lists"),
        ([0, 1], "single"),
        (np.array([[0, 1], [1, 0]]), "dense"),
    ],
)
def test_forms_are_told_apart(y, form):
    assert targets.read(y).form == form


def test_a_list_of_zeros_and_ones_holds_labels_where_lists_are_known():
    classifier = fitted([[0, 1], [1], [0, 2], [2]] * 6)
    assert classifier.score(X[:2], [[1, 0], [0, 1]]) == 1
    assert targets.read([[0, 1], [1, 0]], "lists").labels.tolist() == [0, 1, 1, 0]


def test_a_column_of_classes_is_taken_with_a_warning():
    with pytest.warns(DataConversionWarning):
        classifier = fitted(np.array([[3], [1], [2], [4]] * 6))
    assert classifier.predict(X[:2]).tolist() == [3, 1]


def test_sparse_dense_and_texts_are_the_same_points():
    y = ["b", "a", "c", "d"] * 6
    chances = fitted(y).predict_proba(X)
    assert np.array_equal(chances, fitted(y, X.toarray()).predict_proba(X.toarray()))
    by_text = fitted(y, TEXTS, weighting="none").predict_proba(TEXTS)
    np.testing.assert_allclose(by_text, fitted(y, weighting="none").predict_proba(X), atol=0.01)
    for texts in (np.array(TEXTS), np.array(TEXTS, object), tuple(TEXTS)):
        assert np.array_equal(fitted(y, texts, weighting="none").predict_proba(texts), by_text)


def test_signed_values_count():
    signs = np.array([[1.0, -1.0], [-1.0, 1.0]] * 10)
    assert fitted([0, 1] * 10, signs).predict([[2.0, -3.0], [-1.0, 0.5]]).tolist() == [0, 1]


# -- Predictions.


def test_predictions_are_those_of_the_functions():
    points = data.from_csr(X, scipy.sparse.csr_array(INDICATOR))
    model = xmc.fit(points, seed=3)
    labels, scores = xmc.predict(model, points, k=2)
    classifier = fitted(scipy.sparse.csr_array(INDICATOR), seed=3, k=2)
    chances = classifier.predict_proba(X)
    assert chances.nnz == 2 * X.shape[0]
    assert np.array_equal(np.take_along_axis(chances.toarray(), labels, axis=1), scores)
    for predicted in (chances, SparseClassifier.from_model(model, k=2).predict_proba(X)):
        assert np.array_equal(predicted.toarray(), chances.toarray())
    expected = xmc.evaluate(xmc.predict(model, points), points)["p@1"]
    assert classifier.score(X, INDICATOR) == expected


def test_all_likely_labels_are_predicted_however_small_k():
    both = np.repeat(np.eye(2), 9, axis=1)[[0, 1] * 15].astype(int)  # nine labels a point
    given = np.eye(2)[[0, 1] * 15]
    assert np.array_equal(fitted(both, given, k=1).predict(given), both)


def test_dense_chances_are_of_single_labels_or_sum_to_one():
    of_labels = fitted(INDICATOR).predict_proba(X)
    assert of_labels.shape == (X.shape[0], 3) and (0 < of_labels).all() and (of_labels < 1).all()
    assert np.array_equal(of_labels >= 0.5, INDICATOR > 0)
    one = fitted(["b", "a", "c", "d"] * 6)
    np.testing.assert_allclose(one.predict_proba(X).sum(axis=1), 1)


def test_the_class_predicted_has_the_largest_chance_even_if_rounded_ones_tie(monkeypatch):
    classifier = fitted(["b", "a", "c", "d"] * 6)

    def certain(model, points, *, k):
        labels = np.tile(np.array([[2, 1, 0, 3]], np.int32), (points.num_points, 1))[:, :k]
        return xmc.Predictions(labels, np.ones(labels.shape, np.float32))

    monkeypatch.setattr(xmc, "predict", certain)
    best = classifier.predict_proba(X).argmax(axis=1)
    assert np.array_equal(classifier.classes_[best], classifier.predict(X))


def test_score_weighs_points_and_counts_those_without_a_known_label_as_wrong():
    classifier = fitted(LISTS)
    y = [LISTS[0], LISTS[1], ["unknown"], []]
    assert classifier.score(X[:4], y) == 0.5
    assert classifier.score(X[:4], y, sample_weight=[1, 1, 1, 5]) == 0.25


@pytest.mark.parametrize("form", ["single", "dense"])
def test_sparse_output_gives_the_best_chances_of_targets_that_scikit_learn_has_dense(form):
    y = np.array([labels[0] for labels in LISTS])
    y = y if form == "single" else INDICATOR
    dense, sparse = fitted(y), fitted(y, sparse_output=True, k=2)
    chances, expected = sparse.predict_proba(X), dense.predict_proba(X)
    assert isinstance(chances, scipy.sparse.csr_array) and chances.dtype == np.float32
    assert chances.shape == expected.shape and set(np.diff(chances.indptr)) == {2}
    assert np.array_equal(chances.toarray().argmax(axis=1), expected.argmax(axis=1))
    if form == "dense":  # in which each label has a chance of its own
        kept = chances.toarray() > 0
        np.testing.assert_allclose(chances.toarray()[kept], expected[kept], rtol=1e-5)
        assert (expected[kept].reshape(-1, 2).min(axis=1) >= np.sort(expected)[:, -2]).all()
    assert np.array_equal(sparse.predict(X), dense.predict(X))


# -- Copies and models.


@pytest.mark.parametrize("given", [X, TEXTS], ids=["matrix", "texts"])
def test_copies_predict_the_same_bits(given):
    classifier = fitted(LISTS, given, k=2)
    file = io.BytesIO()
    joblib.dump(classifier, file)
    file.seek(0)
    copies = [pickle.loads(pickle.dumps(classifier)), joblib.load(file), copy.deepcopy(classifier)]
    chances = classifier.predict_proba(given).toarray()
    for other in copies:
        assert np.array_equal(other.predict_proba(given).toarray(), chances)
        assert other.get_params() == classifier.get_params()
        other.partial_fit(given, LISTS)
    assert np.array_equal(classifier.predict_proba(given).toarray(), chances)
    fresh = clone(classifier)
    with pytest.raises(NotFittedError):
        fresh.predict(given)
    assert pickle.loads(pickle.dumps(fresh)).get_params() == classifier.get_params()


@pytest.mark.parametrize("given", [X, TEXTS], ids=["matrix", "texts"])
def test_pickles_name_no_class_but_numpys_and_the_estimator(given):
    content = pickle.dumps(fitted(LISTS, given), protocol=2)
    names = {arg.split(" ")[0] for op, arg, _ in pickletools.genops(content) if op.name == "GLOBAL"}
    ours = {name for name in names if not name.startswith("numpy")}
    assert ours - {"copy_reg", "_codecs"} == {"sparse_jax.sklearn.classifier"}


@pytest.mark.parametrize("form", targets.FORMS)
def test_a_model_becomes_a_classifier(form, tmp_path):
    first = fitted(LISTS, TEXTS)
    xmc.save(first.model_, tmp_path)
    classifier = SparseClassifier.from_model(xmc.load(tmp_path), form=form)
    predicted = classifier.predict(["green apple"])
    expected = {"single": ["food"], "lists": [["food"]]}
    if form in expected:
        assert list(predicted) == expected[form]
    else:
        found = predicted.toarray() if form == "sparse" else predicted
        assert found.tolist() == [[1, 0, 0]]
    counts = data.to_csr(first.vocabulary_.transform(["red apple"])).features
    assert np.array_equal(
        np.asarray(classifier.predict_proba(counts).sum()),
        np.asarray(classifier.predict_proba(["red apple"]).sum()),
    )
    assert classifier.weighting == "tfidf" and classifier.get_params()["preset"] == "fast"


def test_models_with_equal_names_or_none():
    points = data.from_csr(X, scipy.sparse.csr_array(INDICATOR))
    named = xmc.fit(points, label_names=["a", "a", "b"], feature_names=["x"] * 5)
    with pytest.raises(ValueError, match="equal names"):
        SparseClassifier.from_model(named, form="lists")
    with pytest.raises(ValueError, match="must be one of single, lists"):
        SparseClassifier.from_model(named, form="multilabel")
    classifier = SparseClassifier.from_model(named)
    assert np.array_equal(classifier.predict(X).toarray(), INDICATOR)
    with pytest.raises(ValueError, match="must be a matrix"):
        classifier.predict(["x"])
    lists = SparseClassifier.from_model(xmc.fit(points), form="lists").predict(X[:2])
    assert [sorted(labels) for labels in lists] == [[0, 1], [0]]


# -- Within scikit-learn.


def test_pipelines_and_searches():
    y = ["b", "a", "c", "d"] * 6
    pipeline = make_pipeline(TfidfVectorizer(), SparseClassifier())
    assert pipeline.fit(TEXTS, y).predict(["a green apple"]).tolist() == ["a"]
    search = GridSearchCV(pipeline, {"sparseclassifier__weighting": ["none", "auto"]}, cv=2)
    assert search.fit(TEXTS, y).best_score_ == 1
    texts = GridSearchCV(SparseClassifier(), {"seed": [0, 1]}, cv=2).fit(TEXTS, y)
    assert texts.best_score_ == 1
    assert (cross_val_score(SparseClassifier(), X, INDICATOR, cv=2) == 1).all()
    dense = scipy.sparse.csr_array(INDICATOR)
    assert f1_score(dense, fitted(dense).predict(X), average="micro") == 1


def test_many_classes_are_no_reason_to_warn():
    y = np.arange(24)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fitted(y, np.eye(24)).score(np.eye(24), y)


def test_columns_of_data_frames_keep_their_names():
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame(X.toarray(), columns=list("abcde"))
    classifier = fitted(pandas.Series(["b", "a", "c", "d"] * 6), frame)
    assert classifier.feature_names_in_.tolist() == list("abcde")
    assert classifier.model_.about.feature_names == tuple("abcde")
    with pytest.raises(ValueError, match="feature names should match"):
        classifier.predict(frame.rename(columns={"a": "z"}))
    with pytest.raises(ValueError, match="must be a matrix"):
        classifier.predict(["a"])
    by_text = fitted(pandas.Series(LISTS), pandas.Series(TEXTS))
    assert by_text.predict(pandas.Series(["green apple"])) == [["food"]]


def test_fitting_again_forgets():
    classifier = fitted(LISTS, TEXTS)
    with pytest.raises(ValueError, match="must be a list of strings"):
        classifier.predict(X)
    classifier.fit(X, INDICATOR)
    assert classifier.vocabulary_ is None and classifier.n_features_in_ == 5
    assert not hasattr(classifier.fit(TEXTS, LISTS), "n_features_in_")


def test_ctrl_c_is_passed_on(monkeypatch):
    fit = xmc.fit

    def stopped(points, *, interrupt, **options):
        interrupt.asked = True
        return fit(points, interrupt=interrupt, **options)

    monkeypatch.setattr(xmc, "fit", stopped)
    with pytest.raises(KeyboardInterrupt):
        fitted(LISTS)


@pytest.mark.parametrize(
    ("given", "y", "parameters", "error", "message"),
    [
        (X, LISTS, {"preset": "slow"}, ValueError, "must be one of fast, accurate"),
        (X, LISTS, {"weighting": "bm25"}, ValueError, "must be one of auto, tfidf, none"),
        (X, LISTS, {"seed": -1}, ValueError, "must be at least 0"),
        (X, LISTS, {"k": 0}, ValueError, "k = 0: must be at least 1"),
        (X, [[]] * 24, {}, ValueError, "nothing to learn"),
        (X, INDICATOR * 3 + 1, {}, ValueError, "Unknown label type"),
        (X, INDICATOR + 0.5, {}, ValueError, "Unknown label type: continuous"),
        (X, scipy.sparse.csr_array(-INDICATOR), {}, ValueError, "must be at least 0"),
        (X, [["a"], "b"] * 12, {}, TypeError, "must be a list of labels"),
        (X, None, {}, ValueError, "the target y is None"),
        (X, LISTS[:3], {}, ValueError, "inconsistent numbers of samples"),
        (X * np.nan, LISTS, {}, ValueError, "contains NaN"),
        ("one text", ["a"], {}, ValueError, "string object received"),
        (["text", None], ["a", "b"], {}, TypeError, r"X\[1\] = None: must be a string"),
        (["...", "!"], ["a", "b"], {}, ValueError, "holds no words"),
        ([], [], {}, ValueError, "Expected 2D array"),
        (X, ["a", np.nan] * 12, {}, ValueError, "NaN"),
        (X, np.array(["a", np.nan] * 12, object), {}, ValueError, "NaN"),
        (X, [1.0, np.nan] * 12, {}, ValueError, "NaN"),
        (X, np.arange(24) / 7, {}, ValueError, "continuous"),
    ],
)
def test_errors(given, y, parameters, error, message):
    with pytest.raises(error, match=message):
        fitted(y, given, **parameters)


def test_scikit_learn_is_imported_by_nothing_else():
    code = "import sys, sparse_jax, sparse_jax.xmc; sys.exit('sklearn' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
