"""The walk through the past: nothing of the future is known, and the figures are those told."""

import math
from collections.abc import Mapping
from datetime import date
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pytest
from joblib import parallel_config
from scipy import stats
from sklearn.linear_model import LinearRegression, Ridge
from sklearn.tree import DecisionTreeRegressor

from stock_assets.backtest import (
    CHAMPION,
    OWN_CHAMPION,
    REFERENCES,
    REFERENCES_EVERY,
    WEEK,
    Forecasts,
    breakdown,
    join,
    summary,
    training_days,
    walk,
)
from stock_assets.champion import choose_champion
from stock_assets.errors import BacktestError
from stock_assets.evaluation import diebold_mariano
from stock_assets.features import FEATURES, WARM_UP, FloatArray, price_features
from stock_assets.forecasting import MIN_DAYS, Models, Panel, targets, train, train_pooled
from stock_assets.intervals import interval_widths
from stock_assets.models import MODELS, NAIVE, H, OneByOne, PooledRegressor
from tests.conftest import make_prices

DAYS = 150
FIRST = 121  # number of the day of the first forecast
LAST = DAYS - H - 1  # that of the last one with ten known outcomes
TICKERS = "ABCDEF"
SECTORS = dict(zip(TICKERS, ["Energy"] * 2 + ["Utilities"] * 2 + ["Media"] * 2, strict=True))
MODELS_OF_WALK: Models = {
    NAIVE: MODELS[NAIVE],
    "ridge": OneByOne(Ridge()),
    "linear_regression": MODELS["linear_regression"],
    "tree": PooledRegressor(DecisionTreeRegressor(max_depth=3, random_state=0)),
}
OWN = [name for name in MODELS_OF_WALK if name != NAIVE]
PRICES = ["close", "open", "low", "high"]
Z = {80: 1.2815515655446004, 95: 1.959963984540054}


def market(days: int = DAYS, tickers: str = TICKERS) -> pd.DataFrame:
    prices = pd.concat([make_prices(ticker, days) for ticker in tickers], ignore_index=True)
    return prices.assign(sector=prices["ticker"].map(SECTORS).fillna("Other"))


MARKET = market()
SESSIONS = pd.DatetimeIndex(np.unique(MARKET["date"]))


def day(number: int) -> date:
    return SESSIONS[number].date()


def number_of(when: pd.Timestamp) -> int:
    return int(SESSIONS.searchsorted(when))


def weeks_of(found: Forecasts) -> list[int]:
    """The number of the week of the walk that each origin is of."""
    return [(number_of(when) - FIRST) // WEEK for when in found.origins["as_of"]]


def walked(prices: pd.DataFrame, first: int = FIRST, **options: Any) -> Forecasts:
    """A walk in this process, which is cheaper for so few tickers."""
    with parallel_config(backend="sequential"):
        return join(list(walk(prices, MODELS_OF_WALK, first=day(first), **options)))


@pytest.fixture(scope="module")
def found() -> Forecasts:
    return walked(MARKET)


def assert_same(one: Forecasts, other: Forecasts, last: pd.Timestamp, rtol: float = 0) -> None:
    """All that was told on or before a day, and how wide, is the same in both walks."""
    rows = [(told.origins["as_of"] <= last).to_numpy() for told in (one, other)]
    assert rows[0].sum() == rows[1].sum() > 0
    origins, others = (
        told.origins[known].reset_index(drop=True)
        for told, known in zip((one, other), rows, strict=True)
    )
    pd.testing.assert_frame_equal(origins, others)
    early = [{d: c for d, c in w.champions.items() if d <= last.date()} for w in (one, other)]
    assert early[0] == early[1]
    assert list(one.paths) == list(other.paths)
    for name in one.paths:
        for of_one, of_other in (
            (one.paths[name], other.paths[name]),
            (one.half_widths[name], other.half_widths[name]),
            (one.gaussian, other.gaussian),
        ):
            np.testing.assert_allclose(
                of_one[rows[0]], of_other[rows[1]], rtol=rtol, atol=rtol, err_msg=name
            )


def changed(prices: pd.DataFrame, rows: "pd.Series[bool]") -> pd.DataFrame:
    """Other prices and volumes in these rows."""
    random = np.random.default_rng(0)
    other = prices.copy()
    other.loc[rows, PRICES] *= random.uniform(0.5, 2, (rows.sum(), 1))
    other.loc[rows, "volume"] = random.integers(1, 10**6, rows.sum())
    return other


# When to train


def days_of(prices: pd.DataFrame = MARKET, **options: Any) -> list[int]:
    chosen = training_days(prices, **{"history": None, "first": None, "last": None, **options})
    return [number_of(when) for when in chosen]


def test_training_is_every_fifth_session_from_the_first_with_enough_history() -> None:
    assert days_of() == list(range(MIN_DAYS - 1, LAST + 1, WEEK))
    assert days_of(history=100) == list(range(99, LAST + 1, WEEK))
    assert days_of(history=1) == list(range(0, LAST + 1, WEEK))


def test_training_keeps_to_the_days_that_are_asked_for() -> None:
    assert days_of(first=day(120)) == [120, 125, 130, 135]
    assert days_of(first=day(120), last=day(130)) == [120, 125, 130]
    assert days_of(first=day(120), last=day(129)) == [120, 125]
    assert days_of(last=day(79)) == [79]
    assert days_of(first=date(1990, 1, 1), last=date(2090, 1, 1)) == days_of()
    assert days_of(first=day(LAST)) == [LAST]


def test_training_days_are_sessions_even_where_those_asked_for_are_not() -> None:
    (saturday,) = [d for d in pd.date_range(SESSIONS[120], periods=7) if d.dayofweek == 5]
    monday = int(SESSIONS.searchsorted(saturday))
    assert days_of(first=saturday.date())[0] == monday
    assert days_of(first=day(monday - 1), last=saturday.date()) == [monday - 1]


@pytest.mark.parametrize(
    "options",
    [
        {"first": day(LAST + 1)},
        {"last": day(MIN_DAYS - 2)},
        {"history": LAST + 2},
        {"first": day(120), "last": day(119)},
    ],
)
def test_no_day_to_forecast_from_is_an_error(options: dict[str, Any]) -> None:
    with pytest.raises(BacktestError) as raised:
        days_of(**options)
    assert str(raised.value) == (
        "No day to forecast from: found 150 trading days. Expected at least "
        f"{options.get('history', 80)} before the first forecast and 10 after the last"
    )


def test_the_shortest_history_has_one_training_day() -> None:
    shortest = MARKET[MARKET["date"] >= SESSIONS[DAYS - MIN_DAYS - H]]
    assert days_of(shortest) == [LAST]
    with pytest.raises(BacktestError, match="found 89 trading days"):
        days_of(shortest[shortest["date"] > shortest["date"].min()])


# Look-ahead


@pytest.mark.parametrize("last", [FIRST, FIRST + 2, FIRST + 5, FIRST + 13])
def test_what_comes_after_a_day_does_not_change_its_forecasts(last: int, found: Forecasts) -> None:
    other = walked(changed(MARKET, MARKET["date"] > SESSIONS[last]))
    assert_same(found, other, SESSIONS[last])
    later = (found.origins["as_of"] > SESSIONS[last]).to_numpy()
    for name in OWN:
        assert not np.array_equal(found.paths[name][later], other.paths[name][later])


@pytest.mark.parametrize("last", [FIRST, FIRST + 3, FIRST + 9])
def test_forecasts_are_the_same_before_their_future_is_there(last: int, found: Forecasts) -> None:
    other = walked(MARKET[MARKET["date"] <= SESSIONS[last + H]])
    assert other.origins["as_of"].max() == SESSIONS[last]
    # Fewer rows at once may differ in the last bit of a matrix product.
    assert_same(found, other, SESSIONS[last], rtol=1e-12)


def test_outcomes_are_not_known_to_the_forecasts_of_the_same_week(found: Forecasts) -> None:
    only_outcomes = changed(MARKET, MARKET["date"] > SESSIONS[LAST])
    other = walked(only_outcomes)
    assert_same(found, other, SESSIONS[LAST])
    assert not np.array_equal(found.actual, other.actual)


# What a walk tells


def test_every_ticker_is_forecast_on_every_session_with_ten_outcomes(found: Forecasts) -> None:
    expected = [(ticker, when) for when in SESSIONS[FIRST : LAST + 1] for ticker in TICKERS]
    assert len(found.origins) == len(expected)
    told = zip(found.origins["ticker"], found.origins["as_of"], strict=True)
    assert set(told) == set(expected)
    assert np.isfinite(found.actual).all()
    assert list(found.champions) == [day(n) for n in range(FIRST, LAST + 1, WEEK)]


@pytest.mark.parametrize("last", [FIRST + 6, FIRST + 9])
def test_a_walk_ends_on_the_last_day_that_is_asked_for(last: int) -> None:
    found = walked(MARKET, last=day(last))
    assert sorted(set(found.origins["as_of"])) == list(SESSIONS[FIRST : last + 1])


def test_parts_are_weeks_in_order() -> None:
    with parallel_config(backend="sequential"):
        parts = list(walk(MARKET, MODELS_OF_WALK, first=day(FIRST + 5), last=day(FIRST + 12)))
    weeks = [sorted(set(part.origins["as_of"])) for part in parts]
    assert weeks == [
        list(SESSIONS[FIRST + 5 : FIRST + 10]),
        list(SESSIONS[FIRST + 10 : FIRST + 13]),
    ]
    assert [list(part.champions) for part in parts] == [[day(FIRST + 5)], [day(FIRST + 10)]]


def test_processes_tell_the_same(found: Forecasts) -> None:
    last = FIRST + WEEK  # two weeks: one alone would stay in this process
    other = join(list(walk(MARKET, MODELS_OF_WALK, first=day(FIRST), last=day(last))))
    assert_same(found, other, SESSIONS[last], rtol=1e-12)


def test_last_closes_and_outcomes_are_those_of_the_prices(found: Forecasts) -> None:
    closes = MARKET.pivot_table(index="date", columns="ticker", values="close")
    for row in range(0, len(found.origins), 7):
        origin = found.origins.iloc[row]
        of_ticker = closes[origin["ticker"]].to_numpy()
        now = number_of(origin["as_of"])
        assert origin["last_close"] == of_ticker[now]
        assert origin["sector"] == SECTORS[origin["ticker"]]
        expected = [math.log(of_ticker[now + h] / of_ticker[now]) for h in range(1, 11)]
        np.testing.assert_allclose(found.actual[row], expected, atol=1e-12)


def test_naive_tells_the_last_close(found: Forecasts) -> None:
    np.testing.assert_array_equal(found.paths[NAIVE], np.zeros_like(found.actual))


def test_the_models_tell_something_else(found: Forecasts) -> None:
    for name in OWN:
        assert np.isfinite(found.paths[name]).all()
        assert np.abs(found.paths[name]).max() > 1e-5


def test_gaussian_intervals_are_those_of_a_random_walk(found: Forecasts) -> None:
    features = price_features(MARKET).set_index(["ticker", "date"])["volatility"]
    keys = zip(found.origins["ticker"], found.origins["as_of"], strict=True)
    volatility = features.loc[list(keys)].to_numpy()
    for number, level in enumerate((80, 95)):
        for h in (1, 10):
            np.testing.assert_allclose(
                found.gaussian[:, number, h - 1], Z[level] * volatility * math.sqrt(h), rtol=1e-9
            )


def test_the_scale_of_errors_is_that_of_the_training_day(found: Forecasts) -> None:
    returns = price_features(MARKET)[["ticker", "date", "log_return"]].dropna()
    for ticker, number in (("A", FIRST), ("E", FIRST + 7)):
        trained = FIRST + (number - FIRST) // WEEK * WEEK
        of_ticker = returns[(returns["ticker"] == ticker) & (returns["date"] <= SESSIONS[trained])]
        rows = (found.origins["ticker"] == ticker) & (found.origins["as_of"] == SESSIONS[number])
        (scale,) = found.origins.loc[rows, "mase_scale"]
        assert scale == pytest.approx(of_ticker["log_return"].abs().mean(), rel=1e-12)


def test_references_forecast_in_every_fourth_week(found: Forecasts) -> None:
    week = np.array(weeks_of(found))
    assert set(week) == {0, 1, 2, 3}
    for name in REFERENCES:
        told = np.isfinite(found.paths[name]).all(axis=1)
        np.testing.assert_array_equal(told, week % REFERENCES_EVERY == 0)
        np.testing.assert_array_equal(np.isfinite(found.half_widths[name]).all(axis=(1, 2)), told)
        assert np.nanmax(np.abs(found.paths[name])) < 1


# Histories


def test_a_history_of_so_many_days_knows_no_earlier_one() -> None:
    first_known = FIRST - 99
    one = walked(MARKET, history=100)
    earlier = MARKET["date"] < SESSIONS[first_known]
    other = walked(changed(MARKET, earlier), history=100)
    assert_same(one, other, SESSIONS[LAST])
    one_more = walked(changed(MARKET, MARKET["date"] <= SESSIONS[first_known]), history=100)
    assert not np.array_equal(one.half_widths[NAIVE][:5], one_more.half_widths[NAIVE][:5])


def test_tickers_that_do_not_trade_on_the_training_day_are_left_out_for_the_week() -> None:
    halted = (MARKET["ticker"] == "F") & (MARKET["date"] == SESSIONS[FIRST + 5])
    found = walked(MARKET[~halted])
    by_week = [set[str]() for _ in range(4)]
    for week, ticker in zip(weeks_of(found), found.origins["ticker"], strict=True):
        by_week[week].add(ticker)
    assert ["".join(sorted(told)) for told in by_week] == ["ABCDEF", "ABCDE", "ABCDEF", "ABCDEF"]


def test_a_ticker_with_a_gap_is_judged_by_its_own_next_ten_days() -> None:
    halted = (MARKET["ticker"] == "F") & (MARKET["date"] == SESSIONS[FIRST + 3])
    prices = MARKET[~halted]
    found = walked(prices, last=day(FIRST + 4))
    rows = (found.origins["ticker"] == "F").to_numpy()
    closes = prices.loc[prices["ticker"] == "F", "close"].to_numpy()
    expected = targets(closes, np.array([[0, len(closes)]]))[FIRST : FIRST + 4]
    np.testing.assert_allclose(found.actual[rows], expected, rtol=1e-12)


def with_new(ticker: str, days: int) -> pd.DataFrame:
    """A ticker more, which has so many days on the first day of forecasts."""
    new = make_prices(ticker, DAYS - FIRST + days - 1).assign(sector="Media")
    prices = pd.concat([MARKET, new]).sort_values(["ticker", "date"])
    return prices.reset_index(drop=True)


@pytest.mark.parametrize("ticker", ["AA", "CD", "NEW"])
@pytest.mark.parametrize("days", [1, 20, MIN_DAYS - 1])
def test_a_new_ticker_gets_the_naive_forecast_alone(
    ticker: str, days: int, found: Forecasts
) -> None:
    among = walked(with_new(ticker, days), last=day(FIRST + 4))
    rows = (among.origins["ticker"] == ticker).to_numpy()
    assert rows.sum() == 5
    for name in (NAIVE, CHAMPION, OWN_CHAMPION):
        np.testing.assert_array_equal(among.paths[name][rows], 0)
    for name in (*OWN, *REFERENCES):
        assert np.isnan(among.paths[name][rows]).all()
        assert np.isfinite(among.paths[name][~rows]).all()
    first_week = np.array(weeks_of(found)) == 0
    for name in (NAIVE, "ridge", "linear_regression", *REFERENCES):
        np.testing.assert_array_equal(among.paths[name][~rows], found.paths[name][first_week])
    for name in REFERENCES:
        assert np.isnan(among.half_widths[name][rows]).all()
        np.testing.assert_array_equal(
            among.half_widths[name][~rows], found.half_widths[name][first_week]
        )


def test_a_ticker_is_forecast_from_the_day_that_it_is_old_enough() -> None:
    found = walked(with_new("CD", MIN_DAYS), last=day(FIRST + 4))
    for name in (*OWN, *REFERENCES):
        assert np.isfinite(found.paths[name]).all()
        assert np.isfinite(found.half_widths[name]).all()


def test_of_short_histories_nothing_but_naive_is_told() -> None:
    found = walked(MARKET, history=MIN_DAYS - 1, last=day(FIRST + 9))
    assert set(found.champions.values()) == {NAIVE}
    assert np.isfinite(found.half_widths[NAIVE]).all()
    for name in REFERENCES:
        assert np.isnan(found.paths[name]).all()
        assert np.isnan(found.half_widths[name]).all()
    assert set(found.paths) == {NAIVE, CHAMPION, OWN_CHAMPION, *REFERENCES}


@pytest.mark.parametrize("ticker", ["A", "D", "F"])
def test_a_reference_is_fitted_to_the_prices_known_on_the_day(
    ticker: str, found: Forecasts
) -> None:
    table = price_features(MARKET[MARKET["ticker"] == ticker])
    close = table["close"].to_numpy()
    x = np.column_stack([close, table[list(FEATURES)]])
    y = np.stack([close[h : len(close) - H + h] for h in range(1, 11)], axis=1)
    learned = slice(WARM_UP, FIRST + 1 - H)
    fitted = LinearRegression().fit(x[learned], y[learned])
    residuals = np.abs(fitted.predict(x[learned]) - y[learned])
    now, first_week = close[FIRST : FIRST + 5, None], np.array(weeks_of(found)) == 0
    rows = (found.origins["ticker"] == ticker).to_numpy() & first_week
    name = "linear_regression_on_prices"
    path = np.log(fitted.predict(x[FIRST : FIRST + 5]) / now)
    np.testing.assert_allclose(found.paths[name][rows], path, rtol=1e-6, atol=1e-9)
    widths = np.quantile(residuals, [0.8, 0.95], axis=0) / now[:, None]
    np.testing.assert_allclose(found.half_widths[name][rows], widths, rtol=1e-6, atol=1e-9)


def test_a_ticker_that_ends_has_no_outcome_afterwards() -> None:
    ended = (MARKET["ticker"] == "A") & (MARKET["date"] > SESSIONS[FIRST + 3])
    found = walked(MARKET[~ended], last=day(FIRST + 4))
    rows = (found.origins["ticker"] == "A").to_numpy()
    assert np.isfinite(found.actual[rows]).sum(axis=1).tolist() == [3, 2, 1, 0]
    figures = summary(found).set_index(["model", "h"])["forecasts"]
    assert figures[NAIVE, 1] == 5 * 5 + 3
    assert figures[NAIVE, 10] == 5 * 5


# Champions


def planted_market() -> pd.DataFrame:
    """Returns that swing with a period of 20 days, each ticker at its own time, in noise."""
    prices = market(240)
    swing = 0.03 * np.sin(np.arange(240) * np.pi / 10 + np.arange(len(TICKERS))[:, None])
    noise = np.random.default_rng(0).normal(0, 0.004, swing.shape)
    close = 100 * np.exp((swing + noise).cumsum(axis=1)).ravel()
    return prices.assign(close=close, open=close, low=close * 0.99, high=close * 1.01)


def walked_late(prices: pd.DataFrame) -> Forecasts:
    """A walk from the 221st day on."""
    first = pd.Timestamp(np.unique(prices["date"])[220]).date()
    with parallel_config(backend="sequential"):
        return join(list(walk(prices, MODELS_OF_WALK, first=first)))


def test_the_champion_tells_what_the_chosen_model_does() -> None:
    found = walked_late(planted_market())
    assert NAIVE not in found.champions.values()
    assert_champion(found)
    (row,) = summary(found).query("model == @CHAMPION and h == 10").to_dict("records")
    assert row["mae_ratio"] < 0.9
    assert row["tickers_better"] == 1


def assert_champion(found: Forecasts) -> None:
    """Its rows are those of the model that was chosen on the last day of training."""
    for row, when in enumerate(found.origins["as_of"]):
        trained = max(day for day in found.champions if day <= when.date())
        chosen = found.champions[trained]
        np.testing.assert_array_equal(found.paths[CHAMPION][row], found.paths[chosen][row])
        np.testing.assert_array_equal(
            found.half_widths[CHAMPION][row], found.half_widths[chosen][row]
        )


def test_the_champion_of_noise_is_naive(found: Forecasts) -> None:
    assert set(found.champions.values()) == {NAIVE}
    assert_champion(found)


def test_the_champion_of_a_ticker_is_one_of_its_models(found: Forecasts) -> None:
    told = np.stack([found.paths[name] for name in MODELS_OF_WALK])
    assert (told == found.paths[OWN_CHAMPION]).all(axis=2).any(axis=0).all()


def test_each_ticker_has_a_champion_of_its_own() -> None:
    prices, noisy = planted_market(), ["A", "E"]
    mixed = prices[PRICES] ** 0.3 * market(240)[PRICES] ** 0.7
    prices[PRICES] = prices[PRICES].where(~prices["ticker"].isin(noisy), mixed)
    found = walked_late(prices)
    known = prices[prices["date"] <= found.origins["as_of"].min()].reset_index(drop=True)
    panel = Panel.of(price_features(known).assign(sector=known["sector"]))
    pooled = train_pooled(panel, MODELS_OF_WALK)
    training = train(panel, MODELS_OF_WALK, pooled, interval_widths(panel.table))
    second_training, champions = pd.Timestamp([*found.champions][1]), set()
    for ticker, trained in training.trained.items():
        gains = {model.name: [model.backtest.gains] for model in trained if model.backtest}
        own = choose_champion(gains).champion
        rows = (found.origins["ticker"] == ticker) & (found.origins["as_of"] < second_training)
        np.testing.assert_array_equal(found.paths[OWN_CHAMPION][rows], found.paths[own][rows])
        champions.add(own)
    assert len(champions) > 1
    assert not np.array_equal(found.paths[OWN_CHAMPION], found.paths[CHAMPION])


def test_a_new_ticker_is_told_nothing_by_the_champion_of_others() -> None:
    prices = planted_market()
    is_new = (prices["ticker"] == "C") & (prices["date"] < prices["date"].iloc[170])
    found = walked_late(prices[~is_new].reset_index(drop=True))
    assert NAIVE not in found.champions.values()
    is_zero = (found.paths[CHAMPION] == 0).all(axis=1)
    np.testing.assert_array_equal(is_zero, found.origins["ticker"] == "C")


# Figures


def made_up(every: int = 1) -> Forecasts:
    """Forecasts of any kind: a model that tells but half, and outcomes that are not yet known."""
    random = np.random.default_rng(0)
    days = pd.bdate_range("2018-03-01", periods=60 * every)[::every]
    origins = pd.DataFrame(
        {
            "ticker": np.tile(list("WXYZ"), len(days)),
            "sector": np.tile(["Energy", "Energy", "Media", "Media"], len(days)),
            "as_of": np.repeat(days, 4),
            "last_close": 100.0,
            "mase_scale": np.tile([0.01, 0.02, 0.03, 0.04], len(days)),
        }
    )
    n = len(origins)
    actual = random.normal(0, 0.03, (n, H)).cumsum(axis=1)
    actual[-4:, 5:] = np.nan
    paths = {NAIVE: np.zeros((n, H)), "good": 0.3 * actual, "half": random.normal(0, 0.02, (n, H))}
    paths["good"][-4:] = 0.01
    paths["half"][: n // 2] = np.nan
    gaussian = np.stack([np.full((n, H), 0.05), np.full((n, H), 0.08)], axis=1)
    half_widths = {name: gaussian * random.uniform(0.5, 2, (n, 1, 1)) for name in paths}
    return Forecasts(origins, actual, gaussian, paths, half_widths, {})


def winkler_by_hand(error: float, half_width: float, level: int) -> float:
    outside = max(abs(error) - half_width, 0.0)
    return 2 * half_width + 2 / (1 - level / 100) * outside


def slow_summary(found: Forecasts, model: str, h: int) -> dict[str, float]:
    """One forecast after the other."""
    told: list[dict[str, Any]] = []
    for row, origin in enumerate(found.origins.to_dict("records")):
        actual, path = found.actual[row, h - 1], found.paths[model][row, h - 1]
        if math.isnan(actual) or math.isnan(path):
            continue
        figures = {str(name): value for name, value in origin.items()}
        figures |= {"error": abs(actual - path), "naive": abs(actual)}
        for number, level in enumerate((80, 95)):
            half = found.half_widths[model][row, number, h - 1]
            figures[f"coverage_{level}"] = path - half <= actual <= path + half
            figures[f"width_{level}"] = math.exp(path + half) - math.exp(path - half)
            figures[f"winkler_{level}"] = winkler_by_hand(actual - path, half, level)
            gaussian = found.gaussian[row, number, h - 1]
            figures[f"gaussian_{level}"] = winkler_by_hand(actual, gaussian, level)
        told.append(figures)

    def mean(name: str) -> float:
        return float(sum(figures[name] for figures in told) / len(told))

    gained = {
        ticker: sum(f["naive"] - f["error"] for f in told if f["ticker"] == ticker)
        for ticker in {f["ticker"] for f in told}
    }
    expected = {
        "h": h,
        "origins": len({f["as_of"] for f in told}),
        "forecasts": len(told),
        "mae": mean("error"),
        "rmse": math.sqrt(sum(f["error"] ** 2 for f in told) / len(told)),
        "mase": sum(f["error"] / f["mase_scale"] for f in told) / len(told),
        "mae_ratio": mean("error") / mean("naive"),
        "tickers_better": sum(gain > 0 for gain in gained.values()) / len(gained),
    }
    for level in (80, 95):
        expected[f"coverage_{level}"] = mean(f"coverage_{level}")
        expected[f"width_{level}"] = mean(f"width_{level}")
        expected[f"winkler_{level}"] = mean(f"winkler_{level}") / mean(f"gaussian_{level}")
    return expected


def assert_figures(found: Forecasts, model: str, h: int) -> None:
    figures = summary(found).set_index("model", drop=False)
    row = figures[figures["h"] == h].loc[model].to_dict()
    expected = slow_summary(found, model, h)
    assert {name: row[name] for name in expected} == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("model", [NAIVE, "good", "half"])
@pytest.mark.parametrize("h", [1, 10])
def test_figures_of_any_forecasts_equal_a_plain_computation(model: str, h: int) -> None:
    assert_figures(made_up(), model, h)


@pytest.mark.parametrize("model", ["ridge", CHAMPION, *REFERENCES])
def test_figures_of_a_walk_equal_a_plain_computation(model: str, found: Forecasts) -> None:
    assert_figures(found, model, 10)


def test_there_is_a_row_for_each_model_and_horizon(found: Forecasts) -> None:
    rows = summary(found)
    expected = [(model, h) for model in found.paths for h in range(1, H + 1)]
    assert list(zip(rows["model"], rows["h"], strict=True)) == expected
    assert (rows.loc[rows["model"] == NAIVE, "mae_ratio"] == 1).all()


@pytest.mark.parametrize(
    ("every", "h", "overlap"), [(1, 10, 10), (1, 1, 1), (5, 10, 2), (5, 6, 2), (5, 5, 1), (5, 1, 1)]
)
def test_the_test_takes_tickers_of_a_day_together(every: int, h: int, overlap: int) -> None:
    _assert_tested(made_up(every), h, overlap)


def _assert_tested(found: Forecasts, h: int, overlap: int) -> None:
    gains: dict[pd.Timestamp, list[float]] = {}
    for row, when in enumerate(found.origins["as_of"]):
        actual = found.actual[row, h - 1]
        gain = abs(actual) - abs(actual - found.paths["good"][row, h - 1])
        if not math.isnan(gain):
            gains.setdefault(when, []).append(gain)
    by_day = np.array([sum(of_day) / len(of_day) for of_day in gains.values()])
    rows = summary(found).set_index(["model", "h"])
    expected = diebold_mariano(by_day, overlap)
    assert tuple(rows.loc[("good", h), ["dm", "p_value"]]) == pytest.approx(expected, rel=1e-9)
    assert expected[0] > 3


def test_the_error_of_coverage_is_that_of_four_weeks() -> None:
    found = made_up()
    inside = np.abs(found.actual[:, 0]) <= found.half_widths[NAIVE][:, 0, 0]
    months = found.origins["as_of"].map(lambda when: (when - pd.Timestamp(0)).days // 28)
    means = [inside[(months == number).to_numpy()].mean() for number in set(months)]
    (row,) = summary(found).query("model == @NAIVE and h == 1").to_dict("records")
    assert row["coverage_80_se"] == pytest.approx(stats.sem(means), rel=1e-9)


# Breakdowns


@pytest.mark.parametrize("by", ["quarter", "sector"])
@pytest.mark.parametrize("h", [1, 10])
def test_groups_add_up_to_the_whole(by: str, h: int) -> None:
    found = made_up()
    whole = summary(found)
    groups = breakdown(found, by, h)
    assert list(dict.fromkeys(groups["model"])) == list(found.paths)
    for model, of_model in groups.groupby("model"):
        row = whole[(whole["model"] == model) & (whole["h"] == h)].iloc[0]
        assert of_model["forecasts"].sum() == row["forecasts"]
        share = of_model["forecasts"] / row["forecasts"]
        for level in (80, 95):
            weighted = (of_model[f"coverage_{level}"] * share).sum()
            assert weighted == pytest.approx(row[f"coverage_{level}"], rel=1e-9)


@pytest.mark.parametrize(
    ("by", "group"), [("quarter", "2018Q1"), ("quarter", "2018Q2"), ("sector", "Media")]
)
def test_a_group_is_told_as_if_it_were_alone(by: str, group: str) -> None:
    found = made_up()
    if by == "sector":
        rows = (found.origins["sector"] == group).to_numpy()
    else:
        months = {"2018Q1": (1, 2, 3), "2018Q2": (4, 5, 6)}[group]
        rows = found.origins["as_of"].dt.month.isin(months).to_numpy()
    alone = _part(found, rows)
    groups = breakdown(found, by)
    (row,) = groups[(groups["model"] == "good") & (groups[by] == group)].to_dict("records")
    expected = slow_summary(alone, "good", H)
    figures = ["forecasts", "mae_ratio", "coverage_80", "coverage_95"]
    assert [row[name] for name in figures] == pytest.approx([expected[name] for name in figures])


def _part(found: Forecasts, rows: "npt.NDArray[np.bool_]") -> Forecasts:
    def of(arrays: Mapping[str, FloatArray]) -> dict[str, FloatArray]:
        return {name: array[rows] for name, array in arrays.items()}

    return Forecasts(
        found.origins[rows].reset_index(drop=True),
        found.actual[rows],
        found.gaussian[rows],
        of(found.paths),
        of(found.half_widths),
        {},
    )


# Joining


def test_joined_parts_are_in_order_and_miss_what_a_part_does_not_tell() -> None:
    whole = made_up()
    n = len(whole.origins)
    early, late = (_part(whole, rows) for rows in (np.arange(n) < 40, np.arange(n) >= 40))
    early.champions[date(2018, 3, 1)] = NAIVE
    late.champions[date(2018, 3, 15)] = "good"
    del early.paths["good"], early.half_widths["good"]
    del late.paths["half"], late.half_widths["half"]
    joined = join([early, late])
    pd.testing.assert_frame_equal(joined.origins, whole.origins)
    np.testing.assert_array_equal(joined.actual, whole.actual)
    np.testing.assert_array_equal(joined.gaussian, whole.gaussian)
    assert joined.champions == {date(2018, 3, 1): NAIVE, date(2018, 3, 15): "good"}
    assert set(joined.paths) == set(joined.half_widths) == set(whole.paths)
    np.testing.assert_array_equal(joined.paths[NAIVE], whole.paths[NAIVE])
    np.testing.assert_array_equal(joined.paths["good"][40:], whole.paths["good"][40:])
    assert np.isnan(joined.paths["good"][:40]).all()
    assert np.isnan(joined.half_widths["good"][:40]).all()
    assert np.isnan(joined.half_widths["half"][40:]).all()
    assert joined.half_widths["half"].shape == whole.gaussian.shape


def test_one_part_joined_is_itself() -> None:
    whole = made_up()
    joined = join([whole])
    np.testing.assert_array_equal(joined.paths["half"], whole.paths["half"])
    pd.testing.assert_frame_equal(joined.origins, whole.origins)
