"""The language model: n-gram memory → dense trunk → softmax, mixed with what followed before.

    p(w | history) = λ_0 softmax(W q)_w + Σ_n λ_n followers_n(w) + λ_recent recent(w)

with q from a residual MLP that reads the latest words' embeddings and the memory rows of the
contexts of each order, and λ from the same trunk and the counts of those contexts. Each part sums
to one over the vocabulary, so p does.
"""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from sparse_jax.layers import normalize
from sparse_jax.lm import attention, keyvalue
from sparse_jax.lm import memory as mem
from sparse_jax.ops.fixed_order import add_bias, matmul_columns
from sparse_jax.rows import take_rows

Params = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Config:
    """Static sizes of a model. The defaults have 1.08 · 10^9 parameters at V = 51,000."""

    vocabulary: int
    rows: int = 1 << 24  # R, of the memory; 0 leaves it out
    width: int = 64  # d, of a memory row
    dtype: str = "float32"  # of the memory's rows; or "bfloat16"
    orders: tuple[int, ...] = (1, 2, 3, 4, 5, 8, 16)  # tokens of context
    slots: int = 8  # followers that a row keeps
    window: int = 8  # latest words the trunk reads
    recent: int = 64  # latest words that attention reads and that may be repeated
    attention: int = 64  # width of its keys and values
    embed: int = 64  # width of input words
    hidden: int = 192
    inner: int = 384
    blocks: int = 1
    out: int = 128  # width of output words
    evidence: bool = True  # mix in the followers and recent words
    pairs: int = 0  # M, slots of the key-value memory; 0 leaves it out
    pair_candidates: int = 16  # C, of them that a position reads

    def __post_init__(self) -> None:
        if not 1 <= self.vocabulary <= mem.MAX_IDS:
            raise ValueError(f"vocabulary = {self.vocabulary}: must be 1 to {mem.MAX_IDS}")
        if self.orders != tuple(sorted(set(self.orders))) or self.orders[:1] < (1,):
            raise ValueError(f"orders = {self.orders}: must be ascending and at least 1")
        if self.dtype not in ("float32", "bfloat16"):
            raise ValueError(f"dtype = {self.dtype!r}: must be float32 or bfloat16")
        if self.pairs and not 1 <= self.pair_candidates <= self.pairs:
            raise ValueError(
                f"pairs = {self.pairs}: must be 0 or at least pair_candidates = "
                f"{self.pair_candidates}, which must be at least 1"
            )

    @property
    def history(self) -> int:
        """Tokens before a position that it may look at."""
        return max(self.window, self.recent + attention.BEFORE, self.orders[-1])


FORMER = {"dtype": "float32"}
"""What models and runs have that were saved before it could be chosen."""


def init(key: jax.Array, *, config: Config) -> tuple[Params, mem.Memory | None]:
    """(params, memory): tables `embed` [V, e], `out` [V, o], `bias` [V] and the dense trunk.

    With `config.pairs` also `keys` and `values` [M, hidden]; the others are the same without.
    """
    # Not from the split below: its size depends on the configuration, and so do its keys.
    pair_key, attention_key = (jax.random.fold_in(key, x) for x in (0x6B657973, 0x61747465))
    keys = iter(jax.random.split(key, 8 + 2 * config.blocks))

    def matrix(rows: int, columns: int, scale: float = 1.0) -> jax.Array:
        bound = scale / rows**0.5
        return jax.random.normal(next(keys), (rows, columns), jnp.float32) * jnp.float32(bound)

    c, orders = config, len(config.orders)
    trunk: Params = {
        "read_words": matrix(c.window * c.embed, c.hidden),
        "read_bias": jnp.zeros(c.hidden, jnp.float32),
        "attention": attention.init(
            attention_key, embed=c.embed, hidden=c.hidden, width=c.attention, recent=c.recent
        ),
        "query": matrix(c.hidden, c.out),
        "query_bias": jnp.zeros(c.out, jnp.float32),
        "blocks": [
            {
                "up": matrix(c.hidden, c.inner, 1.4),
                "up_bias": jnp.zeros(c.inner, jnp.float32),
                "down": matrix(c.inner, c.hidden, 0.5),
            }
            for _ in range(c.blocks)
        ],
    }
    parts = 1
    if c.rows:
        trunk["read_memory"] = matrix(orders * c.width, c.hidden)
        trunk["read_counts"] = matrix(_features(c), c.hidden)
    if c.evidence:
        parts += 1 + (orders if c.rows else 0)
        trunk["copy"] = jnp.zeros(c.recent, jnp.float32)
        inputs = c.hidden + (_features(c) if c.rows else 0)
        trunk["gate"] = matrix(inputs, 64)
        trunk["gate_bias"] = jnp.zeros(64, jnp.float32)
        trunk["mix"] = jnp.zeros((64, parts), jnp.float32)
        trunk["mix_bias"] = jnp.zeros(parts, jnp.float32).at[0].set(1.0)
    params: Params = {
        "embed": jax.random.normal(next(keys), (c.vocabulary, c.embed), jnp.float32),
        "out": matrix(c.vocabulary, c.out, (c.vocabulary / c.out) ** 0.5),
        "bias": jnp.zeros(c.vocabulary, jnp.float32),
        "copyable": jnp.zeros(c.vocabulary, jnp.float32),
        "trunk": trunk,
    }
    if c.pairs:
        params["keys"], params["values"] = keyvalue.init(pair_key, c.pairs, c.hidden)
    memory = mem.init(c.rows, c.width, slots=c.slots, dtype=jnp.dtype(c.dtype)) if c.rows else None
    return params, memory


_PER_ORDER = 4


def _features(config: Config) -> int:
    return _PER_ORDER * len(config.orders)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Evidence:
    """What followed each context of a position before, without the occurrence it trains on."""

    words: jax.Array  # int32 [B, O, K]
    shares: jax.Array  # float32 [B, O, K]; sums to 1 over K where there is any, else 0
    features: jax.Array  # float32 [B, O * 4], for the trunk and the mixture
    known: jax.Array  # bool [B, O]; whether its row is read


def gather_evidence(contexts: mem.ContextRows, targets: jax.Array | None) -> Evidence:
    """Counts of followers, with one occurrence of the target left out.

    Args:
      contexts: of `memory.find`.
      targets: int32 [B], what to leave out once because the memory has counted it already; -1 or
        None leaves nothing out.
    """
    places, shape = contexts.inverse.reshape(-1), contexts.inverse.shape
    words, counts = mem.unpack(take_rows(contexts.followers, places).reshape(*shape, -1))
    seen = take_rows(contexts.counts, places).reshape(shape)
    if targets is not None:
        hit = (words == targets[:, None, None]) & (counts > 0)
        counts = counts - hit.astype(jnp.int32)
        seen = jnp.maximum(seen - (targets >= 0).astype(jnp.int32)[:, None], 0)
    total = jnp.sum(counts, axis=2)
    share = counts.astype(jnp.float32) / jnp.maximum(total, 1).astype(jnp.float32)[..., None]
    features = jnp.stack(
        [
            jnp.log1p(seen.astype(jnp.float32)),
            jnp.max(share, axis=2),
            jnp.log1p(jnp.sum(counts > 0, axis=2).astype(jnp.float32)),
            (total > 0).astype(jnp.float32),
        ],
        axis=2,
    )
    return Evidence(words, share, features.reshape(seen.shape[0], -1), seen > 0)


def trunk(
    params: Params,
    words: jax.Array,
    rows: jax.Array | None,
    evidence: Evidence | None,
    back: attention.Context,
) -> jax.Array:
    """The hidden vectors after all blocks, float32 [B, hidden].

    Args:
      params: `params["trunk"]` of `init`.
      words: float32 [B, window * e], embeddings of the latest words.
      rows: float32 [B, O * d], the memory rows, zeros where there are none; or None.
      evidence: of the same contexts, or None.
      back: what attention looks at.
    """
    h = add_bias(matmul_columns(words, params["read_words"]), params["read_bias"])
    if rows is not None and evidence is not None:
        h = h + matmul_columns(rows, params["read_memory"])
        h = h + matmul_columns(evidence.features, params["read_counts"])
    h = h + attention.read(params["attention"], back, normalize(h))
    for block in params["blocks"]:
        inner = add_bias(matmul_columns(normalize(h), block["up"]), block["up_bias"])
        h = h + matmul_columns(jax.nn.relu(inner), block["down"])
    return h


class Head(NamedTuple):
    """What the softmax and the mixture need."""

    query: jax.Array  # float32 [B, out]
    log_mix: jax.Array  # float32 [B, parts]: the softmax, recent words, then each order


def head(
    params: Params,
    h: jax.Array,
    evidence: Evidence | None,
    has_recent: jax.Array,
    *,
    config: Config,
) -> Head:
    """The query and the mixture.

    Args:
      params: `params["trunk"]` of `init`.
      h: float32 [B, hidden], of `trunk`, normalized.
      evidence: as for `trunk`.
      has_recent: bool [B], whether there are recent words to repeat.
      config: static.

    Returns:
      `Head`; log λ.
    """
    query = add_bias(matmul_columns(h, params["query"]), params["query_bias"])
    if not config.evidence:
        return Head(query, jnp.zeros((h.shape[0], 1), jnp.float32))
    if evidence is not None:
        h = jnp.concatenate([h, evidence.features], axis=1)
    gate = jax.nn.relu(add_bias(matmul_columns(h, params["gate"]), params["gate_bias"]))
    logits = add_bias(matmul_columns(gate, params["mix"]), params["mix_bias"])
    # Parts without any evidence get no weight.
    says = [jnp.ones_like(has_recent)[:, None], has_recent[:, None]]
    if evidence is not None:
        says.append(jnp.any(evidence.shares > 0, axis=2))
    logits = jnp.where(jnp.concatenate(says, 1), logits, jnp.float32(-1e9))
    return Head(query, jax.nn.log_softmax(logits, axis=1))


def recent_weights(
    params: Params, back: attention.Context, h: jax.Array, copyable: jax.Array
) -> jax.Array:
    """Weights of the recent words, [B, recent]: they sum to 1, or are all 0 at a document's start.

    Args:
      params: `params["trunk"]` of `init`; "copy" is learned for each distance.
      back: what attention looks at.
      h: as for `head`.
      copyable: float32 [S, W], learned for each word.
    """
    runs, length, recent = back.visible.shape
    queries = matmul_columns(h, params["attention"]["copy"])
    logits = attention.scores(back, queries, params["copy"])
    wide = jnp.broadcast_to(copyable[:, None, :], (runs, length, copyable.shape[1]))
    logits = logits + attention.band(wide, copyable.shape[1] - length + 1)[:, :, -recent:]
    return attention.weights(back, logits).reshape(-1, recent)


def mix_target(
    log_softmax: jax.Array,
    log_mix: jax.Array,
    targets: jax.Array,
    evidence: Evidence | None,
    history: jax.Array,
    weights: jax.Array,
) -> jax.Array:
    """log p of each target, [B], from its log probability under the softmax alone."""
    recent = jnp.sum(jnp.where(history == targets[:, None], weights, jnp.float32(0)), axis=1)
    others = jnp.exp(log_mix[:, 1]) * recent
    if evidence is not None:
        hit = evidence.words == targets[:, None, None]
        by_order = jnp.sum(jnp.where(hit, evidence.shares, jnp.float32(0)), axis=2)
        others = others + jnp.sum(jnp.exp(log_mix[:, 2:]) * by_order, axis=1)
    return jnp.logaddexp(log_mix[:, 0] + log_softmax, jnp.log(others + jnp.float32(1e-30)))
