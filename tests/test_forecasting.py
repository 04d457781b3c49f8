"""Training, walk-forward judgement and forecasts: no look-ahead, and naive until proven better."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.base import BaseEstimator
from sklearn.linear_model import LinearRegression
from sklearn.tree import DecisionTreeRegressor

from stock_assets.champion import choose_champion
from stock_assets.features import FEATURES, WARM_UP, FloatArray, Rows, price_features
from stock_assets.forecasting import (
    FORTNIGHT,
    MIN_DAYS,
    POOLED_EVERY,
    REFITS,
    WEIGHT_PRIOR,
    Backtest,
    Models,
    Panel,
    PooledModel,
    TrainedModel,
    Training,
    dump_pooled,
    earned_weights,
    forecast,
    interval_half_widths,
    interval_scale,
    load_pooled,
    market_version,
    targets,
    told_paths,
    train,
    train_pooled,
    training_versions,
    walk_forward,
)
from stock_assets.intervals import PRIOR_WIDTHS, Widths, interval_widths
from stock_assets.models import (
    MODELS,
    NAIVE,
    Artifact,
    H,
    LeastSquares,
    Linear,
    OneByOne,
    PooledRegressor,
    RandomForest,
)
from stock_assets.sessions import next_sessions
from tests.conftest import make_prices

PRICES = ["close", "open", "low", "high"]
BOUNDS = ["lo_95", "lo_80", "close", "hi_80", "hi_95"]
FAST = {name: MODELS[name] for name in (NAIVE, "linear_regression")}
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


def train_on(features: pd.DataFrame, models: Models = FAST) -> Training:
    return train(Panel.of(features), models, {}, interval_widths(features))


def train_alone(features: pd.DataFrame, models: Models = FAST) -> list[TrainedModel]:
    (trained,) = train_on(features, models).trained.values()
    return trained


def forecasts_of(
    features: pd.DataFrame, training: Training, widths: Widths | None = None
) -> dict[str, pd.DataFrame]:
    """By model the rows of one ticker."""
    path = forecast(
        Panel.of(features),
        training.weights(),
        [training.artifact],
        {},
        widths or interval_widths(features),
    )
    return {str(name): rows.reset_index(drop=True) for name, rows in path.groupby("model")}


def train_and_forecast(features: pd.DataFrame, models: Models = FAST) -> dict[str, pd.DataFrame]:
    return forecasts_of(features, train_on(features, models))


def targets_of(features: pd.DataFrame) -> FloatArray:
    """(n, 10) of one ticker."""
    return targets(features["close"].to_numpy(), np.array([[0, len(features)]]))


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


def one_span(n: int) -> Rows:
    return np.array([[0, n]])


def test_targets_by_hand() -> None:
    found = targets(2.0 ** np.array([0, 1, 3, *range(3, 13)]), one_span(13)) / np.log(2)
    missing = np.nan
    np.testing.assert_allclose(found[0], [1, 3, 3, 4, 5, 6, 7, 8, 9, 10], rtol=1e-12)
    np.testing.assert_allclose(found[2], [0, 1, 2, 3, 4, 5, 6, 7, 8, 9], atol=1e-12)
    np.testing.assert_allclose(found[3], [*range(1, 10), missing], rtol=1e-12)
    np.testing.assert_allclose(found[11], [1, *[missing] * 9], rtol=1e-12)
    assert np.isnan(found[12]).all()


@pytest.mark.parametrize("days", [0, 1, 9, 10, 11])
def test_targets_of_short_histories_have_their_shape(days: int) -> None:
    found = targets(np.ones(days), one_span(days))
    assert found.shape == (days, H)
    assert np.isnan(found).sum() == sum(min(h, days) for h in range(1, H + 1))


@pytest.mark.parametrize("lengths", [[], [1], [5, 1, 9, 10, 11, 30, 2], [12, 12, 12]])
def test_targets_know_the_closes_of_their_own_ticker_alone(lengths: list[int]) -> None:
    ends = np.cumsum(lengths, dtype=np.int64)
    spans = np.column_stack([ends - lengths, ends]).astype(np.int64)
    close = np.random.default_rng(0).uniform(1, 100, sum(lengths))
    found = targets(close, spans)
    assert found.shape == (sum(lengths), H)
    for first, end in spans:
        for day in range(first, end):
            expected = [
                np.log(close[day + h] / close[day]) if day + h < end else np.nan
                for h in range(1, 11)
            ]
            np.testing.assert_allclose(found[day], expected, rtol=1e-9, atol=1e-12)


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
    x, y = features[list(FEATURES)].to_numpy(), targets_of(features)
    day = {row.tobytes(): n for n, row in enumerate(x)}
    train_alone(features, {NAIVE: MODELS[NAIVE], "spy": OneByOne(spy())})
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
        train_alone(price_features(table), {NAIVE: MODELS[NAIVE], "spy": OneByOne(spy())})
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
    naive, model = train_alone(features, {NAIVE: MODELS[NAIVE], "spy": OneByOne(spy())})
    y = targets_of(features)[WARM_UP:-H]
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
    training = train_on(features)
    for model in training.trained["T000"]:
        found = backtest_of(model)
        assert (found.mae, found.mae_ratio, found.coverage_80) == (0, 1, 1)
    for path in forecasts_of(features, training).values():
        assert (path["close"] == 100).all()
        assert (path["lo_80"] < path["close"]).all()


@pytest.mark.parametrize("days", [100, 250])
def test_models_of_random_walks_lose_little_and_are_not_promoted(days: int) -> None:
    walks = price_features(random_walk(days, tickers=25))
    backtests = [backtest_of(model) for _, model in train_on(walks).trained.values()]
    assert len(backtests) == 25
    assert np.mean([told.mae_ratio for told in backtests]) == pytest.approx(1, abs=0.005)
    decision = choose_champion({"linear_regression": [told.gains for told in backtests]})
    assert decision.champion == NAIVE


def test_a_model_that_truly_predicts_is_the_champion() -> None:
    features = price_features(planted(400))
    known = features.iloc[:-H]
    training = train_on(known)
    trained = {model.name: model for model in training.trained["T000"]}
    decision = choose_champion({name: [backtest_of(m).gains] for name, m in trained.items()})
    assert decision.champion == "linear_regression"
    assert trained["linear_regression"].weight > 0.5
    path = forecasts_of(known, training)["linear_regression"]["close"].to_numpy()
    actual, last = features["close"].iloc[-H:].to_numpy(), known["close"].iloc[-1]
    assert np.abs(path - actual).mean() < 0.6 * np.abs(last - actual).mean()


@pytest.mark.parametrize("days", [1, 2, 10, 11, 25, MIN_DAYS - 1])
def test_a_short_history_gets_the_baseline_alone(days: int) -> None:
    features = features_of(days)
    training = train_on(features, MODELS)
    assert training.trained == {"AAPL": [TrainedModel(NAIVE, 1.0, None)]}
    assert training.artifact.tickers == []
    (path,) = forecasts_of(features, training).values()
    assert path["model"].tolist() == [NAIVE] * H
    assert path["close"].tolist() == [features["close"].iloc[-1]] * H
    assert np.isfinite(path[BOUNDS]).all(axis=None)


@pytest.mark.parametrize("days", [MIN_DAYS, MIN_DAYS + 1, 120])
def test_a_longer_history_is_trained_on_with_every_model(days: int) -> None:
    inner = LinearRegression()
    models = {name: MODELS[name] for name in (NAIVE, "random_forest", "ridge")}
    training = train_on(features_of(days), models | {"inner": OneByOne(inner)})
    trained = training.trained["AAPL"]
    assert [model.name for model in trained] == [*models, "inner"]
    assert all(model.backtest is not None for model in trained)
    assert training.artifact.tickers == ["AAPL"]
    assert list(training.artifact.fitted) == [*models, "inner"]
    assert not hasattr(inner, "n_features_in_")


# Pooled models


def pooled_of(features: pd.DataFrame) -> PooledModel:
    return train_pooled(Panel.of(features), {**FAST, "tree": TREE})["tree"]


def test_only_pooled_models_are_trained_on_all_tickers() -> None:
    panel, short = (
        Panel.of(market_features(market_prices(days))) for days in (MIN_DAYS, MIN_DAYS - 1)
    )
    assert list(train_pooled(panel, {**FAST, "tree": TREE})) == ["tree"]
    assert train_pooled(panel, FAST) == {}
    assert train_pooled(short, {"tree": TREE}) == {}
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
    models = {"memory": PooledRegressor(Memory())}
    pooled = train_pooled(Panel.of(features), models)["memory"]
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
    assert not np.array_equal(one.final.predict(known), other.final.predict(known))


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
    panel, widths = Panel.of(features), interval_widths(features)
    pooled = train_pooled(panel, {"tree": TREE})
    table = features[features["ticker"] == "C"].reset_index(drop=True)
    training = train(panel, {NAIVE: MODELS[NAIVE], "tree": TREE}, pooled, widths)
    naive, tree = training.trained["C"]
    assert "tree" not in training.artifact.fitted
    y = targets_of(table)[WARM_UP:-H]
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
    pooled = train_pooled(Panel.of(features), {"tree": TREE})
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
    (path,) = train_and_forecast(features).values()
    assert path["h"].tolist() == list(range(1, H + 1))
    bounds = path[BOUNDS].to_numpy()
    assert (bounds > 0).all()
    assert np.isfinite(bounds).all()
    assert (np.diff(bounds, axis=1) > 0).all()


@pytest.mark.parametrize("scale", [1e-6, 0.1, 1.0])
def test_intervals_of_trained_models_are_ordered_too(scale: float) -> None:
    features = price_features(prices_of(np.random.default_rng(0).normal(0, scale, 120)))
    paths = train_and_forecast(features)
    assert list(paths) == ["linear_regression", NAIVE]
    for path in paths.values():
        bounds = path[BOUNDS].to_numpy()
        assert (bounds > 0).all()
        assert (np.diff(bounds, axis=1) > 0).all()


def test_intervals_widen_with_volatility_and_with_the_root_of_time() -> None:
    scale = interval_scale(np.array([0.01, 0.02]))
    np.testing.assert_allclose(scale[1], 2 * scale[0])
    np.testing.assert_allclose(scale[0, [0, 3, 8]], [0.01, 0.02, 0.03])


def test_half_widths_are_those_known_on_the_day() -> None:
    features = features_of(40)
    widths = interval_widths(features)
    panel, days = Panel.of(features), np.arange(40)
    found = interval_half_widths(panel, days, widths)
    assert found.shape == (40, 2, H)
    for day, level, h in ((0, 0, 1), (17, 1, 10), (39, 0, 4)):
        expected = widths.values[day, level, h - 1] * features["volatility"][day] * np.sqrt(h)
        assert found[day, level, h - 1] == pytest.approx(expected, rel=1e-12)
    np.testing.assert_array_equal(interval_half_widths(panel, days[[7, 3]], widths), found[[7, 3]])
    np.testing.assert_allclose(
        interval_half_widths(panel, days, PRIOR)[-1, :, 0],
        PRIOR_WIDTHS[:, 0] * features["volatility"].iloc[-1],
    )


@pytest.mark.parametrize("days", [40, 120])
def test_intervals_cover_what_they_promise(days: int) -> None:
    tickers = 600
    prices = random_walk(days + H, tickers=tickers)
    known = (prices.groupby("ticker").cumcount() < days).to_numpy()
    future = prices["close"].to_numpy()[~known].reshape(tickers, H)
    features = price_features(prices[known])
    naive = {NAIVE: np.ones(tickers)}
    path = forecast(Panel.of(features), naive, [], {}, interval_widths(features))
    actual = future.ravel()
    inside = {
        level: ((path[f"lo_{level}"] <= actual) & (actual <= path[f"hi_{level}"])).mean()
        for level in (80, 95)
    }
    assert inside[80] == pytest.approx(0.8, abs=0.03)
    assert inside[95] == pytest.approx(0.95, abs=0.02)


# Forecasts


def constant(tickers: Sequence[str], *paths: FloatArray) -> Artifact:
    """Of models that tell the same path of a ticker whatever its prices are."""
    slopes = np.zeros((len(tickers), len(FEATURES), H))
    return Artifact(tickers, {"constant": Linear(slopes, np.array(paths))})


@pytest.mark.parametrize("weight", [0.0, 0.25, 1.0])
def test_a_forecast_is_the_last_close_moved_by_the_weighted_path(weight: float) -> None:
    features = features_of(30)
    told = np.linspace(-0.05, 0.1, H)
    weights = {"constant": np.array([weight])}
    path = forecast(Panel.of(features), weights, [constant(["AAPL"], told)], {}, PRIOR)
    close, volatility = features["close"].iloc[-1], features["volatility"].iloc[-1]
    np.testing.assert_allclose(path["close"], close * np.exp(weight * told), rtol=1e-12)
    half_width = PRIOR_WIDTHS[1] * volatility * np.sqrt(np.arange(1, 11))
    np.testing.assert_allclose(path["lo_95"], path["close"] / np.exp(half_width), rtol=1e-12)
    np.testing.assert_allclose(path["hi_95"], path["close"] * np.exp(half_width), rtol=1e-12)


COMPANY = {"F": 95, "A": 12, "E": 131, "C": MIN_DAYS, "B": 3, "G": MIN_DAYS - 1, "D": 131}
EVERY_KIND: Models = {
    **FAST,
    "forest": RandomForest(trees=3, min_samples_leaf=5),
    "own tree": OneByOne(DecisionTreeRegressor(max_depth=3, random_state=0)),
    "tree": TREE,
}
LONG = {ticker for ticker, days in COMPANY.items() if days >= MIN_DAYS}


def company() -> pd.DataFrame:
    """Tickers with long histories and short ones among them, in no order of their names."""
    prices = pd.concat([make_prices(ticker, days) for ticker, days in COMPANY.items()])
    prices["sector"] = np.where(prices["ticker"] < "D", "Energy", "Utilities")
    return market_features(prices.reset_index(drop=True))


FEATURES_OF_COMPANY = company()


@pytest.fixture(scope="module")
def pooled() -> dict[str, PooledModel]:
    return train_pooled(Panel.of(FEATURES_OF_COMPANY), EVERY_KIND)


@pytest.fixture(scope="module")
def training(pooled: dict[str, PooledModel]) -> Training:
    return train(Panel.of(FEATURES_OF_COMPANY), EVERY_KIND, pooled, PRIOR)


def cut(features: pd.DataFrame, back: Mapping[str, int]) -> pd.DataFrame:
    """Without so many of the last days of each ticker."""
    after = features.groupby("ticker", sort=False).cumcount(ascending=False)
    return features[after >= features["ticker"].map(back)].reset_index(drop=True)


@pytest.mark.parametrize("name", EVERY_KIND)
def test_paths_of_several_days_are_those_of_each(
    name: str, training: Training, pooled: dict[str, PooledModel]
) -> None:
    panel, weights = Panel.of(FEATURES_OF_COMPANY), {name: training.weights()[name]}
    last = np.array([1, 12, 60, 1, 2, 5, 7])
    found = told_paths(panel, weights, [training.artifact], pooled, last)[name]
    assert found.shape == (last.sum(), H)
    of_ticker = dict(zip(panel.tickers, np.split(found, np.cumsum(last)[:-1]), strict=True))
    for back in range(60):
        shown = [ticker for ticker, days in zip(panel.tickers, last, strict=True) if back < days]
        among = FEATURES_OF_COMPANY[FEATURES_OF_COMPANY["ticker"].isin(shown)]
        known = Panel.of(cut(among, dict.fromkeys(shown, back)))
        own = {name: weights[name][[panel.tickers.index(ticker) for ticker in shown]]}
        alone = told_paths(known, own, [training.artifact.take(shown)], pooled)[name]
        for ticker, path in zip(known.tickers, alone, strict=True):
            there = of_ticker[ticker][-1 - back]
            np.testing.assert_allclose(there, path, rtol=1e-9, atol=1e-15, equal_nan=True)
            assert np.isfinite(path).all() == (name == NAIVE or ticker in LONG)
    if name != NAIVE:
        assert np.nanmax(np.abs(found)) > 1e-4


def test_models_are_shown_the_whole_history_of_their_ticker(spy: type[Spy]) -> None:
    panel = Panel.of(FEATURES_OF_COMPANY)
    training = train(panel, {NAIVE: MODELS[NAIVE], "spy": OneByOne(spy())}, {}, PRIOR)
    spy.asked.clear()
    told_paths(panel, training.weights(), [training.artifact], {}, np.array([9, 1, 2, 1, 1, 1, 3]))
    shown = [
        span for span, days in zip(panel.spans, panel.lengths, strict=True) if days >= MIN_DAYS
    ]
    for asked, (first, end) in zip(spy.asked, shown, strict=True):
        np.testing.assert_array_equal(asked, panel.x[first + WARM_UP : end])


def test_every_ticker_may_tell_from_as_many_days(training: Training) -> None:
    panel, weights = Panel.of(FEATURES_OF_COMPANY), {"forest": training.weights()["forest"]}
    for last in (1, 3):
        each = np.full(len(panel.tickers), last)
        one, other = (
            told_paths(panel, weights, [training.artifact], {}, days)["forest"]
            for days in (last, each)
        )
        assert one.shape == (7 * last, H)
        np.testing.assert_array_equal(one, other)


def test_forecasts_are_rows_by_ticker_and_model_and_horizon() -> None:
    back = {"F": 0, "A": 5, "E": 3, "C": 0, "B": 1, "G": 0, "D": 22}
    panel = Panel.of(cut(FEATURES_OF_COMPANY, back))
    assert panel.tickers == tuple(COMPANY)
    first, second = (np.linspace(0, k / 100, H) for k in (1, 2))
    artifacts = [constant(["F", "D"], first, second), constant(["E"], -first)]
    weights = {
        "constant": np.array([0.5, np.nan, 1, np.nan, np.nan, np.nan, 0.25]),
        NAIVE: np.array([1, 1, 1, 1, 0, 1, 1.0]),
        "nobody's": np.full(7, np.nan),
    }
    found = forecast(panel, weights, artifacts, {}, PRIOR)
    assert found.columns.tolist() == [
        *("ticker", "as_of", "model", "h", "target_date", "close"),
        *("lo_80", "hi_80", "lo_95", "hi_95"),
    ]
    told = {"F": 0.5 * first, "E": -first, "D": 0.25 * second}
    expected = [(t, m) for t in COMPANY for m in ("constant", NAIVE) if m == NAIVE or t in told]
    assert list(dict.fromkeys(zip(found["ticker"], found["model"], strict=True))) == expected
    assert found["h"].tolist() == [*range(1, H + 1)] * len(expected)
    for number, (ticker, model) in enumerate(expected):
        rows = found[H * number : H * (number + 1)]
        table = panel.table[panel.table["ticker"] == ticker].iloc[-1]
        as_of = table["date"].date()
        assert set(rows["as_of"]) == {as_of}
        assert rows["target_date"].tolist() == next_sessions(as_of, H)
        path = np.zeros(H) if model == NAIVE else told[ticker]
        half_widths = PRIOR_WIDTHS * table["volatility"] * np.sqrt(np.arange(1, 11))
        for name, moved in {
            "close": path,
            "lo_80": path - half_widths[0],
            "hi_80": path + half_widths[0],
            "lo_95": path - half_widths[1],
            "hi_95": path + half_widths[1],
        }.items():
            np.testing.assert_allclose(rows[name], table["close"] * np.exp(moved), rtol=1e-12)


def test_widths_are_those_of_the_last_day_of_each_ticker() -> None:
    widths = interval_widths(FEATURES_OF_COMPANY)
    panel = Panel.of(cut(FEATURES_OF_COMPANY, dict.fromkeys(COMPANY, 0) | {"E": 30}))
    found = forecast(panel, {NAIVE: np.ones(7)}, [], {}, widths).set_index(["ticker", "h"])
    for ticker in ("F", "E"):
        (last,) = panel.table[panel.table["ticker"] == ticker].tail(1).to_dict("records")
        half_width = widths.on([last["date"]])[0, 0, 6] * last["volatility"] * np.sqrt(7)
        expected = last["close"] * np.exp(half_width)
        assert found.loc[(ticker, 7), "hi_80"] == pytest.approx(expected, rel=1e-12)


def test_several_artifacts_tell_what_one_does(
    training: Training, pooled: dict[str, PooledModel]
) -> None:
    panel, whole = Panel.of(FEATURES_OF_COMPANY), training.artifact
    parts = [whole.take(tickers) for tickers in (["D"], [], ["F", "C"], ["E"])]
    one, other = (
        forecast(panel, training.weights(), artifacts, pooled, PRIOR)
        for artifacts in ([whole], parts)
    )
    pd.testing.assert_frame_equal(one, other, check_exact=True)
    assert len(one) == H * (len(LONG) * len(EVERY_KIND) + len(COMPANY) - len(LONG))


def test_a_loaded_artifact_tells_what_was_trained(
    training: Training, pooled: dict[str, PooledModel]
) -> None:
    panel, loaded = Panel.of(FEATURES_OF_COMPANY), Artifact.load(training.artifact.dump())
    one, other = (
        forecast(panel, training.weights(), [artifact], pooled, PRIOR)
        for artifact in (training.artifact, loaded)
    )
    pd.testing.assert_frame_equal(one, other, check_exact=True)


def test_a_model_that_no_artifact_holds_tells_nothing() -> None:
    panel = Panel.of(FEATURES_OF_COMPANY)
    weights = {NAIVE: np.ones(7), "lost": np.ones(7), "constant": np.ones(7)}
    found = forecast(panel, weights, [constant("C", np.zeros(H))], {}, PRIOR)
    assert set(zip(found["ticker"], found["model"], strict=True)) == {
        *((ticker, NAIVE) for ticker in COMPANY),
        ("C", "constant"),
    }


def test_a_pooled_model_is_not_asked_of_days_that_have_no_features() -> None:
    panel = Panel.of(FEATURES_OF_COMPANY)
    models = {NAIVE: MODELS[NAIVE], "linear": PooledRegressor(LinearRegression())}
    pooled = train_pooled(panel, models)
    training = train(panel, models, pooled, PRIOR)
    found = forecast(panel, training.weights(), [training.artifact], pooled, PRIOR)
    assert set(found.loc[found["model"] == "linear", "ticker"]) == LONG


@pytest.mark.parametrize("currency", [1 / 1024, 0.01, 150.0])
def test_forecasts_are_in_the_currency_of_the_prices(currency: float) -> None:
    prices = make_prices(days=120)
    scaled = prices.copy()
    scaled[PRICES] *= currency
    one, other = (train_and_forecast(price_features(table)) for table in (prices, scaled))
    assert list(one) == list(other) == ["linear_regression", NAIVE]
    for name, path in one.items():
        np.testing.assert_allclose(
            other[name][BOUNDS], path[BOUNDS] * currency, rtol=1e-9, err_msg=name
        )


def test_a_forecast_starts_from_the_last_day_alone() -> None:
    features = features_of(120)
    training, widths = train_on(features), interval_widths(features)
    everything = forecasts_of(features, training, widths)["linear_regression"]
    alone = forecasts_of(features.tail(1), training, widths)["linear_regression"]
    pd.testing.assert_frame_equal(alone, everything, rtol=1e-12)


def test_forecasts_of_a_fixed_series() -> None:
    day = np.arange(160)
    prices = prices_of(0.01 * np.sin(day * day / 7) + 0.004 * np.cos(day / 5))
    prices["volume"] = 1000 + 37 * day % 101
    features = price_features(prices)
    training = train_on(features)
    _, linear = training.trained["T000"]
    paths = forecasts_of(features, training)
    path = paths[NAIVE][["h", "close", "lo_80", "hi_80", "lo_95", "hi_95"]]
    assert path.iloc[0].tolist() == pytest.approx(
        [1, 136.2452226, 134.4888491, 138.0245337, 134.1053979, 138.4191910], rel=1e-6
    )
    assert path.iloc[-1].tolist() == pytest.approx(
        [10, 136.2452226, 131.0623950, 141.6330038, 127.4652908, 145.6299245], rel=1e-6
    )
    assert paths["linear_regression"]["close"].tolist()[::3] == pytest.approx(
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


def version_of(features: pd.DataFrame, models: Models = FAST, pooled: str = "") -> str:
    if "sector" not in features:
        features = features.assign(sector="Energy")
    (version,) = training_versions(Panel.of(features), models, pooled).values()
    return version


def market_version_of(features: pd.DataFrame, models: Models = FAST) -> str:
    return market_version(Panel.of(features), models)


@pytest.mark.parametrize("name", ["close", "high", "volume"])
@pytest.mark.parametrize("day", [WARM_UP, 50, 89])
def test_the_training_version_names_the_data(day: int, name: str) -> None:
    prices = make_prices(days=90).astype({"volume": float})
    changed = prices.copy()
    changed[name] = changed[name].where(changed.index != day, changed[name] * 1.001)
    version = version_of(price_features(prices))
    assert version == version_of(price_features(prices.copy()), dict(FAST))
    assert version != version_of(price_features(changed))
    assert len(version) == 12


def test_the_training_version_names_the_days_and_the_sector() -> None:
    features = features_of(90)
    others = [
        features,
        features.assign(date=features["date"] + pd.Timedelta(days=1)),
        features.iloc[1:],
        features.iloc[:-1],
        features.assign(sector="Media"),
    ]
    assert len({version_of(other) for other in others}) == len(others)


OTHER_MODELS: list[Models] = [
    FAST,
    {NAIVE: MODELS[NAIVE]},
    FAST | {"linear_regression": LeastSquares(alpha=1)},
    {NAIVE: MODELS[NAIVE], "other": MODELS["linear_regression"]},
    FAST | {"other": RandomForest()},
    FAST | {"other": RandomForest(seed=1)},
    FAST | {"other": OneByOne(LinearRegression())},
    FAST | {"other": OneByOne(LinearRegression(fit_intercept=False))},
    MODELS,
    MODELS | {"tree": TREE},
    MODELS | {"tree": PooledRegressor(DecisionTreeRegressor(max_depth=4))},
]


def test_versions_name_the_models() -> None:
    features = features_of(90).assign(sector="Energy")
    for version in (version_of, market_version_of):
        names = [version(features, models) for models in OTHER_MODELS]
        assert len(set(names)) == len(names)
    assert version_of(features, FAST, "0123456789ab") != version_of(features)


def test_versions_name_the_code(monkeypatch: pytest.MonkeyPatch) -> None:
    features = features_of(90).assign(sector="Energy")
    versions = version_of(features), market_version_of(features)
    monkeypatch.setattr("stock_assets.forecasting.CODE_VERSION", "another")
    assert version_of(features) != versions[0]
    assert market_version_of(features) != versions[1]


def test_a_ticker_has_the_same_version_in_any_company() -> None:
    found = training_versions(Panel.of(FEATURES_OF_COMPANY), EVERY_KIND, "pooled")
    assert list(found) == list(COMPANY)
    assert len(set(found.values())) == len(COMPANY)
    for ticker, table in FEATURES_OF_COMPANY.groupby("ticker"):
        alone = table.reset_index(drop=True)
        assert version_of(alone, EVERY_KIND, "pooled") == found[str(ticker)]
    for size in (1, 2, 7):
        parts = Panel.of(FEATURES_OF_COMPANY).parts(size)
        versions = [training_versions(part, EVERY_KIND, "pooled") for part in parts]
        assert [item for part in versions for item in part.items()] == list(found.items())


def test_the_version_of_the_market_names_all_that_it_is_trained_on() -> None:
    features = market_features(market_prices(90))
    renamed = features.assign(ticker=features["ticker"].replace("D", "E"))
    moved = features.assign(ticker=features["ticker"].where(features.index != 90, "A"))
    others = [
        features,
        renamed,
        moved,
        features[features["ticker"] != "B"],
        features.iloc[:-1],
        features.assign(sector="Energy"),
        features.assign(date=features["date"] + pd.Timedelta(days=1)),
        *(
            features.assign(**{name: features[name].where(features.index != 200, 0.123)})
            for name in ("close", *FEATURES)
        ),
    ]
    assert market_version_of(features) == market_version_of(features.copy(), dict(FAST))
    assert len({market_version_of(other) for other in others}) == len(others)


# Many tickers


def assert_same_training(
    found: Training, expected: Training, pooled: Mapping[str, PooledModel], tickers: Sequence[str]
) -> None:
    assert found.trained == {ticker: expected.trained[ticker] for ticker in tickers}
    assert list(found.artifact.tickers) == [ticker for ticker in tickers if ticker in LONG]
    among = FEATURES_OF_COMPANY[FEATURES_OF_COMPANY["ticker"].isin(tickers)]
    panel, weights = Panel.of(among.reset_index(drop=True)), found.weights()
    one, other = (
        told_paths(panel, weights, [artifact], pooled)
        for artifact in (found.artifact, expected.artifact.take(tickers))
    )
    assert list(one) == list(other)
    for name, path in one.items():
        np.testing.assert_array_equal(path, other[name])
        assert np.isfinite(path).any()


@pytest.mark.parametrize("size", [1, 2, 3, 6, 7, 100])
def test_training_in_parts_is_training_all_in_the_same_order(
    size: int, training: Training, pooled: dict[str, PooledModel]
) -> None:
    parts = list(Panel.of(FEATURES_OF_COMPANY).parts(size))
    assert [ticker for part in parts for ticker in part.tickers] == list(COMPANY)
    assert {len(part.tickers) for part in parts[:-1]} <= {size}
    for part in parts:
        found = train(part, EVERY_KIND, pooled, PRIOR)
        assert list(found.trained) == list(part.tickers)
        assert_same_training(found, training, pooled, part.tickers)


@pytest.mark.parametrize("tickers", ["E", "A", "FE", "AB", "FAB", "ECD"])
def test_a_ticker_is_trained_alike_in_any_company(
    tickers: str, training: Training, pooled: dict[str, PooledModel]
) -> None:
    among = FEATURES_OF_COMPANY[FEATURES_OF_COMPANY["ticker"].isin(list(tickers))]
    found = train(Panel.of(among.reset_index(drop=True)), EVERY_KIND, pooled, PRIOR)
    assert_same_training(found, training, pooled, list(tickers))


def test_the_order_of_the_company_does_not_matter(
    training: Training, pooled: dict[str, PooledModel]
) -> None:
    ordered = FEATURES_OF_COMPANY.sort_values(["ticker", "date"]).reset_index(drop=True)
    found = train(Panel.of(ordered), EVERY_KIND, pooled, PRIOR)
    assert list(found.trained) == sorted(COMPANY)
    assert found.trained == training.trained


def test_short_histories_among_long_ones_get_the_baseline_alone(training: Training) -> None:
    assert list(training.trained) == list(COMPANY)
    for ticker, trained in training.trained.items():
        if ticker in LONG:
            assert [model.name for model in trained] == list(EVERY_KIND)
        else:
            assert trained == [TrainedModel(NAIVE, 1.0, None)]
    weights = training.weights()
    assert set(weights) == set(EVERY_KIND)
    for number, (ticker, trained) in enumerate(training.trained.items()):
        known = {model.name: model.weight for model in trained}
        for name, of_model in weights.items():
            expected = known.get(name, np.nan)
            np.testing.assert_equal(of_model[number], expected, err_msg=f"{name} of {ticker}")


def test_parts_are_panels_of_their_own_tables() -> None:
    panel = Panel.of(FEATURES_OF_COMPANY)
    for part in panel.parts(3):
        alone = Panel.of(part.table.reset_index(drop=True))
        assert part.tickers == alone.tickers
        np.testing.assert_array_equal(part.spans, alone.spans)
        np.testing.assert_array_equal(part.lengths, [COMPANY[ticker] for ticker in part.tickers])
        for values in ("x", "days", "close", "volatility"):
            np.testing.assert_array_equal(getattr(part, values), getattr(alone, values))


class Picky(LinearRegression):  # type: ignore[misc]
    """A linear regression that refuses returns beyond belief."""

    def fit(self, x: FloatArray, y: FloatArray) -> "Picky":
        """Refuse them."""
        if y.max() > 3:
            raise ValueError("beyond belief")
        super().fit(x, y)
        return self


@pytest.mark.parametrize("tickers", [0, 3])
def test_an_error_names_the_ticker_that_it_came_from(tickers: int) -> None:
    prices = [make_prices(f"T{n}", 90 if n % 20 == 1 else 15) for n in range(tickers)]
    bad = make_prices("BAD", 90)
    bad.loc[50:, PRICES] *= 100
    features = price_features(pd.concat([*prices, bad, make_prices("Z", 90)], ignore_index=True))
    with pytest.raises(ValueError, match="beyond belief") as raised:
        train(Panel.of(features), {**FAST, "picky": OneByOne(Picky())}, {}, PRIOR)
    assert raised.value.__notes__ == ["while training BAD"]


def test_training_no_ticker_gives_nothing(pooled: dict[str, PooledModel]) -> None:
    nobody = Panel.of(FEATURES_OF_COMPANY.iloc[:0])
    found = train(nobody, EVERY_KIND, pooled, PRIOR)
    assert found.trained == found.weights() == {}
    assert found.artifact.tickers == []
    assert list(nobody.parts(3)) == []
