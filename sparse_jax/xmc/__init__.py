"""Extreme classification: a model over many labels, trained, kept, asked and taught more.

model = xmc.fit(data.read_xmc("train.txt"))
labels, scores = xmc.predict(model, data.read_xmc("new.txt"), k=5)
xmc.save(model, "folder"); model = xmc.load("folder")
"""

from sparse_jax.xmc.alone import fit_network as fit_network
from sparse_jax.xmc.evaluation import evaluate
from sparse_jax.xmc.files import load, save
from sparse_jax.xmc.fit import fit
from sparse_jax.xmc.inference import Predictions as Predictions  # what `predict` returns
from sparse_jax.xmc.inference import predict
from sparse_jax.xmc.model import Model as Model  # what `fit` returns
from sparse_jax.xmc.together import fit_together as fit_together
from sparse_jax.xmc.update import update

__all__ = ["evaluate", "fit", "load", "predict", "save", "update"]
