"""Train models for tickers, judge them walk-forward, forecast their next 10 closes.

Targets are log returns from the last close; a price is made of them at the very end. Whatever a
model predicts is shrunk towards the naive forecast, the last close, by a weight that its own
forecasts of unseen days have earned. Many tickers are worked on at once, in one `Panel`.
"""

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass, field
from functools import cached_property
from typing import Self

import numpy as np
import numpy.typing as npt
import pandas as pd

from stock_assets.csv_text import MAX_PRICE
from stock_assets.evaluation import coverage, mae, ratio, rmse
from stock_assets.features import FEATURES, WARM_UP, FloatArray, Rows, spans_rows, ticker_spans
from stock_assets.intervals import LEVELS, Widths
from stock_assets.models import (
    HORIZONS,
    NAIVE,
    Artifact,
    H,
    PooledRegressor,
    TickerModel,
    archive,
    unarchived,
)
from stock_assets.sessions import next_sessions

CODE_VERSION = "3"  # of the training: raise it when the same data must give other models

MIN_DAYS = 80  # of history; fewer leave too few origins to judge a model by
REFITS = 2  # of each model in the backtest
POOLED_EVERY = 5  # a pooled model learns from every fifth day: ten-day returns overlap
FORTNIGHT = 14  # days; gains of the days in one are taken together, as their outcomes overlap

# Of a weight: as much as 1,111 squares of forecasts, each in units of what a random walk strays,
# that were wrong. Ten origins times ten horizons tell no more than one would, and a weight is
# expected within 0.3 of zero: 100 / 0.3**2. Chosen on 2015 to 2017; a tenth of it costs 0.8 %.
WEIGHT_PRIOR = 100 / 0.3**2

Models = Mapping[str, TickerModel | PooledRegressor]


@dataclass(frozen=True)
class Panel:
    """The feature tables of some tickers, one below the other.

    Attributes:
        table: n rows, ascending by ticker and date.
        tickers: m of them.
        spans: (m, 2) first row of each ticker, and the one after its last.
        x: (n, features) the columns `FEATURES`.
    """

    table: pd.DataFrame
    tickers: tuple[str, ...]
    spans: Rows
    x: FloatArray

    @classmethod
    def of(cls, features: pd.DataFrame) -> Self:
        """Of the feature tables of any number of tickers, ascending by ticker and date."""
        spans = ticker_spans(features["ticker"])
        tickers = tuple(map(str, features["ticker"].to_numpy()[spans[:, 0]]))
        return cls(features, tickers, spans, features[list(FEATURES)].to_numpy(np.float64))

    def parts(self, size: int) -> "Iterator[Panel]":
        """Panels of so many of the tickers, in order."""
        for number in range(0, len(self.tickers), size):
            spans = self.spans[number : number + size]
            first, end = spans[0, 0], spans[-1, 1]
            tickers = self.tickers[number : number + size]
            yield Panel(self.table.iloc[first:end], tickers, spans - first, self.x[first:end])

    def last(self, days: int | Rows) -> Rows:
        """(m, 2) so many last rows of each ticker, and the one after them."""
        return np.column_stack([self.spans[:, 1] - days, self.spans[:, 1]])

    @property
    def lengths(self) -> Rows:
        """(m,) days of each ticker."""
        return np.asarray(self.spans[:, 1] - self.spans[:, 0])

    @cached_property
    def days(self) -> npt.NDArray[np.datetime64]:
        """(n,) datetime64[D]."""
        return self.table["date"].to_numpy("datetime64[D]")

    @cached_property
    def close(self) -> FloatArray:
        """(n,) prices."""
        return self.table["close"].to_numpy(np.float64)

    @cached_property
    def volatility(self) -> FloatArray:
        """(n,) daily, as known on each day."""
        return self.table["volatility"].to_numpy(np.float64)


@dataclass(frozen=True)
class Backtest:
    """What a model's walk-forward backtest says.

    Attributes:
        origins: Days on which it forecast.
        mae: Mean absolute error over h = 1..10, log return.
        rmse: Root mean squared error, log return.
        mae_ratio: mae divided by that of the naive forecast at the same origins; below 1 is better.
        mae_ratio_h10: The same at h = 10 alone.
        coverage_80: Share of closes inside the 80 % interval, 0..1.
        coverage_95: The same of the 95 % interval.
        gains: By fortnight, numbered from 1970, how much nearer than naive its forecasts were in
            sum (log return, mean over h), and the number of its origins.
    """

    origins: int
    mae: float
    rmse: float
    mae_ratio: float
    mae_ratio_h10: float
    coverage_80: float
    coverage_95: float
    gains: dict[str, tuple[float, int]] = field(repr=False)


@dataclass(frozen=True)
class TrainedModel:
    """What was learned of one model of one ticker.

    Attributes:
        name: Its key in `models.MODELS`.
        weight: 0..1, what its predictions are multiplied with.
        backtest: None where the history was too short.
    """

    name: str
    weight: float
    backtest: Backtest | None


@dataclass(frozen=True)
class Training:
    """What was learned of some tickers.

    Attributes:
        trained: By ticker; the naive model alone where its history is too short.
        artifact: The fitted models of the others.
    """

    trained: dict[str, list[TrainedModel]]
    artifact: Artifact

    def weights(self) -> dict[str, FloatArray]:
        """By model (tickers,) its weight; missing where a ticker lacks it."""
        told = [{model.name: model.weight for model in models} for models in self.trained.values()]
        return {
            str(name): values.to_numpy(np.float64) for name, values in pd.DataFrame(told).items()
        }


@dataclass(frozen=True)
class PooledModel:
    """A model of all tickers together.

    Attributes:
        final: Fitted on all days whose outcome is known.
        refits: Fitted on earlier days, for the backtest.
        first_days: (refits,) of which day on each of them forecasts, datetime64[D].
    """

    final: PooledRegressor
    refits: list[PooledRegressor]
    first_days: npt.NDArray[np.datetime64]

    def out_of_sample(self, table: pd.DataFrame) -> FloatArray:
        """(n, 10) log returns by the refit that knew no outcome of the day; 0 before the first."""
        days = table["date"].to_numpy("datetime64[D]")
        which = np.searchsorted(self.first_days, days, side="right") - 1
        predicted = np.zeros((len(table), H))
        for number, refit in enumerate(self.refits):
            if (rows := which == number).any():
                predicted[rows] = refit.predict(table[rows])
        return predicted


def targets(close: FloatArray, spans: Rows) -> FloatArray:
    """(n, 10) log returns from each close to the next 10 of its ticker; missing if not yet known.

    Args:
        close: (n,) of some tickers, one below the other.
        spans: (m, 2) rows of each of them.
    """
    n = len(close)
    log_close = np.append(np.log(close), np.full(H, np.nan))
    ahead = np.stack([log_close[h : n + h] for h in HORIZONS], axis=1)
    days_after = np.repeat(spans[:, 1], spans[:, 1] - spans[:, 0]) - np.arange(n) - 1
    known = days_after[:, None] >= HORIZONS
    return np.where(known, ahead - log_close[:n, None], np.nan)


def walk_forward(n: int) -> Iterator[tuple[Rows, Rows]]:
    """Train and test rows of each refit, over n rows whose labels are known.

    The later half of the rows are origins, in `REFITS` blocks. A refit uses rows whose 10-day
    label was known at the first origin of its block, and no later one.
    """
    for block in np.array_split(np.arange(n - n // 2, n), REFITS):
        yield np.arange(block[0] - H + 1), block


def train_pooled(panel: Panel, models: Models) -> dict[str, PooledModel]:
    """Fit the pooled ones among the models, on all tickers.

    Args:
        panel: Of any number of tickers, with a column sector.
        models: Unfitted; the others are left out.

    Returns:
        None at all where no ticker has `MIN_DAYS` days.
    """
    pooled = {name: model for name, model in models.items() if isinstance(model, PooledRegressor)}
    if not pooled or panel.lengths.max() < MIN_DAYS:
        return {}
    days = np.unique(panel.days)
    y = targets(panel.close, panel.spans)
    day_of_history = np.arange(len(y)) - np.repeat(panel.spans[:, 0], panel.lengths)
    labelled = np.flatnonzero((day_of_history >= WARM_UP) & np.isfinite(y[:, -1]))
    known_on = panel.days[labelled + H]
    thin = np.isin(panel.days[labelled], days[::-POOLED_EVERY])
    labelled, known_on = labelled[thin], known_on[thin]
    starts = [days[WARM_UP + block[0]] for _, block in walk_forward(len(days) - WARM_UP - H)]
    usable = [first for first in starts if (known_on <= first).any()]
    first_days = np.array(usable, dtype="datetime64[D]")

    def fitted(model: PooledRegressor, rows: Rows) -> PooledRegressor:
        return deepcopy(model).fit(panel.table.iloc[rows].reset_index(drop=True), y[rows])

    return {
        name: PooledModel(
            final=fitted(model, labelled),
            refits=[fitted(model, labelled[known_on <= first]) for first in first_days],
            first_days=first_days,
        )
        for name, model in pooled.items()
    }


def train(
    panel: Panel, models: Models, pooled: Mapping[str, PooledModel], widths: Widths
) -> Training:
    """Backtest and fit every model on the whole history of each ticker.

    An error names the ticker that it came from, in a note.

    Args:
        panel: Of any number of tickers.
        models: Unfitted; `NAIVE` is among them.
        pooled: The fitted ones of those that are pooled, as `train_pooled` gives them.
        widths: Of intervals by day, for the coverage.
    """
    try:
        return _train(panel, models, pooled, widths)
    except Exception as error:
        if len(panel.tickers) == 1:
            error.add_note(f"while training {panel.tickers[0]}")
            raise
        for alone in panel.parts(1):  # one of them fails alone, too
            train(alone, models, pooled, widths)
        raise


def earned_weights(predicted: FloatArray, actual: FloatArray) -> FloatArray:
    """The weight of a model's forecasts at each origin, and after it.

    The least-squares slope of what happened on what was predicted, drawn towards zero by
    `WEIGHT_PRIOR`, within 0..1. At an origin only outcomes that were known by then count.

    Args:
        predicted: (n, 10) of consecutive origins, none of which the model has learned from, in
            units of the `interval_scale`.
        actual: (n, 10) in the same units.

    Returns:
        (n + 10,): for each origin, then for the ten days after the last; the last one knows all.
    """
    product, square = (
        np.concatenate([np.zeros(H), np.cumsum((predicted * other).sum(axis=1))])
        for other in (actual, predicted)
    )
    return np.clip(product / (square + WEIGHT_PRIOR), 0, 1)


def told_paths(
    panel: Panel,
    weights: Mapping[str, FloatArray],
    artifacts: Iterable[Artifact],
    pooled: Mapping[str, PooledModel],
    last: int | Rows = 1,
) -> dict[str, FloatArray]:
    """What each model tells after each of the last days of each ticker.

    Args:
        panel: Of m tickers.
        weights: (m,) of each model's predictions; missing where a ticker lacks it.
        artifacts: That hold the models of all these tickers.
        pooled: The models that are not theirs alone.
        last: How many days to tell from, of each ticker or of all alike.

    Returns:
        By model (days of all tickers, 10) log returns; missing where a ticker lacks it.
    """
    spans = panel.last(last)
    days = spans[:, 1] - spans[:, 0]
    ends = np.cumsum(days)
    places = np.column_stack([ends - days, ends])  # of the spans in what is returned
    number = {ticker: number for number, ticker in enumerate(panel.tickers)}
    predicted = {name: np.full((days.sum(), H), np.nan) for name in weights}
    predicted[NAIVE] = np.zeros((days.sum(), H))
    for artifact in artifacts:
        which = [number[ticker] for ticker in artifact.tickers]
        begins = panel.spans[which, 0] + WARM_UP
        for name in artifact.fitted.keys() & weights.keys():
            told = artifact.fitted[name].predict(panel.x, spans[which], begins)
            predicted[name][spans_rows(places[which])] = told
    for name in pooled.keys() & weights.keys():
        has = np.isfinite(weights[name])
        told = pooled[name].final.predict(panel.table.iloc[spans_rows(spans[has])])
        predicted[name][spans_rows(places[has])] = told
    return {
        name: np.repeat(weight, days)[:, None] * predicted[name] for name, weight in weights.items()
    }


def forecast(
    panel: Panel,
    weights: Mapping[str, FloatArray],
    artifacts: Iterable[Artifact],
    pooled: Mapping[str, PooledModel],
    widths: Widths,
) -> pd.DataFrame:
    """The next 10 closes after the last day of each ticker, by each of its models.

    Args:
        panel: Of m tickers.
        weights: (m,) of each model's predictions; missing where a ticker lacks it.
        artifacts: That hold the models of all these tickers.
        pooled: The models that are not theirs alone.
        widths: Of intervals by day.

    Returns:
        10 rows for each model of each ticker, in order: ticker, as_of, model, h, target_date, close
        and the bounds lo_80, hi_80, lo_95 and hi_95; in the currency of the closes, all above 0.
    """
    paths = np.stack(list(told_paths(panel, weights, artifacts, pooled).values()), axis=1)
    newest = panel.spans[:, 1] - 1
    half_widths = interval_half_widths(panel, newest, widths)
    close = panel.close[newest, None, None]
    as_of = panel.days[newest].astype(object)
    calendar = {day: np.array(next_sessions(day, H), dtype=object) for day in set(as_of)}
    m, models, _ = paths.shape
    columns: dict[str, npt.NDArray[np.generic]] = {
        "ticker": np.array(panel.tickers, dtype=object)[:, None, None],
        "as_of": as_of[:, None, None],
        "model": np.array(list(weights), dtype=object)[:, None],
        "h": HORIZONS,
        "target_date": np.stack([calendar[day] for day in as_of])[:, None],
        "close": _prices(close, paths),
    }
    for number, level in enumerate(LEVELS):
        half_width = half_widths[:, None, number]
        columns[f"lo_{level}"] = _prices(close, paths - half_width)
        columns[f"hi_{level}"] = _prices(close, paths + half_width)
    has_model = np.isfinite(paths[:, :, 0])
    return pd.DataFrame(
        {
            name: np.broadcast_to(values, (m, models, H))[has_model].ravel()
            for name, values in columns.items()
        }
    )


def _prices(close: FloatArray, log_return: FloatArray) -> FloatArray:
    """What closes come to: prices, however wild a ticker is, lest it stop those beside it."""
    with np.errstate(over="ignore"):
        return np.clip(close * np.exp(log_return), np.nextafter(0, 1), MAX_PRICE)


def interval_half_widths(panel: Panel, rows: Rows, widths: Widths) -> FloatArray:
    """(rows, levels, 10) half-widths, as log returns, of forecasts made on the days of rows."""
    scale = interval_scale(panel.volatility[rows])
    return widths.on(panel.days[rows]) * scale[:, None]


def interval_scale(volatility: FloatArray) -> FloatArray:
    """(n, 10): how far a random walk of this daily volatility strays in h days."""
    return volatility[:, None] * np.sqrt(HORIZONS)


def training_versions(panel: Panel, models: Models, pooled: str = "") -> dict[str, str]:
    """By ticker a name of its training: the same data and models give the same one.

    Args:
        panel: Of any number of tickers.
        models: The unfitted ones.
        pooled: The name of the training of the pooled ones that it used.
    """
    recipe = _recipe(models, pooled)
    close, days, sectors = panel.close, panel.days, panel.table["sector"].to_numpy()
    return {
        ticker: _version(recipe, sectors[a:b], days[a:b], close[a:b], panel.x[a:b])
        for ticker, (a, b) in zip(panel.tickers, panel.spans, strict=True)
    }


def market_version(panel: Panel, models: Models) -> str:
    """The same of the training of all tickers together."""
    sectors, names = (panel.table[name].to_numpy() for name in ("sector", "ticker"))
    recipe = _recipe(models, "\n".join(names))
    return _version(recipe, sectors, panel.days, panel.close, panel.x)


def dump_pooled(pooled: Mapping[str, PooledModel]) -> bytes:
    """Pooled models as one archive, which can be loaded without running code of its own."""
    arrays: dict[str, npt.NDArray[np.generic]] = {}
    for name, model in pooled.items():
        arrays[f"{name}/first_days/"] = model.first_days.astype(np.int64)
        for number, fitted in enumerate([model.final, *model.refits]):
            arrays |= {f"{name}/{number}/{key}": array for key, array in fitted.arrays().items()}
    return archive(arrays)


def load_pooled(content: bytes) -> dict[str, PooledModel]:
    """What `dump_pooled` was given."""
    found: dict[str, dict[str, dict[str, npt.NDArray[np.generic]]]] = {}
    for path, array in unarchived(content).items():
        name, number, key = path.rsplit("/", 2)
        found.setdefault(name, {}).setdefault(number, {})[key] = array
    pooled = {}
    for name, parts in found.items():
        first_days = parts.pop("first_days")[""].view("datetime64[D]")
        numbers = sorted(parts, key=int)
        final, *refits = (PooledRegressor.from_arrays(parts[number]) for number in numbers)
        pooled[name] = PooledModel(final, refits, first_days)
    return pooled


def _train(
    panel: Panel, models: Models, pooled: Mapping[str, PooledModel], widths: Widths
) -> Training:
    long = np.flatnonzero(panel.lengths >= MIN_DAYS)
    labelled = panel.spans[long] + np.array([WARM_UP, -H])
    y = targets(panel.close, panel.spans)
    own: dict[str, TickerModel] = {
        name: model for name, model in models.items() if isinstance(model, TickerModel)
    }
    fitted = {name: model.fit(panel.x, y, labelled) for name, model in own.items()}
    competing = {name: pooled[name] for name in models if name in pooled}
    predicted = _out_of_sample(panel, y, labelled, own, competing)
    trained = {ticker: [TrainedModel(NAIVE, 1.0, None)] for ticker in panel.tickers}
    for number, rows in zip(long, labelled, strict=True):
        trained[panel.tickers[number]] = _judged(panel, y, predicted, rows, widths)
    return Training(trained, Artifact([panel.tickers[number] for number in long], fitted))


def _out_of_sample(
    panel: Panel,
    y: FloatArray,
    labelled: Rows,
    own: Mapping[str, TickerModel],
    pooled: Mapping[str, PooledModel],
) -> dict[str, FloatArray]:
    """By model (n, 10) predictions of its refits, on the rows that are origins."""
    splits = np.array(
        [
            (a, a + len(learned), a + tested[0], a + tested[-1] + 1)
            for a, b in labelled
            for learned, tested in walk_forward(b - a)
        ],
        dtype=np.int64,
    ).reshape(-1, REFITS, 2, 2)
    origins = spans_rows(splits[:, :, 1].reshape(-1, 2))
    predicted = {name: np.zeros_like(y) for name in (*own, *pooled)}
    for name, model in own.items():
        for learned, tested in splits.transpose(1, 2, 0, 3):
            told = model.fit(panel.x, y, learned).predict(panel.x, tested, labelled[:, 0])
            predicted[name][spans_rows(tested)] = told
    for name, market in pooled.items():
        predicted[name][origins] = market.out_of_sample(panel.table.iloc[origins])
    return predicted


def _judged(
    panel: Panel, y: FloatArray, predicted: Mapping[str, FloatArray], labelled: Rows, widths: Widths
) -> list[TrainedModel]:
    """The weight and the backtest of each model of a ticker, whose labelled rows these are."""
    first, end = labelled
    origins = slice(end - (end - first) // 2, end)
    judged = np.arange(origins.start + H, end)  # before, a model has not earned a weight
    half_widths = interval_half_widths(panel, judged, widths)
    scale = interval_scale(panel.volatility[origins])
    trained = []
    for name, told in predicted.items():
        weights = earned_weights(told[origins] / scale, y[origins] / scale)
        errors = y[judged] - weights[H:-H, None] * told[judged]
        backtest = _backtest(errors, y[judged], half_widths, panel.days[judged])
        trained.append(TrainedModel(name, float(weights[-1]), backtest))
    return trained


def _backtest(
    errors: FloatArray,
    naive: FloatArray,
    half_widths: FloatArray,
    days: npt.NDArray[np.datetime64],
) -> Backtest:
    gain = (np.abs(naive) - np.abs(errors)).mean(axis=1)
    fortnights, number = np.unique(days.astype(np.int64) // FORTNIGHT, return_inverse=True)
    sums, counts = np.bincount(number, weights=gain), np.bincount(number)
    return Backtest(
        origins=len(errors),
        mae=mae(errors),
        rmse=rmse(errors),
        mae_ratio=ratio(mae(errors), mae(naive)),
        mae_ratio_h10=ratio(mae(errors[:, -1]), mae(naive[:, -1])),
        coverage_80=coverage(errors, half_widths[:, 0]),
        coverage_95=coverage(errors, half_widths[:, 1]),
        gains={
            str(key): (float(total), int(count))
            for key, total, count in zip(fortnights, sums, counts, strict=True)
        },
    )


def _recipe(models: Models, *more: str) -> bytes:
    told = [CODE_VERSION, *more, *(f"{name}={model!r}" for name, model in models.items())]
    return "\n".join(told).encode()


def _version(
    recipe: bytes,
    sectors: Iterable[str],
    days: npt.NDArray[np.datetime64],
    close: FloatArray,
    x: FloatArray,
) -> str:
    digest = hashlib.sha256(recipe)
    digest.update("\n".join(sectors).encode())
    for values in (days, close, x):
        digest.update(values.tobytes())
    return digest.hexdigest()[:12]
