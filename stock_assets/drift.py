"""Whether a ticker still behaves as on the days that its models learned from."""

from datetime import date

import numpy as np
import pandas as pd

from stock_assets.features import FloatArray

WATCHED = ("log_return", "volume_change", "high_low", "close_open")
NEW_DAYS = 20  # that a distribution is drawn from; fewer say nothing
# What one ticker in a hundred exceeded in twenty days of 2016 and 2017.
MAX_DISTANCE = 0.65
MAX_ERROR_RATIO = 2.5


def feature_drift(features: pd.DataFrame, trained_to: date) -> float:
    """How far the newest days are from those that the models know, 0..1.

    The largest Kolmogorov-Smirnov distance of any of the features in `WATCHED`, between the days
    up to a training and the last `NEW_DAYS` after it; 0 where there are not that many.

    Args:
        features: The feature table of one ticker, ascending by date.
        trained_to: The last day that its models were trained on.
    """
    is_new = (features["date"] > pd.Timestamp(trained_to)).to_numpy()
    values = features[list(WATCHED)].to_numpy(np.float64)
    known, new = values[~is_new], values[is_new][-NEW_DAYS:]
    known = known[np.isfinite(known).all(axis=1)]
    if len(new) < NEW_DAYS or len(known) < NEW_DAYS:
        return 0.0
    return max(_distance(known[:, i], new[:, i]) for i in range(len(WATCHED)))


def _distance(one: FloatArray, other: FloatArray) -> float:
    """Largest difference of two empirical distribution functions."""
    at = np.concatenate([one, other])
    shares = [np.searchsorted(np.sort(v), at, side="right") / len(v) for v in (one, other)]
    return float(np.abs(shares[0] - shares[1]).max())
