"""New labels in a label tree that is trained: a tree of their own, joined to it at the root."""

from __future__ import annotations

import dataclasses
import itertools

import jax.numpy as jnp
import numpy as np

from sparse_jax.ops.label_tree import LabelTree
from sparse_jax.runtime.trees import owned


def widen(tree: LabelTree, more_features: int, more_labels: int) -> LabelTree:
    """The tree with further features, which have no weights, and labels, which are out of reach."""
    known = tree.labels.size
    more = np.arange(known, known + more_labels, dtype=np.int32)
    return dataclasses.replace(
        tree,
        offsets=jnp.asarray(np.pad(tree.offsets, (0, more_features), mode="edge")),
        bias=jnp.asarray(np.pad(tree.bias, (0, more_labels))),
        labels=jnp.asarray(np.append(np.asarray(tree.labels), more)),
    )


def add_labels(tree: LabelTree, own: LabelTree, new: np.ndarray, num_labels: int) -> LabelTree:
    """The tree with labels that it hasn't had; what it knows of the others doesn't move.

    Args:
      tree: trained.
      own: with the same features, its label i being new[i].
      new: int [m], labels that had no point before.
      num_labels: N, of the result.

    Returns:
      A `LabelTree` over N labels; those that have had no point are out of any reach.
    """
    labels = np.asarray(tree.labels)
    children = np.asarray(tree.children)
    reachable = children[-1] - (children.size - 1)
    first = _Part(tree, labels, kept=(np.arange(labels.size) < reachable) & ~np.isin(labels, new))
    second = _Part(own, new[np.asarray(own.labels)], kept=np.ones(new.size, bool))
    return _join(first, second, num_labels)


@dataclasses.dataclass
class _Part:
    """A tree that becomes a part of another: its nodes by level, without those that go."""

    tree: LabelTree
    labels: np.ndarray  # of its label nodes
    kept: np.ndarray  # bool, which label nodes stay

    def levels(self, depth: int) -> list[np.ndarray]:
        """Nodes of levels 1 to depth; -1 for nodes in front of a shallower tree that say yes."""
        children = np.asarray(self.tree.children)
        start, end, found = 0, 1, []
        for _ in range(self.tree.depth):
            start, end = children[start], children[end]
            found.append(np.arange(start, end))
        found[-1] = found[-1][self.kept[found[-1] - (children.size - 1)]]
        return [np.array([-1])] * (depth - self.tree.depth) + found

    def counts(self, depth: int) -> list[np.ndarray]:
        """Children of each node of levels 0 to depth - 1."""
        levels = [np.zeros(1, np.int64), *self.levels(depth)]
        children = np.asarray(self.tree.children)
        found = []
        for above, below in itertools.pairwise(levels):
            if below[0] < 0 or above[0] < 0 or above is levels[0]:
                found.append(np.array([below.size]))
            else:  # how many of the nodes below lie between each node's bounds
                bounds = np.searchsorted(below, np.append(children[above], children[above[-1] + 1]))
                found.append(np.diff(bounds))
        return found


def _join(first: _Part, second: _Part, num_labels: int) -> LabelTree:
    """One tree: the root's children are those of both."""
    parts = (first, second)
    depth = max(part.tree.depth for part in parts)
    levels = [part.levels(depth) for part in parts]
    counts = [part.counts(depth) for part in parts]
    sizes = [sum(level[d].size for level in levels) for d in range(depth)]
    base = np.cumsum([1, *sizes])  # the first node of each level from 1 on, and the end
    begins = [np.zeros(1, np.int64)]
    bias = [np.zeros(1, np.float32)]
    moved = [np.full(part.tree.bias.size, -1, np.int64) for part in parts]
    for d in range(depth):
        own = [count[d] for count in counts]
        of_nodes = np.concatenate(own) if d else np.array([sum(int(c[0]) for c in own)])
        begins.append(base[d] + np.cumsum(of_nodes))
        at = base[d]
        for part, level, to in zip(parts, levels, moved, strict=True):
            nodes = level[d]
            real = nodes >= 0
            to[nodes[real]] = at + np.flatnonzero(real)
            bias.append(np.where(real, np.asarray(part.tree.bias)[nodes], np.float32(1)))
            at += nodes.size
    # children[i] is where node i's begin: the ends above, shifted by one node in each level.
    children = np.concatenate([[1], *begins[1:]])
    merged = np.concatenate([part.labels[part.kept] for part in parts])
    absent = np.setdiff1d(np.arange(num_labels), merged, assume_unique=True)
    offsets, nodes, weights = _merge_weights(parts, moved)
    return LabelTree(
        offsets=owned(np.asarray(offsets, np.int32)),
        nodes=owned(np.asarray(nodes, np.int32)),
        weights=owned(weights),
        bias=owned(np.concatenate([*bias, np.zeros(absent.size, np.float32)])),
        children=owned(np.asarray(children, np.int32)),
        labels=owned(np.asarray(np.concatenate([merged, absent]), np.int32)),
        depth=depth,
    )


def _merge_weights(
    parts: tuple[_Part, _Part], moved: list[np.ndarray]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(offsets, nodes, weights) of both, by feature and node; each part's order stays as it is."""
    found = []
    for part, to in zip(parts, moved, strict=True):
        offsets, nodes = np.asarray(part.tree.offsets), to[np.asarray(part.tree.nodes)]
        features = np.repeat(np.arange(offsets.size - 1), np.diff(offsets))
        stays = nodes >= 0
        found.append((features[stays], nodes[stays], np.asarray(part.tree.weights)[stays]))
    (features, nodes, weights), (feature, node, weight) = found
    size = 1 + max(int(x.max(initial=0)) for x in (nodes, node))
    at = np.searchsorted(features * size + nodes, feature * size + node)
    lengths = np.bincount(features, minlength=parts[0].tree.offsets.size - 1)
    lengths += np.bincount(feature, minlength=lengths.size)
    return (
        np.concatenate([[0], lengths.cumsum()]),
        np.insert(nodes, at, node),
        np.insert(weights, at, weight),
    )
