"""Widths of intervals: causal, self-correcting, and the same as a slow obvious reference."""

import math
from datetime import date

import numpy as np
import pandas as pd
import pytest

from stock_assets.features import FloatArray, price_features
from stock_assets.intervals import (
    CALM,
    FEW_TICKERS,
    LARGEST_MOVE,
    LEAST,
    PRIOR_WIDTHS,
    STEP,
    STORM_GAIN,
    STORM_POWER,
    Widths,
    interval_widths,
)
from stock_assets.models import H
from tests.conftest import make_prices

SIGMA = 0.01
OUTSIDE = (0.2, 0.05)


def market(returns: FloatArray, sigma: float = SIGMA) -> pd.DataFrame:
    """Tickers (rows of returns) of a volatility that is always believed to be sigma."""
    tickers, days = returns.shape
    return pd.DataFrame(
        {
            "ticker": np.repeat([f"T{n:03}" for n in range(tickers)], days),
            "date": np.tile(pd.bdate_range("2015-01-01", periods=days), tickers),
            "close": (100 * np.exp(returns.cumsum(axis=1))).ravel(),
            "volatility": sigma,
        }
    )


def normal_returns(tickers: int, days: int, seed: int = 0) -> FloatArray:
    return np.random.default_rng(seed).normal(0, SIGMA, size=(tickers, days))


def uneven_market() -> pd.DataFrame:
    """Tickers that come late, leave early and do not trade on some days."""
    prices = pd.concat(
        [make_prices(ticker, days) for ticker, days in {"A": 90, "B": 60, "C": 90, "D": 25}.items()]
    )
    features = price_features(prices)
    keep = np.random.default_rng(0).random(len(features)) > 0.1
    left = (features["ticker"] == "C") & (features["date"] > "2019-05-20")
    return features[keep & ~left].reset_index(drop=True)


def slow_widths(features: pd.DataFrame) -> FloatArray:
    """One day after the other, one horizon, one level, one ticker."""
    days = sorted(set(features["date"]))
    keys = list(zip(features["ticker"], features["date"], strict=True))
    close = dict(zip(keys, features["close"].tolist(), strict=True))
    sigma = dict(zip(keys, features["volatility"].tolist(), strict=True))
    tickers = sorted(set(features["ticker"]))
    log_width = {
        (level, h): math.log(PRIOR_WIDTHS[level, h - 1]) for level in (0, 1) for h in range(1, 11)
    }
    told: list[dict[tuple[int, int], float]] = []
    storm, widths = CALM, np.empty((len(days), 2, H))
    for t, day in enumerate(days):
        if t > 0:
            both = [k for k in tickers if (k, day) in close and (k, days[t - 1]) in close]
            moves = [
                min(
                    abs(math.log(close[k, day] / close[k, days[t - 1]])) / sigma[k, days[t - 1]],
                    LARGEST_MOVE,
                )
                for k in both
            ]
            if moves:
                gain = STORM_GAIN * len(moves) / (len(moves) + FEW_TICKERS)
                storm = storm + gain * (sum(moves) / len(moves) - storm)
        for level, h in log_width:
            if h > t:
                continue
            origin = days[t - h]
            both = [k for k in tickers if (k, day) in close and (k, origin) in close]
            outside = sum(
                abs(math.log(close[k, day] / close[k, origin]))
                > told[t - h][level, h] * sigma[k, origin] * math.sqrt(h)
                for k in both
            )
            if both:
                step = STEP / h * len(both) / (len(both) + FEW_TICKERS)
                share = outside / len(both)
                log_width[level, h] += step * (share - OUTSIDE[level])
        widened = max(storm / CALM, LEAST) ** STORM_POWER
        log_width = {
            (level, h): max(w, math.log(LEAST * PRIOR_WIDTHS[level, h - 1]))
            for (level, h), w in log_width.items()
        }
        told.append(
            {
                (level, h): math.exp(max(log_width[n, h] for n in range(level + 1))) * widened
                for level, h in log_width
            }
        )
        for (level, h), width in told[t].items():
            widths[t, level, h - 1] = width
    return widths


def inside(returns: FloatArray, widths: FloatArray, h: int) -> FloatArray:
    """(origins, levels) share of closes h days later that lie inside; the last have no outcome."""
    path = returns.cumsum(axis=1)
    moved = np.abs(path[:, h:] - path[:, :-h])
    half_widths = widths[:-h, :, h - 1] * SIGMA * np.sqrt(h)
    return np.asarray((moved.T[:, None, :] <= half_widths[:, :, None]).mean(axis=2))


# The tracker


@pytest.mark.parametrize(
    "features",
    [
        uneven_market(),
        price_features(make_prices(days=40)),
        market(normal_returns(15, 60)),
        market(np.random.default_rng(0).standard_t(2, size=(8, 80)) * 0.02),
        market(np.zeros((3, 30))),
    ],
    ids=["uneven", "one ticker", "calm", "wild", "flat"],
)
def test_widths_agree_with_a_slow_reference(features: pd.DataFrame) -> None:
    found = interval_widths(features)
    assert found.days.tolist() == sorted(set(features["date"].dt.date))
    np.testing.assert_allclose(found.values, slow_widths(features), rtol=1e-9)


def test_the_first_day_has_the_prior_widths() -> None:
    found = interval_widths(market(normal_returns(5, 1)))
    np.testing.assert_allclose(found.values, PRIOR_WIDTHS[None], rtol=1e-12)


@pytest.mark.parametrize("known", [1, 2, 9, 11, 40, 89])
def test_the_future_does_not_change_earlier_widths(known: int) -> None:
    returns = normal_returns(6, 90)
    changed = returns.copy()
    changed[:, known:] *= 20
    everything = interval_widths(market(returns)).values[:known]
    np.testing.assert_array_equal(interval_widths(market(changed)).values[:known], everything)
    truncated = interval_widths(market(returns[:, :known])).values
    np.testing.assert_array_equal(truncated, everything)


def test_tickers_that_come_later_do_not_change_earlier_widths() -> None:
    features = uneven_market()
    days = np.unique(features["date"])
    everything = interval_widths(features).values
    for known in (3, 30, 66, 80):
        earlier = features[features["date"] < days[known]]
        found = interval_widths(earlier).values
        np.testing.assert_allclose(found, everything[:known], rtol=1e-12)


def test_a_day_counts_at_once() -> None:
    returns = normal_returns(6, 60)
    changed = returns.copy()
    changed[:, 40] *= 5
    one, other = (interval_widths(market(r)).values for r in (returns, changed))
    np.testing.assert_array_equal(one[:40], other[:40])
    assert (other[40] > one[40]).all()  # a storm is felt on its first day, at all horizons


def test_the_order_of_the_rows_does_not_matter() -> None:
    features = uneven_market()
    shuffled = features.sample(frac=1, random_state=0)
    one, other = interval_widths(features), interval_widths(shuffled)
    np.testing.assert_array_equal(one.days, other.days)
    np.testing.assert_array_equal(one.values, other.values)


def test_the_currency_does_not_matter() -> None:
    features = uneven_market()
    yen = features.assign(close=features["close"] * 1024)
    np.testing.assert_allclose(
        interval_widths(yen).values, interval_widths(features).values, rtol=1e-12
    )


# Coverage


@pytest.mark.parametrize("h", [1, 5, 10])
def test_coverage_recovers_when_the_volatility_doubles(h: int) -> None:
    change, days, tickers = 300, 900, 60
    returns = normal_returns(tickers, days)
    returns[:, change:] *= 2
    found = inside(returns, interval_widths(market(returns)).values, h)
    before = found[change - 100 : change - h].mean(axis=0)
    at_once = found[change - 1 : change + 1].mean(axis=0)
    after = found[-200:].mean(axis=0)
    assert before == pytest.approx([0.8, 0.95], abs=0.02)
    assert (at_once < [0.65, 0.85]).all()
    assert after == pytest.approx([0.8, 0.95], abs=0.02)


def test_a_storm_widens_all_horizons_within_days() -> None:
    returns = normal_returns(60, 120)
    returns[:, 100:] *= 2
    widths = interval_widths(market(returns)).values
    assert (widths[105] > 1.35 * widths[99]).all()
    calm_again = interval_widths(market(np.hstack([returns, normal_returns(60, 15)]))).values
    assert (calm_again[-1, :, -1] < 0.8 * widths[119, :, -1]).all()


@pytest.mark.parametrize("regime", ["calm", "wild", "storms", "drifting"])
@pytest.mark.parametrize("tickers", [1, 12])
def test_in_the_long_run_as_many_lie_outside_as_was_said(tickers: int, regime: str) -> None:
    days = 700
    returns = normal_returns(tickers, days)
    if regime == "wild":
        returns = np.random.default_rng(0).standard_t(2, size=returns.shape) * SIGMA
    elif regime == "storms":
        returns[:, (np.arange(days) // 70) % 2 == 1] *= 4
    elif regime == "drifting":
        returns *= np.exp(np.linspace(-1, 1.5, days))
    found = interval_widths(market(returns)).values
    storm = (_storm(returns) / CALM) ** STORM_POWER
    for h in (1, 4, 10):
        step = STEP / h * tickers / (tickers + FEW_TICKERS)
        outside = 1 - inside(returns, found, h)
        log_width = np.log(found[:, :, h - 1] / storm[:, None])
        moved = log_width[-1] - np.log(PRIOR_WIDTHS[:, h - 1])
        # The tracker's guarantee: what is amiss is what the width has moved, over what it could.
        amiss = outside.mean(axis=0) - OUTSIDE
        np.testing.assert_allclose(amiss, moved / (step * len(outside)), rtol=1e-6, atol=1e-9)
        assert np.abs(moved).max() < 3  # so that the share is right however wild the market
        if tickers > 1:
            assert np.abs(amiss).max() < 0.02 * h


def _storm(returns: FloatArray) -> FloatArray:
    """How stormy each day is, of tickers that trade on every day."""
    gain = STORM_GAIN * len(returns) / (len(returns) + FEW_TICKERS)
    storm = [CALM]
    for of_day in np.abs(returns[:, 1:].T):
        mean = np.minimum(of_day / SIGMA, LARGEST_MOVE).mean()
        storm.append(storm[-1] + gain * (mean - storm[-1]))
    return np.array(storm)


# What moves widths, and how far


@pytest.mark.parametrize(
    "returns",
    [
        normal_returns(1, 300),
        normal_returns(30, 300),
        np.random.default_rng(0).standard_t(2, size=(20, 300)) * 0.05,
        np.random.default_rng(0).normal(0, 1.0, size=(20, 200)),
    ],
    ids=["one", "calm", "wild", "absurd"],
)
def test_widths_are_positive_and_ordered(returns: FloatArray) -> None:
    widths = interval_widths(market(returns)).values
    assert np.isfinite(widths).all()
    assert (widths > 0).all()
    assert (widths[:, 1] > widths[:, 0]).all()


@pytest.mark.parametrize("tickers", [5, 50])
@pytest.mark.parametrize("size", [1.0, 1.4, 2.0])
def test_widths_stay_ordered_where_all_moves_are_alike(tickers: int, size: float) -> None:
    swing = np.where(np.arange(300) % 2, size, -size) * SIGMA
    widths = interval_widths(market(np.tile(swing, (tickers, 1)))).values
    assert (widths[:, 1] >= widths[:, 0]).all()


def test_a_market_that_stood_still_keeps_some_width() -> None:
    widths = interval_widths(market(np.zeros((20, 260)))).values
    assert (widths > 1e-3).all()


def test_a_split_of_one_ticker_is_no_storm() -> None:
    returns = normal_returns(50, 60)
    split = returns.copy()
    split[7, 40] += math.log(1 / 20)
    one, other = (interval_widths(market(r)).values for r in (returns, split))
    assert (other[40:] < 1.04 * one[40:]).all()
    assert (other[40] > one[40]).any()


def test_few_tickers_move_widths_less() -> None:
    returns = np.tile(normal_returns(1, 40), (100, 1))
    returns[:, 39] = 10 * SIGMA  # outside of all intervals, for each of them
    moved = []
    for tickers in (1, 5, 100):
        widths = interval_widths(market(returns[:tickers])).values
        moved.append(np.log(widths[39] / widths[38]).min())
    assert 0 < moved[0] < 0.4 * moved[1] < 0.4 * moved[2]


def test_a_ticker_without_an_outcome_tells_nothing() -> None:
    features = market(normal_returns(3, 30))
    last = features["date"].max()
    stranger = features.iloc[:1].assign(ticker="NEW", date=last, close=1e6)
    one = interval_widths(features).values
    other = interval_widths(pd.concat([features, stranger], ignore_index=True)).values
    np.testing.assert_allclose(other, one, rtol=1e-12)


# By day

DAYS = np.array(["2019-01-07", "2019-01-09"], dtype="datetime64[D]")
KNOWN = Widths(DAYS, np.stack([PRIOR_WIDTHS * 2, PRIOR_WIDTHS * 3]))


@pytest.mark.parametrize(
    ("day", "factor"), [("04", 1), ("06", 1), ("07", 2), ("08", 2), ("09", 3), ("10", 3), ("31", 3)]
)
def test_widths_are_the_last_known_ones(day: str, factor: int) -> None:
    (found,) = KNOWN.on([date.fromisoformat(f"2019-01-{day}")])
    np.testing.assert_array_equal(found, PRIOR_WIDTHS * factor)


def test_days_may_come_in_any_order_and_form() -> None:
    days = pd.Series(pd.to_datetime(["2019-01-09", "2019-01-01", "2019-01-09", "2019-01-08"]))
    expected = [3, 1, 3, 2] * PRIOR_WIDTHS[:, :1]
    for form in (days, days.to_numpy(), days.dt.date.tolist(), pd.DatetimeIndex(days)):
        np.testing.assert_array_equal(KNOWN.on(form)[:, :, 0].T, expected)


def test_without_any_history_widths_are_the_prior_ones() -> None:
    nothing = Widths(DAYS[:0], np.empty((0, 2, H)))
    np.testing.assert_array_equal(nothing.on(DAYS), np.stack([PRIOR_WIDTHS] * 2))


def test_widths_survive_being_kept_as_rows() -> None:
    found = interval_widths(market(normal_returns(4, 30)))
    rows = found.to_frame()
    assert rows.columns.tolist() == ["date", "h", "width_80", "width_95"]
    row = rows[(rows["date"] == pd.Timestamp(found.days[12])) & (rows["h"] == 7)].iloc[0]
    assert [row["width_80"], row["width_95"]] == found.values[12, :, 6].tolist()
    again = Widths.from_frame(rows)
    np.testing.assert_array_equal(again.days, found.days)
    np.testing.assert_array_equal(again.values, found.values)
