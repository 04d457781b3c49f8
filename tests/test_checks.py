"""Each fact holds of sound data up to its threshold, and breaks on one defect beyond it."""

import math
from dataclasses import replace
from datetime import date
from typing import Any, NamedTuple

import dagster as dg
import numpy as np
import pandas as pd
import pytest

from stock_assets.defs.checks import FACTS, Fact
from stock_assets.features import price_features
from stock_assets.fetching import Fetched
from stock_assets.prices import validate_csv
from tests.conftest import as_csv, make_prices

FRIDAY = date(2019, 6, 28)  # the last day of the made prices; 4 July is a holiday
BLOCKING = {
    "file_is_unchanged",
    "rows_add_up",
    "columns_and_types_hold",
    "keys_are_unique",
    "prices_are_ordered",
    "features_are_finite",
    "features_are_causal_in_shape",
    "widths_are_ordered",
    "intervals_are_ordered",
    "every_ticker_is_forecast",
}

VALID = validate_csv(as_csv(make_prices(days=99)), today=FRIDAY, max_bytes=1 << 20)
ACCEPTED = VALID.accepted
REJECTED = pd.DataFrame({"line": [2, 3], "raw": "x", "reasons": [["bad"]] * 2})
FEATURES = price_features(pd.concat([make_prices("AAPL", 80), make_prices("IBM", 80)]))
FORECASTS = pd.DataFrame(
    {
        "ticker": ["AAPL"] * 20 + ["IBM"] * 10,
        "h": [*range(1, 11)] * 3,
        "is_champion": [True] * 10 + [False] * 10 + [True] * 10,
        "lo_95": 95.0,
        "lo_80": 98.0,
        "close": 100.0,
        "hi_80": 102.0,
        "hi_95": 105.0,
    }
)
BOTH = ["AAPL", "IBM"]
WIDTHS = pd.DataFrame({"date": FRIDAY, "h": range(1, 11), "width_80": 1.2, "width_95": 2.1})
LIVE = pd.DataFrame(
    {"days": 60, "mae_ratio": [1.0, 3.0], "coverage_80": [0.8, 0.1], "coverage_95": [0.95, 0.1]},
    index=["champion", "ridge"],  # what people were shown, and a model that they were not
)
ERRORS = pd.DataFrame({"ticker": BOTH, "days": 20, "ratio": [1.0, 2.5]})


def but(frame: pd.DataFrame, row: int | str, **values: Any) -> pd.DataFrame:
    """The frame with other values in one row."""
    changed = frame.copy()
    for name, value in values.items():
        changed.loc[row, name] = value
    return changed


TWO_ROWS_OF_A_DAY = but(FEATURES, 9, date=FEATURES["date"][8])


def accepted(frame: pd.DataFrame) -> tuple[Any, ...]:
    return (replace(VALID, accepted=frame),)


def jump(factor: float) -> tuple[Any, ...]:
    """Features of a price that jumps on its last day."""
    return but(FEATURES, 159, close=FEATURES["close"][158] * factor), FRIDAY, {}


def features(frame: pd.DataFrame, today: date = FRIDAY) -> tuple[Any, ...]:
    return frame, today, {}


def drift(**distances: float) -> tuple[Any, ...]:
    return FEATURES, FRIDAY, distances


def shown(**told: float) -> tuple[Any, ...]:
    """How the forecasts did that people were shown, and nothing of single tickers."""
    return but(LIVE, "champion", **told), ERRORS[:0]


def errors(row: int = 1, **told: float) -> tuple[Any, ...]:
    """Errors of two tickers against their backtests, and nothing of all together."""
    return LIVE[:0], but(ERRORS, row, **told)


class Case(NamedTuple):
    """What a fact says of some evidence; it is broken by None where it holds."""

    fact: str
    evidence: tuple[Any, ...]
    value: float = 0
    threshold: float = 0
    broken_by: str | None = None


def rejecting(rows_read: int) -> tuple[Any, ...]:
    return (replace(VALID, rejected=REJECTED, rows_read=rows_read),)


CASES = [
    Case("every_ticker_is_answered", (Fetched(news=["AAPL"], unchanged=["IBM"]),)),
    Case("every_ticker_is_answered", (Fetched(failures={"GONE": "delisted"}),), 1, 0, "GONE"),
    Case("file_is_unchanged", ("ab12", "ab12")),
    Case("file_is_unchanged", ("ab12", "cd34"), 1, 0, ""),
    Case("rows_add_up", (VALID,)),
    Case("rows_add_up", (replace(VALID, rows_read=102, collapsed=3),)),
    Case("rows_add_up", (replace(VALID, rows_read=97),), 2, 0, ""),
    Case("rows_add_up", (replace(VALID, rejected=REJECTED),), 2, 0, ""),
    Case("columns_and_types_hold", (VALID,)),
    Case("columns_and_types_hold", accepted(ACCEPTED[:0])),
    Case("columns_and_types_hold", accepted(ACCEPTED.drop(columns="open")), 1, 0, "open"),
    Case("columns_and_types_hold", accepted(ACCEPTED.assign(more=1)), 1, 0, "more"),
    Case("columns_and_types_hold", accepted(ACCEPTED.astype({"volume": float})), 1, 0, "volume"),
    Case("columns_and_types_hold", accepted(ACCEPTED.astype({"date": str})), 1, 0, "date"),
    Case("columns_and_types_hold", accepted(but(ACCEPTED, 5, low=np.nan)), 1, 0, "low"),
    Case("columns_and_types_hold", accepted(but(ACCEPTED, 5, sector=None)), 1, 0, "sector"),
    Case("keys_are_unique", (VALID,)),
    Case("keys_are_unique", accepted(but(ACCEPTED, 5, date=ACCEPTED["date"][4])), 1, 0, "AAPL"),
    Case("prices_are_ordered", (VALID,)),
    Case("prices_are_ordered", accepted(but(ACCEPTED, 5, low=1e6)), 1, 0, "AAPL"),
    Case("prices_are_ordered", accepted(but(ACCEPTED, 5, high=1.0)), 1, 0, "AAPL"),
    Case("few_rows_are_rejected", (replace(VALID, rows_read=0),), 0, 0.01),
    Case("few_rows_are_rejected", rejecting(rows_read=200), 0.01, 0.01),
    Case("few_rows_are_rejected", rejecting(rows_read=100), 0.02, 0.01, ""),
    Case("features_are_finite", features(FEATURES)),
    Case("features_are_finite", features(but(FEATURES, 86, log_return=np.nan)), 1, 0, "IBM"),
    Case("features_are_finite", features(but(FEATURES, 99, volatility=np.inf)), 1, 0, "IBM"),
    Case("features_are_causal_in_shape", features(FEATURES)),
    Case("features_are_causal_in_shape", features(but(FEATURES, 85, high_low=0.1)), 1, 0, "IBM"),
    Case("features_are_causal_in_shape", features(TWO_ROWS_OF_A_DAY), 1, 0, "AAPL"),
    Case("closes_do_not_jump", jump(1.59), math.log(1.59), math.log(1.6)),
    Case("closes_do_not_jump", jump(1.61), math.log(1.61), math.log(1.6), "IBM 2019-06-28"),
    Case("closes_do_not_jump", jump(1 / 2), math.log(2), math.log(1.6), "IBM 2019-06-28"),
    Case("last_day_is_recent", features(FEATURES, date(2019, 7, 8)), 5, 5),
    Case("last_day_is_recent", features(FEATURES, date(2019, 7, 9)), 6, 5, "AAPL, IBM"),
    Case("last_day_is_recent", features(FEATURES[:-1], date(2019, 7, 8)), 6, 5, "IBM"),
    Case("history_is_long_enough", features(FEATURES)),
    Case("history_is_long_enough", features(FEATURES[:-1]), 1, 0, "IBM"),
    Case("features_are_as_trained", drift(), 0, 0.65),
    Case("features_are_as_trained", drift(AAPL=0.1, IBM=0.65), 0.65, 0.65),
    Case("features_are_as_trained", drift(AAPL=0.1, IBM=0.66), 0.66, 0.65, "IBM"),
    Case("features_are_as_trained", drift(AAPL=0.9, IBM=0.7), 0.9, 0.65, "AAPL, IBM"),
    Case("widths_are_ordered", (WIDTHS,)),
    Case("widths_are_ordered", (WIDTHS.assign(width_80=2.1),)),
    Case("widths_are_ordered", (but(WIDTHS, 3, width_80=2.2),), 1, 0, ""),
    Case("widths_are_ordered", (but(WIDTHS, 3, width_80=0.0),), 1, 0, ""),
    Case("widths_are_ordered", (but(WIDTHS, 3, width_80=-1.0),), 1, 0, ""),
    Case("widths_are_ordered", (but(WIDTHS, 3, width_80=np.nan),), 1, 0, ""),
    Case("widths_are_ordered", (but(WIDTHS, 3, width_95=np.nan),), 1, 0, ""),
    Case("widths_are_ordered", (WIDTHS.assign(width_95=np.inf),), 10, 0, ""),
    Case("champion_is_not_worse_than_naive", ({},), 1, 1.05),
    Case("champion_is_not_worse_than_naive", ({"AAPL": 0.9, "IBM": 1.05},), 1.05, 1.05),
    Case("champion_is_not_worse_than_naive", ({"AAPL": 0.9, "IBM": 1.06},), 1.06, 1.05, "IBM"),
    Case("intervals_are_ordered", (FORECASTS, BOTH)),
    Case("intervals_are_ordered", (but(FORECASTS, 25, lo_80=100.0, hi_80=100.0), BOTH)),
    Case("intervals_are_ordered", (but(FORECASTS, 25, lo_95=98.5), BOTH), 1, 0, "IBM"),
    Case("intervals_are_ordered", (but(FORECASTS, 25, lo_80=100.5), BOTH), 1, 0, "IBM"),
    Case("intervals_are_ordered", (but(FORECASTS, 25, hi_80=99.5), BOTH), 1, 0, "IBM"),
    Case("intervals_are_ordered", (but(FORECASTS, 25, hi_95=101.5), BOTH), 1, 0, "IBM"),
    Case("intervals_are_ordered", (but(FORECASTS, 25, hi_95=np.inf), BOTH), 1, 0, "IBM"),
    Case("intervals_are_ordered", (but(FORECASTS, 25, close=np.nan), BOTH), 1, 0, "IBM"),
    Case("intervals_are_ordered", (but(FORECASTS, 25, lo_95=0.0), BOTH), 1, 0, "IBM"),
    Case("every_ticker_is_forecast", (FORECASTS, BOTH)),
    Case("every_ticker_is_forecast", (FORECASTS, [*BOTH, "MSFT"]), 1, 0, "MSFT"),
    Case("every_ticker_is_forecast", (FORECASTS[:-1], BOTH), 1, 0, "IBM"),
    Case("every_ticker_is_forecast", (FORECASTS.assign(is_champion=True), BOTH), 1, 0, "AAPL"),
    Case("every_ticker_is_forecast", (FORECASTS[10:], BOTH), 1, 0, "AAPL"),
    Case("forecasts_keep_up_with_naive", (LIVE[:0], ERRORS[:0]), 1, 1.02),
    Case("forecasts_keep_up_with_naive", (LIVE[1:], ERRORS), 1, 1.02),
    Case("forecasts_keep_up_with_naive", shown(mae_ratio=0.9), 0.9, 1.02),
    Case("forecasts_keep_up_with_naive", shown(mae_ratio=1.02), 1.02, 1.02),
    Case("forecasts_keep_up_with_naive", shown(mae_ratio=1.03), 1.03, 1.02, ""),
    Case("forecasts_keep_up_with_naive", shown(mae_ratio=1.03, days=20), 1.03, 1.02, ""),
    Case("forecasts_keep_up_with_naive", shown(mae_ratio=1.03, days=19), 1, 1.02),
    Case("intervals_hold_80", (LIVE[:0], ERRORS[:0]), 0, 0.08),
    Case("intervals_hold_80", shown(coverage_80=0.80, coverage_95=0.1), 0, 0.08),
    Case("intervals_hold_80", shown(coverage_80=0.73), 0.07, 0.08),
    Case("intervals_hold_80", shown(coverage_80=0.87), 0.07, 0.08),
    Case("intervals_hold_80", shown(coverage_80=0.71), 0.09, 0.08, ""),
    Case("intervals_hold_80", shown(coverage_80=0.89), 0.09, 0.08, ""),
    Case("intervals_hold_80", shown(coverage_80=0.71, days=19), 0, 0.08),
    Case("intervals_hold_95", (LIVE[:0], ERRORS[:0]), 0, 0.04),
    Case("intervals_hold_95", shown(coverage_95=0.95, coverage_80=0.1), 0, 0.04),
    Case("intervals_hold_95", shown(coverage_95=0.92), 0.03, 0.04),
    Case("intervals_hold_95", shown(coverage_95=0.98), 0.03, 0.04),
    Case("intervals_hold_95", shown(coverage_95=0.90), 0.05, 0.04, ""),
    Case("intervals_hold_95", shown(coverage_95=1.0), 0.05, 0.04, ""),
    Case("intervals_hold_95", shown(coverage_95=1.0, days=19), 0, 0.04),
    Case("errors_are_as_trained", (LIVE[:0], ERRORS[:0]), 0, 2.5),
    Case("errors_are_as_trained", errors(), 2.5, 2.5),
    Case("errors_are_as_trained", errors(ratio=2.6), 2.6, 2.5, "IBM"),
    Case("errors_are_as_trained", errors(row=0, ratio=9.0), 9, 2.5, "AAPL"),
    Case("errors_are_as_trained", errors(ratio=9.0, days=19), 1, 2.5),
]


def the_fact(name: str) -> Fact:
    (fact,) = [fact for fact in FACTS if fact.name == name]
    return fact


def test_every_fact_has_a_case_that_holds_and_one_that_breaks() -> None:
    names = {fact.name for fact in FACTS}
    assert {case.fact for case in CASES if case.broken_by is None} == names
    assert {case.fact for case in CASES if case.broken_by is not None} == names


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.fact)
def test_fact_holds_or_breaks_and_tells_what_it_saw(case: Case) -> None:
    result = the_fact(case.fact).result(*case.evidence)
    told = {key: item.value for key, item in result.metadata.items()}
    assert result.passed is (case.broken_by is None)
    assert told.pop("broken_by", "") == (case.broken_by or "")
    assert told == {"value": pytest.approx(case.value), "threshold": pytest.approx(case.threshold)}


@pytest.mark.parametrize("fact", FACTS, ids=lambda fact: fact.name)
def test_a_blocking_fact_is_an_error_and_any_other_a_warning(fact: Fact) -> None:
    evidence = next(case.evidence for case in CASES if case.fact == fact.name)
    blocks = fact.name in BLOCKING
    assert fact.spec.blocking is blocks
    assert fact.result(*evidence).severity is (
        dg.AssetCheckSeverity.ERROR if blocks else dg.AssetCheckSeverity.WARN
    )


def test_at_most_twenty_tickers_are_named() -> None:
    ratios = {f"T{number:03}": 2.0 for number in range(500)}
    result = the_fact("champion_is_not_worse_than_naive").result(ratios)
    assert result.metadata["broken_by"].value == ", ".join(list(ratios)[:20])
