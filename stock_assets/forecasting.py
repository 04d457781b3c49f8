"""Train models for a ticker, judge them walk-forward, forecast its next 10 closes.

Targets are log returns from the last close; a price is made of them at the very end. The naive
forecast, the last close, is one of the models and stays champion unless another one beats it.
"""

import hashlib
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd
from joblib import Parallel, delayed
from sklearn.base import BaseEstimator, clone
from sklearn.dummy import DummyRegressor
from sklearn.ensemble import RandomForestRegressor
from sklearn.linear_model import LinearRegression

from stock_assets.evaluation import (
    conformal_quantile,
    coverage,
    mae,
    p_value_of_gain,
    rmse,
)
from stock_assets.features import FEATURES, WARM_UP, FloatArray

H = 10
HORIZONS = np.arange(1, H + 1)
LEVELS = (80, 95)

NAIVE = "naive"
MODELS: dict[str, BaseEstimator] = {
    NAIVE: DummyRegressor(strategy="constant", constant=np.zeros(H)),
    "linear_regression": LinearRegression(),
    "random_forest": RandomForestRegressor(
        n_estimators=30, min_samples_leaf=20, max_features=1 / 3, max_samples=0.5, random_state=0
    ),
}

CODE_VERSION = "1"  # of the training: raise it when the same data must give other models

MIN_DAYS = 80  # of history; fewer leave too few origins to judge a model by
MAX_ORIGINS = 252  # the backtest looks back a year at the most
REFITS = 3  # of each model in the backtest
SIGNIFICANCE = 0.05  # most likely chance of a champion that is not better than naive

# Half-widths of the naive forecast's intervals, of volatility * sqrt(h), that covered 80 and 95 %
# of the closes of 503 tickers from mid-2015 to 2017. A ticker's own errors count as much once there
# are twenty independent ones.
PRIOR_WIDTHS = np.stack([1.22 - 0.10 / HORIZONS, 2.14 - 0.13 / HORIZONS])
PRIOR_SCORES = 20

_WORTH_A_POOL = 40  # tickers; starting worker processes costs as much as training these
_TRUSTED = ("sklearn.tree._tree.Tree",)  # what an artifact may hold besides scikit-learn's own


@dataclass(frozen=True)
class Backtest:
    """What a model's walk-forward backtest says.

    Attributes:
        origins: Days on which it forecast; 0 where the history was too short for a backtest.
        mae: Mean absolute error over h = 1..10, log return.
        rmse: Root mean squared error, log return.
        mae_ratio: mae divided by that of the naive forecast at the same origins; below 1 is better.
        mae_ratio_h10: The same at h = 10 alone.
        coverage_80: Share of closes inside the 80 % interval, 0..1, as calibrated on these origins.
        coverage_95: The same of the 95 % interval.
    """

    origins: int
    mae: float
    rmse: float
    mae_ratio: float
    mae_ratio_h10: float
    coverage_80: float
    coverage_95: float


@dataclass(frozen=True)
class TrainedModel:
    """One model of one ticker, ready to forecast.

    Attributes:
        name: Its key in `MODELS`.
        estimator: Fitted; predicts (n, 10) log returns from (n, features).
        widths: (levels, horizons); times volatility and sqrt(h) the half-width of an interval.
        backtest: None where the history was too short.
        is_champion: Whether its forecast is the one to show.
        reason: Why it is, or is not, the champion.
    """

    name: str
    estimator: BaseEstimator
    widths: FloatArray
    backtest: Backtest | None
    is_champion: bool
    reason: str


def targets(close: FloatArray) -> FloatArray:
    """(n, 10) log returns from each close to the next 10; missing where not yet known."""
    log_close = np.concatenate([np.log(close), np.full(H, np.nan)])
    n = len(close)
    return np.column_stack([log_close[h : n + h] - log_close[:n] for h in HORIZONS])


def train(
    features: pd.DataFrame, models: Mapping[str, BaseEstimator] = MODELS
) -> list[TrainedModel]:
    """Backtest and fit every model on the whole history of one ticker.

    Args:
        features: The feature table of one ticker, ascending by date.
        models: Unfitted scikit-learn regressors that predict 10 outputs; `NAIVE` is among them.

    Returns:
        One per model, exactly one of them the champion; only the naive one where the history has
        fewer than `MIN_DAYS` days.
    """
    y = targets(features["close"].to_numpy(np.float64))
    scale = interval_scale(features["volatility"].to_numpy(np.float64))
    if len(features) < MIN_DAYS:
        return [_baseline(models[NAIVE], y[:-H] / scale[:-H], days=len(features))]

    labelled = slice(WARM_UP, -H)
    x = features[list(FEATURES)].to_numpy(np.float64)[labelled]
    y, scale = y[labelled], scale[labelled]
    splits = list(walk_forward(len(y)))
    origins = np.concatenate([tested for _, tested in splits])
    errors = {name: _errors(model, x, y, splits) for name, model in models.items()}
    champion = choose_champion(errors)
    return [
        TrainedModel(
            name=name,
            estimator=clone(model).fit(x, y),
            widths=(widths := interval_widths(errors[name] / scale[origins])),
            backtest=_backtest(errors[name], errors[NAIVE], widths[:, None] * scale[origins]),
            is_champion=name == champion,
            reason=_reason(name, champion, errors),
        )
        for name, model in models.items()
    ]


def walk_forward(
    n: int,
) -> Iterator[tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]]:
    """Train and test rows of each refit, over n rows whose labels are known.

    The later half of the rows (`MAX_ORIGINS` at most) are origins, in `REFITS` blocks. A refit
    uses rows whose 10-day label was known at the first origin of its block, and no later one.
    """
    origins = np.arange(n - min(n // 2, MAX_ORIGINS), n)
    for block in np.array_split(origins, REFITS):
        yield np.arange(block[0] - H + 1), block


def choose_champion(errors: Mapping[str, FloatArray]) -> str:
    """The model with the least mean absolute error among those that beat naive beyond noise.

    Picked from noise, a champion does worse than naive in the time to come: with the least error
    as the only rule, by 12 % on 100 days of history.

    Args:
        errors: Backtest errors, (origins, 10) log returns, of each model.
    """
    better = [
        name
        for name, error in errors.items()
        if name != NAIVE and p_value_of_gain(error, errors[NAIVE], block=H) < SIGNIFICANCE
    ]
    return min(better, key=lambda name: mae(errors[name]), default=NAIVE)


def interval_widths(scaled_errors: FloatArray) -> FloatArray:
    """Half-widths of the intervals in units of volatility * sqrt(h), (levels, 10).

    Conformal quantiles of a ticker's own errors, drawn towards `PRIOR_WIDTHS`: origins closer than
    ten days repeat each other, so a tenth of the errors count as independent.

    Args:
        scaled_errors: (n, 10) errors divided by volatility * sqrt(h); n may be 0.
    """
    if not len(scaled_errors):
        return PRIOR_WIDTHS
    own = np.stack([conformal_quantile(np.abs(scaled_errors), level) for level in LEVELS])
    independent = len(scaled_errors) / H
    return (independent * own + PRIOR_SCORES * PRIOR_WIDTHS) / (independent + PRIOR_SCORES)


def forecast(features: pd.DataFrame, estimator: BaseEstimator, widths: FloatArray) -> pd.DataFrame:
    """The next 10 closes after the last day of a ticker's feature table.

    Args:
        features: The feature table of one ticker, ascending by date.
        estimator: Fitted; predicts (n, 10) log returns from (n, features).
        widths: Of the intervals, as `interval_widths` gives them.

    Returns:
        10 rows: h, close and the bounds lo_80, hi_80, lo_95 and hi_95; in the currency of the
        closes, all above 0.
    """
    last = features.iloc[[-1]]
    path = np.asarray(estimator.predict(last[list(FEATURES)].to_numpy(np.float64)))[0]
    half_widths = widths * interval_scale(last["volatility"].to_numpy(np.float64))
    close = float(last["close"].iloc[0])
    columns = {"h": HORIZONS, "close": close * np.exp(path)}
    for level, half_width in zip(LEVELS, half_widths, strict=True):
        columns[f"lo_{level}"] = close * np.exp(path - half_width)
        columns[f"hi_{level}"] = close * np.exp(path + half_width)
    return pd.DataFrame(columns)


def interval_scale(volatility: FloatArray) -> FloatArray:
    """(n, 10): how far a random walk of this daily volatility strays in h days."""
    return volatility[:, None] * np.sqrt(HORIZONS)


def train_all(tables: Mapping[str, pd.DataFrame]) -> Iterator[tuple[str, list[TrainedModel]]]:
    """Train every ticker on its feature table, in parallel where that pays; in the same order."""
    parallel = Parallel(
        n_jobs=-1 if len(tables) >= _WORTH_A_POOL else 1, return_as="generator", batch_size=4
    )
    trained = parallel(delayed(_train_named)(*item) for item in tables.items())
    return zip(tables, trained, strict=True)


def training_version(features: pd.DataFrame) -> str:
    """A name of the training on these features: the same data and models give the same one."""
    recipe = [CODE_VERSION, *(f"{name}={model!r}" for name, model in MODELS.items())]
    digest = hashlib.sha256("\n".join(recipe).encode())
    digest.update(features["date"].to_numpy("datetime64[D]").tobytes())
    digest.update(features[["close", *FEATURES]].to_numpy(np.float64).tobytes())
    return digest.hexdigest()[:12]


def dump_estimators(trained: list[TrainedModel]) -> bytes:
    """The fitted estimators as one artifact that can be loaded without running code of its own."""
    import skops.io  # noqa: PLC0415  it imports all of scikit-learn, 1.5 s that few runs need

    estimators = {model.name: model.estimator for model in trained}
    return bytes(skops.io.dumps(estimators, compression=zipfile.ZIP_DEFLATED))


def load_estimators(artifact: bytes) -> dict[str, BaseEstimator]:
    """The estimators of an artifact by their names in `MODELS`.

    Raises:
        skops.io.exceptions.UntrustedTypesFoundException: It holds a type nobody vouched for.
    """
    import skops.io  # noqa: PLC0415  as above

    return dict(skops.io.loads(artifact, trusted=_TRUSTED))


def _train_named(ticker: str, table: pd.DataFrame) -> list[TrainedModel]:
    try:
        return train(table)
    except Exception as error:
        error.add_note(f"while training {ticker}")
        raise


def _baseline(naive: BaseEstimator, scaled_errors: FloatArray, days: int) -> TrainedModel:
    """The naive forecast of a ticker whose history is too short to train on."""
    return TrainedModel(
        name=NAIVE,
        estimator=clone(naive).fit(np.zeros((1, len(FEATURES))), np.zeros((1, H))),
        widths=interval_widths(scaled_errors),
        backtest=None,
        is_champion=True,
        reason=f"baseline: {days} days of history, {MIN_DAYS} are needed to train",
    )


def _errors(
    model: BaseEstimator,
    x: FloatArray,
    y: FloatArray,
    splits: list[tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]],
) -> FloatArray:
    return np.concatenate(
        [
            y[tested] - clone(model).fit(x[fitted], y[fitted]).predict(x[tested])
            for fitted, tested in splits
        ]
    )


def _backtest(errors: FloatArray, naive: FloatArray, half_widths: FloatArray) -> Backtest:
    return Backtest(
        origins=len(errors),
        mae=mae(errors),
        rmse=rmse(errors),
        mae_ratio=_ratio(mae(errors), mae(naive)),
        mae_ratio_h10=_ratio(mae(errors[:, -1]), mae(naive[:, -1])),
        coverage_80=coverage(errors, half_widths[0]),
        coverage_95=coverage(errors, half_widths[1]),
    )


def _ratio(error: float, baseline: float) -> float:
    """Error against baseline; 1 where the price never moved and both are right."""
    return error / baseline if baseline else 1.0 if error == 0 else np.inf


def _reason(name: str, champion: str, errors: Mapping[str, FloatArray]) -> str:
    if name == NAIVE:
        return "champion: no model beats it beyond noise" if champion == NAIVE else "baseline"
    title = "champion" if name == champion else "challenger"
    p_value = p_value_of_gain(errors[name], errors[NAIVE], block=H)
    return f"{title}: p = {p_value:.2f} that it is no better than naive"
