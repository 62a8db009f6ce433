"""A scikit-learn estimator over `sparse_jax.xmc`; needs `pip install sparse_jax[sklearn]`.

Nothing else in the package imports this module, nor scikit-learn.
"""

try:
    import sklearn as _  # noqa: F401
except ImportError as error:
    raise ImportError(
        "sparse_jax.sklearn needs scikit-learn: pip install 'sparse_jax[sklearn]'; the functions "
        "of sparse_jax.xmc do without"
    ) from error

from sparse_jax.sklearn.classifier import SparseClassifier

__all__ = ["SparseClassifier"]
