"""The models that compete, in one dictionary, and the artifacts they are kept in.

A model is a scikit-learn regressor that predicts the log returns over 1 to 10 days. One of a
single ticker gets the matrix of its `FEATURES`; a `PooledRegressor` the feature tables of all
tickers. What a model predicts is shrunk towards naive before it is shown: see `forecasting`.
"""

import zipfile
from collections.abc import Iterable, Mapping
from typing import Any, Self

import numpy as np
import pandas as pd
from sklearn.base import BaseEstimator, RegressorMixin, clone
from sklearn.dummy import DummyRegressor
from sklearn.ensemble import HistGradientBoostingRegressor, RandomForestRegressor
from sklearn.linear_model import LinearRegression, Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from threadpoolctl import ThreadpoolController

from stock_assets.errors import SetupError
from stock_assets.features import FEATURES, FloatArray

H = 10
HORIZONS = np.arange(1, H + 1)
NAIVE = "naive"
_THREADS = ThreadpoolController()


class PooledRegressor(RegressorMixin, BaseEstimator):  # type: ignore[misc]
    """Learns from all tickers at once how one of them will do against the others.

    Its target is the return over ten days less the mean of all tickers on the same day, in units
    of volatility: of the market itself, which moves all of them, a hundred days teach nothing. The
    days between lie on a straight line. It sees `FEATURES`, volatility, and the sector one-hot.

    Args:
        regressor: Predicts one output.
    """

    def __init__(self, regressor: BaseEstimator) -> None:
        self.regressor = regressor

    def fit(self, table: pd.DataFrame, y: FloatArray) -> Self:
        """Learn from feature table rows of any tickers and their (n, 10) log returns."""
        self.sectors_ = sorted(set(table["sector"]))
        last = pd.Series(y[:, -1])
        relative = last - last.groupby(table["date"].to_numpy()).transform("mean")
        self.regressor_ = clone(self.regressor)
        with _THREADS.limit(limits=1, user_api="openmp"):  # waiting for each other costs more
            self.regressor_.fit(self._inputs(table), relative.to_numpy() / _ten_days(table))
        return self

    def predict(self, table: pd.DataFrame) -> FloatArray:
        """(n, 10) log returns."""
        with _THREADS.limit(limits=1, user_api="openmp"):
            last = self.regressor_.predict(self._inputs(table)) * _ten_days(table)
        return np.asarray(last[:, None] * (HORIZONS / H))

    def _inputs(self, table: pd.DataFrame) -> FloatArray:
        sector = table["sector"].to_numpy()
        one_hot = [sector == known for known in self.sectors_]
        return np.column_stack([table[[*FEATURES, "volatility"]].to_numpy(np.float64), *one_hot])


class SeriesRegressor(RegressorMixin, BaseEstimator):  # type: ignore[misc]
    """A univariate model of statsforecast, on the path of log closes.

    It is fitted when it first predicts, on as many rows as `fit` was given, so that nothing of
    statsforecast needs to be kept. `predict` takes the rows from the first one of `fit` on.

    Args:
        name: Of a class in ``statsforecast.models`` that can go ``forward``.
    """

    def __init__(self, name: str) -> None:
        self.name = name

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


MODELS: dict[str, BaseEstimator] = {
    NAIVE: DummyRegressor(strategy="constant", constant=np.zeros(H)),
    "linear_regression": LinearRegression(),
    "ridge": make_pipeline(StandardScaler(), Ridge(alpha=300)),
    "random_forest": RandomForestRegressor(
        n_estimators=20, min_samples_leaf=20, max_features=1 / 3, max_samples=0.5, random_state=0
    ),
    "gradient_boosting": PooledRegressor(
        HistGradientBoostingRegressor(
            max_iter=30,
            learning_rate=0.02,
            max_depth=2,
            min_samples_leaf=500,
            l2_regularization=100,
            random_state=0,
        )
    ),
    "auto_ets": SeriesRegressor("AutoETS"),
    "auto_theta": SeriesRegressor("AutoTheta"),
    "auto_arima": SeriesRegressor("AutoARIMA"),
}


def candidates(names: Iterable[str]) -> dict[str, BaseEstimator]:
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


def is_pooled(model: BaseEstimator) -> bool:
    """Whether it learns from all tickers at once."""
    return isinstance(model, PooledRegressor)


_TRUSTED = (  # what an artifact may hold besides skops' own list
    "sklearn.ensemble._hist_gradient_boosting.binning._BinMapper",
    "sklearn.ensemble._hist_gradient_boosting.predictor.TreePredictor",
    "sklearn.tree._tree.Tree",
    "stock_assets.models.PooledRegressor",
    "stock_assets.models.SeriesRegressor",
)


def dump_models(fitted: Mapping[str, Any]) -> bytes:
    """Fitted models as one artifact that can be loaded without running code of its own."""
    import skops.io  # noqa: PLC0415  it imports all of scikit-learn, 1.5 s that few runs need

    return bytes(skops.io.dumps(dict(fitted), compression=zipfile.ZIP_DEFLATED))


def load_models(artifact: bytes) -> dict[str, Any]:
    """What `dump_models` was given.

    Raises:
        skops.io.exceptions.UntrustedTypesFoundException: It holds a type nobody vouched for.
    """
    import skops.io  # noqa: PLC0415  as above

    return dict(skops.io.loads(artifact, trusted=_TRUSTED))


def _ten_days(table: pd.DataFrame) -> FloatArray:
    return np.asarray(table["volatility"].to_numpy(np.float64) * np.sqrt(H))
