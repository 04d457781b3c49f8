"""The dictionary of models, the two adapters to other kinds of them, and their artifacts."""

import io
import sys
from collections.abc import Callable, Iterator
from copy import deepcopy
from typing import Any, Literal

import numpy as np
import pandas as pd
import pytest
from joblib import parallel_config
from sklearn.base import BaseEstimator
from sklearn.dummy import DummyRegressor
from sklearn.ensemble import HistGradientBoostingRegressor
from sklearn.linear_model import LinearRegression, Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.tree import DecisionTreeRegressor
from skops.io.exceptions import UntrustedTypesFoundException
from threadpoolctl import threadpool_limits

from stock_assets.errors import SetupError
from stock_assets.features import (
    FEATURES,
    WARM_UP,
    FloatArray,
    Rows,
    price_features,
    spans_rows,
    ticker_spans,
)
from stock_assets.models import (
    HORIZONS,
    MODELS,
    NAIVE,
    Artifact,
    Estimators,
    Fitted,
    GradientBoosting,
    H,
    LeastSquares,
    Linear,
    Naive,
    OneByOne,
    PooledRegressor,
    RandomForest,
    SeriesRegressor,
    TickerModel,
    archive,
    candidates,
    unarchived,
)
from tests.conftest import make_prices

POOLED = [name for name, model in MODELS.items() if isinstance(model, PooledRegressor)]
SECTORS = {"A": "Utilities", "B": "Energy", "C": "Utilities", "D": "Materials"}


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Boosted trees of so few rows wait for each other's threads, on busy cores for seconds."""
    with threadpool_limits(1):
        yield


def pooled_table(days: int = 60, tickers: str = "ABCD") -> pd.DataFrame:
    """Feature table rows of four tickers of three sectors, which trade on the same days."""
    prices = pd.concat([make_prices(ticker, days) for ticker in tickers], ignore_index=True)
    table = price_features(prices).assign(sector=prices["ticker"].map(SECTORS))
    return table[table.groupby("ticker").cumcount() >= WARM_UP].reset_index(drop=True)


def returns_of(table: pd.DataFrame, seed: int = 0) -> FloatArray:
    """Any (n, 10) log returns."""
    return np.random.default_rng(seed).normal(0, 0.03, size=(len(table), H))


def matrix(table: pd.DataFrame) -> FloatArray:
    return table[list(FEATURES)].to_numpy(np.float64)


def spans_of(table: pd.DataFrame, *, without: int = 0) -> Rows:
    """The rows of each ticker but for so many last ones."""
    return np.asarray(ticker_spans(table["ticker"]) - np.array([0, without]))


def trees() -> PooledRegressor:
    return PooledRegressor(DecisionTreeRegressor(max_depth=4, random_state=0))


def fitted_model(name: str, table: pd.DataFrame) -> Fitted:
    """A model of the dictionary, fitted to each ticker; a skip where its extra is not there."""
    model: Any = MODELS[name]
    if isinstance(model, OneByOne):
        pytest.importorskip("statsforecast")
    fitted: Fitted = model.fit(matrix(table), returns_of(table), spans_of(table, without=12))
    return fitted


def told_by(name: str, table: pd.DataFrame) -> FloatArray:
    """What a model says of all rows, fitted on all but the last 12 of each ticker."""
    model = MODELS[name]
    if isinstance(model, PooledRegressor):
        learned = spans_rows(spans_of(table, without=12))
        known = table.iloc[learned].reset_index(drop=True)
        fitted = deepcopy(model).fit(known, returns_of(table)[learned])
        return fitted.predict(table)
    return predictions(fitted_model(name, table), matrix(table), spans_of(table))


def predictions(fitted: Fitted, x: FloatArray, spans: Rows) -> FloatArray:
    return fitted.predict(x, spans, spans[:, 0])


class Notes(BaseEstimator):  # type: ignore[misc]
    """A regressor that keeps what it is given."""

    def fit(self, x: FloatArray, y: FloatArray) -> "Notes":
        """Keep it."""
        self.x_, self.y_ = x, y
        return self

    def predict(self, x: FloatArray) -> FloatArray:
        """Note what it is asked."""
        self.asked_ = x
        return np.zeros(len(x))


class RowNumbers(Notes):
    """Ten times the number of each row that it is asked."""

    def predict(self, x: FloatArray) -> FloatArray:
        """Note what it is asked."""
        return np.tile(np.arange(float(len(super().predict(x))))[:, None], H)


# The dictionary


@pytest.mark.parametrize("name", MODELS)
def test_every_model_predicts_ten_returns(name: str) -> None:
    table = pooled_table(tickers="AB")
    predicted = told_by(name, table)
    assert predicted.shape == (len(table), H)
    assert np.isfinite(predicted).all()


@pytest.mark.parametrize("name", MODELS)
def test_every_model_is_the_same_again(name: str) -> None:
    table = pooled_table(tickers="AB")
    np.testing.assert_array_equal(told_by(name, table), told_by(name, table))


def test_naive_says_that_nothing_changes() -> None:
    x, spans = np.full((5, len(FEATURES)), np.nan), np.array([[0, 1], [2, 4]])
    for naive in (fitted_model(NAIVE, pooled_table()), Naive()):
        np.testing.assert_array_equal(predictions(naive, x, spans), np.zeros((3, H)))


def test_the_models_of_the_dictionary_are_not_fitted_themselves() -> None:
    for model in MODELS.values():
        for part in (model, getattr(model, "estimator", model)):
            assert not [name for name in vars(part) if name.endswith("_")]


def test_one_model_of_the_dictionary_is_pooled() -> None:
    assert POOLED == ["gradient_boosting"]


def test_naive_always_competes_and_comes_first() -> None:
    assert list(candidates([])) == [NAIVE]
    assert list(candidates(["ridge"])) == [NAIVE, "ridge"]
    assert list(candidates(["ridge", NAIVE, "linear_regression"])) == [
        NAIVE,
        "ridge",
        "linear_regression",
    ]
    assert list(candidates(["ridge", "ridge"])) == [NAIVE, "ridge"]
    assert candidates(MODELS) == MODELS


def test_unknown_models_are_named_beside_those_there_are() -> None:
    with pytest.raises(SetupError) as raised:
        candidates(["ridge", "prophet", "lstm"])
    assert str(raised.value) == (
        "STOCK_ASSETS_MODELS names lstm, prophet. Expected some of: " + ", ".join(MODELS)
    )


# Of each ticker alone

UNEVEN = np.array([[0, 40], [40, 75], [75, 115], [60, 120], [60, 120], [10, 45], [0, 120]])


def of_prices() -> FloatArray:
    return matrix(pooled_table(36))


def of_noise() -> FloatArray:
    random = np.random.default_rng(0)
    mixed = random.normal(size=(120, 9)) @ random.normal(size=(9, 9))
    return np.asarray(mixed * 10.0 ** np.arange(-4, 5) + 3)


def of_constants() -> FloatArray:
    """Features that never change, whose mean may be another number in floating point."""
    x = of_noise()
    x[:, 1], x[:, 3], x[:, 7] = 0.1, 0, 1 / 3
    return x


def of_copies() -> FloatArray:
    """Features that tell the same as others, in other units, and a sum of three."""
    x = of_noise()
    x[:, 4], x[:, 6] = 1000 * x[:, 0], -x[:, 0]
    x[:, 8] = x[:, 1:4].sum(axis=1)
    return x


MATRICES = {
    "prices": of_prices(),
    "noise": of_noise(),
    "constants": of_constants(),
    "copies": of_copies(),
}


def any_returns(x: FloatArray) -> FloatArray:
    """Returns that the features tell something of."""
    random = np.random.default_rng(1)
    scaled = (x - x.mean(axis=0)) / np.maximum(x.std(axis=0), 1e-9)
    told = scaled @ random.normal(size=(x.shape[1], H))
    return np.asarray(0.01 * told + random.normal(0, 0.02, (len(x), H)))


@pytest.mark.parametrize("matrix", MATRICES)
@pytest.mark.parametrize("alpha", [0, 1, 300])
def test_least_squares_are_those_of_scikit_learn(matrix: str, alpha: float) -> None:
    x = MATRICES[matrix]
    y = any_returns(x)
    reference = make_pipeline(StandardScaler(), Ridge(alpha) if alpha else LinearRegression())
    fitted = LeastSquares(alpha).fit(x, y, UNEVEN)
    told = predictions(fitted, x, np.tile([0, len(x)], (len(UNEVEN), 1)))
    for (first, end), of_span in zip(UNEVEN, np.split(told, len(UNEVEN)), strict=True):
        expected = reference.fit(x[first:end], y[first:end]).predict(x)
        np.testing.assert_allclose(of_span, expected, rtol=1e-9, atol=1e-9 * np.abs(y).max())


@pytest.mark.parametrize("alpha", [0, 300])
def test_what_never_changed_teaches_nothing(alpha: float) -> None:
    x = of_constants()
    close = 100 * np.exp(np.random.default_rng(0).normal(0, 0.02, len(x)).cumsum())
    x[:, 5] = np.log(1.01 * close) - np.log(0.99 * close)  # 0.02, but for rounding
    assert 0 < x[:, 5].std() < 1e-14
    coefficients = LeastSquares(alpha).fit(x, any_returns(x), UNEVEN).coefficients
    assert np.abs(coefficients[:, [1, 3, 5, 7]]).max() < 1e-9
    assert np.abs(coefficients[:, [0, 2, 4, 6, 8]]).max(axis=2).min() > 1e-9


@pytest.mark.parametrize("rows", [1, 2, 5, 9, 10])
def test_fewer_days_than_features_give_the_least_coefficients(rows: int) -> None:
    x = of_noise()
    y = any_returns(x)
    spans = np.array([[0, rows], [50, 50 + rows]])
    fitted = LeastSquares().fit(x, y, spans)
    assert np.isfinite(fitted.coefficients).all()
    for number, (first, end) in enumerate(spans):
        learned, scale = x[first:end], x[first:end].std(axis=0)
        scale[scale == 0] = 1
        inputs = (learned - learned.mean(axis=0)) / scale
        expected = np.linalg.lstsq(inputs, y[first:end] - y[first:end].mean(axis=0), 1e-5)[0]
        np.testing.assert_allclose(
            fitted.coefficients[number] * scale[:, None], expected, rtol=1e-6, atol=1e-9
        )


OF_EACH_TICKER: dict[str, TickerModel] = {
    NAIVE: Naive(),
    "linear": LeastSquares(),
    "ridge": LeastSquares(alpha=300),
    "forest": RandomForest(trees=3, min_samples_leaf=5),
    "one by one": OneByOne(DecisionTreeRegressor(max_depth=3, random_state=0)),
}


@pytest.mark.parametrize("name", OF_EACH_TICKER)
@pytest.mark.parametrize("order", ["C", "F"])
def test_other_tickers_do_not_matter_to_the_last_bit(name: str, order: Literal["C", "F"]) -> None:
    x = np.asarray(of_prices(), order=order)
    y, model = any_returns(x), OF_EACH_TICKER[name]
    asked = UNEVEN - [0, 10]
    told = model.fit(x, y, UNEVEN).predict(x, asked, UNEVEN[:, 0])
    assert np.isfinite(told).all()
    ends = np.cumsum(asked[:, 1] - asked[:, 0])
    for number, of_ticker in enumerate(np.split(told, ends[:-1])):
        first, end = UNEVEN[number]
        whole = np.array([[0, end - first]])
        alone = model.fit(x[first:end], y[first:end], whole)
        np.testing.assert_array_equal(
            alone.predict(x[first:end], whole - [0, 10], whole[:, 0]), of_ticker
        )


@pytest.mark.parametrize("name", OF_EACH_TICKER)
def test_models_may_be_taken_in_any_order(name: str) -> None:
    x = of_prices()
    fitted = OF_EACH_TICKER[name].fit(x, any_returns(x), UNEVEN)
    asked = np.tile([30, 37], (len(UNEVEN), 1))
    told = predictions(fitted, x, asked).reshape(len(UNEVEN), 7, H)
    for which in ([], [3], [5, 0, 2]):
        taken = predictions(fitted.take(which), x, asked[which])
        np.testing.assert_array_equal(taken, told[which].reshape(-1, H))


@pytest.mark.parametrize("name", OF_EACH_TICKER)
def test_of_no_ticker_nothing_is_told(name: str) -> None:
    x, nobody = of_prices(), np.empty((0, 2), dtype=np.int64)
    fitted = OF_EACH_TICKER[name].fit(x, any_returns(x), nobody)
    assert predictions(fitted, x, nobody).shape == (0, H)


def test_a_linear_model_says_what_its_coefficients_do() -> None:
    x = np.arange(12.0).reshape(6, 2)
    model = Linear(np.stack([np.eye(2, H), -np.eye(2, H)]), np.stack([np.zeros(H), np.ones(H)]))
    told = predictions(model, x, np.array([[1, 3], [4, 5]]))
    np.testing.assert_array_equal(told[:, :3], [[2, 3, 0], [4, 5, 0], [-7, -8, 1]])


def test_a_regressor_learns_its_span_and_is_asked_all_rows_from_where_its_ticker_begins() -> None:
    x = of_prices()
    y = any_returns(x)
    unfitted = RowNumbers()
    fitted = OneByOne(unfitted).fit(x, y, np.array([[0, 30], [50, 80]]))
    told = fitted.predict(x, np.array([[30, 33], [79, 90]]), np.array([0, 45]))
    one, other = fitted.fitted
    np.testing.assert_array_equal(one.x_, x[:30])
    np.testing.assert_array_equal(other.x_, x[50:80])
    np.testing.assert_array_equal(other.y_, y[50:80])
    np.testing.assert_array_equal(one.asked_, x[:33])
    np.testing.assert_array_equal(other.asked_, x[45:90])
    np.testing.assert_array_equal(told[:, 0], [30, 31, 32, *range(34, 45)])
    assert not hasattr(unfitted, "x_")


def test_regressors_of_many_tickers_are_the_same_in_processes() -> None:
    x = of_prices()
    y, spans = any_returns(x), np.array([[n, n + 40] for n in range(41)])
    model = OneByOne(DecisionTreeRegressor(max_depth=3, random_state=0))
    with parallel_config(backend="sequential"):
        alone = model.fit(x, y, spans)
        expected = predictions(alone, x, spans)
    np.testing.assert_array_equal(predictions(model.fit(x, y, spans), x, spans), expected)


# Pooled


def test_what_is_learned_is_the_return_against_all_tickers_in_units_of_volatility() -> None:
    table = pooled_table()
    y = returns_of(table)
    learned = PooledRegressor(Notes()).fit(table, y).regressor_.y_
    for row in (0, 17, len(table) - 1):
        same_day = (table["date"] == table["date"][row]).to_numpy()
        assert same_day.sum() == len(SECTORS)
        ten_days = table["volatility"][row] * np.sqrt(10)
        expected = (y[row, 9] - y[same_day, 9].mean()) / ten_days
        assert learned[row] == pytest.approx(expected, rel=1e-9)


def test_it_learns_from_the_features_the_volatility_and_the_sector() -> None:
    table = pooled_table()
    x = PooledRegressor(Notes()).fit(table, returns_of(table)).regressor_.x_
    np.testing.assert_array_equal(x[:, : len(FEATURES)], matrix(table))
    np.testing.assert_array_equal(x[:, len(FEATURES)], table["volatility"])
    for column, sector in enumerate(sorted(set(SECTORS.values())), start=len(FEATURES) + 1):
        np.testing.assert_array_equal(x[:, column], table["sector"] == sector)
    assert x.shape[1] == len(FEATURES) + 1 + len(set(SECTORS.values()))


@pytest.mark.parametrize("inner", [LinearRegression(), trees().regressor])
def test_a_return_that_all_tickers_share_teaches_nothing(inner: BaseEstimator) -> None:
    table = pooled_table()
    y = returns_of(table)
    of_day = np.random.default_rng(1).normal(0, 0.1, size=table["date"].nunique())
    market = of_day[pd.factorize(table["date"])[0]]
    one = PooledRegressor(inner).fit(table, y).predict(table)
    other = PooledRegressor(inner).fit(table, y + market[:, None]).predict(table)
    assert np.abs(one).max() > 1e-4
    np.testing.assert_allclose(other, one, rtol=1e-9, atol=1e-12)


def test_one_ticker_alone_does_as_well_as_the_others() -> None:
    table = pooled_table()
    alone = table[table["ticker"] == "B"]
    model = trees().fit(alone, returns_of(alone))
    np.testing.assert_array_equal(model.predict(table), np.zeros((len(table), H)))


def test_an_unknown_sector_is_none_of_those_known() -> None:
    table = pooled_table()
    strange = table.assign(sector="Shipping")
    noting = PooledRegressor(Notes()).fit(table, returns_of(table))
    noting.predict(strange)
    np.testing.assert_array_equal(noting.regressor_.asked_[:, len(FEATURES) + 1 :], 0)
    told = trees().fit(table, returns_of(table)).predict(strange)
    assert told.shape == (len(table), H)
    assert np.isfinite(told).all()


def test_there_may_be_very_many_sectors() -> None:
    table = pooled_table(90)
    table["sector"] = [f"S{n}" for n in range(len(table))]
    assert len(table) > 300  # scikit-learn's own categories end at 255
    model = deepcopy(MODELS["gradient_boosting"])
    assert isinstance(model, PooledRegressor)
    told = model.fit(table, returns_of(table)).predict(table)
    assert np.isfinite(told).all()


def test_the_sector_makes_a_difference() -> None:
    table = pooled_table()
    y = returns_of(table) + 0.1 * (table["sector"] == "Energy").to_numpy()[:, None]
    told = trees().fit(table, y).predict(table.assign(sector="Energy"))
    other = trees().fit(table, y).predict(table.assign(sector="Utilities"))
    assert (told[:, -1] > other[:, -1]).all()


def test_the_days_between_lie_on_a_straight_line_in_units_of_volatility() -> None:
    table = pooled_table()
    model = PooledRegressor(DummyRegressor(strategy="constant", constant=0.25))
    told = model.fit(table, returns_of(table)).predict(table)
    last = 0.25 * table["volatility"].to_numpy() * np.sqrt(10)
    np.testing.assert_allclose(told, last[:, None] * HORIZONS / 10, rtol=1e-12)


def boosting(max_depth: int) -> GradientBoosting:
    return GradientBoosting(
        max_iter=20, learning_rate=0.1, max_depth=max_depth, min_samples_leaf=5, l2_regularization=1
    )


@pytest.mark.parametrize("depth", [1, 2, 9])
def test_boosted_trees_say_what_those_of_scikit_learn_do(depth: int) -> None:
    table = pooled_table(120)
    y, ours = returns_of(table), boosting(depth)
    told = PooledRegressor(ours).fit(table, y).predict(table)
    theirs = PooledRegressor(HistGradientBoostingRegressor(**vars(ours))).fit(table, y)
    assert len(np.unique(told)) > 20
    np.testing.assert_allclose(told, theirs.predict(table), rtol=1e-12)


def test_the_index_of_the_table_does_not_matter() -> None:
    table = pooled_table()
    other = table.set_index(np.random.default_rng(0).permutation(len(table)) // 2)
    y = returns_of(table)
    np.testing.assert_array_equal(
        PooledRegressor(LinearRegression()).fit(other, y).predict(other),
        PooledRegressor(LinearRegression()).fit(table, y).predict(table),
    )


# Univariate


def series(days: int = 60) -> FloatArray:
    return matrix(price_features(make_prices(days=days)).iloc[WARM_UP:])


@pytest.mark.parametrize("name", ["AutoETS", "AutoTheta", "AutoARIMA"])
def test_a_series_model_says_zero_of_the_rows_that_it_learned_from(name: str) -> None:
    pytest.importorskip("statsforecast")
    x = series()
    told = SeriesRegressor(name).fit(x[:40], np.zeros((40, H))).predict(x)
    assert told.shape == (len(x), H)
    np.testing.assert_array_equal(told[:40], np.zeros((40, H)))
    assert np.isfinite(told).all()


def test_a_series_model_tells_what_statsforecast_does() -> None:
    models = pytest.importorskip("statsforecast.models")
    x = series()
    path = np.cumsum(x[:, 0])
    told = SeriesRegressor("AutoTheta").fit(x[:40], np.zeros((40, H))).predict(x)
    fitted = models.AutoTheta(season_length=1).fit(path[:40])
    expected = fitted.forward(path[:50], h=H)["mean"] - path[49]
    np.testing.assert_allclose(told[49], expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", ["AutoETS", "AutoTheta", "AutoARIMA"])
def test_a_series_model_does_not_look_ahead(name: str) -> None:
    pytest.importorskip("statsforecast")
    x = series()
    changed = x.copy()
    changed[51:] += 0.05
    model = SeriesRegressor(name).fit(x[:40], np.zeros((40, H)))
    one, other = model.predict(x), model.predict(changed)
    np.testing.assert_array_equal(one[:51], other[:51])
    np.testing.assert_array_equal(model.predict(x[:51])[50], one[50])


def test_a_series_model_without_its_extra_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "statsforecast", None)
    with pytest.raises(SetupError) as raised:
        SeriesRegressor("AutoETS").fit(series(), np.zeros((54, H)))
    assert str(raised.value) == (
        "AutoETS needs statsforecast: pip install 'stock-assets[statsforecast]'"
    )


def test_naming_a_model_of_an_extra_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "statsforecast", None)
    assert list(candidates(["auto_ets"])) == [NAIVE, "auto_ets"]


# Artifacts


def reloaded(tickers: str, fitted: dict[str, Fitted]) -> Artifact:
    return Artifact.load(Artifact(list(tickers), fitted).dump())


@pytest.mark.parametrize("name", [name for name in MODELS if name not in POOLED])
def test_loaded_models_predict_what_the_dumped_ones_did(name: str) -> None:
    table = pooled_table(tickers="AB")
    model = fitted_model(name, table)
    loaded = reloaded("AB", {name: model})
    assert loaded.tickers == ["A", "B"]
    x, spans = matrix(table), spans_of(table)
    told = predictions(loaded.fitted.get(name, Naive()), x, spans)
    np.testing.assert_array_equal(told, predictions(model, x, spans))


@pytest.mark.parametrize("name", ["of mine", "a/b", "/linear//", "tickers", "tickers.npy", "é ü"])
def test_a_model_may_have_any_name(name: str) -> None:
    one, other = (Linear(np.full((1, 9, H), k), np.zeros((1, H))) for k in (1.0, 2.0))
    loaded = reloaded("A", {name: one, f"{name}/Linear": other})
    assert set(loaded.fitted) == {name, f"{name}/Linear"}
    for key, model in ((name, one), (f"{name}/Linear", other)):
        told = predictions(loaded.fitted[key], np.ones((1, 9)), np.array([[0, 1]]))
        np.testing.assert_array_equal(told, np.full((1, H), model.coefficients[0, 0, 0] * 9))


def test_an_artifact_of_no_ticker_is_one() -> None:
    table, nobody = pooled_table(tickers="AB"), np.empty((0, 2), dtype=np.int64)
    x, y = matrix(table), returns_of(table)
    fitted = {name: model.fit(x, y, nobody) for name, model in OF_EACH_TICKER.items()}
    loaded = reloaded("", fitted)
    assert loaded.tickers == []
    for model in loaded.fitted.values():
        assert predictions(model, x, nobody).shape == (0, H)


@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        ("ABCD", "ABCD"),
        ("DA", "AD"),
        ("CXB", "BC"),
        ("X", ""),
        ("", ""),
    ],
)
@pytest.mark.parametrize("kind", [list, np.array], ids=["list", "array"])
def test_an_artifact_gives_the_models_of_the_tickers_that_it_has(
    wanted: str, found: str, kind: Callable[[list[str]], Any]
) -> None:
    table = pooled_table()
    x, y, spans = matrix(table), returns_of(table), spans_of(table)
    fitted = {name: model.fit(x, y, spans) for name, model in OF_EACH_TICKER.items()}
    taken = reloaded("ABCD", fitted).take(kind(list(wanted)))
    assert list(taken.tickers) == list(found)
    numbers = ["ABCD".index(ticker) for ticker in found]
    for name, model in taken.fitted.items():
        told = predictions(model, x, spans[numbers])
        of_all = predictions(fitted[name], x, spans)
        np.testing.assert_array_equal(told, of_all[spans_rows(spans[numbers])])


def test_boosted_trees_that_did_split_survive_their_artifact() -> None:
    table = pooled_table()
    model = PooledRegressor(boosting(3))
    model.fit(table, returns_of(table))
    loaded = PooledRegressor.from_arrays(unarchived(archive(model.arrays())))
    strange = pd.concat([table, table.assign(sector="Shipping")], ignore_index=True)
    told = model.predict(strange)
    assert len(np.unique(told[:, -1])) > 3
    np.testing.assert_array_equal(loaded.predict(strange), told)


def test_an_artifact_keeps_the_names_in_order() -> None:
    names = [f"model {n * 7 % 11}" for n in range(11)]
    model = Linear(np.zeros((1, 9, H)), np.zeros((1, H)))
    assert list(reloaded("A", dict.fromkeys(names, model)).fitted) == names


def test_what_a_series_model_remembers_survives_its_artifact() -> None:
    model = SeriesRegressor("AutoETS")
    model.rows_ = 40  # as `fit` leaves it, where statsforecast is installed
    loaded = reloaded("A", {"auto_ets": Estimators([model])}).fitted["auto_ets"]
    assert isinstance(loaded, Estimators)
    assert [(each.name, each.rows_) for each in loaded.fitted] == [("AutoETS", 40)]


def test_an_artifact_with_a_type_nobody_vouched_for_is_refused() -> None:
    artifact = Artifact(["A"], {"mine": Estimators([Notes()])}).dump()
    with pytest.raises(UntrustedTypesFoundException, match="Notes"):
        Artifact.load(artifact)
    table = pooled_table()
    pooled = PooledRegressor(Notes()).fit(table, returns_of(table)).arrays()
    with pytest.raises(UntrustedTypesFoundException, match="Notes"):
        PooledRegressor.from_arrays(pooled)


@pytest.mark.parametrize("name", ["tickers", "mine/Linear/coefficients", "mine/Estimators/skops"])
def test_an_artifact_with_a_pickle_is_refused(name: str) -> None:
    file = io.BytesIO()
    pickled = np.array([Notes()], dtype=object)
    np.savez(file, **{"tickers": np.array(["A"]), name: pickled})  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="allow_pickle=False"):
        Artifact.load(file.getvalue())
