"""The platform's own past: what it would have forecast, had it run on each day, and how well.

Each week it is trained on what was known by then and forecasts every day until the next training,
by the same functions that the assets call. No number of a later day is within its reach.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import date

import numpy as np
import numpy.typing as npt
import pandas as pd
from joblib import Parallel, delayed

from stock_assets import evaluation
from stock_assets.champion import choose_champion
from stock_assets.errors import BacktestError
from stock_assets.features import (
    FEATURES,
    WARM_UP,
    FloatArray,
    Rows,
    price_features,
    spans_rows,
    ticker_spans,
)
from stock_assets.forecasting import (
    MIN_DAYS,
    Models,
    Panel,
    TrainedModel,
    interval_half_widths,
    interval_scale,
    targets,
    told_paths,
    train,
    train_pooled,
)
from stock_assets.intervals import LEVELS, interval_widths
from stock_assets.models import NAIVE, H, LeastSquares, RandomForest, TickerModel

WEEK = 5  # sessions between trainings, as on the schedule
CHAMPION = "champion"
OWN_CHAMPION = "champion_per_ticker"
_GAUSSIAN = np.array([1.2815515655446004, 1.959963984540054])  # of LEVELS, standard deviations

# What a first attempt looks like: prices themselves, and intervals from the residuals of the fit.
# Fitted every fourth week only, as nobody would use them.
REFERENCES = {
    "linear_regression_on_prices": LeastSquares(),
    "random_forest_on_prices": RandomForest(min_samples_leaf=1, max_features=1, max_samples=1),
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
    models: Models,
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
    models: Models,
    references: Mapping[str, TickerModel],
) -> Forecasts:
    """Train on one day, forecast from it and from the days until the next training."""
    usable = window[window["part"] < 2].reset_index(drop=True)  # noqa: PLR2004
    panel = Panel.of(price_features(usable).assign(sector=usable["sector"]))
    widths = interval_widths(panel.table)
    past = Panel.of(panel.table[panel.table["date"] <= day].reset_index(drop=True))
    pooled = train_pooled(past, models)
    training = train(past, models, pooled, widths)
    days = panel.lengths - past.lengths + 1
    rows = spans_rows(panel.last(days))
    told = told_paths(panel, training.weights(), [training.artifact], pooled, days)
    champion = choose_champion(_gains(training.trained)).champion
    own = [choose_champion(_gains({t: m})).champion for t, m in training.trained.items()]
    told[CHAMPION] = _chosen(told, np.repeat(champion, len(rows)))
    told[OWN_CHAMPION] = _chosen(told, np.repeat(own, days))
    half_widths = dict.fromkeys(told, interval_half_widths(panel, rows, widths))
    for name, model in references.items():
        told[name], half_widths[name] = _reference(panel, model, days)
    moves = pd.Series(np.abs(past.x[:, FEATURES.index("log_return")]))
    mean_move = moves.groupby(past.table["ticker"], sort=False).mean().replace(0, np.nan)
    last = panel.table.iloc[rows]
    outcomes = ticker_spans(window["ticker"])
    known = targets(window["close"].to_numpy(np.float64), outcomes)
    first = outcomes[:, 0] + past.lengths - 1
    return Forecasts(
        origins=pd.DataFrame(
            {
                "ticker": last["ticker"].to_numpy(),
                "sector": last["sector"].to_numpy(),
                "as_of": last["date"].to_numpy(),
                "last_close": last["close"].to_numpy(),
                "mase_scale": np.repeat(mean_move.to_numpy(), days),
            }
        ),
        actual=known[spans_rows(np.column_stack([first, first + days]))],
        gaussian=_GAUSSIAN[None, :, None] * interval_scale(panel.volatility[rows])[:, None],
        paths=told,
        half_widths=half_widths,
        champions={day.date(): champion},
    )


def _chosen(told: Mapping[str, FloatArray], names: npt.NDArray[np.str_]) -> FloatArray:
    """The paths of one model in each row, and the naive one where that tells nothing."""
    paths = told[NAIVE].copy()
    for name in np.unique(names):
        rows = (names == name) & np.isfinite(told[name][:, 0])
        paths[rows] = told[name][rows]
    return paths


def _gains(
    trained: Mapping[str, list[TrainedModel]],
) -> dict[str, list[dict[str, tuple[float, int]]]]:
    gains: dict[str, list[dict[str, tuple[float, int]]]] = {}
    for of_ticker in trained.values():
        for model in of_ticker:
            if model.backtest:
                gains.setdefault(model.name, []).append(model.backtest.gains)
    return gains


def _reference(panel: Panel, model: TickerModel, days: Rows) -> tuple[FloatArray, FloatArray]:
    """Paths and half-widths of a model of prices, trained on what was known on the first day."""
    close = panel.close[:, None]
    x = np.column_stack([close, panel.x])
    y = close * np.exp(targets(panel.close, panel.spans))
    long = np.flatnonzero(panel.lengths - days + 1 >= MIN_DAYS)
    last, offsets = panel.last(days), np.cumsum(days) - days
    learned = np.column_stack([panel.spans[:, 0] + WARM_UP, last[:, 0] + 1 - H])[long]
    fitted = model.fit(x, y, learned)
    paths = np.full((int(days.sum()), H), np.nan)
    widths = np.full((len(paths), len(LEVELS), H), np.nan)
    rows = spans_rows(np.column_stack([offsets, offsets + days])[long])
    paths[rows] = fitted.predict(x, last[long], learned[:, 0])
    residuals = np.abs(fitted.predict(x, learned, learned[:, 0]) - y[spans_rows(learned)])
    ends = np.cumsum(learned[:, 1] - learned[:, 0])
    for number, of_ticker in zip(long, np.split(residuals, ends)[:-1], strict=True):
        here = slice(offsets[number], offsets[number] + days[number])
        widths[here] = [np.quantile(of_ticker, level / 100, axis=0) for level in LEVELS]
    now = close[spans_rows(last)]
    return np.log(np.maximum(paths, 0.01 * now) / now), widths / now[:, None]


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
