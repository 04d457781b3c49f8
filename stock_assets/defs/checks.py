"""Facts that must hold of the data, and facts worth a warning, as Dagster asset checks.

An asset states its facts of the rows it has in hand, so no row is read twice. A blocking fact
that does not hold ends the run before anything is written. A run over many tickers states each
fact once for all of them and names the ones that break it.
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import date
from typing import Any

import dagster as dg
import numpy as np
import pandas as pd

from stock_assets.champion import MIN_LIVE_DAYS
from stock_assets.csv_text import COLUMNS
from stock_assets.drift import MAX_DISTANCE, MAX_ERROR_RATIO, NEW_DAYS
from stock_assets.features import FEATURES, WARM_UP
from stock_assets.fetching import Fetched
from stock_assets.forecasting import MIN_DAYS
from stock_assets.models import H
from stock_assets.prices import KEY, Validation
from stock_assets.sessions import sessions_between

MAX_REJECTED_SHARE = 0.01
MAX_JUMP = math.log(1.6)  # a two-for-one split that is not adjusted for is log(2)
MAX_SESSIONS_BEHIND = 5
MAX_BACKTEST_RATIO = 1.05  # of one ticker; the champion is the best of all of them together
MAX_LIVE_RATIO = 1.02
MAX_MISS_80, MAX_MISS_95 = 0.08, 0.04  # more than any quarter of 2016 and 2017 missed by
_NAMED = 20  # tickers that break a fact are named up to this many


@dataclass(frozen=True)
class Observation:
    """What was seen, and the most that may be: the fact holds while value <= threshold."""

    value: float
    threshold: float = 0
    broken_by: tuple[str, ...] = ()


@dataclass(frozen=True)
class Fact:
    """A named fact of one asset."""

    asset: str
    name: str
    description: str
    blocking: bool
    observe: Callable[..., Observation]

    @property
    def spec(self) -> dg.AssetCheckSpec:
        """Its declaration on the asset."""
        return dg.AssetCheckSpec(
            self.name, asset=self.asset, description=self.description, blocking=self.blocking
        )

    def result(self, *evidence: Any) -> dg.AssetCheckResult:
        """Whether it holds of the evidence, with the value seen and the threshold."""
        seen = self.observe(*evidence)
        broken_by = {"broken_by": ", ".join(seen.broken_by[:_NAMED])} if seen.broken_by else {}
        return dg.AssetCheckResult(
            check_name=self.name,
            passed=bool(seen.value <= seen.threshold),
            severity=dg.AssetCheckSeverity.ERROR if self.blocking else dg.AssetCheckSeverity.WARN,
            metadata={"value": seen.value, "threshold": seen.threshold, **broken_by},
        )


FACTS: list[Fact] = []


def _fact(asset: str, *, blocking: bool) -> Callable[[Callable[..., Observation]], Fact]:
    def declare(observe: Callable[..., Observation]) -> Fact:
        fact = Fact(asset, observe.__name__, observe.__doc__ or "", blocking, observe)
        FACTS.append(fact)
        return fact

    return declare


def specs(asset: str) -> list[dg.AssetCheckSpec]:
    """The declarations of an asset's facts."""
    return [fact.spec for fact in FACTS if fact.asset == asset]


def results(asset: str, *evidence: Any) -> list[dg.AssetCheckResult]:
    """Whether each fact of an asset holds of the evidence, which all of them take."""
    return [fact.result(*evidence) for fact in FACTS if fact.asset == asset]


# fetched_prices: what a provider was asked for


@_fact("fetched_prices", blocking=False)
def every_ticker_is_answered(fetched: Fetched) -> Observation:
    """The provider has an answer for every ticker that it is asked for."""
    return Observation(len(fetched.failures), broken_by=tuple(fetched.failures))


# raw_prices: the digest of the kept bytes, the digest at registration


@_fact("raw_prices", blocking=True)
def file_is_unchanged(kept: str, registered: str) -> Observation:
    """The kept bytes are the ones that were dropped."""
    return Observation(int(kept != registered))


# validated_prices: the validation of one drop


@_fact("validated_prices", blocking=True)
def rows_add_up(validation: Validation) -> Observation:
    """Rows read are rows accepted, collapsed and rejected."""
    told = len(validation.accepted) + validation.collapsed + len(validation.rejected)
    return Observation(abs(validation.rows_read - told))


@_fact("validated_prices", blocking=True)
def columns_and_types_hold(validation: Validation) -> Observation:
    """The accepted rows have the columns of the contract, in their types, none missing."""
    kinds = {"date": "M", "volume": "i"} | dict.fromkeys(("ticker", "sector"), "O")
    accepted = validation.accepted
    wrong = set(accepted.columns) ^ set(COLUMNS) | {
        name
        for name in COLUMNS
        if name in accepted
        and (accepted[name].dtype.kind != kinds.get(name, "f") or accepted[name].isna().any())
    }
    return Observation(len(wrong), broken_by=tuple(sorted(wrong)))


@_fact("validated_prices", blocking=True)
def keys_are_unique(validation: Validation) -> Observation:
    """A ticker has one accepted row a day."""
    accepted = validation.accepted
    return _rows_of(accepted, accepted.duplicated(KEY))


@_fact("validated_prices", blocking=True)
def prices_are_ordered(validation: Validation) -> Observation:
    """Low is the lowest and high the highest price of each accepted row."""
    rows = validation.accepted
    lowest, highest = rows[["open", "close"]].min(axis=1), rows[["open", "close"]].max(axis=1)
    return _rows_of(rows, (rows["low"] > lowest) | (rows["high"] < highest))


@_fact("validated_prices", blocking=False)
def few_rows_are_rejected(validation: Validation) -> Observation:
    """At most one row in a hundred is rejected."""
    share = len(validation.rejected) / validation.rows_read if validation.rows_read else 0.0
    return Observation(share, MAX_REJECTED_SHARE)


# price_features: the feature tables of a range of tickers, today, and drift by ticker


@_fact("price_features", blocking=True)
def features_are_finite(features: pd.DataFrame, *_: object) -> Observation:
    """After a ticker's first days every feature is a finite number."""
    known = features[_day_of_history(features) >= WARM_UP]
    bad = ~np.isfinite(known[[*FEATURES, "volatility"]].to_numpy(np.float64)).all(axis=1)
    return _rows_of(known, bad)


@_fact("price_features", blocking=True)
def features_are_causal_in_shape(features: pd.DataFrame, *_: object) -> Observation:
    """Days ascend, and the first days, which lack the lags, have no features."""
    early = _day_of_history(features) < WARM_UP
    filled = early & features[list(FEATURES)].notna().any(axis=1)
    unordered = features.groupby("ticker")["date"].diff().dt.days <= 0
    return _rows_of(features, filled | unordered)


@_fact("price_features", blocking=False)
def closes_do_not_jump(features: pd.DataFrame, *_: object) -> Observation:
    """No close is 1.6 times the one before, or as much below it: splits are adjusted for."""
    jump = np.log(features["close"]).groupby(features["ticker"]).diff().abs()
    broken = features.loc[jump > MAX_JUMP, ["ticker", "date"]]
    return Observation(
        float(jump.max()) if jump.notna().any() else 0.0,
        MAX_JUMP,
        tuple(f"{row.ticker} {row.date:%Y-%m-%d}" for row in broken.itertuples()),
    )


@_fact("price_features", blocking=False)
def last_day_is_recent(features: pd.DataFrame, today: date, *_: object) -> Observation:
    """No ticker's last day is more than five trading days ago."""
    last = features.groupby("ticker")["date"].max()
    behind = {day: sessions_between(day.date(), today) for day in last.unique()}
    late = last[last.map(behind) > MAX_SESSIONS_BEHIND]
    return Observation(
        max(behind.values(), default=0), MAX_SESSIONS_BEHIND, tuple(map(str, late.index))
    )


@_fact("price_features", blocking=False)
def history_is_long_enough(features: pd.DataFrame, *_: object) -> Observation:
    """Every ticker has the days that training needs."""
    days = features["ticker"].value_counts()
    short = sorted(days[days < MIN_DAYS].index)
    return Observation(len(short), broken_by=tuple(short))


@_fact("price_features", blocking=False)
def features_are_as_trained(
    _features: pd.DataFrame, _today: date, drift: dict[str, float]
) -> Observation:
    """The newest days are like those that the models learned from; else these are trained anew."""
    drifted = tuple(ticker for ticker, distance in drift.items() if distance > MAX_DISTANCE)
    return Observation(max(drift.values(), default=0.0), MAX_DISTANCE, drifted)


# interval_widths: one row per day and horizon


@_fact("interval_widths", blocking=True)
def widths_are_ordered(widths: pd.DataFrame) -> Observation:
    """0 < width_80 <= width_95, and both finite."""
    told = widths[["width_80", "width_95"]].to_numpy(np.float64)
    ordered = (told[:, 0] > 0) & (told[:, 0] <= told[:, 1]) & np.isfinite(told).all(axis=1)
    return Observation(int((~ordered).sum()))


# ticker_models: backtest error against naive of each ticker's champion


@_fact("ticker_models", blocking=False)
def champion_is_not_worse_than_naive(mae_ratios: dict[str, float]) -> Observation:
    """No champion's backtest error is more than 1.05 of the naive forecast's."""
    worse = tuple(ticker for ticker, ratio in mae_ratios.items() if ratio > MAX_BACKTEST_RATIO)
    return Observation(max(mae_ratios.values(), default=1.0), MAX_BACKTEST_RATIO, worse)


# forecasts: the forecasts of a range of tickers, and the tickers asked for


@_fact("forecasts", blocking=True)
def intervals_are_ordered(forecasts: pd.DataFrame, _asked: Iterable[str]) -> Observation:
    """0 < lo_95 <= lo_80 <= close <= hi_80 <= hi_95, and all finite."""
    path = forecasts[["lo_95", "lo_80", "close", "hi_80", "hi_95"]].to_numpy(np.float64)
    ordered = (np.diff(path, axis=1) >= 0).all(axis=1) & (path[:, 0] > 0)
    return _rows_of(forecasts, ~(ordered & np.isfinite(path).all(axis=1)))


@_fact("forecasts", blocking=True)
def every_ticker_is_forecast(forecasts: pd.DataFrame, asked: Iterable[str]) -> Observation:
    """Every ticker asked for has one champion, with a close for each of the next 10 days."""
    champion = forecasts[forecasts["is_champion"]]
    complete = champion.groupby("ticker")["h"].agg(lambda h: sorted(h) == list(range(1, H + 1)))
    lacking = tuple(ticker for ticker in asked if not complete.get(ticker, default=False))
    return Observation(len(lacking), broken_by=lacking)


# forecast_scores: how each model did in production of late, and errors by ticker against backtests


@_fact("forecast_scores", blocking=False)
def forecasts_keep_up_with_naive(live: pd.DataFrame, _errors: pd.DataFrame) -> Observation:
    """The error of the forecasts that people were shown is at most 1.02 of naive's."""
    return Observation(_of_champion(live, "mae_ratio", 1.0), MAX_LIVE_RATIO)


@_fact("forecast_scores", blocking=False)
def intervals_hold_80(live: pd.DataFrame, _errors: pd.DataFrame) -> Observation:
    """Of the closes, 80 % lie inside the 80 % intervals, give or take 8 points."""
    return Observation(round(abs(_of_champion(live, "coverage_80", 0.80) - 0.80), 9), MAX_MISS_80)


@_fact("forecast_scores", blocking=False)
def intervals_hold_95(live: pd.DataFrame, _errors: pd.DataFrame) -> Observation:
    """Of the closes, 95 % lie inside the 95 % intervals, give or take 4 points."""
    return Observation(round(abs(_of_champion(live, "coverage_95", 0.95) - 0.95), 9), MAX_MISS_95)


@_fact("forecast_scores", blocking=False)
def errors_are_as_trained(_live: pd.DataFrame, errors: pd.DataFrame) -> Observation:
    """No ticker's newest errors are far above its backtest's; else it is trained anew."""
    known = errors[errors["days"] >= NEW_DAYS]
    far = known[known["ratio"] > MAX_ERROR_RATIO]
    return Observation(
        float(known["ratio"].max()) if len(known) else 0.0, MAX_ERROR_RATIO, tuple(far["ticker"])
    )


def _of_champion(live: pd.DataFrame, name: str, unknown: float) -> float:
    """A figure of the forecasts that were shown; what is promised until enough days are scored."""
    known = (live["days"] >= MIN_LIVE_DAYS) & live[name].notna()
    shown = live[(live.index == "champion") & known]
    return float(shown[name].iloc[0]) if len(shown) else unknown


def _rows_of(frame: pd.DataFrame, bad: "pd.Series[bool] | np.ndarray[Any, Any]") -> Observation:
    """How many rows are bad, and of which tickers."""
    broken = frame.loc[np.asarray(bad), "ticker"]
    return Observation(len(broken), broken_by=tuple(map(str, broken.unique())))


def _day_of_history(features: pd.DataFrame) -> "pd.Series[int]":
    return features.groupby("ticker").cumcount()
