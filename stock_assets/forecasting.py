"""Train models for a ticker, judge them walk-forward, forecast its next 10 closes.

Targets are log returns from the last close; a price is made of them at the very end. Whatever a
model predicts is shrunk towards the naive forecast, the last close, by a weight that its own
forecasts of unseen days have earned.
"""

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import pandas as pd
from joblib import Parallel, delayed
from sklearn.base import BaseEstimator, clone

from stock_assets.evaluation import coverage, mae, ratio, rmse
from stock_assets.features import FEATURES, WARM_UP, FloatArray
from stock_assets.intervals import LEVELS, Widths
from stock_assets.models import HORIZONS, NAIVE, H, dump_models, is_pooled, load_models

CODE_VERSION = "2"  # of the training: raise it when the same data must give other models

MIN_DAYS = 80  # of history; fewer leave too few origins to judge a model by
REFITS = 2  # of each model in the backtest
POOLED_EVERY = 5  # a pooled model learns from every fifth day: ten-day returns overlap
FORTNIGHT = 14  # days; gains of the days in one are taken together, as their outcomes overlap

# Of a weight: as much as 1,111 squares of forecasts, each in units of what a random walk strays,
# that were wrong. Ten origins times ten horizons tell no more than one would, and a weight is
# expected within 0.3 of zero: 100 / 0.3**2. Chosen on 2015 to 2017; a tenth of it costs 0.8 %.
WEIGHT_PRIOR = 100 / 0.3**2

_WORTH_A_POOL = 40  # tickers; starting worker processes costs as much as training these

Rows = npt.NDArray[np.int64]


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
    """One model of one ticker, ready to forecast.

    Attributes:
        name: Its key in `models.MODELS`.
        estimator: Fitted; None if it is pooled, and so not the ticker's own.
        weight: 0..1, what its predictions are multiplied with.
        backtest: None where the history was too short.
    """

    name: str
    estimator: BaseEstimator | None
    weight: float
    backtest: Backtest | None


@dataclass(frozen=True)
class PooledModel:
    """A model of all tickers together.

    Attributes:
        final: Fitted on all days whose outcome is known.
        refits: Fitted on earlier days, for the backtest.
        first_days: (refits,) of which day on each of them forecasts, datetime64[D].
    """

    final: BaseEstimator
    refits: list[BaseEstimator]
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


def targets(close: FloatArray) -> FloatArray:
    """(n, 10) log returns from each close to the next 10; missing where not yet known."""
    log_close = np.concatenate([np.log(close), np.full(H, np.nan)])
    n = len(close)
    return np.column_stack([log_close[h : n + h] - log_close[:n] for h in HORIZONS])


def walk_forward(n: int) -> Iterator[tuple[Rows, Rows]]:
    """Train and test rows of each refit, over n rows whose labels are known.

    The later half of the rows are origins, in `REFITS` blocks. A refit uses rows whose 10-day
    label was known at the first origin of its block, and no later one.
    """
    for block in np.array_split(np.arange(n - n // 2, n), REFITS):
        yield np.arange(block[0] - H + 1), block


def train_pooled(
    features: pd.DataFrame, models: Mapping[str, BaseEstimator]
) -> dict[str, PooledModel]:
    """Fit the pooled ones among the models, on all tickers.

    Args:
        features: Feature tables of any number of tickers, with their sectors; ascending by ticker
            and date.
        models: Unfitted; the others are left out.

    Returns:
        None at all where no ticker has `MIN_DAYS` days.
    """
    pooled = {name: model for name, model in models.items() if is_pooled(model)}
    days = np.unique(features["date"].to_numpy("datetime64[D]"))
    if not pooled or features["ticker"].value_counts().max() < MIN_DAYS:
        return {}
    table, y, known_on = _labelled(features)
    thin = np.isin(table["date"].to_numpy("datetime64[D]"), days[::-POOLED_EVERY])
    starts = [days[WARM_UP + block[0]] for _, block in walk_forward(len(days) - WARM_UP - H)]
    usable = [first for first in starts if (thin & (known_on <= first)).any()]
    first_days = np.array(usable, dtype="datetime64[D]")

    def fitted(model: BaseEstimator, rows: npt.NDArray[np.bool_]) -> BaseEstimator:
        return clone(model).fit(table[rows].reset_index(drop=True), y[rows])

    return {
        name: PooledModel(
            final=fitted(model, thin),
            refits=[fitted(model, thin & (known_on <= first)) for first in first_days],
            first_days=first_days,
        )
        for name, model in pooled.items()
    }


def train(
    features: pd.DataFrame,
    models: Mapping[str, BaseEstimator],
    pooled: Mapping[str, PooledModel],
    widths: Widths,
) -> list[TrainedModel]:
    """Backtest and fit every model on the whole history of one ticker.

    Args:
        features: The feature table of one ticker, ascending by date.
        models: Unfitted scikit-learn regressors that predict 10 outputs; `NAIVE` is among them.
        pooled: The fitted ones of those that are pooled, as `train_pooled` gives them.
        widths: Of intervals by day, for the coverage.

    Returns:
        One per model; the naive one alone where the history has fewer than `MIN_DAYS` days.
    """
    if len(features) < MIN_DAYS:
        naive = clone(models[NAIVE]).fit(np.zeros((1, len(FEATURES))), np.zeros((1, H)))
        return [TrainedModel(NAIVE, naive, weight=1.0, backtest=None)]
    table = features.iloc[WARM_UP:-H]
    x = table[list(FEATURES)].to_numpy(np.float64)
    y = targets(features["close"].to_numpy(np.float64))[WARM_UP:-H]
    splits = list(walk_forward(len(y)))
    origins = np.concatenate([tested for _, tested in splits])
    judged = origins[H:]  # on the first ten a model has not earned a weight yet
    scale = interval_scale(table["volatility"].to_numpy(np.float64))
    days = table["date"].to_numpy("datetime64[D]")[judged]
    half_widths = interval_half_widths(table.iloc[judged], widths)
    trained = []
    for name, model in models.items():
        estimator, predicted = None, None
        if not is_pooled(model):
            estimator = clone(model).fit(x, y)
            predicted = _out_of_sample(model, x, y, splits)
        elif name in pooled:
            predicted = pooled[name].out_of_sample(table.iloc[origins])
        if predicted is None:
            continue
        weights = earned_weights(predicted / scale[origins], y[origins] / scale[origins])
        errors = y[judged] - weights[H:-H, None] * predicted[H:]
        backtest = _backtest(errors, y[judged], half_widths, days)
        trained.append(TrainedModel(name, estimator, float(weights[-1]), backtest))
    return trained


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


def forecast(
    features: pd.DataFrame, estimator: BaseEstimator, weight: float, widths: Widths
) -> pd.DataFrame:
    """The next 10 closes after the last day of a ticker's feature table.

    Args:
        features: The feature table of one ticker, ascending by date.
        estimator: Fitted, of the ticker or pooled.
        weight: Of its predictions.
        widths: Of intervals by day.

    Returns:
        10 rows: h, close and the bounds lo_80, hi_80, lo_95 and hi_95; in the currency of the
        closes, all above 0.
    """
    path = predicted_paths(features, estimator, weight)[0]
    half_widths = interval_half_widths(features.iloc[-1:], widths)[0]
    close = float(features["close"].iloc[-1])
    columns = {"h": HORIZONS, "close": close * np.exp(path)}
    for level, half_width in zip(LEVELS, half_widths, strict=True):
        columns[f"lo_{level}"] = close * np.exp(path - half_width)
        columns[f"hi_{level}"] = close * np.exp(path + half_width)
    return pd.DataFrame(columns)


def predicted_paths(
    features: pd.DataFrame, estimator: BaseEstimator, weight: float, days: int = 1
) -> FloatArray:
    """(days, 10) log returns that a model tells after each of the last days of a ticker."""
    known = features.iloc[min(WARM_UP, len(features) - days) :]
    x = known if is_pooled(estimator) else known[list(FEATURES)].to_numpy(np.float64)
    return weight * np.asarray(estimator.predict(x))[-days:]


def interval_half_widths(features: pd.DataFrame, widths: Widths) -> FloatArray:
    """(n, levels, 10) half-widths, as log returns, of forecasts made on each day of a ticker."""
    scale = interval_scale(features["volatility"].to_numpy(np.float64))
    return widths.on(features["date"]) * scale[:, None]


def interval_scale(volatility: FloatArray) -> FloatArray:
    """(n, 10): how far a random walk of this daily volatility strays in h days."""
    return volatility[:, None] * np.sqrt(HORIZONS)


def train_all(
    tables: Mapping[str, pd.DataFrame],
    models: Mapping[str, BaseEstimator],
    pooled: Mapping[str, PooledModel],
    widths: Widths,
) -> Iterator[tuple[str, list[TrainedModel]]]:
    """Train every ticker on its feature table, in parallel where that pays; in the same order."""
    parallel = Parallel(
        n_jobs=-1 if len(tables) >= _WORTH_A_POOL else 1, return_as="generator", batch_size=4
    )
    trained = parallel(
        delayed(_train_named)(ticker, table, models, pooled, widths)
        for ticker, table in tables.items()
    )
    return zip(tables, trained, strict=True)


def training_version(
    features: pd.DataFrame, models: Mapping[str, BaseEstimator], pooled: str = ""
) -> str:
    """A name of the training on these features: the same data and models give the same one.

    Args:
        features: Of a ticker, or of all of them.
        models: The unfitted ones.
        pooled: The name of the training of the pooled ones that it used.
    """
    recipe = [CODE_VERSION, pooled, *(f"{name}={model!r}" for name, model in models.items())]
    digest = hashlib.sha256("\n".join(recipe).encode())
    if "sector" in features:
        digest.update("\n".join(features["sector"]).encode())
    digest.update(features["date"].to_numpy("datetime64[D]").tobytes())
    digest.update(features[["close", *FEATURES]].to_numpy(np.float64).tobytes())
    return digest.hexdigest()[:12]


def dump_pooled(pooled: Mapping[str, PooledModel]) -> bytes:
    """Pooled models as one artifact that can be loaded without running code of its own."""
    return dump_models(
        {
            name: vars(model) | {"first_days": model.first_days.astype(str).tolist()}
            for name, model in pooled.items()
        }
    )


def load_pooled(artifact: bytes) -> dict[str, PooledModel]:
    """What `dump_pooled` was given."""
    return {
        name: PooledModel(**kept | {"first_days": np.array(kept["first_days"], "datetime64[D]")})
        for name, kept in load_models(artifact).items()
    }


def _labelled(
    features: pd.DataFrame,
) -> tuple[pd.DataFrame, FloatArray, npt.NDArray[np.datetime64]]:
    """The rows of all tickers that have features and a label, and when the label was known."""
    by_ticker = features.groupby("ticker", sort=False)
    close = features["close"].to_numpy(np.float64)
    ahead = [by_ticker["close"].shift(-int(h)).to_numpy(np.float64) for h in HORIZONS]
    y = np.log(np.column_stack(ahead) / close[:, None])
    known_on = by_ticker["date"].shift(-H).to_numpy("datetime64[D]")
    rows = (by_ticker.cumcount() >= WARM_UP).to_numpy() & ~np.isnat(known_on)
    return features[rows], y[rows], known_on[rows]


def _out_of_sample(
    model: BaseEstimator, x: FloatArray, y: FloatArray, splits: list[tuple[Rows, Rows]]
) -> FloatArray:
    """(origins, 10) predictions by refits; each is shown all rows up to the ones it predicts."""
    return np.concatenate(
        [
            clone(model).fit(x[fitted], y[fitted]).predict(x[: tested[-1] + 1])[tested]
            for fitted, tested in splits
        ]
    )


def _train_named(
    ticker: str,
    table: pd.DataFrame,
    models: Mapping[str, BaseEstimator],
    pooled: Mapping[str, PooledModel],
    widths: Widths,
) -> list[TrainedModel]:
    try:
        return train(table, models, pooled, widths)
    except Exception as error:
        error.add_note(f"while training {ticker}")
        raise


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
