"""Features: strictly causal, unit-free, and the same as a slow obvious reference."""

import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stock_assets.features import (
    FEATURES,
    LEAST_VOLATILITY,
    PRIOR_VOLATILITY,
    WARM_UP,
    price_features,
    spans_rows,
    ticker_spans,
)
from tests.conftest import make_prices

COLUMNS = ["ticker", "date", "close", *FEATURES, "volatility"]
PRICES = ["close", "open", "low", "high"]
DAYS = {"A": 60, "B": 1, "C": WARM_UP, "D": 23, "E": WARM_UP + 1}


def market() -> pd.DataFrame:
    """Tickers of very different lengths, with days of no volume."""
    prices = pd.concat([make_prices(ticker, days) for ticker, days in DAYS.items()])
    prices = prices.reset_index(drop=True)
    prices.loc[[3, 4, 30, 62, 70], "volume"] = 0
    return prices


def one_ticker(close: list[float]) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "ticker": "A",
            "date": pd.bdate_range("2019-01-01", periods=len(close)),
            **dict.fromkeys(PRICES, np.array(close)),
            "volume": 100,
        }
    )


def slow_features(prices: pd.DataFrame) -> pd.DataFrame:
    """One ticker after the other, one day after the other."""
    return pd.concat(
        [_slow_ticker(of_ticker) for _, of_ticker in prices.groupby("ticker")], ignore_index=True
    )


def _slow_ticker(prices: pd.DataFrame) -> pd.DataFrame:
    table = prices[["ticker", "date", "close"]].copy()
    table["log_return"] = np.log(prices["close"] / prices["close"].shift(1))
    volume, before = prices["volume"], prices["volume"].shift(1)
    change = (volume - before) / (volume + before)
    table["volume_change"] = change.mask((volume == 0) & (before == 0), 0.0)
    table["high_low"] = np.log(prices["high"] / prices["low"])
    table["close_open"] = np.log(prices["close"] / prices["open"])
    for lag in range(1, 6):
        table[f"log_return_lag_{lag}"] = table["log_return"].shift(lag)
    incomplete = np.arange(len(table)) < 6
    table.loc[incomplete, list(FEATURES)] = np.nan
    returns = np.log(prices["close"]).diff().tolist()
    variance, volatility = 0.016**2, []
    for day, value in enumerate(returns):
        if day > 0:
            gain = max(0.03, 1 / (3 + day))
            variance = variance + gain * (value**2 - variance)
        volatility.append(max(math.sqrt(variance), 1e-4))
    table["volatility"] = volatility
    return table


# Look-ahead


@given(st.integers(0, 59))
@settings(deadline=None, max_examples=40)
def test_the_future_does_not_change_earlier_rows(day: int) -> None:
    prices = market()
    known = prices["date"] <= prices["date"].iloc[day]
    whole = price_features(prices)[known.to_numpy()].reset_index(drop=True)
    cut = price_features(prices[known])
    pd.testing.assert_frame_equal(whole, cut, check_exact=True)


@pytest.mark.parametrize("name", [*PRICES, "volume"])
def test_another_price_tomorrow_does_not_change_today(name: str) -> None:
    prices = make_prices(days=40)
    other = prices.astype({"volume": float})
    other.loc[20:, name] *= 3
    one, two = price_features(prices), price_features(other)
    pd.testing.assert_frame_equal(one[:20], two[:20], check_exact=True)
    assert not one[20:].equals(two[20:])


@pytest.mark.parametrize("ticker", list(DAYS))
def test_other_tickers_do_not_matter(ticker: str) -> None:
    prices = market()
    among = price_features(prices).query(f"ticker == '{ticker}'").reset_index(drop=True)
    alone = price_features(prices[prices["ticker"] == ticker])
    pd.testing.assert_frame_equal(among, alone, check_exact=True)


# Units


@given(currency=st.floats(1e-6, 1e6), lot=st.floats(1e-3, 1e3))
@settings(deadline=None, max_examples=40)
def test_features_have_no_unit(currency: float, lot: float) -> None:
    prices = market()
    scaled = prices.astype({"volume": float})
    scaled[PRICES] *= currency
    scaled["volume"] *= lot
    one, other = price_features(prices), price_features(scaled)
    names = [*FEATURES, "volatility"]
    np.testing.assert_allclose(other[names], one[names], rtol=0, atol=1e-9)


# Values


def test_features_equal_a_slow_obvious_reference() -> None:
    prices = pd.concat([market(), make_prices("F", 300, seed=1)], ignore_index=True)
    fast, slow = price_features(prices), slow_features(prices)
    assert fast.columns.tolist() == COLUMNS
    pd.testing.assert_frame_equal(fast, slow[COLUMNS], rtol=1e-9, atol=1e-12)


def test_features_of_a_week_by_hand() -> None:
    prices = one_ticker([10, 20, 10, 20, 10, 20, 40])
    prices["open"] = [10, 20, 10, 20, 10, 20, 32]
    prices["low"] = [10, 20, 10, 20, 10, 20, 32]
    prices["high"] = [10, 20, 10, 20, 10, 20, 44]
    prices["volume"] = [0, 0, 7, 0, 5, 100, 300]
    last = price_features(prices).iloc[-1]
    double = 0.6931471805599453
    lags = [double, -double, double, -double, double]
    by_hand = [double, 0.5, 0.3184537311185346, 0.22314355131420976, *lags]
    assert last[list(FEATURES)].tolist() == pytest.approx(by_hand, rel=1e-12)


def test_volatility_counts_the_prior_as_three_days() -> None:
    volatility = price_features(one_ticker([10, 20, 10, 20]))["volatility"]
    squares = [3 * 0.016**2 + days * math.log(2) ** 2 for days in range(4)]
    by_hand = [math.sqrt(square / (3 + days)) for days, square in enumerate(squares)]
    assert volatility.tolist() == pytest.approx(by_hand, rel=1e-12)
    assert by_hand[1] == pytest.approx(0.3468506, rel=1e-6)


def test_old_returns_fade_from_volatility() -> None:
    variance = price_features(one_ticker([100.0] * 60 + [150.0] + [150.0] * 40))["volatility"] ** 2
    faded = variance.to_numpy()[61:]
    np.testing.assert_allclose(faded[1:] / faded[:-1], 0.97, rtol=1e-12)


def test_volatility_of_constant_prices_is_positive() -> None:
    volatility = price_features(one_ticker([5.0] * 400))["volatility"]
    assert volatility.iloc[0] == PRIOR_VOLATILITY
    assert volatility.iloc[-1] == LEAST_VOLATILITY
    assert volatility.is_monotonic_decreasing


@pytest.mark.parametrize(
    ("volumes", "change"), [((0, 0), 0), ((0, 5), 1), ((5, 0), -1), ((5, 5), 0), ((100, 300), 0.5)]
)
def test_volume_change_is_within_one(volumes: tuple[int, int], change: float) -> None:
    prices = one_ticker([10.0] * 8)
    prices.loc[6:, "volume"] = volumes
    assert price_features(prices)["volume_change"].iloc[-1] == change


# Shapes


def test_features_are_missing_on_the_warm_up_days_alone() -> None:
    features = price_features(market())
    day = features.groupby("ticker").cumcount()
    missing = features[list(FEATURES)].isna()
    assert missing[day < WARM_UP].all(axis=None)
    assert not missing[day >= WARM_UP].any(axis=None)
    assert not features[["ticker", "date", "close", "volatility"]].isna().any(axis=None)


def test_there_is_one_row_per_row_of_prices() -> None:
    prices = market()
    prices.index = prices.index + 1000
    features = price_features(prices)
    names = ["ticker", "date", "close"]
    pd.testing.assert_frame_equal(features[names], prices[names].reset_index(drop=True))


@pytest.mark.parametrize("tickers", [["A"], ["A", "B", "C"]])
def test_a_ticker_may_have_one_day(tickers: list[str]) -> None:
    prices = pd.concat([make_prices(ticker, 1) for ticker in tickers])
    features = price_features(prices)
    assert features["ticker"].tolist() == tickers
    assert features["volatility"].tolist() == [PRIOR_VOLATILITY] * len(tickers)


def test_no_prices_give_no_features() -> None:
    features = price_features(make_prices().head(0))
    assert features.empty
    assert features.columns.tolist() == COLUMNS


@pytest.mark.parametrize("closes", [(1e-300, 1e300), (1e-9, 1e-9), (1e300, 1e300)])
def test_extreme_prices_give_finite_features(closes: tuple[float, float]) -> None:
    prices = one_ticker(list(closes) * 20)
    prices["low"], prices["high"] = min(closes), max(closes)
    prices["volume"] = [0, 2**53] * 20
    features = price_features(prices)[WARM_UP:]
    assert np.isfinite(features[[*FEATURES, "volatility"]]).all(axis=None)


# Spans


@pytest.mark.parametrize(
    ("tickers", "spans"),
    [
        ("", []),
        ("A", [(0, 1)]),
        ("AAA", [(0, 3)]),
        ("ABC", [(0, 1), (1, 2), (2, 3)]),
        ("BBBAACDDDD", [(0, 3), (3, 5), (5, 6), (6, 10)]),
    ],
)
def test_spans_are_the_rows_of_each_ticker(tickers: str, spans: list[tuple[int, int]]) -> None:
    found = ticker_spans(pd.Series(list(tickers), index=range(7, 7 + len(tickers)), dtype=object))
    assert found.shape == (len(spans), 2)
    assert [*map(tuple, found.tolist())] == spans
    np.testing.assert_array_equal(spans_rows(found), np.arange(len(tickers)))


@pytest.mark.parametrize(
    ("spans", "rows"),
    [
        ([(4, 6), (0, 3)], [4, 5, 0, 1, 2]),
        ([(1, 3), (2, 4)], [1, 2, 2, 3]),
        ([(1, 1), (5, 6), (6, 6)], [5]),
        ([(3, 3)], []),
    ],
    ids=["any order", "overlapping", "some empty", "all empty"],
)
def test_rows_of_spans_are_in_the_order_of_the_spans(
    spans: list[tuple[int, int]], rows: list[int]
) -> None:
    found = spans_rows(np.array(spans))
    assert found.tolist() == rows
    assert found.dtype == np.int64
