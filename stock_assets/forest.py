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
_HOW: dict[str, Any] = {"nogil": True, "fastmath": {"reassoc", "contract"}, "error_model": "numpy"}


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
            rows /= self.starts.shape[1] - 1

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
        """Those of the forests, in this order; an IndexError if one is not there."""
        numbers = map(range(len(self.starts)).__getitem__, which)
        return Forests.concatenate([self.between(0, 0), *(self.between(i, i + 1) for i in numbers)])

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
    """Rows of a forest, and memory for one tree after the other; samples are rows drawn."""

    x: Array  # (features, rows) float32
    y: Array  # (rows, outputs)
    presorted: Array  # (features, rows) rows, ascending by each feature
    order: Array  # (features, rows) the same of samples; those of a node are side by side
    counts: Array  # (rows,) how often drawn
    residuals: Array  # (rows, outputs) from the mean of the node, times counts
    sums: Array  # (outputs,)
    is_left: Array  # (rows,) 1 or 0
    right: Array  # (rows,) set aside
    nodes: Array  # (nodes, 3) first sample, behind the last, and a feature whose order has them
    features: Array  # (features,) in the order in which they are drawn
    random: Array  # (1,) the state


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
        for number, (start, end) in enumerate(spans[first:last]):
            room.starts[number, 0] = room.starts[number - 1, -1]  # of the first one, still 0
            _fit(_work(x[start:end], y[start:end]), recipe, room, number)
        return Forests.concatenate([room.between(0, last - first)])

    return Forests.concatenate(_in_threads(fit_some, len(spans)))


def _work(x: Array, y: Array) -> _Work:
    rows, features = x.shape
    x = np.ascontiguousarray(x.T)
    return _Work(
        x=x,
        y=y,
        presorted=np.argsort(x, axis=1).astype(np.uint32),
        order=np.empty((features, rows), np.uint32),
        counts=np.empty(rows, np.uint32),
        residuals=np.empty(y.shape, np.float64),
        sums=np.empty(y.shape[1], np.float64),
        is_left=np.empty(rows, np.uint32),
        right=np.empty(rows, np.uint32),
        nodes=np.empty((2 * rows, 3), np.int64),
        features=np.empty(features, np.int64),
        random=np.empty(1, np.uint64),
    )


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


def _kernel(function: Callable[..., Any]) -> Any:
    """Compiled when first called; kept for the next process wherever files can be written."""
    try:
        return njit(cache=True, **_HOW)(function)
    except RuntimeError:  # numba finds no directory
        return njit(**_HOW)(function)


_part = njit(inline="always")  # of a kernel: one at a time, each is compiled for as long as all


@_kernel
def _predict(forests, x, spans, sums):
    """Add up what the trees say."""
    feature, threshold, child, values, starts = forests
    behind = 0
    for i in range(len(spans)):
        begin = behind
        behind += spans[i, 1] - spans[i, 0]
        for tree in range(starts.shape[1] - 1):
            root, first_leaf = starts[i, tree, 0], starts[i, tree, 1]
            for row in range(begin, behind):
                node = root
                while feature[node] != LEAF:
                    value = x[spans[i, 0] + row - begin, feature[node]]
                    node = root + child[node] + (value > threshold[node])
                leaf = first_leaf + child[node]
                for k in range(values.shape[1]):
                    sums[row, k] += values[leaf, k]


@_kernel
def _fit(work, recipe, room, number):
    """Put the forest of a number into the room, from its first node and leaf on."""
    starts = room.starts
    node, leaf = starts[number, 0, 0], starts[number, 0, 1]
    for tree in range(recipe.trees):
        work.random[0] = _mixed(_mixed(np.uint64(recipe.seed)) + np.uint64(tree))
        _draw(work, recipe)
        added = _grow(work, recipe, room, node, leaf)
        node += added
        leaf += (added + 1) // 2
        starts[number, tree + 1, 0], starts[number, tree + 1, 1] = node, leaf


@_part
def _draw(work, recipe):
    """Draw the rows of a tree: the samples of its root."""
    presorted, counts, order = work.presorted, work.counts, work.order
    features, rows = presorted.shape
    counts[:] = not recipe.bootstrap
    if recipe.bootstrap:
        for _ in range(max(1, int(recipe.max_samples * rows))):
            counts[_below(rows, work.random)] += 1
    samples = 0
    for feature in range(features):
        work.features[feature] = feature
        samples = 0
        for i in range(rows):
            row = presorted[feature, i]
            order[feature, samples] = row  # overwritten if not drawn: a branch would cost more
            samples += counts[row] > 0
    _note(work, 0, 0, samples, 0)


@_part
def _note(work, number, start, end, known):
    nodes = work.nodes
    nodes[number, 0], nodes[number, 1], nodes[number, 2] = start, end, known


@_part
def _grow(work, recipe, room, root, leaf):
    """Grow a tree, level by level; the number of its nodes."""
    x, order, bounds = work.x, work.order, work.nodes
    least = 2 * recipe.min_samples_leaf
    nodes, leaves, number = 1, 0, 0
    while number < nodes:
        start, end = bounds[number, 0], bounds[number, 1]
        weight = _mean(work, number, room.values, leaf + leaves)
        feature, middle = LEAF, 0
        if end - start >= least and _centre(work, number) > PURE * weight:
            feature, middle = _best_split(work, recipe, number, weight)
        room.feature[root + number] = feature
        if feature == LEAF:
            room.child[root + number] = leaves
            room.threshold[root + number] = 0
            leaves += 1
        else:
            room.child[root + number] = nodes
            below, above = order[feature, middle - 1], order[feature, middle]
            room.threshold[root + number] = _threshold(x[feature, below], x[feature, above])
            _note(work, nodes, start, middle, feature)
            _note(work, nodes + 1, middle, end, feature)
            if max(middle - start, end - middle) >= least:
                _partition(work, nodes)
            nodes += 2
        number += 1
    return nodes


@_part
def _mean(work, number, values, leaf):
    """Put the mean of y into the sums and the value of the leaf; the weight of the node."""
    y, sums, known = work.y, work.sums, work.nodes[number, 2]
    sums[:] = 0
    weight = 0.0
    for sample in range(work.nodes[number, 0], work.nodes[number, 1]):
        row = work.order[known, sample]
        count = work.counts[row]
        weight += count
        for k in range(len(sums)):
            sums[k] += count * y[row, k]
    for k in range(len(sums)):
        sums[k] /= weight
        values[leaf, k] = sums[k]
    return weight


@_part
def _centre(work, number):
    """Fill in residuals from the mean; the mean over outputs of their squares, times weight."""
    y, sums, residuals, known = work.y, work.sums, work.residuals, work.nodes[number, 2]
    squares = 0.0
    for sample in range(work.nodes[number, 0], work.nodes[number, 1]):
        row = work.order[known, sample]
        count = work.counts[row]
        for k in range(len(sums)):
            residual = y[row, k] - sums[k]
            residuals[row, k] = count * residual
            squares += count * residual * residual
    return squares / len(sums)


@_part
def _best_split(work, recipe, number, weight):
    """The feature and the first sample of the right child, or `LEAF` and 0."""
    x, order, features = work.x, work.order, work.features
    start, end = work.nodes[number, 0], work.nodes[number, 1]
    best_gain, best_feature, best_middle = -1.0, LEAF, 0
    is_any_varying = False
    for visited in range(len(features)):
        is_enough = visited >= recipe.max_features or end - start == PAIR
        if is_any_varying and is_enough:
            break
        drawn = visited + _below(len(features) - visited, work.random)
        features[visited], features[drawn] = features[drawn], features[visited]
        feature = features[visited]
        lowest, highest = order[feature, start], order[feature, end - 1]
        if x[feature, highest] > x[feature, lowest] + TIE:
            is_any_varying = True
            gain, middle = _scan(work, recipe.min_samples_leaf, number, weight, feature)
            if gain > best_gain:
                best_gain, best_feature, best_middle = gain, feature, middle
    return best_feature, best_middle


@_part
def _scan(work, min_samples_leaf, number, weight, feature):
    """The largest gain of a split by x, -1 if there is none, and where.

    Of residuals, whose sum is 0, squared error falls by |sum left|^2 * (1 / left + 1 / right),
    where left and right are weights: here without the weight of both, the same in all splits.
    """
    x, order, counts = work.x, work.order, work.counts
    sums, residuals = work.sums, work.residuals
    start, end = work.nodes[number, 0], work.nodes[number, 1]
    sums[:] = 0
    left = 0.0
    best_gain, best_middle = -1.0, 0
    for middle in range(start + 1, end - min_samples_leaf + 1):
        row = order[feature, middle - 1]
        left += counts[row]
        squares = 0.0
        for k in range(len(sums)):
            total = sums[k] + residuals[row, k]
            sums[k] = total
            squares += total * total
        if (
            middle - start >= min_samples_leaf
            and x[feature, order[feature, middle]] > x[feature, row] + TIE
        ):
            gain = squares / (left * (weight - left))
            if gain > best_gain:
                best_gain, best_middle = gain, middle
    return best_gain, best_middle


@_part
def _threshold(below, above):
    """Half-way, but below the value on the right even where float32 has nothing between."""
    threshold = np.float32(0.5 * below + 0.5 * above)
    return threshold if threshold < above else below


@_part
def _partition(work, child):
    """Move the rows of a left child before those of the right one, in every order."""
    start, middle, end = work.nodes[child, 0], work.nodes[child, 1], work.nodes[child + 1, 1]
    split = work.nodes[child, 2]
    is_left, right, order = work.is_left, work.right, work.order
    for sample in range(start, end):
        is_left[order[split, sample]] = sample < middle
    for feature in range(len(order)):
        lefts, rights = start, 0
        for sample in range(start, end):
            row = order[feature, sample]
            order[feature, lefts] = row
            right[rights] = row
            lefts += is_left[row]
            rights += 1 - is_left[row]
        for k in range(rights):
            order[feature, middle + k] = right[k]


@_part
def _below(n, random):
    """A random number from 0 to n - 1, by Lemire's multiplication."""
    random[0] += np.uint64(0x9E3779B97F4A7C15)
    return np.int64(((_mixed(random[0]) >> np.uint64(32)) * np.uint64(n)) >> np.uint64(32))


@_part
def _mixed(state):
    """SplitMix64 (Steele, Lea and Flood 2014) of a state."""
    state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return state ^ (state >> np.uint64(31))
