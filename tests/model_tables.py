"""The tables in plain Python: two dictionaries, and buckets worked out anew at every look."""

from __future__ import annotations

from collections import Counter

import numpy as np

WORD = 0xFFFFFFFF


def mix(h: int) -> int:
    """The finalizer of MurmurHash3."""
    h ^= h >> 16
    h = h * 0x85EBCA6B & WORD
    h ^= h >> 13
    h = h * 0xC2B2AE35 & WORD
    return h ^ (h >> 16)


def priority(seed: int, table: int, row: int) -> int:
    """Seeded order of rows inside a table."""
    return mix(row ^ mix(seed & WORD ^ mix(table)))


class Model:
    """L tables over N rows; `codes` and `stamps` say all there is."""

    def __init__(self, rows: int, tables: int, buckets: int, capacity: int, policy: str, seed: int):
        self.rows, self.tables, self.buckets = rows, tables, buckets
        self.capacity, self.policy, self.seed = capacity, policy, seed
        self.codes: dict[tuple[int, int], int] = {}
        self.stamps: dict[int, int] = {}
        self.clock = 0
        self.rejected = 0

    def build(self, codes) -> None:
        """As `sparse_jax.tables.build`."""
        self.codes = {}
        self.rejected = 0
        for row, of_row in enumerate(codes):
            for table, code in enumerate(of_row):
                if 0 <= code < self.buckets:
                    self.codes[table, row] = code
                elif code != -1:
                    self.rejected += 1
        self.stamps = {row: row for row in range(self.rows)}
        self.clock = self.rows

    def write(self, ids, codes, *, restamp: bool) -> None:
        """Insert (restamp) or update, one row after the other."""
        for position, (row, of_row) in enumerate(zip(ids, codes, strict=True)):
            if row == -1:
                continue
            if not 0 <= row < self.rows or not all(-1 <= c < self.buckets for c in of_row):
                self.rejected += 1
                continue
            for table, code in enumerate(of_row):
                self.codes.pop((table, row), None)
                if code != -1:
                    self.codes[table, row] = code
            if restamp:
                self.stamps[row] = self.clock + position
        if restamp:
            self.clock += len(ids)

    def remove(self, ids) -> None:
        """As `sparse_jax.tables.remove`."""
        self.write(ids, [[-1] * self.tables] * len(ids), restamp=False)

    def members(self, table: int, bucket: int) -> list[int]:
        """All members, best first, those without a place included."""
        rows = [row for (t, row), code in self.codes.items() if (t, code) == (table, bucket)]
        if self.policy == "fifo":
            return sorted(rows, key=lambda row: (self.stamps.get(row, 0), row), reverse=True)
        return sorted(rows, key=lambda row: priority(self.seed, table, row))

    def query(self, codes, most: int) -> tuple[list[int], list[int], int]:
        """Ids, counts and the number of distinct ids for one query."""
        found = Counter(
            row
            for table, code in enumerate(codes)
            for row in self.members(table, code)[: self.capacity]
        )
        ranked = sorted(found, key=lambda row: (-found[row], priority(self.seed, WORD, row)))
        ids = (ranked + [-1] * most)[:most]
        return ids, [found[row] for row in ids], len(ranked)

    def arrays(self) -> dict[str, np.ndarray]:
        """The state as `HashTables` holds it."""
        buckets = np.full((self.tables, self.buckets, self.capacity), -1, np.int32)
        sizes = np.zeros((self.tables, self.buckets), np.int32)
        for table in range(self.tables):
            for bucket in range(self.buckets):
                members = self.members(table, bucket)
                sizes[table, bucket] = len(members)
                kept = members[: self.capacity]
                buckets[table, bucket, : len(kept)] = kept
        codes = np.full((self.tables, self.rows), -1, np.int32)
        for at, code in self.codes.items():
            codes[at] = code
        stamps = np.array([self.stamps.get(row, 0) for row in range(self.rows)], np.int32)
        return dict(
            buckets=buckets,
            sizes=sizes,
            codes=codes,
            stamps=stamps,
            clock=np.int32(self.clock),
            rejected=np.int32(self.rejected),
        )
