"""Training, walk-forward judgement and forecasts: no look-ahead, and naive until proven better."""

from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import ClassVar

import numpy as np
import pandas as pd
import pytest
import skops.io
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.base import BaseEstimator
from sklearn.dummy import DummyRegressor
from sklearn.linear_model import LinearRegression, Ridge
from skops.io.exceptions import UntrustedTypesFoundException

from stock_assets.features import FEATURES, WARM_UP, FloatArray, price_features
from stock_assets.forecasting import (
    MAX_ORIGINS,
    MIN_DAYS,
    MODELS,
    NAIVE,
    PRIOR_WIDTHS,
    REFITS,
    H,
    TrainedModel,
    choose_champion,
    dump_estimators,
    forecast,
    interval_scale,
    interval_widths,
    load_estimators,
    targets,
    train,
    train_all,
    training_version,
    walk_forward,
)
from tests.conftest import make_prices

PRICES = ["close", "open", "low", "high"]
FAST: dict[str, BaseEstimator] = {name: MODELS[name] for name in (NAIVE, "linear_regression")}


class Spy(LinearRegression):  # type: ignore[misc]
    """A linear regression that notes what it is fitted on and asked for."""

    fitted: ClassVar[list[tuple[FloatArray, FloatArray]]] = []
    asked: ClassVar[list[FloatArray]] = []
    said: ClassVar[list[FloatArray]] = []

    def fit(self, x: FloatArray, y: FloatArray) -> "Spy":
        """Note what it is fitted on."""
        self.fitted.append((x, y))
        super().fit(x, y)
        return self

    def predict(self, x: FloatArray) -> FloatArray:
        """Note what it is asked and what it says."""
        said: FloatArray = super().predict(x)
        self.asked.append(x)
        self.said.append(said)
        return said


@pytest.fixture
def spy() -> Iterator[type[Spy]]:
    yield Spy
    for notes in (Spy.fitted, Spy.asked, Spy.said):
        notes.clear()


def prices_of(returns: FloatArray) -> pd.DataFrame:
    """Prices of one ticker or, with two dimensions, of several, from log returns."""
    tickers, days = np.atleast_2d(returns).shape
    close = 100 * np.exp(np.atleast_2d(returns).cumsum(axis=1)).ravel()
    return pd.DataFrame(
        {
            "ticker": np.repeat([f"T{n:03}" for n in range(tickers)], days),
            "date": np.tile(pd.bdate_range("2015-01-01", periods=days), tickers),
            "close": close,
            "open": close * 0.999,
            "low": close * 0.99,
            "high": close * 1.01,
            "volume": 1000,
        }
    )


def random_walk(days: int, *, seed: int = 0, tickers: int = 1) -> pd.DataFrame:
    random = np.random.default_rng(seed)
    return prices_of(random.standard_t(4, size=(tickers, days)) * 0.011)


def planted(days: int) -> pd.DataFrame:
    """Returns that swing with a period of 20 days, in a little noise."""
    noise = np.random.default_rng(0).normal(0, 0.002, days)
    return prices_of(0.02 * np.sin(np.arange(days) * np.pi / 10) + noise)


def features_of(days: int, *, seed: int = 0) -> pd.DataFrame:
    return price_features(make_prices(days=days, seed=seed))


def champion_of(trained: list[TrainedModel]) -> TrainedModel:
    (champion,) = (model for model in trained if model.is_champion)
    return champion


def forecast_of(features: pd.DataFrame, model: TrainedModel) -> pd.DataFrame:
    return forecast(features, model.estimator, model.widths)


# Targets


def test_targets_by_hand() -> None:
    found = targets(2.0 ** np.array([0, 1, 3, *range(3, 13)])) / np.log(2)
    missing = np.nan
    np.testing.assert_allclose(found[0], [1, 3, 3, 4, 5, 6, 7, 8, 9, 10], rtol=1e-12)
    np.testing.assert_allclose(found[2], [0, 1, 2, 3, 4, 5, 6, 7, 8, 9], atol=1e-12)
    np.testing.assert_allclose(found[3], [*range(1, 10), missing], rtol=1e-12)
    np.testing.assert_allclose(found[11], [1, *[missing] * 9], rtol=1e-12)
    assert np.isnan(found[12]).all()


@pytest.mark.parametrize("days", [1, 9, 10, 11])
def test_targets_of_short_histories_have_their_shape(days: int) -> None:
    found = targets(np.ones(days))
    assert found.shape == (days, H)
    assert np.isnan(found).sum() == sum(min(h, days) for h in range(1, H + 1))


# Walk-forward


@given(st.integers(MIN_DAYS - WARM_UP - H, 2000))
@settings(deadline=None, max_examples=100)
def test_no_refit_knows_a_label_from_after_its_first_origin(n: int) -> None:
    for fitted, tested in walk_forward(n):
        assert fitted[0] == 0
        assert fitted[-1] + H == tested[0]  # the label of the last row is known just then
        assert (np.diff(fitted) == 1).all()
        assert len(fitted) > len(FEATURES)


@given(st.integers(MIN_DAYS - WARM_UP - H, 2000))
@settings(deadline=None, max_examples=100)
def test_origins_cover_the_later_half_once(n: int) -> None:
    blocks = [tested for _, tested in walk_forward(n)]
    origins = np.concatenate(blocks)
    assert len(blocks) == REFITS
    assert len(origins) == min(n // 2, MAX_ORIGINS)
    np.testing.assert_array_equal(origins, np.arange(n - len(origins), n))


@pytest.mark.parametrize("days", [MIN_DAYS, 200, 700])
def test_no_model_is_fitted_on_labels_from_after_its_origins(days: int, spy: type[Spy]) -> None:
    features = features_of(days)
    x, y = features[list(FEATURES)].to_numpy(), targets(features["close"].to_numpy())
    day = {row.tobytes(): n for n, row in enumerate(x)}
    train(features, {NAIVE: MODELS[NAIVE], "spy": spy()})
    *refits, (last_x, last_y) = spy.fitted
    assert len(refits) == REFITS
    for (fit_x, fit_y), asked in zip(refits, spy.asked, strict=True):
        days_fitted = [day[row.tobytes()] for row in fit_x]
        days_asked = [day[row.tobytes()] for row in asked]
        np.testing.assert_array_equal(fit_y, y[days_fitted])
        assert max(days_fitted) + H <= min(days_asked)
    np.testing.assert_array_equal(last_x, x[WARM_UP:-H])
    np.testing.assert_array_equal(last_y, y[WARM_UP:-H])


@pytest.mark.parametrize("block", range(REFITS))
def test_the_future_does_not_change_what_a_backtest_says(block: int, spy: type[Spy]) -> None:
    prices = make_prices(days=200)
    labelled = len(prices) - WARM_UP - H
    origins = [tested + WARM_UP for _, tested in walk_forward(labelled)]
    now = int(origins[block][0])
    changed = prices.copy()
    changed.loc[now + 1 :, PRICES] *= np.random.default_rng(0).uniform(
        0.5, 2, (len(prices) - now - 1, 1)
    )
    said = []
    for table in (prices, changed):
        train(price_features(table), {NAIVE: MODELS[NAIVE], "spy": spy()})
        said.append(np.concatenate(spy.said))
        spy.said.clear()
    known = np.concatenate(origins) <= now
    np.testing.assert_array_equal(said[0][known], said[1][known])
    assert not np.array_equal(said[0][~known], said[1][~known])


def test_backtest_figures_are_those_of_the_errors() -> None:
    features = price_features(planted(300))
    naive, linear = train(features, FAST)
    y = targets(features["close"].to_numpy())[WARM_UP:-H]
    origins = y[len(y) - len(y) // 2 :]
    assert naive.backtest is not None
    assert linear.backtest is not None
    assert naive.backtest.origins == linear.backtest.origins == len(origins)
    assert naive.backtest.mae == pytest.approx(np.abs(origins).mean(), rel=1e-12)
    assert naive.backtest.rmse == pytest.approx(np.sqrt((origins**2).mean()), rel=1e-12)
    assert (naive.backtest.mae_ratio, naive.backtest.mae_ratio_h10) == (1, 1)
    assert linear.backtest.mae_ratio == linear.backtest.mae / naive.backtest.mae
    assert linear.backtest.mae < linear.backtest.rmse


# The champion


@pytest.mark.parametrize("days", [100, 250])
def test_naive_is_the_champion_of_random_walks(days: int) -> None:
    walks = price_features(random_walk(days, tickers=40))
    champions = [champion_of(train(walk, FAST)).name for _, walk in walks.groupby("ticker")]
    assert champions.count(NAIVE) >= 36


def test_naive_is_the_champion_of_a_walk_among_all_models() -> None:
    champion = champion_of(train(price_features(random_walk(150))))
    assert (champion.name, champion.reason) == (
        NAIVE,
        "champion: no model beats it beyond noise",
    )


def test_naive_stays_champion_where_another_ties() -> None:
    tie = DummyRegressor(strategy="constant", constant=np.zeros(H))
    trained = train(features_of(120), {"tie": tie, NAIVE: MODELS[NAIVE]})
    assert champion_of(trained).name == NAIVE
    assert trained[0].reason == "challenger: p = 1.00 that it is no better than naive"


def test_naive_is_the_champion_of_prices_that_never_move() -> None:
    trained = train(price_features(prices_of(np.zeros(120))))
    champion = champion_of(trained)
    assert champion.name == NAIVE
    assert champion.backtest is not None
    assert (champion.backtest.mae, champion.backtest.mae_ratio) == (0, 1)
    path = forecast_of(price_features(prices_of(np.zeros(120))), champion)
    assert (path["lo_80"] < path["close"]).all()


def test_a_model_that_truly_predicts_is_the_champion() -> None:
    features = price_features(planted(300))
    trained = train(features)
    champion = champion_of(trained)
    assert champion.name == "linear_regression"
    assert champion.reason == "champion: p = 0.00 that it is no better than naive"
    assert champion.backtest is not None
    assert champion.backtest.mae_ratio < 0.3
    known = features.iloc[:-H]
    actual = features["close"].iloc[-H:].to_numpy()
    path = forecast_of(known, champion_of(train(known)))["close"].to_numpy()
    last = known["close"].iloc[-1]
    assert np.abs(path - actual).mean() < 0.3 * np.abs(last - actual).mean()


def test_the_least_error_wins_among_those_that_beat_naive() -> None:
    naive = np.random.default_rng(0).normal(size=(100, H))
    errors = {"good": 0.5 * naive, "best": 0.25 * naive, "luck": 0.99 * naive, NAIVE: naive}
    assert choose_champion(errors) == "best"


def test_less_error_alone_does_not_make_a_champion() -> None:
    random = np.random.default_rng(0)
    naive, other = random.normal(size=(2, 100, H))
    lucky = other * (0.99 * np.abs(naive).mean() / np.abs(other).mean())
    assert choose_champion({NAIVE: naive, "lucky": lucky}) == NAIVE


def test_overlapping_errors_do_not_make_a_champion() -> None:
    walks = price_features(random_walk(120, tickers=400, seed=1))
    errors = [targets(walk["close"].to_numpy())[:-H] for _, walk in walks.groupby("ticker")]
    pairs = zip(errors[::2], errors[1::2], strict=True)
    champions = [choose_champion({NAIVE: one, "other": other}) for one, other in pairs]
    assert champions.count(NAIVE) >= 0.85 * len(champions)


@pytest.mark.parametrize("days", [1, 2, 10, 11, 25, MIN_DAYS - 1])
def test_a_short_history_gets_the_baseline_and_the_reason(days: int) -> None:
    features = features_of(days)
    (model,) = train(features)
    assert (model.name, model.is_champion, model.backtest) == (NAIVE, True, None)
    assert model.reason == f"baseline: {days} days of history, 80 are needed to train"
    path = forecast_of(features, model)
    assert path["close"].tolist() == [features["close"].iloc[-1]] * H
    assert np.isfinite(path).all(axis=None)


@pytest.mark.parametrize("days", [MIN_DAYS, MIN_DAYS + 1, 120])
def test_a_longer_history_is_trained_on_with_every_model(days: int) -> None:
    trained = train(features_of(days))
    assert [model.name for model in trained] == list(MODELS)
    assert champion_of(trained).name in MODELS
    assert all(model.backtest is not None for model in trained)


def test_the_models_of_the_dictionary_are_not_fitted_themselves() -> None:
    train(features_of(MIN_DAYS))
    assert not any(hasattr(model, "n_features_in_") for model in MODELS.values())


def test_a_new_model_is_one_entry(monkeypatch: pytest.MonkeyPatch) -> None:
    features = features_of(MIN_DAYS)
    version = training_version(features)
    monkeypatch.setitem(MODELS, "ridge", Ridge())
    trained = train(features)
    loaded = load_estimators(dump_estimators(trained))
    assert trained[-1].name == list(loaded)[-1] == "ridge"
    assert isinstance(loaded["ridge"], Ridge)
    assert forecast(features, loaded["ridge"], trained[-1].widths).shape == (H, 6)
    assert training_version(features) != version


# Intervals


@given(
    returns=st.lists(st.floats(-1, 1), min_size=1, max_size=MIN_DAYS - 1),
    scale=st.sampled_from([0.0, 1e-6, 0.01, 0.1, 1.0]),
    start=st.floats(1e-6, 1e9),
)
@settings(deadline=None, max_examples=60)
def test_intervals_are_ordered_and_positive(
    returns: list[float], scale: float, start: float
) -> None:
    prices = prices_of(np.array(returns) * scale)
    prices[PRICES] *= start
    features = price_features(prices)
    path = forecast_of(features, champion_of(train(features)))
    assert path["h"].tolist() == list(range(1, H + 1))
    bounds = path[["lo_95", "lo_80", "close", "hi_80", "hi_95"]].to_numpy()
    assert (bounds > 0).all()
    assert np.isfinite(bounds).all()
    assert (np.diff(bounds, axis=1) > 0).all()


@pytest.mark.parametrize("scale", [1e-6, 0.1, 1.0])
def test_intervals_of_trained_models_are_ordered_too(scale: float) -> None:
    features = price_features(prices_of(np.random.default_rng(0).normal(0, scale, 120)))
    for model in train(features):
        path = forecast_of(features, model)
        bounds = path[["lo_95", "lo_80", "close", "hi_80", "hi_95"]].to_numpy()
        assert (bounds > 0).all()
        assert (np.diff(bounds, axis=1) > 0).all()


@given(n=st.integers(0, 400), scale=st.floats(0, 100))
@settings(deadline=None, max_examples=60)
def test_widths_are_positive_and_ordered(n: int, scale: float) -> None:
    widths = interval_widths(np.random.default_rng(n).normal(size=(n, H)) * scale)
    assert widths.shape == (2, H)
    assert (widths > 0).all()
    assert (widths[1] > widths[0]).all()


def test_widths_without_errors_are_the_prior() -> None:
    np.testing.assert_array_equal(interval_widths(np.empty((0, H))), PRIOR_WIDTHS)


def test_own_errors_count_as_much_as_the_prior_at_200() -> None:
    widths = interval_widths(np.full((200, H), -3.0))
    np.testing.assert_allclose(widths, (3 + PRIOR_WIDTHS) / 2, rtol=1e-12)


def test_widths_take_the_conformal_rank_of_each_level() -> None:
    scores = np.repeat(np.arange(1.0, 101)[:, None], H, axis=1)
    widths = interval_widths(scores)
    own = np.array([[81.0], [96.0]])  # ranks ceil(101 * 0.8) and ceil(101 * 0.95)
    np.testing.assert_allclose(widths, (10 * own + 20 * PRIOR_WIDTHS) / 30, rtol=1e-12)


def test_intervals_widen_with_volatility_and_with_the_root_of_time() -> None:
    scale = interval_scale(np.array([0.01, 0.02]))
    np.testing.assert_allclose(scale[1], 2 * scale[0])
    np.testing.assert_allclose(scale[0, [0, 3, 8]], [0.01, 0.02, 0.03])


@pytest.mark.parametrize("days", [40, 120])
def test_intervals_cover_what_they_promise(days: int) -> None:
    tickers = 600
    prices = random_walk(days + H, tickers=tickers)
    known = (prices.groupby("ticker").cumcount() < days).to_numpy()
    future = prices["close"].to_numpy()[~known].reshape(tickers, H)
    inside = {80: 0.0, 95: 0.0}
    tables = price_features(prices[known]).groupby("ticker")
    for (_, features), actual in zip(tables, future, strict=True):
        path = forecast_of(features, *train(features, {NAIVE: MODELS[NAIVE]}))
        for level in inside:
            low, high = path[f"lo_{level}"].to_numpy(), path[f"hi_{level}"].to_numpy()
            inside[level] += ((low <= actual) & (actual <= high)).mean() / tickers
    assert inside[80] == pytest.approx(0.8, abs=0.04)
    assert inside[95] == pytest.approx(0.95, abs=0.02)


# Forecasts


@pytest.mark.parametrize("currency", [1 / 1024, 0.01, 150.0])
def test_forecasts_are_in_the_currency_of_the_prices(currency: float) -> None:
    prices = make_prices(days=120)
    scaled = prices.copy()
    scaled[PRICES] *= currency
    one, other = price_features(prices), price_features(scaled)
    for model, twin in zip(train(one), train(other), strict=True):
        expected = forecast_of(one, model).set_index("h") * currency
        np.testing.assert_allclose(
            forecast_of(other, twin).set_index("h"), expected, rtol=1e-9, err_msg=model.name
        )


def test_a_forecast_starts_from_the_last_day_alone() -> None:
    features = features_of(120)
    model = train(features, FAST)[-1]
    pd.testing.assert_frame_equal(
        forecast_of(features, model), forecast_of(features.tail(1), model), check_exact=True
    )


def test_forecasts_of_a_fixed_series() -> None:
    day = np.arange(120)
    prices = prices_of(0.01 * np.sin(day * day / 7) + 0.004 * np.cos(day / 5))
    prices["volume"] = 1000 + 37 * day % 101
    features = price_features(prices)
    naive, linear = train(features, FAST)
    path = forecast_of(features, naive)
    assert path.iloc[0].tolist() == pytest.approx(
        [1, 122.0592895, 121.0348657, 123.0923839, 120.3553908, 123.7873107], rel=1e-6
    )
    assert path.iloc[-1].tolist() == pytest.approx(
        [10, 122.0592895, 118.1197337, 126.1302383, 115.7551516, 128.7067569], rel=1e-6
    )
    assert forecast_of(features, linear)["close"].tolist()[::3] == pytest.approx(
        [121.8767564, 122.7392765, 123.7132538, 126.0582389], rel=1e-6
    )
    assert linear.backtest is not None
    assert asdict(linear.backtest) == pytest.approx(
        {
            "origins": 52,
            "mae": 0.016957937,
            "rmse": 0.022206724,
            "mae_ratio": 0.827592415,
            "mae_ratio_h10": 0.766917125,
            "coverage_80": 357 / 520,
            "coverage_95": 492 / 520,
        },
        rel=1e-6,
    )


# Artifacts and versions


@pytest.mark.parametrize("days", [1, MIN_DAYS])
def test_loaded_models_predict_what_the_dumped_ones_did(days: int) -> None:
    features = features_of(days)
    trained = train(features)
    loaded = load_estimators(dump_estimators(trained))
    assert list(loaded) == [model.name for model in trained]
    x = np.random.default_rng(0).normal(0, 0.02, (50, len(FEATURES)))
    for model in trained:
        np.testing.assert_array_equal(
            loaded[model.name].predict(x), model.estimator.predict(x), err_msg=model.name
        )


class NotVouchedFor(BaseEstimator):  # type: ignore[misc]
    """A type that no artifact of ours holds."""


def test_an_artifact_with_a_type_nobody_vouched_for_is_refused() -> None:
    artifact = skops.io.dumps({NAIVE: NotVouchedFor()})
    with pytest.raises(UntrustedTypesFoundException, match="NotVouchedFor"):
        load_estimators(artifact)


@pytest.mark.parametrize("name", ["close", "high", "volume"])
def test_the_training_version_names_the_data(name: str) -> None:
    prices = make_prices(days=90).astype({"volume": float})
    changed = prices.copy()
    changed[name] = changed[name].where(changed.index != 50, changed[name] * 1.001)
    version = training_version(price_features(prices))
    assert version == training_version(price_features(prices.copy()))
    assert version != training_version(price_features(changed))
    assert len(version) == 12


def test_the_training_version_names_the_days() -> None:
    features = features_of(90)
    later = features.assign(date=features["date"] + pd.Timedelta(days=1))
    assert training_version(features) != training_version(later)
    assert training_version(features) != training_version(features.iloc[1:])


def test_the_training_version_names_the_models(monkeypatch: pytest.MonkeyPatch) -> None:
    features = features_of(90)
    version = training_version(features)
    monkeypatch.setitem(MODELS, "linear_regression", LinearRegression(fit_intercept=False))
    assert training_version(features) != version


def test_the_training_version_names_the_code(monkeypatch: pytest.MonkeyPatch) -> None:
    features = features_of(90)
    version = training_version(features)
    monkeypatch.setattr("stock_assets.forecasting.CODE_VERSION", "another")
    assert training_version(features) != version


# Many tickers


def tables_of(lengths: Mapping[str, int]) -> dict[str, pd.DataFrame]:
    return {ticker: price_features(make_prices(ticker, days)) for ticker, days in lengths.items()}


@pytest.mark.parametrize("tickers", [3, 41])
def test_training_all_is_training_each_in_the_same_order(tickers: int) -> None:
    names = [f"T{n * 7 % tickers}" for n in range(tickers)]
    tables = tables_of({name: 90 if n % 20 == 1 else 15 for n, name in enumerate(names)})
    found = list(train_all(tables))
    assert [ticker for ticker, _ in found] == names
    for ticker, trained in found:
        alone = train(tables[ticker])
        assert [_told(model) for model in trained] == [_told(model) for model in alone]
        for model, twin in zip(trained, alone, strict=True):
            pd.testing.assert_frame_equal(
                forecast_of(tables[ticker], model),
                forecast_of(tables[ticker], twin),
                check_exact=True,
            )


def _told(model: TrainedModel) -> tuple[object, ...]:
    return (model.name, model.reason, model.is_champion, model.backtest, model.widths.tolist())


@pytest.mark.parametrize("tickers", [1, 41])
def test_an_error_names_the_ticker_that_it_came_from(tickers: int) -> None:
    tables = tables_of({f"T{n}": 15 for n in range(tickers)})
    tables["BAD"] = tables["T0"].drop(columns="volatility")
    with pytest.raises(KeyError) as raised:
        list(train_all(tables))
    assert "while training BAD" in raised.value.__notes__


def test_training_no_ticker_gives_nothing() -> None:
    assert list(train_all({})) == []
