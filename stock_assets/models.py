"""The models that compete, in one dictionary, and the artifacts they are kept in.

A model predicts the log returns over 1 to 10 days. A `TickerModel` is fitted to each ticker alone,
on the matrix of its `FEATURES`, but to many tickers in one call; `OneByOne` makes one of any
scikit-learn regressor. A `PooledRegressor` learns from the feature tables of all tickers together.
What a model predicts is shrunk towards naive before it is shown: see `forecasting`.
"""

import io
import zipfile
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any, Protocol, Self

import numpy as np
import numpy.typing as npt
import pandas as pd
from joblib import Parallel, delayed

from stock_assets.errors import SetupError
from stock_assets.features import FEATURES, FloatArray, Rows
from stock_assets.forest import Forests, fit_forests

H = 10
HORIZONS = np.arange(1, H + 1)
NAIVE = "naive"
_LEAST_VARIANCE = 1e-10  # of a direction of the features against the largest, to learn from it
_LEAST_DEVIATION = 1e-10  # of a feature against its mean, to be no constant
_WORTH_A_POOL = 40  # tickers; starting worker processes costs as much as fitting these


class Fitted(Protocol):
    """Models of one kind, each fitted to one ticker."""

    def predict(self, x: FloatArray, spans: Rows, begins: Rows) -> FloatArray:
        """(rows of all spans, 10) log returns, those of one ticker below those of the other.

        Args:
            x: (n, features) of all tickers.
            spans: (m, 2) first row to predict from, and the one after the last.
            begins: (m,) first row of each ticker's history, for models that look back.
        """
        ...

    def take(self, which: Sequence[int]) -> "Fitted":
        """The models of these numbers."""
        ...

    def arrays(self) -> dict[str, Any]:
        """All that must be kept of them; `from_arrays` of their class is given it."""
        ...


class TickerModel(ABC):
    """A way to fit a model to each of many tickers."""

    @abstractmethod
    def fit(self, x: FloatArray, y: FloatArray, spans: Rows) -> Fitted:
        """Learn (n, 10) log returns from (n, features), for each ticker from the rows of a span."""


@dataclass(frozen=True)
class Naive(TickerModel):
    """Tells that no price will change; fitted or not, it is the same."""

    def fit(self, x: FloatArray, y: FloatArray, spans: Rows) -> Self:  # noqa: ARG002
        """Nothing to learn."""
        return self

    def predict(self, x: FloatArray, spans: Rows, begins: Rows) -> FloatArray:  # noqa: ARG002
        """Zeros."""
        return np.zeros((int((spans[:, 1] - spans[:, 0]).sum()), H))

    def take(self, which: Sequence[int]) -> Self:  # noqa: ARG002
        """The same for any ticker."""
        return self

    def arrays(self) -> dict[str, Any]:
        """Nothing."""
        return {}


@dataclass(frozen=True)
class LeastSquares(TickerModel):
    """Linear regression on standardised features, all tickers at once by their normal equations.

    Directions in which the features hardly vary are left out, as in the pseudoinverse.

    Attributes:
        alpha: Penalty on the squares of the coefficients (ridge regression, Hoerl and Kennard
            1970); 0 is ordinary least squares.
    """

    alpha: float = 0

    def fit(self, x: FloatArray, y: FloatArray, spans: Rows) -> "Linear":
        """Histories of the same length are solved together."""
        m, features = len(spans), x.shape[1]
        coefficients, intercepts = np.empty((m, features, H)), np.empty((m, H))
        lengths = spans[:, 1] - spans[:, 0]
        for length in np.unique(lengths):
            which = np.flatnonzero(lengths == length)
            rows = spans[which, :1] + np.arange(length)
            centre, scale = x[rows].mean(axis=1, keepdims=True), x[rows].std(axis=1, keepdims=True)
            scale[scale <= _LEAST_DEVIATION * np.abs(centre)] = 1  # rounding errors of a constant
            inputs, mean = (x[rows] - centre) / scale, y[rows].mean(axis=1, keepdims=True)
            transposed = inputs.swapaxes(1, 2)
            gram = transposed @ inputs + self.alpha * np.eye(features)
            inverse = np.linalg.pinv(gram, rcond=_LEAST_VARIANCE, hermitian=True)
            slopes = inverse @ (transposed @ (y[rows] - mean)) / scale.swapaxes(1, 2)
            coefficients[which] = slopes
            intercepts[which] = (mean - centre @ slopes)[:, 0]
        return Linear(coefficients, intercepts)


@dataclass(frozen=True)
class Linear:
    """Linear models, one per ticker.

    Attributes:
        coefficients: (m, features, 10).
        intercepts: (m, 10).
    """

    coefficients: FloatArray
    intercepts: FloatArray

    def predict(self, x: FloatArray, spans: Rows, begins: Rows) -> FloatArray:  # noqa: ARG002
        """(rows of all spans, 10) log returns."""
        told = [
            x[first:end] @ self.coefficients[number] + self.intercepts[number]
            for number, (first, end) in enumerate(spans)
        ]
        return np.concatenate([np.empty((0, H)), *told])

    def take(self, which: Sequence[int]) -> "Linear":
        """The models of these numbers."""
        return Linear(self.coefficients[which], self.intercepts[which])

    def arrays(self) -> dict[str, Any]:
        """Coefficients and intercepts."""
        return vars(self)

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, Any]) -> "Linear":
        """What `arrays` was taken from."""
        return cls(**arrays)


@dataclass(frozen=True)
class RandomForest(TickerModel):
    """Random forests that predict ten outputs, compiled: see `forest`."""

    trees: int = 20
    min_samples_leaf: int = 20
    max_features: float = 1 / 3
    max_samples: float = 0.5
    seed: int = 0

    def fit(self, x: FloatArray, y: FloatArray, spans: Rows) -> "FittedForests":
        """In as many threads as there are processors."""
        return FittedForests(fit_forests(x, y, spans, **vars(self)))


@dataclass(frozen=True)
class FittedForests:
    """Fitted random forests, one per ticker."""

    forests: Forests

    def predict(self, x: FloatArray, spans: Rows, begins: Rows) -> FloatArray:  # noqa: ARG002
        """(rows of all spans, 10) log returns."""
        return self.forests.predict(x, spans)

    def take(self, which: Sequence[int]) -> "FittedForests":
        """The models of these numbers."""
        return FittedForests(self.forests.take(which))

    def arrays(self) -> dict[str, Any]:
        """Those of all trees."""
        return self.forests.arrays()

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, Any]) -> "FittedForests":
        """What `arrays` was taken from."""
        return cls(Forests.from_arrays(arrays))


@dataclass(frozen=True)
class OneByOne(TickerModel):
    """Any scikit-learn regressor of ten outputs, fitted to one ticker after the other.

    Attributes:
        estimator: Unfitted. It predicts from all rows of a history up to the last one asked for.
    """

    estimator: Any

    def fit(self, x: FloatArray, y: FloatArray, spans: Rows) -> "Estimators":
        """In as many processes as there are processors, where there are many tickers."""
        fit = delayed(_fitted)
        return Estimators(
            _pool(spans)(fit(self.estimator, x[first:end], y[first:end]) for first, end in spans)
        )


@dataclass(frozen=True)
class Estimators:
    """Fitted scikit-learn regressors, one per ticker."""

    fitted: list[Any]

    def predict(self, x: FloatArray, spans: Rows, begins: Rows) -> FloatArray:
        """(rows of all spans, 10) log returns."""
        told = _pool(spans)(
            delayed(_predicted)(estimator, x[begin:end], end - first)
            for estimator, (first, end), begin in zip(self.fitted, spans, begins, strict=True)
        )
        return np.concatenate([np.empty((0, H)), *told])

    def take(self, which: Sequence[int]) -> "Estimators":
        """The models of these numbers."""
        return Estimators([self.fitted[number] for number in which])

    def arrays(self) -> dict[str, Any]:
        """The bytes of one skops file."""
        return _as_bytes(self.fitted)

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, Any]) -> "Estimators":
        """What `arrays` was taken from."""
        return cls(_from_bytes(arrays))


@dataclass
class PooledRegressor:
    """Learns from all tickers at once how one of them will do against the others.

    Its target is the return over ten days less the mean of all tickers on the same day, in units
    of volatility: of the market itself, which moves all of them, a hundred days teach nothing. The
    days between lie on a straight line. It sees `FEATURES`, volatility, and the sector one-hot.

    Attributes:
        regressor: Unfitted; its ``fit`` gives one that predicts one output.
    """

    regressor: Any

    def fit(self, table: pd.DataFrame, y: FloatArray) -> Self:
        """Learn from feature table rows of any tickers and their (n, 10) log returns."""
        self.sectors_ = sorted(set(table["sector"]))
        last = pd.Series(y[:, -1])
        relative = last - last.groupby(table["date"].to_numpy()).transform("mean")
        target = relative.to_numpy() / _ten_days(table)
        self.regressor_ = deepcopy(self.regressor).fit(self._inputs(table), target)
        return self

    def predict(self, table: pd.DataFrame) -> FloatArray:
        """(n, 10) log returns."""
        last = self.regressor_.predict(self._inputs(table)) * _ten_days(table)
        return np.asarray(last[:, None] * (HORIZONS / H))

    def arrays(self) -> dict[str, Any]:
        """All that must be kept of a fitted one; `from_arrays` is given it."""
        trees = self.regressor_
        kept = vars(trees) if isinstance(trees, BoostedTrees) else _as_bytes(trees)
        return {"sectors": np.array(self.sectors_, dtype=str), **kept}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, Any]) -> Self:
        """A fitted one; the regressor that it was made with is not kept."""
        kept = {name: array for name, array in arrays.items() if name != "sectors"}
        fitted = cls(None)
        fitted.sectors_ = arrays["sectors"].tolist()
        fitted.regressor_ = _from_bytes(kept) if "skops" in kept else BoostedTrees(**kept)
        return fitted

    def _inputs(self, table: pd.DataFrame) -> FloatArray:
        sector = table["sector"].to_numpy()
        one_hot = [sector == known for known in self.sectors_]
        return np.column_stack([table[[*FEATURES, "volatility"]].to_numpy(np.float64), *one_hot])


@dataclass(frozen=True)
class GradientBoosting:
    """Histogram-based gradient boosting of scikit-learn, with its names and one thread."""

    max_iter: int
    learning_rate: float
    max_depth: int
    min_samples_leaf: int
    l2_regularization: float
    random_state: int = 0

    def fit(self, x: FloatArray, y: FloatArray) -> "BoostedTrees":
        """Learn (n,) from (n, inputs) without missing values."""
        from sklearn.ensemble import HistGradientBoostingRegressor  # noqa: PLC0415  takes a second
        from threadpoolctl import threadpool_limits  # noqa: PLC0415

        with threadpool_limits(limits=1, user_api="openmp"):  # waiting for each other costs more
            fitted = HistGradientBoostingRegressor(**vars(self)).fit(x, y)
        nodes = [tree.nodes for (tree,) in fitted._predictors]  # noqa: SLF001
        return BoostedTrees(np.ravel(fitted._baseline_prediction), np.concatenate(nodes))  # noqa: SLF001


@dataclass(frozen=True)
class BoostedTrees:
    """A fitted `GradientBoosting` in two arrays, which are loaded in a moment.

    Attributes:
        baseline: (1,) the mean that the trees add to.
        nodes: Of all trees, one after the other, as scikit-learn has them; depth 0 is a root.
    """

    baseline: FloatArray
    nodes: npt.NDArray[np.void]

    def predict(self, x: FloatArray) -> FloatArray:
        """(n,) from (n, inputs) without missing values."""
        told = np.full(len(x), self.baseline[0])
        rows = np.arange(len(x))
        for tree in np.split(self.nodes, np.flatnonzero(self.nodes["depth"] == 0)[1:]):
            at = np.zeros(len(x), np.int64)
            for _ in range(tree["depth"].max()):
                node = tree[at]
                goes_left = x[rows, node["feature_idx"]] <= node["num_threshold"]
                child = np.where(goes_left, node["left"], node["right"])
                at = np.where(node["is_leaf"], at, child)
            told += tree["value"][at]
        return told


@dataclass
class SeriesRegressor:
    """A univariate model of statsforecast, on the path of log closes.

    It is fitted when it first predicts, on as many rows as `fit` was given, so that nothing of
    statsforecast needs to be kept. `predict` takes the rows from the first one of `fit` on.

    Attributes:
        name: Of a class in ``statsforecast.models`` that can go ``forward``.
    """

    name: str

    def fit(self, x: FloatArray, y: FloatArray) -> Self:  # noqa: ARG002  scikit-learn's signature
        """Remember how many rows may be learned from.

        Raises:
            SetupError: statsforecast is not installed.
        """
        self.rows_ = len(x)
        self._model()
        return self

    def predict(self, x: FloatArray) -> FloatArray:
        """(n, 10) log returns; zero for the rows that it learned from."""
        path = np.cumsum(x[:, FEATURES.index("log_return")])
        fitted = self._model().fit(path[: self.rows_])
        predicted = np.zeros((len(x), H))
        for row in range(self.rows_, len(x)):
            predicted[row] = fitted.forward(path[: row + 1], h=H)["mean"] - path[row]
        return predicted

    def _model(self) -> Any:
        try:
            from statsforecast import models  # noqa: PLC0415  an extra
        except ImportError as error:
            raise SetupError(
                f"{self.name} needs statsforecast: pip install 'stock-assets[statsforecast]'"
            ) from error
        return getattr(models, self.name)(season_length=1)


MODELS: dict[str, TickerModel | PooledRegressor] = {
    NAIVE: Naive(),
    "linear_regression": LeastSquares(),
    "ridge": LeastSquares(alpha=300),
    "random_forest": RandomForest(),
    "gradient_boosting": PooledRegressor(
        GradientBoosting(
            max_iter=30,
            learning_rate=0.02,
            max_depth=2,
            min_samples_leaf=500,
            l2_regularization=100,
        )
    ),
    "auto_ets": OneByOne(SeriesRegressor("AutoETS")),
    "auto_theta": OneByOne(SeriesRegressor("AutoTheta")),
    "auto_arima": OneByOne(SeriesRegressor("AutoARIMA")),
}


def candidates(names: Iterable[str]) -> dict[str, TickerModel | PooledRegressor]:
    """The models of these names, and the naive one, which always competes.

    Raises:
        SetupError: There is no such model.
    """
    chosen = dict.fromkeys([NAIVE, *names])
    if unknown := sorted(chosen.keys() - MODELS):
        raise SetupError(
            f"STOCK_ASSETS_MODELS names {', '.join(unknown)}. Expected some of: {', '.join(MODELS)}"
        )
    return {name: MODELS[name] for name in chosen}


@dataclass(frozen=True)
class Artifact:
    """The models of some tickers, as they are kept.

    Attributes:
        tickers: (m,) whose models they are, in order.
        fitted: By name of the model.
    """

    tickers: Sequence[str]
    fitted: Mapping[str, Fitted]

    def take(self, tickers: Iterable[str]) -> "Artifact":
        """Those of some of the tickers, as far as they are here."""
        which = np.flatnonzero(np.isin(self.tickers, list(tickers))).tolist()
        fitted = {name: each.take(which) for name, each in self.fitted.items()}
        return Artifact([self.tickers[number] for number in which], fitted)

    def dump(self) -> bytes:
        """An archive for `load`."""
        return archive(
            {"tickers": np.array(self.tickers, dtype=str)}
            | {
                f"{name}/{type(fitted).__name__}/{key}": array
                for name, fitted in self.fitted.items()
                for key, array in fitted.arrays().items()
            }
        )

    @classmethod
    def load(cls, content: bytes) -> "Artifact":
        """What was dumped.

        Raises:
            skops.io.exceptions.UntrustedTypesFoundException: It holds a scikit-learn estimator of
                a type that nobody vouched for.
        """
        kinds = {kind.__name__: kind for kind in (Linear, FittedForests, Estimators)}
        arrays = unarchived(content)
        tickers = arrays.pop("tickers").tolist()
        found: dict[tuple[str, str], dict[str, Any]] = {}
        for path, array in arrays.items():
            name, kind, key = path.rsplit("/", 2)
            found.setdefault((name, kind), {})[key] = array
        return cls(tickers, {n: kinds[k].from_arrays(a) for (n, k), a in found.items()})


def archive(arrays: Mapping[str, npt.NDArray[Any]]) -> bytes:
    """A NumPy archive, which can be loaded without running code of its own."""
    file = io.BytesIO()
    np.savez(file, **arrays)  # type: ignore[arg-type]
    return file.getvalue()


def unarchived(content: bytes) -> dict[str, npt.NDArray[Any]]:
    """The arrays of an archive.

    Raises:
        ValueError: It holds something else.
    """
    with np.load(io.BytesIO(content), allow_pickle=False) as file:
        return dict(file)


_TRUSTED = (  # what an artifact may hold besides skops' own list
    "sklearn.tree._tree.Tree",
    "stock_assets.models.SeriesRegressor",
)


def _as_bytes(fitted: Any) -> dict[str, npt.NDArray[np.uint8]]:
    """Fitted scikit-learn estimators, without any code of their own."""
    import skops.io  # noqa: PLC0415  it imports all of scikit-learn, 1 s that few runs need

    kept = skops.io.dumps(fitted, compression=zipfile.ZIP_DEFLATED)
    return {"skops": np.frombuffer(kept, np.uint8)}


def _from_bytes(arrays: Mapping[str, Any]) -> Any:
    """What `_as_bytes` was given."""
    import skops.io  # noqa: PLC0415  as above

    return skops.io.loads(arrays["skops"].tobytes(), trusted=_TRUSTED)


def _pool(spans: Rows) -> Parallel:
    return Parallel(n_jobs=-1 if len(spans) >= _WORTH_A_POOL else 1)


def _fitted(estimator: Any, x: FloatArray, y: FloatArray) -> Any:
    return deepcopy(estimator).fit(x, y)


def _predicted(estimator: Any, x: FloatArray, last: int) -> FloatArray:
    return np.asarray(estimator.predict(x))[-last:]


def _ten_days(table: pd.DataFrame) -> FloatArray:
    return np.asarray(table["volatility"].to_numpy(np.float64) * np.sqrt(H))
