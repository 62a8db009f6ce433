"""What a language-model run tells: parameters, multiply-adds, a table for people."""

from __future__ import annotations

from typing import Any

import jax

from sparse_jax.lm import attention, keyvalue, model, training


def count_parameters(state: training.LMState) -> int:
    """Trained numbers: all weights and the memory's rows, not its tags, counts and followers."""
    weights = sum(leaf.size for leaf in jax.tree.leaves(state.params))
    return int(weights + (0 if state.memory is None else state.memory.rows.size))


def cost(config: model.Config, active: int, batch_size: int, *, length: int = 32) -> dict[str, Any]:
    """Multiply-adds of training on a token, and what share of the parameters it touches.

    Forward and backward are three products of the forward's size, an update of a number by Adam
    six multiply-adds, by Adagrad three. Dense is the same network with every lookup a product
    with the whole table, as a one-hot input makes it, the softmax over the whole vocabulary, and
    every number updated each step. `dense_softmax_madds_per_token` leaves lookups cheap and makes
    the softmax dense alone. `length` is that of the runs, whose history attention reads too.
    """
    c, active = config, min(active, config.vocabulary)
    trunk = (
        sum(
            leaf.size
            for leaf in jax.tree.leaves(
                jax.eval_shape(lambda: model.init(jax.random.key(0), config=c)[0])
            )
        )
        - c.vocabulary * (c.embed + c.out + 2)
        - 2 * c.pairs * c.hidden
    )
    orders = len(c.orders) if c.rows else 0
    places = c.history + length - 1
    # Keys and values of all places of a run, scores to read and to repeat, the sum of what is read.
    look_back = (places / length - 1) * (2 + attention.BEFORE) * c.embed * c.attention
    look_back += 3 * places * c.attention
    reads = c.window * c.embed + orders * c.width
    evidence = (orders * c.slots * 2 + c.recent) if c.evidence else 0
    sparse = (
        3 * (trunk + look_back)
        + 6 * trunk / batch_size  # products, and their update once a batch
        + 3 * active * (c.out + 1)
        + 6 * active * (c.out + 1) / batch_size
        + 6 * c.window * c.embed
        + 3 * orders * c.width
        + evidence
    )
    pairs = _pairs(c, batch_size)
    sparse += pairs["madds"]
    dense_softmax = sparse + (3 + 6 / batch_size) * (c.vocabulary - active) * (c.out + 1)
    tables = c.vocabulary * (c.embed + 1) + c.rows * c.width
    dense = (
        dense_softmax
        + 2 * c.window * c.vocabulary * c.embed
        + 2 * orders * c.rows * c.width
        + 6 * tables / batch_size
        + pairs["dense_madds"]
        - pairs["madds"]
    )
    parameters = trunk + c.vocabulary * (c.embed + c.out + 2) + c.rows * c.width
    parameters += 2 * c.pairs * c.hidden
    touched = trunk + active * (c.out + 1) + reads + c.recent + pairs["touched"]
    return {
        "madds_per_token": sparse,
        "dense_madds_per_token": dense,
        "dense_softmax_madds_per_token": dense_softmax,
        "madds_saved": 1 - sparse / dense,
        "touched_share": touched / parameters,
    }


def _pairs(config: model.Config, batch_size: int) -> dict[str, float]:
    """Of the key-value memory: what a token costs, with all slots read too, and what it touches.

    A token runs the trunk once more to get its query, hashes that, and reads C keys and values; a
    batch updates at most those that its tokens read. Each key is hashed anew at most each
    100 steps; rebuilds of the tables, ever rarer, are left out.
    """
    c = config
    if not c.pairs:
        return {"madds": 0, "dense_madds": 0, "touched": 0}
    tables = keyvalue.index_config(c.pairs, c.pair_candidates)
    hashing = c.hidden * tables.num_tables * tables.num_bits
    orders = len(c.orders) if c.rows else 0
    inputs = c.window * c.embed + orders * (c.width + 4)
    query = c.hidden * (inputs + 2 * c.blocks * c.inner)
    read, updated = c.pair_candidates, min(c.pairs, batch_size * c.pair_candidates)
    per_token = updated / batch_size
    both = 2 * c.hidden
    return {
        "madds": query + hashing * (1 + per_token / 100) + both * (3 * read + 6 * per_token),
        "dense_madds": both * c.pairs * (3 + 6 / batch_size),
        "touched": both * read,
    }


def unknown(share: float) -> str:
    """What stands beside a perplexity: how many of the tokens are the unknown word.

    Example:
      >>> unknown(0.2048), unknown(0.0)
      (' (20.5 % of them unknown)', ' (0.0 % of them unknown)')
    """
    return f" ({100 * share:.1f} % of them unknown)"


def print_table(results: dict[str, Any]) -> None:
    """The figures, for people."""
    used = results.get("memory_rows_used")
    rows = [
        (
            "parameters",
            f"{results['parameters']:,}, of which a token touches {results['touched_share']:.3%}",
        ),
        (
            "test perplexity",
            f"{results['test_perplexity']:.3f} a token"
            f"{unknown(results['test_unknown_share'])}, "
            f"{results['test_bits_per_byte']:.4f} bits a byte",
        ),
        (
            "training",
            f"{results['train_seconds']:.1f} s, {results['steps']:,} steps, "
            f"{results['tokens_per_second']:,.0f} tokens/s",
        ),
        (
            "multiply-adds a token",
            f"{results['madds_per_token'] / 1e6:,.2f} M, dense "
            f"{results['dense_madds_per_token'] / 1e6:,.0f} M: "
            f"{results['madds_saved']:.2%} saved",
        ),
        ("memory rows used", "none" if used is None else f"{used:.1%}"),
        ("peak memory", f"{results['peak_rss_bytes'] / 2**20:,.0f} MiB"),
    ]
    print()
    for name, value in rows:
        print(f"  {name:<22} {value}")
    print()


def unfilled_memory(step: int, per_epoch: int) -> str | None:
    """What to say of a training that ends within a later pass; None elsewhere.

    Args:
      step: of the whole training.
      per_epoch: steps of a pass.
    """
    passes, into = divmod(step, per_epoch)
    if not passes or not into:
        return None
    return (
        f"note: the memory holds {into / per_epoch:.0%} of the text, as pass {passes + 1} began "
        "with an empty one: the model may be worse than after a whole pass"
    )
