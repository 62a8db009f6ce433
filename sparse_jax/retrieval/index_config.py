"""What an LSH index is made of: the hash family, the tables' sizes, the schedules."""

from __future__ import annotations

import dataclasses

from sparse_jax.retrieval import schedules, tables


@dataclasses.dataclass(frozen=True)
class IndexConfig:
    """How to index. The defaults suit a hidden width of about 128.

    Attributes:
      family: of hash functions, a key of `hashing.FAMILIES`, but for "minhash".
      transform: of rows before they are hashed, one of `hashing.transforms.NAMES`.
      num_tables: L. More find more and cost more.
      num_bits: K; a table has 2**K buckets. More make buckets smaller and a query faster.
      capacity: places in a bucket; None: four times the mean bucket, from 8 to 128.
      policy: which rows a full bucket keeps; see `tables`.
      max_candidates: ranked rows for each query.
      rehash: when rows that have changed are hashed anew.
      rebuild: when new functions are drawn and all rows are hashed.

    Example:
      >>> IndexConfig(num_tables=32, num_bits=8, max_candidates=4).bucket_capacity(5_000)
      78
    """

    family: str = "simhash"
    transform: str = "centred"
    num_tables: int = 16
    num_bits: int = 9
    capacity: int | None = None  # None: four times the mean bucket, from 8 to 128
    policy: tables.Policy = "reservoir"
    max_candidates: int = 32
    rehash: schedules.Schedule = dataclasses.field(
        default_factory=lambda: schedules.exponential(50, growth=1.2)
    )
    rebuild: schedules.Schedule = dataclasses.field(
        default_factory=lambda: schedules.exponential(500, growth=1.5)
    )

    def bucket_capacity(self, num_rows: int) -> int:
        """Places in a bucket for this many rows.

        Args:
          num_rows: N.

        Returns:
          `capacity`, or what its None stands for.
        """
        if self.capacity is not None:
            return self.capacity
        return int(min(max(8, 4 * num_rows / 2**self.num_bits), 128))
