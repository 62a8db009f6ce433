"""Reading, weighting and batching of sparse training data."""

# Not listed in `__all__`, but kept under these names.
from sparse_jax.data import batching as batching
from sparse_jax.data import features as features
from sparse_jax.data import weighting as weighting
from sparse_jax.data.batching import Batch as Batch
from sparse_jax.data.batching import Capacity as Capacity
from sparse_jax.data.batching import batches as batches
from sparse_jax.data.batching import epoch_order as epoch_order
from sparse_jax.data.batching import make_batch as make_batch
from sparse_jax.data.batching import num_batches as num_batches
from sparse_jax.data.batching import plan_capacity as plan_capacity
from sparse_jax.data.batching import stack as stack
from sparse_jax.data.csr import concatenate as concatenate
from sparse_jax.data.csr import from_csr as from_csr
from sparse_jax.data.csr import to_csr as to_csr
from sparse_jax.data.csr import with_sizes as with_sizes
from sparse_jax.data.errors import FormatError as FormatError
from sparse_jax.data.event_files import read_histories as read_histories
from sparse_jax.data.histories import Histories as Histories
from sparse_jax.data.histories import leave_one_out as leave_one_out
from sparse_jax.data.histories import of_events as of_events
from sparse_jax.data.histories import of_lists as of_lists
from sparse_jax.data.histories import split_at as split_at
from sparse_jax.data.item_texts import read_item_texts as read_item_texts
from sparse_jax.data.jsonl import read_jsonl as read_jsonl
from sparse_jax.data.names import read_names as read_names
from sparse_jax.data.prefetch import prefetch as prefetch
from sparse_jax.data.reading import kinds as kinds
from sparse_jax.data.reading import read, write
from sparse_jax.data.tables import Table as Table
from sparse_jax.data.tfidf import apply_tfidf as apply_tfidf
from sparse_jax.data.tfidf import fit_idf as fit_idf
from sparse_jax.data.vocabulary import Vocabulary as Vocabulary
from sparse_jax.data.xmc import XmcData
from sparse_jax.data.xmc import XmcFormatError as XmcFormatError
from sparse_jax.data.xmc import read_xmc as read_xmc
from sparse_jax.data.xmc import write_xmc as write_xmc

__all__ = [
    "XmcData",
    "read",
    "write",
]
