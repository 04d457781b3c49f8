"""The platform's own past: what it would have forecast, had it run on each day, and how well.

Each week it is trained on what was known by then and forecasts every day until the next training,
by the same functions that the assets call. No number of a later day is within its reach.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import date

import numpy as np
import pandas as pd
from joblib import Parallel, delayed
from sklearn.base import BaseEstimator, clone
from sklearn.ensemble import RandomForestRegressor
from sklearn.linear_model import LinearRegression

from stock_assets import evaluation
from stock_assets.champion import choose_champion
from stock_assets.errors import BacktestError
from stock_assets.features import FEATURES, WARM_UP, FloatArray, price_features
from stock_assets.forecasting import (
    MIN_DAYS,
    TrainedModel,
    interval_half_widths,
    interval_scale,
    predicted_paths,
    targets,
    train,
    train_pooled,
)
from stock_assets.intervals import LEVELS, Widths, interval_widths
from stock_assets.models import NAIVE, H

WEEK = 5  # sessions between trainings, as on the schedule
CHAMPION = "champion"
OWN_CHAMPION = "champion_per_ticker"
_GAUSSIAN = np.array([1.2815515655446004, 1.959963984540054])  # of LEVELS, standard deviations

# What a first attempt looks like: prices themselves, and intervals from the residuals of the fit.
# Fitted every fourth week only, as nobody would use them.
REFERENCES = {
    "linear_regression_on_prices": LinearRegression(),
    "random_forest_on_prices": RandomForestRegressor(n_estimators=20, random_state=0),
}
REFERENCES_EVERY = 4


@dataclass(frozen=True)
class Forecasts:
    """Forecasts of many tickers from many days, and what came of them.

    Attributes:
        origins: (n) rows: ticker, sector, as_of, last_close, mase_scale (mean absolute log return
            of a day in the history known by then).
        actual: (n, 10) log returns.
        gaussian: (n, levels, 10) half-widths of a random walk of EWMA(0.97) volatility.
        paths: (n, 10) log returns told by each model; missing where it did not forecast.
        half_widths: (n, levels, 10) of each model's intervals, log returns.
        champions: The champion by day of training.
    """

    origins: pd.DataFrame
    actual: FloatArray
    gaussian: FloatArray
    paths: dict[str, FloatArray]
    half_widths: dict[str, FloatArray]
    champions: dict[date, str]


def training_days(
    prices: pd.DataFrame, *, history: int | None, first: date | None, last: date | None
) -> list[pd.Timestamp]:
    """The days to train on: every fifth session that has enough before it and ten after it.

    Raises:
        BacktestError: There is none.
    """
    found = len(np.unique(prices["date"].to_numpy()))
    chosen = _forecast_days(prices, history, first, last)[:-1]
    if chosen.empty:
        raise BacktestError(
            f"No day to forecast from: found {found} trading days. Expected at least "
            f"{history or MIN_DAYS} before the first forecast and {H} after the last"
        )
    return list(chosen[::WEEK])


def walk(
    prices: pd.DataFrame,
    models: Mapping[str, BaseEstimator],
    *,
    history: int | None = None,
    first: date | None = None,
    last: date | None = None,
) -> Iterator[Forecasts]:
    """Forecast from every day; one part a week, in order.

    Args:
        prices: ticker, sector, date, close, open, low, high, volume; ascending by ticker and date.
        models: Of `models.MODELS`.
        history: Days of each ticker known on a training day; all if missing.
        first: Day of the first forecast.
        last: Day of the last one, at most.

    Raises:
        BacktestError: The history is too short.
    """
    days = training_days(prices, history=history, first=first, last=last)
    ends = [*days[1:], _forecast_days(prices, history, first, last)[-1]]
    tasks = (
        delayed(_week)(
            _known(prices, day, pd.Timestamp(end), history),
            day,
            models,
            REFERENCES if number % REFERENCES_EVERY == 0 else {},
        )
        for number, (day, end) in enumerate(zip(days, ends, strict=True))
    )
    yield from Parallel(n_jobs=-1 if len(days) > 1 else 1, return_as="generator")(tasks)


def join(weeks: list[Forecasts]) -> Forecasts:
    """The parts of a walk as one."""

    def stacked(
        parts: list[dict[str, FloatArray]], like: list[FloatArray]
    ) -> dict[str, FloatArray]:
        names = dict.fromkeys(name for part in parts for name in part)
        return {
            name: np.concatenate(
                [
                    part.get(name, np.full_like(a, np.nan))
                    for part, a in zip(parts, like, strict=True)
                ]
            )
            for name in names
        }

    return Forecasts(
        origins=pd.concat([week.origins for week in weeks], ignore_index=True),
        actual=np.concatenate([week.actual for week in weeks]),
        gaussian=np.concatenate([week.gaussian for week in weeks]),
        paths=stacked([w.paths for w in weeks], [w.actual for w in weeks]),
        half_widths=stacked([w.half_widths for w in weeks], [w.gaussian for w in weeks]),
        champions={day: name for week in weeks for day, name in week.champions.items()},
    )


def summary(found: Forecasts) -> pd.DataFrame:
    """How good each model was at each horizon.

    Returns:
        One row per model and h: origins (days), forecasts, mae, rmse, mase, mae_ratio to naive,
        dm and p_value (Diebold-Mariano against naive, tickers of a day taken together),
        tickers_better (share), coverage, width (share of the last close) and winkler (divided by
        that of Gaussian intervals), for 80 and 95 %.
    """
    return pd.DataFrame(
        [_summary_row(found, model, h) for model in found.paths for h in range(1, H + 1)]
    )


def breakdown(found: Forecasts, by: str, h: int = H) -> pd.DataFrame:
    """Error and coverage of each model at one horizon, by quarter or by sector.

    Returns:
        One row per model and group: forecasts, mae_ratio, coverage_80, coverage_95.
    """
    groups = (
        found.origins["as_of"].dt.to_period("Q").astype(str)
        if by == "quarter"
        else found.origins["sector"]
    )
    frames = []
    for model in found.paths:
        errors = _cells(found, model, h).assign(**{by: groups})
        told = errors.dropna().groupby(by)
        frames.append(
            pd.DataFrame(
                {
                    "model": model,
                    "forecasts": told.size(),
                    "mae_ratio": told["error"].mean() / told["naive"].mean(),
                    "coverage_80": told["inside_80"].mean(),
                    "coverage_95": told["inside_95"].mean(),
                }
            ).reset_index()
        )
    return pd.concat(frames, ignore_index=True)


def _forecast_days(
    prices: pd.DataFrame, history: int | None, first: date | None, last: date | None
) -> pd.DatetimeIndex:
    """The sessions to forecast from, and the one after them."""
    sessions = pd.DatetimeIndex(np.unique(prices["date"].to_numpy()))
    begin = (history or MIN_DAYS) - 1
    if first:
        begin = max(begin, int(sessions.searchsorted(pd.Timestamp(first))))
    end = max(len(sessions) - H, 0)
    if last:
        end = min(end, int(sessions.searchsorted(pd.Timestamp(last), side="right")))
    return sessions[begin : end + 1]


def _known(
    prices: pd.DataFrame, day: pd.Timestamp, end: pd.Timestamp, history: int | None
) -> pd.DataFrame:
    """The window of tickers that trade on the day, the days to forecast from, and ten more."""
    trading = prices.loc[prices["date"] == day, "ticker"]
    table = prices[prices["ticker"].isin(trading)]
    before = table[table["date"] <= day]
    if history:
        before = before.groupby("ticker", sort=False).tail(history)
    after = table[table["date"] > day]
    after = after.groupby("ticker", sort=False).head(WEEK + H)
    return (
        pd.concat([before.assign(part=0), after.assign(part=np.where(after["date"] < end, 1, 2))])
        .sort_values(["ticker", "date"], kind="stable")
        .reset_index(drop=True)
    )


def _week(
    window: pd.DataFrame,
    day: pd.Timestamp,
    models: Mapping[str, BaseEstimator],
    references: Mapping[str, BaseEstimator],
) -> Forecasts:
    """Train on one day, forecast from it and from the days until the next training."""
    usable = window[window["part"] < 2].reset_index(drop=True)  # noqa: PLR2004
    features = price_features(usable).assign(sector=usable["sector"])
    widths = interval_widths(features)
    past = features[features["date"] <= day].reset_index(drop=True)
    pooled = train_pooled(past, models)
    trained = {
        str(ticker): train(table.reset_index(drop=True), models, pooled, widths)
        for ticker, table in past.groupby("ticker")
    }
    champion = choose_champion(_gains(trained)).champion
    outcomes = dict(tuple(window.groupby("ticker")["close"]))
    parts = []
    for name, table in features.groupby("ticker"):
        ticker = str(name)
        days = int((table["date"] >= day).sum())
        told = {
            model.name: predicted_paths(
                table, model.estimator or pooled[model.name].final, model.weight, days
            )
            for model in trained[ticker]
        }
        told[CHAMPION] = told.get(champion, told[NAIVE])
        told[OWN_CHAMPION] = told[choose_champion(_gains({ticker: trained[ticker]})).champion]
        close = outcomes[ticker].to_numpy(np.float64)
        parts.append(_ticker_week(table, close, told, widths, references))
    joined = join(parts)
    joined.champions[day.date()] = champion
    return joined


def _gains(
    trained: Mapping[str, list[TrainedModel]],
) -> dict[str, list[dict[str, tuple[float, int]]]]:
    gains: dict[str, list[dict[str, tuple[float, int]]]] = {}
    for of_ticker in trained.values():
        for model in of_ticker:
            if model.backtest:
                gains.setdefault(model.name, []).append(model.backtest.gains)
    return gains


def _ticker_week(
    table: pd.DataFrame,
    close: FloatArray,
    told: dict[str, FloatArray],
    widths: Widths,
    references: Mapping[str, BaseEstimator],
) -> Forecasts:
    """What one ticker's models told, with the intervals, the outcome and the references."""
    days = len(told[NAIVE])
    last = table.iloc[-days:]
    rows = slice(len(table) - days, len(table))
    half_widths = dict.fromkeys(told, interval_half_widths(last, widths))
    for name, model in references.items():
        if len(table) >= MIN_DAYS:
            told[name], half_widths[name] = _reference(table, model, days)
    returns = table["log_return"].iloc[: len(table) - days + 1].abs()
    scale = interval_scale(last["volatility"].to_numpy(np.float64))
    return Forecasts(
        origins=pd.DataFrame(
            {
                "ticker": last["ticker"].to_numpy(),
                "sector": last["sector"].to_numpy(),
                "as_of": last["date"].to_numpy(),
                "last_close": last["close"].to_numpy(),
                "mase_scale": returns.mean() or np.nan,  # of a price that never moved there is none
            }
        ),
        actual=targets(close)[rows],
        gaussian=_GAUSSIAN[None, :, None] * scale[:, None],
        paths=told,
        half_widths=half_widths,
        champions={},
    )


def _reference(
    table: pd.DataFrame, model: BaseEstimator, days: int
) -> tuple[FloatArray, FloatArray]:
    """Paths and half-widths of a model of prices, trained on what was known on the first day."""
    known = len(table) - days + 1
    close = table["close"].to_numpy(np.float64)
    x = np.column_stack([close, table[list(FEATURES)].to_numpy(np.float64)])
    y = close[:, None] * np.exp(targets(close))
    fitted_rows = slice(WARM_UP, known - H)
    fitted = clone(model).fit(x[fitted_rows], y[fitted_rows])
    paths = np.log(np.maximum(fitted.predict(x[-days:]), 0.01 * close[-days:, None]))
    residuals = np.abs(fitted.predict(x[fitted_rows]) - y[fitted_rows])
    widths = np.stack([np.quantile(residuals, level / 100, axis=0) for level in LEVELS])
    return paths - np.log(close[-days:, None]), widths / close[-days:, None, None]


def _cells(found: Forecasts, model: str, h: int) -> pd.DataFrame:
    """One row per origin: absolute errors, and whether the intervals held; missing if untold."""
    actual = found.actual[:, h - 1]
    error = np.abs(actual - found.paths[model][:, h - 1])
    half_widths = found.half_widths[model][:, :, h - 1]
    unknown = np.isnan(error)
    cells = {"error": error, "naive": np.where(unknown, np.nan, np.abs(actual))}
    for number, level in enumerate(LEVELS):
        cells[f"inside_{level}"] = np.where(unknown, np.nan, error <= half_widths[:, number])
    return pd.DataFrame(cells)


def _summary_row(found: Forecasts, model: str, h: int) -> dict[str, object]:
    cells = _cells(found, model, h)
    rows = cells["error"].notna().to_numpy()
    told = pd.concat([found.origins, cells], axis=1)[rows]
    gain = told["naive"] - told["error"]
    by_day = gain.groupby(told["as_of"]).mean().to_numpy()
    gap = _days_between(told["as_of"])
    dm, p_value = evaluation.diebold_mariano(by_day, max(1, -(-h // gap)))
    by_ticker = gain.groupby(told["ticker"]).sum()
    row: dict[str, object] = {
        "model": model,
        "h": h,
        "origins": len(by_day),
        "forecasts": len(told),
        "mae": told["error"].mean(),
        "rmse": float(np.sqrt((told["error"] ** 2).mean())),
        "mase": (told["error"] / told["mase_scale"]).mean(),
        "mae_ratio": evaluation.ratio(told["error"].mean(), told["naive"].mean()),
        "dm": dm,
        "p_value": p_value,
        "tickers_better": (by_ticker > 0).mean(),
    }
    path = found.paths[model][rows, h - 1]
    for number, level in enumerate(LEVELS):
        half = found.half_widths[model][rows, number, h - 1]
        gaussian = found.gaussian[rows, number, h - 1]
        row |= {
            f"coverage_{level}": told[f"inside_{level}"].mean(),
            f"coverage_{level}_se": _clustered_error(told[f"inside_{level}"], told["as_of"]),
            f"width_{level}": (np.exp(path + half) - np.exp(path - half)).mean(),
            f"winkler_{level}": (
                evaluation.winkler(told["error"].to_numpy(), half, level).mean()
                / evaluation.winkler(told["naive"].to_numpy(), gaussian, level).mean()
            ),
        }
    return row


def _days_between(as_of: "pd.Series[pd.Timestamp]") -> int:
    """Sessions between successive origins, from dates: 1 for daily ones, 5 for weekly ones."""
    days = np.unique(as_of.to_numpy("datetime64[D]"))
    return (
        max(1, round(float(np.median(np.diff(days).astype(int))) * 5 / 7)) if len(days) > 1 else 1
    )


def _clustered_error(inside: "pd.Series[float]", as_of: "pd.Series[pd.Timestamp]") -> float:
    """Standard error of a share, by means of four weeks, whose outcomes overlap little."""
    means = inside.groupby(as_of.to_numpy("datetime64[D]").astype(np.int64) // 28).mean()
    return float(means.std(ddof=1) / np.sqrt(len(means))) if len(means) > 1 else float("nan")
