"""Whether a ticker still behaves as on the days that its models learned from."""

from datetime import date

import numpy as np
import pandas as pd

from stock_assets.features import FloatArray

WATCHED = ("log_return", "volume_change", "high_low", "close_open")
NEW_DAYS = 20  # the last ones; fewer say nothing of a distribution
# What one ticker in a hundred exceeded in twenty days of 2016 and 2017.
MAX_DISTANCE = 0.65
MAX_ERROR_RATIO = 2.5


def feature_drift(features: pd.DataFrame, trained_to: date) -> float:
    """How far the last days are from those before them, 0..1; 0 if the models know all of them.

    The largest Kolmogorov-Smirnov distance of any of the features in `WATCHED`, between the last
    `NEW_DAYS` and the days before. A ticker in a storm is so trained every day until it passes.

    Args:
        features: The feature table of one ticker, ascending by date.
        trained_to: The last day that its models were trained on.
    """
    values = features[list(WATCHED)].to_numpy(np.float64)
    before, last = values[:-NEW_DAYS], values[-NEW_DAYS:]
    before = before[np.isfinite(before).all(axis=1)]
    if features["date"].iloc[-1] <= pd.Timestamp(trained_to) or len(before) < NEW_DAYS:
        return 0.0
    return max(_distance(before[:, i], last[:, i]) for i in range(len(WATCHED)))


def _distance(one: FloatArray, other: FloatArray) -> float:
    """Largest difference of two empirical distribution functions."""
    at = np.concatenate([one, other])
    shares = [np.searchsorted(np.sort(v), at, side="right") / len(v) for v in (one, other)]
    return float(np.abs(shares[0] - shares[1]).max())
