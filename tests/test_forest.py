"""Compiled forests: scikit-learn's trees, its errors, and nothing but a forest's own rows."""

import io
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from sklearn.ensemble import RandomForestRegressor
from sklearn.tree import DecisionTreeRegressor

from stock_assets import forest
from stock_assets.forest import Forests, fit_forests

Array = npt.NDArray[Any]
TREE: dict[str, Any] = {
    "trees": 1,
    "max_features": 1.0,
    "max_samples": 1.0,
    "seed": 0,
    "bootstrap": False,
}
FOREST: dict[str, Any] = {
    "trees": 12,
    "min_samples_leaf": 3,
    "max_features": 0.4,
    "max_samples": 0.7,
}


def regression(rows: int, features: int = 9, outputs: int = 10, seed: int = 0) -> tuple[Array, ...]:
    random = np.random.default_rng(seed)
    x = random.normal(size=(rows, features))
    signal = np.sin(2 * x[:, :1]) + x[:, -1:] * (x[:, :1] > 0)
    return x, signal * np.linspace(0.5, 1.5, outputs) + 0.5 * random.normal(size=(rows, outputs))


def whole(x: Array) -> Array:
    return np.array([[0, len(x)]])


def same(first: Forests, second: Forests) -> bool:
    return all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize("min_samples_leaf", [10, 20])
@pytest.mark.parametrize("scale", [1e-3, 1, 1e6])
def test_a_tree_is_the_one_of_scikit_learn(min_samples_leaf: int, scale: float) -> None:
    x, y = regression(400)
    unseen = regression(1000, seed=1)[0]
    y = scale * (y + 3)
    ours = fit_forests(x, y, whole(x), min_samples_leaf=min_samples_leaf, **TREE)
    theirs = DecisionTreeRegressor(min_samples_leaf=min_samples_leaf).fit(x, y)
    np.testing.assert_allclose(
        ours.predict(unseen, whole(unseen)), theirs.predict(unseen), rtol=1e-6
    )


def test_a_fully_grown_tree_of_one_feature_is_the_one_of_scikit_learn() -> None:
    x, y = regression(200, features=1)
    x = x.round(1)  # ties
    unseen = np.linspace(-3, 3, 999)[:, None]
    ours = fit_forests(x, y, whole(x), min_samples_leaf=1, **TREE)
    theirs = DecisionTreeRegressor().fit(x, y)
    np.testing.assert_allclose(
        ours.predict(unseen, whole(unseen)), theirs.predict(unseen), rtol=1e-5, atol=1e-6
    )


def test_a_bootstrap_draws_with_replacement() -> None:
    x, y = regression(60, features=1, outputs=2)
    ours = fit_forests(
        x, y, whole(x), trees=1, min_samples_leaf=1, max_features=1.0, max_samples=1.0, seed=3
    )
    leaves = np.unique(ours.values, axis=0)
    assert set(map(tuple, leaves)) <= set(map(tuple, y.astype(np.float32)))
    assert 0.5 < len(leaves) / 60 < 0.75  # 1 - 1 / e


@pytest.mark.parametrize(
    "settings",
    [
        {"min_samples_leaf": 1, "max_features": 1.0, "max_samples": 1.0},
        {"min_samples_leaf": 10, "max_features": 1 / 3, "max_samples": 0.5},
    ],
)
def test_forests_predict_like_those_of_scikit_learn(settings: dict[str, Any]) -> None:
    x, y = regression(150)
    unseen = regression(300, seed=1)[0]

    def theirs(seed: int) -> Array:
        model = RandomForestRegressor(n_estimators=25, random_state=seed, **settings)
        return np.asarray(model.fit(x, y).predict(unseen))

    def ours(seed: int) -> Array:
        fitted = fit_forests(x, y, whole(x), trees=25, seed=seed, **settings)
        return fitted.predict(unseen, whole(unseen))

    def over_seeds(predict: Callable[[int], Array]) -> tuple[Array, Array]:
        predicted = np.stack([predict(seed) for seed in range(16)])
        return predicted.mean(axis=0), predicted.var(axis=0, ddof=1)

    (mean, variance), (their_mean, their_variance) = over_seeds(ours), over_seeds(theirs)
    z = (mean - their_mean) / np.sqrt((variance + their_variance) / 16)
    assert 0.85 < (z**2).mean() < 1.35  # 15 / 14 for the same distribution
    assert 0.9 < variance.mean() / their_variance.mean() < 1.1


def test_a_leaf_has_as_many_rows_as_it_must() -> None:
    x, y = regression(100)
    fitted = fit_forests(x, y, whole(x), **TREE | {"min_samples_leaf": 7})
    predicted = fitted.predict(x, whole(x))
    assert np.unique(predicted[:, 0], return_counts=True)[1].min() >= 7


def test_a_forest_depends_on_its_own_rows_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = regression(300)
    spans = np.array([[0, 40], [10, 300], [100, 101], [40, 90], [0, 40]])
    fitted = fit_forests(x, y, spans, **FOREST, seed=1)
    monkeypatch.setattr(forest, "cpu_count", lambda: 1)
    monkeypatch.setattr(forest, "TASKS_PER_CORE", 1)
    assert same(fitted, fit_forests(x, y, spans, **FOREST, seed=1))
    for number, (first, last) in enumerate(spans):
        own = x[first:last], y[first:last]
        alone = fit_forests(*own, np.array([[0, last - first]]), **FOREST, seed=1)
        assert same(alone, fitted.take([number]))


def test_another_seed_gives_another_forest() -> None:
    x, y = regression(60)
    first, second = (fit_forests(x, y, whole(x), **FOREST, seed=seed) for seed in (0, 1))
    assert not np.array_equal(first.feature[:100], second.feature[:100])
    trees = [first.values[slice(*first.starts[0, t : t + 2, 1])] for t in (0, 1)]
    assert not np.array_equal(trees[0], trees[1])


def test_forests_are_saved_taken_and_put_together() -> None:
    x, y = regression(120)
    spans = np.array([[0, 50], [30, 120], [60, 80]])
    fitted = fit_forests(x, y, spans, **FOREST, seed=0)
    file = io.BytesIO()
    np.savez(file, allow_pickle=False, **fitted.arrays())
    file.seek(0)
    with np.load(file, allow_pickle=False) as arrays:
        assert same(fitted, Forests.from_arrays(arrays))
    again = Forests.concatenate([fitted.take([2, 0]), fitted.take([]), fitted.take([1])])
    assert same(fitted, again.take([1, 2, 0]))
    np.testing.assert_array_equal(
        again.predict(x, spans[[2, 0, 1]]),
        np.concatenate([fitted.take([n]).predict(x, spans[[n]]) for n in (2, 0, 1)]),
    )


@pytest.mark.parametrize("rows", [1, 2, 19])
def test_few_rows_are_a_single_leaf(rows: int) -> None:
    x, y = regression(rows)
    fitted = fit_forests(x, y, whole(x), **TREE | {"min_samples_leaf": 10})
    assert fitted.feature.tolist() == [forest.LEAF]
    np.testing.assert_allclose(fitted.values[0], y.mean(axis=0), rtol=1e-5)


def test_a_split_leaves_enough_rows_on_both_sides() -> None:
    x = np.arange(30.0)[:, None]
    for outlier in (0, 29):  # best split off alone
        y = np.zeros((30, 1))
        y[outlier] = 1
        fitted = fit_forests(x, y, whole(x), **TREE | {"min_samples_leaf": 10})
        sizes = np.unique(fitted.predict(x, whole(x)), return_counts=True)[1]
        assert sizes.min() >= 10
        assert len(sizes) == 2


def test_a_node_looks_at_a_share_of_the_features() -> None:
    x, y = regression(40)
    x[:, 4] = y[:, 0] = np.arange(40)  # the best of all
    settings = TREE | {"trees": 200, "min_samples_leaf": 20}
    for share, looked in ((1.0, 9), (0.4, 3), (0.01, 1)):
        fitted = fit_forests(x, y[:, :1], whole(x), **settings | {"max_features": share})
        roots = fitted.feature[fitted.starts[0, :-1, 0]]
        assert abs((roots == 4).mean() - looked / 9) < 0.1


def test_a_seed_gives_the_same_trees_in_every_version() -> None:
    x, y = regression(60)
    fitted = fit_forests(x, y, whole(x), **FOREST | {"trees": 4, "min_samples_leaf": 6}, seed=5)
    assert fitted.feature.tolist() == [
        1,
        3,
        5,
        -1,
        -1,
        -1,
        -1,
        5,
        5,
        0,
        6,
        -1,
        -1,
        -1,
        -1,
        -1,
        5,
        -1,
        8,
        -1,
        0,
        -1,
        -1,
        2,
        8,
        -1,
        5,
        -1,
        -1,
        -1,
    ]


def test_constant_outputs_or_inputs_are_a_single_leaf() -> None:
    x, y = regression(50)
    settings = TREE | {"min_samples_leaf": 1}
    for inputs, outputs in ((x, np.full_like(y, 0.1)), (np.ones_like(x), y)):
        fitted = fit_forests(inputs, outputs, whole(x), **settings)
        assert len(fitted.feature) == 1


def test_constant_features_are_passed_over() -> None:
    x, y = regression(50)
    x[:, :-1] = 1
    settings = TREE | {"min_samples_leaf": 5, "max_features": 0.1}
    fitted = fit_forests(x, y, whole(x), **settings)
    assert set(fitted.feature) == {forest.LEAF, 8}
    assert len(fitted.feature) > 5


def test_neighbours_among_float32_are_separated() -> None:
    x = np.float32(1e6) + np.float32(1 / 16) * np.arange(4, dtype=np.float32)[:, None]
    assert np.nextafter(x[0], x[1]) == x[1]
    fitted = fit_forests(x, x, whole(x), **TREE | {"min_samples_leaf": 1})
    np.testing.assert_array_equal(fitted.predict(x, whole(x)), x)


def test_a_forest_that_is_not_there_is_not_taken() -> None:
    x, y = regression(20)
    fitted = fit_forests(x, y, np.array([[0, 10], [10, 20]]), **FOREST, seed=0)
    for number in (2, -3):
        with pytest.raises(IndexError):
            fitted.take([number])


def test_kernels_work_where_no_cache_can_be_written(monkeypatch: pytest.MonkeyPatch) -> None:
    def without_directory(*, cache: bool = False, **_: Any) -> Callable[[Any], Any]:
        def compiled(function: Any) -> Any:
            if cache:
                raise RuntimeError("no locator available")
            return function

        return compiled

    monkeypatch.setattr(forest, "njit", without_directory)
    assert forest._kernel(abs) is abs


def test_no_forests_and_rows_that_are_not_there() -> None:
    x, y = regression(20)
    none = fit_forests(x, y, np.empty((0, 2), np.int64), **FOREST, seed=0)
    assert none.predict(x, np.empty((0, 2), np.int64)).shape == (0, 10)
    with pytest.raises(ValueError, match="at least one row"):
        fit_forests(x, y, np.array([[3, 3]]), **FOREST, seed=0)
    for span in ([-1, 5], [5, 4], [0, 21]):
        with pytest.raises(ValueError, match="leaves the 20 rows"):
            fit_forests(x, y, np.array([span]), **FOREST, seed=0)
