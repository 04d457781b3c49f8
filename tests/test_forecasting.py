"""Training, walk-forward judgement and forecasts: no look-ahead, and naive until proven better."""

from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.base import BaseEstimator
from sklearn.dummy import DummyRegressor
from sklearn.linear_model import LinearRegression
from sklearn.tree import DecisionTreeRegressor

from stock_assets.champion import choose_champion
from stock_assets.features import FEATURES, WARM_UP, FloatArray, price_features
from stock_assets.forecasting import (
    FORTNIGHT,
    MIN_DAYS,
    POOLED_EVERY,
    REFITS,
    WEIGHT_PRIOR,
    Backtest,
    PooledModel,
    TrainedModel,
    dump_pooled,
    earned_weights,
    forecast,
    interval_half_widths,
    interval_scale,
    load_pooled,
    predicted_paths,
    targets,
    train,
    train_all,
    train_pooled,
    training_version,
    walk_forward,
)
from stock_assets.intervals import PRIOR_WIDTHS, Widths, interval_widths
from stock_assets.models import MODELS, NAIVE, H, PooledRegressor
from tests.conftest import make_prices

PRICES = ["close", "open", "low", "high"]
FAST: dict[str, BaseEstimator] = {name: MODELS[name] for name in (NAIVE, "linear_regression")}
TREE = PooledRegressor(DecisionTreeRegressor(max_depth=3, random_state=0))
PRIOR = Widths(np.empty(0, "datetime64[D]"), np.empty((0, 2, H)))


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


def market_prices(days: int = 120, tickers: str = "ABCD") -> pd.DataFrame:
    prices = pd.concat([make_prices(ticker, days) for ticker in tickers], ignore_index=True)
    return prices.assign(sector=np.where(prices["ticker"] < "C", "Energy", "Utilities"))


def market_features(prices: pd.DataFrame) -> pd.DataFrame:
    return price_features(prices).assign(sector=prices["sector"].to_numpy())


def train_alone(
    features: pd.DataFrame, models: Mapping[str, BaseEstimator] = FAST
) -> list[TrainedModel]:
    return train(features, models, {}, interval_widths(features))


def forecast_of(features: pd.DataFrame, model: TrainedModel) -> pd.DataFrame:
    return forecast(features, model.estimator, model.weight, interval_widths(features))


def backtest_of(model: TrainedModel) -> Backtest:
    assert model.backtest is not None
    return model.backtest


def changed_after(prices: pd.DataFrame, day: Any) -> pd.DataFrame:
    """Other prices on all days after one."""
    changed = prices.copy()
    later = (prices["date"] > day).to_numpy()
    factor = np.random.default_rng(0).uniform(0.5, 2, (later.sum(), 1))
    changed.loc[later, PRICES] *= factor
    return changed


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
    assert len(origins) == n // 2
    np.testing.assert_array_equal(origins, np.arange(n - len(origins), n))


@pytest.mark.parametrize("days", [MIN_DAYS, 200, 500])
def test_no_model_is_fitted_on_labels_from_after_its_origins(days: int, spy: type[Spy]) -> None:
    features = features_of(days)
    x, y = features[list(FEATURES)].to_numpy(), targets(features["close"].to_numpy())
    day = {row.tobytes(): n for n, row in enumerate(x)}
    train_alone(features, {NAIVE: MODELS[NAIVE], "spy": spy()})
    (last_x, last_y), *refits = spy.fitted
    assert len(refits) == REFITS
    blocks = [tested + WARM_UP for _, tested in walk_forward(days - WARM_UP - H)]
    for (fit_x, fit_y), asked, block in zip(refits, spy.asked, blocks, strict=True):
        days_fitted = [day[row.tobytes()] for row in fit_x]
        days_asked = [day[row.tobytes()] for row in asked]
        np.testing.assert_array_equal(fit_y, y[days_fitted])
        assert max(days_fitted) + H <= block[0]
        np.testing.assert_array_equal(days_asked, np.arange(WARM_UP, block[-1] + 1))
    np.testing.assert_array_equal(last_x, x[WARM_UP:-H])
    np.testing.assert_array_equal(last_y, y[WARM_UP:-H])


@pytest.mark.parametrize("block", range(REFITS))
def test_the_future_does_not_change_what_a_backtest_says(block: int, spy: type[Spy]) -> None:
    prices = make_prices(days=200)
    blocks = [tested + WARM_UP for _, tested in walk_forward(len(prices) - WARM_UP - H)]
    now = int(blocks[block][0])
    said = []
    for table in (prices, changed_after(prices, prices["date"][now])):
        train_alone(price_features(table), {NAIVE: MODELS[NAIVE], "spy": spy()})
        origins = zip(spy.said, blocks, strict=True)
        said.append(np.concatenate([told[tested - WARM_UP] for told, tested in origins]))
        spy.said.clear()
    known = np.concatenate(blocks) <= now
    np.testing.assert_array_equal(said[0][known], said[1][known])
    assert not np.array_equal(said[0][~known], said[1][~known])


# Weights


def slow_weights(predicted: FloatArray, actual: FloatArray) -> list[float]:
    """One origin after the other, one horizon after the other."""
    weights = []
    for origin in range(len(predicted) + H):
        product = square = 0.0
        for earlier in range(len(predicted)):
            if earlier + H <= origin:  # its outcome is known
                for h in range(H):
                    product += predicted[earlier, h] * actual[earlier, h]
                    square += predicted[earlier, h] ** 2
        weights.append(min(max(product / (square + WEIGHT_PRIOR), 0.0), 1.0))
    return weights


@pytest.mark.parametrize("skill", [0.0, 0.3, -0.3])
def test_weights_agree_with_a_slow_reference(skill: float) -> None:
    random = np.random.default_rng(0)
    predicted = random.normal(0, 2, size=(40, H))
    actual = skill * predicted + random.normal(0, 1, size=(40, H))
    weights = earned_weights(predicted, actual)
    assert weights.shape == (50,)
    np.testing.assert_allclose(weights, slow_weights(predicted, actual), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("origin", [0, 7, 29])
def test_a_weight_knows_no_outcome_before_its_time(origin: int) -> None:
    predicted, actual = np.random.default_rng(0).uniform(1, 2, size=(2, 30, H))
    changed = actual.copy()
    changed[origin] *= 2
    one, other = earned_weights(predicted, actual), earned_weights(predicted, changed)
    np.testing.assert_array_equal(one[: origin + H], other[: origin + H])
    assert (one[origin + H :] < other[origin + H :]).all()


def test_weights_are_earned_slowly_and_end_at_one() -> None:
    told = np.ones((2000, H))
    weights = earned_weights(told, told)
    assert (weights[:H] == 0).all()
    assert weights[H] == pytest.approx(H / (H + WEIGHT_PRIOR))
    assert (np.diff(weights[H:]) > 0).all()
    assert 0.9 < weights[-1] < 1
    assert earned_weights(told, 5 * told)[-1] == 1
    assert (earned_weights(told, -told) == 0).all()


def test_noise_earns_next_to_nothing() -> None:
    predicted, actual = np.random.default_rng(0).normal(0, 0.3, size=(2, 60, H))
    assert earned_weights(predicted, actual).max() < 0.02


# Backtests


def test_backtest_figures_are_those_of_the_errors(spy: type[Spy]) -> None:
    features = price_features(planted(300))
    widths = interval_widths(features)
    naive, model = train(features, {NAIVE: MODELS[NAIVE], "spy": spy()}, {}, widths)
    y = targets(features["close"].to_numpy())[WARM_UP:-H]
    origins = np.concatenate([tested for _, tested in walk_forward(len(y))])
    told = np.concatenate(
        [said[tested] for said, (_, tested) in zip(spy.said, walk_forward(len(y)), strict=True)]
    )
    volatility = features["volatility"].to_numpy()[WARM_UP:-H][origins]
    scale = volatility[:, None] * np.sqrt(np.arange(1, 11))
    weights = slow_weights(told / scale, y[origins] / scale)
    assert model.weight == pytest.approx(weights[-1], rel=1e-9)
    judged = range(H, len(origins))
    errors = np.stack([y[origins[n]] - weights[n] * told[n] for n in judged])
    actual = y[origins[H:]]
    days = features["date"].iloc[WARM_UP:-H].iloc[origins[H:]]
    bounds = widths.on(days) * scale[H:, None]
    for found, wrong in ((naive, actual), (model, errors)):
        told_of = asdict(backtest_of(found))
        told_of.pop("gains")
        assert told_of == pytest.approx(
            {
                "origins": len(origins) - H,
                "mae": np.abs(wrong).mean(),
                "rmse": np.sqrt((wrong**2).mean()),
                "mae_ratio": np.abs(wrong).mean() / np.abs(actual).mean(),
                "mae_ratio_h10": np.abs(wrong[:, 9]).mean() / np.abs(actual[:, 9]).mean(),
                "coverage_80": (np.abs(wrong) <= bounds[:, 0]).mean(),
                "coverage_95": (np.abs(wrong) <= bounds[:, 1]).mean(),
            },
            rel=1e-9,
        )
    assert backtest_of(model).mae_ratio < 0.8


def test_gains_are_kept_by_fortnight() -> None:
    features = price_features(planted(200))
    naive, model = train_alone(features)
    found = backtest_of(model)
    days = features["date"].iloc[WARM_UP:-H].iloc[-(found.origins) :]
    numbers = [(day - pd.Timestamp("1970-01-01")).days // FORTNIGHT for day in days]
    assert [int(key) for key in found.gains] == sorted(set(numbers))
    assert {int(key): count for key, (_, count) in found.gains.items()} == {
        number: numbers.count(number) for number in numbers
    }
    total = sum(gain for gain, _ in found.gains.values())
    assert total / found.origins == pytest.approx(backtest_of(naive).mae - found.mae, rel=1e-9)
    assert all(gain == 0 for gain, _ in backtest_of(naive).gains.values())


def test_naive_is_as_good_as_naive() -> None:
    (naive,) = train_alone(features_of(120), {NAIVE: MODELS[NAIVE]})
    found = backtest_of(naive)
    assert (found.mae_ratio, found.mae_ratio_h10, naive.weight) == (1, 1, 0)
    assert found.mae < found.rmse


def test_prices_that_never_move_are_told_rightly() -> None:
    features = price_features(prices_of(np.zeros(120)))
    for model in train_alone(features):
        found = backtest_of(model)
        assert (found.mae, found.mae_ratio, found.coverage_80) == (0, 1, 1)
        path = forecast_of(features, model)
        assert (path["close"] == 100).all()
        assert (path["lo_80"] < path["close"]).all()


@pytest.mark.parametrize("days", [100, 250])
def test_models_of_random_walks_lose_little_and_are_not_promoted(days: int) -> None:
    walks = price_features(random_walk(days, tickers=25))
    widths = interval_widths(walks)
    backtests = [
        backtest_of(train(walk, FAST, {}, widths)[1]) for _, walk in walks.groupby("ticker")
    ]
    assert np.mean([told.mae_ratio for told in backtests]) == pytest.approx(1, abs=0.005)
    decision = choose_champion({"linear_regression": [told.gains for told in backtests]})
    assert decision.champion == NAIVE


def test_a_model_that_truly_predicts_is_the_champion() -> None:
    features = price_features(planted(400))
    known = features.iloc[:-H]
    trained = {model.name: model for model in train_alone(known)}
    decision = choose_champion({name: [backtest_of(m).gains] for name, m in trained.items()})
    assert decision.champion == "linear_regression"
    assert trained["linear_regression"].weight > 0.5
    path = forecast_of(known, trained["linear_regression"])["close"].to_numpy()
    actual, last = features["close"].iloc[-H:].to_numpy(), known["close"].iloc[-1]
    assert np.abs(path - actual).mean() < 0.6 * np.abs(last - actual).mean()


@pytest.mark.parametrize("days", [1, 2, 10, 11, 25, MIN_DAYS - 1])
def test_a_short_history_gets_the_baseline_alone(days: int) -> None:
    features = features_of(days)
    (model,) = train_alone(features, MODELS)
    assert (model.name, model.backtest) == (NAIVE, None)
    path = forecast_of(features, model)
    assert path["close"].tolist() == [features["close"].iloc[-1]] * H
    assert np.isfinite(path).all(axis=None)


@pytest.mark.parametrize("days", [MIN_DAYS, MIN_DAYS + 1, 120])
def test_a_longer_history_is_trained_on_with_every_model(days: int) -> None:
    models = {name: MODELS[name] for name in (NAIVE, "random_forest", "ridge")}
    trained = train_alone(features_of(days), models)
    assert [model.name for model in trained] == list(models)
    assert all(model.backtest is not None for model in trained)
    assert all(model.estimator is not None for model in trained)
    assert not any(hasattr(model, "n_features_in_") for model in models.values())


# Pooled models


def pooled_of(features: pd.DataFrame) -> PooledModel:
    return train_pooled(features, {**FAST, "tree": TREE})["tree"]


def test_only_pooled_models_are_trained_on_all_tickers() -> None:
    features = market_features(market_prices(MIN_DAYS))
    assert list(train_pooled(features, {**FAST, "tree": TREE})) == ["tree"]
    assert train_pooled(features, FAST) == {}
    assert train_pooled(market_features(market_prices(MIN_DAYS - 1)), {"tree": TREE}) == {}
    assert not hasattr(TREE, "regressor_")


class Memory(BaseEstimator):  # type: ignore[misc]
    """Keeps the rows and targets that it learned from."""

    def fit(self, x: FloatArray, y: FloatArray) -> "Memory":
        """Keep them."""
        self.x_, self.y_ = x, y
        return self

    def predict(self, x: FloatArray) -> FloatArray:
        """How many rows it knows."""
        return np.full(len(x), float(len(self.x_)))


def test_pooled_models_learn_from_every_fifth_day_whose_outcome_was_known() -> None:
    prices = market_prices()
    features = market_features(prices)
    days = np.unique(features["date"].to_numpy("datetime64[D]"))
    row_of = {row.tobytes(): n for n, row in enumerate(features[list(FEATURES)].to_numpy())}
    pooled = train_pooled(features, {"memory": PooledRegressor(Memory())})["memory"]
    first_origins = [tested[0] for _, tested in walk_forward(len(days) - WARM_UP - H)]
    np.testing.assert_array_equal(pooled.first_days, days[WARM_UP + np.array(first_origins)])
    assert len(pooled.first_days) == len(pooled.refits) == REFITS
    fits = [*zip(pooled.refits, pooled.first_days, strict=True), (pooled.final, days[-1])]
    for fitted, day in fits:
        rows = [row_of[row[: len(FEATURES)].tobytes()] for row in fitted.regressor_.x_]
        learned = features.iloc[rows]
        numbers = np.searchsorted(days, np.unique(learned["date"].to_numpy("datetime64[D]")))
        now = int(np.searchsorted(days, day))
        last = now - H - (now - H - (len(days) - 1)) % POOLED_EVERY
        assert numbers.tolist() == list(range(numbers[0], last + 1, POOLED_EVERY))
        assert WARM_UP <= numbers[0] < WARM_UP + POOLED_EVERY
        assert (learned.groupby("date")["ticker"].nunique() == 4).all()


@pytest.mark.parametrize("refit", range(REFITS))
def test_the_future_does_not_change_what_pooled_models_say(refit: int) -> None:
    prices = market_prices()
    features = market_features(prices)
    one = pooled_of(features)
    day = one.first_days[refit]
    other = pooled_of(market_features(changed_after(prices, day)))
    known = features[features["date"] <= day]
    np.testing.assert_array_equal(one.out_of_sample(known), other.out_of_sample(known))
    np.testing.assert_array_equal(
        one.refits[refit].predict(known), other.refits[refit].predict(known)
    )
    final = [pooled.final.predict(known) for pooled in (one, other)]
    assert not np.array_equal(*final)


def test_each_day_is_told_by_the_latest_refit_before_it() -> None:
    features = market_features(market_prices())
    pooled = pooled_of(features)
    table = features[features["ticker"] == "B"].iloc[WARM_UP:]
    told = pooled.out_of_sample(table)
    days = table["date"].to_numpy("datetime64[D]")
    first, second = pooled.first_days
    early, late = (refit.predict(table) for refit in pooled.refits)
    np.testing.assert_array_equal(told[days < first], 0)
    between = (days >= first) & (days < second)
    np.testing.assert_array_equal(told[between], early[between])
    np.testing.assert_array_equal(told[days >= second], late[days >= second])
    assert not np.array_equal(early, late)


def test_a_pooled_model_is_judged_for_each_ticker_by_its_refits() -> None:
    features = market_features(market_prices())
    widths = interval_widths(features)
    pooled = train_pooled(features, {"tree": TREE})
    table = features[features["ticker"] == "C"].reset_index(drop=True)
    naive, tree = train(table, {NAIVE: MODELS[NAIVE], "tree": TREE}, pooled, widths)
    assert tree.estimator is None
    y = targets(table["close"].to_numpy())[WARM_UP:-H]
    origins = np.concatenate([tested for _, tested in walk_forward(len(y))])
    rows = table.iloc[WARM_UP:-H].iloc[origins]
    scale = interval_scale(rows["volatility"].to_numpy())
    told = pooled["tree"].out_of_sample(rows)
    assert (told != 0).any(axis=1).all()
    weights = earned_weights(told / scale, y[origins] / scale)
    errors = y[origins] - weights[:-H, None] * told
    assert tree.weight == weights[-1]
    assert backtest_of(tree).mae == pytest.approx(np.abs(errors[H:]).mean(), rel=1e-9)
    assert backtest_of(tree).origins == backtest_of(naive).origins


def test_a_pooled_model_that_could_not_be_trained_does_not_compete() -> None:
    trained = train_alone(features_of(MIN_DAYS), {**FAST, "tree": TREE})
    assert [model.name for model in trained] == list(FAST)


def test_loaded_pooled_models_say_what_the_dumped_ones_did() -> None:
    features = market_features(market_prices())
    pooled = train_pooled(features, {"tree": TREE})
    loaded = load_pooled(dump_pooled(pooled))
    table = features[features["ticker"] == "A"].iloc[WARM_UP:]
    assert list(loaded) == ["tree"]
    np.testing.assert_array_equal(loaded["tree"].first_days, pooled["tree"].first_days)
    assert loaded["tree"].first_days.dtype == pooled["tree"].first_days.dtype
    one, other = loaded["tree"], pooled["tree"]
    np.testing.assert_array_equal(one.out_of_sample(table), other.out_of_sample(table))
    np.testing.assert_array_equal(one.final.predict(table), other.final.predict(table))
    assert load_pooled(dump_pooled({})) == {}


# Intervals


@given(
    returns=st.lists(st.floats(-1, 1), min_size=1, max_size=MIN_DAYS - 1),
    scale=st.sampled_from([0.0, 1e-6, 0.01, 0.1, 1.0]),
    start=st.floats(1e-6, 1e9),
)
@settings(deadline=None, max_examples=40)
def test_intervals_are_ordered_and_positive(
    returns: list[float], scale: float, start: float
) -> None:
    prices = prices_of(np.array(returns) * scale)
    prices[PRICES] *= start
    features = price_features(prices)
    path = forecast_of(features, *train_alone(features))
    assert path["h"].tolist() == list(range(1, H + 1))
    bounds = path[["lo_95", "lo_80", "close", "hi_80", "hi_95"]].to_numpy()
    assert (bounds > 0).all()
    assert np.isfinite(bounds).all()
    assert (np.diff(bounds, axis=1) > 0).all()


@pytest.mark.parametrize("scale", [1e-6, 0.1, 1.0])
def test_intervals_of_trained_models_are_ordered_too(scale: float) -> None:
    features = price_features(prices_of(np.random.default_rng(0).normal(0, scale, 120)))
    for model in train_alone(features):
        path = forecast_of(features, model)
        bounds = path[["lo_95", "lo_80", "close", "hi_80", "hi_95"]].to_numpy()
        assert (bounds > 0).all()
        assert (np.diff(bounds, axis=1) > 0).all()


def test_intervals_widen_with_volatility_and_with_the_root_of_time() -> None:
    scale = interval_scale(np.array([0.01, 0.02]))
    np.testing.assert_allclose(scale[1], 2 * scale[0])
    np.testing.assert_allclose(scale[0, [0, 3, 8]], [0.01, 0.02, 0.03])


def test_half_widths_are_those_known_on_the_day() -> None:
    features = features_of(40)
    widths = interval_widths(features)
    found = interval_half_widths(features, widths)
    assert found.shape == (40, 2, H)
    for day, level, h in ((0, 0, 1), (17, 1, 10), (39, 0, 4)):
        expected = widths.values[day, level, h - 1] * features["volatility"][day] * np.sqrt(h)
        assert found[day, level, h - 1] == pytest.approx(expected, rel=1e-12)
    np.testing.assert_allclose(
        interval_half_widths(features, PRIOR)[-1, :, 0],
        PRIOR_WIDTHS[:, 0] * features["volatility"].iloc[-1],
    )


@pytest.mark.parametrize("days", [40, 120])
def test_intervals_cover_what_they_promise(days: int) -> None:
    tickers = 600
    prices = random_walk(days + H, tickers=tickers)
    known = (prices.groupby("ticker").cumcount() < days).to_numpy()
    future = prices["close"].to_numpy()[~known].reshape(tickers, H)
    features = price_features(prices[known])
    widths = interval_widths(features)
    naive, inside = constant(np.zeros(H)), {80: 0.0, 95: 0.0}
    for (_, table), actual in zip(features.groupby("ticker"), future, strict=True):
        path = forecast(table, naive, 1.0, widths)
        for level in inside:
            low, high = path[f"lo_{level}"].to_numpy(), path[f"hi_{level}"].to_numpy()
            inside[level] += ((low <= actual) & (actual <= high)).mean() / tickers
    assert inside[80] == pytest.approx(0.8, abs=0.03)
    assert inside[95] == pytest.approx(0.95, abs=0.02)


# Forecasts


def constant(path: FloatArray) -> DummyRegressor:
    model = DummyRegressor(strategy="constant", constant=path)
    return model.fit(np.zeros((1, len(FEATURES))), np.zeros((1, H)))


@pytest.mark.parametrize("weight", [0.0, 0.25, 1.0])
def test_a_forecast_is_the_last_close_moved_by_the_weighted_path(weight: float) -> None:
    features = features_of(30)
    told = np.linspace(-0.05, 0.1, H)
    path = forecast(features, constant(told), weight, PRIOR)
    close, volatility = features["close"].iloc[-1], features["volatility"].iloc[-1]
    np.testing.assert_allclose(path["close"], close * np.exp(weight * told), rtol=1e-12)
    half_width = PRIOR_WIDTHS[1] * volatility * np.sqrt(np.arange(1, 11))
    np.testing.assert_allclose(path["lo_95"], path["close"] / np.exp(half_width), rtol=1e-12)
    np.testing.assert_allclose(path["hi_95"], path["close"] * np.exp(half_width), rtol=1e-12)


@pytest.mark.parametrize("days", [1, 3, 60])
@pytest.mark.parametrize("name", ["linear_regression", "tree"])
def test_paths_of_several_days_are_those_of_each(name: str, days: int) -> None:
    features = market_features(market_prices(100))
    models = {**FAST, "tree": TREE}
    pooled = train_pooled(features, models)
    table = features[features["ticker"] == "D"].reset_index(drop=True)
    trained = train(table, models, pooled, PRIOR)
    (model,) = (model for model in trained if model.name == name)
    estimator = model.estimator or pooled[name].final
    found = predicted_paths(table, estimator, 0.5, days)
    assert found.shape == (days, H)
    assert np.abs(found).max() > 1e-4
    for back in range(days):
        known = table.iloc[: len(table) - back]
        (alone,) = predicted_paths(known, estimator, 0.5)
        np.testing.assert_allclose(found[days - 1 - back], alone, rtol=1e-9, atol=1e-15)


@pytest.mark.parametrize("currency", [1 / 1024, 0.01, 150.0])
def test_forecasts_are_in_the_currency_of_the_prices(currency: float) -> None:
    prices = make_prices(days=120)
    scaled = prices.copy()
    scaled[PRICES] *= currency
    one, other = price_features(prices), price_features(scaled)
    for model, twin in zip(train_alone(one), train_alone(other), strict=True):
        expected = forecast_of(one, model).set_index("h") * currency
        np.testing.assert_allclose(
            forecast_of(other, twin).set_index("h"), expected, rtol=1e-9, err_msg=model.name
        )


def test_a_forecast_starts_from_the_last_day_alone() -> None:
    features = features_of(120)
    model = train_alone(features)[-1]
    widths = interval_widths(features)
    everything = forecast(features, model.estimator, 1.0, widths)
    np.testing.assert_allclose(
        forecast(features.tail(1), model.estimator, 1.0, widths), everything, rtol=1e-12
    )


def test_forecasts_of_a_fixed_series() -> None:
    day = np.arange(160)
    prices = prices_of(0.01 * np.sin(day * day / 7) + 0.004 * np.cos(day / 5))
    prices["volume"] = 1000 + 37 * day % 101
    features = price_features(prices)
    naive, linear = train_alone(features)
    path = forecast_of(features, naive)
    assert path.iloc[0].tolist() == pytest.approx(
        [1, 136.2452226, 134.4888491, 138.0245337, 134.1053979, 138.4191910], rel=1e-6
    )
    assert path.iloc[-1].tolist() == pytest.approx(
        [10, 136.2452226, 131.0623950, 141.6330038, 127.4652908, 145.6299245], rel=1e-6
    )
    assert forecast_of(features, linear)["close"].tolist()[::3] == pytest.approx(
        [136.4210597, 136.2502332, 135.9691854, 135.5670934], rel=1e-6
    )
    found = asdict(backtest_of(linear))
    assert len(found.pop("gains")) == 7
    assert found | {"weight": linear.weight} == pytest.approx(
        {
            "origins": 62,
            "mae": 0.0174961895,
            "rmse": 0.0233648482,
            "mae_ratio": 0.9728005212,
            "mae_ratio_h10": 0.9510656730,
            "coverage_80": 454 / 620,
            "coverage_95": 566 / 620,
            "weight": 0.2426698476,
        },
        rel=1e-6,
    )


# Versions


@pytest.mark.parametrize("name", ["close", "high", "volume"])
def test_the_training_version_names_the_data(name: str) -> None:
    prices = make_prices(days=90).astype({"volume": float})
    changed = prices.copy()
    changed[name] = changed[name].where(changed.index != 50, changed[name] * 1.001)
    version = training_version(price_features(prices), FAST)
    assert version == training_version(price_features(prices.copy()), dict(FAST))
    assert version != training_version(price_features(changed), FAST)
    assert len(version) == 12


def test_the_training_version_names_the_days() -> None:
    features = features_of(90)
    later = features.assign(date=features["date"] + pd.Timedelta(days=1))
    assert training_version(features, FAST) != training_version(later, FAST)
    assert training_version(features, FAST) != training_version(features.iloc[1:], FAST)


def test_the_training_version_names_the_models() -> None:
    features = features_of(90)
    names = [
        training_version(features, models, pooled)
        for models, pooled in (
            (FAST, ""),
            (FAST, "0123456789ab"),
            ({NAIVE: MODELS[NAIVE]}, ""),
            (FAST | {"linear_regression": LinearRegression(fit_intercept=False)}, ""),
            ({NAIVE: MODELS[NAIVE], "other": MODELS["linear_regression"]}, ""),
            (MODELS, ""),
            (MODELS | {"tree": TREE}, ""),
            (MODELS | {"tree": PooledRegressor(DecisionTreeRegressor(max_depth=4))}, ""),
        )
    ]
    assert len(set(names)) == len(names)


def test_the_training_version_names_the_code(monkeypatch: pytest.MonkeyPatch) -> None:
    features = features_of(90)
    version = training_version(features, FAST)
    monkeypatch.setattr("stock_assets.forecasting.CODE_VERSION", "another")
    assert training_version(features, FAST) != version


# Many tickers


def tables_of(lengths: Mapping[str, int]) -> dict[str, pd.DataFrame]:
    return {ticker: price_features(make_prices(ticker, days)) for ticker, days in lengths.items()}


@pytest.mark.parametrize("tickers", [3, 41])
def test_training_all_is_training_each_in_the_same_order(tickers: int) -> None:
    names = [f"T{n * 7 % tickers}" for n in range(tickers)]
    tables = tables_of({name: 90 if n % 20 == 1 else 15 for n, name in enumerate(names)})
    found = list(train_all(tables, FAST, {}, PRIOR))
    assert [ticker for ticker, _ in found] == names
    for ticker, trained in found:
        alone = train(tables[ticker], FAST, {}, PRIOR)
        assert [_told(model) for model in trained] == [_told(model) for model in alone]
        for model, twin in zip(trained, alone, strict=True):
            pd.testing.assert_frame_equal(
                forecast_of(tables[ticker], model),
                forecast_of(tables[ticker], twin),
                check_exact=True,
            )


def _told(model: TrainedModel) -> tuple[object, ...]:
    return (model.name, model.weight, model.backtest)


@pytest.mark.parametrize("tickers", [1, 41])
def test_an_error_names_the_ticker_that_it_came_from(tickers: int) -> None:
    tables = tables_of({f"T{n}": 15 for n in range(tickers)})
    tables["BAD"] = features_of(90).drop(columns="volatility")
    with pytest.raises(KeyError) as raised:
        list(train_all(tables, FAST, {}, PRIOR))
    assert "while training BAD" in raised.value.__notes__


def test_training_no_ticker_gives_nothing() -> None:
    assert list(train_all({}, FAST, {}, PRIOR)) == []
