"""The dictionary of models, the two adapters to other kinds of them, and their artifacts."""

import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
import pytest
import skops.io
from sklearn.base import BaseEstimator, clone
from sklearn.dummy import DummyRegressor
from sklearn.ensemble import HistGradientBoostingRegressor
from sklearn.linear_model import LinearRegression
from sklearn.tree import DecisionTreeRegressor
from skops.io.exceptions import UntrustedTypesFoundException
from threadpoolctl import threadpool_limits

from stock_assets.errors import SetupError
from stock_assets.features import FEATURES, WARM_UP, FloatArray, price_features
from stock_assets.models import (
    HORIZONS,
    MODELS,
    NAIVE,
    H,
    PooledRegressor,
    SeriesRegressor,
    candidates,
    dump_models,
    is_pooled,
    load_models,
)
from tests.conftest import make_prices

SECTORS = {"A": "Utilities", "B": "Energy", "C": "Utilities", "D": "Materials"}


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Boosted trees of so few rows wait for each other's threads, on busy cores for seconds."""
    with threadpool_limits(1):
        yield


def pooled_table(days: int = 60) -> pd.DataFrame:
    """Feature table rows of four tickers of three sectors, which trade on the same days."""
    prices = pd.concat([make_prices(ticker, days) for ticker in SECTORS], ignore_index=True)
    table = price_features(prices).assign(sector=prices["ticker"].map(SECTORS))
    return table[table.groupby("ticker").cumcount() >= WARM_UP].reset_index(drop=True)


def returns_of(table: pd.DataFrame, seed: int = 0) -> FloatArray:
    """Any (n, 10) log returns."""
    return np.random.default_rng(seed).normal(0, 0.03, size=(len(table), H))


def matrix(table: pd.DataFrame) -> FloatArray:
    return table[list(FEATURES)].to_numpy(np.float64)


def inputs(model: BaseEstimator, table: pd.DataFrame) -> Any:
    return table if is_pooled(model) else matrix(table)


def trees() -> PooledRegressor:
    return PooledRegressor(DecisionTreeRegressor(max_depth=4, random_state=0))


def fitted_model(name: str, table: pd.DataFrame) -> Any:
    """A model of the dictionary, or a skip where its extra is not installed."""
    if isinstance(MODELS[name], SeriesRegressor):
        pytest.importorskip("statsforecast")
        table = table[table["ticker"] == "A"]
    return clone(MODELS[name]).fit(inputs(MODELS[name], table[:-12]), returns_of(table)[:-12])


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


# The dictionary


@pytest.mark.parametrize("name", MODELS)
def test_every_model_predicts_ten_returns(name: str) -> None:
    table = pooled_table()
    predicted = fitted_model(name, table).predict(inputs(MODELS[name], table))
    assert predicted.shape == (len(table), H)
    assert np.isfinite(predicted).all()


@pytest.mark.parametrize("name", MODELS)
def test_every_model_is_the_same_again(name: str) -> None:
    table = pooled_table()
    x = inputs(MODELS[name], table)
    one, other = (fitted_model(name, table).predict(x) for _ in range(2))
    np.testing.assert_array_equal(one, other)


def test_naive_says_that_nothing_changes() -> None:
    predicted = fitted_model(NAIVE, pooled_table()).predict(np.full((3, len(FEATURES)), np.nan))
    np.testing.assert_array_equal(predicted, np.zeros((3, H)))


def test_the_models_of_the_dictionary_are_not_fitted_themselves() -> None:
    for model in MODELS.values():
        assert not [name for name in vars(model) if name.endswith("_")]


def test_one_model_of_the_dictionary_is_pooled() -> None:
    assert [name for name, model in MODELS.items() if is_pooled(model)] == ["gradient_boosting"]


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
    told = clone(MODELS["gradient_boosting"]).fit(table, returns_of(table)).predict(table)
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
    models = pytest.importorskip("statsforecast").models
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


@pytest.mark.parametrize("name", MODELS)
def test_loaded_models_predict_what_the_dumped_ones_did(name: str) -> None:
    table = pooled_table()
    model = fitted_model(name, table)
    loaded = load_models(dump_models({name: model}))
    x = inputs(model, table[table["ticker"] == "A"])
    np.testing.assert_array_equal(loaded[name].predict(x), model.predict(x))


def test_boosted_trees_that_did_split_survive_their_artifact() -> None:
    table = pooled_table()
    model = PooledRegressor(HistGradientBoostingRegressor(max_iter=3, min_samples_leaf=5))
    model.fit(table, returns_of(table))
    loaded = load_models(dump_models({"boosting": model}))["boosting"]
    strange = pd.concat([table, table.assign(sector="Shipping")], ignore_index=True)
    told = model.predict(strange)
    assert len(np.unique(told[:, -1])) > 3
    np.testing.assert_array_equal(loaded.predict(strange), told)


def test_an_artifact_keeps_the_names_in_order() -> None:
    table = pooled_table()
    names = ["ridge", NAIVE, "linear_regression"]
    artifact = dump_models({name: fitted_model(name, table) for name in names})
    assert list(load_models(artifact)) == names


def test_what_a_series_model_remembers_survives_its_artifact() -> None:
    model = SeriesRegressor("AutoETS")
    model.rows_ = 40  # as `fit` leaves it, where statsforecast is installed
    loaded = load_models(dump_models({"auto_ets": model}))["auto_ets"]
    assert (loaded.name, loaded.rows_) == ("AutoETS", 40)


@pytest.mark.parametrize("model", [Notes(), PooledRegressor(Notes())], ids=["own", "inner"])
def test_an_artifact_with_a_type_nobody_vouched_for_is_refused(model: BaseEstimator) -> None:
    artifact = skops.io.dumps({NAIVE: model})
    with pytest.raises(UntrustedTypesFoundException, match="Notes"):
        load_models(artifact)
