"""The latent half of a network: its space is that of the singular vectors, and nothing else is."""

import numpy as np
import pytest

from sparse_jax.search import latent
from sparse_jax.text.features import PAIR, WORD, Features

DOCUMENTS, WORDS, DIM = 60, 40, 5


def collection(seed=0):
    """Features of documents of few topics, and the matrix of words that they stand for."""
    rng = np.random.default_rng(seed)
    topics = rng.random((DIM, WORDS)) ** 4
    dense = rng.random((DOCUMENTS, DIM)) ** 3 @ topics + 0.02 * rng.random((DOCUMENTS, WORDS))
    dense[rng.random(dense.shape) < 0.02] = 0
    row, column = np.nonzero(dense)
    kinds = np.where(column % 7, WORD, PAIR).astype(np.int8)
    offsets = np.searchsorted(row, np.arange(DOCUMENTS + 1))
    features = Features(offsets, column.astype(np.int32), np.ones(row.size, np.float32), kinds)
    return features, dense[row, column].astype(np.float32), dense


def rows(features, values, **other):
    given = {"order": np.arange(DOCUMENTS), "kept": np.ones(WORDS, bool), "dim": DIM, "seed": 3}
    return latent.rows(features, values, **given | other)


def test_the_space_is_that_of_the_largest_singular_vectors():
    features, values, dense = collection()
    dense[:, ::7] = 0  # pairs
    dense /= np.linalg.norm(dense, axis=1, keepdims=True)
    singular = np.linalg.svd(dense)[2][:DIM].T
    found = rows(features, values).astype(np.float64)
    np.testing.assert_allclose(found @ found.T, singular @ singular.T, atol=0.02)
    np.testing.assert_allclose(found.T @ found, np.eye(DIM), atol=1e-5)


def test_features_that_do_not_count_have_no_row():
    features, values, _ = collection()
    kept = np.arange(WORDS) % 5 > 0
    found = rows(features, values, kept=kept)
    assert not found[~kept].any() and not found[::7].any()
    assert found[kept & (np.arange(WORDS) % 7 > 0)].any(axis=1).all()


def test_documents_are_summed_in_the_order_that_is_given():
    """So that the bits follow from the documents, however they came."""
    features, values, dense = collection()
    order = np.random.default_rng(1).permutation(DOCUMENTS)
    row, column = np.nonzero(dense[order])
    kinds = np.where(column % 7, WORD, PAIR).astype(np.int8)
    offsets = np.searchsorted(row, np.arange(DOCUMENTS + 1))
    moved = Features(offsets, column.astype(np.int32), np.ones(row.size, np.float32), kinds)
    there = dense[order][row, column].astype(np.float32)
    np.testing.assert_array_equal(
        rows(moved, there, order=np.argsort(order)), rows(features, values)
    )


@pytest.mark.parametrize(("dim", "kept"), [(0, True), (3, False), (50, True)])
def test_small_collections_leave_the_rest_at_zero(dim, kept):
    features, values, _ = collection()
    found = rows(features, values, dim=dim, kept=np.full(WORDS, kept))
    assert found.shape == (WORDS, dim)
    size = min(dim, WORDS - len(range(0, WORDS, 7))) * kept
    assert np.count_nonzero(np.linalg.norm(found, axis=0) > 0.5) == size


def test_parts_are_levelled_by_their_lengths():
    features, values, _ = collection()
    part = rows(features, values)
    assert latent.level(part, 3 * part, features, values) == pytest.approx(3)
    assert latent.level(0 * part, part, features, values) == 0
