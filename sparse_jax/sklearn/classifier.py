"""A classifier with scikit-learn's methods over the functions of `sparse_jax.xmc`."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import scipy.sparse
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils.validation import check_consistent_length, check_is_fitted, validate_data

from sparse_jax import xmc
from sparse_jax.data import Vocabulary, XmcData, from_csr
from sparse_jax.runtime.interrupt import Interrupt
from sparse_jax.sklearn import inputs, packed, targets
from sparse_jax.sklearn.targets import Targets
from sparse_jax.xmc import Model, Predictions, metrics

LIKELY = 0.5  # chance from which a label is predicted


class SparseClassifier(ClassifierMixin, BaseEstimator):
    """A linear part, label trees and perhaps networks over sparse features and many classes.

    `X` is a SciPy sparse matrix, a dense array (signed values are fine), or a list of texts, whose
    words are counted. Every row is scaled to unit length, so only proportions within a row count.

    `y` is 1-D with one class for each point; or, with any number of labels for each point, a list
    of lists of strings or integers, or an indicator matrix, sparse or dense. `predict` answers in
    the same form. A list of equally long lists of nothing but 0 and 1, two or more in each, is a
    dense indicator matrix.

    Args:
      preset: how much to spend, "fast" or "accurate".
      seed: of weights, order and samples; one seed gives the same bits.
      weighting: "tfidf" for counts, "none" for values that are weighted already, or "auto" to look
        at the values.
      k: classes of each point that `predict_proba` gives in a sparse matrix.
      sparse_output: whether `predict_proba` gives sparse matrices for 1-D `y` and dense indicator
        matrices, too: scikit-learn's tools ask for dense ones there, which many classes make large.

    Attributes:
      model_: the `xmc.Model`, for `xmc.save`, `xmc.predict` and all else.
      classes_: [N], sorted; 0 to N - 1 for an indicator matrix.
      vocabulary_: the `data.Vocabulary` of texts; None for matrices.
      n_features_in_: columns of a matrix; not there for texts.
      feature_names_in_: names of a data frame's columns, if they are strings.

    Example:
      >>> texts = ["red apple", "green apple", "red car", "fast car"] * 5
      >>> fruit = [["food", "red"], ["food"], ["thing", "red"], ["thing"]] * 5
      >>> SparseClassifier().fit(texts, fruit).predict(["green apple", "my fast car"])
      [['food'], ['thing']]
      >>> X = scipy.sparse.csr_array(np.eye(3)[[0, 1, 2] * 5])
      >>> SparseClassifier().fit(X, ["a", "b", "c"] * 5).predict(X[[2, 0]]).tolist()
      ['c', 'a']

    References:
      Buitinck et al., API design for machine learning software, 2013.
    """

    def __init__(
        self,
        *,
        preset: str = "fast",
        seed: int = 0,
        weighting: str = "auto",
        k: int = 5,
        sparse_output: bool = False,
    ) -> None:
        self.preset = preset
        self.seed = seed
        self.weighting = weighting
        self.k = k
        self.sparse_output = sparse_output

    def fit(self, X: Any, y: Any) -> SparseClassifier:
        """Trains anew.

        Args:
          X: n points: a matrix [n, features] or texts.
          y: their n targets, in one of the forms above.

        Returns:
          The classifier.

        Raises:
          TypeError: texts that are not all strings, labels that are neither strings nor integers.
          ValueError: values that aren't finite, unequal lengths, continuous targets, no points, no
            label at all, parameters out of range.

        Example:
          >>> classifier = SparseClassifier().fit([[1.0, 0.0], [0.0, 1.0]] * 10, [3, 7] * 10)
          >>> classifier.classes_.tolist(), classifier.n_features_in_
          ([3, 7], 2)
        """
        return self._start(X, y, None)

    def partial_fit(self, X: Any, y: Any, classes: Any = None) -> SparseClassifier:
        """Trains, or teaches a trained classifier more points.

        New classes, and new words of texts, may come with any call; weights of words and the kind
        of weighting stay those of the first. The first points should be many, as for `fit`: label
        trees keep their shape.

        Args:
          X: n points, of as many features as before.
          y: their n targets, in the form of the first call.
          classes: all classes that this call's targets have, and perhaps more, to have them in
            `classes_` before their first point; None for those of the targets.

        Returns:
          The classifier.

        Raises:
          TypeError: as `fit`, or classes that don't go with the earlier ones.
          ValueError: as `fit`, or targets that are not among `classes`.

        Example:
          >>> classifier = SparseClassifier().partial_fit(["red apple"] * 20, ["food"] * 20)
          >>> classifier = classifier.partial_fit(["fast car"] * 20, ["thing"] * 20)
          >>> classifier.predict(["a red apple", "a car"]).tolist()
          ['food', 'thing']
        """
        if not hasattr(self, "model_"):
            return self._start(X, y, classes)
        return self._go_on(X, y, classes)

    def predict(self, X: Any) -> Any:
        """The most likely class of each point, or all labels with a chance of at least a half.

        Args:
          X: n points.

        Returns:
          As `y` of `fit` was: an array [n] of classes; a list of lists, the most likely label
          first; a `csr_array` [n, N], or a dense array [n, N] of 0 and 1 of the dtype of `y`.

        Raises:
          TypeError: as `fit`.
          ValueError: another number of features than in `fit`, values that aren't finite.
          NotFittedError: before `fit`.

        Example:
          >>> y = np.array([[1, 0], [1, 1]] * 10)
          >>> classifier = SparseClassifier().fit(np.array([[1.0, 0.0], [0.0, 1.0]] * 10), y)
          >>> classifier.predict([[0.0, 2.0], [3.0, 0.0]]).tolist()
          [[1, 1], [1, 0]]
        """
        points = self._points(X)
        if self._form == "single":
            return targets.single(self.classes_, self._best(points, 1).labels)
        k = self.k
        found = self._best(points, k)
        while k < self.classes_.size and (found.scores[:, -1] >= LIKELY).any():
            k *= 2
            found = self._best(points, k)
        likely = found.scores >= LIKELY
        if self._form == "lists":
            return targets.lists(self.classes_, found.labels, likely)
        ones = np.ones(likely.shape, self._dtype)
        indicator = targets.matrix(self.classes_.size, found.labels, likely, ones)
        return indicator if self._form == "sparse" else indicator.toarray()

    def predict_proba(self, X: Any) -> Any:
        """Chances of classes.

        Args:
          X: n points.

        Returns:
          For one class for each point: float64 [n, N], the chances of all classes over their sum,
          dense as scikit-learn's metrics and searches need them. For a dense indicator matrix:
          float64 [n, N], each label's chance. For lists and sparse ones, and always with
          `sparse_output`: a float32 `csr_array` [n, N] with the chances of the k most likely
          labels, each its own, not over their sum.

        Raises:
          ValueError: as `predict`.

        Example:
          >>> classifier = SparseClassifier().fit([[1.0, 0.0], [0.0, 1.0]] * 10, [0, 1] * 10)
          >>> chances = classifier.predict_proba([[3.0, 0.0]])
          >>> chances.shape, bool(chances[0, 0] > 0.9)
          ((1, 2), True)
        """
        points, n = self._points(X), self.classes_.size
        if self.sparse_output or self._form in ("lists", "sparse"):
            found = self._best(points, self.k)
            return targets.matrix(n, found.labels, found.scores > 0, found.scores)
        found = self._best(points, n)
        return targets.chances(found.labels, found.scores, over_sum=self._form == "single")

    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        """The share of points whose most likely label is right: accuracy, or precision at 1.

        Args:
          X: n points.
          y: their true targets; those without a label count as wrong.
          sample_weight: float [n], of the points in the mean; None for equal ones.

        Returns:
          A number from 0 to 1.

        Raises:
          ValueError: as `fit` and `predict`.

        Example:
          >>> X, y = [[1.0, 0.0], [0.0, 1.0]] * 10, [["a", "b"], ["b"]] * 10
          >>> SparseClassifier().fit(X, y).score(X, y)
          1.0
        """
        points = self._points(X)
        true = targets.read(y, self._form)
        check_consistent_length(X, true.offsets[1:], sample_weight)
        columns = targets.places(true, self.classes_)
        known = columns >= 0
        before = np.concatenate([[0], np.cumsum(known)])
        best = self._best(points, 1).labels
        hits = metrics.hits(best, before[true.offsets], columns[known])
        return float(np.average(hits[:, 0], weights=sample_weight))

    @classmethod
    def from_model(cls, model: Model, *, form: str = "sparse", k: int = 5) -> SparseClassifier:
        """A classifier around a model of `xmc.fit` or `xmc.load`.

        Args:
          model: the model. Besides matrices, texts can be given if it has distinct feature names.
          form: of targets and predictions: "single", "lists", "sparse" or "dense". In the first two
            classes are the model's label names, or ids where it has none.
          k: as for the class.

        Returns:
          A fitted classifier.

        Raises:
          ValueError: an unknown form, or names that come twice.

        Example:
          >>> first = SparseClassifier().fit(["red apple", "fast car"] * 10, ["food", "thing"] * 10)
          >>> SparseClassifier.from_model(first.model_, form="lists").predict(["apples, red"])
          [['food']]
        """
        if form not in targets.FORMS:
            raise ValueError(f"form = {form!r}: must be one of {', '.join(targets.FORMS)}")
        about = model.about
        weighting = "none" if model.idf is None else "tfidf"
        found = cls(preset=about.preset, seed=about.seed, weighting=weighting, k=k)
        by_id = np.arange(model.num_labels)
        if form in ("single", "lists") and about.label_names is not None:
            by_id = np.array(about.label_names, object)
            if len(set(about.label_names)) < by_id.size:
                raise ValueError(
                    f"form = {form!r}: must be 'sparse' or 'dense' for a model with labels of "
                    "equal names; give each label a name of its own"
                )
        words = about.feature_names
        distinct = words is not None and len(set(words)) == len(words)
        found.vocabulary_ = Vocabulary(words) if words is not None and distinct else None
        found.n_features_in_ = model.num_features
        return found._keep(model, by_id, form, np.dtype(np.int64))

    def _start(self, X: Any, y: Any, classes: Any) -> SparseClassifier:
        if self.k < 1:
            raise ValueError(f"k = {self.k}: must be at least 1")
        texts = inputs.texts(X)
        for name in ("model_", "n_features_in_", "feature_names_in_"):
            self.__dict__.pop(name, None)
        self.vocabulary_ = None
        if texts is None:
            matrix = validate_data(self, X, accept_sparse="csr", dtype=np.float32)
            features = from_csr(scipy.sparse.csr_array(matrix))
            feature_names = getattr(self, "feature_names_in_", None)
        else:
            self.vocabulary_ = Vocabulary(inputs.words(texts))
            if not self.vocabulary_.words:
                raise ValueError("X holds no words: some texts must have letters or digits")
            features, feature_names = self.vocabulary_.transform(texts), self.vocabulary_.words
        true = targets.read(y)
        check_consistent_length(X, true.offsets[1:])
        by_id = targets.classes_of(true, classes)
        interrupt = Interrupt()
        model = xmc.fit(
            _with_labels(features, true, by_id),
            preset=self.preset,
            seed=self.seed,
            weighting=self.weighting,
            label_names=targets.names(by_id, true.form),
            feature_names=None if feature_names is None else [str(x) for x in feature_names],
            interrupt=interrupt,
        )
        return self._keep(_whole(model, interrupt), by_id, true.form, true.dtype)

    def _go_on(self, X: Any, y: Any, classes: Any) -> SparseClassifier:
        vocabulary, texts = self.vocabulary_, inputs.texts(X)
        if texts is not None and vocabulary is not None:
            words = np.array(inputs.words(texts), object)
            fresh = np.diff(vocabulary.transform(words).feature_offsets) == 0
            vocabulary = Vocabulary(vocabulary.words + tuple(words[fresh]))
        features = self._points(X, vocabulary)
        true = targets.read(y, self._form)
        check_consistent_length(X, true.offsets[1:])
        by_id = self.classes_[self._columns]
        given = targets.classes_of(true, classes)
        if given.size < by_id.size and true.form in ("sparse", "dense"):
            raise ValueError(f"y has {given.size} columns: must have at least {by_id.size}")
        known = set(by_id.tolist())
        new = [x for x in given.tolist() if x not in known]
        if new:
            if isinstance(new[0], str) != isinstance(by_id[0], str):
                raise TypeError(f"y has the label {new[0]!r}: must be of the kind of {by_id[0]!r}")
            kind = object if by_id.dtype == object else np.asarray(new).dtype
            by_id = np.concatenate([by_id, np.array(new, kind)])
        interrupt = Interrupt()
        model = xmc.update(
            self.model_,
            _with_labels(features, true, by_id),
            seed=self.seed,
            label_names=targets.names(by_id, true.form),
            feature_names=None if vocabulary is None else vocabulary.words,
            interrupt=interrupt,
        )
        model = _whole(model, interrupt)
        self.vocabulary_ = vocabulary
        if hasattr(self, "n_features_in_"):
            self.n_features_in_ = model.num_features
        return self._keep(model, by_id, self._form, self._dtype)

    def _keep(
        self, model: Model, by_id: np.ndarray, form: str, dtype: np.dtype[Any]
    ) -> SparseClassifier:
        """Takes a model whose labels are the classes `by_id`."""
        order = np.argsort(by_id, kind="stable")
        self.classes_ = by_id[order]
        self._columns = np.empty(order.size, np.int64)  # of the model's labels in `classes_`
        self._columns[order] = np.arange(order.size)
        self._form, self._dtype = form, dtype
        self.model_ = model
        return self

    def _points(self, X: Any, vocabulary: Vocabulary | None = None) -> XmcData:
        """Points of a fitted classifier, without labels."""
        check_is_fitted(self, "model_")
        texts = inputs.texts(X)
        if texts is not None:
            vocabulary = vocabulary or self.vocabulary_
            if vocabulary is None:
                raise ValueError("X holds texts: must be a matrix, as in fit")
            return vocabulary.transform(texts)
        if not hasattr(self, "n_features_in_"):
            raise ValueError("X holds no texts: must be a list of strings, as in fit")
        matrix = validate_data(self, X, accept_sparse="csr", dtype=np.float32, reset=False)
        return from_csr(scipy.sparse.csr_array(matrix))

    def _best(self, points: XmcData, k: int) -> Predictions:
        """The best k classes, or all if there are fewer, by their places in `classes_`."""
        found = xmc.predict(self.model_, points, k=min(k, self.classes_.size))
        return Predictions(self._columns[found.labels], found.scores)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        tags.classifier_tags.multi_label = True
        return tags

    def __getstate__(self) -> dict[str, Any]:
        """Parameters, NumPy arrays, and the model as the bytes of the files it is saved in."""
        state = dict(super().__getstate__())
        if "model_" in state:
            state["vocabulary_"] = state["vocabulary_"] is not None
            state["_files"] = packed.to_files(state.pop("model_"))
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        state = dict(state)
        files = state.pop("_files", None)
        if files is not None:
            model = state["model_"] = packed.from_files(files)
            has_words, names = state["vocabulary_"], model.about.feature_names
            state["vocabulary_"] = Vocabulary(names or ()) if has_words else None
        super().__setstate__(state)


def _with_labels(features: XmcData, true: Targets, by_id: np.ndarray) -> XmcData:
    """Points with the targets as ids in `by_id`."""
    return dataclasses.replace(
        features,
        label_offsets=true.offsets,
        label_ids=targets.places(true, by_id).astype(np.int32),
        num_labels=by_id.size,
    )


def _whole(model: Model, interrupt: Interrupt) -> Model:
    """The model, unless Ctrl-C cut its training short: searches over parameters must stop too."""
    if interrupt.asked:
        raise KeyboardInterrupt
    return model
