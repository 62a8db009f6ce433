"""Words, n-grams and pairs of texts as features, and postings over them."""

from sparse_jax.text.vectorizer import Rows as Rows
from sparse_jax.text.vectorizer import Vectorizer as Vectorizer
from sparse_jax.text.vectorizer import fit as fit
from sparse_jax.text.vectorizer import fit_transform as fit_transform
from sparse_jax.text.vectorizer import transform as transform
