"""Random forests for many small regressions with several outputs, compiled and fitted in one call.

Breiman (2001), Random Forests, as scikit-learn's RandomForestRegressor does it: bootstrap counts
are weights, a split lessens the squared error of all outputs together, features are drawn anew at
each node, and inputs are float32. Only the random numbers are others. Nothing may be missing.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple, Self

import numpy as np
import numpy.typing as npt
from joblib import cpu_count
from numba import njit

Array = npt.NDArray[Any]
FloatArray = npt.NDArray[np.float64]
Spans = npt.NDArray[np.int64]

LEAF = -1  # in place of a feature
TIE = np.float32(1e-7)  # inputs no further apart are never separated
PURE = np.finfo(np.float64).eps  # a mean variance of the outputs that no split can better
PAIR = 2  # rows that any feature splits the same way
TASKS_PER_CORE = 8  # forests differ in size

_compiled = njit(cache=True, nogil=True, fastmath={"reassoc", "contract"})


class Forests(NamedTuple):
    """Fitted forests of equally many trees, one after the other in flat arrays.

    The nodes of a tree lie together, its root first, and both children of a split side by side.

    Attributes:
        feature: (nodes,) int16 that a split looks at, or `LEAF`.
        threshold: (nodes,) float32; up to and including it, rows go left.
        child: (nodes,) int32, the left child of a split or the number of a leaf, within its tree.
        values: (leaves, outputs) float32.
        starts: (forests, trees + 1, 2) int64, first node and first leaf of each tree, and those
            behind the last one.
    """

    feature: Array
    threshold: Array
    child: Array
    values: Array
    starts: Array

    def predict(self, x: Array, spans: Spans) -> FloatArray:
        """Mean over the trees of each forest, for rows of its own.

        Args:
            x: (rows, features), finite as float32.
            spans: (forests, 2) first row and behind the last one, of each forest.

        Returns:
            (sum of the lengths of spans, outputs) in the order of the spans.
        """
        x, spans = _plain(x, np.float32), _plain(spans, np.int64)
        _check(spans, len(x))
        ends = np.concatenate([[0], np.cumsum(spans[:, 1] - spans[:, 0])])
        predicted = np.zeros((ends[-1], self.values.shape[1]))

        def predict_some(first: int, last: int) -> None:
            rows = predicted[ends[first] : ends[last]]
            _predict(self.between(first, last), x, spans[first:last], rows)

        _in_threads(predict_some, len(spans))
        return predicted

    def arrays(self) -> dict[str, Array]:
        """What `from_arrays` needs, for ``np.savez``."""
        return self._asdict()

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, Array]) -> Self:
        """The forests that gave these arrays."""
        return cls(**{name: arrays[name] for name in cls._fields})

    def take(self, which: Iterable[int]) -> "Forests":
        """Those of the forests, in this order."""
        return Forests.concatenate([self.between(0, 0), *(self.between(i, i + 1) for i in which)])

    @classmethod
    def concatenate(cls, parts: Sequence["Forests"]) -> Self:
        """All forests of the parts, at least one, of equally many trees and outputs."""
        feature, threshold, child, values, starts = zip(*parts, strict=True)
        sizes = [(len(nodes), len(leaves)) for nodes, leaves in zip(feature, values, strict=True)]
        shifts = np.cumsum([(0, 0), *sizes[:-1]], axis=0)
        return cls(
            np.concatenate(feature),
            np.concatenate(threshold),
            np.concatenate(child),
            np.concatenate(values),
            np.concatenate([own + shift for own, shift in zip(starts, shifts, strict=True)]),
        )

    def between(self, first: int, last: int) -> "Forests":
        """The forests from the first to before the last, as views."""
        bounds = self.starts[first:last].reshape(-1, 2)
        start, start_leaf = bounds[0] if len(bounds) else (0, 0)
        end, end_leaf = bounds[-1] if len(bounds) else (0, 0)
        return Forests(
            self.feature[start:end],
            self.threshold[start:end],
            self.child[start:end],
            self.values[start_leaf:end_leaf],
            self.starts[first:last] - (start, start_leaf),
        )


class _Recipe(NamedTuple):
    trees: int
    min_samples_leaf: int
    max_features: int
    max_samples: float
    bootstrap: bool
    seed: int


class _Work(NamedTuple):
    """Memory of a task, for one tree after the other; samples are rows drawn at least once."""

    x: Array  # (features, rows) float32
    presorted: Array  # (features, rows) rows of the span, ascending by each feature
    order: Array  # (features, samples) the same of samples; those of a node are side by side
    counts: Array  # (rows,) how often drawn
    residuals: Array  # (rows, outputs) from the mean of the node, times counts
    sums: Array  # (outputs,)
    is_left: Array  # (rows,) 1 or 0
    right: Array  # (samples,) set aside
    nodes: Array  # (nodes, 3) first sample, behind the last, and a feature whose order has them
    features: Array  # (features,) in the order in which they are drawn
    random: Array  # (1,) the state


class _Node(NamedTuple):
    start: int
    end: int
    weight: float


def fit_forests(  # noqa: PLR0913  scikit-learn's names
    x: Array,
    y: Array,
    spans: Spans,
    *,
    trees: int,
    min_samples_leaf: int,
    max_features: float,
    max_samples: float,
    seed: int,
    bootstrap: bool = True,
) -> Forests:
    """Fit one forest to each span of rows, on all cores.

    A forest depends on the rows of its span, the settings and the seed, and on nothing else.

    Args:
        x: (rows, features), finite as float32.
        y: (rows, outputs), finite as float32.
        spans: (forests, 2) first row and behind the last one, of each forest; they may overlap.
        trees: Of each forest.
        min_samples_leaf: Rows in a leaf, each counted once however often it was drawn.
        max_features: Share of the features that a node looks at, above 0 and at most 1.
        max_samples: Rows drawn for a tree, as a share of the span; above 0 and at most 1.
        seed: Of the random numbers, at least 0.
        bootstrap: Whether rows are drawn, with replacement; if not, each tree gets all of them.

    Raises:
        ValueError: A span is empty or leaves the rows.
    """
    x, y, spans = _plain(x, np.float32), _plain(y, np.float64), _plain(spans, np.int64)
    _check(spans, len(x))
    if (spans[:, 0] == spans[:, 1]).any():
        raise ValueError("a forest needs at least one row")
    features = max(1, int(max_features * x.shape[1]))
    recipe = _Recipe(trees, min_samples_leaf, features, float(max_samples), bootstrap, seed)

    def fit_some(first: int, last: int) -> Forests:
        lengths = spans[first:last, 1] - spans[first:last, 0]
        leaves = trees * int(np.maximum(lengths // min_samples_leaf, 1).sum())
        room = Forests(
            np.empty(2 * leaves, np.int16),
            np.empty(2 * leaves, np.float32),
            np.empty(2 * leaves, np.int32),
            np.empty((leaves, y.shape[1]), np.float32),
            np.zeros((last - first, trees + 1, 2), np.int64),
        )
        _fit(x, y, spans[first:last], recipe, room)
        return Forests.concatenate([room.between(0, last - first)])

    return Forests.concatenate(_in_threads(fit_some, len(spans)))


def _plain(array: Array, dtype: type) -> Array:
    """In the one layout that the kernels are compiled for."""
    return np.require(array, dtype, ["C", "W"])


def _check(spans: Spans, rows: int) -> None:
    if not ((spans[:, 0] >= 0) & (spans[:, 0] <= spans[:, 1]) & (spans[:, 1] <= rows)).all():
        raise ValueError(f"a span leaves the {rows} rows")


def _in_threads(function: Callable[[int, int], Any], n: int) -> list[Any]:
    """Results of the function on ranges of 0..n, in order."""
    tasks = max(1, min(n, TASKS_PER_CORE * cpu_count()))
    bounds = [n * task // tasks for task in range(tasks + 1)]
    with ThreadPoolExecutor(cpu_count()) as threads:
        return list(threads.map(function, bounds[:-1], bounds[1:]))


@_compiled
def _predict(forests, x, spans, predicted):
    behind = 0
    for i in range(len(spans)):
        first, last = spans[i]
        rows = predicted[behind : behind + last - first]
        behind += last - first
        trees = forests.starts.shape[1] - 1
        for tree in range(trees):
            root, leaf = forests.starts[i, tree]
            _add_tree(_at(forests, root, leaf), x[first:last], rows)
        rows /= trees


@_compiled
def _add_tree(tree, x, rows):
    for row in range(len(x)):
        node = 0
        while tree.feature[node] != LEAF:
            goes_right = x[row, tree.feature[node]] > tree.threshold[node]
            node = tree.child[node] + goes_right
        for k in range(rows.shape[1]):
            rows[row, k] += tree.values[tree.child[node], k]


@_compiled
def _at(forests, node, leaf):
    """The tree that begins there."""
    return Forests(
        forests.feature[node:],
        forests.threshold[node:],
        forests.child[node:],
        forests.values[leaf:],
        forests.starts,
    )


@_compiled
def _fit(x, y, spans, recipe, room):
    longest = 0
    for first, last in spans:
        longest = max(longest, last - first)
    work = _workspace(longest, x.shape[1], y.shape[1])
    node = leaf = 0
    for i in range(len(spans)):
        first, last = spans[i]
        _presort(x[first:last], work)
        room.starts[i, 0] = node, leaf
        for tree in range(recipe.trees):
            work.random[0] = _mixed(_mixed(np.uint64(recipe.seed)) + np.uint64(tree))
            samples = _draw(last - first, recipe, work)
            added = _grow(y[first:last], samples, recipe, work, _at(room, node, leaf))
            node += added
            leaf += (added + 1) // 2
            room.starts[i, tree + 1] = node, leaf


@_compiled
def _workspace(rows, features, outputs):
    return _Work(
        np.empty((features, rows), np.float32),
        np.empty((features, rows), np.uint32),
        np.empty((features, rows), np.uint32),
        np.empty(rows, np.uint32),
        np.empty((rows, outputs), np.float64),
        np.empty(outputs, np.float64),
        np.empty(rows, np.uint32),
        np.empty(rows, np.uint32),
        np.empty((2 * rows, 3), np.int64),
        np.empty(features, np.int64),
        np.empty(1, np.uint64),
    )


@_compiled
def _presort(x, work):
    rows = len(x)
    for feature in range(x.shape[1]):
        work.x[feature, :rows] = x[:, feature]
        work.presorted[feature, :rows] = np.argsort(x[:, feature])


@_compiled
def _draw(rows, recipe, work):
    """Draw the rows of a tree; the number of samples."""
    work.counts[:rows] = not recipe.bootstrap
    if recipe.bootstrap:
        for _ in range(max(1, int(recipe.max_samples * rows))):
            work.counts[_below(rows, work.random)] += 1
    samples = 0
    for feature in range(len(work.order)):
        work.features[feature] = feature
        samples = 0
        for row in work.presorted[feature, :rows]:
            if work.counts[row]:
                work.order[feature, samples] = row
                samples += 1
    return samples


@_compiled
def _grow(y, samples, recipe, work, tree):
    """Grow a tree, level by level; the number of its nodes."""
    work.nodes[0] = 0, samples, 0
    nodes, leaves, number = 1, 0, 0
    while number < nodes:
        start, end, known = work.nodes[number]
        rows = work.order[known, start:end]
        weight = _mean(y, rows, work, tree.values[leaves])
        feature, middle = LEAF, 0
        if len(rows) >= 2 * recipe.min_samples_leaf and _centre(y, rows, work) > PURE * weight:
            feature, middle = _best_split(_Node(start, end, weight), recipe, work)
        tree.feature[number] = feature
        if feature == LEAF:
            tree.child[number] = leaves
            tree.threshold[number] = 0
            leaves += 1
        else:
            tree.child[number] = nodes
            tree.threshold[number] = _threshold(feature, middle, work)
            work.nodes[nodes] = start, middle, feature
            work.nodes[nodes + 1] = middle, end, feature
            nodes += 2
            if max(middle - start, end - middle) >= 2 * recipe.min_samples_leaf:
                _partition(work.nodes[nodes - 2 : nodes], work)
        number += 1
    return nodes


@_compiled
def _mean(y, rows, work, value):
    """Put the mean of y into the sums and the value; the weight of the rows."""
    sums = work.sums
    sums[:] = 0
    weight = 0.0
    for row in rows:
        count = work.counts[row]
        weight += count
        for k in range(y.shape[1]):
            sums[k] += count * y[row, k]
    for k in range(y.shape[1]):
        sums[k] /= weight
        value[k] = sums[k]
    return weight


@_compiled
def _centre(y, rows, work):
    """Fill in residuals from the mean; the mean over outputs of their squares, times weight."""
    squares = 0.0
    for row in rows:
        count = work.counts[row]
        for k in range(y.shape[1]):
            residual = y[row, k] - work.sums[k]
            work.residuals[row, k] = count * residual
            squares += count * residual * residual
    return squares / y.shape[1]


@_compiled
def _best_split(node, recipe, work):
    """The feature and the first sample of the right child, or `LEAF` and 0."""
    features = work.features
    best_gain, best_feature, best_middle = -1.0, LEAF, 0
    is_any_varying = False
    for visited in range(len(features)):
        is_enough = visited >= recipe.max_features or node.end - node.start == PAIR
        if is_any_varying and is_enough:
            break
        drawn = visited + _below(len(features) - visited, work.random)
        features[visited], features[drawn] = features[drawn], features[visited]
        feature = features[visited]
        lowest, highest = work.order[feature, node.start], work.order[feature, node.end - 1]
        if work.x[feature, highest] <= work.x[feature, lowest] + TIE:
            continue
        is_any_varying = True
        gain, middle = _scan(feature, node, recipe.min_samples_leaf, work)
        if gain > best_gain:
            best_gain, best_feature, best_middle = gain, feature, middle
    return best_feature, best_middle


@_compiled
def _scan(feature, node, min_samples_leaf, work):
    """The largest gain of a split by x, -1 if there is none, and where.

    Of residuals, whose sum is 0, squared error falls by |sum left|^2 * (1 / left + 1 / right),
    where left and right are weights: here without the weight of both, the same in all splits.
    """
    sums, order, x, residuals = work.sums, work.order, work.x, work.residuals
    sums[:] = 0
    left = 0.0
    best_gain, best_middle = -1.0, 0
    for middle in range(node.start + 1, node.end - min_samples_leaf + 1):
        row = order[feature, middle - 1]
        left += work.counts[row]
        squares = 0.0
        for k in range(len(sums)):
            total = sums[k] + residuals[row, k]
            sums[k] = total
            squares += total * total
        if (
            middle - node.start >= min_samples_leaf
            and x[feature, order[feature, middle]] > x[feature, row] + TIE
        ):
            gain = squares / (left * (node.weight - left))
            if gain > best_gain:
                best_gain, best_middle = gain, middle
    return best_gain, best_middle


@_compiled
def _threshold(feature, middle, work):
    """Half-way, but below the value on the right even where float32 has nothing between."""
    x, order = work.x[feature], work.order[feature]
    below, above = x[order[middle - 1]], x[order[middle]]
    threshold = np.float32(0.5 * below + 0.5 * above)
    return threshold if threshold < above else below


@_compiled
def _partition(children, work):
    """Move the rows of the left child before those of the right one, in every order."""
    start, middle, split = children[0]
    end = children[1, 1]
    is_left, right, order = work.is_left, work.right, work.order
    for sample in range(start, end):
        is_left[work.order[split, sample]] = sample < middle
    for feature in range(len(work.order)):
        lefts, rights = start, 0
        for sample in range(start, end):
            row = order[feature, sample]
            order[feature, lefts] = row
            right[rights] = row
            lefts += is_left[row]
            rights += 1 - is_left[row]
        for k in range(rights):
            order[feature, middle + k] = right[k]


@_compiled
def _below(n, random):
    """A random number from 0 to n - 1, by Lemire's multiplication."""
    random[0] += np.uint64(0x9E3779B97F4A7C15)
    return np.int64(((_mixed(random[0]) >> np.uint64(32)) * np.uint64(n)) >> np.uint64(32))


@_compiled
def _mixed(state):
    """SplitMix64 (Steele, Lea and Flood 2014) of a state."""
    state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return state ^ (state >> np.uint64(31))
