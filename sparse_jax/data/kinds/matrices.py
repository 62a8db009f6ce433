"""SciPy's sparse matrices: as the .npz files that PECOS keeps, and in memory."""

from __future__ import annotations

import io
from typing import Any

import scipy.sparse

from sparse_jax.data.csr import from_csr_weighted, to_csr
from sparse_jax.data.errors import FormatError
from sparse_jax.data.kinds.base import Head, Kind, Options, Source
from sparse_jax.data.tables import Table, weighted
from sparse_jax.data.xmc import check_finite


def _fits_npz(head: Head) -> bool:
    return head.content.startswith(b"PK\x03\x04")


def _load(source: Source) -> Any:
    try:
        # It refuses pickled arrays.
        return scipy.sparse.load_npz(io.BytesIO(source.content))
    except MemoryError:
        raise
    except Exception as error:  # zipfile, NumPy and SciPy raise of many kinds at what is damaged
        raise FormatError(
            source.name,
            f"holds no sparse matrix ({error}): must be written by scipy.sparse.save_npz, or be "
            "complete again",
        ) from None


def _read_npz(sources: tuple[Source, ...], options: Options) -> Table:
    matrices = [_load(source) for source in sources]
    try:
        return _table("npz", *matrices)
    except ValueError as error:
        raise FormatError(",".join(source.name for source in sources), str(error)) from None


def _table(kind: str, X: Any, Y: Any = None) -> Table:
    points, weights = from_csr_weighted(X, Y)
    return weighted(Table(points, kind), weights)


def _write_npz(table: Table, files: int, options: Options) -> list[bytes]:
    check_finite(table.points)
    matrices = to_csr(table.points, table.label_weights)
    contents = []
    for matrix in matrices[:files]:
        file = io.BytesIO()
        scipy.sparse.save_npz(file, scipy.sparse.csr_matrix(matrix))
        contents.append(file.getvalue())
    return contents


def _is_csr(given: Any) -> bool:
    if isinstance(given, tuple) and len(given) == 2:
        return scipy.sparse.issparse(given[0]) or scipy.sparse.issparse(given[1])
    return scipy.sparse.issparse(given)


def _read_csr(given: tuple[Any, ...], options: Options) -> Table:
    (matrices,) = given
    return _table("csr", *(matrices if isinstance(matrices, tuple) else (matrices,)))


KINDS = (
    Kind(
        name="npz",
        about="SciPy's sparse matrices of features and labels in two files, as X.npz,Y.npz",
        sign="the signature of a zip file",
        fits=_fits_npz,
        read=_read_npz,
        write=_write_npz,
        files=2,
        suffixes=(".npz",),
        texts=False,
        sized=True,
    ),
    Kind(
        name="csr",
        about="SciPy's sparse matrices in memory: X, or (X, Y)",
        sign="a sparse matrix, or two of them",
        fits=_is_csr,
        read=_read_csr,
        texts=False,
        sized=True,
        memory=True,
    ),
)
