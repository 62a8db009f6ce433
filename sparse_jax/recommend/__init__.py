"""Recommendation: from what users took, in order of time, to what they take next.

histories = data.read_histories("events.csv")
model = recommend.fit(histories)
items, scores = recommend.predict(model, histories, k=10)
recommend.save(model, "folder"); model = recommend.load("folder")
"""

from sparse_jax.recommend.evaluation import evaluate
from sparse_jax.recommend.files import load, save
from sparse_jax.recommend.fitting import fit
from sparse_jax.recommend.inference import Predictions as Predictions  # what `predict` returns
from sparse_jax.recommend.inference import predict, related
from sparse_jax.recommend.model import Model as Model  # what `fit` returns
from sparse_jax.recommend.updating import update

__all__ = ["evaluate", "fit", "load", "predict", "related", "save", "update"]
